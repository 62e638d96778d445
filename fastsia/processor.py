"""The processor and the libraries that use it: what decides the speed, and in which bits two machines may differ."""

from __future__ import annotations

import os
import platform
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

# Flags that speed up the matrix products of a decoder.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_MULTIPLIES_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
# How often the two products are timed, and how many times as fast bfloat16 must be to be preferred.
_ROUNDS, _FASTER = 12, 1.2
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
    factors = [(torch.zeros(128, 1024, dtype=dtype), torch.zeros(2048, 1024, dtype=dtype)) for dtype in dtypes]
    taken: list[list[float]] = [[], []]
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            # The dtypes take turns, so that other work on the machine slows both down alike.
            for (rows, weight), seconds in zip(factors, taken, strict=True):
                began = time.perf_counter()
                torch.nn.functional.linear(rows, weight)
                seconds.append(time.perf_counter() - began)
    in_float32, in_bfloat16 = (sorted(seconds)[_ROUNDS // 4] for seconds in taken)
    return in_float32 / in_bfloat16


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
