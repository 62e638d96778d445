// Drawing tokens on a CPU: temperature, exact top-p nucleus, counter-based draws. See ops/reference.py for the
// contract.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bfloat16.h"

namespace fastsia {

// T is float or BFloat16.
template <typename T>
struct SampleInput {
  const T* logits;  // [num_rows, vocab]
  std::size_t num_rows, vocab;
  const std::int64_t* draw_row;  // [num_draws], in any order
  const std::int64_t* seeds;     // [num_draws]
  const std::int32_t* counters;  // [num_draws, 4]
  std::size_t num_draws;
  const float* temperature;  // [num_rows]
  const float* top_p;        // [num_rows]
};

struct SampleOutput {
  std::int64_t* tokens;  // [num_draws], -1 on a bad row
  float* logprobs;       // [num_draws], nats
  float* entropy;        // [num_rows], nats, or null: not wanted
  bool* bad;             // [num_rows]
};

// Philox4x32-10: 53 bits of the first two words as a number in [0, 1).
double uniform(std::int64_t seed, const std::int32_t counter[4]);

// The caller has checked that draw_row is in [0, num_rows).
template <typename T>
void sample(const SampleInput<T>& in, int num_threads, const SampleOutput& out);

}  // namespace fastsia
