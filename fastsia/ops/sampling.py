"""Fused sampling on the GPU: temperature, exact top-p, any number of draws per row, token entropy, in one launch.

A row is cut into tiles of 256 logits. The one pass over the logits leaves each tile's maximum and sums; programs
share a row, and the last one to arrive finishes it from those sums alone:

1. The sums bound which tokens can be in the nucleus. With tau the largest weight such that all tokens lighter than tau
   weigh at most 1 - top_p together (bounded tile by tile: by the tile's own sum, or by tau a token), a tile whose
   maximum is below tau contains no nucleus token and is never read again. Few tiles of a language model's row remain.
2. The nucleus' threshold is searched among the tiles left, four ways a pass, on the logits' own bit patterns, so that
   it ends on an exact value; ties on it are counted off in the order of ids. Few tiles stay in the first-level cache.
3. A draw picks its tile from the tiles' nucleus masses and its token from one tile: inverse CDF in the order of ids.

No step sorts and none has a bound to overflow: a flat row only has more tiles left in step 2. All sums are trees of
float32 over tiles whose shape never changes, so a row's result does not depend on how many programs shared it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsia.errors import FastsiaError
from fastsia.ops.launch import Arrivals, Launch
from fastsia.ops.reference import DrawSpec, Samples

MAX_VOCAB = 262_144
# Draws are matched to their rows inside the kernel up to this many; past it, a device sort beforehand is cheaper.
MAX_UNSORTED_DRAWS = 16_384

_TILE = 256  # one warp reads a tile of 16-bit logits with one 16-byte load a thread
_STREAM = 32  # tiles a program reads at a time in the pass over the logits
_GROUP = 8  # tiles it reads at a time in the search
_DRAWS = 8  # draws it makes at a time
_SCAN = 1024  # entries of draw_row looked at at a time
_PROGRAMS = 1056  # programs that fill a large GPU (132 processors, 8 each): with fewer rows, several share a row
_NUM_WARPS = 8
_NUM_STAGES = 3
# Low bits that a 16-bit logit leaves empty in float32: the search needs not look at them.
_EMPTY_BITS = {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_NONE = tl.constexpr(1 << 30)


@triton.jit
def _row_scale(temperature, row):
    """(log2(e) / temperature, is greedy). Greedy weighs as temperature 1: its nucleus is then one token."""
    t = tl.load(temperature + row).to(tl.float32)
    greedy = t <= 0
    # The bound keeps 0 * scale finite for a temperature near the smallest float.
    return tl.minimum(_LOG2E / tl.where(greedy, 1.0, t), 1e30), greedy


@triton.jit
def _store_tile_sums(z, tiles, live, scratch, scale, TILES: tl.constexpr, ENTROPY: tl.constexpr):
    """Maximum, sum of weights at the row's temperature and (at temperature 1) sum and first moment, of each tile."""
    top = tl.max(z, 1)
    shifted = z - tl.where(top == float("-inf"), 0.0, top)[:, None]
    tl.store(scratch + tiles, top, mask=live)
    tl.store(scratch + TILES + tiles, tl.sum(tl.exp2(shifted * scale), 1), mask=live)
    if ENTROPY:
        weight = tl.exp2(shifted * _LOG2E)
        tl.store(scratch + 2 * TILES + tiles, tl.sum(weight, 1), mask=live)
        # The bound keeps 0 * -inf from being NaN.
        tl.store(scratch + 3 * TILES + tiles, tl.sum(weight * tl.maximum(shifted, -1e30), 1), mask=live)


