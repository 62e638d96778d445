// Whole batches: from texts, or ragged rows of token ids, to answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "answer.h"
#include "vocabulary.h"

namespace fastsia {

// Rows of token ids: row r is ids[offsets[r], offsets[r + 1]).
struct Rows {
  const std::int32_t* ids;
  const std::int64_t* offsets;
  std::size_t count;
};

// The answers of a problem's rollouts, row r continuing prefix[:prefix_lens[r]] and ended by its token limit where
// is_cut[r]. 0 threads: as the batch's size suggests.
std::vector<Answer> read_rollouts(const Vocabulary& vocabulary, const std::int32_t* prefix,
                                  const std::int32_t* prefix_lens, const Rows& rows, const Spec& spec,
                                  const bool* is_cut, std::size_t num_threads);

// The answers of texts blob[offsets[i], offsets[i + 1]), each read for its own spec.
std::vector<Answer> read_texts(std::string_view blob, const std::int64_t* offsets, std::size_t count,
                               const std::vector<Spec>& specs, const std::int32_t* spec_of_text, const bool* is_cut);

// The rows' texts, invalid UTF-8 of a byte-level tokenizer as it is.
std::vector<std::string> decode(const Vocabulary& vocabulary, const Rows& rows);

}  // namespace fastsia
