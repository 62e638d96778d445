#include "attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "exp.h"
#include "parallel.h"

namespace fastsia {
namespace {

constexpr std::size_t kLanes = 16;

// kWidth floats that stay one vector: over plain arrays compilers leave sums in memory.
template <std::size_t kWidth>
struct Vector;

#define FASTSIA_VECTOR(kWidth)                                                                         \
  template <>                                                                                          \
  struct Vector<kWidth> {                                                                              \
    typedef float Floats __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));              \
    typedef std::uint16_t Halves __attribute__((vector_size(2 * kWidth), aligned(2), may_alias));      \
    typedef std::uint32_t Wholes __attribute__((vector_size(4 * kWidth)));                             \
    Floats x;                                                                                          \
    FASTSIA_INLINE void load(const float* at) { x = *reinterpret_cast<const Floats*>(at); }            \
    FASTSIA_INLINE void store(float* at) const { *reinterpret_cast<Floats*>(at) = x; }                 \
    FASTSIA_INLINE void add(float q, const float* y) { x += q * *reinterpret_cast<const Floats*>(y); } \
    FASTSIA_INLINE void add(float q, const BFloat16* y) {                                              \
      const Wholes bits = __builtin_convertvector(*reinterpret_cast<const Halves*>(y), Wholes) << 16;  \
      x += q * reinterpret_cast<const Floats&>(bits);                                                  \
    }                                                                                                  \
  };
FASTSIA_VECTOR(8)
FASTSIA_VECTOR(16)
#undef FASTSIA_VECTOR

// What is computed side by side: enough vectors that no sum waits for itself, and as many as the registers hold.
// Queries that read the same keys and values share their loads and conversions.
struct ManyRegisters {  // AVX-512
  static constexpr std::size_t kWidth = 16, kVectors = 4, kQueries = 6;
};
struct FewRegisters {
  static constexpr std::size_t kWidth = 8, kVectors = 4, kQueries = 2;
};

// Queries that a group of rows has at most for a key-value head, and their scores.
constexpr std::size_t kMostQueries = 24, kMostScores = std::size_t{1} << 17;

// A run of a row's keys within one block: token `first` of it and the next `count`.
struct Run {
  std::size_t block, first, count;
};

