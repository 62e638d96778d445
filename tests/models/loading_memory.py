"""What loading a model costs: seconds, and the peak of private memory beside the size of its files.

    python -m tests.models.loading_memory --model DIR --dtype bfloat16

Mapped pages of files are not counted: the system can drop them. Linux only.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import emit, parse, show
from fastsia import Engine
from fastsia.models.resolve import resolve_model


def private_bytes() -> int:
    """Memory of this process alone that no file backs."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "Linux only"
    return int(found[1]) * 1024


class Peak(threading.Thread):
    """Samples the private memory until `stop`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes = self.peak_bytes = private_bytes()
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.005):
            self.peak_bytes = max(self.peak_bytes, private_bytes())

    def stop(self) -> tuple[int, int]:
        """Return the peak and the present memory above the start, in bytes."""
        self._ended.set()
        self.join()
        now = private_bytes()
        return max(self.peak_bytes, now) - self.start_bytes, now - self.start_bytes


def measure(model: str, dtype: str | None) -> dict[str, Any]:
    """Load a model into an engine."""
    folder = resolve_model(model).path
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder is not None else 0
    Engine.from_pretrained("demo:sft", device="cpu", dtype=dtype)  # what it imports is not the model's
    peak, begin = Peak(), time.perf_counter()
    peak.start()
    engine = Engine.from_pretrained(model, device="cpu", dtype=dtype)
    seconds = time.perf_counter() - begin
    most, kept = peak.stop()
    described = {name: engine.describe()[name] for name in ("dtype", "products")}
    found = {"file_mib": size >> 20, "peak_private_mib": most >> 20, "kept_private_mib": kept >> 20}
    return {"model": model, **described, "seconds": round(seconds, 2), **found, "peak_per_file": most / max(size, 1)}


if __name__ == "__main__":
    options = parse(__doc__, model=str, dtype=str)
    row = measure(options.model, options.dtype)
    show([row])
    emit({"benchmark": "load", **row})
