"""The processor and the libraries that use it: what decides the speed, and in which bits two machines may differ."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

# Flags that speed up the matrix products of a decoder.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_MULTIPLIES_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
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