@triton.jit
def _key(x):
    """Integer that orders as the float does, int64."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _float(key):
    """The float32 of a key."""
    bits = key.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _load_listed(logits_row, tile_list, first, count, vocab, GROUP: tl.constexpr, TILE: tl.constexpr):
    slots = first + tl.arange(0, GROUP)
    tiles = tl.load(tile_list + slots, mask=slots < count, other=0)
    cols = tiles[:, None] * TILE + tl.arange(0, TILE)[None, :]
    z = tl.load(logits_row + cols, mask=(slots < count)[:, None] & (cols < vocab), other=float("-inf")).to(tl.float32)
    return z, tiles, slots < count


@triton.jit
def _search_nucleus(
    logits_row,
    tile_tables,
    count,
    vocab,
    top,
    scale,
    tau_log2,
    goal,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    EMPTY_BITS: tl.constexpr,
):
    """The smallest logit of the nucleus; leaves each listed tile's mass above it and its number of ties."""
    tile_list, tile_mass, tile_ties = tile_tables
    # Invariant: mass(z >= low) >= goal > mass(z >= high), both as keys without their empty bits.
    lightest = tl.maximum(top + (tau_log2 - 0.01) / scale, -1e38)
    low = (_key(lightest) - 2) >> EMPTY_BITS
    high = (_key(top) >> EMPTY_BITS) + 1
    while high - low > 1:
        span = high - low
        key1 = low + span // 4
        key2 = low + span // 2
        key3 = low + (span * 3) // 4
        cut0 = _float(low << EMPTY_BITS)
        cut1 = _float(key1 << EMPTY_BITS)
        cut2 = _float(key2 << EMPTY_BITS)
        cut3 = _float(key3 << EMPTY_BITS)
        cut4 = _float(high << EMPTY_BITS)
        mass1 = tl.zeros([GROUP], tl.float32)
        mass2 = tl.zeros([GROUP], tl.float32)
        mass3 = tl.zeros([GROUP], tl.float32)
        smallest = tl.full([GROUP], float("inf"), tl.float32)
        largest = tl.full([GROUP], float("-inf"), tl.float32)
        for first in range(0, count, GROUP):
            z, _, _ = _load_listed(logits_row, tile_list, first, count, vocab, GROUP, TILE)
            weight = tl.exp2((z - top) * scale)
            mass1 += tl.sum(tl.where(z >= cut1, weight, 0.0), 1)
            mass2 += tl.sum(tl.where(z >= cut2, weight, 0.0), 1)
            mass3 += tl.sum(tl.where(z >= cut3, weight, 0.0), 1)
            smallest = tl.minimum(smallest, tl.min(tl.where(z >= cut0, z, float("inf")), 1))
            largest = tl.maximum(largest, tl.max(tl.where(z < cut4, z, float("-inf")), 1))
        in1 = tl.sum(mass1) >= goal
        in2 = tl.sum(mass2) >= goal
        in3 = tl.sum(mass3) >= goal
        new_low = tl.where(in3, key3, tl.where(in2, key2, tl.where(in1, key1, low)))
        new_high = tl.where(in3, high, tl.where(in2, key3, tl.where(in1, key2, key1)))
        # Close in on values that occur: few candidates end the search early, however wide their range is.
        low = tl.maximum(new_low, _key(tl.min(smallest)) >> EMPTY_BITS)
        high = tl.minimum(tl.maximum(new_high, new_low + 1), (_key(tl.max(largest)) >> EMPTY_BITS) + 1)
        low = tl.minimum(low, high - 1)
    # The empty bits of a negative number's key are ones.
    threshold = _float((low << EMPTY_BITS) | tl.where(low < 0, (1 << EMPTY_BITS) - 1, 0))
    for first in range(0, count, GROUP):
        z, tiles, live = _load_listed(logits_row, tile_list, first, count, vocab, GROUP, TILE)
        weight = tl.exp2((z - top) * scale)
        tl.store(tile_mass + tiles, tl.sum(tl.where(z > threshold, weight, 0.0), 1), mask=live)
        tl.store(tile_ties + tiles, tl.sum((z == threshold).to(tl.int32), 1), mask=live)
    return threshold


@triton.jit
def _list_draws(draw_row, draw_list, row, num_draws, SCAN: tl.constexpr):
    """Write the row's draws, in order, to their own part of draw_list; (its start, its end)."""
    below = 0
    count = 0
    for first in range(0, num_draws, SCAN):
        draws = first + tl.arange(0, SCAN)
        rows = tl.load(draw_row + draws, mask=draws < num_draws, other=0x7FFFFFFF)
        below += tl.sum((rows < row).to(tl.int32))
        count += tl.sum((rows == row).to(tl.int32))
    place = below
    if count > 0:
        for first in range(0, num_draws, SCAN):
            draws = first + tl.arange(0, SCAN)
            mine = tl.load(draw_row + draws, mask=draws < num_draws, other=0x7FFFFFFF) == row
            tl.store(draw_list + place + tl.cumsum(mine.to(tl.int32), 0) - 1, draws, mask=mine)
            place += tl.sum(mine.to(tl.int32))
    return below, below + count


