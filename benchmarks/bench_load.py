"""What loading a model costs: seconds, and the peak of private memory beside the size of its files.

    python -m benchmarks.bench_load --model DIR --dtype bfloat16

Mapped pages of files are not counted: the system can drop them. Linux only.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

from benchmarks.frame import emit, parse, show
from fastsia import Engine
from fastsia.models.resolve import resolve_model


def private_bytes() -> int:
    """Memory of this process alone that no file backs."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "Linux only"
    return int(found[1]) * 1024


class Peak(threading.Thread):
    """Samples the private memory until `stop`; `above` is the peak less the memory at the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes = self.peak_bytes = private_bytes()
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.005):
            self.peak_bytes = max(self.peak_bytes, private_bytes())

    def stop(self) -> int:
        """Return the peak above the start, in bytes."""
        self._ended.set()
        self.join()
        return max(self.peak_bytes, private_bytes()) - self.start_bytes


def main() -> None:
    options = parse(__doc__, model=str, dtype=str)
    folder = resolve_model(options.model).path
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder is not None else 0
    import transformers  # noqa: F401  its memory is not the model's

    peak, begin = Peak(), time.perf_counter()
    peak.start()
    engine = Engine.from_pretrained(options.model, device="cpu", dtype=options.dtype)
    seconds = time.perf_counter() - begin
    row = {
        "model": options.model,
        "dtype": engine.describe()["dtype"],
        "seconds": round(seconds, 2),
        "file_mib": size >> 20,
        "peak_private_mib": peak.stop() >> 20,
    }
    row["peak_per_file"] = round(row["peak_private_mib"] / max(row["file_mib"], 1), 3)
    show([row], {})
    emit({"benchmark": "load", **row})


if __name__ == "__main__":
    main()
