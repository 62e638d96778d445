"""Size of the KV pool: the memory left beside the weights and the largest step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from fastsia.engine.model_runner import ModelRunner, kv_shape
from fastsia.errors import FastsiaError
from fastsia.models.loading import context_length

# Share of a CPU's available memory for pool and steps. A pool there is address space until it is used, and the blocks
# used last are used again first, so this bounds what a run can come to use.
_CPU_SHARE = 0.5
_LEAST_BLOCKS = 64
# Attention splits long prefixes into parts of at least _PART_TOKENS tokens, into at most _MOST_PREFIX_PARTS
# (`ops/prefix_attention.py`, which needs Triton).
_PART_TOKENS, _MOST_PREFIX_PARTS = 256, 16
# Context length that is assumed where the model's config names none.
_SHORT = 4096
# Size of the pool on a CPU whose available memory is not known.
_CPU_KV_BYTES = 1 << 30
# Fixed reserve for memory that cannot be predicted: kernels, cuBLAS workspaces, CUDA graphs, fragmentation, and the
# logits of a verification.
_REST_BYTES = 1 << 30
# Positions of an unfinished trajectory whose final hidden states the device keeps until it is verified. Where there are
# more of them on average, the host keeps all.
KEPT_POSITIONS = 1024


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
    """Return the number of blocks that fit beside the steps: on a GPU beside `1 - utilization` of it, on a CPU into
    half of the available memory, and not more than all sequences can fill."""
    each = ModelRunner.bytes_per_block(model, block_size)
    config = model.config.get_text_config(decoder=True)
    vocab_size, itemsize = len(model.get_output_embeddings().weight), next(model.parameters()).dtype.itemsize
    steps = step_bytes(
        config,
        vocab_size,
        itemsize,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_concurrent_trajectories=max_concurrent_trajectories,
    )
    if device.type != "cuda":
        spare = available_memory()
        room = _CPU_KV_BYTES if spare is None else max(int(_CPU_SHARE * spare) - steps, int(_CPU_SHARE**2 * spare))
        context = context_length(model)
        most = room // each
        if context is not None:
            most = min(most, (max_num_seqs + max_concurrent_trajectories) * -(-context // block_size))
        return max(most, _LEAST_BLOCKS)
    free, total = torch.cuda.mem_get_info(device)
    # Memory that torch has reserved and not allocated counts as taken there, but the pool can use it.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    spare = int(free - (1 - utilization) * total) - steps
    if spare // each < _LEAST_BLOCKS:
        raise FastsiaError(
            f"only {max(spare, 0) >> 20} MiB are spare on {device} for the KV pool: free memory, lower max_num_seqs, or"
            " use a smaller model."
        )
    return spare // each


def gpu_num_seqs(pool: Callable[[int], int], block_size: int) -> int:
    """Return the sequences per step on a GPU: 1,024, as a row costs less in larger steps, where that leaves a pool of
    512 tokens for each; else 512.

    Args:
        pool: From sequences per step to the blocks of the KV pool.
    """
    many, few = 1024, 512
    with suppress(FastsiaError):  # not even the least pool is left beside such steps
        if pool(many) * block_size >= many * few:
            return many
    return few


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: what the system and its control groups leave; None if not known.

    Args:
        root: where /proc and /sys are.
    """
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10)
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers in ("", "memory"):
                found += _left_in_groups(root / "sys/fs/cgroup" / controllers, name)
    return min(found, default=None)


def _left_in_groups(mounted: Path, name: str) -> list[int]:
    """Bytes left in a control group and in those around it, of version 2 or 1; file pages that can be dropped count as
    left."""
    left = []
    group = mounted / name.lstrip("/")
    for folder in (group, *group.parents):
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with suppress(OSError, ValueError):  # "max" is no number: there is no limit
                limit = int((folder / most).read_text())
                files = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
                idle = max(int(value) for key, value in files if key in ("inactive_file", "total_inactive_file"))
                left.append(max(limit - int((folder / used).read_text()) + idle, 0))
        if folder == mounted:
            break
    return left


def step_bytes(
    config: PretrainedConfig,
    vocab_size: int,
    itemsize: int,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_concurrent_trajectories: int,
) -> int:
    """Return an upper bound, in bytes, of the memory of steps beside weights and pool.

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
    longest = getattr(config, "max_position_embeddings", None) or _SHORT
    parts = 1 + min(-(-longest // _PART_TOKENS), _MOST_PREFIX_PARTS)
    row += 4 * (2 * config.hidden_size + parts * (queries + heads))
    logits = 4 * itemsize * vocab_size * max_num_seqs
    hidden = 2 * itemsize * config.hidden_size * max_concurrent_trajectories * KEPT_POSITIONS
    return int(row * (2 * max_num_seqs + max_num_batched_tokens) + logits + hidden + _REST_BYTES)
