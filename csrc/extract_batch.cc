#include "extract_batch.h"

#include <algorithm>
#include <thread>

#include "parallel.h"

namespace fastsia {
namespace {

constexpr std::size_t kMaxThreads = 4;
constexpr std::size_t kIdsForThreads = 1 << 19;  // about 10 ms of work, from which threads pay off

// Decodes one text after the other into one buffer. Consecutive rows reuse the decoded prefix that they share.
class RolloutReader {
 public:
  RolloutReader(const Vocabulary& vocabulary, const std::int32_t* prefix)
      : vocabulary_(vocabulary), prefix_(prefix), prefix_decoder_(vocabulary) {}

  // The text of prefix[:prefix_len] and the ids. It is valid until the next call.
  std::string_view text(std::size_t prefix_len, const std::int32_t* ids, std::size_t size) {
    text_.resize(prefix_bytes_);
    if (prefix_len < num_prefix_) {
      prefix_decoder_ = Decoder(vocabulary_);
      num_prefix_ = 0;
      text_.clear();
    }
    prefix_decoder_.append(vocabulary_, prefix_ + num_prefix_, prefix_len - num_prefix_, text_);
    num_prefix_ = prefix_len;
    prefix_bytes_ = text_.size();
    Decoder decoder = prefix_decoder_;
    decoder.append(vocabulary_, ids, size, text_);
    decoder.finish(text_);
    return text_;
  }

 private:
  const Vocabulary& vocabulary_;
  const std::int32_t* prefix_;
  Decoder prefix_decoder_;
  std::size_t num_prefix_ = 0;
  std::size_t prefix_bytes_ = 0;
  std::string text_;
};

}  // namespace

std::vector<Answer> read_rollouts(const Vocabulary& vocabulary, const std::int32_t* prefix,
                                  const std::int32_t* prefix_lens, const Rows& rows, const Spec& spec,
                                  const bool* is_cut, std::size_t num_threads) {
  if (num_threads == 0) {
    const auto num_ids = static_cast<std::size_t>(rows.offsets[rows.count] - rows.offsets[0]);
    num_threads =
        num_ids < kIdsForThreads ? 1 : std::min<std::size_t>(std::thread::hardware_concurrency(), kMaxThreads);
  }
  std::vector<Answer> answers(rows.count);
  parallel_for(rows.count, num_threads, [&](std::size_t begin, std::size_t end) {
    RolloutReader reader(vocabulary, prefix);
    for (std::size_t r = begin; r < end; ++r) {
      const auto size = static_cast<std::size_t>(rows.offsets[r + 1] - rows.offsets[r]);
      const auto prefix_len = static_cast<std::size_t>(prefix_lens[r]);
      answers[r] = read_answer(reader.text(prefix_len, rows.ids + rows.offsets[r], size), spec, is_cut[r]);
    }
  });
  return answers;
}

std::vector<Answer> read_texts(std::string_view blob, const std::int64_t* offsets, std::size_t count,
                               const std::vector<Spec>& specs, const std::int32_t* spec_of_text, const bool* is_cut) {
  std::vector<Answer> answers(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto begin = static_cast<std::size_t>(offsets[i]);
    const auto size = static_cast<std::size_t>(offsets[i + 1]) - begin;
    answers[i] = read_answer(blob.substr(begin, size), specs[static_cast<std::size_t>(spec_of_text[i])], is_cut[i]);
  }
  return answers;
}

std::vector<std::string> decode(const Vocabulary& vocabulary, const Rows& rows) {
  std::vector<std::string> texts(rows.count);
  for (std::size_t r = 0; r < rows.count; ++r) {
    Decoder decoder(vocabulary);
    const auto size = static_cast<std::size_t>(rows.offsets[r + 1] - rows.offsets[r]);
    decoder.append(vocabulary, rows.ids + rows.offsets[r], size, texts[r]);
    decoder.finish(texts[r]);
  }
  return texts;
}

}  // namespace fastsia