@triton.jit
def _uniform(seeds, counters, draws, live):
    """float64 in [0, 1), 53 bits of Philox4x32-10 keyed by the draw's seed and counter."""
    seed = tl.load(seeds + draws, mask=live, other=0)
    number = tl.load(counters + draws * 4, mask=live, other=0)
    rollout = tl.load(counters + draws * 4 + 1, mask=live, other=0)
    checkpoint = tl.load(counters + draws * 4 + 2, mask=live, other=0)
    domain = tl.load(counters + draws * 4 + 3, mask=live, other=0)
    x0, x1, _, _ = tl.philox(seed, number, rollout, checkpoint, domain)
    return ((x0 >> 5).to(tl.int64) * 67108864 + (x1 >> 6).to(tl.int64)).to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit
def _finish_row(
    row,
    logits_row,
    spec,
    samples,
    scratch,
    scratch_int,
    scale,
    greedy,
    vocab,
    num_tiles,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
    DRAWS: tl.constexpr,
    SCAN: tl.constexpr,
    EMPTY_BITS: tl.constexpr,
    ENTROPY: tl.constexpr,
    SORTED: tl.constexpr,
):
    draw_row, draw_list, cu_draws, seeds, counters, num_draws, top_p = spec
    tokens, logprobs, entropy, bad = samples
    tiles = tl.arange(0, TILES)
    live = tiles < num_tiles
    # Other processors wrote these: read past the first-level cache.
    tile_top = tl.load(scratch + tiles, mask=live, other=float("-inf"), cache_modifier=".cg")
    tile_sum = tl.load(scratch + TILES + tiles, mask=live, other=0.0, cache_modifier=".cg")
    top = tl.max(tile_top)
    empty = tile_top == float("-inf")
    shifted = tl.where(empty, 0.0, tile_top - top)
    peak = tl.where(empty, 0.0, tl.exp2(shifted * scale))
    # An empty tile keeps its sum: 0, or NaN where the tile has one.
    weight = tl.where(empty, tile_sum, tile_sum * peak)
    total = tl.sum(weight)
    is_bad = (total != total) | (top == float("inf")) | (top == float("-inf"))
    tl.store(bad + row, is_bad.to(tl.int8))
    if ENTROPY:
        tile_weight = tl.load(scratch + 2 * TILES + tiles, mask=live, other=0.0, cache_modifier=".cg")
        tile_moment = tl.load(scratch + 3 * TILES + tiles, mask=live, other=0.0, cache_modifier=".cg")
        at_one = tl.where(empty, 0.0, tl.exp2(shifted * _LOG2E))
        mass = tl.sum(at_one * tile_weight)
        moment = tl.sum(at_one * (tile_moment + shifted * tile_weight))
        nats = tl.maximum(tl.log(mass) - moment / mass, 0.0)
        tl.store(entropy + row, tl.where(is_bad, float("nan"), nats))

    # The four rows of scratch are read: from here on they hold other things.
    tl.debug_barrier()
    tile_list = scratch_int
    tile_mass = scratch + TILES
    tile_ties = scratch_int + 2 * TILES
    tile_cumulative = scratch + 3 * TILES

    p = tl.where(greedy, 0.0, tl.load(top_p + row).to(tl.float32))
    threshold = float("-inf")
    nucleus = weight
    kept_ties = tl.zeros([TILES], tl.int32)
    if (p < 1) & (is_bad == 0):
        # Twelve halvings of log2(tau) in [-40, 0]; the margin covers the rounding of float32 sums.
        budget = ((1.0 - p) - tl.maximum((1.0 - p) * 1e-4, 1e-6)) * total
        tau_log2 = -40.0
        upper = 0.0
        size = tl.minimum(vocab - tiles * TILE, TILE).to(tl.float32)
        found = tl.sum(tl.where(live, tl.minimum(weight, size * tl.exp2(tau_log2)), 0.0)) <= budget
        for _ in range(12):
            middle = (tau_log2 + upper) * 0.5
            tau = tl.exp2(middle)
            has_peak = peak >= tau
            rest = tl.maximum(tl.where(has_peak, weight - peak, weight), 0.0)
            light = tl.minimum(rest, tl.where(has_peak, size - 1.0, size) * tau)
            fits = tl.sum(tl.where(live, light, 0.0)) <= budget
            found = found | fits
            tau_log2 = tl.where(fits, middle, tau_log2)
            upper = tl.where(fits, upper, middle)
        tau_log2 = tl.where(found, tau_log2, -1e9)
        candidate = (peak >= tl.exp2(tau_log2)) & (peak > 0)
        tl.store(tile_list + tl.cumsum(candidate.to(tl.int32), 0) - 1, tiles, mask=candidate)
        count = tl.sum(candidate.to(tl.int32))
        tl.debug_barrier()
        goal = tl.maximum(p * total, 1e-30)
        threshold = _search_nucleus(
            logits_row,
            (tile_list, tile_mass, tile_ties),
            count,
            vocab,
            top,
            scale,
            tau_log2,
            goal,
            GROUP,
            TILE,
            EMPTY_BITS,
        )
        tl.debug_barrier()
        above = tl.load(tile_mass + tiles, mask=candidate, other=0.0)
        ties = tl.load(tile_ties + tiles, mask=candidate, other=0)
        num_ties = tl.sum(ties)
        tie_weight = tl.exp2((threshold - top) * scale)
        wanted = tl.ceil((goal - tl.sum(above)) / tl.where(tie_weight > 0, tie_weight, 1.0))
        wanted = tl.minimum(tl.maximum(wanted, 1.0), num_ties.to(tl.float32)).to(tl.int32)
        wanted = tl.where(tie_weight > 0, wanted, num_ties)
        kept_ties = tl.minimum(tl.maximum(wanted - (tl.cumsum(ties, 0) - ties), 0), ties)
        nucleus = above + kept_ties.to(tl.float32) * tie_weight
        tl.debug_barrier()

    cumulative = tl.cumsum(nucleus, 0)
    nucleus_mass = tl.sum(nucleus)
    last_tile = tl.max(tl.where(nucleus > 0, tiles, 0))
    tl.store(tile_mass + tiles, nucleus, mask=live)
    tl.store(tile_ties + tiles, kept_ties, mask=live)
    # A tile without nucleus tokens is never chosen, whatever rounding does to the sums around it.
    tl.store(tile_cumulative + tiles, tl.where(nucleus > 0, cumulative, -1.0), mask=live)

    if SORTED:
        start = tl.load(cu_draws + row)
        end = tl.load(cu_draws + row + 1)
    else:
        start, end = _list_draws(draw_row, draw_list, row, num_draws, SCAN)
    tl.debug_barrier()

    log_mass = tl.log(nucleus_mass)
    for first in range(start, end, DRAWS):
        slots = first + tl.arange(0, DRAWS)
        drawn = slots < end
        draws = tl.load(draw_list + slots, mask=drawn, other=0)
        target = (_uniform(seeds, counters, draws, drawn) * nucleus_mass.to(tl.float64)).to(tl.float32)
        chosen = tl.full([DRAWS], _NONE, tl.int32)
        for begin in range(0, num_tiles, TILE):
            at = begin + tl.arange(0, TILE)
            reached = tl.load(tile_cumulative + at, mask=at < num_tiles, other=-1.0)[None, :] > target[:, None]
            chosen = tl.minimum(chosen, tl.min(tl.where(reached, at[None, :], _NONE), 1))
        tile = tl.minimum(chosen, last_tile)
        rest = target - (tl.load(tile_cumulative + tile) - tl.load(tile_mass + tile))
        cols = tile[:, None] * TILE + tl.arange(0, TILE)[None, :]
        z = tl.load(logits_row + cols, mask=drawn[:, None] & (cols < vocab), other=float("-inf")).to(tl.float32)
        token_weight = tl.exp2((z - top) * scale)
        tie = z == threshold
        rank = tl.cumsum(tie.to(tl.int32), 1)
        inside = ((z > threshold) | (tie & (rank <= tl.load(tile_ties + tile)[:, None]))) & (token_weight > 0)
        passed = inside & (tl.cumsum(tl.where(inside, token_weight, 0.0), 1) > rest[:, None])
        hit = tl.min(tl.where(passed, cols, _NONE), 1)
        # Rounding can leave the target past the last sum: then the last token of the nucleus is meant.
        token = tl.where(hit == _NONE, tl.max(tl.where(inside, cols, 0), 1), hit)
        chosen_z = tl.load(logits_row + token, mask=drawn, other=0.0).to(tl.float32)
        logprob = (chosen_z - top) * (scale * _LN2) - log_mass
        tl.store(tokens + draws, tl.where(is_bad, -1, token).to(tl.int64), mask=drawn)
        tl.store(logprobs + draws, tl.where(is_bad, float("nan"), logprob), mask=drawn)


