#include "step.h"

#include <numeric>
#include <stdexcept>

namespace fastsia {
namespace {

std::int64_t blocks_for(std::int64_t tokens, std::int32_t block_size) { return (tokens + block_size - 1) / block_size; }

// The stable order of `size` values in 0, 1, ..., num_values - 1.
template <typename Value>
std::vector<std::int32_t> counting_order(std::size_t size, std::size_t num_values, const Value& value) {
  std::vector<std::int32_t> first(num_values + 1), order(size);
  for (std::size_t i = 0; i < size; ++i) ++first[static_cast<std::size_t>(value(i)) + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  for (std::size_t i = 0; i < size; ++i)
    order[static_cast<std::size_t>(first[static_cast<std::size_t>(value(i))]++)] = static_cast<std::int32_t>(i);
  return order;
}

struct Candidate {
  std::int32_t slot;
  std::int32_t urgency;
  bool is_trunk;
};

// Kinds of sequences by their urgency: trunks, branches with blocks, branches without.
constexpr std::int32_t kNumKinds = 3;

// What can be computed, with its urgency as `TrajectoryTree.urgency` of fastsia/engine/tables.py, in ranks of trunks.
std::vector<Candidate> candidates(const Trunks& trunks, const Branches& branches) {
  std::vector<std::int32_t> by_order;
  for (std::size_t t = 0; t < trunks.capacity; ++t)
    if (trunks.free.live[t]) by_order.push_back(static_cast<std::int32_t>(t));
  std::sort(by_order.begin(), by_order.end(),
            [&](std::int32_t a, std::int32_t b) { return trunks.order[a] < trunks.order[b]; });
  // The trunk's own urgency; -1 where its branches wait for it to be computed.
  std::vector<std::int32_t> of_branches(trunks.capacity, -1);
  std::vector<Candidate> found;
  found.reserve(branches.capacity);
  for (std::size_t i = 0; i < by_order.size(); ++i) {
    const std::int32_t t = by_order[i], urgency = static_cast<std::int32_t>(i) * kNumKinds;
    if (trunks.computed[t] == trunks.length[t]) of_branches[static_cast<std::size_t>(t)] = urgency;
    if (trunks.computed[t] < trunks.length[t] && !trunks.in_flight[t] && (!trunks.verified[t] || trunks.pending[t] > 0))
      found.push_back({t, urgency, true});
  }
  for (std::size_t b = 0; b < branches.capacity; ++b) {
    if (!branches.free.live[b] || branches.in_flight[b]) continue;
    const std::int32_t urgency = of_branches[static_cast<std::size_t>(branches.trunk[b])];
    if (urgency >= 0)
      found.push_back({static_cast<std::int32_t>(b), urgency + 1 + (branches.num_blocks[b] == 0), false});
  }
  return found;
}

}  // namespace

Reason Stops::read(std::int64_t token, std::int32_t& state) const {
  if (token < 0) return kError;
  const std::size_t id = static_cast<std::size_t>(token);
  if (table != nullptr) state = table[static_cast<std::size_t>(state) * width + id];
  if (is_eos[id]) return kEos;
  return table != nullptr && state == matched ? kStop : kUnfinished;
}

Selection select(const Trunks& trunks, const Branches& branches, const Blocks& blocks, std::int64_t max_num_seqs,
                 std::int64_t max_num_batched_tokens) {
  const std::vector<Candidate> found = candidates(trunks, branches);
  const auto order =
      counting_order(found.size(), kNumKinds * trunks.capacity, [&](std::size_t i) { return found[i].urgency; });
  Selection selection;
  std::int64_t num_single = 0, num_longer = 0, needed = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Candidate& candidate = found[static_cast<std::size_t>(order[i])];
    const std::int32_t slot = candidate.slot;
    const std::int32_t computed = candidate.is_trunk ? trunks.computed[slot] : branches.computed[slot];
    std::int64_t count = (candidate.is_trunk ? trunks.length[slot] : branches.length[slot]) - computed;
    if (count == 1) {
      if (++num_single > max_num_seqs) count = 0;
    } else {
      const std::int64_t before = num_longer;
      num_longer += count;
      count = std::min(count, std::max<std::int64_t>(max_num_batched_tokens - before, 0));
    }
    if (count == 0) {
      if (num_single >= max_num_seqs && num_longer >= max_num_batched_tokens) break;
      continue;
    }
    const std::int32_t held = candidate.is_trunk ? trunks.num_blocks[slot] : branches.num_blocks[slot];
    const std::int64_t width = blocks_for(computed + count, blocks.block_size);
    const std::int64_t need = std::max<std::int64_t>(width - held, 0);
    if (i == 0 && need > blocks.num_free) {
      selection.short_slot = slot;
      selection.short_is_trunk = candidate.is_trunk;
      selection.short_blocks = need;
      return selection;
    }
    needed += need;
    if (needed > blocks.num_free) break;
    Selected& chosen = candidate.is_trunk ? selection.trunks : selection.branches;
    chosen.slots.push_back(slot);
    chosen.counts.push_back(static_cast<std::int32_t>(count));
    std::int64_t& widest = candidate.is_trunk ? selection.trunk_width : selection.branch_width;
    widest = std::max(widest, width);
  }
  return selection;
}

void give_blocks(const Selection& selection, const Trunks& trunks, const Branches& branches, Blocks& blocks) {
  const auto give = [&](const Selected& chosen, const std::int32_t* computed, std::int32_t* num_blocks,
                        const Array2D<std::int32_t>& lists) {
    for (std::size_t i = 0; i < chosen.slots.size(); ++i) {
      const std::int32_t slot = chosen.slots[i];
      const std::int64_t wanted = blocks_for(computed[slot] + chosen.counts[i], blocks.block_size);
      while (num_blocks[slot] < wanted) lists.of(slot)[num_blocks[slot]++] = blocks.take();
    }
  };
  give(selection.trunks, trunks.computed, trunks.num_blocks, trunks.blocks);
  give(selection.branches, branches.computed, branches.num_blocks, branches.blocks);
}

Layout lay_out(const Trunks& trunks, const Branches& branches, const Nodes& nodes, std::int32_t block_size,
               const SlotSelection& of_trunks, const SlotSelection& of_branches) {
  const std::size_t num_chosen = of_trunks.size + of_branches.size;
  const auto owner = [&](std::size_t i) {
    return i < of_trunks.size ? of_trunks.slots[i] : branches.trunk[of_branches.slots[i - of_trunks.size]];
  };
  const auto count = [&](std::size_t i) {
    return i < of_trunks.size ? of_trunks.counts[i] : of_branches.counts[i - of_trunks.size];
  };
  const auto order = counting_order(num_chosen, trunks.capacity, owner);
  Layout out;
  std::size_t n = 0;
  for (std::size_t i = 0; i < num_chosen; ++i) n += static_cast<std::size_t>(count(i));
  for (std::size_t i = 0; i < of_branches.size; ++i) {
    const std::int32_t b = of_branches.slots[i];
    out.max_suffix_len = std::max(out.max_suffix_len, branches.computed[b] + of_branches.counts[i]);
  }
  const std::size_t suffix_width = static_cast<std::size_t>(blocks_for(out.max_suffix_len, block_size));
  out.token_ids.resize(n);
  out.positions.resize(n);
  out.slots.resize(n);
  out.prefix_lens.resize(n);
  out.suffix_lens.resize(n);
  out.suffix_tables.resize(n * suffix_width);
  out.trunk_last.resize(of_trunks.size);
  out.branch_last.resize(of_branches.size);
  std::vector<std::int32_t> owners, path;
  std::size_t at = 0;
  for (const std::int32_t chosen : order) {
    const std::size_t i = static_cast<std::size_t>(chosen);
    const std::int32_t t = owner(i);
    if (owners.empty() || owners.back() != t) {
      if (!owners.empty())
        out.max_rows_per_prefix = std::max(out.max_rows_per_prefix, static_cast<std::int32_t>(at) - out.cu_rows.back());
      owners.push_back(t);
      out.cu_rows.push_back(static_cast<std::int32_t>(at));
    }
    if (i < of_trunks.size) {
      const std::int32_t end = trunks.computed[t] + count(i);
      for (std::int32_t offset = trunks.computed[t]; offset < end; ++offset, ++at) {
        out.token_ids[at] = trunks.tokens.of(t)[offset];
        out.positions[at] = offset;
        out.slots[at] = std::int64_t{trunks.blocks.of(t)[offset / block_size]} * block_size + offset % block_size;
        out.prefix_lens[at] = offset + 1;
        const std::int32_t position = offset - trunks.origin[t] + 1;
        if (position >= trunks.num_hidden[t]) {
          out.hidden_rows.push_back(static_cast<std::int64_t>(at));
          out.hidden_trunk.push_back(t);
          out.hidden_position.push_back(position);
        }
      }
      out.max_prefix_len = std::max(out.max_prefix_len, end);
      out.trunk_last[i] = static_cast<std::int64_t>(at) - 1;
      continue;
    }
    const std::int32_t b = of_branches.slots[i - of_trunks.size];
    const std::int32_t begin = branches.computed[b], end = begin + count(i);
    // A branch that lost its keys and values reads its path again, perhaps in chunks (even of one token).
    const bool again = branches.length[b] - begin > 1;
    if (again) {
      path.resize(static_cast<std::size_t>(branches.length[b]));
      std::int32_t node = branches.node[b];
      for (std::size_t k = path.size(); k-- > 0; node = nodes.parent[node]) path[k] = nodes.token[node];
    }
    for (std::int32_t offset = begin; offset < end; ++offset, ++at) {
      out.token_ids[at] = again ? path[static_cast<std::size_t>(offset)] : branches.token[b];
      out.positions[at] = branches.prefix_len[b] + offset;
      out.slots[at] = std::int64_t{branches.blocks.of(b)[offset / block_size]} * block_size + offset % block_size;
      out.prefix_lens[at] = branches.prefix_len[b];
      out.suffix_lens[at] = offset + 1;
      std::copy_n(branches.blocks.of(b), suffix_width, out.suffix_tables.data() + at * suffix_width);
    }
    out.max_prefix_len = std::max(out.max_prefix_len, branches.prefix_len[b]);
    out.branch_last[i - of_trunks.size] = static_cast<std::int64_t>(at) - 1;
  }
  if (!owners.empty())
    out.max_rows_per_prefix = std::max(out.max_rows_per_prefix, static_cast<std::int32_t>(at) - out.cu_rows.back());
  out.cu_rows.push_back(static_cast<std::int32_t>(n));
  const std::size_t width = static_cast<std::size_t>(blocks_for(out.max_prefix_len, block_size));
  out.prefix_tables.resize(owners.size() * width);
  for (std::size_t i = 0; i < owners.size(); ++i)
    std::copy_n(trunks.blocks.of(owners[i]), width, out.prefix_tables.data() + i * width);
  return out;
}

RowCounts mark_computed(const Trunks& trunks, const Branches& branches, const SlotSelection& of_trunks,
                        const SlotSelection& of_branches) {
  RowCounts counted;
  const auto mark = [&](std::int32_t count, std::int32_t& computed, std::int32_t& high_water) {
    const std::int32_t before = computed;
    computed += count;
    const std::int32_t fresh = std::max(computed - std::max(before, high_water), 0);
    high_water = std::max(high_water, computed);
    counted.recomputed_tokens += count - fresh;
    return fresh;
  };
  for (std::size_t i = 0; i < of_trunks.size; ++i) {
    const std::int32_t t = of_trunks.slots[i];
    const std::int32_t fresh = mark(of_trunks.counts[i], trunks.computed[t], trunks.high_water[t]);
    const std::int32_t drawn = std::max(trunks.computed[t] - trunks.origin[t], 0);
    const std::int32_t generated = trunks.fixed[t] ? 0 : std::min(fresh, drawn);
    counted.trajectory_tokens += generated;
    counted.prefill_tokens += fresh - generated;
  }
  for (std::size_t i = 0; i < of_branches.size; ++i) {
    const std::int32_t b = of_branches.slots[i];
    counted.computed_tokens += mark(of_branches.counts[i], branches.computed[b], branches.high_water[b]);
  }
  return counted;
}

DrawPlan plan_draws(const Trunks& trunks, const Branches& branches, const Rollouts& rollouts,
                    const std::int32_t* decoding, std::size_t num_decoding, const SlotSelection& of_trunks,
                    const SlotSelection& of_branches, const std::int64_t* trunk_last, const std::int64_t* branch_last,
                    std::int32_t domain) {
  DrawPlan out;
  const std::size_t most_rows = of_trunks.size + of_branches.size;
  out.hidden_row.reserve(most_rows);
  out.temperature.reserve(most_rows);
  out.top_p.reserve(most_rows);
  out.branch.reserve(of_branches.size);
  out.row.reserve(2 * most_rows);
  out.seeds.reserve(2 * most_rows);
  out.counters.reserve(8 * most_rows);
  const auto add_row = [&](std::int64_t hidden_row, std::int32_t trunk) {
    out.hidden_row.push_back(hidden_row);
    out.temperature.push_back(trunks.temperature[trunk]);
    out.top_p.push_back(trunks.top_p[trunk]);
  };
  const auto add_draw = [&](std::int64_t row, std::int32_t trunk, std::int32_t number, std::int32_t index,
                            std::int32_t checkpoint, std::int32_t of_domain) {
    out.row.push_back(row);
    out.seeds.push_back(trunks.seed[trunk]);
    out.counters.insert(out.counters.end(), {number, index, checkpoint, of_domain});
  };
  for (std::size_t i = 0; i < of_trunks.size; ++i) {
    const std::int32_t t = of_trunks.slots[i];
    if (trunks.fixed[t] || trunks.computed[t] != trunks.length[t]) continue;
    add_draw(static_cast<std::int64_t>(out.trunk.size()), t, trunks.length[t] - trunks.origin[t], 0, 0, domain);
    add_row(trunk_last[i], t);
    out.trunk.push_back(t);
  }
  std::vector<std::int32_t> row_of_branch(branches.capacity, -1);
  for (std::size_t i = 0; i < of_branches.size; ++i) {
    const std::int32_t b = of_branches.slots[i];
    if (branches.computed[b] != branches.length[b]) continue;
    row_of_branch[static_cast<std::size_t>(b)] = static_cast<std::int32_t>(out.hidden_row.size());
    add_row(branch_last[i], branches.trunk[b]);
    out.branch.push_back(b);
  }
  for (std::size_t i = 0; i < num_decoding; ++i) {
    const std::int32_t r = decoding[i], row = row_of_branch[static_cast<std::size_t>(rollouts.branch[r])];
    if (row < 0) continue;
    const std::int32_t t = rollouts.trunk[r];
    add_draw(row, t, rollouts.length[r], rollouts.index[r], rollouts.checkpoint[r], trunks.domain[t]);
    out.rollout.push_back(r);
  }
  return out;
}

Ended append(const Trunks& trunks, const std::vector<Stops>& stops, const std::int32_t* slots,
             const std::int64_t* tokens, const float* logprobs, const float* entropies, std::size_t size) {
  Ended out;
  for (std::size_t i = 0; i < size; ++i) {
    const std::int32_t t = slots[i];
    Reason reason = stops[static_cast<std::size_t>(trunks.rules[t])].read(tokens[i], trunks.stop_state[t]);
    if (reason != kError && reason != kEos) {
      const std::int32_t position = trunks.length[t] - trunks.origin[t];
      trunks.tokens.of(t)[trunks.length[t]++] = static_cast<std::int32_t>(tokens[i]);
      trunks.logprobs.of(t)[position] = logprobs[i];
      trunks.entropies.of(t)[position] = entropies[i];
      if (reason == kUnfinished && trunks.length[t] >= trunks.max_length[t]) reason = kLength;
    }
    if (reason == kUnfinished) continue;
    out.slots.push_back(t);
    out.reasons.push_back(reason);
  }
  return out;
}

namespace {

// Up to this many draws from one row are sorted without allocating memory.
constexpr std::size_t kFewDraws = 16;

// Rollouts of one branch that drew the same token. slot: the branch that they go on with.
struct Group {
  std::int32_t row, parent, trunk;
  std::int64_t token;
  std::size_t begin, end;  // in the order of draws
  std::int32_t node = kNoNode, state = 0, slot = -1;
  Reason reason = kUnfinished;
  bool is_decided = false;
};

// Frees branches and their blocks; blocks that no other branch lists become free in ascending order.
void end_branches(const std::vector<std::int32_t>& slots, Branches& branches, Blocks& blocks) {
  std::vector<std::int32_t> freed;
  for (const std::int32_t b : slots) {
    for (std::int32_t k = 0; k < branches.num_blocks[b]; ++k) {
      const std::int32_t block = branches.blocks.of(b)[k];
      if (--blocks.references[block] == 0) freed.push_back(block);
      if (blocks.references[block] < 0) throw std::logic_error("a KV block was released more often than retained");
    }
    branches.num_blocks[b] = branches.computed[b] = 0;
    if (!branches.free.live[b]) throw std::logic_error("Branches: a slot was freed twice");
    branches.free.give(b);
  }
  std::sort(freed.begin(), freed.end());
  for (const std::int32_t block : freed) blocks.free[blocks.num_free++] = block;
}

}  // namespace

Split split(const Trunks& trunks, Branches& branches, const Rollouts& rollouts, Nodes& nodes, Blocks& blocks,
            const std::vector<Stops>& stops, AnswerStream* stream, const std::int32_t* branch, std::size_t num_rows,
            const std::int64_t* row, const std::int32_t* rollout, const std::int64_t* tokens, const float* logprobs,
            std::size_t num_draws, const std::int32_t* decoding, std::size_t num_decoding) {
  // Groups in the order of rows, then tokens; within one, draws as they stand.
  auto order = counting_order(num_draws, num_rows, [&](std::size_t i) { return row[i]; });
  std::vector<Group> groups;
  groups.reserve(num_draws);
  std::vector<std::int32_t> group_of(num_draws);
  for (std::size_t begin = 0, end = 0; begin < num_draws; begin = end) {
    const std::int64_t r = row[order[begin]];
    while (end < num_draws && row[order[end]] == r) ++end;
    const auto first = order.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = order.begin() + static_cast<std::ptrdiff_t>(end);
    const auto is_before = [&](std::int32_t one, std::int32_t other) { return tokens[one] < tokens[other]; };
    if (end - begin > kFewDraws) {
      std::stable_sort(first, last, is_before);
    } else {
      for (auto i = first; i != last; ++i) std::rotate(std::upper_bound(first, i, *i, is_before), i, i + 1);
    }
    for (std::size_t i = begin; i < end; ++i) {
      const std::int64_t token = tokens[order[i]];
      if (i == begin || token != groups.back().token) {
        const std::int32_t parent = branch[r];
        groups.push_back({static_cast<std::int32_t>(r), parent, branches.trunk[parent], token, i, i});
      }
      ++groups.back().end;
      group_of[static_cast<std::size_t>(order[i])] = static_cast<std::int32_t>(groups.size()) - 1;
    }
  }

  // Why a group ends at once, if it does; a node for every group that drew a token.
  for (Group& group : groups) {
    group.state = branches.stop_state[group.parent];
    group.reason = stops[static_cast<std::size_t>(trunks.rules[group.trunk])].read(group.token, group.state);
    if (group.token < 0) continue;
    group.node = nodes.free.take();
    nodes.parent[group.node] = branches.node[group.parent];
    nodes.token[group.node] = static_cast<std::int32_t>(group.token);
    nodes.logprob[group.node] = logprobs[order[group.begin]];
    nodes.owner[group.node] = trunks.job[group.trunk];
  }
  Split out;
  const auto finish = [&](std::int32_t r, Reason reason) {
    rollouts.reason[r] = reason;
    rollouts.branch[r] = kNoBranch;
    --trunks.pending[rollouts.trunk[r]];
    out.ended.push_back(r);
  };
  for (std::size_t i = 0; i < num_draws; ++i) {
    const Group& group = groups[static_cast<std::size_t>(group_of[i])];
    const std::int32_t r = rollout[i];
    if (group.token >= 0) {
      rollouts.node[r] = group.node;
      ++rollouts.length[r];
    }
    if (group.reason != kUnfinished) finish(r, group.reason);
  }

  // The first living group of a branch keeps it; the others fork it: full blocks shared, the partial last one copied.
  std::vector<bool> is_kept(num_rows, false);
  std::vector<std::size_t> forks;
  std::int64_t num_partial = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    Group& group = groups[g];
    if (group.reason != kUnfinished) continue;
    const std::size_t r = static_cast<std::size_t>(group.row);
    if (is_kept[r]) {
      forks.push_back(g);
      num_partial += branches.computed[group.parent] % blocks.block_size > 0;
    } else {
      is_kept[r] = true;
      group.slot = group.parent;
    }
  }
  // Children for whose copy no block is free start without keys and values: the last ones.
  std::int64_t num_copies = std::min(num_partial, blocks.num_free);
  for (const std::size_t g : forks) {
    Group& group = groups[g];
    const std::int32_t parent = group.parent, child = group.slot = branches.free.take();
    branches.trunk[child] = branches.trunk[parent];
    branches.order[child] = branches.order[parent];
    branches.prefix_len[child] = branches.prefix_len[parent];
    branches.high_water[child] = branches.high_water[parent];
    branches.computed[child] = branches.num_blocks[child] = 0;
    if (stream != nullptr && trunks.answer_spec[group.trunk] >= 0) stream->fork(&parent, &child, 1);
    const std::int32_t computed = branches.computed[parent], full = computed / blocks.block_size;
    const bool is_partial = computed % blocks.block_size > 0;
    if (is_partial && num_copies-- <= 0) continue;
    std::int32_t *from = branches.blocks.of(parent), *to = branches.blocks.of(child);
    for (std::int32_t k = 0; k < full; ++k) ++blocks.references[to[k] = from[k]];
    if (is_partial) {
      to[full] = blocks.take();
      out.src.push_back(from[full]);
      out.dst.push_back(to[full]);
    }
    branches.num_blocks[child] = full + is_partial;
    branches.computed[child] = computed;
  }

