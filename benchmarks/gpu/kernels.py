"""The kernels and products of a step, at a model's own shapes: each case against the bytes or operations it must take.

A case is written as it ends, and what has ended is not measured again. Our kernels are compared with their references
first. On CUDA a round replays a graph of at least 2 ms of calls over rotating inputs, so that neither launches nor a
warm cache are measured. "attention": a decode step of one layer, on trunks of 300 tokens with suffixes of 300 on
average; "checkpoints" lets each row see the trunk up to its own checkpoint only. "attention-long": trunks of 2,000 to
16,000 tokens, suffixes of 1,000. "products": each matrix of a layer and the head, also in fp8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from benchmarks.gpu.floors import measured_rates, shapes
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.models import architecture
from benchmarks.machine import free_memory, percentiles, seconds
from fastsia.engine.model_runner import kv_shape
from fastsia.ops import fp8, reference, select
from fastsia.ops.reference import AttentionMetadata, DrawSpec

BLOCK, CHECKPOINTS, SCALE, PER_TRUNK = 16, 16, 0.08, 128
TEMPERATURE, TOP_P, COPIES = 0.7, 0.95, 3
ROUNDS = 40
Calls = Sequence[Callable[[], object]]
# What one call does, on different memory in turn; and the seconds that it must take.
Case = Callable[[], tuple[Calls, float]]


def measure(head: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """Measure the cases of a row that the ledger does not hold; give how many ended well, and which did not."""
    device = head["device"]
    for name, case in KINDS[head["name"]](head["model"], device, head["toy"]):
        one = head | {"key": f"{head['key']}/{name}", "kind": "case", "name": name}
        if ledger.has(one["key"]) or not ledger.begin(one):
            continue
        found: dict[str, Any] = {"status": "ok", "reason": None, "result": None}
        try:
            calls, floor = case()
            us = percentiles([1e6 * call for call in timed(calls, device)])
            found["result"] = {"us": us, "floor_us": 1e6 * floor, "times_floor": us["p50"] / (1e6 * floor)}
            del calls
        except Exception as error:
            found |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}
        free_memory(device)
        ledger.end(one | found | {"wall_seconds": 0.0})
    ended = ledger.cases(head["key"])
    bad = [one["name"] for one in ended if one["status"] != "ok"]
    return {"cases": len(ended) - len(bad), "failures": bad}


def timed(calls: Calls, device: str) -> list[float]:
    """Seconds of a call, in each round."""

    def once(repeats: int = 1) -> None:
        for _ in range(repeats):
            for call in calls:
                call()

    (took,) = seconds(once, 1, device)
    if device != "cuda":
        return [took / len(calls)]
    repeats = min(200, int(2e-3 / took) + 1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once(repeats)
    return [found / (repeats * len(calls)) for found in seconds(graph.replay, ROUNDS, "cuda")]


# --- attention -------------------------------------------------------------------------------------------------


def attention(model: str, device: str, toy: bool) -> Iterator[tuple[str, Case]]:
    for path, rows, sees in product(("fastsia", "sdpa"), (5,) if toy else (512, 1024, 256), ("checkpoints", "whole")):
        case = partial(_attention, model, device, toy, path, rows, 40 if toy else 300, 20 if toy else 300, sees)
        yield f"{path} {rows} rows, sees {sees}", case


def long_attention(model: str, device: str, toy: bool) -> Iterator[tuple[str, Case]]:
    for rows, trunk in product((5,) if toy else (512, 1024), (60,) if toy else (6144, 2048, 16384)):
        yield (
            f"fastsia {rows} rows, trunk {trunk}",
            partial(_attention, model, device, toy, "fastsia", rows, trunk, 20 if toy else 1000, "whole"),
        )


def _attention(
    model: str, device: str, toy: bool, path: str, rows: int, trunk: int, mean_suffix: int, sees: str
) -> tuple[Calls, float]:
    config = architecture(model, toy)
    softcap = getattr(config, "attn_logit_softcapping", None)
    (num_kv_heads, head_dim), per_trunk = kv_shape(config), 3 if toy else PER_TRUNK
    dtype, generator = torch.float32 if toy else torch.bfloat16, torch.Generator().manual_seed(0)
    num_trunks = -(-rows // per_trunk)
    suffix = torch.randint(1, 2 * mean_suffix, (rows,), generator=generator)
    prefix = torch.full((rows,), trunk)
    if sees == "checkpoints":
        prefix = (torch.randint(1, CHECKPOINTS + 1, (rows,), generator=generator) * trunk) // CHECKPOINTS
    trunk_blocks, needed = -(-trunk // BLOCK), -(-suffix // BLOCK)
    num_blocks = num_trunks * trunk_blocks + int(needed.sum())
    prefix_tables, *suffix_tables = (
        torch.randperm(num_blocks, generator=generator).int().split([num_trunks * trunk_blocks, *needed.tolist()])
    )
    cu_rows = torch.arange(num_trunks + 1).mul(per_trunk).clamp(max=rows).int()
    tables = (
        *(prefix_tables.view(num_trunks, trunk_blocks), cu_rows, prefix.int()),
        *(pad_sequence(suffix_tables, batch_first=True), suffix.int()),
    )
    meta = AttentionMetadata(*(t.to(device) for t in tables), trunk, int(suffix.max()), min(rows, per_trunk))
    shape = (2, num_blocks, BLOCK, num_kv_heads, head_dim)
    copies = max(1, min(4, (1 << 30) // (torch.Size(shape).numel() * dtype.itemsize))) if device == "cuda" else 1
    caches = [torch.randn(shape, device=device, dtype=dtype) for _ in range(copies)]
    q = torch.randn(rows, config.num_attention_heads, head_dim, device=device, dtype=dtype)
    # The visible part of each trunk once, every suffix, queries and outputs; or the operations of all of it.
    longest = sum(int(prefix[a:b].max()) for a, b in pairwise(cu_rows.tolist()))
    moved = (longest + int(suffix.sum())) * 2 * caches[0][0, 0, 0].nbytes + 2 * q.nbytes
    operations = 4 * q[0].numel() * int((prefix + suffix).sum())
    rates = measured_rates(device, dtype)
    floor = max(moved / rates.bytes_per_s, operations / rates.flops_per_s)
    if path == "sdpa":
        if softcap is not None:
            raise ValueError("SDPA has no softcap")
        return _sdpa(q, caches, meta), floor
    ops = select(device, "triton")
    few = min(8, int(cu_rows[1]))  # of the first trunk must equal the reference
    some = replace(
        meta,
        prefix_tables=meta.prefix_tables[:1],
        cu_rows=torch.tensor([0, few], dtype=torch.int32, device=device),
        **{name: getattr(meta, name)[:few] for name in ("prefix_lens", "suffix_tables", "suffix_lens")},
    )
    expected = reference.prefix_attention(q[:few], *caches[0], some, SCALE, None, softcap)
    found = ops.prefix_attention(q, *caches[0], meta, SCALE, None, softcap)[:few]
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)
    return [partial(ops.prefix_attention, q, *cache, meta, SCALE, None, softcap) for cache in caches], floor


def _sdpa(q: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Calls:
    """SDPA over each row's context, gathered in the call."""

    def slots_of(table: Tensor, length: int) -> Tensor:
        return (table.long()[:, None] * BLOCK + torch.arange(BLOCK, device=table.device)).flatten()[:length]

    trunks = torch.repeat_interleave(meta.cu_rows.diff().long()).tolist()
    rows = zip(trunks, meta.prefix_lens.tolist(), meta.suffix_tables, meta.suffix_lens.tolist(), strict=True)
    contexts = [
        torch.cat([slots_of(meta.prefix_tables[trunk], prefix), slots_of(table, suffix)])
        for trunk, prefix, table, suffix in rows
    ]
    slots = pad_sequence(contexts, batch_first=True)
    mask = pad_sequence([torch.ones_like(one, dtype=torch.bool) for one in contexts], batch_first=True)[:, None, None]

    def attend(cache: Tensor) -> Tensor:
        keys, values = (part.flatten(0, 1)[slots].transpose(1, 2) for part in cache)
        return scaled_dot_product_attention(q[:, :, None], keys, values, mask, scale=SCALE, enable_gqa=True)

    return [partial(attend, cache) for cache in caches]


