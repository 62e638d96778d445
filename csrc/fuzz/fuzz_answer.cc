// libFuzzer target: no bytes make the reader fail, and a decided answer never changes. csrc/fuzz.sh builds and runs it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "extract_batch.h"
#include "stream.h"

namespace {

using fastsia::Answer;
using fastsia::Format;
using fastsia::Spec;

void require(bool condition) {
  if (!condition) std::abort();
}

// One token for each byte. With `has_fallback` the last 128 are byte-fallback tokens, joined as by sentencepiece.
std::shared_ptr<const fastsia::Vocabulary> make_vocabulary(bool has_fallback) {
  std::string blob(256, '\0');
  std::iota(blob.begin(), blob.end(), '\0');
  std::vector<std::int64_t> offsets(257);
  std::iota(offsets.begin(), offsets.end(), 0);
  std::vector<std::uint8_t> kinds(256, 0);
  for (std::size_t i = 128; has_fallback && i < 256; ++i) kinds[i] = 1;
  kinds[0] = 2;
  return std::make_shared<fastsia::Vocabulary>(blob, offsets.data(), kinds.data(), 256, "", has_fallback ? 1 : 0,
                                               false);
}

Spec make_spec(std::uint8_t choices) {
  Spec spec;
  spec.format = static_cast<Format>(choices % 3);
  spec.starts_in_think = (choices & 4) != 0;
  spec.think_tags = {{"<think>", "</think>"}, {"[THINK]", "[/THINK]"}};
  spec.stop_texts = (choices & 32) == 0;
  spec.expects_think = (choices & 64) != 0;
  if (choices & 8) spec.set_options({"a rock", "water", "heat energy.", "4", "Heat  energy flows"});
  if (choices & 16) spec.set_options({"3.5", "35 m", "5%"});
  if ((choices & 24) == 24) spec.set_options({"It melts. It boils.", "St. Louis", "4 cm", "8 cm", "A"});
  return spec;
}

Answer answer_of(const fastsia::Vocabulary& vocabulary, const std::vector<std::int32_t>& ids, const Spec& spec,
                 bool is_cut = false) {
  const std::int64_t offsets[] = {0, static_cast<std::int64_t>(ids.size())};
  const std::int32_t prefix_len = 0;
  return fastsia::read_rollouts(vocabulary, nullptr, &prefix_len, {ids.data(), offsets, 1}, spec, &is_cut, 1)[0];
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  static const auto kByteLevel = make_vocabulary(false);
  static const auto kFallback = make_vocabulary(true);
  const auto& vocabulary = data[1] & 1 ? kFallback : kByteLevel;
  const Spec spec = make_spec(data[0]);
  const std::vector<std::int32_t> ids(data + 2, data + size);
  const Answer whole = answer_of(*vocabulary, ids, spec);

  fastsia::AnswerStream stream(vocabulary);
  const int number = stream.open(spec);
  const std::int64_t decided = stream.decided_at(number, ids.data(), ids.size());
  if (decided < 0) return 0;

  // Every continuation of the decided text has the same answer, also those that could mislead a reader.
  require(spec.format != Format::kBoxed && whole.strict.has_value() && whole.strict == whole.lenient);
  const std::vector<std::int32_t> begun(ids.begin(), ids.begin() + decided);
  const std::size_t half = begun.size() + (ids.size() - begun.size()) / 2;
  const std::vector<std::vector<std::int32_t>> others = {begun, {ids.begin(), ids.begin() + static_cast<long>(half)}};
  for (const std::vector<std::int32_t>& other : others) {
    const Answer answer = answer_of(*vocabulary, other, spec), cut = answer_of(*vocabulary, other, spec, true);
    require(answer.strict == whole.strict && answer.lenient == whole.strict && cut.strict == whole.strict);
  }
  for (const std::string_view more :
       {"0", ".5", ",000", "e9", "/3", " 1/2", " million", "</think>", "\nQuestion: 9", "uestion:", " = 8",
        "\n#### 7\n", "\nAnswer: C\n", "ock", "'s", " is", "\x80", "^2"}) {
    std::vector<std::int32_t> longer = begun;
    for (const char c : more) longer.push_back(static_cast<unsigned char>(c));
    const Answer answer = answer_of(*vocabulary, longer, spec);
    require(answer.strict == whole.strict && answer.lenient == whole.strict);
  }
  return 0;
}