  // Rollouts go on with their groups' branches, unless their answer is decided or their limit reached.
  std::vector<std::int32_t> unused;
  for (Group& group : groups) {
    if (group.slot < 0) continue;
    const std::int32_t b = group.slot, token = static_cast<std::int32_t>(group.token);
    branches.node[b] = group.node;
    branches.token[b] = token;
    branches.stop_state[b] = group.state;
    if (stream != nullptr && trunks.answer_spec[group.trunk] >= 0) stream->feed(&b, &token, 1, &group.is_decided);
  }
  // Children first: a parent's length is what it was until all have read it.
  for (const std::size_t g : forks) branches.length[groups[g].slot] = branches.length[groups[g].parent] + 1;
  for (const Group& group : groups)
    if (group.slot == group.parent) ++branches.length[group.slot];
  std::vector<bool> is_used(groups.size(), false);
  for (std::size_t i = 0; i < num_draws; ++i) {
    const std::size_t g = static_cast<std::size_t>(group_of[i]);
    const Group& group = groups[g];
    if (group.slot < 0) continue;
    const std::int32_t r = rollout[i];
    if (group.is_decided) {
      finish(r, kAnswer);
    } else if (rollouts.length[r] >= rollouts.limit[r]) {
      finish(r, kLength);
    } else {
      rollouts.branch[r] = group.slot;
      is_used[g] = true;
    }
  }
  for (std::size_t g = 0; g < groups.size(); ++g)
    if (groups[g].slot >= 0 && !is_used[g]) unused.push_back(groups[g].slot);
  end_branches(unused, branches, blocks);
  std::vector<std::int32_t> left;
  for (std::size_t r = 0; r < num_rows; ++r)
    if (!is_kept[r]) left.push_back(branch[r]);
  std::sort(left.begin(), left.end());
  end_branches(left, branches, blocks);
  // `rollout` is in the order of `decoding`.
  out.decoding.resize(num_decoding);
  std::size_t kept = 0, drew = 0;
  for (std::size_t i = 0; i < num_decoding; ++i) {
    out.decoding[kept] = decoding[i];
    const bool draws = drew < num_draws && rollout[drew] == decoding[i];
    drew += draws;
    kept += !draws || rollouts.branch[decoding[i]] != kNoBranch;
  }
  out.decoding.resize(kept);
  return out;
}

}  // namespace fastsia