@triton.jit(do_not_specialize=["num_draws", "parts", "groups_per_part"])
def sampling_kernel(
    logits,
    draw_row,
    draw_list,
    cu_draws,
    seeds,
    counters,
    temperature,
    top_p,
    tokens,
    logprobs,
    entropy,
    bad,
    scratch,
    scratch_int,
    arrivals,
    stride_row,
    num_draws,
    vocab,
    num_tiles,
    parts,
    groups_per_part,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
    STREAM: tl.constexpr,
    GROUP: tl.constexpr,
    DRAWS: tl.constexpr,
    SCAN: tl.constexpr,
    EMPTY_BITS: tl.constexpr,
    ENTROPY: tl.constexpr,
    SORTED: tl.constexpr,
    STAGES: tl.constexpr,
):
    row = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    logits_row = logits + row.to(tl.int64) * stride_row
    scratch += row * (4 * TILES)
    scratch_int += row * (4 * TILES)
    scale, greedy = _row_scale(temperature, row)

    first = part * groups_per_part
    last = tl.minimum(first + groups_per_part, (num_tiles + STREAM - 1) // STREAM)
    whole = tl.minimum(last, vocab // (STREAM * TILE))
    lanes = tl.arange(0, STREAM)
    columns = lanes[:, None] * TILE + tl.arange(0, TILE)[None, :]
    # Groups inside the vocabulary need no mask, so that its size does not narrow their loads.
    for group in tl.range(first, whole, num_stages=STAGES):
        z = tl.load(logits_row + group * (STREAM * TILE) + columns).to(tl.float32)
        _store_tile_sums(z, group * STREAM + lanes, lanes >= 0, scratch, scale, TILES, ENTROPY)
    for group in range(tl.maximum(first, whole), last):
        cols = group * (STREAM * TILE) + columns
        z = tl.load(logits_row + cols, mask=cols < vocab, other=float("-inf")).to(tl.float32)
        tiles = group * STREAM + lanes
        _store_tile_sums(z, tiles, tiles < num_tiles, scratch, scale, TILES, ENTROPY)

    # The barrier puts every thread's sums before the arrival; the arrival publishes them to whoever comes last.
    tl.debug_barrier()
    arrived = tl.atomic_add(arrivals + row, 1, sem="acq_rel")
    tl.debug_barrier()
    if arrived == parts - 1:
        tl.store(arrivals + row, 0)
        spec = (draw_row, draw_list, cu_draws, seeds, counters, num_draws, top_p)
        samples = (tokens, logprobs, entropy, bad)
        _finish_row(
            row,
            logits_row,
            spec,
            samples,
            scratch,
            scratch_int,
            scale,
            greedy,
            vocab,
            num_tiles,
            TILES,
            TILE,
            GROUP,
            DRAWS,
            SCAN,
            EMPTY_BITS,
            ENTROPY,
            SORTED,
        )


class Sampler:
    """`sample` with the arrival counters that its launches share: int32, zero between launches.

    One sampler serves one stream at a time. Inside a CUDA graph its counters must exist already: sample once with as
    many rows before the capture.
    """

    def __init__(self) -> None:
        self.arrivals = Arrivals()

    def __call__(self, logits: Tensor, spec: DrawSpec[Tensor]) -> Samples:
        """See `sample`."""
        if len(logits) == 0:
            return _empty(0, len(spec.row), logits.device, spec.want_entropy)
        launch, samples = self.plan(logits, spec)
        launch.run()
        return samples

    def plan(self, logits: Tensor, spec: DrawSpec[Tensor]) -> tuple[Launch, Samples]:
        """The launch that `sample` makes, and the tensors it fills."""
        num_rows, vocab = logits.shape
        num_draws = len(spec.row)
        _check(logits, spec)
        samples = _empty(num_rows, num_draws, logits.device, spec.want_entropy)
        num_tiles = triton.cdiv(vocab, _TILE)
        tiles = triton.next_power_of_2(num_tiles)
        groups = triton.cdiv(num_tiles, _STREAM)
        groups_per_part = triton.cdiv(groups, max(1, min(groups, _PROGRAMS // num_rows)))
        parts = triton.cdiv(groups, groups_per_part)
        scratch = torch.empty(num_rows, 4, tiles, dtype=torch.float32, device=logits.device)
        is_sorted = num_draws > MAX_UNSORTED_DRAWS
        if is_sorted:
            rows, draw_list = torch.sort(spec.row, stable=True)
            cu_draws = torch.searchsorted(rows, torch.arange(num_rows + 1, dtype=rows.dtype, device=rows.device))
        else:
            draw_list = torch.empty(num_draws, dtype=torch.int64, device=logits.device)
            cu_draws = draw_list
        arguments = {
            "logits": logits,
            "draw_row": spec.row,
            "draw_list": draw_list,
            "cu_draws": cu_draws,
            "seeds": spec.seeds,
            "counters": spec.counters,
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "tokens": samples.tokens,
            "logprobs": samples.logprobs,
            "entropy": samples.entropy if samples.entropy is not None else samples.logprobs,
            "bad": samples.bad.view(torch.int8),
            "scratch": scratch,
            "scratch_int": scratch.view(torch.int32),
            "arrivals": self.arrivals.counters(num_rows, logits.device),
            "stride_row": logits.stride(0),
            "num_draws": num_draws,
            "vocab": vocab,
            "num_tiles": num_tiles,
            "parts": parts,
            "groups_per_part": groups_per_part,
            "TILES": tiles,
            "TILE": _TILE,
            "STREAM": _STREAM,
            "GROUP": _GROUP,
            "DRAWS": _DRAWS,
            "SCAN": _SCAN,
            "EMPTY_BITS": _EMPTY_BITS[logits.dtype],
            "ENTROPY": bool(spec.want_entropy),
            "SORTED": is_sorted,
            "STAGES": _NUM_STAGES,
        }
        return Launch(sampling_kernel, (num_rows * parts,), arguments, _NUM_WARPS, _NUM_STAGES), samples


def sample(logits: Tensor, spec: DrawSpec[Tensor]) -> Samples:
    """Draw tokens from softmax(logits / temperature) cut to its top-p nucleus: `reference.sample` in one launch.

    Args:
        logits: [R, V], bfloat16, float16 or float32, V <= 262,144; rows may be strided, tokens not. Full load width
            needs rows that start on 16 bytes: pad the stride where V is odd.
        spec: the draws; counters contiguous.

    Sums are float32, so a draw can differ from the float64 reference only where it is within about 1e-6 of an edge
    of the nucleus or of the cumulative distribution. An engine keeps a `Sampler`, which saves this function's fresh
    counters.
    """
    return Sampler()(logits, spec)


def _empty(num_rows: int, num_draws: int, device: torch.device, want_entropy: bool) -> Samples:
    return Samples(
        torch.empty(num_draws, dtype=torch.int64, device=device),
        torch.empty(num_draws, dtype=torch.float32, device=device),
        torch.empty(num_rows, dtype=torch.float32, device=device) if want_entropy else None,
        torch.empty(num_rows, dtype=torch.bool, device=device),
    )


def _check(logits: Tensor, spec: DrawSpec[Tensor]) -> None:
    if logits.dtype not in _EMPTY_BITS:
        raise FastsiaError(f"logits must be float32, bfloat16 or float16, got {logits.dtype}.")
    if not 1 <= logits.shape[1] <= MAX_VOCAB:
        raise FastsiaError(f"logits must have between 1 and {MAX_VOCAB} tokens per row, got {logits.shape[1]}.")
    if logits.stride(1) != 1:
        raise FastsiaError("logits must have a row's tokens next to one another in memory.")
    if spec.seeds.dtype != torch.int64 or spec.counters.dtype != torch.int32 or not spec.counters.is_contiguous():
        raise FastsiaError("seeds must be int64 [M] and counters contiguous int32 [M, 4].")
    if len(spec.temperature) != len(logits) or len(spec.top_p) != len(logits):
        raise FastsiaError(f"temperature and top_p must have one entry per row ({len(logits)}).")
