// Numbers as people write them, and their canonical spelling. fastsia/answers/number.py is the readable form of the
// same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "text.h"

namespace fastsia {

constexpr int kMaxNumber = 100;     // bytes of a canonical number; what would be longer is no number
constexpr int kMaxTermDigits = 18;  // digits of a fraction's terms

// digits * 10^power, without zeros at either end of the digits. No digits mean 0.
struct Decimal {
  char digits[kMaxNumber];
  int size = 0;
  bool is_long = false;  // more digits than a canonical number may have
  std::int64_t power = 0;
};

// A number that was read. It is formed where the characters are a number's, and has a value where we would state one: a
// power, a division by zero or an exponent out of range have none. Nothing is ever evaluated.
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

// The number that a line has at `i`, behind a marker. The line ends where the value may end. is_heading: the marker is
// "####", which may open a numbered heading. is_formed without a value: what stands there is no number we would state.
Number number_after_marker(const Text& line, std::size_t i, bool is_heading);

// The number that a whole text is, units and closing marks aside. is_formula: a letter right behind the digits is a
// symbol ("5k", "3m"), as in the boxed format.
Number whole_number(const Text& text, bool is_formula = false);

// Pieces of a text: (begin, end), in the order of the text.
using Spans = std::vector<std::pair<std::size_t, std::size_t>>;

// The last number that stands by itself: not part of a word (x2, CO2), an exponent or a subscript, not in what is
// spared.
Number last_number(const Text& text, const Spans& spared);

// Past white space and marks that may stand between a marker and its value.
std::size_t skip_decoration(const Text& text, std::size_t i);

// Past "\text{" and its like, or `i`.
std::size_t skip_text_command(const Text& text, std::size_t i);

}  // namespace fastsia
