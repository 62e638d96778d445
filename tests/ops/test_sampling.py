"""The sampling kernel against its reference, and as a distribution."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from fastsia.errors import FastsiaError
from fastsia.ops import reference
from fastsia.ops.reference import DrawSpec, Samples
from tests.ops import definition
from tests.ops.device import DEVICE, KERNEL_MARKS

sampling = pytest.importorskip("fastsia.ops.sampling")
pytestmark = KERNEL_MARKS

EDGE = 1e-5


class Case:
    """Logits with draws: `row` says which row each draw is from."""

    def __init__(
        self, logits: Tensor, row: Tensor, temperature: list[float] | float, top_p: list[float] | float, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        num_rows, num_draws = len(logits), len(row)
        self.logits = logits.to(DEVICE)
        self.row = row.to(DEVICE)
        self.seeds = torch.randint(-(2**63), 2**63 - 1, (num_draws,), generator=generator).to(DEVICE)
        self.counters = torch.randint(0, 2**20, (num_draws, 4), generator=generator, dtype=torch.int32).to(DEVICE)
        self.temperature = torch.tensor(temperature, dtype=torch.float32).expand(num_rows).contiguous().to(DEVICE)
        self.top_p = torch.tensor(top_p, dtype=torch.float32).expand(num_rows).contiguous().to(DEVICE)

    @property
    def arguments(self) -> tuple[Tensor, DrawSpec[Tensor]]:
        return self.logits, DrawSpec(self.row, self.seeds, self.counters, self.temperature, self.top_p)

    def nucleus(self, row: int) -> Tensor:
        """float64 probabilities of a row [V], 0 outside its nucleus (not renormalised)."""
        return definition.nucleus(self.logits[row], float(self.temperature[row]), float(self.top_p[row]))

    def is_near_edge(self, draw: int) -> bool:
        """Whether the draw is within EDGE of an edge of the cumulative distribution, or the nucleus' cut of its own."""
        row = int(self.row[draw])
        probs = self.nucleus(row)
        u = float(reference.uniforms(self.seeds, self.counters)[draw])
        cumulative = probs.cumsum(0) / probs.sum()
        cut = float(probs.sum() - float(self.top_p[row]))
        smallest = float(probs[probs > 0].min())
        return bool((cumulative - u).abs().min() < EDGE) or cut < EDGE or abs(cut - smallest) < EDGE


