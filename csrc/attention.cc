#include "attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "exp.h"
#include "parallel.h"

namespace fastsia {
namespace {

constexpr std::size_t kLanes = 16;

// Blocks whose scores are made side by side: enough sums that none waits for itself.
constexpr std::size_t kBlocks = 4;

// A vector that stays one: over plain arrays compilers leave these sums in memory.
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));

// sum += q * the kLanes numbers at k.
FASTSIA_INLINE void add(Lanes& sum, float q, const float* k) { sum += q * *reinterpret_cast<const Lanes*>(k); }
FASTSIA_INLINE void add(Lanes& sum, float q, const BFloat16* k) {
  typedef std::uint16_t Halves __attribute__((vector_size(kLanes * sizeof(std::uint16_t)), aligned(2), may_alias));
  typedef std::uint32_t Wholes __attribute__((vector_size(kLanes * sizeof(std::uint32_t))));
  const Wholes bits = __builtin_convertvector(*reinterpret_cast<const Halves*>(k), Wholes) << 16;
  sum += q * reinterpret_cast<const Lanes&>(bits);
}
FASTSIA_INLINE void store(float* at, const Lanes& x) { *reinterpret_cast<Lanes*>(at) = x; }

// A run of a row's keys within one block: token `first` of it and the next `count`.
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

// scores[i] = q . (key i) * scale over the keys of the runs. A block's keys are stored dimension by dimension, so the
// sums of all its keys run side by side; those of keys outside the run are made and dropped.
template <std::size_t kDim, typename T>
FASTSIA_INLINE void score(const AttentionInput<T>& in, const std::vector<Run>& runs, std::size_t kv_head,
                          const float* q, float* scores) {
  const std::size_t dim = kDim ? kDim : in.head_dim, block_size = in.block_size;
  const auto keys = [&](const Run& run) {
    return in.k_cache + (run.block * in.num_kv_heads + kv_head) * dim * block_size;
  };
  if (block_size != kLanes) {
    for (const Run& run : runs) {
      const T* k = keys(run) + run.first;
      for (std::size_t i = 0; i < run.count; ++i) scores[i] = 0;
      for (std::size_t d = 0; d < dim; ++d)
        for (std::size_t i = 0; i < run.count; ++i) scores[i] += q[d] * to_float(k[d * block_size + i]);
      for (std::size_t i = 0; i < run.count; ++i) scores[i] *= in.scale;
      scores += run.count;
    }
    return;
  }
  for (std::size_t r = 0; r < runs.size(); r += kBlocks) {
    const std::size_t count = std::min(kBlocks, runs.size() - r);
    const auto block = [&](std::size_t b) { return keys(runs[r + std::min(b, count - 1)]); };
    const T* k[kBlocks] = {block(0), block(1), block(2), block(3)};
    Lanes s0{}, s1{}, s2{}, s3{};
    for (std::size_t d = 0; d < dim; ++d) {
      const std::size_t at = d * kLanes;
      add(s0, q[d], k[0] + at), add(s1, q[d], k[1] + at), add(s2, q[d], k[2] + at), add(s3, q[d], k[3] + at);
    }
    float sums[kBlocks][kLanes];
    store(sums[0], s0), store(sums[1], s1), store(sums[2], s2), store(sums[3], s3);
    for (std::size_t b = 0; b < count; ++b) {
      const Run& run = runs[r + b];
      for (std::size_t i = 0; i < run.count; ++i) scores[i] = sums[b][run.first + i] * in.scale;
      scores += run.count;
    }
  }
}

// Scores become weights, e^(score - largest score). Gives 1 / their sum; NaN where a score is NaN or infinite, so
// that the row fails downstream instead of being drawn from. Asked before the cap, which would hide an infinite score.
FASTSIA_INLINE float soften(float* scores, std::size_t num_keys, float softcap) {
  std::int32_t bad = 0;
  for (std::size_t i = 0; i < num_keys; ++i) bad |= !(scores[i] - scores[i] == 0);
  if (bad) return std::nanf("");
  if (softcap > 0)
    for (std::size_t i = 0; i < num_keys; ++i) scores[i] = std::tanh(scores[i] / softcap) * softcap;
  // Whole vectors to the end: there is room, and the added scores weigh nothing.
  const std::size_t padded = (num_keys + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + num_keys, scores + padded, std::numeric_limits<float>::lowest());
  float tops[kLanes], sums[kLanes] = {};
  std::copy(scores, scores + kLanes, tops);
  for (std::size_t i = kLanes; i < padded; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) tops[j] = tops[j] < scores[i + j] ? scores[i + j] : tops[j];
  const float top = *std::max_element(tops, tops + kLanes);
  for (std::size_t i = 0; i < padded; ++i) scores[i] = exp_nonpositive(scores[i] - top);
  for (std::size_t i = 0; i < padded; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) sums[j] += scores[i + j];
  double total = 0;
  for (std::size_t j = 0; j < kLanes; ++j) total += sums[j];
  return static_cast<float>(1.0 / total);
}

