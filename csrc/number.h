// Reads numbers as people write them and gives their canonical spelling. fastsia/answers/number.py is the readable
// reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "text.h"

namespace fastsia {

constexpr int kMaxNumber = 100;     // bytes of a canonical number; longer ones are not numbers
constexpr int kMaxTermDigits = 18;  // digits of the terms of a fraction

// digits * 10^power, without leading or trailing zero digits. No digits mean 0.
struct Decimal {
  char digits[kMaxNumber];
  int size = 0;
  bool is_long = false;  // it has more digits than a canonical number may have
  std::int64_t power = 0;
};

// A number that was read. is_formed: the text has the form of a number. has_value: it has a canonical value; a power, a
// division by zero and an exponent out of range do not. Nothing is evaluated.
struct Number {
  std::size_t end = 0;
  bool is_formed = false;
  bool has_value = false;
  bool is_negative = false;
  bool is_ratio = false;
  Decimal decimal;                    // unless is_ratio
  std::uint64_t over = 0, under = 0;  // reduced, where is_ratio
};

// Its canonical spelling: "1234.5", "-7", "1/3". The number must have a value.
std::string canonical(const Number& number);

// The number that a line has at `i`, after a marker. The line ends where the value may end. is_heading: the marker is
// "####", which may begin a numbered heading.
Number number_after_marker(const Text& line, std::size_t i, bool is_heading);

// Reads a text that is one number, its units and closing marks. is_formula: a letter right after the digits is a symbol
// ("5k", "3m"), as in the boxed format.
Number whole_number(const Text& text, bool is_formula = false);

// Parts of a text as (begin, end), in the order of the text.
using Spans = std::vector<std::pair<std::size_t, std::size_t>>;

// The last number that stands by itself: not part of a word (x2, CO2), an exponent or a subscript, and not in the
// spared parts.
Number last_number(const Text& text, const Spans& spared);

// The position after the white space and marks between a marker and its value.
std::size_t skip_decoration(const Text& text, std::size_t i);

// The position after "\text{" and similar commands, or `i`.
std::size_t skip_text_command(const Text& text, std::size_t i);

}  // namespace fastsia
