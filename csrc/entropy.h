// Entropies of empirical answer distributions, in nats.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsia {

// Where the results of `summarize` go: one entry a group, except where a pointer says otherwise.
struct AnswerSummary {
  std::int64_t* count;
  double* entropy;
  double* entropy_miller_madow;
  double* entropy_chao_shen;
  double* gold_surprisal;
  std::int64_t* gold_count;
  std::int64_t* null_count;
  std::int32_t* mode;
  std::int64_t* num_distinct;
};

// Summarizes the groups codes[offsets[g]:offsets[g + 1]] of interned answers (-1 = no answer).
//
// gold[g] is the gold answer's code (-2 = none of the codes), num_answers[g] the V of the additive smoothing
// (c + alpha) / (N + alpha V). An empty group has NaN entropies, mode -1 and, like every other, the smoothed surprisal.
// The caller has checked that offsets rise and stay inside codes.
void summarize(const std::int32_t* codes, const std::int64_t* offsets, std::size_t num_groups, const std::int32_t* gold,
               const std::int32_t* num_answers, double alpha, const AnswerSummary& out);

}  // namespace fastsia
