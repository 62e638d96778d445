#include "number.h"

#include <algorithm>
#include <string_view>

namespace fastsia {
namespace {

__extension__ typedef unsigned __int128 Wide;

// Small matchers: the position past what they match at `i`, or `i` itself where they match nothing.

template <std::size_t N>
std::size_t skip_any(Text& text, std::size_t i, const std::string_view (&words)[N]) {
  for (const std::string_view word : words) {
    if (text.has(i, word)) return i + word.size();
  }
  return i;
}

constexpr std::string_view kMinus = "\xE2\x88\x92";                                                   // U+2212
constexpr std::string_view kCurrencies[] = {"\xC2\xA3", "\xE2\x82\xAC", "\xC2\xA5", "\xE2\x82\xB9"};  // £ € ¥ ₹
constexpr std::string_view kOtherDecorations[] = {"\xE2\x89\x88", "\xE2\x80\x9C", "\xE2\x80\x98", "\xEF\xBC\x9A",
                                                  "\xEF\xBC\x88"};  // ≈ “ ‘ ： （
constexpr std::string_view kSeparators[] = {",\\!", ",", "{,}", "\\,", "\xE2\x80\xAF", "\xE2\x80\x89"};
constexpr std::string_view kTextCommands[] = {"textbf{", "textit{", "text{", "mathrm{", "mathbf{", "mathit{", "mbox{"};
constexpr std::string_view kTimes[] = {"\xC3\x97", "x", "X", "*", "\xC2\xB7", "\\times", "\\cdot"};
constexpr std::string_view kOperatorSigns[] = {"\xC3\x97", "\xC3\xB7", "\xC2\xB7", kMinus,
                                               "\\times",  "\\cdot",   "\\div"};
constexpr std::string_view kExpressionSigns[] = {"\xC3\x97", "\xC3\xB7", "\xC2\xB7", kMinus, "\\times",
                                                 "\\cdot",   "\\div",    "\\$",      "\\%"};
constexpr std::string_view kClosingSigns[] = {"\xE2\x80\x9D", "\xE2\x80\x99", "\xC2\xB0", "\xC2\xB2",
                                              "\xC2\xB3",     "\xE2\x82\xAC", "\xC2\xA3"};  // ” ’ ° ² ³ € £

bool is_one_of(int c, std::string_view set) {
  return c >= 0 && set.find(static_cast<char>(c)) != std::string_view::npos;
}

std::size_t skip_digits(Text& text, std::size_t i) {
  while (is_digit(text.at(i))) ++i;
  return i;
}

std::size_t skip_space(Text& text, std::size_t i) { return text.at(i) == ' ' ? i + 1 : i; }

std::size_t skip_byte(Text& text, std::size_t i, char byte) { return text.at(i) == byte ? i + 1 : i; }

struct Sign {
  std::size_t end;
  bool is_there;
  bool is_minus;
};

Sign read_sign(Text& text, std::size_t i) {
  const int c = text.at(i);
  if (c == '-' || c == '+') return {i + 1, true, c == '-'};
  if (c == 0xE2 && text.has(i, kMinus)) return {i + kMinus.size(), true, true};
  return {i, false, false};
}

std::size_t skip_currency(Text& text, std::size_t i) {
  const int c = text.at(i);
  if (c == '$') return i + 1;
  if (c == '\\') return text.at(i + 1) == '$' ? i + 2 : i;
  return c >= 0x80 ? skip_any(text, i, kCurrencies) : i;
}

// Past "\frac", "\dfrac" or "\tfrac".
std::size_t skip_fraction_command(Text& text, std::size_t i) {
  if (text.at(i) != '\\') return i;
  const int c = text.at(i + 1);
  const std::size_t name = c == 'd' || c == 't' ? i + 2 : i + 1;
  return text.has(name, "frac") ? name + 4 : i;
}

// Groups of thousands ("1,234"; neither "1,2,3" nor "0,123"), or plain digits, or a point first. "42." leaves its
// point.
std::size_t skip_plain(Text& text, std::size_t i) {
  if (text.at(i) == '.') {
    const std::size_t end = skip_digits(text, i + 1);
    return end > i + 1 ? end : i;
  }
  std::size_t end = skip_digits(text, i);
  if (end == i) return i;
  if (end - i <= 3 && text.at(i) != '0') {
    while (true) {
      const std::size_t group = skip_any(text, end, kSeparators);
      if (group == end || !is_digit(text.at(group)) || !is_digit(text.at(group + 1)) || !is_digit(text.at(group + 2)) ||
          is_digit(text.at(group + 3))) {
        break;
      }
      end = group + 3;
    }
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

// The digits of a plain number, separators left out.
Decimal read_plain(Text& text, std::size_t begin, std::size_t end) {
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

// Digits of the whole number digits * 10^power, or of the digits alone where a point stands among them.
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

// whole_part + over / under: a decimal where that ends, else the reduced fraction.
void set_ratio(Number& number, bool is_negative, const Decimal& over, const Decimal& under, std::uint64_t whole_part) {
  if (under.size == 0 || num_digits(over) + scale(under) > kMaxTermDigits ||
      num_digits(under) + scale(over) > kMaxTermDigits) {
    return;
  }
  Wide b = static_cast<Wide>(whole(under)) * power_of_ten(scale(over));
  Wide a = static_cast<Wide>(whole(over)) * power_of_ten(scale(under)) + b * whole_part;
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

// \frac{over}{under}, or \frac12; not there where end is the beginning.
struct Fraction {
  std::size_t end;
  bool is_negative = false;
  std::size_t over[2] = {0, 0};
  std::size_t under[2] = {0, 0};
};

// One argument: a digit, or a number in braces, with a sign where that is allowed. Returns the position past it, or
// `i`.
std::size_t read_argument(Text& text, std::size_t i, std::size_t (&term)[2], bool* is_negative) {
  if (is_digit(text.at(i))) {
    term[0] = i;
    term[1] = i + 1;
    return i + 1;
  }
  if (text.at(i) != '{') return i;
  std::size_t at = i + 1;
  for (int k = 0; k < 4; ++k) at = skip_space(text, at);
  if (is_negative != nullptr) {
    const Sign sign = read_sign(text, at);
    at = sign.end;
    *is_negative = sign.is_minus;
  }
  term[0] = at;
  term[1] = skip_plain(text, at);
  if (term[1] == at) return i;
  at = term[1];
  for (int k = 0; k < 4; ++k) at = skip_space(text, at);
  return text.at(at) == '}' ? at + 1 : i;
}

Fraction read_fraction(Text& text, std::size_t i) {
  Fraction fraction;
  fraction.end = i;
  const std::size_t over = skip_fraction_command(text, i);
  if (over == i) return fraction;
  const std::size_t under = read_argument(text, over, fraction.over, &fraction.is_negative);
  if (under == over) return fraction;
  const std::size_t end = read_argument(text, under, fraction.under, nullptr);
  if (end != under) fraction.end = end;
  return fraction;
}

// Whether two runs of plain digits make a proper fraction, neither of them 0.
bool is_below_one(Text& text, const std::size_t (&over)[2], const std::size_t (&under)[2]) {
  std::size_t a = over[0], b = under[0];
  if (skip_digits(text, a) < over[1] || skip_digits(text, b) < under[1]) return false;
  while (a < over[1] && text.at(a) == '0') ++a;
  while (b < under[1] && text.at(b) == '0') ++b;
  if (a == over[1] || b == under[1]) return false;
  const std::string_view left = text.view(a, over[1]), right = text.view(b, under[1]);
  return left.size() != right.size() ? left.size() < right.size() : left < right;
}

// A power of ten, cut off far outside of what a number may have.
std::int64_t read_exponent(Text& text, std::size_t begin, std::size_t end, bool is_minus) {
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

// A sign and digits at `digits_at`; nothing (end = i) where there are no digits.
Exponent read_signed_exponent(Text& text, std::size_t i, std::size_t digits_at) {
  const Sign sign = read_sign(text, digits_at);
  const std::size_t end = skip_digits(text, sign.end);
  if (end == sign.end) return {i};
  return {end, read_exponent(text, sign.end, end, sign.is_minus)};
}

// "e3"
Exponent read_letter_exponent(Text& text, std::size_t i) {
  const int c = text.at(i);
  return c == 'e' || c == 'E' ? read_signed_exponent(text, i, i + 1) : Exponent{i};
}

// " x 10^3"
Exponent read_times_ten(Text& text, std::size_t i) {
  const std::size_t sign = skip_blanks(text, i, 1);
  const std::size_t after = skip_any(text, sign, kTimes);
  if (after == sign) return {i};
  const std::size_t ten = skip_blanks(text, after, 1);
  if (!text.has(ten, "10^")) return {i};
  Exponent exponent = read_signed_exponent(text, i, skip_byte(text, ten + 3, '{'));
  if (exponent.end != i) exponent.end = skip_byte(text, exponent.end, '}');
  return exponent;
}

struct Power {
  std::size_t end;
  bool is_integer = false;  // "^3" or "^{-3}" alone
  std::int64_t exponent = 0;
};

// "^2", "^{10}", "**9**9": any chain of them.
Power read_power(Text& text, std::size_t i) {
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

// " million": its zeros, 0 where there is no such word.
std::int64_t read_multiplier(Text& text, std::size_t i, std::size_t& end) {
  static constexpr struct {
    std::string_view word;
    std::int64_t zeros;
  } kMultipliers[] = {{"thousand", 3}, {"million", 6}, {"billion", 9}, {"trillion", 12}};
  const std::size_t at = skip_space(text, i);
  for (const auto& multiplier : kMultipliers) {
    if (text.has_word(at, multiplier.word) && !is_word(text, at + multiplier.word.size())) {
      end = at + multiplier.word.size();
      return multiplier.zeros;
    }
  }
  return 0;
}

// Past sign and currency, to where digits or a fraction begin.
struct Head {
  bool is_there = false;
  std::size_t end = 0;
  bool has_sign = false;  // in front
  bool is_negative = false;
};

Head read_head(Text& text, std::size_t i) {
  Head head;
  const Sign sign = read_sign(text, i);
  head.has_sign = sign.is_there;
  head.is_negative = sign.is_minus;
  head.end = skip_currency(text, sign.end);
  if (!sign.is_there && head.end > i) {
    const Sign late = read_sign(text, head.end);
    head.end = late.end;
    head.is_negative = late.is_minus;
  }
  const int c = text.at(head.end);
  if (c == '\\') {
    const std::size_t argument = skip_fraction_command(text, head.end);
    head.is_there = argument != head.end && (text.at(argument) == '{' || is_digit(text.at(argument)));
  } else {
    head.is_there = is_digit(c) || (c == '.' && is_digit(text.at(head.end + 1)));
  }
  return head;
}

bool has_operator(Text& text, std::size_t i, std::size_t& end) {
  const int c = text.at(i);
  if (is_one_of(c, "-+*/xX")) {
    end = i + 1;
    return true;
  }
  end = c == '\\' || c >= 0x80 ? skip_any(text, i, kOperatorSigns) : i;
  return end != i;
}

// Whether an operator and another number follow.
bool goes_on(Text& text, std::size_t i) {
  for (int k = 0; k < 4; ++k) {
    const int c = text.at(i);
    if (is_blank(c) || c == ')' || c == '%') {
      ++i;
    } else if (c == '\\' && text.at(i + 1) == '%') {
      i += 2;
    } else {
      break;
    }
  }
  std::size_t at;
  if (!has_operator(text, i, at)) return false;
  for (int k = 0; k < 4 && (is_blank(text.at(at)) || text.at(at) == '('); ++k) ++at;
  if (text.at(at) == '$') {
    ++at;
  } else if (text.at(at) == '\\' && text.at(at + 1) == '$') {
    at += 2;
  }
  return text.at(at) == '.' || is_digit(text.at(at));
}

// The last "=" of the expression that begins at `i`, or kNone.
std::size_t last_equals(Text& text, std::size_t i) {
  std::size_t equals = kNone;
  for (int k = 0; k < 200; ++k) {
    const int c = text.at(i);
    if (is_digit(c) || is_one_of(c, "- \t.,+*/xX()=$%^<>")) {
      if (c == '=') equals = i;
      ++i;
      continue;
    }
    const std::size_t end = c == '\\' || c >= 0x80 ? skip_any(text, i, kExpressionSigns) : i;
    if (end == i) break;
    i = end;
  }
  return equals;
}

// Past closing marks and units, but nothing of a formula.
std::size_t skip_units(Text& text, std::size_t i) {
  while (true) {
    const int c = text.at(i);
    if (c < 0) return i;
    if (is_space(c) || is_one_of(c, ".*_`\"')]}$,;:?~%")) {
      ++i;
      continue;
    }
    if (c == '\\' && is_one_of(text.at(i + 1), ",;:! $%)]")) {
      i += 2;
      continue;
    }
    if (c >= 0x80) {
      const std::size_t sign = skip_any(text, i, kClosingSigns);
      const bool is_cjk = c >= 0xE4 && c <= 0xE9 && is_continuation(text.at(i + 1)) && is_continuation(text.at(i + 2));
      if (sign == i && !is_cjk) return i;
      i = is_cjk ? i + 3 : sign;
      continue;
    }
    const std::size_t degree = skip_byte(text, skip_byte(text, i, '^'), '{');
    if (text.has(degree, "\\circ")) {
      i = skip_byte(text, degree + 5, '}');
      continue;
    }
    if (c == '^' && (is_letter(text.before(i)) || text.before(i) == '}')) {
      const std::size_t power = skip_byte(text, i + 1, '{');
      if (text.at(power) != '2' && text.at(power) != '3') return i;
      i = skip_byte(text, power + 1, '}');
      continue;
    }
    const std::size_t inside = skip_text_command(text, i);
    if (inside != i) {
      std::size_t at = inside;
      while (at - inside < 64 && text.at(at) >= 0 && !is_digit(text.at(at)) && !is_one_of(text.at(at), "{}\\")) ++at;
      if (text.at(at) != '}') return i;
      i = at + 1;
      continue;
    }
    if (!is_letter(c)) return i;
    std::size_t word = i + 1;
    while (is_letter(text.at(word))) ++word;
    if (word == i + 1) {
      const int previous = text.before(i);
      if (!is_blank(previous) && previous != '~') return i;
    } else if (text.at(word) == '/' && is_letter(text.at(word + 1))) {
      ++word;
      while (is_letter(text.at(word))) ++word;
    }
    i = word;
  }
}

bool may_lead_number(int c) { return is_digit(c) || is_one_of(c, "-.$\\\xE2\xC2"); }

// Whether a minus at `i` takes away from what stands before it.
bool is_subtraction(const Text& text, std::size_t i) {
  return is_word_before(text, i) || is_one_of(text.before(i), ")]}%-") || text.has_before(i, kMinus);
}

bool is_raised(const Text& text, std::size_t i) {
  return text.has_before(i, "^") || text.has_before(i, "^{") || text.has_before(i, "_{");
}

// The last number of the bytes [begin, end) that has a value; read forwards, as its beginning decides what it is.
bool last_number_between(Text& text, std::size_t begin, std::size_t end, Number& last) {
  bool found = false;
  for (std::size_t i = begin; i < end;) {
    const int c = text.at(i);
    if (!may_lead_number(c)) {
      ++i;
      continue;
    }
    const Head head = read_head(text, i);
    const bool is_bare = head.end == i;
    if (!head.is_there || (head.has_sign && is_subtraction(text, i)) ||
        (is_bare && c == '.' && (is_word_before(text, i) || text.before(i) == '.'))) {
      ++i;
    } else if ((is_bare && is_word_before(text, i)) || is_raised(text, i)) {
      std::size_t at = skip_digits(text, skip_byte(text, head.end, '.'));
      while (text.at(at) == '.' && is_digit(text.at(at + 1))) at = skip_digits(text, at + 1);
      i = std::max(at, i + 1);
    } else {
      const Number number = read_number(text, i);
      if (number.has_value) {
        last = number;
        found = true;
      }
      i = std::max(number.end, i + 1);
    }
  }
  return found;
}

}  // namespace

std::size_t skip_text_command(Text& text, std::size_t i) {
  if (text.at(i) != '\\') return i;
  const std::size_t end = skip_any(text, i + 1, kTextCommands);
  return end == i + 1 ? i : end;
}

std::size_t skip_decoration(Text& text, std::size_t i, bool and_names) {
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
    } else if (and_names && is_letter(c)) {
      const std::size_t equals = skip_space(text, i + 1);
      if (text.at(equals) == '=') end = equals + 1;
    }
    if (end == i) return i;
    i = end;
  }
  return i;
}

Number read_number(Text& text, std::size_t i) {
  Number number;
  number.end = i;
  const Head head = read_head(text, i);
  if (!head.is_there) return number;
  const std::size_t begin = head.end;
  if (text.at(begin) == '\\') {
    const Fraction fraction = read_fraction(text, begin);
    if (fraction.end == begin) return number;
    number.is_formed = true;
    number.end = fraction.end;
    set_ratio(number, head.is_negative != fraction.is_negative, read_plain(text, fraction.over[0], fraction.over[1]),
              read_plain(text, fraction.under[0], fraction.under[1]), 0);
    return number;
  }

  number.is_formed = true;
  const std::size_t end = number.end = skip_plain(text, begin);
  Decimal decimal = read_plain(text, begin, end);
  const Power power = read_power(text, end);
  if (power.end != end) {
    number.end = power.end;
    if (power.is_integer && text.view(begin, end) == "10") {
      Decimal one;
      one.digits[one.size++] = '1';
      one.power = power.exponent;
      set_decimal(number, one, head.is_negative);
    }
    return number;
  }
  Exponent exponent = read_letter_exponent(text, end);
  if (exponent.end == end) exponent = read_times_ten(text, end);
  if (exponent.end != end) {
    number.end = exponent.end;
    decimal.power += exponent.power;
    set_decimal(number, decimal, head.is_negative);
    return number;
  }
  if (text.before(i) != '/') {  // not inside of 3/4/2020
    const std::size_t slash = skip_space(text, end);
    if (text.at(slash) == '/') {
      const std::size_t under = skip_space(text, slash + 1);
      const std::size_t under_end = skip_plain(text, under);
      const std::size_t next = skip_space(text, under_end);
      if (under_end != under && !(text.at(next) == '/' && is_digit(text.at(skip_space(text, next + 1))))) {
        number.end = under_end;
        set_ratio(number, head.is_negative, decimal, read_plain(text, under, under_end), 0);
        return number;
      }
    }
  }
  if (skip_digits(text, begin) == end && num_digits(decimal) <= kMaxTermDigits) {  // "1 1/2", "1\frac{1}{2}"
    const std::size_t over = skip_space(text, end);
    const std::size_t slash = skip_digits(text, over);
    if (over != end && slash != over && text.at(slash) == '/') {
      const std::size_t last = skip_digits(text, slash + 1);
      const std::size_t terms[2][2] = {{over, slash}, {slash + 1, last}};
      const bool is_longer = text.at(last) == '/' || (text.at(last) == '.' && is_digit(text.at(last + 1)));
      if (last != slash + 1 && !is_longer) {
        if (is_below_one(text, terms[0], terms[1])) {
          number.end = last;
          set_ratio(number, head.is_negative, read_plain(text, over, slash), read_plain(text, slash + 1, last),
                    whole(decimal));
          return number;
        }
      }
    }
    const Fraction fraction = read_fraction(text, over);
    if (fraction.end != over && !fraction.is_negative && is_below_one(text, fraction.over, fraction.under)) {
      number.end = fraction.end;
      set_ratio(number, head.is_negative, read_plain(text, fraction.over[0], fraction.over[1]),
                read_plain(text, fraction.under[0], fraction.under[1]), whole(decimal));
      return number;
    }
  }
  decimal.power += read_multiplier(text, end, number.end);
  set_decimal(number, decimal, head.is_negative);
  return number;
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

Number number_after_marker(Text& line, std::size_t i, bool) {
  const std::size_t begin = skip_decoration(line, i, true);
  Number number = read_number(line, begin);
  if (number.is_formed && goes_on(line, number.end)) {
    const std::size_t equals = last_equals(line, begin);
    if (equals != kNone) number = read_number(line, skip_decoration(line, equals + 1, true));
    number.is_formed = true;
  }
  return number;
}

Number whole_number(Text& text) {
  std::size_t begin = text.begin();
  const std::size_t equals = text.find('=', begin);
  if (equals != kNone && text.find('=', equals + 1) == kNone) begin = equals + 1;
  Number number = read_number(text, skip_decoration(text, begin, true));
  if (number.is_formed && skip_units(text, number.end) == text.end()) return number;
  return Number{};
}

Number last_number(Text& all, const Spans& spared) {
  std::string blanked(all.view(0, all.end()));
  for (const auto& [begin, end] : spared) std::fill(blanked.begin() + long(begin), blanked.begin() + long(end), ' ');
  Text text(blanked.data(), all.begin(), all.end());
  // No number goes past its line, so the lines are read from the last one back.
  Number last;
  for (std::size_t end = text.end(); end > text.begin();) {
    std::size_t begin = end;
    while (begin > text.begin() && text.before(begin) != '\n') --begin;
    if (last_number_between(text, begin, end, last)) return last;
    end = begin > text.begin() ? begin - 1 : begin;
  }
  return last;
}

}  // namespace fastsia
