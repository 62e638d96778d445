"""Size of the KV pool: the device memory left beside the weights and the largest step."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from fastsia.engine.model_runner import ModelRunner, kv_shape
from fastsia.errors import FastsiaError

# A pool on the CPU is address space until it is used; this bounds what a run can come to use.
_CPU_KV_BYTES = 1 << 30
# Fixed reserve for memory that cannot be predicted: kernels, cuBLAS workspaces, CUDA graphs, fragmentation, and the
# logits of a verification.
_REST_BYTES = 1 << 30
# Positions of a trajectory whose final hidden states are kept until it is verified.
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
    """Return the number of blocks that fit beside `1 - utilization` of the device and the steps; 1 GiB on a CPU."""
    each = ModelRunner.bytes_per_block(model, block_size)
    if device.type != "cuda":
        return max(_CPU_KV_BYTES // each, 64)
    free, total = torch.cuda.mem_get_info(device)
    # Memory that torch has reserved and not allocated counts as taken there, but the pool can use it.
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
    """Return an upper bound, in bytes, of the memory of steps beside weights and pool. Not confirmed on a GPU yet.

    It counts one layer's tensors for the rows of the largest step and again for the largest CUDA graph; the logits of
    the rows that draw, with the copies of a softcap; and the hidden states kept for verification, twice while their
    table grows.
    """
    heads = config.num_attention_heads
    kv_heads, head_dim = kv_shape(config)
    queries, keys = heads * head_dim, kv_heads * head_dim
    # Residual, norms and their float32; queries and keys before and after RoPE, values, output; gate, up, product.
    row = itemsize * (4 * config.hidden_size + 3 * queries + 3 * keys + 3 * config.intermediate_size)
    # float32: a norm's input and square; attention's parts over prefix and suffix with their log-sum-exps.
    row += 4 * (2 * config.hidden_size + 2 * (queries + heads))
    logits = 4 * itemsize * vocab_size * max_num_seqs
    hidden = 2 * itemsize * config.hidden_size * max_concurrent_trajectories * _KEPT_POSITIONS
    return int(row * (2 * max_num_seqs + max_num_batched_tokens) + logits + hidden + _REST_BYTES)
