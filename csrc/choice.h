// The letters of multiple-choice options. fastsia/answers/reference.py is the readable form of the same.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "text.h"

namespace fastsia {

constexpr int kDefaultNumOptions = 5;  // letters A to E where a problem's options are not given

// A problem's options. The texts are kept as they are looked for: without what is skipped before a value, single
// spaces, no full stop.
struct Options {
  bool are_known = false;
  std::vector<std::string> texts;

  int num_letters() const;
};

Options make_options(const std::vector<std::string>& texts);

// The letter of the option that a line names at `i`, behind a marker: by letter, digit label or its own text. The line
// ends where the value may end.
std::optional<char> choice_after_marker(Text& line, std::size_t i, const Options& options);

// The letter of the last statement such as "B is correct" or "I choose B".
std::optional<char> stated_choice(Text& text, const Options& options);

// The last capital option letter that stands alone: no article, no degree, no part of a word or abbreviation.
std::optional<char> last_choice(Text& text, const Options& options);

}  // namespace fastsia
