// Attention of packed rows over a shared prefix and their own suffix, on a CPU, straight from the paged cache; and what
// writes that cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bfloat16.h"

namespace fastsia {

// Queries, cache and what each row sees. The tables are those of fastsia/ops/reference.py. A block is laid out head by
// head, and its keys dimension by dimension, so that a sum over dimensions runs over many keys side by side. T is float
// or BFloat16; sums are float in either case.
template <typename T>
struct AttentionInput {
  const T* q;                               // [num_rows, num_heads, head_dim], heads apart by the strides
  std::size_t q_row_stride, q_head_stride;  // in elements; a head is contiguous
  const T* k_cache;                         // [num_blocks, num_kv_heads, head_dim, block_size]
  const T* v_cache;                         // [num_blocks, num_kv_heads, block_size, head_dim]
  std::size_t num_rows, num_heads, num_kv_heads, head_dim, block_size;
  const std::int32_t* prefix_tables;  // [num_prefixes, prefix_width]
  std::size_t num_prefixes, prefix_width;
  const std::int32_t* cu_rows;        // [num_prefixes + 1]
  const std::int32_t* prefix_lens;    // [num_rows]
  const std::int32_t* suffix_tables;  // [num_rows, suffix_width]
  std::size_t suffix_width;
  const std::int32_t* suffix_lens;  // [num_rows]
  float scale;
  std::int64_t sliding_window;  // keys at positions > own position - window; 0: all
  float softcap;                // score s becomes softcap * tanh(s / softcap); 0: as it is
};

constexpr std::size_t kMaxHeadDim = 512;

// Whether every table entry that a length reaches exists and names a block below num_blocks, and the rows of cu_rows
// rise from 0 to num_rows.
template <typename T>
bool reaches_only_blocks(const AttentionInput<T>& in, std::size_t num_blocks);

// Writes [num_rows, num_heads, head_dim]. Rows are split among `num_threads` threads (at least 1). The caller has
// checked that every table entry that a length reaches is a block of the cache. A row sums over its keys in the order
// of their positions, wherever they are stored, so its bits do not depend on other rows or on what the prefix is.
template <typename T>
void prefix_attention(const AttentionInput<T>& in, int num_threads, T* out);

// New keys and values and where they go.
template <typename T>
struct StoreInput {
  const T* k;                               // [num_rows, num_kv_heads, head_dim], heads apart by the strides
  std::size_t k_row_stride, k_head_stride;  // in elements; a head is contiguous
  const T* v;
  std::size_t v_row_stride, v_head_stride;
  const std::int64_t* slots;  // [num_rows]: block * block_size + token; below 0 skips
  std::size_t num_rows, num_kv_heads, head_dim, block_size;
};

// Writes them into the caches of AttentionInput. The caller has checked that the slots are inside.
template <typename T>
void store_kv(const StoreInput<T>& in, T* k_cache, T* v_cache);

}  // namespace fastsia
