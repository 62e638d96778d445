"""Where the kernel tests of this process run: compiled on CUDA, or on the CPU under Triton's interpreter.

Triton reads TRITON_INTERPRET when its kernels are defined, so one process does either, never both:
test_interpreter.py runs the kernel tests in a process of their own.
"""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
KERNEL_MARKS = (
    []
    if INTERPRETED
    else [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")]
)
