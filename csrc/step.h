// The host's part of a step over the engine's tables: the Bookkeeping of fastsia/engine/step.py, each function one pass
// over the tables.
// `lay_out` is `batch` there. Every other function returns what its namesake does, in the same order, but `select`,
// which leaves the blocks to `give_blocks`, and `split`, which returns the new `decoding` as well.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "stream.h"

namespace fastsia {

constexpr std::int32_t kNoNode = -1;
constexpr std::int32_t kNoBranch = -1;
// FinishReason in fastsia/engine/sequence.py.
enum Reason : std::int8_t { kEos = 0, kStop = 1, kLength = 2, kAnswer = 3, kError = 4, kUnfinished = -1 };

template <typename T>
struct Array2D {
  T* data;
  std::size_t width;
  T* of(std::int64_t row) const { return data + static_cast<std::size_t>(row) * width; }
};

// Slots of a table that are not in use (`Table` in fastsia/engine/tables.py), the next one to take last.
struct FreeSlots {
  bool* live;
  std::int32_t* slots;
  std::int64_t count;

  std::int32_t take() {
    const std::int32_t slot = slots[--count];
    live[slot] = true;
    return slot;
  }
  void give(std::int32_t slot) {
    live[slot] = false;
    slots[count++] = slot;
  }
};

// The columns of each table that the core uses, by the names and dtypes of fastsia/engine/tables.py: COLUMN(type, name)
// for one value per slot, LIST(type, name) for a row of values. The structs below and their binding to the Python
// tables (step_bindings.cc) are both made from these lists.
#define FASTSIA_TRUNK_COLUMNS(COLUMN, LIST) \
  COLUMN(const std::int32_t, job)           \
  COLUMN(const std::int64_t, order)         \
  COLUMN(const std::int32_t, origin)        \
  COLUMN(std::int32_t, length)              \
  COLUMN(const std::int32_t, max_length)    \
  COLUMN(std::int32_t, computed)            \
  COLUMN(std::int32_t, high_water)          \
  COLUMN(const bool, fixed)                 \
  COLUMN(const bool, verified)              \
  COLUMN(const bool, in_flight)             \
  COLUMN(std::int32_t, num_blocks)          \
  COLUMN(std::int32_t, pending)             \
  COLUMN(const std::int64_t, seed)          \
  COLUMN(const std::int32_t, domain)        \
  COLUMN(const std::int32_t, num_hidden)    \
  COLUMN(const std::int32_t, answer_spec)   \
  COLUMN(const float, temperature)          \
  COLUMN(const float, top_p)                \
  COLUMN(const std::int32_t, rules)         \
  COLUMN(std::int32_t, stop_state)          \
  LIST(std::int32_t, tokens)                \
  LIST(std::int32_t, blocks)                \
  LIST(float, logprobs)                     \
  LIST(float, entropies)

#define FASTSIA_BRANCH_COLUMNS(COLUMN, LIST) \
  COLUMN(std::int32_t, trunk)                \
  COLUMN(std::int64_t, order)                \
  COLUMN(std::int32_t, prefix_len)           \
  COLUMN(std::int32_t, length)               \
  COLUMN(std::int32_t, computed)             \
  COLUMN(std::int32_t, high_water)           \
  COLUMN(const bool, in_flight)              \
  COLUMN(std::int32_t, node)                 \
  COLUMN(std::int32_t, token)                \
  COLUMN(std::int32_t, num_blocks)           \
  COLUMN(std::int32_t, stop_state)           \
  LIST(std::int32_t, blocks)

#define FASTSIA_ROLLOUT_COLUMNS(COLUMN, LIST) \
  COLUMN(const std::int32_t, trunk)           \
  COLUMN(const std::int32_t, checkpoint)      \
  COLUMN(const std::int32_t, index)           \
  COLUMN(std::int32_t, length)                \
  COLUMN(const std::int32_t, limit)           \
  COLUMN(std::int32_t, node)                  \
  COLUMN(std::int32_t, branch)                \
  COLUMN(std::int8_t, reason)

#define FASTSIA_NODE_COLUMNS(COLUMN, LIST) \
  COLUMN(std::int32_t, parent)             \
  COLUMN(std::int32_t, token)              \
  COLUMN(float, logprob)                   \
  COLUMN(std::int32_t, owner)

#define FASTSIA_COLUMN_MEMBER(type, name) type* name;
#define FASTSIA_LIST_MEMBER(type, name) Array2D<type> name;
#define FASTSIA_TABLE(name, columns)                    \
  struct name {                                         \
    std::size_t capacity;                               \
    FreeSlots free;                                     \
    columns(FASTSIA_COLUMN_MEMBER, FASTSIA_LIST_MEMBER) \
  };

FASTSIA_TABLE(Trunks, FASTSIA_TRUNK_COLUMNS)
FASTSIA_TABLE(Branches, FASTSIA_BRANCH_COLUMNS)
FASTSIA_TABLE(Rollouts, FASTSIA_ROLLOUT_COLUMNS)
FASTSIA_TABLE(Nodes, FASTSIA_NODE_COLUMNS)

// BlockManager in fastsia/engine/block_manager.py.
struct Blocks {
  std::int32_t block_size;
  std::int64_t num_blocks;
  std::int32_t* references;
  std::int32_t* free;
  std::int64_t num_free;
  std::int64_t peak_used;

