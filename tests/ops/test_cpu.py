"""The C++ core's attention against the reference, and what it refuses to read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fastsia.core import extension
from fastsia.errors import FastsiaError
from fastsia.ops import cpu, reference, select
from fastsia.ops.reference import AttentionMetadata, DrawSpec

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="the C++ core is not built")

# Trunks of (length, [(prefix_len, suffix_len), ...]): branches, a prefill, an empty prefix, one row alone, many rows.
TRUNKS = [
    (37, [(37, 3), (20, 1), (5, 17), (0, 4)]),
    (9, [(i + 1, 0) for i in range(9)]),
    (50, [(50, 0)] + [(13, 2)] * 20),
    (1, [(1, 0)]),
]


def batch(block_size: int, num_kv_heads: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor, AttentionMetadata]:
    blocks = iter(np.random.default_rng(0).permutation(300).tolist())
    take = lambda tokens: [next(blocks) for _ in range(-(-tokens // block_size))]  # noqa: E731
    trunks = [take(length) for length, _ in TRUNKS]
    rows = [(prefix, suffix, take(suffix)) for _, each in TRUNKS for prefix, suffix in each]

    def table(lists: list[list[int]]) -> torch.Tensor:
        width = max(map(len, lists))
        return torch.tensor([blocks + [0] * (width - len(blocks)) for blocks in lists], dtype=torch.int32)

    counts = [len(each) for _, each in TRUNKS]
    meta = AttentionMetadata(
        prefix_tables=table(trunks),
        cu_rows=torch.tensor(np.cumsum([0, *counts]), dtype=torch.int32),
        prefix_lens=torch.tensor([row[0] for row in rows], dtype=torch.int32),
        suffix_tables=table([row[2] for row in rows]),
        suffix_lens=torch.tensor([row[1] for row in rows], dtype=torch.int32),
        max_prefix_len=max(row[0] for row in rows),
        max_suffix_len=max(row[1] for row in rows),
        max_rows_per_prefix=max(counts),
    )
    shape = (300, block_size, num_kv_heads, head_dim)
    return torch.randn(shape), torch.randn(shape), meta


def attend(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, meta: AttentionMetadata, *settings: float | None
) -> torch.Tensor:
    """The op under test, over its own layout of the caches that the reference reads."""
    caches = torch.zeros(2, *k_cache.shape)
    tokens = (cache.flatten(0, 1) for cache in (k_cache, v_cache))
    cpu.store_kv(*tokens, *caches, torch.arange(len(k_cache) * k_cache.shape[1]))
    return cpu.prefix_attention(q, *caches, meta, *settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (7, None), (None, 2.0), (16, 5.0)])
@pytest.mark.parametrize(("heads", "num_kv_heads", "head_dim"), [(4, 2, 32), (4, 4, 64), (7, 1, 128), (6, 2, 20)])
@pytest.mark.parametrize("block_size", [4, 16])
def test_equals_the_reference(
    block_size: int,
    heads: int,
    num_kv_heads: int,
    head_dim: int,
    window: int | None,
    softcap: float | None,
    threads: int,
) -> None:
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(block_size, num_kv_heads, head_dim)
    q = torch.randn(len(meta.prefix_lens), heads, head_dim)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = attend(q, k_cache, v_cache, meta, head_dim**-0.5, window, softcap)
    finally:
        torch.set_num_threads(before)
    expected = reference.prefix_attention(q, k_cache, v_cache, meta, head_dim**-0.5, window, softcap)
    torch.testing.assert_close(ours, expected, atol=3e-6, rtol=1e-5)


def test_a_row_does_not_move_with_the_batch_around_it() -> None:
    """Each row is summed in its own order, so the same row gives the same bits alone and in company."""
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(16, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    together = attend(q, k_cache, v_cache, meta, 0.2)
    row, trunk = 2, 0
    alone = dataclasses.replace(
        meta,
        prefix_tables=meta.prefix_tables[trunk : trunk + 1],
        cu_rows=torch.tensor([0, 1], dtype=torch.int32),
        prefix_lens=meta.prefix_lens[row : row + 1],
        suffix_tables=meta.suffix_tables[row : row + 1],
        suffix_lens=meta.suffix_lens[row : row + 1],
    )
    assert torch.equal(attend(q[row : row + 1], k_cache, v_cache, alone, 0.2)[0], together[row])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_small_and_large_scores_keep_their_weights(scale: float) -> None:
    """The exponential is our own: flat, usual and one-hot softmaxes must all come out."""
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(4, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    ours = attend(q, k_cache, v_cache, meta, scale)
    exact = reference.prefix_attention(q.double(), k_cache.double(), v_cache.double(), meta, scale).float()
    torch.testing.assert_close(ours, exact, atol=1e-3 if scale > 1 else 3e-6, rtol=1e-4)


def test_nan_stays_nan_in_its_own_row() -> None:
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(4, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    q[3] = torch.nan
    out = attend(q, k_cache, v_cache, meta, 0.2)
    assert out[3].isnan().all()
    assert out[:3].isfinite().all()
    assert out[4:].isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        {"prefix_lens": 200},
        {"suffix_lens": 200},
        {"prefix_tables": 300},
        {"suffix_tables": -1},
        {"cu_rows": 1},
    ],
)
def test_tables_that_point_outside_the_cache_are_refused(change: dict[str, int]) -> None:
    """Native code must not read past a buffer, whatever it is handed."""
    k_cache, v_cache, meta = batch(4, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    ((name, value),) = change.items()
    wrong = getattr(meta, name).clone()
    wrong.view(-1)[0] = value
    with pytest.raises(ValueError, match=r"reaches past its table"):
        attend(q, k_cache, v_cache, dataclasses.replace(meta, **{name: wrong}), 0.2)


def test_other_dtypes_are_refused_not_copied() -> None:
    core = extension()
    assert core is not None
    k_cache, v_cache, meta = batch(4, 2, 32)
    with pytest.raises(TypeError):
        cpu.prefix_attention(torch.randn(len(meta.prefix_lens), 4, 32), k_cache.double(), v_cache, meta, 0.2)


def draws(num_rows: int, num_draws: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, num_rows, (num_draws,), generator=generator)
    seeds = torch.randint(-(2**63), 2**63 - 1, (num_draws,), generator=generator)
    counters = torch.randint(-(2**31), 2**31 - 1, (num_draws, 4), generator=generator, dtype=torch.int32)
    return rows, seeds, counters


@pytest.mark.parametrize("top_p", [1.0, 0.9513, 0.503, 1e-6])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocab", [1, 7, 97, 1500, 5003])
def test_draws_equal_the_references(vocab: int, temperature: float, top_p: float) -> None:
    """Weights are float32 here and float64 there: a draw may differ at an edge, about once in a million.

    No top_p is a multiple of 1 / vocab, which would put the all-equal row's nucleus exactly on one.
    """
    torch.manual_seed(vocab)
    logits = torch.randn(12, vocab) * 3
    logits[1] = 0.0
    logits[2, vocab // 2 :] = -torch.inf
    logits[2, 0] = 1.0
    logits[3, 0] += 60.0
    logits[4] = logits[4].round()
    rows, seeds, counters = draws(12, 3000)
    settings = (torch.full((12,), temperature), torch.full((12,), top_p))
    ours = cpu.sample(logits, DrawSpec(rows, seeds, counters, *settings))
    expected = reference.sample(logits, DrawSpec(rows, seeds, counters, *settings))
    same = ours.tokens == expected.tokens
    assert int((~same).sum()) <= 1
    torch.testing.assert_close(ours.logprobs[same], expected.logprobs[same], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours.entropy, expected.entropy, atol=2e-5, rtol=1e-5)
    assert not ours.bad.any()


def test_every_row_has_its_own_temperature_and_nucleus() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 300) * 3
    rows, seeds, counters = draws(6, 2000)
    temperature, top_p = torch.tensor([0.0, 0.3, 1.0, 1.0, 2.0, 0.7]), torch.tensor([1.0, 0.9, 1.0, 0.2, 0.99, 1.0])
    ours = cpu.sample(logits, DrawSpec(rows, seeds, counters, temperature, top_p, False))
    assert ours.entropy is None
    assert torch.equal(
        ours.tokens, reference.sample(logits, DrawSpec(rows, seeds, counters, temperature, top_p, False)).tokens
    )


@pytest.mark.parametrize(("temperature", "top_p"), [(1e-45, 1.0), (1e-40, 0.9), (1e-38, 1.0), (1.0, 1e-40), (1.0, 0.0)])
def test_the_smallest_temperatures_and_nuclei_leave_one_token(temperature: float, top_p: float) -> None:
    """Reciprocals overflow and goals underflow there: once nothing was left, and native code read past its end."""
    torch.manual_seed(0)
    logits = torch.randn(4, 50)
    rows, seeds, counters = draws(4, 40)
    ours = cpu.sample(logits, DrawSpec(rows, seeds, counters, torch.full((4,), temperature), torch.full((4,), top_p)))
    assert torch.equal(ours.tokens, logits.argmax(dim=1)[rows])


@pytest.mark.parametrize("poison", [[torch.nan], [torch.inf], [-torch.inf]])
def test_bad_rows_are_flagged_and_never_drawn(poison: list[float]) -> None:
    logits = torch.randn(4, 50)
    logits[2] = torch.tensor(poison * 50) if poison == [-torch.inf] else logits[2]
    logits[2, 49] = poison[0]
    rows, seeds, counters = draws(4, 100)
    one = torch.ones(4)
    ours = cpu.sample(logits, DrawSpec(rows, seeds, counters, one, one))
    assert ours.bad.tolist() == [False, False, True, False]
    assert ours.entropy is not None
    assert ours.entropy.isnan().tolist() == [False, False, True, False]
    assert (ours.tokens[rows == 2] == -1).all()
    assert ours.logprobs[rows == 2].isnan().all()
    assert (ours.tokens[rows != 2] >= 0).all()


def test_draw_rows_outside_the_logits_are_refused() -> None:
    rows, seeds, counters = draws(4, 10)
    with pytest.raises(ValueError, match="a row that is not there"):
        cpu.sample(torch.randn(3, 5), DrawSpec(rows, seeds, counters, torch.ones(3), torch.ones(3)))


def test_a_batch_without_trunk_tokens_is_attended() -> None:
    """Rows that see their suffix only: the reference once took a maximum over nothing."""
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(4, 2, 32)
    rows = meta.suffix_lens > 0
    bare = dataclasses.replace(
        meta,
        cu_rows=torch.tensor([0, int(rows.sum())], dtype=torch.int32),
        prefix_tables=meta.prefix_tables[:1],
        prefix_lens=torch.zeros_like(meta.prefix_lens[rows]),
        suffix_tables=meta.suffix_tables[rows],
        suffix_lens=meta.suffix_lens[rows],
        max_prefix_len=0,
        max_rows_per_prefix=int(rows.sum()),
    )
    q = torch.randn(int(rows.sum()), 4, 32)
    expected = reference.prefix_attention(q, k_cache, v_cache, bare, 0.2)
    torch.testing.assert_close(attend(q, k_cache, v_cache, bare, 0.2), expected, atol=3e-6, rtol=1e-5)
    assert expected.isfinite().all()


def test_it_is_chosen_for_float32_and_bfloat16_on_a_cpu_and_nowhere_else() -> None:
    assert select("cpu").name == "native"
    assert select("cpu", dtype=torch.bfloat16).name == "native"
    assert select("cpu", dtype=torch.float64).name == "reference"
    assert select("cpu", "reference").name == "reference"
    with pytest.raises(FastsiaError, match="float32"):
        select("cpu", "native", torch.float16)


@pytest.mark.parametrize(("block_size", "num_kv_heads", "head_dim"), [(16, 2, 32), (4, 3, 20)])
def test_stored_keys_and_values_survive_a_copy_of_their_block(
    block_size: int, num_kv_heads: int, head_dim: int
) -> None:
    """Strided input as attention gives it, skipped slots left alone, and whole blocks copied by the reference."""
    torch.manual_seed(0)
    caches = torch.randn(1, 2, 3, block_size, num_kv_heads, head_dim)
    before = caches.clone()
    k = torch.randn(num_kv_heads, 4, head_dim).transpose(0, 1)
    v = torch.randn(4, num_kv_heads, head_dim)
    cpu.store_kv(k, v, caches[0, 0], caches[0, 1], torch.tensor([0, 1, -1, 2]))
    assert torch.equal(caches[0, :, 1:], before[0, :, 1:])
    ops = select("cpu", "native")
    ops.copy_blocks(caches, torch.tensor([0]), torch.tensor([2]))
    meta = AttentionMetadata(
        prefix_tables=torch.tensor([[2]], dtype=torch.int32),
        cu_rows=torch.tensor([0, 1], dtype=torch.int32),
        prefix_lens=torch.tensor([3], dtype=torch.int32),
        suffix_tables=torch.zeros((1, 0), dtype=torch.int32),
        suffix_lens=torch.zeros(1, dtype=torch.int32),
        max_prefix_len=3,
        max_suffix_len=0,
        max_rows_per_prefix=1,
    )
    q = torch.randn(1, num_kv_heads, head_dim)
    out = cpu.prefix_attention(q, caches[0, 0], caches[0, 1], meta, 0.3)
    kept = torch.tensor([0, 1, 3])
    weights = torch.einsum("hd,nhd->hn", q[0], k[kept]).mul(0.3).softmax(dim=1)
    torch.testing.assert_close(out[0], torch.einsum("hn,nhd->hd", weights, v[kept]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": torch.tensor([8])}, "past the end of the cache"),
        ({"slots": torch.tensor([0, 1])}, "do not fit"),
        ({"v": torch.randn(1, 1, 20)}, "do not fit"),
        ({"k": torch.randn(1, 20, 2).mT, "v": torch.randn(1, 20, 2).mT}, "contiguous"),
    ],
)
def test_what_store_kv_refuses(change: dict[str, torch.Tensor], message: str) -> None:
    given = {"k": torch.randn(1, 2, 20), "v": torch.randn(1, 2, 20), "slots": torch.tensor([3])} | change
    caches = torch.zeros(2, 2, 4, 2, 20)
    with pytest.raises(ValueError, match=message):
        cpu.store_kv(given["k"], given["v"], caches[0], caches[1], given["slots"])
    assert not caches.any()


@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("which", ["key", "value"])
def test_a_bad_token_fails_the_rows_that_see_it_and_no_other(which: str, block_size: int) -> None:
    """Sums run over whole blocks, so a bad token lies beside keys of rows that do not see it."""
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(block_size, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    clean = attend(q, k_cache, v_cache, meta, 0.2)
    # Token 18 of the first trunk, which its first two rows see; token 1 of the third row's suffix of 17, with a window
    # of 10 seen by nobody.
    for table, token in ((meta.prefix_tables[0], 18), (meta.suffix_tables[2], 1)):
        cache = k_cache if which == "key" else v_cache
        cache[table[token // block_size], token % block_size] = torch.nan
    out = attend(q, k_cache, v_cache, meta, 0.2)
    assert out[:3].isnan().all()
    assert torch.equal(out[3:], clean[3:])
    assert attend(q, k_cache, v_cache, meta, 0.2, 10)[2:].isfinite().all()


def test_a_softcap_does_not_hide_an_infinite_score() -> None:
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(4, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    q[3, 0, 0] = torch.inf
    out = attend(q, k_cache, v_cache, meta, 0.2, None, 5.0)
    assert out[3].isnan().any()
    assert out[4:].isfinite().all()


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (7, 2.0)])
@pytest.mark.parametrize(("heads", "num_kv_heads", "head_dim"), [(4, 2, 32), (4, 4, 64), (7, 1, 128), (6, 2, 20)])
@pytest.mark.parametrize("block_size", [4, 16])
def test_bfloat16_attention_is_float32s_on_the_same_values(
    block_size: int, heads: int, num_kv_heads: int, head_dim: int, window: int | None, softcap: float | None
) -> None:
    """Widening is exact, so the sums are float32's (in an order of their own); only the result is rounded."""
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(block_size, num_kv_heads, head_dim)
    q = torch.randn(len(meta.prefix_lens), 2 * heads, head_dim)[:, :heads]  # rows apart, as a fused product gives them
    narrow = [tensor.bfloat16() for tensor in (q, k_cache, v_cache)]
    caches = torch.zeros(2, *k_cache.shape, dtype=torch.bfloat16)
    cpu.store_kv(narrow[1].flatten(0, 1), narrow[2].flatten(0, 1), *caches, torch.arange(300 * block_size))
    ours = cpu.prefix_attention(narrow[0][:, :heads], *caches, meta, 0.2, window, softcap)
    wide = attend(narrow[0].float(), narrow[1].float(), narrow[2].float(), meta, 0.2, window, softcap)
    torch.testing.assert_close(ours.float(), wide, atol=1e-6, rtol=2**-8)
    assert (ours == wide.bfloat16()).float().mean() > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_wherever_its_keys_are_stored(dtype: torch.dtype) -> None:
    """A token is computed on the trunk, in a branch or in a prefill: each must sum over its keys in one order."""
    torch.manual_seed(0)
    length, block_size = 61, 16
    k, v = torch.randn(2, length, 2, 32).to(dtype)
    q, found = torch.randn(1, 4, 32).to(dtype), []
    for split in (0, 1, 15, 16, 17, 40, 60, 61):
        caches = torch.zeros(2, 8, block_size, 2, 32, dtype=dtype)
        for begin, end, block in ((0, split, 0), (split, length, 4)):
            if begin < end:
                slots = torch.arange(end - begin) + block * block_size
                cpu.store_kv(k[begin:end], v[begin:end], *caches, slots)
        meta = AttentionMetadata(
            prefix_tables=torch.arange(4, dtype=torch.int32)[None],
            cu_rows=torch.tensor([0, 1], dtype=torch.int32),
            prefix_lens=torch.tensor([split], dtype=torch.int32),
            suffix_tables=torch.arange(4, 8, dtype=torch.int32)[None],
            suffix_lens=torch.tensor([length - split], dtype=torch.int32),
            max_prefix_len=split,
            max_suffix_len=length - split,
            max_rows_per_prefix=1,
        )
        found.append(cpu.prefix_attention(q, *caches, meta, 0.2))
    assert all(torch.equal(other, found[0]) for other in found)


