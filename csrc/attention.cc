#include "attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "exp.h"
#include "parallel.h"

namespace fastsia {
namespace {

constexpr std::size_t kLanes = 16;

// Partial sums in lanes of their own, so that the compiler may use vectors without being allowed to reorder anything.
FASTSIA_INLINE float dot(const float* a, const float* b, std::size_t n) {
  float lanes[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  float sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (std::size_t width = kLanes / 2; width > 0; width /= 2)
    for (std::size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return sum + lanes[0];
}

// A run of a row's keys that lie one after another in the cache: token `first` of a block, `count` of them.
struct Run {
  std::size_t block, first, count;
};

// The runs of tokens [begin, end) of a block table, appended to `runs`.
void append_runs(const std::int32_t* table, std::int64_t begin, std::int64_t end, std::size_t block_size,
                 std::vector<Run>* runs) {
  const auto size = static_cast<std::int64_t>(block_size);
  for (std::int64_t at = begin; at < end;) {
    const std::int64_t until = std::min(end, (at / size + 1) * size);
    runs->push_back({static_cast<std::size_t>(table[at / size]), static_cast<std::size_t>(at % size),
                     static_cast<std::size_t>(until - at)});
    at = until;
  }
}

struct Scratch {
  std::vector<Run> runs;
  std::vector<float> scores;  // [group, keys]
};

// One row's heads of one key-value head. kDim is the head size where it is a common one (so that a head's sums stay in
// registers), else 0.
template <std::size_t kDim>
FASTSIA_INLINE void attend_as(const AttentionInput& in, const std::vector<Run>& runs, std::size_t num_keys,
                              const float* q, std::size_t kv_head, float* scores, float* out) {
  const std::size_t dim = kDim ? kDim : in.head_dim;
  const std::size_t stride = in.num_kv_heads * dim, group = in.num_heads / in.num_kv_heads;
  std::size_t key = 0;
  for (const Run& run : runs) {
    const float* k = in.k_cache + (run.block * in.block_size + run.first) * stride + kv_head * dim;
    for (std::size_t i = 0; i < run.count; ++i, ++key, k += stride)
      for (std::size_t head = 0; head < group; ++head)
        scores[head * num_keys + key] = dot(q + head * dim, k, dim) * in.scale;
  }
  for (std::size_t head = 0; head < group; ++head) {
    float* row = scores + head * num_keys;
    if (in.softcap > 0)
      for (std::size_t i = 0; i < num_keys; ++i) row[i] = std::tanh(row[i] / in.softcap) * in.softcap;
    float top = row[0];
    bool bad = false;
    for (std::size_t i = 0; i < num_keys; ++i) {
      top = std::max(top, row[i]);
      bad |= !(row[i] - row[i] == 0);
    }
    float* to = out + head * dim;
    if (bad) {  // NaN or infinite scores stay visible: the row fails downstream instead of being drawn from
      std::fill(to, to + dim, std::nanf(""));
      std::fill(row, row + num_keys, 0.0f);
      continue;
    }
    for (std::size_t i = 0; i < num_keys; ++i) row[i] = exp_nonpositive(row[i] - top);
    float lanes[kLanes] = {};
    std::size_t i = 0;
    for (; i + kLanes <= num_keys; i += kLanes)
      for (std::size_t j = 0; j < kLanes; ++j) lanes[j] += row[i + j];
    double total = 0;
    for (std::size_t j = 0; j < kLanes; ++j) total += lanes[j];
    for (; i < num_keys; ++i) total += row[i];
    const float norm = static_cast<float>(1.0 / total);
    for (std::size_t j = 0; j < num_keys; ++j) row[j] *= norm;
    std::fill(to, to + dim, 0.0f);
  }
  for (std::size_t head = 0; head < group; ++head) {
    const float* weight = scores + head * num_keys;
    float* to = out + head * dim;
    float sums[kDim ? kDim : kMaxHeadDim];
    for (std::size_t d = 0; d < dim; ++d) sums[d] = 0;
    for (const Run& run : runs) {
      const float* v = in.v_cache + (run.block * in.block_size + run.first) * stride + kv_head * dim;
      for (std::size_t i = 0; i < run.count; ++i, v += stride) {
        const float w = *weight++;
        for (std::size_t d = 0; d < dim; ++d) sums[d] += w * v[d];
      }
    }
    for (std::size_t d = 0; d < dim; ++d) to[d] += sums[d];
  }
}

FASTSIA_WIDE void attend(const AttentionInput& in, const std::vector<Run>& runs, std::size_t num_keys, const float* q,
                         std::size_t kv_head, float* scores, float* out) {
  switch (in.head_dim) {
    case 32:
      return attend_as<32>(in, runs, num_keys, q, kv_head, scores, out);
    case 64:
      return attend_as<64>(in, runs, num_keys, q, kv_head, scores, out);
    case 128:
      return attend_as<128>(in, runs, num_keys, q, kv_head, scores, out);
    default:
      return attend_as<0>(in, runs, num_keys, q, kv_head, scores, out);
  }
}

void attend_rows(const AttentionInput& in, std::size_t begin, std::size_t end, float* out) {
  Scratch scratch;
  const std::size_t dim = in.head_dim, group = in.num_heads / in.num_kv_heads;
  auto trunk = static_cast<std::size_t>(
      std::upper_bound(in.cu_rows, in.cu_rows + in.num_trunks + 1, static_cast<std::int32_t>(begin)) - in.cu_rows - 1);
  for (std::size_t row = begin; row < end; ++row) {
    while (row >= static_cast<std::size_t>(in.cu_rows[trunk + 1])) ++trunk;
    const std::int64_t prefix = in.prefix_lens[row], suffix = in.suffix_lens[row];
    const std::int64_t oldest =
        in.sliding_window > 0 ? std::max<std::int64_t>(prefix + suffix - in.sliding_window, 0) : 0;
    scratch.runs.clear();
    append_runs(in.trunk_tables + trunk * in.trunk_width, std::min(oldest, prefix), prefix, in.block_size,
                &scratch.runs);
    append_runs(in.suffix_tables + row * in.suffix_width, std::max<std::int64_t>(oldest - prefix, 0), suffix,
                in.block_size, &scratch.runs);
    std::size_t num_keys = 0;
    for (const Run& run : scratch.runs) num_keys += run.count;
    float* to = out + row * in.num_heads * dim;
    if (num_keys == 0) {
      std::fill(to, to + in.num_heads * dim, 0.0f);
      continue;
    }
    scratch.scores.resize(std::max(scratch.scores.size(), group * num_keys));
    for (std::size_t kv_head = 0; kv_head < in.num_kv_heads; ++kv_head)
      attend(in, scratch.runs, num_keys, in.q + (row * in.num_heads + kv_head * group) * dim, kv_head,
             scratch.scores.data(), to + kv_head * group * dim);
  }
}

}  // namespace

bool reaches_only_blocks(const AttentionInput& in, std::size_t num_blocks) {
  const auto blocks = static_cast<std::int32_t>(num_blocks);
  const auto names_blocks = [&](const std::int32_t* table, std::size_t width, std::int32_t length) {
    if (length < 0) return false;
    const std::size_t used = (static_cast<std::size_t>(length) + in.block_size - 1) / in.block_size;
    return used <= width && std::all_of(table, table + used, [&](std::int32_t b) { return b >= 0 && b < blocks; });
  };
  if (in.cu_rows[0] != 0 || static_cast<std::size_t>(in.cu_rows[in.num_trunks]) != in.num_rows) return false;
  for (std::size_t trunk = 0; trunk < in.num_trunks; ++trunk) {
    if (in.cu_rows[trunk] > in.cu_rows[trunk + 1]) return false;
    std::int32_t longest = 0;
    for (std::int32_t row = in.cu_rows[trunk]; row < in.cu_rows[trunk + 1]; ++row) {
      if (in.prefix_lens[row] < 0) return false;
      longest = std::max(longest, in.prefix_lens[row]);
      if (!names_blocks(in.suffix_tables + static_cast<std::size_t>(row) * in.suffix_width, in.suffix_width,
                        in.suffix_lens[row]))
        return false;
    }
    if (!names_blocks(in.trunk_tables + trunk * in.trunk_width, in.trunk_width, longest)) return false;
  }
  return true;
}

void prefix_attention(const AttentionInput& in, int num_threads, float* out) {
  std::size_t keys = 0;
  for (std::size_t row = 0; row < in.num_rows; ++row)
    keys += static_cast<std::size_t>(in.prefix_lens[row]) + static_cast<std::size_t>(in.suffix_lens[row]);
  // Starting a thread costs as much as some hundred thousand products.
  const bool is_small = keys * in.num_heads * in.head_dim < (std::size_t{1} << 20);
  parallel_for(in.num_rows, is_small || num_threads < 1 ? 1 : static_cast<std::size_t>(num_threads),
               [&](std::size_t begin, std::size_t end) { attend_rows(in, begin, end, out); });
}

}  // namespace fastsia
