"""The attention kernel against its reference, against attention over the concatenated context, and against itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from itertools import pairwise, product

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from fastsia.errors import FastsiaError
from fastsia.ops import reference
from fastsia.ops.reference import AttentionMetadata
from tests.ops import definition
from tests.ops.device import DEVICE, KERNEL_MARKS

prefix_attention = pytest.importorskip("fastsia.ops.prefix_attention")
pytestmark = KERNEL_MARKS

SCALE = 0.2


@dataclasses.dataclass
class Case:
    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    meta: AttentionMetadata

    def run(self, sliding_window: int | None = None, softcap: float | None = None) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp; also that the launch left its counters at zero."""
        op = prefix_attention.PrefixAttention()
        got = op.with_lse(self.q, self.k_cache, self.v_cache, self.meta, SCALE, sliding_window, softcap)
        assert op.arrivals.all_zero()
        return got


def build(
    rows_per_trunk: tuple[int, ...],
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 64,
    prefix_lens: list[int] | None = None,
    suffix_lens: list[int] | None = None,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    longest: tuple[int, int] = (45, 25),
    padding: int = 0,
    seed: int = 0,
) -> Case:
    """Random trunks and suffixes in shuffled blocks; what no row may read is NaN."""
    generator = torch.Generator().manual_seed(seed)
    n, num_trunks = sum(rows_per_trunk), len(rows_per_trunk)

    def lengths(given: list[int] | None, limit: int) -> Tensor:
        drawn = torch.randint(0, limit + 1, (n + padding,), generator=generator)
        return (drawn if given is None else torch.tensor(given + [0] * padding)).int()

    prefix, suffix = lengths(prefix_lens, longest[0]), lengths(suffix_lens, longest[1])
    if prefix_lens is None and suffix_lens is None:
        prefix[(prefix == 0) & (suffix == 0)] = 1
    max_prefix, max_suffix = int(prefix.max()), int(suffix.max())
    trunk_blocks, suffix_blocks = (max(1, -(-length // block_size)) for length in (max_prefix, max_suffix))
    num_blocks = num_trunks * trunk_blocks + (n + padding) * suffix_blocks
    order = torch.randperm(num_blocks, generator=generator).int()
    prefix_tables = order[: num_trunks * trunk_blocks].view(num_trunks, trunk_blocks)
    suffix_tables = order[num_trunks * trunk_blocks :].view(n + padding, suffix_blocks)
    cu_rows = torch.tensor([0, *torch.tensor(rows_per_trunk).cumsum(0).tolist()], dtype=torch.int32)
    cache = torch.full((1, 2, num_blocks, block_size, heads[1], head_dim), torch.nan)
    for tables, lens in (
        (prefix_tables, [int(prefix[a:b].max()) if b > a else 0 for a, b in pairwise(cu_rows)]),
        (suffix_tables, suffix.tolist()),
    ):
        for table, length in zip(tables, lens, strict=True):
            for j in range(length):
                values = torch.randn(2, heads[1], head_dim, generator=generator)
                cache[0, :, table[j // block_size], j % block_size] = values
    q = torch.randn(n + padding, heads[0], head_dim, generator=generator)
    tables = (prefix_tables, cu_rows, prefix, suffix_tables, suffix)
    meta = AttentionMetadata(*(t.contiguous().to(DEVICE) for t in tables), max_prefix, max_suffix, max(rows_per_trunk))
    cache = cache.to(DEVICE, dtype)
    return Case(q.to(DEVICE, dtype), cache[0, 0], cache[0, 1], meta)


def concatenated(case: Case, sliding_window: int | None = None, softcap: float | None = None) -> tuple[Tensor, Tensor]:
    return definition.attention(case.q, case.k_cache, case.v_cache, case.meta, SCALE, sliding_window, softcap)


def assert_close(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(got[0].double().cpu(), expected[0].double().cpu(), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(got[1].double().cpu(), expected[1].double().cpu(), atol=tolerance, rtol=tolerance)


SHAPES = {
    "gqa": ((5, 1, 6), (8, 2), 64),
    "mha": ((3,), (4, 4), 128),
    "odd_group_odd_head": ((1, 1, 1), (6, 2), 80),
    "wide_head": ((9, 3), (2, 1), 256),
}


@pytest.mark.parametrize(("sliding_window", "softcap"), [(None, None), (13, None), (45, 3.0)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_decode(shape: tuple, sliding_window: int | None, softcap: float | None) -> None:
    case = build(*shape)
    got = case.run(sliding_window, softcap)
    assert_close(got, concatenated(case, sliding_window, softcap))
    if sliding_window is None:
        arguments = (case.q, case.k_cache.nan_to_num(), case.v_cache.nan_to_num(), case.meta, SCALE, None, softcap)
        assert_close(got, reference.prefix_attention_with_lse(*arguments))


def test_with_fixed_parts_a_row_has_the_same_bits_in_any_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, in another order, beside longer contexts, without suffixes, under bounds; by default it has not."""
    sizes = {
        "_LONG_PART_TOKENS": 32,
        "_PART_TOKENS": 16,
        "_STEPS": 16,
        "_ENOUGH_PROGRAMS": 4,
        "_LONG_PREFIX_TOKENS": 99,
    }
    for name, value in sizes.items():
        monkeypatch.setattr(prefix_attention, name, value)
    case = build((5,), (4, 2), 32, [70, 33, 32, 5, 0], [0, 40, 1, 33, 35])
    ops = {fixed: prefix_attention.PrefixAttention(fixed_parts=fixed) for fixed in (True, False)}

    def rows(at: list[int], bounds: tuple[int, int] | None = None, *, fixed: bool = True) -> Tensor:
        meta, chosen = case.meta, torch.tensor(at, device=DEVICE)
        prefix, suffix = meta.prefix_lens[chosen], meta.suffix_lens[chosen]
        longest = bounds or (int(prefix.max()), int(suffix.max()))
        cu_rows = torch.tensor([0, len(at)], dtype=torch.int32, device=DEVICE)
        tables = meta.suffix_tables[chosen]
        part = AttentionMetadata(meta.prefix_tables, cu_rows, prefix, tables, suffix, *longest, len(at))
        return ops[fixed](case.q[chosen], case.k_cache, case.v_cache, part, SCALE)

    everything = rows(list(range(5)))
    torch.testing.assert_close(everything.double().cpu(), concatenated(case)[0].cpu(), atol=2e-5, rtol=2e-5)
    for at in ([0], [1], [2], [3], [4, 3, 2, 1, 0], [4, 1]):
        assert torch.equal(rows(at), everything[at])
    assert torch.equal(rows([1, 3], (100, 64)), everything[[1, 3]])
    assert not torch.equal(rows([1, 1, 1], fixed=False)[:1], rows([1], fixed=False)), "parts depend on the load there"


@pytest.mark.parametrize("sliding_window", [None, 9])
def test_prefill(sliding_window: int | None) -> None:
    rows = (21, 2, 35)
    case = build(rows, (4, 2), 64, [j + 1 for count in rows for j in range(count)], [0] * sum(rows))
    assert_close(case.run(sliding_window), concatenated(case, sliding_window))


def test_a_chunk_of_a_prefill_sees_what_lies_before_it() -> None:
    case = build((20,), (4, 2), 64, list(range(31, 51)), [0] * 20)
    assert_close(case.run(), concatenated(case))


def test_trajectories_that_decode_one_row_a_trunk() -> None:
    case = build((1,) * 9, (4, 1), 64, [1, 2, 16, 17, 33, 64, 5, 70, 15], [0] * 9)
    assert_close(case.run(), concatenated(case))


def test_no_trunk_empty_suffixes_and_rows_that_see_nothing() -> None:
    case = build((4, 0, 3), prefix_lens=[0] * 7, suffix_lens=[1, 16, 17, 0, 3, 40, 2])
    assert_close(case.run(), concatenated(case))
    case = build((4, 0, 3), prefix_lens=[0, 20, 0, 33, 0, 0, 4], suffix_lens=[1, 0, 0, 9, 5, 0, 3])
    assert_close(case.run(), concatenated(case))
    case = build((2,), prefix_lens=[0, 0], suffix_lens=[0, 0])
    assert_close(case.run(), concatenated(case))


# A token of row 0's trunk, or of the suffix of row 1, and what its key and value become.
POISONS = {
    "key": (torch.nan, 0.5),
    "infinite key": (-torch.inf, 0.5),
    "value": (0.5, torch.nan),
    "large": (0.5, -torch.inf),
}


def poisoned() -> Iterator[ParameterSet]:
    """All combinations. The slow interpreter gets half of them: every poison meets every pair of the other settings."""
    for i, combination in enumerate(product(POISONS, (True, False), (None, 9), (None, 3.0))):
        poison, suffixes, sliding_window, softcap = combination
        is_odd = (i // 8 + i // 4 + i // 2 + i) % 2
        yield pytest.param(
            *(suffixes, sliding_window, softcap, POISONS[poison]),
            id=f"{poison}-{'decode' if suffixes else 'prefill'}-{sliding_window}-{softcap}",
            marks=[pytest.mark.gpu] * is_odd,
        )


def before_poison(suffixes: bool) -> Case:
    prefix_lens = [21, 30, 22, 40, 33, 12] if suffixes else [1, 2, 21, 22, 23, 40]
    suffix_lens = [7, 30, 1, 5, 20, 2] if suffixes else [0] * 6
    case = build((4, 2), (4, 2), 64, prefix_lens, suffix_lens)
    case.k_cache.nan_to_num_(), case.v_cache.nan_to_num_()  # what is never written holds zeros
    case.q[..., 0] = 1.0  # so that an infinite key's score is infinite
    return case


@cache
def without_poison(suffixes: bool, sliding_window: int | None, softcap: float | None) -> tuple[Tensor, Tensor]:
    return before_poison(suffixes).run(sliding_window, softcap)


@pytest.mark.parametrize(("suffixes", "sliding_window", "softcap", "poison"), poisoned())
def test_a_bad_token_fails_the_rows_that_see_it_and_no_other(
    suffixes: bool, sliding_window: int | None, softcap: float | None, poison: tuple[float, float]
) -> None:
    """0 * NaN is NaN: a tile's rows read one another's values with weight 0. A maximum may pass over NaN, and a cap
    makes a number of an infinite score.
    """
    case = before_poison(suffixes)
    meta = case.meta
    places = [(meta.prefix_tables[0], 21)] + [(meta.suffix_tables[1], 12)] * suffixes
    slots = torch.tensor([int(table[j // 16]) * 16 + j % 16 for table, j in places], device=DEVICE)
    k, v = (torch.full((len(slots), 2, 64), value, device=DEVICE) for value in poison)
    k[..., 1:], v[..., 1:] = 0.25, 0.25
    clean = without_poison(suffixes, sliding_window, softcap)
    stores = [reference.store_kv, pytest.importorskip("fastsia.ops.kv_cache").store_kv]
    caches = [(case.k_cache.clone(), case.v_cache.clone()) for _ in stores]
    for store, (k_cache, v_cache) in zip(stores, caches, strict=True):
        store(k, v, k_cache, v_cache, slots)
    for one, other in zip(*caches, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=0, atol=0)

    window = sliding_window or 1 << 30
    own = meta.prefix_lens + meta.suffix_lens
    sees = (torch.arange(6, device=DEVICE) < 4) & (meta.prefix_lens > 21) & (own - window <= 21)
    if suffixes:
        sees[1] |= bool(own[1] - window <= meta.prefix_lens[1] + 12)
    assert sees.any()
    assert not sees.all()
    case.k_cache, case.v_cache = caches[0]
    arguments = (case.q, case.k_cache, case.v_cache, meta, SCALE, sliding_window, softcap)
    for out, lse in (case.run(sliding_window, softcap), reference.prefix_attention_with_lse(*arguments)):
        assert out[sees].isnan().all()
        assert lse[sees].isnan().all()
        assert_close((out[~sees], lse[~sees]), (clean[0][~sees], clean[1][~sees]))


def test_an_infinite_query_fails_its_row_under_a_cap_too() -> None:
    case = build((5,), (4, 2), 64)
    case.k_cache.nan_to_num_(), case.v_cache.nan_to_num_()
    clean = case.run(None, 3.0)
    case.q[2, :, 5] = torch.inf
    for out in (
        case.run(None, 3.0)[0],
        reference.prefix_attention(case.q, case.k_cache, case.v_cache, case.meta, SCALE, None, 3.0),
    ):
        assert out[2].isnan().all()
        others = [0, 1, 3, 4]
        torch.testing.assert_close(out[others], clean[0][others], atol=2e-5, rtol=2e-5)


def test_long_contexts_are_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five of the prefix and of the longest suffix, and fewer where a window or a row's own length needs no more."""
    monkeypatch.setattr(prefix_attention, "_PART_TOKENS", 64)
    case = build((2, 1), (2, 2), 16, [275, 225, 300], [1, 272, 0])
    (launch,), _, _ = prefix_attention.PrefixAttention().plan(case.q, case.k_cache, case.v_cache, case.meta, SCALE)
    assert [launch.arguments[name] for name in ("prefix_parts", "suffix_parts")] == [5, 5]
    for sliding_window in (None, 262):
        assert_close(case.run(sliding_window), concatenated(case, sliding_window))


@pytest.mark.parametrize(("sliding_window", "softcap"), [(None, None), (61, 3.0)])
@pytest.mark.parametrize("heads", [(8, 2), (2, 2)], ids=str)
def test_long_trunks_are_read_by_a_launch_of_their_own(
    heads: tuple[int, int], sliding_window: int | None, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In taller tiles and several parts; rows without any of the trunk, without suffixes, and padding among them."""
    monkeypatch.setattr(prefix_attention, "_LONG_PREFIX_TOKENS", 100)
    monkeypatch.setattr(prefix_attention, "_PART_TOKENS", 64)
    prefix = [140, 130, 5, 0, 64, 65, 139, 128, 140, 1]
    suffix = [0, 40, 20, 33, 1, 16, 70, 9, 0, 5]
    case = build((7, 1, 2), heads, 32, prefix, suffix, padding=2)
    launches = prefix_attention.PrefixAttention().plan(case.q, case.k_cache, case.v_cache, case.meta, SCALE)[0]
    assert [(one.arguments["TRUNKS"], one.arguments["SUFFIXES"]) for one in launches] == [(True, False), (False, True)]
    assert launches[0].arguments["BLOCK_M"] == 32
    expected = concatenated(case, sliding_window, softcap)
    for bounds in ((140, 70), (500, 200)):  # a graph's bounds are those of the longest batch so far
        case.meta = dataclasses.replace(case.meta, max_prefix_len=bounds[0], max_suffix_len=bounds[1])
        got = case.run(sliding_window, softcap)
        assert_close((got[0][:10], got[1][:10]), (expected[0][:10], expected[1][:10]))
        assert not got[0][10:].any()


def test_a_long_prompt_is_read_in_tall_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_attention, "_LONG_PREFIX_TOKENS", 100)
    lens = [*range(90, 127), *range(1, 6)]
    case = build((37, 5), (4, 2), 32, lens, [0] * len(lens))
    for bound in (126, 400):
        case.meta = dataclasses.replace(case.meta, max_prefix_len=bound)
        assert_close(case.run(), concatenated(case))


@pytest.mark.parametrize("block_size", [1, 8, 32])
def test_block_sizes(block_size: int) -> None:
    case = build((3, 2), block_size=block_size, longest=(40, 20))
    assert_close(case.run(), concatenated(case))


# The interpreter keeps bfloat16 as integers and multiplies those.
@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    case = build((5, 4), dtype=dtype)
    assert_close(case.run(), concatenated(case), 2e-2 if dtype is torch.bfloat16 else 3e-3)


def test_a_token_counts_alike_on_the_trunk_and_in_the_suffix() -> None:
    """prefix + suffix + merge = attention over the concatenation, wherever the border lies."""
    whole = build((1,), prefix_lens=[48], suffix_lens=[0])
    expected = whole.run(20, 3.0)
    for border in (16, 32):
        blocks = whole.meta.prefix_tables
        meta = dataclasses.replace(
            whole.meta,
            prefix_tables=blocks[:, : border // 16].contiguous(),
            suffix_tables=blocks[:, border // 16 :].contiguous(),
            prefix_lens=torch.full_like(whole.meta.prefix_lens, border),
            suffix_lens=torch.full_like(whole.meta.suffix_lens, 48 - border),
            max_prefix_len=border,
            max_suffix_len=48 - border,
        )
        assert_close(dataclasses.replace(whole, meta=meta).run(20, 3.0), expected)


def test_a_shared_trunk_gives_what_copies_of_it_give() -> None:
    shared = build((6,), (8, 2), 64)
    meta = dataclasses.replace(
        shared.meta,
        prefix_tables=shared.meta.prefix_tables.expand(6, -1).contiguous(),
        cu_rows=torch.arange(7, dtype=torch.int32, device=DEVICE),
        max_rows_per_prefix=1,
    )
    assert_close(dataclasses.replace(shared, meta=meta).run(), shared.run(), 1e-5)


def test_lengths_on_the_host_may_be_bounds() -> None:
    """A captured graph keeps the bounds it was captured with."""
    case = build((3, 2))
    meta = dataclasses.replace(case.meta, max_prefix_len=4000, max_suffix_len=3000, max_rows_per_prefix=400)
    assert_close(dataclasses.replace(case, meta=meta).run(), case.run(), 1e-5)


def test_padding_rows_give_zero_and_hold_nobody_up() -> None:
    case = build((3, 2), prefix_lens=[5, 30, 1, 2, 20], suffix_lens=[3, 0, 17, 1, 2], padding=4)
    out, lse = case.run()
    assert_close((out, lse), concatenated(case))
    assert bool((out[5:] == 0).all())
    assert bool((lse[5:] == -torch.inf).all())


def test_queries_may_be_strided_and_the_plain_call_agrees() -> None:
    case = build((5,))
    packed = case.q.transpose(0, 1).contiguous().transpose(0, 1)
    assert not packed.is_contiguous()
    out = prefix_attention.prefix_attention(packed, case.k_cache, case.v_cache, case.meta, SCALE)
    assert torch.equal(out, case.run()[0])
    assert len(prefix_attention.prefix_attention(packed[:0], case.k_cache, case.v_cache, case.meta, SCALE)) == 0


def test_what_it_refuses() -> None:
    case = build((2,))
    with pytest.raises(FastsiaError, match="share"):
        prefix_attention.prefix_attention(case.q.double(), case.k_cache, case.v_cache, case.meta, SCALE)
    with pytest.raises(FastsiaError, match="do not fit"):
        prefix_attention.prefix_attention(case.q[:, :3], case.k_cache, case.v_cache, case.meta, SCALE)
    v_cache = case.v_cache.transpose(0, 1).contiguous().transpose(0, 1)
    with pytest.raises(FastsiaError, match="equal strides"):
        prefix_attention.prefix_attention(case.q, case.k_cache, v_cache, case.meta, SCALE)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [(16, 2, 128), (8, 4, 256), (32, 32, 128), (24, 8, 128)], ids=str)
def test_model_shapes_in_bfloat16(heads: tuple[int, int, int]) -> None:
    case = build((40, 3, 21), heads[:2], heads[2], dtype=torch.bfloat16, longest=(500, 400))
    for sliding_window, softcap in ((None, None), (128, 50.0)):
        assert_close(case.run(sliding_window, softcap), concatenated(case, sliding_window, softcap), 2e-2)


@pytest.mark.gpu
def test_same_bits_every_time_and_in_a_cuda_graph() -> None:
    """Parts are merged in their own order, not in that of arrival."""
    case = build((60, 30), (16, 2), 128, dtype=torch.bfloat16, longest=(600, 400))
    op = prefix_attention.PrefixAttention()
    arguments = (case.q, case.k_cache, case.v_cache, case.meta, SCALE)
    expected = op(*arguments)
    assert all(torch.equal(op(*arguments), expected) for _ in range(20))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = op(*arguments)
    for _ in range(3):
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, expected)