  std::int32_t take() {
    const std::int32_t block = free[--num_free];
    references[block] = 1;
    peak_used = std::max(peak_used, num_blocks - num_free);
    return block;
  }
};

// StopRules in fastsia/engine/stopping.py. table: [states, width], or null without stop texts.
struct Stops {
  const bool* is_eos;
  const std::int16_t* table;
  std::size_t width;
  std::int32_t matched;

  // Whether a drawn token ends its sequence; moves the automaton's state. A token below 0 means that the logits were
  // bad.
  Reason read(std::int64_t token, std::int32_t& state) const;
};

struct Selected {
  std::vector<std::int32_t> slots, counts;
};

// The tokens of a step. Where short_slot is not -1 nothing was selected: that trunk or branch needs short_blocks more
// blocks than are free.
struct Selection {
  Selected trunks, branches;
  std::int64_t short_slot = -1;
  bool short_is_trunk = false;
  std::int64_t short_blocks = 0;
  std::int64_t trunk_width = 0, branch_width = 0;  // blocks of the longest of each kind
};

// The next tokens, without their blocks: `give_blocks` follows once the tables are wide enough for them.
Selection select(const Trunks& trunks, const Branches& branches, const Blocks& blocks, std::int64_t max_num_seqs,
                 std::int64_t max_num_batched_tokens);
void give_blocks(const Selection& selection, const Trunks& trunks, const Branches& branches, Blocks& blocks);

// A Batch (fastsia/engine/step.py) of n rows, G trunks and h kept hidden states. [n]: token_ids, positions, slots,
// prefix_lens, suffix_lens; prefix_tables [G, P]; cu_rows [G + 1]; suffix_tables [n, S]; trunk_last and branch_last one
// for each selected trunk and branch; hidden_* [h]. P and S are the most blocks of a prefix and of a suffix.
struct Layout {
  std::vector<std::int64_t> token_ids, positions, slots, trunk_last, branch_last, hidden_rows, hidden_trunk,
      hidden_position;
  std::vector<std::int32_t> prefix_tables, cu_rows, prefix_lens, suffix_tables, suffix_lens;
  std::int32_t max_prefix_len = 0, max_suffix_len = 0, max_rows_per_prefix = 0;
};

// Slots of a table, and the number of tokens computed of each.
struct SlotSelection {
  const std::int32_t* slots;
  const std::int32_t* counts;
  std::size_t size;
};

Layout lay_out(const Trunks& trunks, const Branches& branches, const Nodes& nodes, std::int32_t block_size,
               const SlotSelection& of_trunks, const SlotSelection& of_branches);

struct RowCounts {
  std::int64_t computed_tokens = 0, trajectory_tokens = 0, prefill_tokens = 0, recomputed_tokens = 0;
};

RowCounts mark_computed(const Trunks& trunks, const Branches& branches, const SlotSelection& of_trunks,
                        const SlotSelection& of_branches);

struct DrawPlan {
  std::vector<std::int32_t> trunk, branch, rollout, counters;
  std::vector<std::int64_t> hidden_row, row, seeds;
  std::vector<float> temperature, top_p;
};

// decoding: the rollouts on a branch. domain: of a trajectory's own draws.
DrawPlan plan_draws(const Trunks& trunks, const Branches& branches, const Rollouts& rollouts,
                    const std::int32_t* decoding, std::size_t num_decoding, const SlotSelection& of_trunks,
                    const SlotSelection& of_branches, const std::int64_t* trunk_last, const std::int64_t* branch_last,
                    std::int32_t domain);

// Trunks that end, and why.
struct Ended {
  std::vector<std::int32_t> slots;
  std::vector<std::int8_t> reasons;
};

// Appends the drawn token of each generating trunk. The columns of lists have room for it.
Ended append(const Trunks& trunks, const std::vector<Stops>& stops, const std::int32_t* slots,
             const std::int64_t* tokens, const float* logprobs, const float* entropies, std::size_t size);

struct Split {
  std::vector<std::int64_t> src, dst;
  std::vector<std::int32_t> ended, decoding;
};

// Draw i is of rollout[i], from branch[row[i]]; `rollout` is in the order of `decoding`. The tables of branches and of
// nodes have a free slot for every draw. stream: null where no trunk has an answer_spec.
Split split(const Trunks& trunks, Branches& branches, const Rollouts& rollouts, Nodes& nodes, Blocks& blocks,
            const std::vector<Stops>& stops, AnswerStream* stream, const std::int32_t* branch, std::size_t num_rows,
            const std::int64_t* row, const std::int32_t* rollout, const std::int64_t* tokens, const float* logprobs,
            std::size_t num_draws, const std::int32_t* decoding, std::size_t num_decoding);

}  // namespace fastsia