def test_bfloat16_draws_are_float32s_of_the_same_logits() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(12, 3001) * 4).bfloat16()
    logits[3, 7] = torch.nan
    rows, seeds, counters = draws(12, 2000)
    spec = DrawSpec(rows, seeds, counters, torch.full((12,), 0.7), torch.full((12,), 0.95))
    for ours, expected in zip(cpu.sample(logits, spec), cpu.sample(logits.float(), spec), strict=True):
        torch.testing.assert_close(ours, expected, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", ["silu", "gelu_tanh"])
def test_activations_are_torchs_and_the_same_at_any_place(function: str, dtype: torch.dtype) -> None:
    """torch's own give the last values of a thread's part other bits."""
    torch.manual_seed(0)
    x = (torch.randn(33, 2 * 203) * 6).to(dtype)
    x[0, :7] = torch.tensor([0.0, -0.0, 90.0, -90.0, 3e38, -3e38, -torch.inf])
    half = x[:, :203]
    expected = (
        torch.nn.functional.silu(half.double())
        if function == "silu"
        else torch.nn.functional.gelu(half.double(), approximate="tanh")
    )
    ours = cpu.activate(function, half)
    finite = expected.isfinite()
    tolerance = {"atol": 1e-6, "rtol": 2e-6} if dtype == torch.float32 else {"atol": 1e-5, "rtol": 5e-3}
    torch.testing.assert_close(ours.double()[finite], expected[finite], **tolerance)
    values = half[torch.isfinite(half)]
    for shift in (0, 1, 5):
        shifted = cpu.activate(function, values[shift:][None])[0]
        assert torch.equal(shifted, cpu.activate(function, values[None])[0][shift:])
