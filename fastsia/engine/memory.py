"""How large the KV pool may be: what a card has left beside the weights and what a step needs."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from fastsia.engine.model_runner import ModelRunner, kv_shape
from fastsia.errors import FastsiaError

# A pool on the CPU is address space until it is used; this bounds what a run can come to use.
_CPU_KV_BYTES = 1 << 30
# What nobody can work out: kernels, cuBLAS' workspaces, the graphs' own nodes, fragments; and a trunk pass's logits.
_REST_BYTES = 1 << 30
# Positions of a trajectory whose final hidden states wait for its trunk pass.
_KEPT_POSITIONS = 1024


def default_num_blocks(
    model: PreTrainedModel,
    device: torch.device,
    block_size: int,
    utilization: float,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_concurrent_trajectories: int,
) -> int:
    """Blocks of a pool that leaves alone `1 - utilization` of the card and what steps need; on a CPU, 1 GiB of them."""
    each = ModelRunner.bytes_per_block(model, block_size)
    if device.type != "cuda":
        return max(_CPU_KV_BYTES // each, 64)
    free, total = torch.cuda.mem_get_info(device)
    # What torch holds without using it counts as taken there, though the pool can have it.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    spare = int(free - (1 - utilization) * total)
    config = model.config.get_text_config(decoder=True)
    vocab_size, itemsize = len(model.get_output_embeddings().weight), next(model.parameters()).dtype.itemsize
    spare -= step_bytes(
        config,
        vocab_size,
        itemsize,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_concurrent_trajectories=max_concurrent_trajectories,
    )
    if spare // each < 64:
        raise FastsiaError(
            f"only {max(spare, 0) >> 20} MiB are spare on {device} for the KV pool: free memory, lower max_num_seqs, or"
            " use a smaller model."
        )
    return spare // each


def step_bytes(
    config: PretrainedConfig,
    vocab_size: int,
    itemsize: int,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_concurrent_trajectories: int,
) -> int:
    """Device memory that steps take beside weights and pool, worked out from above; no GPU has confirmed it yet.

    One layer's tensors are there at once, for the rows of the largest step and again for the largest CUDA graph; the
    logits of the rows that draw, with the copies that a softcap takes; the hidden states kept for trunk passes, twice
    while their table grows.
    """
    heads = config.num_attention_heads
    kv_heads, head_dim = kv_shape(config)
    queries, keys = heads * head_dim, kv_heads * head_dim
    # Residual, norms and their float32; queries and keys before and after RoPE, values, output; gate, up, product.
    row = itemsize * (4 * config.hidden_size + 3 * queries + 3 * keys + 3 * config.intermediate_size)
    # float32: a norm's input and square; attention's parts over trunk and suffix with their log-sum-exps.
    row += 4 * (2 * config.hidden_size + 2 * (queries + heads))
    logits = 4 * itemsize * vocab_size * max_num_seqs
    hidden = 2 * itemsize * config.hidden_size * max_concurrent_trajectories * _KEPT_POSITIONS
    return int(row * (2 * max_num_seqs + max_num_batched_tokens) + logits + hidden + _REST_BYTES)
