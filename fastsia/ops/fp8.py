"""Matrix products in 8-bit floating point (e4m3), an option: one scale per output channel and one per row of the input.

On CUDA the product is torch's scaled one. Elsewhere it is emulated: the operands are rounded to the same 8-bit values
and multiplied in the model's dtype, which shows what the rounding does to results, not how fast it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FORMAT).max
# Sizes of a scaled product are multiples of this.
_ALIGNMENT = 16
# Scales multiply by rows and columns from this compute capability on.
_CAPABILITY = (9, 0)


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why fp8 products cannot be computed or emulated on a device; None where they can."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"they need a CUDA device or a CPU, got {device.type}"
    if not hasattr(torch, "_scaled_mm"):
        return f"torch {torch.__version__} has no scaled product"
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        has = "{}.{}".format(*capability)
        return f"they need compute capability 9.0, {torch.cuda.get_device_name(device)} has {has}"
    return None if dtype == torch.bfloat16 else f"they need a model in bfloat16, got {dtype}"


def fits(weight: Tensor) -> bool:
    """Whether a weight's sizes, [out, in], suit a scaled product."""
    return all(size % _ALIGNMENT == 0 for size in weight.shape)


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to 8 bits.

    Args:
        values: [n, k]. A row with NaN or infinite values becomes NaN.

    Returns:
        float8_e4m3fn [n, k], and the float32 scales [n, 1] that multiply it to give the values.
    """
    exact = values.float()
    scale = (exact.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (exact / scale).clamp(-_LARGEST, _LARGEST).to(_FORMAT), scale


def rounded(values: Tensor) -> Tensor:
    """`quantise` and back: what an fp8 product sees, [n, k] in the dtype of `values`."""
    quantised, scale = quantise(values)
    return (quantised.float() * scale).to(values.dtype)


def product(rows: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """rows @ weight.T + bias, on CUDA.

    Args:
        rows: bfloat16 [n, k]; rounded row by row.
        weight, scale: from `quantise`, [m, k] and [m, 1].
        bias: bfloat16 [m].

    Returns bfloat16 [n, m]. Sums are in float32: the tensor cores' own accumulation has fewer bits (`use_fast_accum`).
    """
    quantised, row_scale = quantise(rows)
    out = torch._scaled_mm(
        quantised, weight.t(), scale_a=row_scale, scale_b=scale.t(), out_dtype=torch.bfloat16, use_fast_accum=False
    )
    return out if bias is None else out + bias