# --- sampling --------------------------------------------------------------------------------------------------


def sampling(model: str, device: str, toy: bool) -> Iterator[tuple[str, Case]]:
    """ "language" is Zipf-like, some rows sharp and some flat; of "flat", nearly all is in the nucleus."""
    for kind, rows in product(("language", "flat"), (4,) if toy else (512, 1024, 256)):
        for path in ("fastsia", "one read", "torch sort"):
            yield f"{path} {rows} rows, {kind}", partial(_sampling, model, device, toy, path, rows, kind)


def _sampling(model: str, device: str, toy: bool, path: str, rows: int, kind: str) -> tuple[Calls, float]:
    vocab = architecture(model, toy).vocab_size
    generator = torch.Generator(device).manual_seed(0)
    if kind == "flat":
        copies = [torch.randn(rows, vocab, generator=generator, device=device).bfloat16() for _ in range(COPIES)]
    else:
        sharpness = 1.1 + 3.0 * torch.rand(rows, 1, generator=generator, device=device)
        rank = torch.arange(1, vocab + 1, device=device).float().log()
        order = [torch.randperm(vocab, generator=generator, device=device) for _ in range(COPIES)]
        copies = [(-sharpness * rank[one]).bfloat16() for one in order]
    draws = DrawSpec(
        torch.arange(rows, device=device),
        torch.randint(0, 2**62, (rows,), device=device),
        torch.randint(0, 1000, (rows, 4), dtype=torch.int32, device=device),
        torch.full((rows,), TEMPERATURE, device=device),
        torch.full((rows,), TOP_P, device=device),
    )
    ops, few = select(device, "triton"), slice(0, 16)
    if path == "fastsia":
        # The reference's tokens, but for a draw at the edge of the nucleus.
        expected = reference.sample(copies[0][few], DrawSpec(*(tensor[few] for tensor in draws[:-1])))
        if int((ops.sample(copies[0], draws).tokens[few] != expected.tokens).sum()) > 1:
            raise AssertionError("the sampler draws other tokens than the reference")
    draw: Callable[[Tensor], object] = {
        "fastsia": lambda logits: ops.sample(logits, draws),
        "one read": lambda logits: logits.amax(dim=1),
        "torch sort": _sorted,
    }[path]
    return [partial(draw, logits) for logits in copies], copies[0].nbytes / measured_rates(
        device, torch.bfloat16
    ).bytes_per_s


