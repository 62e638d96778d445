#include "number.h"

#include <algorithm>
#include <string_view>

#include "plain.h"
#include "tables.h"

namespace fastsia {
namespace {

__extension__ typedef unsigned __int128 Wide;

constexpr int kMaxTerms = 40;    // terms of an expression
constexpr int kMaxHeading = 30;  // a larger number after "####" does not begin a heading
constexpr int kMaxIndianPairs = 12;

// Small matchers: the position past what they match at `i`, or `i` itself where they match nothing.

template <std::size_t N>
std::size_t skip_any(const Text& text, std::size_t i, const std::string_view (&words)[N]) {
  for (const std::string_view word : words) {
    if (text.has(i, word)) return i + word.size();
  }
  return i;
}

template <std::size_t N>
bool is_among(std::string_view word, const std::string_view (&words)[N]) {
  return std::find(std::begin(words), std::end(words), word) != std::end(words);
}

constexpr std::string_view kCurrencies[] = {"\xC2\xA3", "\xE2\x82\xAC", "\xC2\xA5", "\xE2\x82\xB9"};  // £ € ¥ ₹
constexpr std::string_view kOtherDecorations[] = {"\xE2\x89\x88",                                     // ≈
                                                  "\xE2\x80\x9C",                                     // “
                                                  "\xE2\x80\x98",                                     // ‘
                                                  "\xEF\xBC\x9A",                                     // ：
                                                  "\xEF\xBC\x88"};                                    // （
constexpr std::string_view kTextCommands[] = {"textbf{", "textit{", "text{", "mathrm{", "mathbf{", "mathit{", "mbox{"};
constexpr std::string_view kCommas[] = {",\\!", ",\\,", ",", "{,}", " {,} "};

std::size_t skip_byte(const Text& text, std::size_t i, char byte) { return text.at(i) == byte ? i + 1 : i; }

std::size_t skip_space(const Text& text, std::size_t i) { return skip_byte(text, i, ' '); }

// One blank or no-break space.
std::size_t skip_gap(const Text& text, std::size_t i) { return is_one_of(text.at(i), " ~") ? i + 1 : i; }

// One blank or LaTeX blank.
std::size_t skip_wide(const Text& text, std::size_t i) {
  if (text.at(i) == '\\') return is_one_of(text.at(i + 1), ",;:! ") ? i + 2 : i;
  return skip_gap(text, i);
}

// At most `most` blanks, LaTeX blanks or tabs.
std::size_t skip_wide_blanks(const Text& text, std::size_t i, int most) {
  for (; most > 0; --most) {
    const std::size_t end = text.at(i) == '\t' ? i + 1 : skip_wide(text, i);
    if (end == i) break;
    i = end;
  }
  return i;
}

std::size_t skip_letters(const Text& text, std::size_t i) {
  while (is_letter(text.at(i))) ++i;
  return i;
}

// ASCII letters, and two-byte characters from U+00C0 on.
std::size_t skip_word(const Text& text, std::size_t i) {
  while (true) {
    const int c = text.at(i);
    if (is_letter(c)) {
      ++i;
    } else if (c >= 0xC3 && c <= 0xDF && is_continuation(text.at(i + 1))) {
      i += 2;
    } else {
      return i;
    }
  }
}

// The position after a Chinese, Japanese or Korean character, or `i`.
std::size_t skip_cjk(const Text& text, std::size_t i) {
  const int c = text.at(i);
  const bool is_kana = c == 0xE3 && text.at(i + 1) >= 0x81 && text.at(i + 1) <= 0x83;
  const bool is_cjk = c >= 0xE4 && c <= 0xED && is_continuation(text.at(i + 1));
  return (is_kana || is_cjk) && is_continuation(text.at(i + 2)) ? i + 3 : i;
}

// The position after "\name" if no further lower-case letter follows, or `i`.
std::size_t skip_command(const Text& text, std::size_t i, std::string_view name) {
  if (text.at(i) != '\\' || !text.has(i + 1, name)) return i;
  const std::size_t end = i + 1 + name.size();
  return text.at(end) >= 'a' && text.at(end) <= 'z' ? i : end;
}

// The position after a whole word in this case, or `i`.
std::size_t skip_whole_word(const Text& text, std::size_t i, std::string_view word) {
  return text.has(i, word) && !is_word(text, i + word.size()) ? i + word.size() : i;
}

std::size_t skip_currency(const Text& text, std::size_t i) {
  if (text.at(i) == '$') return i + 1;
  return text.at(i) == '\\' && text.at(i + 1) == '$' ? i + 2 : i;
}

struct Sign {
  std::size_t end;
  bool is_there;
  bool is_minus;
};

Sign read_sign(const Text& text, std::size_t i) {
  const int c = text.at(i);
  if (c == '-' || c == '+') return {i + 1, true, c == '-'};
  return {i, false, false};
}

// The position after "\frac" and its variants, or `i`.
std::size_t skip_fraction_command(const Text& text, std::size_t i) {
  static constexpr std::string_view kFractions[] = {"\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\nicefrac", "\\sfrac"};
  return text.at(i) == '\\' ? skip_any(text, i, kFractions) : i;
}

bool is_three(const Text& text, std::size_t i) {
  return is_digit(text.at(i)) && is_digit(text.at(i + 1)) && is_digit(text.at(i + 2)) && !is_digit(text.at(i + 3));
}

// The position after 12,34,567, or `i`. Its first digits are [i, head).
std::size_t skip_indian(const Text& text, std::size_t i, std::size_t head) {
  if (head - i > 2) return i;
  std::size_t end = head;
  for (int pairs = 0; pairs < kMaxIndianPairs; ++pairs) {
    const std::size_t pair = skip_any(text, end, kCommas);
    if (pair == end || !is_digit(text.at(pair)) || !is_digit(text.at(pair + 1)) || is_digit(text.at(pair + 2))) break;
    end = pair + 2;
  }
  const std::size_t last = skip_any(text, end, kCommas);
  return end != head && last != end && is_three(text, last) ? last + 3 : i;
}

// The position after groups of thousands with one kind of separator that follow the first digits.
std::size_t skip_groups(const Text& text, std::size_t head, bool is_tight) {
  std::size_t end = head;
  while (true) {
    const std::size_t group = skip_any(text, end, kCommas);
    if (group == end || !is_three(text, group)) break;
    end = group + 3;
  }
  for (const char mark : {'\'', '_'}) {
    while ((end == head || text.at(head) == mark) && text.at(end) == mark && is_three(text, end + 1)) end += 4;
  }
  if (end != head || is_tight) return end;
  while (true) {
    const std::size_t group = skip_wide(text, end);
    if (group == end || !is_three(text, group) || text.at(group + 3) == '/') return end;
    end = group + 3;
  }
}

// Skips groups of thousands ("1,234", but not "1,2,3" or "0,123"), plain digits, or decimals that begin with a point.
// The point of "42." is not included. is_tight: blanks do not group digits.
std::size_t skip_plain(const Text& text, std::size_t i, bool is_tight = false) {
  if (text.at(i) == '.') {
    const std::size_t end = skip_digits(text, i + 1);
    return end > i + 1 ? end : i;
  }
  std::size_t end = skip_digits(text, i);
  if (end == i) return i;
  if (end - i <= 3 && text.at(i) != '0') {
    const std::size_t indian = skip_indian(text, i, end);
    end = indian != i ? indian : skip_groups(text, end, is_tight);
  }
  if (text.at(end) == '.' && is_digit(text.at(end + 1))) end = skip_digits(text, end + 1);
  return end;
}

void push_digit(Decimal& decimal, char digit, std::int64_t& zeros) {
  if (digit == '0') {
    zeros += decimal.size > 0;
    return;
  }
  if (decimal.size + zeros >= kMaxNumber) {
    decimal.is_long = true;
    zeros = 0;
    return;
  }
  for (; zeros > 0; --zeros) decimal.digits[decimal.size++] = '0';
  decimal.digits[decimal.size++] = digit;
}

// The digits of a plain number without separators.
Decimal read_plain(const Text& text, std::size_t begin, std::size_t end) {
  Decimal decimal;
  std::int64_t zeros = 0, decimals = 0;
  bool after_point = false;
  for (std::size_t i = begin; i < end; ++i) {
    const int c = text.at(i);
    after_point |= c == '.';
    if (!is_digit(c)) continue;
    decimals += after_point;
    push_digit(decimal, static_cast<char>(c), zeros);
  }
  decimal.power = zeros - decimals;
  return decimal;
}

// The number of digits of digits * 10^power for a whole number, or of the digits alone if it has decimals.
std::int64_t num_digits(const Decimal& decimal) {
  if (decimal.size == 0) return 0;
  return decimal.is_long ? kMaxNumber : decimal.size + std::max<std::int64_t>(decimal.power, 0);
}

std::int64_t scale(const Decimal& decimal) { return decimal.size == 0 ? 0 : std::max<std::int64_t>(-decimal.power, 0); }

// digits * 10^max(power, 0); there are at most kMaxTermDigits of them.
std::uint64_t whole(const Decimal& decimal) {
  std::uint64_t value = 0;
  for (int k = 0; k < decimal.size; ++k) value = value * 10 + static_cast<std::uint64_t>(decimal.digits[k] - '0');
  for (std::int64_t k = 0; k < decimal.power && decimal.size > 0; ++k) value *= 10;
  return value;
}

std::uint64_t power_of_ten(std::int64_t power) {
  std::uint64_t value = 1;
  for (; power > 0; --power) value *= 10;
  return value;
}

bool fits(const Decimal& decimal, bool is_negative) {
  if (decimal.size == 0) return true;
  if (decimal.is_long) return false;
  const std::int64_t point = decimal.size + decimal.power;
  const std::int64_t length = decimal.power >= 0 ? point : decimal.size + (point > 0 ? 1 : 2 - point);
  return length + is_negative <= kMaxNumber;
}

Wide greatest_common_divisor(Wide a, Wide b) {
  while (b != 0) {
    const Wide rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

void set_decimal(Number& number, const Decimal& decimal, bool is_negative) {
  number.decimal = decimal;
  number.is_negative = is_negative;
  number.has_value = fits(decimal, is_negative);
}

// Sets a / b as a terminating decimal, else as the reduced fraction.
void set_rational(Number& number, bool is_negative, Wide a, Wide b) {
  const Wide common = greatest_common_divisor(a, b);
  a /= common;
  b /= common;
  if (a >= power_of_ten(kMaxTermDigits)) return;
  Wide rest = b;
  while (rest % 2 == 0) rest /= 2;
  while (rest % 5 == 0) rest /= 5;
  if (rest > 1) {
    number.is_ratio = number.has_value = true;
    number.is_negative = is_negative;
    number.over = static_cast<std::uint64_t>(a);
    number.under = static_cast<std::uint64_t>(b);
    return;
  }
  Decimal decimal;
  std::int64_t zeros = 0, decimals = 0;
  for (const char digit : std::to_string(static_cast<std::uint64_t>(a / b))) push_digit(decimal, digit, zeros);
  for (a %= b; a != 0; a %= b, ++decimals) {
    a *= 10;
    push_digit(decimal, static_cast<char>('0' + static_cast<int>(a / b)), zeros);
  }
  decimal.power = zeros - decimals;
  set_decimal(number, decimal, is_negative);
}

// Sets whole_part + over / under as a terminating decimal, else as the reduced fraction.
void set_ratio(Number& number, bool is_negative, const Decimal& over, const Decimal& under, std::uint64_t whole_part) {
  if (under.size == 0 || num_digits(over) + scale(under) > kMaxTermDigits ||
      num_digits(under) + scale(over) > kMaxTermDigits) {
    return;
  }
  const Wide b = static_cast<Wide>(whole(under)) * power_of_ten(scale(over));
  const Wide a = static_cast<Wide>(whole(over)) * power_of_ten(scale(under)) + b * whole_part;
  set_rational(number, is_negative, a, b);
}

// \frac{over}{under} or \frac12. If there is none, `end` is where it was looked for.
struct Fraction {
  std::size_t end;
  bool is_negative = false;
  std::size_t over[2] = {0, 0};
  std::size_t under[2] = {0, 0};
};

// One argument: a digit, or a number in braces. Returns the position after it, or `i`.
std::size_t read_argument(const Text& text, std::size_t i, std::size_t (&term)[2], bool& is_negative) {
  std::size_t at = skip_at_most(text, i, " ", 2);
  if (is_digit(text.at(at))) {
    term[0] = at;
    term[1] = at + 1;
    return at + 1;
  }
  if (text.at(at) != '{') return i;
  const Sign sign = read_sign(text, skip_at_most(text, at + 1, " ", 4));
  term[0] = skip_currency(text, sign.end);
  term[1] = skip_plain(text, term[0]);
  if (term[1] == term[0]) return i;
  at = skip_at_most(text, term[1], " ", 4);
  if (text.at(at) != '}') return i;
  is_negative ^= sign.is_minus;
  return at + 1;
}

Fraction read_fraction(const Text& text, std::size_t i) {
  Fraction fraction;
  fraction.end = i;
  const std::size_t over = skip_fraction_command(text, i);
  if (over == i) return fraction;
  const std::size_t under = read_argument(text, over, fraction.over, fraction.is_negative);
  if (under == over) return fraction;
  const std::size_t end = read_argument(text, under, fraction.under, fraction.is_negative);
  if (end != under) fraction.end = end;
  return fraction;
}

// Whether two runs of plain digits form a proper fraction and neither is 0.
bool is_below_one(const Text& text, const std::size_t (&over)[2], const std::size_t (&under)[2]) {
  std::size_t a = over[0], b = under[0];
  if (skip_digits(text, a) < over[1] || skip_digits(text, b) < under[1]) return false;
  while (a < over[1] && text.at(a) == '0') ++a;
  while (b < under[1] && text.at(b) == '0') ++b;
  if (a == over[1] || b == under[1]) return false;
  const std::string_view left = text.view(a, over[1]), right = text.view(b, under[1]);
  return left.size() != right.size() ? left.size() < right.size() : left < right;
}

// A power of ten, limited to a value far outside the accepted range.
std::int64_t read_exponent(const Text& text, std::size_t begin, std::size_t end, bool is_minus) {
  while (begin < end && text.at(begin) == '0') ++begin;
  std::int64_t size = 0;
  if (end - begin > 6) {
    size = 1000000;
  } else {
    for (; begin < end; ++begin) size = size * 10 + (text.at(begin) - '0');
  }
  return is_minus ? -size : size;
}

struct Exponent {
  std::size_t end;
  std::int64_t power = 0;
};

// A sign and digits at `digits_at`; end = i if there are no digits.
Exponent read_signed_exponent(const Text& text, std::size_t i, std::size_t digits_at) {
  const Sign sign = read_sign(text, digits_at);
  const std::size_t end = skip_digits(text, sign.end);
  if (end == sign.end) return {i};
  return {end, read_exponent(text, sign.end, end, sign.is_minus)};
}

// "e3"
Exponent read_letter_exponent(const Text& text, std::size_t i) {
  const int c = text.at(i);
  return c == 'e' || c == 'E' ? read_signed_exponent(text, i, i + 1) : Exponent{i};
}

// " x 10^3"
Exponent read_times_ten(const Text& text, std::size_t i) {
  static constexpr std::string_view kTimes[] = {"x", "X", "*", "\\times", "\\cdot"};
  const std::size_t sign = skip_wide_blanks(text, i, 2);
  const std::size_t after = skip_any(text, sign, kTimes);
  if (after == sign) return {i};
  const std::size_t ten = skip_wide_blanks(text, after, 2);
  if (!text.has(ten, "10^")) return {i};
  Exponent exponent = read_signed_exponent(text, i, skip_byte(text, ten + 3, '{'));
  if (exponent.end != i) exponent.end = skip_byte(text, exponent.end, '}');
  return exponent;
}

struct Power {
  std::size_t end;
  bool is_integer = false;  // a single "^3" or "^{-3}"
  std::int64_t exponent = 0;
};

// A chain of powers: "^2", "^{10}", "**9**9".
Power read_power(const Text& text, std::size_t i) {
  Power power{i};
  for (int links = 0;; ++links) {
    const bool is_caret = text.at(power.end) == '^';
    std::size_t at = power.end + (is_caret ? 1 : 2);
    if (is_caret) {
      at = skip_byte(text, at, '{');
    } else if (!text.has(power.end, "**")) {
      return power;
    }
    const Sign sign = read_sign(text, at);
    if (!is_digit(text.at(sign.end))) return power;
    const std::size_t digits = skip_digits(text, sign.end);
    std::size_t end = digits;
    while (is_digit(text.at(end)) || text.at(end) == '.') ++end;
    power.is_integer = links == 0 && is_caret && end == digits;
    if (power.is_integer) power.exponent = read_exponent(text, sign.end, digits, sign.is_minus);
    power.end = skip_byte(text, end, '}');
  }
}

// Repeating digits: "\overline{3}" after decimals, ".\overline{3}", ".(3)".
struct Period {
  std::size_t end;
  std::size_t begin = 0;
  std::size_t size = 0;
};

Period read_period(const Text& text, std::size_t i, bool has_point) {
  const std::size_t at = skip_byte(text, i, '.');
  const bool brings_point = at != i;
  if (brings_point == has_point) return {i};
  if (text.at(at) == '(') {
    const std::size_t end = skip_digits(text, at + 1);
    const bool is_period = brings_point && end != at + 1 && end - at - 1 <= 9 && text.at(end) == ')';
    return is_period ? Period{end + 1, at + 1, end - at - 1} : Period{i};
  }
  static constexpr std::string_view kBars[] = {"\\overline", "\\bar", "\\dot"};
  std::size_t begin = skip_any(text, at, kBars);
  if (begin == at) return {i};
  begin = skip_space(text, begin);
  if (is_digit(text.at(begin))) return {begin + 1, begin, 1};
  if (text.at(begin) != '{') return {i};
  const std::size_t end = skip_digits(text, begin + 1);
  const std::size_t size = end - begin - 1;
  return size >= 1 && size <= 9 && text.at(end) == '}' ? Period{end + 1, begin + 1, size} : Period{i};
}

void set_repeating(Number& number, bool is_negative, const Text& text, std::size_t begin, std::size_t end,
                   const Period& period) {
  Wide digits = 0, repeated = 0;
  std::size_t size = 0, decimals = 0;
  bool after_point = false;
  for (std::size_t i = begin; i < end; ++i) {
    const int c = text.at(i);
    after_point |= c == '.';
    if (!is_digit(c)) continue;
    size += size > 0 || c != '0';
    decimals += after_point;
    if (size + period.size > kMaxTermDigits || decimals + period.size > kMaxTermDigits) return;
    digits = digits * 10 + static_cast<unsigned>(c - '0');
  }
  if (size + period.size > kMaxTermDigits || decimals + period.size > kMaxTermDigits) return;
  for (std::size_t k = 0; k < period.size; ++k) {
    repeated = repeated * 10 + static_cast<unsigned>(text.at(period.begin + k) - '0');
  }
  const Wide scale = power_of_ten(static_cast<std::int64_t>(period.size));
  set_rational(number, is_negative, digits * scale + repeated - digits,
               (scale - 1) * power_of_ten(static_cast<std::int64_t>(decimals)));
}

// The zeros of "million" or "k" after a number; 0 if there is none.
std::int64_t read_multiplier(const Text& text, std::size_t i, bool is_formula, std::size_t& end) {
  struct Multiplier {
    std::string_view word;
    std::int64_t zeros;
  };
  static constexpr Multiplier kWords[] = {{"hundred", 2},   {"thousand", 3}, {"million", 6}, {"billion", 9},
                                          {"trillion", 12}, {"lakh", 5},     {"crore", 7}};
  static constexpr Multiplier kSuffixes[] = {{"k", 3},  {"K", 3},  {"MM", 6}, {"mn", 6}, {"M", 6},
                                             {"bn", 9}, {"Bn", 9}, {"BN", 9}, {"B", 9}};
  const std::size_t blanks = skip_wide_blanks(text, i, 2);
  const std::size_t inside = skip_text_command(text, blanks);  // \text{ million dollars}
  const bool is_in_text = inside != blanks;
  const std::size_t at = is_in_text ? skip_at_most(text, inside, " ~", 2) : skip_gap(text, i);
  for (const Multiplier& multiplier : kWords) {
    if (!text.has_word(at, multiplier.word)) continue;
    std::size_t word_end = at + multiplier.word.size();
    if (Text::lower(text.at(word_end)) == 's') ++word_end;
    if (is_word(text, word_end)) continue;
    if (is_in_text) {
      std::size_t close = word_end;
      while (close - word_end < 48 && text.at(close) >= 0 && !is_digit(text.at(close)) &&
             !is_one_of(text.at(close), "{}\\\n")) {
        ++close;
      }
      if (text.at(close) != '}') continue;
      word_end = close + 1;
    }
    end = word_end;
    return multiplier.zeros;
  }
  if (is_formula || !is_letter(text.at(i))) return 0;
  for (const Multiplier& multiplier : kSuffixes) {
    if (skip_whole_word(text, i, multiplier.word) != i) {
      end = i + multiplier.word.size();
      return multiplier.zeros;
    }
  }
  return 0;
}

// The sign and currency before digits or a fraction.
struct Head {
  bool is_there = false;
  std::size_t end = 0;
  bool has_sign = false;  // before the number
  bool is_negative = false;
};

bool is_ahead(const Text& text, std::size_t i) {
  const int c = text.at(i);
  if (is_digit(c)) return true;
  if (c == '.') return is_digit(text.at(i + 1));
  const std::size_t argument = skip_fraction_command(text, i);
  if (argument == i) return false;
  const int next = text.at(skip_at_most(text, argument, " ", 2));
  return next == '{' || is_digit(next);
}

// is_loose: blanks may follow the sign and the currency, and "minus" is a sign.
Head read_head(const Text& text, std::size_t i, bool is_loose) {
  Head head;
  const int blanks = is_loose ? 2 : 0;
  Sign sign = read_sign(text, i);
  head.has_sign = sign.is_there;
  if (is_loose && !sign.is_there) {
    for (const std::string_view word : {"minus", "negative"}) {
      if (!text.has_word(i, word)) continue;
      const std::size_t end = skip_wide_blanks(text, i + word.size(), 1);
      if (end != i + word.size()) sign = {end, true, true};
    }
  }
  if (sign.is_there) {
    head.is_negative = sign.is_minus;
    std::size_t at = sign.end;
    if (is_loose) {
      at = skip_wide_blanks(text, at, blanks);
    } else if (text.at(at) == '\\' && is_one_of(text.at(at + 1), ",;:!")) {
      at += 2;
    }
    head.end = skip_currency(text, at);
    if (is_loose && head.end != at) head.end = skip_wide_blanks(text, head.end, 1);
  } else {
    head.end = skip_currency(text, i);
    if (head.end != i) {
      if (is_loose) head.end = skip_wide_blanks(text, head.end, 1);
      const Sign late = read_sign(text, head.end);
      head.is_negative = late.is_minus;
      head.end = is_loose ? skip_wide_blanks(text, late.end, 1) : late.end;
    }
  }
  head.is_there = is_ahead(text, head.end);
  return head;
}

// Options for reading a number.
struct Reading {
  bool is_loose = true;      // a blank may follow the sign, and "minus" is a sign
  bool is_negative = false;  // a sign precedes the number at a distance
  bool is_formula = false;   // letters are symbols: "5k" is not 5000
};

// The number that begins at `i`, including its sign and currency.
Number read_number(const Text& text, std::size_t i, const Reading& reading) {
  Number number;
  number.end = i;
  const Head head = read_head(text, i, reading.is_loose);
  if (!head.is_there) return number;
  const bool is_negative = head.is_negative || reading.is_negative;
  const std::size_t begin = head.end;
  if (text.at(begin) == '\\') {
    const Fraction fraction = read_fraction(text, begin);
    if (fraction.end == begin) return number;
    number.is_formed = true;
    number.end = fraction.end;
    set_ratio(number, is_negative != fraction.is_negative, read_plain(text, fraction.over[0], fraction.over[1]),
              read_plain(text, fraction.under[0], fraction.under[1]), 0);
    return number;
  }

  number.is_formed = true;
  const std::size_t end = number.end = skip_plain(text, begin);
  Decimal decimal = read_plain(text, begin, end);
  const int next = text.at(end);
  if (next == '.' || next == '\\') {
    const bool has_point = text.view(begin, end).find('.') != std::string_view::npos;
    const Period period = read_period(text, end, has_point);
    if (period.end != end) {
      number.end = period.end;
      set_repeating(number, is_negative, text, begin, end, period);
      return number;
    }
  }
  const Power power = read_power(text, end);
  if (power.end != end) {
    number.end = power.end;
    if (power.is_integer && text.view(begin, end) == "10") {
      Decimal one;
      one.digits[one.size++] = '1';
      one.power = power.exponent;
      set_decimal(number, one, is_negative);
    }
    return number;
  }
  Exponent exponent = read_letter_exponent(text, end);
  if (exponent.end == end) exponent = read_times_ten(text, end);
  if (exponent.end != end) {
    number.end = exponent.end;
    decimal.power += exponent.power;
    set_decimal(number, decimal, is_negative);
    return number;
  }
  if (text.before(i) != '/') {  // not inside of 3/4/2020
    const std::size_t slash = skip_space(text, end);
    if (text.at(slash) == '/') {
      const std::size_t minus = skip_space(text, slash + 1);
      const std::size_t under = skip_byte(text, minus, '-');
      const std::size_t under_end = skip_plain(text, under, true);
      const std::size_t after = skip_space(text, under_end);
      if (under_end != under && !(text.at(after) == '/' && is_digit(text.at(skip_space(text, after + 1))))) {
        number.end = under_end;
        set_ratio(number, is_negative != (under != minus), decimal, read_plain(text, under, under_end), 0);
        return number;
      }
    }
  }
  if (skip_digits(text, begin) == end && num_digits(decimal) <= kMaxTermDigits) {  // "1 1/2", "1\frac{1}{2}"
    std::size_t over = skip_wide_blanks(text, end, 1);
    if (text.has(end, " and ")) {
      over = end + 5;
    } else if (text.at(end) == '-') {
      over = end + 1;
    }
    const std::size_t slash = skip_digits(text, over);
    const std::size_t last = text.at(slash) == '/' ? skip_digits(text, slash + 1) : slash;
    const bool is_longer = text.at(last) == '/' || (text.at(last) == '.' && is_digit(text.at(last + 1)));
    if (over != end && slash != over && last > slash + 1 && !is_longer) {
      const std::size_t terms[2][2] = {{over, slash}, {slash + 1, last}};
      if (is_below_one(text, terms[0], terms[1])) {
        number.end = last;
        set_ratio(number, is_negative, read_plain(text, over, slash), read_plain(text, slash + 1, last),
                  whole(decimal));
        return number;
      }
    } else {
      const Fraction fraction = read_fraction(text, over);
      if (fraction.end != over && !fraction.is_negative && is_below_one(text, fraction.over, fraction.under)) {
        number.end = fraction.end;
        set_ratio(number, is_negative, read_plain(text, fraction.over[0], fraction.over[1]),
                  read_plain(text, fraction.under[0], fraction.under[1]), whole(decimal));
        return number;
      }
    }
  }
  decimal.power += read_multiplier(text, end, reading.is_formula, number.end);
  set_decimal(number, decimal, is_negative);
  return number;
}

// Units.

constexpr std::string_view kUnits1 = "msghlLNJWVAKCFt";
const WordSet kUnits2("unit_symbols");
const WordSet kUnits3("attached_units");
const WordSet kNoUnits("no_units");
const WordSet kShort("prepositions");

// Whether a word after a number may be its unit. is_attached: no blank precedes it; has_word: other words do.
bool is_unit(std::string_view word, bool is_attached, bool has_word, bool is_formula) {
  if (word.size() == 1) {
    const bool is_known = kUnits1.find(word[0]) != std::string_view::npos;
    return (is_known && !(is_attached && is_formula)) || (has_word && word == "a");
  }
  if (word.size() == 2) {
    const bool is_symbol = word[0] == '\xD0' || word[0] == '\xD1' || word == "\xCE\xA9";  // Cyrillic units, Ω
    return is_symbol || kUnits2.has(word) || (has_word && kShort.has(word));
  }
  return is_attached ? kUnits3.has(lower(word)) : !kNoUnits.has(lower(word));
}

std::size_t skip_unit_power(const Text& text, std::size_t i) {
  if (text.at(i) != '^') return i;
  const std::size_t power = skip_byte(text, i + 1, '{');
  return text.at(power) == '2' || text.at(power) == '3' ? skip_byte(text, power + 1, '}') : i;
}

// The position after the content of "\text{" (at most 64 bytes without digits and commands) and its brace, or `i`.
std::size_t skip_text_content(const Text& text, std::size_t i) {
  std::size_t end = i;
  while (end - i < 64 && text.at(end) >= 0 && !is_digit(text.at(end)) && !is_one_of(text.at(end), "{}\\")) ++end;
  return text.at(end) == '}' ? end + 1 : i;
}

// The position after "\text{ cm}^2", or `i`.
std::size_t skip_unit_text(const Text& text, std::size_t i) {
  const std::size_t inside = skip_text_command(text, i);
  if (inside == i) return i;
  std::size_t word = inside;
  while (is_one_of(text.at(word), " ~")) ++word;
  static constexpr std::string_view kNoText[] = {"and", "or", "to", "if", "mod", "when", "where",
                                                 "for", "i",  "e",  "x",  "y",   "n"};
  if (is_among(text.view(word, skip_letters(text, word)), kNoText)) return i;
  const std::size_t end = skip_text_content(text, inside);
  return end == inside ? i : skip_unit_power(text, end);
}

bool is_ordinal(const Text& text, std::size_t i) {
  return text.has(i, "st") || text.has(i, "nd") || text.has(i, "rd") || text.has(i, "th");
}

std::size_t skip_closing(const Text& text, std::size_t i) {
  const int c = text.at(i);
  if (is_space(c) || is_one_of(c, ".*_`\"')]}$,;:?~%")) return i + 1;
  if (c == '\\' && is_one_of(text.at(i + 1), ",;:! $%)]")) return i + 2;
  if (c >= 0x80) return skip_cjk(text, i);
  const std::size_t degree = skip_byte(text, skip_byte(text, i, '^'), '{');
  for (const std::string_view name : {"circ", "degree"}) {
    const std::size_t end = skip_command(text, degree, name);
    if (end != degree) return skip_byte(text, end, '}');
  }
  if (c == '^') {  // 5^{\text{th}}
    const std::size_t ordinal = text.has(degree, "\\text{")     ? degree + 6
                                : text.has(degree, "\\mathrm{") ? degree + 8
                                                                : degree;
    if (is_ordinal(text, ordinal)) return skip_at_most(text, ordinal + 2, "}", 2);
  }
  const std::size_t right = skip_command(text, i, "right");
  return right == i ? i : skip_byte(text, right, '.');
}

// The position after all marks and units that may follow a number, which ends at `begin`, in a box or a gold.
std::size_t skip_units(const Text& text, std::size_t begin, bool is_formula) {
  bool has_word = false;
  for (std::size_t i = begin;;) {
    std::size_t end = skip_closing(text, i);
    if (end == i) end = skip_unit_text(text, i);
    const std::size_t slash = skip_space(text, i);
    if (end == i && text.at(slash) == '/') {
      const std::size_t word = skip_space(text, slash + 1);
      const std::size_t word_end = skip_word(text, word);
      if (word_end > word + 1 && is_unit(text.view(word, word_end), false, false, is_formula)) end = word_end;
    }
    if (end == i) {
      const std::size_t word_end = skip_word(text, i);
      if (word_end == i || !is_unit(text.view(i, word_end), i == begin, has_word, is_formula)) return i;
      has_word |= word_end - i > 2;
      end = word_end;
      if (text.at(end) == '/') {
        const std::size_t second = skip_word(text, end + 1);
        if (second != end + 1) end = second;
      }
      end = skip_unit_power(text, end);
    }
    i = end;
  }
}

// After a marker.

// The position after "x =", "x_1 =", "\theta =", "\text{Total} =", "total cost =", or `i`.
std::size_t skip_equals_of_name(const Text& text, std::size_t i) {
  const std::size_t at = skip_wide_blanks(text, i, 2);
  return text.at(at) == '=' ? at + 1 : skip_command(text, at, "approx") != at ? at + 7 : i;
}

bool is_alphanumeric(int c) { return is_digit(c) || is_letter(c); }

std::size_t skip_alphanumeric(const Text& text, std::size_t i, std::size_t most) {
  const std::size_t begin = i;
  while (i - begin < most && is_alphanumeric(text.at(i))) ++i;
  return i;
}

std::size_t skip_name(const Text& text, std::size_t i) {
  const auto then = [&](std::size_t name_end) {
    const std::size_t end = skip_equals_of_name(text, name_end);
    return end == name_end ? i : end;
  };
  const auto letters_and_blanks = [&](std::size_t at, std::size_t most) {
    const std::size_t begin = at;
    while (at - begin < most && (is_letter(text.at(at)) || text.at(at) == ' ')) ++at;
    return at;
  };
  if (text.at(i) == '\\') {
    std::size_t end = i + 1;
    while (end - i - 1 < 12 && is_letter(text.at(end))) ++end;
    if (end - i - 1 >= 2 && then(end) != i) return then(end);
    const std::size_t inside = skip_text_command(text, i);
    if (inside == i) return i;
    end = letters_and_blanks(inside, 24);
    return end != inside && text.at(end) == '}' ? then(end + 1) : i;
  }
  if (!is_letter(text.at(i))) return i;
  std::size_t symbol = i + 1;  // x, x_1, x_{max}, f(2)
  if (text.at(symbol) == '_') {
    const std::size_t brace = skip_byte(text, symbol + 1, '{');
    const std::size_t end = skip_alphanumeric(text, brace, brace == symbol + 1 ? 1 : 8);
    if (end != brace && (brace == symbol + 1 || text.at(end) == '}')) symbol = brace == symbol + 1 ? end : end + 1;
  } else if (text.at(symbol) == '(') {
    const std::size_t end = skip_alphanumeric(text, symbol + 1, 3);
    if (end != symbol + 1 && text.at(end) == ')') symbol = end + 1;
  }
  if (then(symbol) != i) return then(symbol);
  const std::size_t brace = letters_and_blanks(i + 1, 23);
  if (brace != i + 1 && text.at(brace) == '}' && then(brace + 1) != i) return then(brace + 1);
  std::size_t word = i;
  for (int words = 0; words < 5; ++words) {
    const std::size_t end = skip_letters(text, word);
    const std::size_t size = end - word;
    if (size >= 4 && size <= 20 && then(end) != i) return then(end);
    if (size < 2 || size > 15 || text.at(end) != ' ') return i;
    word = end + 1;
  }
  return i;
}

std::size_t skip_annotation(const Text& text, std::size_t i) {  // <<16-3=13>>
  if (!text.has(i, "<<")) return i;
  std::size_t end = i + 2;
  while (end - i - 2 < 64 && text.at(end) >= 0 && !is_one_of(text.at(end), "<>")) ++end;
  return text.has(end, ">>") ? end + 2 : i;
}

// The position after "\text{Rs. }" or "\text{approximately }", or `i`.
std::size_t skip_text_of_currency(const Text& text, std::size_t i) {
  static constexpr std::string_view kTexts[] = {"\\$", "$",   "Rs.",           "Rs",      "USD",    "EUR",
                                                "GBP", "INR", "approximately", "approx.", "approx", "about"};
  if (!text.has(i, "\\text{") && !text.has(i, "\\mathrm{")) return i;
  const std::size_t begin = skip_gap(text, i + (text.at(i + 1) == 't' ? 6 : 8));
  const std::size_t end = skip_any(text, begin, kTexts);
  const std::size_t close = skip_gap(text, end);
  return end != begin && text.at(close) == '}' ? close + 1 : i;
}

// The position after marks, names with their "=", and other text that may precede a value.
std::size_t skip_before(const Text& text, std::size_t i) {
  static constexpr std::string_view kCurrencyWords[] = {"Rs", "USD", "EUR", "GBP", "INR", "US"};
  for (int k = 0; k < 32; ++k) {
    const int c = text.at(i);
    if (c < 0 || is_digit(c)) return i;
    std::size_t end = is_letter(c) || c == '\\' ? skip_name(text, i) : i;
    if (end == i) {
      if ((c == '-' || c == '=') && text.at(i + 1) == '>') {
        end = i + 2;
      } else if (is_space(c) || is_one_of(c, "*_`\"'([{$:~=")) {
        end = i + 1;
      } else if (c == '\\') {
        end = is_one_of(text.at(i + 1), "([ ,;:!$") ? i + 2 : skip_text_of_currency(text, i);
        if (end == i) end = skip_text_command(text, i);
        if (end == i && text.has(i, "\\underline{")) end = i + 11;
        for (const std::string_view name : {"approx", "left", "displaystyle"}) {
          if (end == i) end = skip_command(text, i, name);
        }
      } else if (c == '<') {
        end = skip_annotation(text, i);
      } else if (is_letter(c)) {
        for (const std::string_view word : kCurrencyWords) {
          if (end != i || !text.has(i, word)) continue;
          const std::size_t value = skip_space(text, skip_byte(text, i + word.size(), '.'));
          const int next = text.at(skip_byte(text, value, '-'));
          if (is_digit(next) || next == '$') end = value;
        }
      }
    }
    if (end == i) return i;
    i = end;
  }
  return i;
}

// The position after one filler ("therefore", "about"), or `i`.
std::size_t skip_filler(const Text& text, std::size_t i) {
  static constexpr std::string_view kFillers[] = {
      "therefore", "thus",     "then",     "hence",         "indeed",     "simply",   "just",        "exactly",
      "precisely", "only",     "about",    "approximately", "approx",     "around",   "roughly",     "nearly",
      "almost",    "actually", "clearly",  "also",          "still",      "now",      "circa",       "it is",
      "it's",      "this is",  "equal to", "equals",        "a total of", "given by", "found to be", "to be"};
  if (!is_letter(text.at(i))) return i;
  for (const std::string_view filler : kFillers) {
    if (!text.has_word(i, filler)) continue;
    const std::size_t end = i + filler.size();
    if (!is_word(text, end) && text.at(end) != '-') return is_one_of(text.at(end), ",.") ? end + 1 : end;
  }
  return i;
}

// Numbered headings.

bool is_initial(const Text& text, std::size_t i) { return skip_word(text, i) != i || skip_cjk(text, i) != i; }

// Whether the text is a numbered heading ("1. Count the apples") rather than a value.
bool is_numbered_heading(const Text& text) {
  constexpr std::string_view kMarks = "*_\"'`";
  std::size_t end = skip_at_most(text, 0, "0123456789", 2);
  if (end == 0) return false;
  int first = 0;
  for (std::size_t i = 0; i < end; ++i) first = first * 10 + (text.at(i) - '0');
  for (int k = 0; k < 3; ++k) {
    if (!is_one_of(text.at(end), "./") || !is_digit(text.at(end + 1))) break;
    end = skip_at_most(text, end + 1, "0123456789", 2);
  }
  if (first > kMaxHeading || is_digit(text.at(end))) return false;

  // 1. Count, (1) Add, 1: Setup, _1._ Add, 1. **Find**
  const std::size_t marks = skip_at_most(text, end, kMarks, 4);
  const std::size_t closing = skip_byte(text, skip_space(text, marks), '\\');
  if (is_one_of(text.at(closing), ".):]|")) {
    const std::size_t after = skip_at_most(text, closing + 1, "*_\"'`)].:", 4);
    const std::size_t begin = skip_wide_blanks(text, after, 4);
    if (is_initial(text, skip_at_most(text, begin, "*_\"'`([", 4))) return true;
    if (begin != after && is_digit(text.at(skip_byte(text, begin, '$')))) return true;
  }
  // 1st step
  for (const std::string_view ordinal : {"st", "nd", "rd", "th"}) {
    if (!text.has(end, ordinal)) continue;
    const std::size_t after = skip_at_most(text, end + 2, "*_\"'`)].:", 4);
    const std::size_t begin = skip_wide_blanks(text, after, 4);
    if (begin != after && is_initial(text, skip_at_most(text, begin, kMarks, 4))) return true;
  }
  const std::size_t blanks = skip_wide_blanks(text, marks, 4);
  if (blanks == marks) return false;
  // 5 Add the numbers; but 5 Apples, 5 Apples in total
  static constexpr std::string_view kNoHeading[] = {"in",     "per",  "left", "each",       "total", "remaining",
                                                    "remain", "of",   "are",  "and",        "were",  "is",
                                                    "was",    "will", "more", "altogether", "a",     "an"};
  const std::size_t word = skip_at_most(text, blanks, kMarks, 4);
  if (text.at(word) >= 'A' && text.at(word) <= 'Z') {
    std::size_t word_end = word + 1;
    while (text.at(word_end) >= 'a' && text.at(word_end) <= 'z') ++word_end;
    const std::size_t next = skip_at_most(text, word_end, " ", 4);
    if (word_end != word + 1 && next != word_end && is_letter(text.at(next))) {
      const bool is_value = std::any_of(std::begin(kNoHeading), std::end(kNoHeading),
                                        [&](std::string_view no) { return skip_whole_word(text, next, no) != next; });
      if (!is_value) return true;
    }
  }
  // 1 - Find the cost; but 18 - final
  std::size_t dash = blanks;
  if (text.at(dash) == '-') {
    dash = skip_byte(text, dash + 1, '-');
  } else if (text.has(dash, "\xE2\x80\x94")) {
    dash += 3;
  }
  const std::size_t title = skip_wide_blanks(text, dash, 4);
  const int initial = text.at(skip_at_most(text, title, kMarks, 4));
  return dash != blanks && title != dash && initial >= 'A' && initial <= 'Z';
}

// Expressions: the value of "8 bolts * 2 bolts/bolt = 16 bolts" is its right-hand side.

// The end of the digits, fraction or root of a term; `i` if there is none.
std::size_t skip_term(const Text& text, std::size_t i) {
  const std::size_t root = skip_byte(text, i, '\\');
  if (text.has(root, "sqrt")) {
    const std::size_t inside = skip_space(text, root + 4);
    const std::size_t brace = skip_at_most(text, inside, "{(", 1);
    const std::size_t end = skip_plain(text, brace);
    if (end != brace && (brace == inside || is_one_of(text.at(end), ")}"))) return brace == inside ? end : end + 1;
  }
  const Head head = read_head(text, i, true);
  if (!head.is_there) return i;
  if (text.at(head.end) == '\\') {
    const std::size_t end = read_fraction(text, head.end).end;
    return end == head.end ? i : end;
  }
  const std::size_t end = skip_plain(text, head.end);
  return read_letter_exponent(text, end).end;
}

// The position after an operator and the blanks around it, or `i`.
std::size_t skip_operator(const Text& text, std::size_t i) {
  static constexpr std::string_view kWords[] = {"of",    "at",  "plus",       "minus",
                                                "times", "and", "divided by", "multiplied by"};
  const std::size_t begin = skip_wide_blanks(text, i, 4);
  const int c = text.at(begin);
  std::size_t end = begin;
  if (c == '-') {
    end = skip_byte(text, begin + 1, '-');
  } else if (is_one_of(c, "+*/")) {
    end = begin + 1;
  } else if (c == 'x' || c == 'X') {
    const int next = text.at(skip_gap(text, begin + 1));
    if (is_digit(next) || is_one_of(next, "($.")) end = begin + 1;
  } else if (c == '\\') {
    for (const std::string_view name : {"times", "cdot", "div"}) {
      if (end == begin) end = skip_command(text, begin, name);
    }
  } else if (is_letter(c)) {
    for (const std::string_view word : kWords) {
      if (end == begin) end = skip_whole_word(text, begin, word);
    }
  }
  return end == begin ? i : skip_wide_blanks(text, end, 4);
}

// The position after "!", "%", a power, a closing bracket or "\text{ cm}", or `i`.
std::size_t skip_postfix(const Text& text, std::size_t i) {
  const int c = text.at(i);
  if (is_one_of(c, "!%)]}$")) return i + 1;
  if (const std::size_t slash = skip_gap(text, i); text.at(slash) == '/') {  // $2/egg
    const std::size_t word = skip_gap(text, slash + 1);
    const std::size_t end = skip_letters(text, word);
    return end > word + 1 || (end == word + 1 && is_one_of(text.at(word), "hs")) ? end : i;
  }
  if (c == '^') {
    const std::size_t power = skip_byte(text, i + 1, '{');
    std::size_t end = power;
    while (is_digit(text.at(end)) || text.at(end) == '-') ++end;
    return end == power ? i : skip_byte(text, end, '}');
  }
  if (c != '\\') return i;
  if (is_one_of(text.at(i + 1), "%)],;:!")) return i + 2;
  const std::size_t inside = skip_text_command(text, i);
  if (inside == i) return i;
  const std::size_t end = skip_text_content(text, inside);
  return end == inside ? i : end;
}

// The position after the marks and at most three words that may follow a term.
std::size_t skip_term_words(const Text& text, std::size_t i, bool& has_words) {
  static const WordSet kNoTermWords("no_term_words");
  int words = 0;
  for (int k = 0; k < 12; ++k) {
    std::size_t end = skip_postfix(text, i);
    if (end == i && words < 3 && skip_operator(text, i) == i) {
      const std::size_t begin = skip_at_most(text, i, " ~", 2);
      const std::size_t word_end = skip_letters(text, begin);
      const std::string_view word = text.view(begin, word_end);
      const bool is_symbol = word.size() == 1 && kUnits1.find(word[0]) == std::string_view::npos &&
                             !is_one_of(static_cast<unsigned char>(word[0]), "kMB");
      if (!word.empty() && !is_symbol && !kNoTermWords.has(lower(word))) {
        ++words;
        end = word_end;
        if (is_one_of(text.at(end), "/-") && is_letter(text.at(end + 1))) end = skip_letters(text, end + 1);
        if (text.at(end) == '^') {
          const std::size_t power = skip_byte(text, end + 1, '{');
          if (is_digit(text.at(power))) end = skip_byte(text, power + 1, '}');
        }
      }
    }
    if (end == i) break;
    i = end;
  }
  has_words = words > 0;
  return i;
}

// The position after "=" or a word for it, or `i`. "is" and "≈" count only after an operator.
std::size_t skip_equals(const Text& text, std::size_t i, bool has_operator) {
  const std::size_t at = skip_wide_blanks(text, i, 4);
  if (text.at(at) == '=') return skip_byte(text, skip_byte(text, at + 1, '='), '>');
  for (const std::string_view word : {"equals", "is"}) {
    const std::size_t end = skip_whole_word(text, at, word);
    if (end != at) return has_operator || word == "equals" ? end : i;
  }
  const std::size_t which = skip_space(text, skip_byte(text, at, ','));
  if (has_operator && text.has(which, "which ")) {
    for (const std::string_view word : {"is", "equals", "gives", "makes"}) {
      const std::size_t end = skip_whole_word(text, which + 6, word);
      if (end != which + 6) return end;
    }
  }
  const std::size_t approx = skip_command(text, at, "approx");
  return approx != at && has_operator ? approx : i;
}

// Where the value of the expression at `begin` begins: at its last side that is a single term, after the last "=" if no
// side is, and at `begin` if there is no "=".
std::size_t right_hand_end(const Text& text, std::size_t begin) {
  std::size_t side = begin, single = kNone;  // where this side, and the last single-term side, begin
  std::size_t i = begin;
  bool has_operator = false, is_sum = false;
  for (int terms = 0; terms < kMaxTerms; ++terms) {
    const std::size_t term = skip_before(text, i);
    const std::size_t end = skip_term(text, term);
    if (end == term) return single == kNone ? side : single;
    if (!is_sum) side = term;
    bool has_words = false;
    i = skip_term_words(text, end, has_words);
    const std::size_t equals = skip_equals(text, i, has_operator);
    if (equals != i) {
      if (!is_sum) single = side;
      i = equals;
      is_sum = false;
      continue;
    }
    std::size_t next = skip_operator(text, i);
    if (next == i && text.at(i) == '(') next = i + 1;  // (3)(4) = 12
    if (next == i && has_words) {                      // 2 hours 30 minutes = 150 minutes
      const std::size_t blank = skip_byte(text, i, ',');
      if (text.at(blank) == ' ' && is_digit(text.at(blank + 1))) next = blank + 1;
    }
    if (next == i) break;
    i = next;
    has_operator = is_sum = true;
  }
  return single == kNone || !is_sum ? side : single;
}

// Where the value begins: after marks, fillers ("therefore", "about"), "x =" and "2 + 3 =".
std::size_t value_begin(const Text& text, std::size_t i) {
  i = skip_before(text, i);
  for (int k = 0; k < 3; ++k) i = skip_before(text, skip_filler(text, i));
  return right_hand_end(text, i);
}

// A number that continues is not a value: 3:45, 10-12, 1,2,3, "2 hours 30 minutes".

const WordSet kWholeUnits("whole_units");
const WordSet kPlainCommands("plain_commands");

// Whether a number begins at `i`.
bool is_number_ahead(const Text& text, std::size_t i) {
  return is_digit(text.at(skip_byte(text, skip_byte(text, skip_currency(text, i), '-'), '.')));
}

bool is_spaced_number_ahead(const Text& text, std::size_t i) {
  return text.at(i) == ' ' && is_number_ahead(text, i + 1);
}

std::size_t skip_whole_unit(const Text& text, std::size_t i) {
  const std::size_t begin = skip_gap(text, i);
  const std::size_t end = skip_letters(text, begin);
  return end != begin && kWholeUnits.has(text.view(begin, end)) ? end : i;
}

std::size_t skip_percent(const Text& text, std::size_t i) {
  const std::size_t end = skip_byte(text, i, '\\');
  return text.at(end) == '%' ? end + 1 : i;
}

// A command that is a symbol or a function, like \pi and \sqrt.
bool is_symbol_command(const Text& text, std::size_t i) {
  if (text.at(i) != '\\') return false;
  const std::size_t end = skip_letters(text, i + 1);
  return end - i > 2 && !kPlainCommands.has(text.view(i + 1, end));
}

// A range or a list: "-12", " to 12", ", 3", " and 3" after a number, its unit or percent sign.
bool is_range(const Text& text, std::size_t i) {
  std::size_t end = skip_percent(text, i);
  if (end == i) end = skip_whole_unit(text, i);
  const std::size_t dash = skip_space(text, end);
  if (text.at(end) == '-' && is_digit(text.at(skip_currency(text, end + 1)))) return true;
  if (text.has(dash, "--") && is_number_ahead(text, skip_space(text, dash + 2))) return true;
  for (const std::string_view word : {" to", " through", " versus", " vs"}) {
    if (!text.has(end, word)) continue;
    std::size_t next = end + word.size();
    if (word == " vs") next = skip_byte(text, next, '.');
    if (is_spaced_number_ahead(text, next)) return true;
  }
  return false;
}

bool is_list(const Text& text, std::size_t i) {
  std::size_t end = skip_percent(text, i);
  if (end == i) {
    const std::size_t begin = skip_gap(text, i);
    if (!text.has(begin, "and ") && !text.has(begin, "or ")) {
      std::size_t word = begin;
      while (word - begin < 15 && is_letter(text.at(word))) ++word;
      if (word != begin) end = word;
    }
  }
  end = skip_byte(text, end, ',');
  for (const std::string_view word : {" and", " or", " &"}) {
    if (text.has(end, word) && is_spaced_number_ahead(text, end + word.size())) return true;
  }
  return false;
}

// "2 hours 30 minutes", "2 and a half"
bool is_sum(const Text& text, std::size_t i) {
  std::size_t end = skip_whole_unit(text, i);
  if (end != i) {
    if (is_one_of(text.at(end), ".,")) ++end;
    end = skip_at_most(text, end, " ", 2);
    if (text.has(end, "and ")) end += 4;
    if (is_digit(text.at(end))) return true;
  }
  i = skip_whole_unit(text, i);
  std::size_t part = text.has(i, " and a ") ? i + 7 : text.has(i, " and one ") ? i + 9 : i;
  for (const std::string_view word : {"half", "third", "quarter"}) {
    if (part != i && skip_whole_word(text, part, word) != part) return true;
  }
  return false;
}

// "^2", "_8", " + x", "\pi", " x", " < y"
bool is_formula_ahead(const Text& text, std::size_t i) {
  const int c = text.at(i);
  if (c == '_' && text.at(i + 1) == '{') return true;
  if (c == '^') {
    const std::size_t power = skip_byte(text, i + 1, '{');
    const bool is_degree = text.has(power, "\\circ") || text.has(power, "\\degree");
    const std::size_t ordinal = text.has(power, "\\text{")     ? power + 6
                                : text.has(power, "\\mathrm{") ? power + 8
                                                               : power;
    if (!is_degree && !is_ordinal(text, ordinal)) return true;
    if (text.has(power, "\\circ")) {  // 5°30'
      return is_digit(text.at(skip_at_most(text, skip_byte(text, power + 5, '}'), " ", 2)));
    }
    return false;
  }
  if (is_symbol_command(text, skip_wide_blanks(text, i, 2))) return true;
  const std::size_t sign = skip_space(text, i);
  if (is_one_of(text.at(sign), "-+*")) {
    const std::size_t term = skip_digits(text, skip_space(text, sign + 1));
    const int symbol = text.at(term);
    if (is_symbol_command(text, term)) return true;
    if (is_letter(symbol) && !is_one_of(symbol, "aAI") && !is_word(text, term + 1) &&
        !is_one_of(text.at(term + 1), "'.")) {
      return true;
    }
  }
  const std::size_t comma = skip_byte(text, i, ',');
  if (text.at(comma) == ' ') {
    std::size_t name = comma + 1;
    name += text.has(name, "and ") ? 4 : text.has(name, "or ") ? 3 : 0;
    if (is_letter(text.at(name)) && text.at(skip_space(text, name + 1)) == '=') return true;
  }
  if (is_one_of(c, " ~") && is_one_of(text.at(i + 1), "xyz") && !is_word(text, i + 2)) {
    const int next = text.at(skip_gap(text, i + 2));
    if (!is_digit(next) && !is_one_of(next, "($")) return true;
  }
  if (is_one_of(text.at(sign), "<>")) {
    const std::size_t blank = skip_byte(text, sign + 1, '=');
    if (text.at(blank) == ' ' && is_letter(text.at(blank + 1)) && !is_word(text, blank + 2)) return true;
  }
  return false;
}

// "(ducks) * 3": a remark in parentheses, then an operator and another term.
bool is_remark_of_term(const Text& text, std::size_t parenthesis) {
  std::size_t end = parenthesis + 1;
  while (end - parenthesis <= 60 && text.at(end) >= 0 && !is_one_of(text.at(end), "()\n")) ++end;
  if (end == parenthesis + 1 || text.at(end) != ')') return false;
  const std::size_t sign = skip_space(text, end + 1);
  std::size_t term = sign;
  if (is_one_of(text.at(sign), "*+/") || (text.at(sign) == '-' && text.at(sign + 1) == ' ')) {
    term = sign + 1;
  } else if (text.has(sign, "\\times")) {
    term = sign + 6;
  } else if (text.has(sign, "\\cdot")) {
    term = sign + 5;
  }
  const int next = text.at(skip_space(text, term));
  return term != sign && (is_digit(next) || is_one_of(next, "($"));
}

// "3:45", "1,2", "1 2", "3/4/5", "1.2.3", "(5)(4)", " -> 5", " +- 3"
bool is_longer(const Text& text, std::size_t i) {
  const int c = text.at(i);
  const std::size_t comma = skip_any(text, i, kCommas);
  if (comma != i && is_digit(text.at(skip_at_most(text, comma, " ~", 2)))) return true;
  const std::size_t blanks = skip_wide_blanks(text, i, 4);
  if (blanks != i && is_digit(text.at(blanks))) return true;
  if (is_one_of(c, "'_;") && is_digit(text.at(skip_space(text, i + 1)))) return true;
  if (is_one_of(c, ":.") && is_digit(text.at(i + 1))) return true;
  if (text.has(i, " : ") && is_digit(text.at(i + 3))) return true;
  if (c == '(') {
    const std::size_t end = skip_digits(text, i + 1);
    if (end != i + 1 && text.at(end) == ')' && !is_word(text, end + 1)) return true;
  }
  if (text.has(i, ")(") && is_digit(text.at(i + 2))) return true;
  const std::size_t sign = skip_space(text, i);
  if (text.at(sign) == '/' && is_digit(text.at(skip_space(text, sign + 1)))) return true;
  if (text.at(sign) == '(' && is_remark_of_term(text, sign)) return true;
  if (is_one_of(text.at(sign), "-=") && text.at(sign + 1) == '>') {
    return is_digit(text.at(skip_space(text, sign + 2)));
  }
  return text.at(sign) == '+' && text.at(skip_byte(text, sign + 1, '/')) == '-';
}

// "16.7, which is rounded up to 17", but "3.14 (rounded to 2 decimal places)".
bool is_rounded(const Text& text, std::size_t i) {
  for (int words = 0; words < 5; ++words) {
    const std::size_t begin = skip_at_most(text, i, " ,(~", 3);
    if (begin == i) return false;
    if (!text.has(begin, "round")) {
      const std::size_t end = skip_letters(text, begin);
      if (end == begin || end - begin > 15) return false;
      i = end;
      continue;
    }
    std::size_t at = begin + 5;
    for (const std::string_view ending : {"s", "ed", "ing"}) {
      if (at == begin + 5 && text.has(at, ending)) at += ending.size();
    }
    if (text.at(at) != ' ') return false;
    ++at;
    for (int round = 0; round < 2; ++round) {
      static constexpr std::string_view kUp[] = {"up ", "down ", "off ", "it "};
      at = skip_any(text, at, kUp);
    }
    if (!text.has(at, "to ") || !is_number_ahead(text, at + 3)) return false;
    at = skip_byte(text, skip_byte(text, skip_currency(text, at + 3), '-'), '.');
    while (is_digit(text.at(at)) || is_one_of(text.at(at), ".,")) ++at;
    if (text.at(at) != ' ') return true;
    for (const std::string_view place : {"decimal", "significant", "sig", "place", "digit", "dp", "d.p"}) {
      if (text.has(at + 1, place)) return false;
    }
    return true;
  }
  return false;
}

// "16... no, 18", "16, wait, that is wrong"
bool is_taken_back(const Text& text, std::size_t i) {
  std::size_t at = i;
  const std::size_t sign = skip_space(text, i);
  if (text.has(i, "..")) {
    at = skip_byte(text, i + 2, '.');
  } else if (is_one_of(text.at(sign), ",;(?!")) {
    at = sign + 1;
  } else if (text.at(sign) == '-') {
    at = skip_byte(text, sign + 1, '-');
    if (text.at(at) != ' ') return false;
    ++at;
  } else if (text.has(sign, "\xE2\x80\x94")) {
    at = sign + 3;
  } else {
    return false;
  }
  at = skip_at_most(text, at, " ", 2);
  static constexpr std::string_view kNo[] = {"no", "wait", "oops", "sorry", "hmm"};
  const std::size_t end = skip_any(text, at, kNo);
  if (end == at) return false;
  if (is_one_of(text.at(end), ",.!")) return true;
  if (text.at(end) != ' ') return false;
  for (const std::string_view word : {"wait", "it", "that", "actually", "sorry", "I"}) {
    if (skip_whole_word(text, end + 1, word) != end + 1) return true;
  }
  return false;
}

// Whether the text after a number makes it part of something longer: a range, a list, a time, a formula.
bool goes_on(const Text& text, std::size_t end, bool is_heading) {
  const int c = text.at(end);
  if (c < 0 || c == '\n') return false;
  if (is_longer(text, end) || is_formula_ahead(text, end) || is_range(text, end) || is_list(text, end) ||
      is_sum(text, end) || is_rounded(text, end) || is_taken_back(text, end)) {
    return true;
  }
  if (is_heading && c == '!' && !is_one_of(text.at(end + 1), "=!")) {  // the factorial of a small number
    const int ones = text.before(end), tens = text.before(end, 2);
    const bool is_small = !is_digit(tens) || tens == '1' || (tens == '2' && ones == '0');
    return is_digit(ones) && is_small && !is_digit(text.before(end, 3));
  }
  const std::size_t word_end = skip_letters(text, end);
  if (word_end == end || !is_digit(text.before(end))) return false;
  if (c == 'x' || c == 'X') {
    const int next = text.at(skip_gap(text, end + 1));
    if (is_digit(next) || is_one_of(next, "($.")) return false;
  }
  const std::string_view word = text.view(end, word_end);
  if (word.size() <= 3) return !is_unit(word, true, false, false);
  for (const std::string_view name : {"sin", "cos", "tan", "cot", "csc", "log", "sqrt", "exp"}) {
    if (text.has_word(end, name)) return true;
  }
  return false;
}

// Whether a formula begins that is no number: \sqrt{2}, x^2 + 1, > 5.
bool begins_formula(const Text& text, std::size_t i) {
  static constexpr std::string_view kNoFormula[] = {
      "boxed", "fbox",   "quad",      "qquad",   "text",       "textbf",     "textit",  "mathrm", "mathbf", "mathit",
      "mbox",  "hspace", "therefore", "because", "rightarrow", "Rightarrow", "implies", "n",      "t"};
  static constexpr std::string_view kFunctions[] = {"sqrt", "ln",  "log", "sin",      "cos",
                                                    "tan",  "exp", "pi",  "infinity", "undefined"};
  i = skip_space(text, read_sign(text, i).end);
  const int c = text.at(i);
  if (c == '\\') {
    if (is_one_of(text.at(i + 1), "{|")) return true;
    const std::size_t end = skip_letters(text, i + 1);
    return end - i > 2 && !is_among(text.view(i + 1, end), kNoFormula);
  }
  const std::size_t slash = skip_byte(text, i, '/');
  if (text.at(slash) == '-' && is_number_ahead(text, skip_space(text, slash + 1))) return true;
  std::size_t comparison = i;
  if (is_letter(c)) {
    if (is_among(text.view(i, skip_letters(text, i)), kFunctions)) return true;
    if (text.at(i + 1) == '^') return true;
    if (text.at(i + 1) == ',') {
      const std::size_t second = skip_space(text, i + 2);
      if (is_letter(text.at(second)) && text.at(second + 1) == ')') return true;
    }
    if (text.has(i, "between ") && is_number_ahead(text, i + 8)) return true;
    comparison = skip_space(text, i + 1);
    if (is_symbol_command(text, comparison)) return true;
    if (is_one_of(text.at(comparison), "-+*/^")) {
      for (const std::size_t width : {std::size_t{1}, std::size_t{2}}) {
        if (width == 2 && !text.has(comparison, "**")) continue;
        const std::size_t term = skip_space(text, comparison + width);
        const int first = text.at(term);
        const bool is_term = is_digit(first) || (first >= 'a' && first <= 'z') || is_one_of(first, "\\({");
        if (is_term && !is_letter(text.at(term + 1))) return true;
      }
    }
  }
  if (!is_one_of(text.at(comparison), "<>")) return false;
  return is_number_ahead(text, skip_space(text, skip_byte(text, comparison + 1, '=')));
}

// Whether only blanks precede `i` on its line.
bool begins_line(const Text& text, std::size_t i) {
  std::size_t blanks = 0;
  while (blanks < 32 && is_blank(text.before(i, blanks + 1))) ++blanks;
  return text.before(i, blanks + 1) == '\n';
}

// Whether the mark right before `i` rules out a heading.
bool no_heading_after(const Text& text, std::size_t i) {
  static constexpr std::string_view kBefore[] = {
      "$", "=", "{", "\xC2\xA3", "\xE2\x82\xAC", "\xC2\xA5", "\xE2\x82\xB9", "\xE2\x89\x88", "\\(", "\\["};
  return std::any_of(std::begin(kBefore), std::end(kBefore),
                     [&](std::string_view mark) { return text.has_before(i, mark); });
}

Number read_after_marker(const Text& text, bool begins_line, bool is_heading, bool may_be_heading) {
  Number number;
  const std::size_t digits = skip_digits(text, 0);
  if (digits > 0 && skip_byte(text, digits, '.') == text.end()) {  // most values are like "42"
    number.is_formed = true;
    number.end = digits;
    set_decimal(number, read_plain(text, 0, digits), false);
    return number;
  }
  if (may_be_heading && is_numbered_heading(text)) {
    number.is_formed = true;
    return number;
  }
  std::size_t begin = 0;
  if (begins_line && text.at(0) == '-') {
    const std::size_t blank = skip_wide_blanks(text, 1, 1);
    begin = blank == 1 ? 0 : blank;
  }
  begin = value_begin(text, begin);
  number = read_number(text, begin, {});
  if (!number.is_formed) {
    number.is_formed = begins_formula(text, begin);
  } else if (number.has_value && goes_on(text, number.end, is_heading)) {
    number.has_value = false;
  }
  return number;
}

// The last number.

bool may_lead_number(int c) { return is_digit(c) || is_one_of(c, "-.$\\"); }

// Whether a minus sign at `i` is a subtraction.
bool is_subtraction(const Text& text, std::size_t i) {
  return is_word_before(text, i) || is_one_of(text.before(i), ")]}%-");
}

bool is_raised(const Text& text, std::size_t i) {
  return text.has_before(i, "^") || text.has_before(i, "^{") || text.has_before(i, "_{");
}

std::size_t gaps_before(const Text& text, std::size_t i, std::size_t most) {
  std::size_t count = 0;
  while (count < most && is_one_of(text.before(i, count + 1), " ~")) ++count;
  return i - count;
}

// Whether a whole word, in any case, ends at `i`.
bool has_free_word_before(const Text& text, std::size_t i, std::string_view word) {
  if (!text.has_word_before(i, word)) return false;
  const int c = text.before(i, word.size() + 1);
  return c < 0x80 && !is_ascii_word(c);
}

// Whether a sign precedes `i` at a distance: "negative 5", "is minus 5", "= - 7".
bool is_negated(const Text& text, std::size_t i) {
  if (!is_one_of(text.before(i), " ~")) return false;
  const std::size_t end = i - 1;
  if (has_free_word_before(text, end, "negative")) return true;
  if (text.has_word_before(end, "minus")) {
    const std::size_t word = end - 5;
    const std::size_t before = gaps_before(text, word, 2);
    if (text.before(before) == '=') return true;
    if (before == word) return false;
    for (const std::string_view lead : {"is", "was", "to", "at", "by", "be", "of"}) {
      if (has_free_word_before(text, before, lead)) return true;
    }
    return false;
  }
  const std::size_t minus = gaps_before(text, i, 2);
  return text.before(minus) == '-' && text.before(gaps_before(text, minus - 1, 2)) == '=';
}

// Whether `i` follows another number and a multiplication sign.
bool is_factor(const Text& text, std::size_t i) {
  for (int blanks = 0; blanks < 2 && is_one_of(text.before(i), " ~"); ++blanks) --i;
  if (is_one_of(text.before(i), "*xX")) {
    --i;
  } else if (text.has_before(i, "\\times")) {
    i -= 6;
  } else if (text.has_before(i, "\\cdot")) {
    i -= 5;
  } else {
    return false;
  }
  for (int blanks = 0; blanks < 2 && is_one_of(text.before(i), " ~"); ++blanks) --i;
  return is_digit(text.before(i)) || is_one_of(text.before(i), "%$)}");
}

// Whether the digits before and after `i` may be one number: 1.234,56 or 1.000.000.
bool is_part(const Text& text, std::size_t i) {
  if (text.before(i) == '.') return is_digit(text.before(i, 2));
  if (text.before(i) != ',') return false;
  const auto digits_before = [&](std::size_t at) {
    std::size_t count = 0;
    while (count < 4 && is_digit(text.before(at, count + 1))) ++count;
    return count;
  };
  std::size_t at = i - 1;
  for (int groups = 0;; ++groups) {
    const std::size_t count = digits_before(at);
    if (count == 0 || count > 3) return false;
    at -= count;
    if (!is_one_of(text.before(at), ".,")) return true;
    if (text.before(at) == ',' || count != 3 || groups == 3) return false;
    --at;
  }
}

// Whether the digits at `i` are a label ("step 3") or number a list item ("2. Subtract the eaten ones").
bool is_label(const Text& text, std::size_t i, bool is_first_line) {
  std::size_t word = i;
  if (is_one_of(text.before(word), "(#")) --word;
  if (is_one_of(text.before(word), " ~")) {
    for (const std::string_view label : {"step", "steps", "case", "equation", "figure"}) {
      if (has_free_word_before(text, word - 1, label)) return true;
    }
  }
  std::size_t begin = i;
  while (i - begin < 12 && is_one_of(text.before(begin), " \t*_>#([-")) --begin;
  if (is_first_line || begin != text.begin()) return false;
  const std::size_t digits = skip_at_most(text, i, "0123456789", 2);
  const std::size_t closing = skip_at_most(text, digits, ".)]", 2);
  if (closing == digits) return false;
  const std::size_t marks = skip_at_most(text, closing, "*_", 4);
  const std::size_t blanks = skip_at_most(text, marks, " \t", 4);
  const std::size_t initial = skip_at_most(text, blanks, "*_`\"'(", 4);
  return blanks != marks && is_word(text, initial) && !is_digit(text.at(initial));
}

bool last_number_of_line(const Text& text, bool is_first_line, Number& last) {
  bool found = false;
  for (std::size_t i = text.begin(); i < text.end();) {
    const int c = text.at(i);
    if (!may_lead_number(c)) {
      ++i;
      continue;
    }
    const Head head = read_head(text, i, false);
    const bool is_bare = head.end == i;
    if (!head.is_there || (head.has_sign && is_subtraction(text, i)) ||
        (is_bare && c == '.' && (is_word_before(text, i) || text.before(i) == '.'))) {
      ++i;
    } else if ((is_bare && (is_word_before(text, i) || is_label(text, i, is_first_line))) || is_raised(text, i)) {
      std::size_t at = skip_digits(text, skip_byte(text, head.end, '.'));
      while (text.at(at) == '.' && is_digit(text.at(at + 1))) at = skip_digits(text, at + 1);
      i = std::max(at, i + 1);
    } else {
      Reading reading;
      reading.is_loose = false;
      reading.is_negative = is_negated(text, i);
      const Number number = read_number(text, i, reading);
      if (number.has_value) {
        last = is_factor(text, i) || is_part(text, i) ? Number{} : number;
        found = true;
      }
      i = std::max(number.end, i + 1);
    }
  }
  return found;
}

}  // namespace

std::size_t skip_text_command(const Text& text, std::size_t i) {
  if (text.at(i) != '\\') return i;
  const std::size_t end = skip_any(text, i + 1, kTextCommands);
  return end == i + 1 ? i : end;
}

std::size_t skip_decoration(const Text& text, std::size_t i) {
  for (int k = 0; k < 32; ++k) {
    const int c = text.at(i);
    if (c < 0) return i;
    std::size_t end = i;
    if (is_space(c) || is_one_of(c, "*_`\"'([{$:~=")) {
      end = i + 1;
    } else if (c >= 0x80) {
      end = skip_any(text, i, kCurrencies);
      if (end == i) end = skip_any(text, i, kOtherDecorations);
    } else if (c == '\\') {
      end = is_one_of(text.at(i + 1), "([ ,;:!$") ? i + 2 : skip_text_command(text, i);
    }
    if (end == i) return i;
    i = end;
  }
  return i;
}

std::string canonical(const Number& number) {
  std::string text;
  if (number.is_ratio) {
    if (number.is_negative) text += '-';
    return text + std::to_string(number.over) + '/' + std::to_string(number.under);
  }
  const Decimal& decimal = number.decimal;
  if (decimal.size == 0) return "0";
  if (number.is_negative) text += '-';
  const std::int64_t point = decimal.size + decimal.power;
  const std::size_t size = static_cast<std::size_t>(decimal.size);
  if (decimal.power >= 0) {
    text.append(decimal.digits, size).append(static_cast<std::size_t>(decimal.power), '0');
  } else if (point > 0) {
    const std::size_t whole_size = static_cast<std::size_t>(point);
    text.append(decimal.digits, whole_size).append(1, '.').append(decimal.digits + whole_size, size - whole_size);
  } else {
    text.append("0.").append(static_cast<std::size_t>(-point), '0').append(decimal.digits, size);
  }
  return text;
}

Number number_after_marker(const Text& line, std::size_t i, bool is_heading) {
  const bool may_be_heading = is_heading && !no_heading_after(line, i);
  const bool is_first = begins_line(line, i);
  const std::size_t end = std::max(i, line.end());
  if (is_ascii(line.view(i, end))) {
    return read_after_marker(Text(line.view(i, end)), is_first, is_heading, may_be_heading);
  }
  const std::string ascii = plain(line.view(i, end));
  return read_after_marker(Text(std::string_view(ascii)), is_first, is_heading, may_be_heading);
}

Number whole_number(const Text& content, bool is_formula) {
  const std::string ascii = plain(content.view(content.begin(), content.end()));
  const Text text{std::string_view(ascii)};
  Reading reading;
  reading.is_formula = is_formula;
  Number number = read_number(text, value_begin(text, 0), reading);
  if (number.is_formed && skip_units(text, number.end, is_formula) == text.end()) return number;
  return Number{};
}

Number last_number(const Text& whole, const Spans& spared) {
  std::string blanked;
  Text text = whole;
  if (!spared.empty()) {
    blanked = whole.view(0, whole.end());
    for (const auto& [begin, end] : spared) {
      std::fill(blanked.begin() + static_cast<std::ptrdiff_t>(begin),
                blanked.begin() + static_cast<std::ptrdiff_t>(end), '\n');
    }
    text = Text(blanked.data(), whole.begin(), whole.end());
  }
  // A number does not extend past its line, so the lines are read from the last one back.
  Number last;
  for (std::size_t end = text.end(); end > text.begin();) {
    std::size_t begin = end;
    while (begin > text.begin() && text.before(begin) != '\n') --begin;
    const std::string_view line = text.view(begin, end);
    const bool is_first = begin == text.begin();
    if (is_ascii(line)) {
      if (last_number_of_line(Text(line), is_first, last)) return last;
    } else if (const std::string ascii = plain(line);
               last_number_of_line(Text(std::string_view(ascii)), is_first, last)) {
      return last;
    }
    end = begin > text.begin() ? begin - 1 : begin;
  }
  return last;
}

}  // namespace fastsia
