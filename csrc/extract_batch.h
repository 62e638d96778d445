// Reads the answers of whole batches of texts, or of ragged rows of token ids.
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

// The answers of a problem's rollouts. Row r continues prefix[:prefix_lens[r]]; is_cut[r]: its token limit ended it.
// num_threads 0 chooses by the size of the batch.
std::vector<Answer> read_rollouts(const Vocabulary& vocabulary, const std::int32_t* prefix,
                                  const std::int32_t* prefix_lens, const Rows& rows, const Spec& spec,
                                  const bool* is_cut, std::size_t num_threads);

// The answers of the texts blob[offsets[i], offsets[i + 1]), text i with specs[spec_of_text[i]].
std::vector<Answer> read_texts(std::string_view blob, const std::int64_t* offsets, std::size_t count,
                               const std::vector<Spec>& specs, const std::int32_t* spec_of_text, const bool* is_cut);

// The texts of the rows. Invalid UTF-8 of a byte-level tokenizer is kept.
std::vector<std::string> decode(const Vocabulary& vocabulary, const Rows& rows);

}  // namespace fastsia
