// The host's part of a decode step over the engine's tables: fastsia/engine/bookkeeping.py, in one pass a question.
// Every function gives what its namesake there gives, in the same order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "stream.h"

namespace fastsia {

constexpr std::int32_t kNoNode = -1;
constexpr std::int32_t kFinished = -1;
// FinishReason in fastsia/engine/sequence.py.
enum Reason : std::int8_t { kEos = 0, kStop = 1, kLength = 2, kAnswer = 3, kError = 4, kGoesOn = -1 };

// A two-dimensional column.
template <typename T>
struct Wide {
  T* data;
  std::size_t width;
  T* of(std::int64_t row) const { return data + static_cast<std::size_t>(row) * width; }
};
using Lists = Wide<std::int32_t>;

// Rows of a table (fastsia/engine/table.py) that nobody has, the next one last.
struct FreeRows {
  bool* live;
  std::int32_t* rows;
  std::int64_t count;

  std::int32_t take() {
    const std::int32_t row = rows[--count];
    live[row] = true;
    return row;
  }
  void give(std::int32_t row) {
    live[row] = false;
    rows[count++] = row;
  }
};

struct Trunks {
  std::size_t capacity;
  const bool* live;
  const std::int32_t* job;
  const std::int64_t* order;
  const std::int32_t* prompt_len;
  std::int32_t* length;
  const std::int32_t* max_length;
  std::int32_t* computed;
  std::int32_t* high_water;
  const bool* fixed;
  const bool* passed;
  std::int32_t* num_blocks;
  std::int32_t* pending;
  const std::int64_t* seed;
  const std::int32_t* domain;
  const std::int32_t* num_hidden;
  const std::int32_t* answer_spec;
  const float* temperature;
  const float* top_p;
  const std::int32_t* rules;
  std::int32_t* stop_state;
  Lists tokens;
  Lists blocks;
  Wide<float> logprobs;
  Wide<float> entropies;
};

struct Branches {
  std::size_t capacity;
  FreeRows free;
  std::int32_t* trunk;
  std::int64_t* order;
  std::int32_t* prefix_len;
  std::int32_t* length;
  std::int32_t* computed;
  std::int32_t* high_water;
  std::int32_t* node;
  std::int32_t* token;
  std::int32_t* num_blocks;
  std::int32_t* stop_state;
  Lists blocks;
};

struct Rollouts {
  const std::int32_t* trunk;
  const std::int32_t* checkpoint;
  const std::int32_t* index;
  std::int32_t* length;
  const std::int32_t* limit;
  std::int32_t* node;
  std::int32_t* branch;
  std::int8_t* reason;
};

struct Nodes {
  FreeRows free;
  std::int32_t* parent;
  std::int32_t* token;
  float* logprob;
  std::int32_t* owner;
};

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

  // What a drawn token ends, and the automaton's state after it. A token below 0 is none: the logits were bad.
  Reason read(std::int64_t token, std::int32_t& state) const;
};

struct Selected {
  std::vector<std::int32_t> rows, counts;
};

// What a step computes. Where short_row is not -1 nothing was selected: that row, of a trunk or of a branch, needs
// short_blocks more than are free.
struct Selection {
  Selected trunks, branches;
  std::int64_t short_row = -1;
  bool short_is_trunk = false;
  std::int64_t short_blocks = 0;
  std::int64_t trunk_width = 0, branch_width = 0;  // blocks of the longest row of each kind
};

// The next rows, without their blocks: `give_blocks` follows once the tables are wide enough for them.
Selection select(const Trunks& trunks, const Branches& branches, const Blocks& blocks, std::int64_t max_num_seqs,
                 std::int64_t max_num_batched_tokens);
void give_blocks(const Selection& selection, const Trunks& trunks, const Branches& branches, Blocks& blocks);

// A Batch's arrays, [num_rows] but for the tables, cu_rows and the last rows.
struct Layout {
  std::vector<std::int64_t> token_ids, positions, slots, trunk_last, branch_last, hidden_rows, hidden_trunk,
      hidden_position;
  std::vector<std::int32_t> trunk_tables, cu_rows, prefix_lens, suffix_tables, suffix_lens;
  std::int32_t max_prefix_len = 0, max_suffix_len = 0, max_rows = 0;
};

struct Chosen {
  const std::int32_t* rows;
  const std::int32_t* counts;
  std::size_t size;
};

Layout lay_out(const Trunks& trunks, const Branches& branches, const Nodes& nodes, std::int32_t block_size,
               const Chosen& of_trunks, const Chosen& of_branches);

struct RowCounts {
  std::int64_t computed_tokens = 0, trajectory_tokens = 0, prefill_tokens = 0, recomputed_tokens = 0;
};

RowCounts mark_computed(const Trunks& trunks, const Branches& branches, const Chosen& of_trunks,
                        const Chosen& of_branches);

struct Draws {
  std::vector<std::int32_t> trunk, branch, rollout, counters;
  std::vector<std::int64_t> hidden_row, row, seeds;
  std::vector<float> temperature, top_p;
};

// riding: the rollouts that are on a branch. domain: of a trajectory's own draws.
Draws draws(const Trunks& trunks, const Branches& branches, const Rollouts& rollouts, const std::int32_t* riding,
            std::size_t num_riding, const Chosen& of_trunks, const Chosen& of_branches, const std::int64_t* trunk_last,
            const std::int64_t* branch_last, std::int32_t domain);

// Trunks that end, and of what.
struct Ended {
  std::vector<std::int32_t> rows;
  std::vector<std::int8_t> reasons;
};

// Each generating trunk of `rows` has drawn its next token. The wide columns have room for it.
Ended append(const Trunks& trunks, const std::vector<Stops>& stops, const std::int32_t* rows,
             const std::int64_t* tokens, const float* logprobs, const float* entropies, std::size_t size);

struct Split {
  std::vector<std::int64_t> src, dst;
  std::vector<std::int32_t> ended, riding;
};

// Draw i is rollout[i]'s, from row[i] of `branch`; `rollout` stands in the order of `riding`. The tables of branches
// and of nodes have a free row for every draw. stream: null where no trunk has an answer_spec.
Split split(const Trunks& trunks, Branches& branches, const Rollouts& rollouts, Nodes& nodes, Blocks& blocks,
            const std::vector<Stops>& stops, AnswerStream* stream, const std::int32_t* branch, std::size_t num_rows,
            const std::int64_t* row, const std::int32_t* rollout, const std::int64_t* tokens, const float* logprobs,
            std::size_t num_draws, const std::int32_t* riding, std::size_t num_riding);

}  // namespace fastsia
