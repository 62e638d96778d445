"""FlashInfer's kernels in the engine of this package: its paged decode and its top-p sampler instead of ours.

The trunk's blocks stay shared, but each row reads them by itself: FlashInfer's cascade wants every row of a group to
see all of a prefix, which rows of earlier checkpoints do not. What a row sees of the trunk and its own suffix are two
calls, merged by FlashInfer. Its sampler has a generator of its own, so draws do not repeat from seed to seed, and
log-probabilities are left unnormalised over the nucleus, which saves it a pass. Never run yet: it needs CUDA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsia.ops import Ops, select
from fastsia.ops.reference import AttentionMetadata, DrawSpec, Samples

_WORKSPACE_BYTES = 256 << 20


def flashinfer_ops(top_p: float) -> Ops:
    """The bundle; FlashInfer must be installed. The cache is written and copied by our own kernels."""
    ours = select("cuda", "triton", torch.bfloat16)
    return Ops("flashinfer", Sampler(top_p), Attention(), ours.store_kv, ours.copy_blocks)


class Sampler:
    """`fastsia.ops.reference.sample` for one top-p; gives no entropies and takes logits to be good."""

    def __init__(self, top_p: float) -> None:
        from flashinfer.sampling import top_p_sampling_from_probs

        self._draw, self._top_p = top_p_sampling_from_probs, top_p

    def __call__(self, logits: Tensor, spec: DrawSpec[Tensor]) -> Samples:
        probs = torch.softmax(logits.float() / spec.temperature[:, None], dim=1)
        tokens = self._draw(probs, self._top_p, indices=spec.row.int()).long()
        logprobs = probs[spec.row.long(), tokens].log()
        return Samples(tokens, logprobs, None, torch.zeros(len(logits), dtype=torch.bool, device=logits.device))


class Attention:
    """`fastsia.ops.reference.prefix_attention`; planned once per step, at its first layer."""

    def __init__(self) -> None:
        import flashinfer

        self._merge = flashinfer.merge_state
        self._wrappers = [
            flashinfer.BatchDecodeWithPagedKVCacheWrapper(
                torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device="cuda"), "NHD", use_tensor_cores=True
            )
            for _ in range(2)
        ]
        self._meta: AttentionMetadata | None = None
        self._branches = torch.empty(0, dtype=torch.int64, device="cuda")

    def __call__(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: AttentionMetadata,
        scale: float,
        sliding_window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        if sliding_window is not None and meta.max_prefix_len + meta.max_suffix_len > sliding_window:
            raise RuntimeError("a context longer than the window would need another mask in each of the two calls.")
        # Each layer has a metadata of its own, of the step's tensors.
        if self._meta is None or meta.prefix_lens is not self._meta.prefix_lens:
            self._plan(q, k_cache, meta, scale, softcap)
        trunk, suffix = self._wrappers
        out, lse = trunk.run(q, (k_cache, v_cache), return_lse=True)
        if len(self._branches):
            rows = self._branches
            own, own_lse = suffix.run(q[rows], (k_cache, v_cache), return_lse=True)
            out[rows] = self._merge(out[rows], lse[rows], own, own_lse)[0]
        return out

    def _plan(self, q: Tensor, k_cache: Tensor, meta: AttentionMetadata, scale: float, softcap: float | None) -> None:
        page, num_kv_heads, head_dim = k_cache.shape[1:]
        shape = (q.shape[1], num_kv_heads, head_dim, page)
        settings: dict[str, Any] = {
            "sm_scale": scale,
            "logits_soft_cap": softcap,
            "q_data_type": q.dtype,
            "kv_data_type": k_cache.dtype,
        }
        counts = (meta.cu_rows[1:] - meta.cu_rows[:-1]).long()
        trunk = torch.repeat_interleave(torch.arange(len(counts), device=q.device), counts)
        self._branches = torch.nonzero(meta.suffix_lens)[:, 0]
        trunk_wrapper, suffix_wrapper = self._wrappers
        trunk_wrapper.plan(*page_table(meta.prefix_tables[trunk], meta.prefix_lens, page), *shape, **settings)
        if len(self._branches):
            tables, lengths = meta.suffix_tables[self._branches], meta.suffix_lens[self._branches]
            suffix_wrapper.plan(*page_table(tables, lengths, page), *shape, **settings)
        self._meta = meta


def page_table(tables: Tensor, lengths: Tensor, page: int) -> tuple[Tensor, Tensor, Tensor]:
    """Block tables as FlashInfer has them: (indptr [n + 1], indices, tokens on each last page [n]), all int32.

    tables: int32 [n, blocks], padded. lengths: int32 [n], at least 1.
    """
    counts = -(-lengths // page)
    indptr = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=tables.device)
    indptr[1:] = counts.cumsum(0)
    used = torch.arange(tables.shape[1], device=tables.device)[None] < counts[:, None]
    return indptr, tables[used].int(), ((lengths - 1) % page + 1).int()
