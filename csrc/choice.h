// Reads the letters of multiple-choice options. fastsia/answers/choice.py is the readable reference.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "text.h"

namespace fastsia {

constexpr int kDefaultNumOptions = 5;  // letters A to E if a problem's options are unknown

// A problem's options, prepared for matching. texts: the words of each option in lower case, without a leading article
// and the marks around it; cased: the same words in their own case; numbers: the number at the beginning of each
// option, "" if there is none. digits_are_labels: a digit may name an option; false if two or more options begin with a
// number.
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

// The letter of the option that a line names at `i`, after a marker: by its letter, digit label or text. The line ends
// where the value may end.
std::optional<char> choice_after_marker(Text& line, std::size_t i, const Options& options);

// The letter of the last statement such as "B is correct", "I choose B", "so it is B".
std::optional<char> stated_choice(Text& text, const Options& options);

// The option that a text without a statement is, begins with or ends with; none if it may be more than one.
std::optional<char> last_choice(Text& text, const Options& options);

}  // namespace fastsia
