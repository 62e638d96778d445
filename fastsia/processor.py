"""The processor and the libraries that use it: what decides the speed, and in which bits two machines may differ."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

_Case = TypeVar("_Case", bound=Hashable)

# Flags that speed up the matrix products of a decoder.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_MULTIPLIES_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
# How many times as fast as float32 bfloat16 must be to be preferred.
_FASTER = 1.2
# How often things are timed in turns, and the seconds for each of them after which they are timed no more.
_LEAST_ROUNDS, _MOST_ROUNDS, _SECONDS = 3, 50, 0.15
# Values of ONEDNN_MAX_CPU_ISA that keep oneDNN from multiplying bfloat16, although the processor could.
_MASKING = re.compile(r"SSE41|AVX|AVX2(_VNNI(_2)?)?|AVX512_CORE(_VNNI)?", re.IGNORECASE)


@cache
def _cpuinfo() -> tuple[str, frozenset[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    fallback = platform.processor() or platform.machine()
    return name[1].strip() if name else fallback, frozenset(flags[1].split() if flags else ())


def name() -> str:
    """The processor's name as the operating system says it."""
    return _cpuinfo()[0]


def flags() -> list[str]:
    """The processor's instruction sets that matter for products, as Linux names them; empty where it does not say."""
    return [flag for flag in _FLAGS if flag in _cpuinfo()[1]]


def multiplies_bfloat16() -> bool:
    """Whether products in bfloat16 run on instructions of their own; ONEDNN_MAX_CPU_ISA may forbid them."""
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return _MASKING.fullmatch(allowed) is None and any(flag in flags() for flag in _MULTIPLIES_BFLOAT16)


def time_product(rows: Tensor, weight: Tensor) -> float:
    """Seconds of a product rows @ weight.T, after another one, which starts the threads."""
    import torch

    with torch.inference_mode():
        torch.nn.functional.linear(rows, weight)
        began = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        return time.perf_counter() - began


def time_in_turns(cases: Sequence[_Case], time_one: Callable[[_Case], float]) -> dict[_Case, float]:
    """The lower quartile of the seconds that `time_one` returns for each case.

    The cases take turns, so that other work on the machine slows all of them down alike. The quartile does not see a
    moment of other work, as the median would, but sees a process that goes on working, as the best time would not.
    """
    taken: dict[_Case, list[float]] = {case: [] for case in cases}
    end = time.perf_counter() + _SECONDS * len(cases)
    rounds = 0
    while rounds < _LEAST_ROUNDS or (rounds < _MOST_ROUNDS and time.perf_counter() < end):
        for case in cases:
            taken[case].append(time_one(case))
        rounds += 1
    return {case: sorted(seconds)[len(seconds) // 4] for case, seconds in taken.items()}


@cache
def bfloat16_speedup() -> float:
    """How many times as fast a product of 128 rows and a 2,048 × 1,024 matrix is in bfloat16 as in float32, measured
    once per process with the current threads; 0 where `multiplies_bfloat16` is False.

    The instructions alone do not tell: AVX512_BF16 without AMX can be slower than float32.
    """
    if not multiplies_bfloat16():
        return 0.0
    import torch

    dtypes = (torch.float32, torch.bfloat16)
    factors = {dtype: (torch.zeros(128, 1024, dtype=dtype), torch.zeros(2048, 1024, dtype=dtype)) for dtype in dtypes}
    taken = time_in_turns(dtypes, lambda dtype: time_product(*factors[dtype]))
    return taken[torch.float32] / taken[torch.bfloat16]


def prefers_bfloat16() -> bool:
    """Whether products in bfloat16 are clearly faster than in float32: what decides the default dtype on a CPU."""
    return bfloat16_speedup() >= _FASTER


def describe() -> dict[str, Any]:
    """Processor, flags, libraries and threads, ready for JSON. Equal values give a bfloat16 run equal bits."""
    import torch

    found: dict[str, Any] = {"torch": str(torch.__version__)}
    patterns = {"onednn": r"(?:MKL-DNN|oneDNN) v([\d.]+)", "mkl": r"Math Kernel Library Version (\S+)"}
    for library, pattern in patterns.items():
        if (match := re.search(pattern, torch.__config__.show())) is not None:
            found[library] = match[1]
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
    return {
        "name": name(),
        "flags": flags(),
        **({"max_cpu_isa": limit} if limit else {}),
        "threads": torch.get_num_threads(),
        "libraries": found,
    }
