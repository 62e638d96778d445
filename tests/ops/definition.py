"""What the ops are to compute, from their definitions: in float64, a row at a time, without tiles, parts or merges."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsia.ops.reference import AttentionMetadata


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Probabilities of one row's tokens [V], 0 outside its nucleus (not renormalised)."""
    logits = logits.double().cpu()
    if temperature == 0:
        return torch.zeros_like(logits).index_fill_(0, logits.argmax(), 1.0)
    probs = torch.softmax(logits / temperature, 0)
    order = torch.argsort(probs, descending=True, stable=True)
    kept = order[: int((probs[order].cumsum(0) < top_p).sum()) + 1]
    return torch.zeros_like(probs).index_copy_(0, kept, probs[kept])


def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: AttentionMetadata,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Every row over its context laid out in a line, and the natural log of its softmax's denominator."""
    n, num_heads, head_dim = q.shape
    out = torch.zeros(n, num_heads, head_dim, dtype=torch.float64)
    lse = torch.full((n, num_heads), -torch.inf, dtype=torch.float64)
    block_size, num_kv_heads = k_cache.shape[1:3]
    for row in range(int(meta.cu_rows[-1])):
        trunk = int((meta.cu_rows[1:] <= row).sum())
        context = []
        for table, length in (
            (meta.prefix_tables[trunk], int(meta.prefix_lens[row])),
            (meta.suffix_tables[row], int(meta.suffix_lens[row])),
        ):
            at = torch.arange(length)
            block = table.cpu()[at // block_size].long()
            context.append(torch.stack([c.cpu()[block, at % block_size].double() for c in (k_cache, v_cache)]))
        k, v = torch.cat(context, dim=1)[:, -(sliding_window or 1 << 30) :].repeat_interleave(
            num_heads // num_kv_heads, dim=2
        )
        if len(k) == 0:
            continue
        scores = torch.einsum("hd,jhd->hj", q[row].cpu().double(), k) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        lse[row] = scores.logsumexp(1)
        out[row] = torch.einsum("hj,jhd->hd", scores.softmax(1), v)
    return out, lse