def _sorted(logits: Tensor) -> Tensor:
    values, ids = torch.softmax(logits.float() / TEMPERATURE, dim=1).sort(dim=1, descending=True)
    values = torch.where(values.cumsum(1) - values < TOP_P, values, 0.0)
    # The race of exponentials: a multinomial draw without the host sync of torch.multinomial.
    return ids.gather(1, (values / torch.empty_like(values).exponential_()).argmax(dim=1, keepdim=True))


# --- the cache, and products -----------------------------------------------------------------------------------


def kv(model: str, device: str, toy: bool) -> Iterator[tuple[str, Case]]:
    for number in (5,) if toy else (256, 1024):
        yield f"store_kv {number} tokens", partial(_store, model, device, toy, number)
    for number in (3,) if toy else (8, 64):
        yield f"copy_blocks {number} forks", partial(_copy, model, device, toy, number)


def _store(model: str, device: str, toy: bool, number: int) -> tuple[Calls, float]:
    dtype, heads = torch.float32 if toy else torch.bfloat16, kv_shape(architecture(model, toy))
    caches = torch.zeros((COPIES, 2, 4 * number, BLOCK, *heads), dtype=dtype, device=device)
    k, v = torch.randn(2, heads[0], number, heads[1], device=device, dtype=dtype).transpose(1, 2)
    slots, ops = torch.randperm(4 * number * BLOCK, device=device)[:number], select(device, "triton")
    ops.store_kv(k, v, *caches[0], slots)
    torch.testing.assert_close(caches[0, 0].flatten(0, 1)[slots], k, rtol=0, atol=0)
    floor = 4 * k.nbytes / measured_rates(device, dtype).bytes_per_s
    return [partial(ops.store_kv, k, v, *cache, slots) for cache in caches], floor


def _copy(model: str, device: str, toy: bool, forks: int) -> tuple[Calls, float]:
    config, dtype = architecture(model, toy), torch.float32 if toy else torch.bfloat16
    shape = (config.num_hidden_layers, 2, 8 * forks, BLOCK, *kv_shape(config))
    cache, ops = torch.randn(shape, dtype=dtype, device=device), select(device, "triton")
    order, expected = torch.randperm(6 * forks, device=device).view(COPIES, 2, forks), cache.clone()
    reference.copy_blocks(expected, *order[0])
    ops.copy_blocks(cache, *order[0])
    torch.testing.assert_close(cache, expected, rtol=0, atol=0)
    moved = 4 * shape[0] * forks * cache[0, 0, 0].nbytes
    return [partial(ops.copy_blocks, cache, *pair) for pair in order], moved / measured_rates(device, dtype).bytes_per_s


def products(model: str, device: str, toy: bool) -> Iterator[tuple[str, Case]]:
    for rows, how in product((16,) if toy else (512, 1024, 256), ("", " fp8")):
        for name, size in shapes(architecture(model, toy)).items():
            if device == "cuda" or not how:
                yield f"{name}{how} {rows} rows", partial(_product, device, toy, rows, *size, bool(how))


def _product(device: str, toy: bool, rows: int, width: int, height: int, in_fp8: bool) -> tuple[Calls, float]:
    dtype = torch.float32 if toy else torch.bfloat16
    x, rates = torch.randn(rows, width, device=device, dtype=dtype), measured_rates(device, dtype)
    weights = [torch.randn(height, width, device=device, dtype=dtype) for _ in range(COPIES)]
    floor = max(weights[0].nbytes / rates.bytes_per_s, 2 * rows * width * height / rates.flops_per_s)
    if not in_fp8:
        return [partial(linear, x, weight) for weight in weights], floor
    if (reason := fp8.unsupported(x.device, dtype)) is not None:
        raise ValueError(reason)
    packed = [fp8.quantise(weight) for weight in weights]
    expected = linear(fp8.rounded(x), fp8.rounded(weights[0]))
    torch.testing.assert_close(fp8.product(x, *packed[0], None), expected, rtol=2e-2, atol=2e-2 * width**0.5)
    return [partial(fp8.product, x, *pair, None) for pair in packed], floor / 2


KINDS: dict[str, Callable[[str, str, bool], Iterator[tuple[str, Case]]]] = {
    "products": products,
    "attention": attention,
    "attention-long": long_attention,
    "sampling": sampling,
    "kv": kv,
}
