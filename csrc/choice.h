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

// The letter of the option that the text at `i`, right after a marker, names by letter, digit label or (where
// `own_text`) its own text. Nothing past the line of the value is looked at.
std::optional<char> choice_after_marker(Text& text, std::size_t i, const Options& options, bool own_text);

// The last capital option letter that stands alone: no article, no degree, no part of a word or abbreviation.
std::optional<char> last_letter(Text& text, const Options& options);

}  // namespace fastsia
