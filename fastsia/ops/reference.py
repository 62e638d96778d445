"""Every op in plain PyTorch: the specification of the kernels, and a path that runs on any device.

The layouts are the kernels' own: rows of new tokens packed without gaps, keys and values in blocks of
`block_size` tokens, a row's context a shared prefix and its own suffix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
# Most nuclei are far smaller than the vocabulary: look among this many most probable tokens before sorting them all.
_NUCLEUS_GUESS = 64
# Rows are sampled in chunks of at most this many logits, which bounds the float64 temporaries (32 MiB each).
_CHUNK_ELEMENTS = 1 << 22
# Rows of one prefix in one batched product.
_TILE_ROWS = 16


_Array = TypeVar("_Array")


class DrawSpec(NamedTuple, Generic[_Array]):
    """M draws from R rows of logits, as tensors for the ops and as numpy arrays on the host.

    Attributes:
        row: int64 [M], the row that each draw is from, in any order.
        seeds, counters: int64 [M] and int32 [M, 4], the key and counter of each draw; see `uniforms`.
        temperature: float32 [R]; 0 takes the most probable token (lowest id among equals) with log-probability 0.
        top_p: float32 [R] in (0, 1].
        want_entropy: also compute the entropy of the untruncated softmax(logits) (temperature 1) of every row.
    """

    row: _Array
    seeds: _Array
    counters: _Array
    temperature: _Array
    top_p: _Array
    want_entropy: bool = True


class Samples(NamedTuple):
    """The result of `sample`.

    Attributes:
        tokens: int64 [M], -1 on a bad row.
        logprobs: float32 [M], nats, under the sampling distribution; NaN on a bad row.
        entropy: float32 [R], nats, of softmax(logits), or None.
        bad: bool [R].
    """

    tokens: Tensor
    logprobs: Tensor
    entropy: Tensor | None
    bad: Tensor


def uniforms(seeds: Tensor, counters: Tensor) -> Tensor:
    """Counter-based uniform numbers: Philox4x32-10 (Salmon et al., SC 2011), one block a draw.

    Args:
        seeds: int64 [M]; its 64 bits are the key (low word first).
        counters: int32 or int64 [M, 4], taken modulo 2^32: (number of the token in its own sequence, from 0; index of
            the rollout; checkpoint; domain). A trajectory's own draws have rollout 0 and checkpoint 0.

    Returns:
        float64 [M] in [0, 1), 53 bits from the first two output words. A number depends on its own key and counter
        alone, so it does not move with the batch around it.
    """
    # Signed 64-bit products wrap, but their bits are those of the unsigned product; shifts are masked for that.
    key0, key1 = seeds & _MASK32, (seeds >> 32) & _MASK32
    c0, c1, c2, c3 = (counters[:, i].to(torch.int64) & _MASK32 for i in range(4))
    for _ in range(10):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK32) ^ c1 ^ key0,
            product1 & _MASK32,
            ((product0 >> 32) & _MASK32) ^ c3 ^ key1,
            product0 & _MASK32,
        )
        key0, key1 = (key0 + 0x9E3779B9) & _MASK32, (key1 + 0xBB67AE85) & _MASK32
    return ((c0 >> 5) * 67108864 + (c1 >> 6)).to(torch.float64) / 9007199254740992.0


def sample(logits: Tensor, spec: DrawSpec[Tensor]) -> Samples:
    """Draw tokens from softmax(logits / temperature) cut to its top-p nucleus.

    The nucleus is the smallest set of most probable tokens with mass >= top_p; among equal probabilities the lower
    id comes first. A draw takes the first nucleus token, in order of ids, whose cumulative mass exceeds
    u * (nucleus mass), with u from `uniforms(seeds, counters)`: no sort is needed to draw, and any number of draws
    share one pass over a row.

    Args:
        logits: [R, V], float32, bfloat16 or float16 (float64 is kept). -inf is probability 0.
        spec: the draws.

    A row with NaN, +inf or nothing but -inf is bad: its draws are token -1 with log-probability NaN.
    """
    draw_row, seeds, counters, temperature, top_p, want_entropy = spec
    num_rows, vocab = logits.shape
    u = uniforms(seeds, counters)
    tokens = torch.empty(len(draw_row), dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(len(draw_row), dtype=torch.float32, device=logits.device)
    entropy = torch.empty(num_rows, dtype=torch.float32, device=logits.device) if want_entropy else None
    bad = torch.empty(num_rows, dtype=torch.bool, device=logits.device)
    rows_per_chunk = max(_CHUNK_ELEMENTS // vocab, 1)
    for begin in range(0, num_rows, rows_per_chunk):
        end = min(begin + rows_per_chunk, num_rows)
        chunk = logits[begin:end]
        chunk = chunk if chunk.dtype == torch.float64 else chunk.float()
        top = chunk.amax(dim=1, keepdim=True)
        bad_rows = ~torch.isfinite(top[:, 0])
        bad[begin:end] = bad_rows
        shifted = chunk - top
        if bad_rows.any():
            shifted = torch.where(bad_rows[:, None], torch.zeros_like(shifted), shifted)
        if entropy is not None:
            row_entropy = _entropy(shifted)
            entropy[begin:end] = torch.where(bad_rows, torch.nan, row_entropy)
        whole = begin == 0 and end == num_rows
        inside = slice(None) if whole else ((draw_row >= begin) & (draw_row < end)).nonzero()[:, 0]
        rows = draw_row[inside].long() - begin
        drawn, logprob = _draw(shifted, rows, u[inside], temperature[begin:end], top_p[begin:end])
        fails = bad_rows[rows]
        tokens[inside] = torch.where(fails, -1, drawn)
        logprobs[inside] = torch.where(fails, torch.nan, logprob).float()
    return Samples(tokens, logprobs, entropy, bad)


def score(logits: Tensor, tokens: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Log-probability of given tokens under the distribution that `sample` draws from, and the entropy of every row.

    Args:
        logits: [R, V], as in `sample`.
        tokens: int64 [R], one token a row.
        temperature, top_p: as in `DrawSpec`, of all rows.

    Returns:
        logprobs: float32 [R], nats; -inf where the nucleus does not have the token, NaN on a bad row.
        entropy: float32 [R], nats, of softmax(logits); NaN on a bad row.
    """
    logprobs = torch.empty(len(tokens), dtype=torch.float32, device=logits.device)
    entropy = torch.empty_like(logprobs)
    rows_per_chunk = max(_CHUNK_ELEMENTS // logits.shape[1], 1)
    for begin in range(0, len(tokens), rows_per_chunk):
        rows = slice(begin, begin + rows_per_chunk)
        chunk = logits[rows] if logits.dtype == torch.float64 else logits[rows].float()
        top = chunk.amax(dim=1, keepdim=True)
        bad = ~torch.isfinite(top[:, 0])
        shifted = torch.where(bad[:, None], torch.zeros_like(chunk), chunk - top)
        settings = shifted.new_full((2, len(shifted)), 0.0, dtype=torch.float64)
        settings[0], settings[1] = temperature, top_p
        ids, mass = _nucleus(_probabilities(shifted, settings[0]), settings[1])
        if ids is None:
            own = mass.gather(1, tokens[rows, None])[:, 0]
        else:
            own = torch.where(ids == tokens[rows, None], mass, 0.0).sum(dim=1)
        found = (own / mass.sum(dim=1)).log()
        logprobs[rows] = torch.where(bad, torch.nan, found).float()
        entropy[rows] = torch.where(bad, torch.nan, _entropy(shifted)).float()
    return logprobs, entropy


def _entropy(shifted: Tensor) -> Tensor:
    """Entropy in nats of softmax over the last axis, given logits whose maximum is 0."""
    weights = shifted.exp()
    total = weights.sum(dim=1)
    # exp(-1e4) is 0, so the clamp only keeps 0 * -inf from being NaN.
    return total.log() - (weights * shifted.clamp(min=-1e4)).sum(dim=1) / total


def _probabilities(shifted: Tensor, temperature: Tensor) -> Tensor:
    """softmax(logits / temperature), float64, given logits whose maximum is 0."""
    greedy = temperature <= 0
    scaled = shifted.double() / torch.where(greedy, 1.0, temperature.double())[:, None]
    if greedy.any():
        first = torch.full_like(scaled, -torch.inf).scatter_(1, shifted.argmax(dim=1, keepdim=True), 0.0)
        scaled = torch.where(greedy[:, None], first, scaled)
    weights = scaled.exp()
    return weights / weights.sum(dim=1, keepdim=True)


def _draw(shifted: Tensor, rows: Tensor, u: Tensor, temperature: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    ids, mass = _nucleus(_probabilities(shifted, temperature), top_p)
    cumulative = mass.cumsum(dim=1)
    target = u * cumulative[rows, -1]
    slot = _first_greater(cumulative, rows, target)
    # u < 1, but u * total can round up to the total: then the last token of the nucleus is meant.
    slot = torch.minimum(slot, _last_positive(mass)[rows])
    drawn = slot if ids is None else ids[rows, slot]
    return drawn, (mass[rows, slot] / cumulative[rows, -1]).log()


def _nucleus(probs: Tensor, top_p: Tensor) -> tuple[Tensor | None, Tensor]:
    """Candidates in order of ids (None: all of them) and their probability, 0 outside the nucleus."""
    if bool((top_p >= 1).all()):
        return None, probs
    vocab = probs.shape[1]
    goal = top_p.double()[:, None]
    if vocab > 2 * _NUCLEUS_GUESS:
        values, ids = probs.topk(_NUCLEUS_GUESS, dim=1)
        reached = values.cumsum(dim=1) >= goal
        cut = reached.int().argmax(dim=1, keepdim=True)
        threshold = values.gather(1, cut)
        # Equal probabilities at the end of the list could have lower ids beyond it: then all must be looked at.
        if bool((reached[:, -1] & (values[:, -1] < threshold[:, 0])).all()):
            ids, order = ids.sort(dim=1)
            return ids, _keep(values.gather(1, order), threshold, cut)
    values = probs.sort(dim=1, descending=True).values
    reached = values.cumsum(dim=1) >= goal
    # Where rounding keeps the whole sum under top_p, the nucleus is every token.
    cut = torch.where(reached.any(dim=1), reached.int().argmax(dim=1), vocab - 1)[:, None]
    return None, _keep(probs, values.gather(1, cut), cut)


def _keep(probs: Tensor, threshold: Tensor, cut: Tensor) -> Tensor:
    """Zero what is below the threshold, and of those on it (in order of ids) the ones past the cut."""
    above, equal = probs > threshold, probs == threshold
    room = cut + 1 - above.sum(dim=1, keepdim=True)
    return torch.where(above | (equal & (equal.cumsum(dim=1) <= room)), probs, 0.0)


def _first_greater(cumulative: Tensor, rows: Tensor, target: Tensor) -> Tensor:
    """Smallest slot with cumulative[row, slot] > target, by bisection: a draw touches no other row's numbers."""
    low = torch.zeros_like(rows)
    high = torch.full_like(rows, cumulative.shape[1] - 1)
    for _ in range(max(cumulative.shape[1] - 1, 1).bit_length()):
        middle = (low + high) // 2
        above = cumulative[rows, middle] > target
        high = torch.where(above, middle, high)
        low = torch.where(above, low, torch.minimum(middle + 1, high))
    return low


def _last_positive(mass: Tensor) -> Tensor:
    width = mass.shape[1]
    return width - 1 - (mass > 0).flip(1).int().argmax(dim=1)


@dataclass(frozen=True)
class AttentionMetadata:
    """The context of each packed row. A row is one new token; rows are sorted by their shared prefix.

    Prefix token j has position j, suffix token j has position prefix_len + j.

    Attributes:
        prefix_tables: int32 [G, max_prefix_blocks], block ids of the shared prefixes (padding 0).
        cu_rows: int32 [G + 1]; rows cu_rows[g]:cu_rows[g + 1] see prefix g.
        prefix_lens: int32 [n], prefix tokens that the row sees (0 allowed).
        suffix_tables: int32 [n, max_suffix_blocks], the row's own blocks (padding 0).
        suffix_lens: int32 [n], suffix tokens that the row sees, its own included; 0 where the row is a token of the
            prefix itself (then prefix_len is its position + 1, as in prefill and in a trajectory's own decode).
        max_prefix_len, max_suffix_len: the largest of each, on the host.
        max_rows_per_prefix: the most rows of one prefix, on the host.
    """

    prefix_tables: Tensor
    cu_rows: Tensor
    prefix_lens: Tensor
    suffix_tables: Tensor
    suffix_lens: Tensor
    max_prefix_len: int
    max_suffix_len: int
    max_rows_per_prefix: int


def prefix_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: AttentionMetadata,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of packed rows over [their part of a shared prefix | their own suffix].

    A head of a row with a NaN or infinite score, before the cap, gets NaN; no other row is touched by it.

    Args:
        q: [n, num_heads, head_dim]; rotary embedding and norms applied.
        k_cache, v_cache: [num_blocks, block_size, num_kv_heads, head_dim], written by `store_kv` (whose values are
            finite), the rows' own keys included.
        sliding_window: w keeps keys at positions > own position - w.
        softcap: c replaces a score s by c * tanh(s / c), s already scaled.

    Returns:
        [n, num_heads, head_dim] in q's dtype; sums in float32 (float64 for float64).
    """
    return prefix_attention_with_lse(q, k_cache, v_cache, meta, scale, sliding_window, softcap)[0]


def prefix_attention_with_lse(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: AttentionMetadata,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`prefix_attention` and the natural log of each softmax's denominator, float [n, num_heads]."""
    n, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    accumulate = torch.float64 if q.dtype == torch.float64 else torch.float32
    query = q.to(accumulate).view(n, num_kv_heads, num_heads // num_kv_heads, head_dim) * scale
    oldest = meta.prefix_lens + meta.suffix_lens - (sliding_window or (1 << 30))
    out, lse = _attend_prefixes(query, k_cache, v_cache, meta, oldest, softcap)
    if meta.max_suffix_len > 0:
        rows = meta.suffix_lens.nonzero()[:, 0]
        suffix_out, suffix_lse = _attend_suffixes(query[rows], k_cache, v_cache, meta, rows, oldest, softcap)
        out[rows], lse[rows] = merge_states(out[rows], lse[rows], suffix_out, suffix_lse)
    return out.reshape(n, num_heads, head_dim).to(q.dtype), lse.reshape(n, num_heads)


def merge_states(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys together from that over each: out [..., head_dim], lse [...] natural."""
    lse = torch.logaddexp(lse_a, lse_b)
    weight_a, weight_b = (lse_a - lse).exp()[..., None], (lse_b - lse).exp()[..., None]
    return out_a * weight_a + out_b * weight_b, lse


def _attend_prefixes(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, meta: AttentionMetadata, oldest: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Rows over their prefixes, a tile of rows at a time so that a prefix is gathered once for all of them."""
    num_kv_heads, group, head_dim = query.shape[1:]
    if meta.max_prefix_len == 0:
        return torch.zeros_like(query), query.new_full(query.shape[:3], -torch.inf)
    tile_prefix, tile_rows, row_slot = _tiles(meta.cu_rows, min(meta.max_rows_per_prefix, _TILE_ROWS))
    tiles, tile = tile_rows.shape
    tables = meta.prefix_tables[tile_prefix, : -(-meta.max_prefix_len // k_cache.shape[1])]
    k, v = (_gather(cache, tables, query.dtype) for cache in (k_cache, v_cache))
    position = torch.arange(k.shape[2], device=query.device)
    visible = (position < meta.prefix_lens[tile_rows][..., None]) & (position >= oldest[tile_rows][..., None])
    tiled = query[tile_rows].transpose(1, 2).reshape(tiles, num_kv_heads, tile * group, head_dim)
    mask = visible[:, None, :, None, :].expand(-1, 1, tile, group, -1).reshape(tiles, 1, tile * group, -1)
    out, lse = _attend(tiled, k, v, mask, softcap)
    out = out.view(tiles, num_kv_heads, tile, group, head_dim).transpose(1, 2).flatten(0, 1)[row_slot]
    return out, lse.view(tiles, num_kv_heads, tile, group).transpose(1, 2).flatten(0, 1)[row_slot]


def _attend_suffixes(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: AttentionMetadata,
    rows: Tensor,
    oldest: Tensor,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    tables = meta.suffix_tables[rows, : -(-meta.max_suffix_len // k_cache.shape[1])]
    k, v = (_gather(cache, tables, query.dtype) for cache in (k_cache, v_cache))
    offset = torch.arange(k.shape[2], device=query.device)
    visible = offset < meta.suffix_lens[rows][:, None]
    visible &= offset + meta.prefix_lens[rows][:, None] >= oldest[rows][:, None]
    return _attend(query, k, v, visible[:, None, None, :], softcap)


def _attend(query: Tensor, k: Tensor, v: Tensor, visible: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Softmax attention and its natural log-denominator; rows that see nothing give 0 and -inf."""
    scores = query @ k.transpose(2, 3)
    # Before the cap, which would hide an infinite score.
    scores = scores.where(scores.isfinite(), torch.nan)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~visible, -torch.inf)
    top = scores.amax(dim=3, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = (scores - top).exp()
    total = weights.sum(dim=3, keepdim=True)
    out = (weights @ v) / total.clamp(min=torch.finfo(scores.dtype).tiny)
    return out, (total.log() + top)[..., 0]


def _tiles(cu_rows: Tensor, tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut each prefix's rows into tiles: prefix of a tile [S], its rows [S, tile] (padding 0), slot of a row [n]."""
    counts = (cu_rows[1:] - cu_rows[:-1]).long()
    tiles_per_prefix = (counts + tile - 1) // tile
    tile_prefix = torch.repeat_interleave(tiles_per_prefix)
    first_tile = tiles_per_prefix.cumsum(0) - tiles_per_prefix
    row_prefix = torch.repeat_interleave(counts)
    within = torch.arange(len(row_prefix), device=cu_rows.device) - cu_rows[row_prefix].long()
    row_slot = first_tile[row_prefix] * tile + within
    tile_rows = row_slot.new_zeros(len(tile_prefix) * tile)
    tile_rows[row_slot] = torch.arange(len(row_slot), device=cu_rows.device)
    return tile_prefix, tile_rows.view(-1, tile), row_slot


def _gather(cache: Tensor, tables: Tensor, dtype: torch.dtype) -> Tensor:
    """[S, blocks] block ids -> [S, kv heads, blocks * block_size, head_dim]."""
    _, block_size, num_kv_heads, head_dim = cache.shape
    rows, blocks = tables.shape
    picked = cache.view(len(cache), -1).index_select(0, tables.reshape(-1))
    return picked.view(rows, blocks * block_size, num_kv_heads, head_dim).to(dtype).transpose(1, 2)


def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Write new keys and values [n, kv heads, head_dim] to slots int64 [n] = block * block_size + offset; -1 skips.

    A head's value that is NaN or infinite is written as 0 under a key of NaN: it must fail the rows that see it, and
    attention, which multiplies whole tiles of values by weights, must not carry it to those whose weight for it is 0.
    """
    kept = slots >= 0
    if not bool(kept.all()):
        k, v, slots = k[kept], v[kept], slots[kept]
    v = v.to(v_cache.dtype)
    bad = ~v.isfinite().all(dim=2, keepdim=True)
    if bool(bad.any()):
        k, v = k.masked_fill(bad, torch.nan), v.masked_fill(bad, 0)
    k_cache.view(-1, *k_cache.shape[2:]).index_copy_(0, slots, k.to(k_cache.dtype))
    v_cache.view(-1, *v_cache.shape[2:]).index_copy_(0, slots, v)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [n, heads, head_dim] by cos and sin [n, head_dim]; dimension i turns with i + head_dim / 2.

    In float32, rounded once at the end. RoFormer (Su et al. 2021), in the layout of transformers' Llama.
    """
    low, high = x.float().chunk(2, dim=-1)
    turned = torch.cat([-high, low], dim=-1)
    return (x.float() * cos.float()[:, None] + turned * sin.float()[:, None]).to(x.dtype)


def rotate_and_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    *,
    store: Callable[..., None] = store_kv,
) -> Tensor:
    """`store_kv` of the rotated keys; returns the rotated queries."""
    store(rotate(k, cos, sin), v, k_cache, v_cache, slots)
    return rotate(q, cos, sin)


def copy_blocks(kv_cache: Tensor, src: Tensor, dst: Tensor) -> None:
    """Copy whole blocks, all layers, keys and values: kv_cache [layers, 2, num_blocks, ...], src and dst int64 [m].

    A negative dst skips its pair.
    """
    if bool((dst < 0).any()):
        src, dst = src[dst >= 0], dst[dst >= 0]
    kv_cache.index_copy_(2, dst, kv_cache.index_select(2, src))
