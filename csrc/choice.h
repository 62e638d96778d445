// The letters of multiple-choice options. fastsia/answers/choice.py is the readable form of the same.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "text.h"

namespace fastsia {

constexpr int kDefaultNumOptions = 5;  // letters A to E where a problem's options are not given

// A problem's options as they are looked for. texts: each one's words in lower case, without an article and marks
// around it; cased: the same in its own case; numbers: the number that each begins with, "" for none. A digit may stand
// for an option, but not where two options or more begin with a number.
struct Options {
  using Phrase = std::vector<std::string>;

  bool are_known = false;
  int num_letters = kDefaultNumOptions;
  std::vector<Phrase> texts;
  std::vector<Phrase> cased;
  std::vector<std::string> numbers;
  bool digits_are_labels = true;
};

Options make_options(const std::vector<std::string>& texts);

// The letter of the option that a line names at `i`, behind a marker: by letter, digit label or its own text. The line
// ends where the value may end.
std::optional<char> choice_after_marker(Text& line, std::size_t i, const Options& options);

// The letter of the last statement such as "B is correct", "I choose B", "so it is B".
std::optional<char> stated_choice(Text& text, const Options& options);

// The option that a text without any statement ends with, or begins with, or is; none where more than one may be.
std::optional<char> last_choice(Text& text, const Options& options);

}  // namespace fastsia
