"""The reference against the definitions: it is what every kernel is held to, so nothing else may hold it up."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fastsia.ops import reference
from fastsia.ops.reference import DrawSpec
from tests.ops import definition
from tests.ops.test_cpu import batch

ONES = 0xFFFFFFFF


def signed(word: int, bits: int = 64) -> int:
    return word - (1 << bits) if word >> (bits - 1) else word


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D)),
        (ONES | ONES << 32, (ONES,) * 4, (0x408F276D, 0x41C83B0E)),
        (0x299F31D0A4093822, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xD16CFE09, 0x94FDCCEB)),
    ],
)
def test_numbers_are_philoxs_own(key: int, counter: tuple[int, ...], words: tuple[int, int]) -> None:
    """The known answers that its authors publish (Random123, philox4x32 with ten rounds)."""
    seeds = torch.tensor([signed(key)])
    wide = reference.uniforms(seeds, torch.tensor([counter]))
    narrow = reference.uniforms(seeds, torch.tensor([[signed(c, 32) for c in counter]], dtype=torch.int32))
    assert wide.tolist() == narrow.tolist() == [((words[0] >> 5) * 2**26 + (words[1] >> 6)) / 2**53]


def rows_of(vocab: int, num_rows: int = 12) -> Tensor:
    """float64 logits from flat to peaked, with equal and impossible tokens among them."""
    logits = torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(vocab), dtype=torch.float64)
    logits *= torch.linspace(0.1, 6, num_rows, dtype=torch.float64)[:, None]
    logits[1] = 0.5
    logits[2, ::2] = -torch.inf
    logits[2, 0] = 0.0
    logits[3] = logits[3].round()
    return logits


def draws(num_rows: int, each: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.arange(num_rows).repeat_interleave(each)[torch.randperm(num_rows * each, generator=generator)]
    seeds = torch.randint(-(2**63), 2**63 - 1, rows.shape, generator=generator)
    return rows, seeds, torch.randint(0, 2**20, (len(rows), 4), generator=generator)


def by_definition(probs: Tensor, u: float) -> tuple[int, float]:
    """The first token in order of ids whose cumulative mass exceeds u * (mass of the nucleus)."""
    total = float(probs.sum())
    token = int((probs.cumsum(0) > u * total).nonzero()[0])
    return token, float((probs[token] / total).log())


@pytest.mark.parametrize("vocab", [1, 2, 97, 128, 129, 1000])
def test_draws_follow_from_the_definition(vocab: int) -> None:
    """Vocabularies around the size from which the most probable tokens are looked at first; flat rows do not fit."""
    logits = rows_of(vocab)
    temperature = torch.tensor([1.0, 0.7, 1.5, 0.0] * 3)
    top_p = torch.tensor([0.9513, 0.503, 1.0, 0.7, 1e-6, 0.99, 0.2, 0.95, 0.8, 0.1, 0.6, 1.0])
    rows, seeds, counters = draws(12, 20)
    found = reference.sample(logits, DrawSpec(rows, seeds, counters, temperature, top_p))
    u = reference.uniforms(seeds, counters).tolist()
    for draw, row in enumerate(rows.tolist()):
        probs = definition.nucleus(logits[row], float(temperature[row].double()), float(top_p[row].double()))
        token, logprob = by_definition(probs, u[draw])
        assert int(found.tokens[draw]) == token
        assert float(found.logprobs[draw]) == pytest.approx(logprob, abs=1e-6)
    assert found.entropy is not None
    for row in range(12):
        probs = torch.softmax(logits[row], 0)
        entropy = -float((probs * probs.clamp(min=1e-300).log()).sum())
        assert float(found.entropy[row]) == pytest.approx(entropy, abs=1e-6)
    assert not found.bad.any()


@pytest.mark.parametrize("vocab", [2, 129, 1000])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 0.9), (1.0, 1.0), (0.0, 0.5), (1.3, 1e-6)])
def test_given_tokens_have_the_probability_with_which_they_would_be_drawn(
    vocab: int, temperature: float, top_p: float
) -> None:
    """-inf outside of the nucleus; bad rows are NaN and spoil no other."""
    logits = rows_of(vocab)
    logits[4, 0] = torch.nan
    tokens = torch.arange(12) % vocab
    logprobs, entropy = reference.score(logits, tokens, temperature, top_p)
    spec = DrawSpec(*draws(12, 1), torch.full((12,), temperature), torch.full((12,), top_p))
    torch.testing.assert_close(entropy, reference.sample(logits, spec).entropy, equal_nan=True)
    for row in range(12):
        if row == 4:
            assert logprobs[row].isnan()
            continue
        probs = definition.nucleus(logits[row], temperature, top_p)
        expected = float((probs[tokens[row]] / probs.sum()).log())
        assert float(logprobs[row]) == pytest.approx(expected, abs=1e-6)


def test_narrower_logits_are_drawn_from_as_they_are() -> None:
    """Their values, in a wider type: a sum in bfloat16 would be another distribution."""
    rows, seeds, counters = draws(12, 20)
    one, most = torch.ones(12), torch.full((12,), 0.9)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        logits = rows_of(500).to(dtype)
        found = reference.sample(logits, DrawSpec(rows, seeds, counters, one, most))
        exact = reference.sample(logits.double(), DrawSpec(rows, seeds, counters, one, most))
        assert int((found.tokens != exact.tokens).sum()) <= 1
        torch.testing.assert_close(found.entropy, exact.entropy, atol=1e-5, rtol=1e-5)


def test_bad_rows_have_no_draw_and_spoil_no_other() -> None:
    logits = rows_of(200)
    clean = reference.sample(logits, DrawSpec(*draws(12, 5), torch.ones(12), torch.full((12,), 0.9)))
    for row, value in ((4, torch.nan), (5, torch.inf)):
        logits[row, 7] = value
    logits[6] = -torch.inf
    rows, seeds, counters = draws(12, 5)
    found = reference.sample(logits, DrawSpec(rows, seeds, counters, torch.ones(12), torch.full((12,), 0.9)))
    assert found.bad.nonzero()[:, 0].tolist() == [4, 5, 6]
    assert found.bad.dtype == torch.bool
    bad = found.bad[rows]
    assert (found.tokens[bad] == -1).all()
    assert found.logprobs[bad].isnan().all()
    assert torch.equal(found.tokens[~bad], clean.tokens[~bad])
    assert torch.equal(found.logprobs[~bad], clean.logprobs[~bad])
    assert found.entropy is not None
    assert found.entropy.isnan().nonzero()[:, 0].tolist() == [4, 5, 6]


def test_rows_in_pieces_are_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporaries are bounded by taking a few rows at a time, down to one that is larger than the bound."""
    logits, (rows, seeds, counters) = rows_of(300), draws(12, 9)
    temperature, top_p = torch.linspace(0.3, 2, 12), torch.linspace(0.2, 1, 12)
    whole = reference.sample(logits, DrawSpec(rows, seeds, counters, temperature, top_p))
    assert reference.sample(logits, DrawSpec(rows, seeds, counters, temperature, top_p, False)).entropy is None
    for elements in (1, 300, 301, 900, 3599, 3600):
        monkeypatch.setattr(reference, "_CHUNK_ELEMENTS", elements)
        found = reference.sample(logits, DrawSpec(rows, seeds, counters, temperature, top_p))
        for mine, other in zip(found, whole, strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("vocab", [8, 300])
def test_a_nucleus_that_reaches_top_p_exactly_ends_there(vocab: int) -> None:
    """Four equal tokens are exact in binary: two of them are half of the mass, and the lower ids come first."""
    logits = torch.full((1, vocab), -torch.inf)
    logits[0, [7, 1, 4, 5]] = 3.0
    _, seeds, counters = draws(1, 200)
    rows, one = torch.zeros(200, dtype=torch.int64), torch.ones(1)
    found = reference.sample(logits, DrawSpec(rows, seeds, counters, one, one / 2))
    assert set(found.tokens.tolist()) == {1, 4}
    more = reference.sample(logits, DrawSpec(rows, seeds, counters, one, torch.tensor([0.5000001])))
    assert set(more.tokens.tolist()) == {1, 4, 5}


@pytest.mark.parametrize(("number", "end"), [(0.0, 0), (1 - 2.0**-53, -1)])
def test_the_last_numbers_draw_the_last_tokens_of_the_nucleus(
    number: float, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At either end: not one of those before or after it, which have no mass."""
    logits = rows_of(300)
    logits[:, [0, -1]] = -torch.inf
    monkeypatch.setattr(reference, "uniforms", lambda seeds, _: torch.full(seeds.shape, number, dtype=torch.float64))
    rows, seeds, counters = draws(12, 1)
    for top_p in (0.9, 1.0):
        found = reference.sample(logits, DrawSpec(rows, seeds, counters, torch.ones(12), torch.full((12,), top_p)))
        for draw, row in enumerate(rows.tolist()):
            probs = definition.nucleus(logits[row], 1.0, float(torch.tensor(top_p).double()))
            assert int(found.tokens[draw]) == int((probs > 0).nonzero()[end])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (7, None), (None, 2.0), (16, 5.0), (1, None)])
@pytest.mark.parametrize(("heads", "num_kv_heads", "head_dim", "block_size"), [(4, 2, 32, 4), (7, 1, 20, 16)])
def test_attention_follows_from_the_definition(
    heads: int, num_kv_heads: int, head_dim: int, block_size: int, window: int | None, softcap: float | None,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(block_size, num_kv_heads, head_dim)
    q = torch.randn(len(meta.prefix_lens), heads, head_dim).to(dtype)
    k_cache, v_cache = k_cache.to(dtype), v_cache.to(dtype)
    found = reference.prefix_attention_with_lse(q, k_cache, v_cache, meta, 0.3, window, softcap)
    exact = definition.attention(q, k_cache, v_cache, meta, 0.3, window, softcap)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for mine, other in zip(found, exact, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), other, atol=tolerance, rtol=tolerance)
    alone = reference.prefix_attention(q, k_cache, v_cache, meta, 0.3, window, softcap)
    assert torch.equal(alone, found[0])


def test_a_row_that_sees_nothing_gives_nothing() -> None:
    """As padding does: 0, and a denominator of 0, whatever lies in the blocks that its tables name."""
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(4, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    empty = meta.prefix_lens.clone(), meta.suffix_lens.clone()
    for lengths in empty:
        lengths[5] = 0
    blind = dataclasses.replace(meta, prefix_lens=empty[0], suffix_lens=empty[1])
    out, lse = reference.prefix_attention_with_lse(q, k_cache, v_cache, blind, 0.3)
    assert not out[5].any()
    assert (lse[5] == -torch.inf).all()
    others = torch.arange(len(q)) != 5
    assert torch.equal(out[others], reference.prefix_attention(q, k_cache, v_cache, meta, 0.3)[others])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_bad_score_fails_its_row_and_no_other(value: float, softcap: float | None) -> None:
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(4, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    clean = reference.prefix_attention(q, k_cache, v_cache, meta, 0.3, None, softcap)
    q[3, 1, 0] = value
    found = reference.prefix_attention(q, k_cache, v_cache, meta, 0.3, None, softcap)
    assert found[3, 1].isnan().all()
    touched = torch.zeros(q.shape[:2], dtype=torch.bool)
    touched[3, 1] = True
    assert torch.equal(found[~touched], clean[~touched])


def test_merged_states_are_the_attention_over_all_keys() -> None:
    """Also where one side has no keys."""
    torch.manual_seed(0)
    scores, values = torch.randn(3, 4, 10), torch.randn(10, 8)

    def state(begin: int, end: int) -> tuple[Tensor, Tensor]:
        if begin == end:
            return torch.zeros(3, 4, 8), torch.full((3, 4), -torch.inf)
        part = scores[..., begin:end]
        return part.softmax(2) @ values[begin:end], part.logsumexp(2)

    for cut in (0, 3, 9, 10):
        merged = reference.merge_states(*state(0, cut), *state(cut, 10))
        torch.testing.assert_close(merged, state(0, 10))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_stored_keys_and_values(bad: float) -> None:
    """In the cache's dtype; -1 skips; a head's bad value becomes 0 under a key of NaN, so that it goes no further."""
    torch.manual_seed(0)
    before = torch.randn(2, 3, 4, 2, 8, dtype=torch.bfloat16)
    after = before.clone()
    k, v = torch.randn(2, 4, 2, 8)
    v[3, 1, 5] = bad
    reference.store_kv(k, v, after[0], after[1], torch.tensor([5, -1, 0, 11]))
    expected = before.clone()
    for token, slot in ((0, 5), (2, 0), (3, 11)):
        expected[0].view(12, 2, 8)[slot] = k[token].bfloat16()
        expected[1].view(12, 2, 8)[slot] = v[token].bfloat16()
    expected[0].view(12, 2, 8)[11, 1] = torch.nan
    expected[1].view(12, 2, 8)[11, 1] = 0
    torch.testing.assert_close(after, expected, atol=0, rtol=0, equal_nan=True)


def test_blocks_are_copied_in_all_layers() -> None:
    """Keys and values both; a pair without a place to go is skipped."""
    torch.manual_seed(0)
    before = torch.randn(3, 2, 6, 4, 2, 8)
    after = before.clone()
    reference.copy_blocks(after, torch.tensor([3, 1, 3]), torch.tensor([0, -1, 5]))
    assert torch.equal(after[:, :, 1:5], before[:, :, 1:5])
    assert torch.equal(after[:, :, 0], before[:, :, 3])
    assert torch.equal(after[:, :, 5], before[:, :, 3])
    reference.copy_blocks(after, torch.tensor([2]), torch.tensor([4]))
    assert torch.equal(after[:, :, 4], before[:, :, 2])