// Runs as the functions that are compiled for one processor take them: they cannot inline a vector's.
struct Runs {
  const Run* data;
  std::size_t size;
  FASTSIA_INLINE const Run* begin() const { return data; }
  FASTSIA_INLINE const Run* end() const { return data + size; }
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

// One head of each of some rows: what is asked, its scores (its weights, later), and the sum of its values.
struct Query {
  const float* q;  // [head_dim]
  float* scores;   // from the first key of the runs that are read
  float* sums;     // [head_dim], and room for a whole vector
};

// sums[i] = query i / kVectors times the keys of vector i % kVectors, dimension by dimension.
template <typename Tile, typename T, std::size_t... i>
FASTSIA_INLINE void score_tile(const Query* queries, const T* const* keys, std::size_t dim, float* sums,
                               std::index_sequence<i...>) {
  Vector<Tile::kWidth> s[sizeof...(i)] = {};
  for (std::size_t d = 0; d < dim; ++d)
    (s[i].add(queries[i / Tile::kVectors].q[d], keys[i % Tile::kVectors] + d * kLanes), ...);
  (s[i].store(sums + i * Tile::kWidth), ...);
}

// The scores of `count` queries, at most kMost.
template <typename Tile, std::size_t kMost, typename T>
FASTSIA_INLINE void score_queries(const AttentionInput<T>& in, Runs runs, std::size_t kv_head, const Query* queries,
                                  std::size_t count) {
  if constexpr (kMost > 1)
    if (count < kMost) return score_queries<Tile, kMost - 1>(in, runs, kv_head, queries, count);
  constexpr std::size_t kParts = kLanes / Tile::kWidth, kBlocks = Tile::kVectors / kParts;
  const std::size_t dim = in.head_dim;
  std::size_t at = 0;
  for (std::size_t r = 0; r < runs.size; r += kBlocks) {
    const std::size_t left = runs.size - r, used = left < kBlocks ? left : kBlocks;
    const T* keys[Tile::kVectors];
    for (std::size_t i = 0; i < Tile::kVectors; ++i) {
      const std::size_t block = runs.data[r + (i / kParts < used ? i / kParts : used - 1)].block;
      keys[i] = in.k_cache + (block * in.num_kv_heads + kv_head) * dim * kLanes + i % kParts * Tile::kWidth;
    }
    float sums[kMost][kBlocks][kLanes];
    score_tile<Tile>(queries, keys, dim, sums[0][0], std::make_index_sequence<kMost * Tile::kVectors>{});
    for (std::size_t b = 0; b < used; ++b) {
      const Run& run = runs.data[r + b];
      for (std::size_t m = 0; m < kMost; ++m)
        for (std::size_t i = 0; i < run.count; ++i) queries[m].scores[at + i] = sums[m][b][run.first + i] * in.scale;
      at += run.count;
    }
  }
}

// Scores q . key * scale over the keys of the runs. A block's keys are stored dimension by dimension, so the sums of
// all its keys run side by side; those of keys outside the run are made and dropped.
template <typename Tile, typename T>
FASTSIA_INLINE void score(const AttentionInput<T>& in, Runs runs, std::size_t kv_head, const Query* queries,
                          std::size_t count) {
  if (in.block_size == kLanes) {
    const std::size_t parts = (count + Tile::kQueries - 1) / Tile::kQueries;
    for (std::size_t k = 0; k < parts; ++k) {
      const std::size_t first = count * k / parts, end = count * (k + 1) / parts;
      score_queries<Tile, Tile::kQueries>(in, runs, kv_head, queries + first, end - first);
    }
    return;
  }
  // Blocks of another size: their keys are copied to blocks of kLanes first.
  const std::size_t dim = in.head_dim;
  std::vector<float> keys(dim * kLanes);
  std::size_t at = 0;
  for (const Run& run : runs)
    for (std::size_t first = 0; first < run.count; first += kLanes) {
      const std::size_t used = std::min(kLanes, run.count - first);
      const T* k = in.k_cache + (run.block * in.num_kv_heads + kv_head) * dim * in.block_size + run.first + first;
      for (std::size_t d = 0; d < dim; ++d)
        for (std::size_t i = 0; i < used; ++i) keys[d * kLanes + i] = to_float(k[d * in.block_size + i]);
      for (std::size_t m = 0; m < count; ++m) {
        Vector<kLanes> sum = {};
        for (std::size_t d = 0; d < dim; ++d) sum.add(queries[m].q[d], &keys[d * kLanes]);
        float sums[kLanes];
        sum.store(sums);
        for (std::size_t i = 0; i < used; ++i) queries[m].scores[at + i] = sums[i] * in.scale;
      }
      at += used;
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

// sums += sum over keys of weight * value, in kVectors vectors of dimensions from `first` on.
template <typename Tile, std::size_t kVectors, typename T, std::size_t... i>
FASTSIA_INLINE void value_tile(const AttentionInput<T>& in, Runs runs, std::size_t kv_head, std::size_t first,
                               const Query* queries, std::index_sequence<i...>) {
  Vector<Tile::kWidth> s[sizeof...(i)];
  (s[i].load(queries[i / kVectors].sums + first + i % kVectors * Tile::kWidth), ...);
  std::size_t key = 0;
  for (const Run& run : runs) {
    const T* v =
        in.v_cache + ((run.block * in.num_kv_heads + kv_head) * in.block_size + run.first) * in.head_dim + first;
    for (const std::size_t end = key + run.count; key < end; ++key, v += in.head_dim)
      (s[i].add(queries[i / kVectors].scores[key], v + i % kVectors * Tile::kWidth), ...);
  }
  (s[i].store(queries[i / kVectors].sums + first + i % kVectors * Tile::kWidth), ...);
}

// The values of `count` queries, at most kMost.
template <typename Tile, std::size_t kMost, typename T>
FASTSIA_INLINE void add_to_queries(const AttentionInput<T>& in, Runs runs, std::size_t kv_head, const Query* queries,
                                   std::size_t count) {
  if constexpr (kMost > 1)
    if (count < kMost) return add_to_queries<Tile, kMost - 1>(in, runs, kv_head, queries, count);
  constexpr std::size_t kVectors = Tile::kVectors, kWidth = Tile::kWidth;
  std::size_t first = 0;
  for (; first + kVectors * kWidth <= in.head_dim; first += kVectors * kWidth)
    value_tile<Tile, kVectors>(in, runs, kv_head, first, queries, std::make_index_sequence<kMost * kVectors>{});
  for (; first + kWidth <= in.head_dim; first += kWidth)
    value_tile<Tile, 1>(in, runs, kv_head, first, queries, std::make_index_sequence<kMost>{});
  if (first == in.head_dim) return;
  for (std::size_t m = 0; m < kMost; ++m) {
    const float* weight = queries[m].scores;
    Vector<kWidth> sum;
    sum.load(queries[m].sums + first);
    float rest[kWidth] = {};
    for (const Run& run : runs) {
      const T* v = in.v_cache + ((run.block * in.num_kv_heads + kv_head) * in.block_size + run.first) * in.head_dim;
      for (std::size_t i = 0; i < run.count; ++i, ++weight, v += in.head_dim) {
        for (std::size_t d = first; d < in.head_dim; ++d) rest[d - first] = to_float(v[d]);
        sum.add(*weight, rest);
      }
    }
    sum.store(queries[m].sums + first);
  }
}

// sums += sum over the keys of the runs, in their order, of weight * value.
template <typename Tile, typename T>
FASTSIA_INLINE void add_values(const AttentionInput<T>& in, Runs runs, std::size_t kv_head, const Query* queries,
                               std::size_t count) {
  const std::size_t parts = (count + Tile::kQueries - 1) / Tile::kQueries;
  for (std::size_t k = 0; k < parts; ++k) {
    const std::size_t first = count * k / parts, end = count * (k + 1) / parts;
    add_to_queries<Tile, Tile::kQueries>(in, runs, kv_head, queries + first, end - first);
  }
}

// Keys that `count` rows of a group see, from `first` on.
struct Part {
  std::vector<Run> runs;
  std::size_t num_keys, first, count;
  std::vector<Query> queries;  // [count, heads], of one key-value head
};

// Consecutive rows with one prefix: the keys that only one of them sees before the common ones, row by row, the common
// ones, and each row's others. Of a row the parts follow each other.
struct Group {
  std::size_t num_rows, heads;   // heads: queries of a row
  std::size_t capacity, stride;  // floats of a query's scores and sums
  std::vector<Part> parts;
  std::vector<std::size_t> num_keys;  // [num_rows]
  std::vector<float> q, scores, sums, norms;
};

template <typename Tile, typename T>
FASTSIA_INLINE void attend_as(const AttentionInput<T>& in, std::size_t kv_head, Group* group, T* out) {
  for (const Part& part : group->parts)
    score<Tile>(in, {part.runs.data(), part.runs.size()}, kv_head, part.queries.data(), part.queries.size());
  for (std::size_t row = 0; row < group->num_rows; ++row)
    for (std::size_t i = row * group->heads; i < (row + 1) * group->heads; ++i)
      group->norms[i] = soften(&group->scores[i * group->capacity], group->num_keys[row], in.softcap);
  for (const Part& part : group->parts)
    add_values<Tile>(in, {part.runs.data(), part.runs.size()}, kv_head, part.queries.data(), part.queries.size());
  for (std::size_t row = 0; row < group->num_rows; ++row)
    for (std::size_t head = 0; head < group->heads; ++head) {
      const std::size_t i = row * group->heads + head;
      T* to = out + (row * in.num_heads + kv_head * group->heads + head) * in.head_dim;
      for (std::size_t d = 0; d < in.head_dim; ++d)
        to[d] = round_to<T>(group->sums[i * group->stride + d] * group->norms[i]);
    }
}

// One build runs on every processor: `attend` picks the widest vectors that the machine has. FASTSIA_WIDE would compile
// the same tiles for all of them.
#define FASTSIA_ATTEND(name, Tile, attribute)                                                                 \
  attribute void name(const AttentionInput<float>& in, std::size_t kv_head, Group* group, float* out) {       \
    attend_as<Tile>(in, kv_head, group, out);                                                                 \
  }                                                                                                           \
  attribute void name(const AttentionInput<BFloat16>& in, std::size_t kv_head, Group* group, BFloat16* out) { \
    attend_as<Tile>(in, kv_head, group, out);                                                                 \
  }
FASTSIA_ATTEND(attend_anywhere, FewRegisters, )
#ifdef FASTSIA_TARGETS
FASTSIA_ATTEND(attend_with_avx2, FewRegisters, __attribute__((target("avx2,fma"))))
FASTSIA_ATTEND(attend_with_avx512, ManyRegisters, __attribute__((target("avx512f"))))
#endif
#undef FASTSIA_ATTEND

template <typename T>
void attend(const AttentionInput<T>& in, std::size_t kv_head, Group* group, T* out) {
#ifdef FASTSIA_TARGETS
  if (__builtin_cpu_supports("avx512f")) return attend_with_avx512(in, kv_head, group, out);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return attend_with_avx2(in, kv_head, group, out);
#endif
  attend_anywhere(in, kv_head, group, out);
}

// Where a row's keys begin: 0, or as far as its window reaches.
template <typename T>
std::int64_t oldest(const AttentionInput<T>& in, std::size_t row) {
  if (in.sliding_window <= 0) return 0;
  return std::max<std::int64_t>(in.prefix_lens[row] + in.suffix_lens[row] - in.sliding_window, 0);
}

// Finds the parts of rows [first, first + num_rows), which have prefix `shared`.
template <typename T>
void find_parts(const AttentionInput<T>& in, std::size_t shared, std::size_t first, Group* group) {
  const std::int32_t* prefix = in.prefix_tables + shared * in.prefix_width;
  std::int64_t begin = 0, end = std::numeric_limits<std::int64_t>::max();  // of what all rows see of the prefix
  for (std::size_t row = first; row < first + group->num_rows; ++row) {
    begin = std::max(begin, oldest(in, row));
    end = std::min<std::int64_t>(end, in.prefix_lens[row]);
  }
  if (begin >= end) begin = end = 0;
  group->parts.clear();
  std::fill(group->num_keys.begin(), group->num_keys.end(), 0);
  const auto add = [&](std::vector<Run> runs, std::size_t row, std::size_t count) {
    std::size_t num_keys = 0;
    for (const Run& run : runs) num_keys += run.count;
    if (num_keys == 0) return;
    group->parts.push_back({std::move(runs), num_keys, row, count, {}});
    for (std::size_t i = row; i < row + count; ++i) group->num_keys[i] += num_keys;
  };
  std::vector<Run> runs;
  for (std::size_t row = 0; row < group->num_rows && begin > 0; ++row) {
    append_runs(prefix, std::min(oldest(in, first + row), begin), begin, in.block_size, &runs);
    add(std::exchange(runs, {}), row, 1);
  }
  append_runs(prefix, begin, end, in.block_size, &runs);
  add(std::exchange(runs, {}), 0, group->num_rows);
  for (std::size_t row = 0; row < group->num_rows; ++row) {
    const std::int64_t length = in.prefix_lens[first + row], start = oldest(in, first + row);
    append_runs(prefix, std::min(std::max(end, start), length), length, in.block_size, &runs);
    append_runs(in.suffix_tables + (first + row) * in.suffix_width, std::max<std::int64_t>(start - length, 0),
                in.suffix_lens[first + row], in.block_size, &runs);
    add(std::exchange(runs, {}), row, 1);
  }
}

// Points the queries of all parts to a key-value head's q, and to their scores and sums.
template <typename T>
void point(const AttentionInput<T>& in, std::size_t kv_head, Group* group) {
  std::vector<std::size_t> seen(group->num_rows);
  for (Part& part : group->parts) {
    part.queries.clear();
    for (std::size_t row = part.first; row < part.first + part.count; ++row) {
      for (std::size_t head = 0; head < group->heads; ++head) {
        const std::size_t i = row * group->heads + head;
        part.queries.push_back({&group->q[(row * in.num_heads + kv_head * group->heads + head) * in.head_dim],
                                &group->scores[i * group->capacity + seen[row]], &group->sums[i * group->stride]});
      }
      seen[row] += part.num_keys;
    }
  }
}

template <typename T>
void attend_rows(const AttentionInput<T>& in, std::size_t begin, std::size_t end, T* out) {
  const std::size_t width = in.num_heads * in.head_dim;
  Group group;
  group.heads = in.num_heads / in.num_kv_heads;
  group.stride = (in.head_dim + kLanes - 1) / kLanes * kLanes;
  auto shared = static_cast<std::size_t>(
      std::upper_bound(in.cu_rows, in.cu_rows + in.num_prefixes + 1, static_cast<std::int32_t>(begin)) - in.cu_rows -
      1);
  for (std::size_t first = begin; first < end; first += group.num_rows) {
    while (first >= static_cast<std::size_t>(in.cu_rows[shared + 1])) ++shared;
    const std::size_t last = std::min(end, static_cast<std::size_t>(in.cu_rows[shared + 1]));
    group.capacity = 0;
    for (group.num_rows = 0; first + group.num_rows < last; ++group.num_rows) {
      const std::size_t row = first + group.num_rows, queries = (group.num_rows + 1) * group.heads;
      const auto seen = static_cast<std::size_t>(in.prefix_lens[row] + in.suffix_lens[row] - oldest(in, row));
      const std::size_t capacity = std::max(group.capacity, seen + kLanes);
      if (group.num_rows > 0 && (queries > kMostQueries || queries * capacity > kMostScores)) break;
      group.capacity = capacity;
    }
    const std::size_t count = group.num_rows * group.heads;
    group.num_keys.resize(group.num_rows);
    group.norms.resize(count);
    if (group.scores.size() < count * group.capacity) group.scores.resize(count * group.capacity);
    group.q.resize(group.num_rows * width);
    for (std::size_t row = 0; row < group.num_rows; ++row)
      for (std::size_t head = 0; head < in.num_heads; ++head)
        for (std::size_t d = 0; d < in.head_dim; ++d)
          group.q[row * width + head * in.head_dim + d] =
              to_float(in.q[(first + row) * in.q_row_stride + head * in.q_head_stride + d]);
    find_parts(in, shared, first, &group);
    for (std::size_t kv_head = 0; kv_head < in.num_kv_heads; ++kv_head) {
      group.sums.assign(count * group.stride, 0.0f);
      point(in, kv_head, &group);
      attend(in, kv_head, &group, out + first * width);
    }
    for (std::size_t row = 0; row < group.num_rows; ++row)
      if (group.num_keys[row] == 0) std::fill_n(out + (first + row) * width, width, T{});
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

// Boundaries of consecutive rows with about the same number of keys for each of `parts` threads: [parts + 1].
template <typename T>
std::vector<std::size_t> shares_of(const AttentionInput<T>& in, std::size_t num_keys, std::size_t parts) {
  std::vector<std::size_t> bounds(parts + 1, in.num_rows);
  bounds[0] = 0;
  std::size_t row = 0, before = 0;
  for (std::size_t k = 1; k < parts; ++k) {
    for (; row < in.num_rows && before * parts < num_keys * k; ++row)
      before += static_cast<std::size_t>(in.prefix_lens[row]) + static_cast<std::size_t>(in.suffix_lens[row]);
    bounds[k] = row;
  }
  return bounds;
}

template <typename T>
void prefix_attention(const AttentionInput<T>& in, int num_threads, T* out) {
  std::size_t keys = 0;
  for (std::size_t row = 0; row < in.num_rows; ++row)
    keys += static_cast<std::size_t>(in.prefix_lens[row]) + static_cast<std::size_t>(in.suffix_lens[row]);
  // Starting a thread costs as much as some hundred thousand products.
  const bool is_small = keys * in.num_heads * in.head_dim < (std::size_t{1} << 20);
  const std::size_t parts = is_small || num_threads < 1 ? 1 : static_cast<std::size_t>(num_threads);
  const std::vector<std::size_t> bounds = shares_of(in, keys, parts);
  parallel_for(parts, parts,
               [&](std::size_t first, std::size_t last) { attend_rows(in, bounds[first], bounds[last], out); });
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