def assert_same(case: Case, got: Samples, expected: Samples) -> None:
    differing = (got.tokens != expected.tokens).nonzero()[:, 0].tolist()
    assert all(case.is_near_edge(draw) for draw in differing), differing
    assert len(differing) <= max(1, len(case.row) // 1000)
    torch.testing.assert_close(got.bad, expected.bad)
    same = got.tokens == expected.tokens
    torch.testing.assert_close(got.logprobs[same], expected.logprobs[same], atol=1e-5, rtol=1e-5, equal_nan=True)
    if expected.entropy is None:
        assert got.entropy is None
    else:
        torch.testing.assert_close(got.entropy, expected.entropy, atol=1e-5, rtol=1e-5, equal_nan=True)


def check(case: Case, want_entropy: bool = True) -> Samples:
    logits, spec = case.arguments
    spec = spec._replace(want_entropy=want_entropy)
    got = sampling.sample(logits, spec)
    assert_same(case, got, reference.sample(logits, spec))
    return got


def mixed_rows(vocab: int, dtype: torch.dtype) -> Tensor:
    """Six rows from flat to peaked; one with impossible tokens, one with NaN, one where all tokens are equal."""
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(6, vocab, generator=generator) * torch.tensor([0.5, 2.0, 4.0, 1.0, 3.0, 6.0])[:, None]
    logits[1, ::3] = -torch.inf
    logits[2, vocab // 2] = torch.nan
    logits[3] = 1.25
    return logits.to(dtype)


@pytest.mark.parametrize(
    ("vocab", "dtype"),
    [
        (1, torch.float32),
        (37, torch.bfloat16),
        (1000, torch.float16),
        (5001, torch.float32),
        (5001, torch.bfloat16),
    ],
    ids=str,
)
def test_equals_reference(vocab: int, dtype: torch.dtype) -> None:
    logits = mixed_rows(vocab, dtype)
    logits[1, 0] = 0.5
    row = torch.randint(0, 6, (40,), generator=torch.Generator().manual_seed(1))
    got = check(Case(logits, row, [1.0, 0.7, 1.0, 1.5, 0.0, 0.3], [0.95, 0.9, 0.5, 0.7771, 0.9, 1.0]))
    assert got.bad.tolist() == [False, False, True, False, False, False]


def test_largest_vocabulary() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, sampling.MAX_VOCAB, generator=generator) * 4
    logits[0, -1] = 17.0
    got = check(Case(logits.bfloat16(), torch.zeros(8, dtype=torch.int64), 1.0, 0.9))
    assert sampling.MAX_VOCAB - 1 in got.tokens.tolist()
    wider = Case(torch.zeros(1, sampling.MAX_VOCAB + 1), torch.tensor([0]), 1.0, 1.0)
    with pytest.raises(FastsiaError, match="262144"):
        sampling.sample(*wider.arguments)


def test_ties_at_the_cut_keep_the_lower_ids() -> None:
    """A threshold kept with ">=" takes all ties in, and the nucleus then holds too much."""
    logits = torch.full((3, 700), -3.0)
    logits[0, [600, 300, 20, 650]] = 4.0  # mass of one: about 0.23
    logits[1] = 0.0
    logits[2, 5:400] = 2.0
    row = torch.arange(3).repeat_interleave(100)
    case = Case(logits, row, 1.0, [0.4, 0.1003, 0.5])
    got = check(case)
    assert set(got.tokens[row.to(DEVICE) == 0].tolist()) == {20, 300}
    assert got.tokens[row.to(DEVICE) == 1].max() <= 70
    assert got.tokens[row.to(DEVICE) == 2].max() < 400


def test_signed_zeros_are_ties() -> None:
    logits = torch.full((1, 40), -20.0)
    logits[0, [3, 7, 9]] = torch.tensor([0.0, -0.0, 0.0])
    got = check(Case(logits, torch.zeros(60, dtype=torch.int64), 1.0, 0.6))
    assert set(got.tokens.tolist()) == {3, 7}


def test_greedy_takes_the_lowest_id_with_log_probability_zero() -> None:
    logits = torch.randn(2, 900, generator=torch.Generator().manual_seed(5))
    logits[0, [811, 400, 505]] = 9.0
    got = check(Case(logits, torch.tensor([1, 0, 0]), 0.0, 0.95))
    assert got.tokens.tolist() == [int(logits[1].argmax()), 400, 400]
    assert got.logprobs.tolist() == [0.0, 0.0, 0.0]


def test_extreme_settings() -> None:
    settings = [(temperature, top_p) for temperature in (1e-6, 0.05, 1e4) for top_p in (1e-6, 0.999999, 1.0)]
    logits = torch.randn(9, 777, generator=torch.Generator().manual_seed(6)) * 3
    logits[::2, 400] = 80.0
    check(Case(logits, torch.arange(9), [t for t, _ in settings], [p for _, p in settings]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bad_rows_are_flagged_and_spoil_no_other(value: float) -> None:
    logits = torch.randn(3, 600, generator=torch.Generator().manual_seed(7))
    logits[1] = value if value < 0 else logits[1].index_fill(0, torch.tensor([599]), value)
    got = check(Case(logits, torch.tensor([1, 0, 2, 1]), 0.8, [0.9, 0.9, 1.0]))
    assert got.bad.tolist() == [False, True, False]
    assert got.tokens[[0, 3]].tolist() == [-1, -1]
    assert bool(got.logprobs[[0, 3]].isnan().all())
    assert bool(got.entropy[1].isnan())


def test_no_entropy_no_draws_and_rows_without_draws() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(8))
    check(Case(logits, torch.tensor([3, 1, 3]), 1.0, 0.9), want_entropy=False)
    check(Case(logits, torch.zeros(0, dtype=torch.int64), 1.0, 0.9))
    none = sampling.sample(*Case(logits[:0], torch.zeros(0, dtype=torch.int64), 1.0, 0.9).arguments)
    assert len(none.tokens) == len(none.bad) == 0


def test_strided_rows() -> None:
    """An engine pads the stride of an odd vocabulary so that rows start on 16 bytes."""
    padded = torch.randn(3, 512, generator=torch.Generator().manual_seed(9))
    padded[:, 501:] = torch.nan
    check(Case(padded[:, :501], torch.tensor([0, 1, 2, 1]), 0.9, 0.9))


def test_result_does_not_depend_on_how_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits, not closeness: programs a row, matching in the kernel or a sort beforehand, order of the draws."""
    logits = mixed_rows(4500, torch.bfloat16)
    row = torch.randint(0, 6, (24,), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    case = Case(logits, row, 0.8, 0.93)
    sampler = sampling.Sampler()
    monkeypatch.setattr(sampling, "_STREAM", 4)
    assert sampler.plan(*case.arguments)[0].grid[0] > 6
    expected = sampler(*case.arguments)
    monkeypatch.setattr(sampling, "_PROGRAMS", 1)
    alone = sampler(*case.arguments)
    monkeypatch.setattr(sampling, "MAX_UNSORTED_DRAWS", 10)
    presorted = sampler(*case.arguments)
    turn = torch.randperm(24, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    logits, spec = case.arguments
    spec = spec._replace(row=spec.row[turn], seeds=spec.seeds[turn], counters=spec.counters[turn])
    turned = sampler(logits, spec)
    for other, order in ((alone, slice(None)), (presorted, slice(None)), (turned, turn)):
        assert torch.equal(other.tokens, expected.tokens[order])
        torch.testing.assert_close(other.logprobs, expected.logprobs[order], atol=0, rtol=0, equal_nan=True)
        torch.testing.assert_close(other.entropy, expected.entropy, atol=0, rtol=0, equal_nan=True)
    assert sampler.arrivals.all_zero()


def test_a_draw_does_not_depend_on_the_batch_around_it() -> None:
    logits = torch.randn(5, 1300, generator=torch.Generator().manual_seed(10)) * 2
    case = Case(logits, torch.tensor([0, 4, 2, 4]), 0.9, 0.95)
    together = sampling.sample(*case.arguments)
    for draw in range(4):
        row = int(case.row[draw])
        alone = sampling.sample(
            case.logits[row : row + 1],
            DrawSpec(
                torch.zeros(1, dtype=torch.int64, device=DEVICE),
                case.seeds[draw : draw + 1],
                case.counters[draw : draw + 1],
                case.temperature[:1],
                case.top_p[:1],
            ),
        )
        assert int(alone.tokens[0]) == int(together.tokens[draw])
        assert float(alone.logprobs[0]) == float(together.logprobs[draw])


def test_draws_fit_the_exact_distribution() -> None:
    settings, num_draws = [(1.0, 1.0), (0.7, 0.9), (1.5, 0.6)], 400
    logits = (torch.randn(1, 60, generator=torch.Generator().manual_seed(11)) * 1.5).expand(3, -1).contiguous()
    row = torch.arange(3).repeat_interleave(num_draws)
    case = Case(logits, row, [t for t, _ in settings], [p for _, p in settings])
    tokens = sampling.sample(*case.arguments).tokens.cpu().view(3, num_draws)
    for setting in range(3):
        probs = case.nucleus(setting)
        assert bool((probs[tokens[setting]] > 0).all())
        counts = torch.bincount(tokens[setting], minlength=60)
        common = probs / probs.sum() * num_draws >= 5
        observed = torch.cat([counts[common], counts[~common].sum()[None]]).double()
        expected = torch.cat([probs[common], probs[~common].sum()[None]]) / probs.sum() * num_draws
        kept = expected > 0
        assert chisquare(observed[kept].numpy(), expected[kept].numpy()).pvalue > 1e-3


def test_what_it_refuses() -> None:
    case = Case(torch.zeros(2, 8), torch.tensor([0]), 1.0, 1.0)
    logits, spec = case.arguments
    with pytest.raises(FastsiaError, match="float64"):
        sampling.sample(logits.double(), spec)
    with pytest.raises(FastsiaError, match="next to one another"):
        sampling.sample(logits.t(), spec)
    with pytest.raises(FastsiaError, match="int32"):
        sampling.sample(logits, spec._replace(counters=spec.counters.long()))
    with pytest.raises(FastsiaError, match="one entry per row"):
        sampling.sample(logits, spec._replace(temperature=spec.temperature[:1]))


@pytest.mark.gpu
@pytest.mark.parametrize("vocab", [50257, 151936, 256000])
@pytest.mark.parametrize("scale", [1.0, 4.0, 12.0])
def test_large_batches_equal_the_reference(vocab: int, scale: float) -> None:
    logits = (torch.randn(64, vocab, generator=torch.Generator().manual_seed(12)) * scale).bfloat16()
    row = torch.randint(0, 64, (2000,), generator=torch.Generator().manual_seed(13))
    check(Case(logits, row, 0.7, 0.95))


@pytest.mark.gpu
def test_a_cuda_graph_replays_it() -> None:
    case = Case(torch.randn(8, 5000), torch.arange(8), 0.7, 0.95)
    sampler = sampling.Sampler()
    expected = sampler(*case.arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = sampler(*case.arguments)
    for _ in range(3):
        captured.tokens.fill_(-5)
        graph.replay()
        assert torch.equal(captured.tokens, expected.tokens)
    with pytest.raises(FastsiaError, match="before a CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        sampling.Sampler()(*case.arguments)
