"""The kernels and products of a step, at a model's own shapes: each case against the bytes or operations it must take.

A case is written as it ends, and what has ended is not measured again. Our kernels are compared with their references
first. On CUDA a round replays a graph of at least 2 ms of calls over rotating inputs, so that neither launches nor a
warm cache are measured. What the cases are is in docs/kernels.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.testing import assert_close

from benchmarks.gpu.floors import graphed, measured_rates, shapes
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.runner import CannotRunError, outcome
from benchmarks.harness import free_memory, percentiles, seconds
from fastsia.engine.model_runner import kv_shape
from fastsia.ops import fp8, reference, select
from fastsia.ops.reference import AttentionMetadata, DrawSpec
from tests.models.architectures import architecture

BLOCK, CHECKPOINTS, SCALE, PER_TRUNK = 16, 16, 0.08, 128
TEMPERATURE, TOP_P, COPIES = 0.7, 0.95, 3
ROUNDS = 40
# What one call does, on different memory in turn; and the seconds that it must take.
Calls = Sequence[Callable[[], object]]
Measured = tuple[Calls, float]
Cases = Iterator[tuple[str, Callable[[], Measured]]]


def measure(head: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """Measure the cases of a row that the ledger does not hold; give how many ended well, and which did not."""
    for name, case in KINDS[head["name"]](Kernels(head["model"], head["device"])):
        one = head | {"key": f"{head['key']}/{name}", "kind": "case", "name": name}
        if not ledger.has(one["key"]) and ledger.begin(one):
            ledger.end(one | outcome(partial(against_floor, case, head["device"])) | {"wall_seconds": 0.0})
            free_memory(head["device"])
    ended = ledger.cases(head["key"])
    bad = [one["name"] for one in ended if one["status"] != "ok"]
    return {"cases": len(ended) - len(bad), "failures": bad}


def against_floor(case: Callable[[], Measured], device: str) -> dict[str, Any]:
    calls, floor = case()

    def once(repeats: int = 1) -> None:
        for _ in range(repeats):
            for call in calls:
                call()

    times, repeats = seconds(once, 1, device), 1
    if device == "cuda":
        repeats = min(200, int(2e-3 / times[0]) + 1)
        times = seconds(graphed(partial(once, repeats), device), ROUNDS, device)
    us = percentiles([1e6 * time / (repeats * len(calls)) for time in times])
    return {"us": us, "floor_us": 1e6 * floor, "times_floor": us["p50"] / (1e6 * floor)}


class Kernels:
    """The cases of a model; on a CPU they are small, and in float32."""

    def __init__(self, model: str, device: str) -> None:
        self.device, self.toy = device, device == "cpu"
        self.dtype, self.config = torch.float32 if self.toy else torch.bfloat16, architecture(model, self.toy)
        self.kv_heads, self.head_dim = kv_shape(self.config)
        self.softcap = getattr(self.config, "attn_logit_softcapping", None)
        self.ops, self.rates = select(device, "triton"), measured_rates(device, self.dtype)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self.dtype, device=self.device)

    def attention(self) -> Cases:
        rows, trunk, suffix = ((6,), 40, 20) if self.toy else ((512, 1024, 256), 300, 300)
        for path, number, sees in product(("fastsia", "sdpa"), rows, ("checkpoints", "whole")):
            yield f"{path} {number} rows, sees {sees}", partial(self._attention, path, number, trunk, suffix, sees)

    def long_attention(self) -> Cases:
        rows, trunks, suffix = ((6,), (60,), 20) if self.toy else ((512, 1024), (6144, 2048, 16384), 1000)
        for number, trunk in product(rows, trunks):
            case = partial(self._attention, "fastsia", number, trunk, suffix, "whole")
            yield f"fastsia {number} rows, trunk {trunk}", case

    def _attention(self, path: str, rows: int, trunk: int, mean_suffix: int, sees: str) -> Measured:
        draw = partial(torch.randint, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
        per_trunk = 3 if self.toy else PER_TRUNK
        suffix, steps = draw(1, 2 * mean_suffix, (rows,)), CHECKPOINTS
        prefix = draw(1 if sees == "checkpoints" else steps, steps + 1, (rows,)) * trunk // steps
        trunks, width, longest = rows // per_trunk, -(-trunk // BLOCK), int(suffix.max())
        blocks = torch.randperm(trunks * width + rows * -(-longest // BLOCK), device=self.device).int()
        meta = AttentionMetadata(
            blocks[: trunks * width].view(trunks, width),
            torch.arange(0, rows + 1, per_trunk, dtype=torch.int32, device=self.device),
            prefix.to(self.device),
            blocks[trunks * width :].view(rows, -1),
            suffix.to(self.device),
            max_prefix_len=trunk,
            max_suffix_len=longest,
            max_rows_per_prefix=per_trunk,
        )
        shape = (2, len(blocks), BLOCK, self.kv_heads, self.head_dim)
        size = torch.Size(shape).numel() * self.dtype.itemsize
        copies = max(1, min(4, (1 << 30) // size)) if self.device == "cuda" else 1
        caches = [self.random(*shape) for _ in range(copies)]
        q = self.random(rows, self.config.num_attention_heads, self.head_dim)
        # The visible part of each trunk once, every suffix, queries and outputs; or the operations of all of it.
        read = int(prefix.view(trunks, -1).amax(dim=1).sum() + suffix.sum())
        moved = read * 2 * caches[0][0, 0, 0].nbytes + 2 * q.nbytes
        floor = self.rates.seconds(moved, 4 * q[0].numel() * int((prefix + suffix).sum()))
        if path == "sdpa":
            if self.softcap is not None:
                raise CannotRunError("SDPA has no softcap")
            return _sdpa(q, caches, meta), floor
        few = min(8, per_trunk)  # rows that must equal the reference
        some = replace(
            meta,
            cu_rows=torch.tensor([0, few], dtype=torch.int32, device=self.device),
            **{name: getattr(meta, name)[:few] for name in ("prefix_lens", "suffix_tables", "suffix_lens")},
        )
        attend = partial(self.ops.prefix_attention, softcap=self.softcap)
        expected = reference.prefix_attention(q[:few], caches[0][0], caches[0][1], some, SCALE, softcap=self.softcap)
        calls = [partial(attend, q, cache[0], cache[1], meta, SCALE) for cache in caches]
        assert_close(calls[0]()[:few], expected, atol=2e-2, rtol=2e-2)
        return calls, floor

    def sampling(self) -> Cases:
        """ "language" is Zipf-like, some rows sharp and some flat; of "flat", nearly all is in the nucleus."""
        for kind, rows in product(("language", "flat"), (4,) if self.toy else (512, 1024, 256)):
            for path in ("fastsia", "one read", "torch sort"):
                yield f"{path} {rows} rows, {kind}", partial(self._sampling, path, rows, kind)

    def _sampling(self, path: str, rows: int, kind: str) -> Measured:
        vocab, device = self.config.vocab_size, self.device
        generator = torch.Generator(device).manual_seed(0)
        if kind == "flat":
            copies = [torch.randn(rows, vocab, generator=generator, device=device).bfloat16() for _ in range(COPIES)]
        else:
            sharpness = 1.1 + 3.0 * torch.rand(rows, 1, generator=generator, device=device)
            rank = torch.arange(1, vocab + 1, device=device).float().log()
            order = [torch.randperm(vocab, generator=generator, device=device) for _ in range(COPIES)]
            copies = [(-sharpness * rank[one]).bfloat16() for one in order]
        draws: DrawSpec[Tensor] = DrawSpec(
            torch.arange(rows, device=device),
            torch.randint(0, 2**62, (rows,), device=device),
            torch.randint(0, 1000, (rows, 4), dtype=torch.int32, device=device),
            torch.full((rows,), TEMPERATURE, device=device),
            torch.full((rows,), TOP_P, device=device),
        )
        paths: dict[str, Callable[[Tensor], Any]] = {
            "fastsia": lambda logits: self.ops.sample(logits, draws).tokens,
            "one read": lambda logits: logits.amax(dim=1),
            "torch sort": _sorted,
        }
        calls = [partial(paths[path], logits) for logits in copies]
        if path == "fastsia":
            # The reference's tokens, but for a draw at the edge of the nucleus.
            some = draws._replace(**{name: getattr(draws, name)[:16] for name in draws._fields[:5]})
            if int((calls[0]()[:16] != reference.sample(copies[0][:16], some).tokens).sum()) > 1:
                raise AssertionError("the sampler draws other tokens than the reference")
        return calls, self.rates.seconds(copies[0].nbytes)

    def kv(self) -> Cases:
        for number in (5,) if self.toy else (256, 1024):
            yield f"store_kv {number} tokens", partial(self._store, number)
        for number in (3,) if self.toy else (8, 64):
            yield f"copy_blocks {number} forks", partial(self._copy, number)

    def _store(self, number: int) -> Measured:
        caches = self.random(COPIES, 2, 4 * number, BLOCK, self.kv_heads, self.head_dim)
        k, v = self.random(2, self.kv_heads, number, self.head_dim).transpose(1, 2)
        slots = torch.randperm(4 * number * BLOCK, device=self.device)[:number]
        calls = [partial(self.ops.store_kv, k, v, *cache, slots) for cache in caches]
        calls[0]()
        assert_close(caches[0, 0].flatten(0, 1)[slots], k, rtol=0, atol=0)
        return calls, self.rates.seconds(4 * k.nbytes)

    def _copy(self, forks: int) -> Measured:
        layers = self.config.num_hidden_layers
        cache = self.random(layers, 2, 8 * forks, BLOCK, self.kv_heads, self.head_dim)
        order, expected = torch.randperm(6 * forks, device=self.device).view(COPIES, 2, forks), cache.clone()
        calls = [partial(self.ops.copy_blocks, cache, *pair) for pair in order]
        reference.copy_blocks(expected, *order[0])
        calls[0]()
        assert_close(cache, expected, rtol=0, atol=0)
        return calls, self.rates.seconds(4 * layers * forks * cache[0, 0, 0].nbytes)

    def products(self) -> Cases:
        for rows, how in product((16,) if self.toy else (512, 1024, 256), ("", " fp8")):
            for name, (width, height) in shapes(self.config).items():
                if self.device == "cuda" or not how:
                    yield f"{name}{how} {rows} rows", partial(self._product, rows, width, height, bool(how))

    def _product(self, rows: int, width: int, height: int, in_fp8: bool) -> Measured:
        x, weights = self.random(rows, width), [self.random(height, width) for _ in range(COPIES)]
        floor = self.rates.seconds(weights[0].nbytes, 2 * rows * width * height)
        if not in_fp8:
            return [partial(linear, x, weight) for weight in weights], floor
        if (reason := fp8.unsupported(x.device, self.dtype)) is not None:
            raise CannotRunError(reason)
        calls = [partial(fp8.product, x, *fp8.quantise(weight), None) for weight in weights]
        expected = linear(fp8.rounded(x), fp8.rounded(weights[0]))
        assert_close(calls[0](), expected, rtol=2e-2, atol=2e-2 * width**0.5)
        return calls, floor / 2


def _sdpa(q: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Calls:
    """SDPA over each row's context, gathered in the call."""
    trunks = torch.repeat_interleave(meta.cu_rows.diff().long())
    parts = (meta.prefix_tables[trunks], meta.prefix_lens), (meta.suffix_tables, meta.suffix_lens)
    blocks = torch.cat([tables for tables, _ in parts], dim=1).long()
    masks = [torch.arange(tables.shape[1] * BLOCK, device=q.device) < lens[:, None] for tables, lens in parts]
    mask = torch.cat(masks, dim=1)[:, None, None]

    def attend(cache: Tensor) -> Tensor:
        keys, values = (part[blocks].flatten(1, 2).transpose(1, 2) for part in cache)
        return scaled_dot_product_attention(q[:, :, None], keys, values, mask, scale=SCALE, enable_gqa=True)

    return [partial(attend, cache) for cache in caches]


def _sorted(logits: Tensor) -> Tensor:
    values, ids = torch.softmax(logits.float() / TEMPERATURE, dim=1).sort(dim=1, descending=True)
    values = torch.where(values.cumsum(1) - values < TOP_P, values, 0.0)
    # The race of exponentials: a multinomial draw without the host sync of torch.multinomial.
    return ids.gather(1, (values / torch.empty_like(values).exponential_()).argmax(dim=1, keepdim=True))


KINDS: dict[str, Callable[[Kernels], Cases]] = {
    "products": Kernels.products,
    "attention": Kernels.attention,
    "attention-long": Kernels.long_attention,
    "sampling": Kernels.sampling,
    "kv": Kernels.kv,
}