// out[h] = norms[h] * sum over keys of weights[h] * value, for kHeads heads that share their values.
template <std::size_t kDim, std::size_t kHeads, typename T>
FASTSIA_INLINE void add_values(const AttentionInput<T>& in, const std::vector<Run>& runs, std::size_t kv_head,
                               const float* weights, std::size_t capacity, const float* norms, T* out) {
  const std::size_t dim = kDim ? kDim : in.head_dim;
  float sums[kHeads][kDim ? kDim : kMaxHeadDim];
  for (std::size_t h = 0; h < kHeads; ++h) std::fill(sums[h], sums[h] + dim, 0.0f);
  for (const Run& run : runs) {
    const T* v = in.v_cache + ((run.block * in.num_kv_heads + kv_head) * in.block_size + run.first) * dim;
    for (std::size_t i = 0; i < run.count; ++i, v += dim, ++weights)
      for (std::size_t h = 0; h < kHeads; ++h) {
        const float w = weights[h * capacity];
        for (std::size_t d = 0; d < dim; ++d) sums[h][d] += w * to_float(v[d]);
      }
  }
  for (std::size_t h = 0; h < kHeads; ++h)
    for (std::size_t d = 0; d < dim; ++d) out[h * dim + d] = round_to<T>(sums[h][d] * norms[h]);
}

// One row's heads of one key-value head. kDim is the head size where it is a common one (so that a head's sums stay in
// registers), else 0. q, out: [group, head_dim], scores: [group, capacity], norms: [group].
template <std::size_t kDim, typename T>
FASTSIA_INLINE void attend_as(const AttentionInput<T>& in, const std::vector<Run>& runs, std::size_t num_keys,
                              std::size_t kv_head, const float* q, float* scores, std::size_t capacity, float* norms,
                              T* out) {
  const std::size_t dim = kDim ? kDim : in.head_dim, group = in.num_heads / in.num_kv_heads;
  for (std::size_t head = 0; head < group; ++head) {
    score<kDim>(in, runs, kv_head, q + head * dim, scores + head * capacity);
    norms[head] = soften(scores + head * capacity, num_keys, in.softcap);
  }
  constexpr std::size_t kPair = kDim == 32 || kDim == 64 ? 2 : 1;  // heads whose sums fit into the registers
  std::size_t head = 0;
  for (; head + kPair <= group; head += kPair)
    add_values<kDim, kPair>(in, runs, kv_head, scores + head * capacity, capacity, norms + head, out + head * dim);
  for (; head < group; ++head)
    add_values<kDim, 1>(in, runs, kv_head, scores + head * capacity, capacity, norms + head, out + head * dim);
}

template <typename T>
FASTSIA_INLINE void attend_any(const AttentionInput<T>& in, const std::vector<Run>& runs, std::size_t num_keys,
                               std::size_t kv_head, const float* q, float* scores, std::size_t capacity, float* norms,
                               T* out) {
  switch (in.head_dim) {
    case 32:
      return attend_as<32>(in, runs, num_keys, kv_head, q, scores, capacity, norms, out);
    case 64:
      return attend_as<64>(in, runs, num_keys, kv_head, q, scores, capacity, norms, out);
    case 128:
      return attend_as<128>(in, runs, num_keys, kv_head, q, scores, capacity, norms, out);
    default:
      return attend_as<0>(in, runs, num_keys, kv_head, q, scores, capacity, norms, out);
  }
}

FASTSIA_WIDE void attend(const AttentionInput<float>& in, const std::vector<Run>& runs, std::size_t num_keys,
                         std::size_t kv_head, const float* q, float* scores, std::size_t capacity, float* norms,
                         float* out) {
  attend_any(in, runs, num_keys, kv_head, q, scores, capacity, norms, out);
}

FASTSIA_WIDE void attend(const AttentionInput<BFloat16>& in, const std::vector<Run>& runs, std::size_t num_keys,
                         std::size_t kv_head, const float* q, float* scores, std::size_t capacity, float* norms,
                         BFloat16* out) {
  attend_any(in, runs, num_keys, kv_head, q, scores, capacity, norms, out);
}

