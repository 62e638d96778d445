"""`fastsia doctor`: report the installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import warnings

from fastsia import __version__, processor

_REQUIRED = ("torch", "transformers", "safetensors", "numpy", "scipy", "pandas", "pyarrow", "matplotlib")
# Optional packages: what does not work without them, and what they add if "Missing" should name them.
_EXTRAS = (
    ("datasets", "tasks need --data_dir", "tasks from the Hub"),
    ("vllm", "no --backend vllm", ""),
    ("ray", "no --executor ray", ""),
    ("peft", "no --peft", ""),
    ("gguf", "no .gguf files", ""),
)


def doctor() -> None:
    """Check the installation, the device and the kernels."""
    lines = [("fastsia", __version__), ("python", f"{platform.python_version()} on {platform.platform()}")]
    missing: list[str] = []
    for name in (*_REQUIRED, "triton"):
        try:
            lines.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            lines.append((name, "not installed"))
            if name != "triton":  # only a GPU needs it
                missing.append(f"{name}: pip install {name}")
    import torch

    from fastsia.core import extension
    from fastsia.engine.memory import available_memory
    from fastsia.engine.threads import choose_threads, num_cores
    from fastsia.models.loading import resolve_device
    from fastsia.models.resolve import demo_models
    from fastsia.ops import select

    device = resolve_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        lines.append(("device", f"cuda: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
        if importlib.util.find_spec("triton") is None:
            missing.append("triton: CUDA builds of torch install it; pip install triton")
    else:
        threads, why = choose_threads(torch.zeros(4864, 896))
        free = available_memory()
        memory = "" if free is None else f", {free / 2**30:.1f} GiB of memory available"
        lines.append(("device", f"cpu, {num_cores()} cores{memory}"))
        lines.append(("threads", f"{threads} ({why}); each model is measured as it is loaded"))
        facts = processor.describe()
        libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
        lines.append(("processor", f"{facts['name']}; {' '.join(facts['flags']) or 'unknown flags'}; {libraries}"))
        speedup = processor.bfloat16_speedup()
        if speedup:
            lines.append(("bfloat16", f"products are {speedup:.1f} times as fast as in float32"))
        else:
            lines.append(("bfloat16", "no instructions for it: slow"))
    lines.append(("kernels", select(device).name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = extension()
    lines.append(("C++ core", "built" if core is not None else "not built; the slower Python reference is used"))
    if core is None:
        missing.append("C++ core: reinstall fastsia with a C++17 compiler")
    lines.append(("demo models", ", ".join(demo_models()) or "none"))
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    lines.append(("chromium", browser or "not found; only the report's own tests use it"))
    for extra, without, adds in _EXTRAS:
        found = importlib.util.find_spec(extra) is not None
        lines.append((extra, "installed" if found else f"not installed; {without}"))
        if not found and adds:
            missing.append(f"{extra}: pip install 'fastsia[{extra}]' ({adds})")
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    print("Missing: " + ("; ".join(missing) if missing else "nothing") + ".")