template <typename T>
void attend_rows(const AttentionInput<T>& in, std::size_t begin, std::size_t end, T* out) {
  const std::size_t dim = in.head_dim, group = in.num_heads / in.num_kv_heads;
  std::vector<Run> runs;
  std::vector<float> scores, norms(group), q(in.num_heads * dim);
  auto shared = static_cast<std::size_t>(
      std::upper_bound(in.cu_rows, in.cu_rows + in.num_prefixes + 1, static_cast<std::int32_t>(begin)) - in.cu_rows -
      1);
  for (std::size_t row = begin; row < end; ++row) {
    while (row >= static_cast<std::size_t>(in.cu_rows[shared + 1])) ++shared;
    const std::int64_t prefix = in.prefix_lens[row], suffix = in.suffix_lens[row];
    const std::int64_t oldest =
        in.sliding_window > 0 ? std::max<std::int64_t>(prefix + suffix - in.sliding_window, 0) : 0;
    runs.clear();
    append_runs(in.prefix_tables + shared * in.prefix_width, std::min(oldest, prefix), prefix, in.block_size, &runs);
    append_runs(in.suffix_tables + row * in.suffix_width, std::max<std::int64_t>(oldest - prefix, 0), suffix,
                in.block_size, &runs);
    std::size_t num_keys = 0;
    for (const Run& run : runs) num_keys += run.count;
    T* to = out + row * in.num_heads * dim;
    if (num_keys == 0) {
      std::fill(to, to + in.num_heads * dim, T{});
      continue;
    }
    const std::size_t capacity = num_keys + kLanes;
    if (scores.size() < group * capacity) scores.resize(group * capacity);
    for (std::size_t head = 0; head < in.num_heads; ++head)
      for (std::size_t d = 0; d < dim; ++d)
        q[head * dim + d] = to_float(in.q[row * in.q_row_stride + head * in.q_head_stride + d]);
    for (std::size_t kv_head = 0; kv_head < in.num_kv_heads; ++kv_head)
      attend(in, runs, num_keys, kv_head, q.data() + kv_head * group * dim, scores.data(), capacity, norms.data(),
             to + kv_head * group * dim);
  }
}

}  // namespace

template <typename T>
bool reaches_only_blocks(const AttentionInput<T>& in, std::size_t num_blocks) {
  const auto blocks = static_cast<std::int32_t>(num_blocks);
  const auto names_blocks = [&](const std::int32_t* table, std::size_t width, std::int32_t length) {
    if (length < 0) return false;
    const std::size_t used = (static_cast<std::size_t>(length) + in.block_size - 1) / in.block_size;
    return used <= width && std::all_of(table, table + used, [&](std::int32_t b) { return b >= 0 && b < blocks; });
  };
  if (in.cu_rows[0] != 0 || static_cast<std::size_t>(in.cu_rows[in.num_prefixes]) != in.num_rows) return false;
  for (std::size_t shared = 0; shared < in.num_prefixes; ++shared) {
    if (in.cu_rows[shared] > in.cu_rows[shared + 1]) return false;
    std::int32_t longest = 0;
    for (std::int32_t row = in.cu_rows[shared]; row < in.cu_rows[shared + 1]; ++row) {
      if (in.prefix_lens[row] < 0) return false;
      longest = std::max(longest, in.prefix_lens[row]);
      if (!names_blocks(in.suffix_tables + static_cast<std::size_t>(row) * in.suffix_width, in.suffix_width,
                        in.suffix_lens[row]))
        return false;
    }
    if (!names_blocks(in.prefix_tables + shared * in.prefix_width, in.prefix_width, longest)) return false;
  }
  return true;
}

template <typename T>
void prefix_attention(const AttentionInput<T>& in, int num_threads, T* out) {
  std::size_t keys = 0;
  for (std::size_t row = 0; row < in.num_rows; ++row)
    keys += static_cast<std::size_t>(in.prefix_lens[row]) + static_cast<std::size_t>(in.suffix_lens[row]);
  // Starting a thread costs as much as some hundred thousand products.
  const bool is_small = keys * in.num_heads * in.head_dim < (std::size_t{1} << 20);
  parallel_for(in.num_rows, is_small || num_threads < 1 ? 1 : static_cast<std::size_t>(num_threads),
               [&](std::size_t begin, std::size_t end) { attend_rows(in, begin, end, out); });
}

template <typename T>
void store_kv(const StoreInput<T>& in, T* k_cache, T* v_cache) {
  const std::size_t dim = in.head_dim, heads = in.num_kv_heads, size = in.block_size;
  for (std::size_t row = 0; row < in.num_rows; ++row) {
    if (in.slots[row] < 0) continue;
    const auto slot = static_cast<std::size_t>(in.slots[row]);
    for (std::size_t head = 0; head < heads; ++head) {
      const T* k = in.k + row * in.k_row_stride + head * in.k_head_stride;
      const T* v = in.v + row * in.v_row_stride + head * in.v_head_stride;
      const std::size_t begin = (slot / size * heads + head) * dim * size;
      for (std::size_t d = 0; d < dim; ++d) k_cache[begin + d * size + slot % size] = k[d];
      std::copy(v, v + dim, v_cache + begin + slot % size * dim);
    }
  }
}

template bool reaches_only_blocks(const AttentionInput<float>&, std::size_t);
template bool reaches_only_blocks(const AttentionInput<BFloat16>&, std::size_t);
template void prefix_attention(const AttentionInput<float>&, int, float*);
template void prefix_attention(const AttentionInput<BFloat16>&, int, BFloat16*);
template void store_kv(const StoreInput<float>&, float*, float*);
template void store_kv(const StoreInput<BFloat16>&, BFloat16*, BFloat16*);

}  // namespace fastsia
