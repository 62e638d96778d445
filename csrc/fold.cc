#include "fold.h"

#include <array>
#include <cstdint>

#include "tables.h"
#include "text.h"

namespace fastsia {
namespace {

int byte_at(std::string_view s, std::size_t i) { return Text(s).at(i); }

bool is_word_at(std::string_view s, std::size_t i) { return is_word(Text(s), i); }

bool ends_with_word(std::string_view s) { return is_word_before(Text(s), s.size()); }

// Characters ---------------------------------------------------------------------------------------------------------

// Whether a byte is an ASCII character that is kept as it is.
bool is_plain(char c) { return static_cast<unsigned char>(c) < 0x80 && !(c == '\t' || (c >= '\v' && c <= '\r')); }

std::string fold_characters(std::string_view s) {
  static const Replacements kSpellings = replacements("fold");
  static const Replacements kSuperscripts = replacements("superscripts");
  std::string out;
  out.reserve(s.size());
  for (std::size_t i = 0; i < s.size();) {
    const std::size_t plain = i;
    while (i < s.size() && is_plain(s[i])) ++i;
    out.append(s, plain, i - plain);
    if (i == s.size()) break;
    if (byte_at(s, i) < 0x80) {
      out += ' ';
      ++i;
      continue;
    }
    const std::size_t end = i + character_size(s, i);
    if (end == i) {
      out += s[i++];
      continue;
    }
    const std::string_view character = s.substr(i, end - i);
    const bool is_thin = character == "\u00A0" || character == "\u202F" || character == "\u2009";
    if (is_thin && i > 0 && is_digit(byte_at(s, i - 1)) && is_digit(byte_at(s, end)) && is_digit(byte_at(s, end + 1)) &&
        is_digit(byte_at(s, end + 2)) && !is_digit(byte_at(s, end + 3))) {
      out += ',';
      i = end;
    } else if (const std::string* digit = look_up(kSuperscripts, character)) {
      out += '^';
      for (; digit; digit = look_up(kSuperscripts, s.substr(i, character_size(s, i)))) {
        out += *digit;
        i += character_size(s, i);
      }
    } else {
      const std::string* spelling = look_up(kSpellings, character);
      out += spelling ? std::string_view(*spelling) : character;
      i = end;
    }
  }
  return out;
}

// Marks and LaTeX ----------------------------------------------------------------------------------------------------

bool has(std::string_view s, std::size_t i, std::string_view what) { return Text(s).has(i, what); }

// The position after a command that no letter follows, or `i`.
std::size_t skip_command(std::string_view s, std::size_t i, std::string_view command) {
  const std::size_t end = i + command.size();
  return has(s, i, command) && !is_letter(byte_at(s, end)) ? end : i;
}

std::size_t skip_text_command_at(std::string_view s, std::size_t i) {
  for (const std::string_view name : {"text", "textbf", "textit", "textrm", "textsf", "texttt", "mathrm", "mathbf",
                                      "mathit", "mathsf", "mbox", "emph"}) {
    if (has(s, i + 1, name) && byte_at(s, i + 1 + name.size()) == '{') return i + 2 + name.size();
  }
  return i;
}

bool is_alphanumeric(int c) { return is_digit(c) || is_letter(c); }

// The position after "{ 12 }", or `i`; `content` is the text in the braces.
std::size_t skip_simple(std::string_view s, std::size_t i, std::string_view& content) {
  if (byte_at(s, i) != '{') return i;
  std::size_t begin = i + 1;
  if (byte_at(s, begin) == ' ') ++begin;
  std::size_t end = begin;
  while (end - begin < 8 && is_alphanumeric(byte_at(s, end))) ++end;
  content = s.substr(begin < s.size() ? begin : s.size(), end - begin);
  if (end == begin) return i;
  if (byte_at(s, end) == ' ') ++end;
  return byte_at(s, end) == '}' ? end + 1 : i;
}

// Appends a fraction of two simple terms as over/under. The position after it, or `i`.
std::size_t fold_fraction(std::string_view s, std::size_t i, std::string& out) {
  const int kind = byte_at(s, i + 1);
  const std::size_t name = kind == 'd' || kind == 't' || kind == 'c' ? i + 2 : i + 1;
  if (!has(s, name, "frac")) return i;
  const std::size_t at = name + 4;
  std::string_view over, under;
  const std::size_t middle = skip_simple(s, at, over);
  if (middle != at) {
    const std::size_t end = skip_simple(s, middle, under);
    if (end == middle) return i;
    out += over;
    out += '/';
    out += under;
    return end;
  }
  if (!is_digit(byte_at(s, at)) || !is_digit(byte_at(s, at + 1))) return i;
  out += s[at];
  out += '/';
  out += s[at + 1];
  return at + 2;
}

// Whether the output ends with a single letter.
bool ends_with_letter(const std::string& out) {
  if (out.empty() || !is_letter(static_cast<unsigned char>(out.back()))) return false;
  if (out.size() == 1) return true;
  const int c = static_cast<unsigned char>(out[out.size() - 2]);
  return !(is_ascii_word(c) || c == '\'' || c == '.' || c == '-' || c >= 0x80);
}

// Whether a star between two digits is a multiplication sign.
bool multiplies(const std::string& out, std::string_view s, std::size_t at) {
  std::size_t end = out.size();
  if (end > 0 && out[end - 1] == ' ') --end;
  if (end == 0 || !is_digit(static_cast<unsigned char>(out[end - 1]))) return false;
  if (byte_at(s, at) == ' ') ++at;
  return is_digit(byte_at(s, at));
}

void close(std::string& out) {
  if (ends_with_letter(out)) out += kClose;
}

// The position after the backslash at `i` and its command, or `i` if the command is unknown.
std::size_t fold_backslash(std::string_view s, std::size_t i, std::string& out) {
  std::size_t end = fold_fraction(s, i, out);
  if (end != i) return end;
  if ((end = skip_text_command_at(s, i)) != i) return end;
  if ((end = skip_command(s, i, "\\left")) != i) return end;
  if ((end = skip_command(s, i, "\\right")) != i) return end;
  const int c = byte_at(s, i + 1);
  if (c == '!') return i + 2;
  if (is_one_of(c, "()[]$")) return close(out), i + 2;
  for (const std::string_view degree : {"\\circ", "\\degree"}) {
    if ((end = skip_command(s, i, degree)) != i) return out += "\xC2\xB0", end;
  }
  if ((end = skip_command(s, i, "\\times")) != i) return out += " x ", end;
  if ((end = skip_command(s, i, "\\cdot")) != i) return out += "\xC2\xB7", end;
  if (is_one_of(c, " ,;:\\")) return out += ' ', i + 2;
  if (is_one_of(c, "%&#_\"'")) return out += static_cast<char>(c), i + 2;
  return i;
}

// The position after "^\circ" or "^{\circ}", or `i`.
std::size_t skip_raised_degree(std::string_view s, std::size_t i) {
  std::size_t at = i + 1;
  if (byte_at(s, at) == '{') ++at;
  const std::size_t end = skip_command(s, at, "\\circ");
  if (end == at) return i;
  return byte_at(s, end) == '}' ? end + 1 : end;
}

// The position after an arrow or two or more dashes, or `i`.
std::size_t fold_dashes(std::string_view s, std::size_t i, std::string& out) {
  std::size_t end = i;
  while (end - i < 4 && is_one_of(byte_at(s, end), "-=")) ++end;
  if (byte_at(s, end) == '>') return out += " \xE2\x86\x92 ", end + 1;
  end = i;
  while (byte_at(s, end) == '-') ++end;
  if (end - i < 2) return i;
  return out += " - ", end;
}

std::size_t fold_underscores(std::string_view s, std::size_t i, std::string& out) {
  std::size_t end = i;
  while (byte_at(s, end) == '_') ++end;
  if (byte_at(s, end) == '{' && is_digit(byte_at(s, end + 1))) ++end;
  const bool is_inside = ends_with_word(out);
  if (is_inside && is_digit(byte_at(s, end))) return end;  // a subscript
  if (is_inside && is_word_at(s, end)) return out += '_', end;
  return close(out), end;
}

// The position after an HTML tag for emphasis or a line break, or `i`.
std::size_t fold_tag(std::string_view s, std::size_t i, std::string& out) {
  const bool is_closing = byte_at(s, i + 1) == '/';
  const std::size_t begin = i + (is_closing ? 2 : 1);
  for (const std::string_view name : {"strong", "em", "br", "p", "span", "code", "sub", "sup", "b", "i", "u"}) {
    if (!has(s, begin, name)) continue;
    std::size_t end = begin + name.size();
    const bool is_short = name.size() == 1 && name != "p";
    if (is_short && !is_closing && !(byte_at(s, end) == '>' && (byte_at(s, end + 1) == '(' || is_word_at(s, end + 1))))
      continue;
    const std::size_t slash = byte_at(s, end) == ' ' ? end + 1 : end;
    if (byte_at(s, slash) == '/') end = slash + 1;
    if (byte_at(s, end) != '>') continue;
    if (name == "br" && !is_closing) {
      out += ' ';
    } else if (is_closing && name != "sub" && name != "sup") {
      close(out);
    }
    return end + 1;
  }
  return i;
}

// The position after the mark at `i`, or `i` if there is none.
std::size_t fold_mark(std::string_view s, std::size_t i, std::string& out) {
  std::size_t end = i + 1;
  switch (s[i]) {
    case '\\':
      return fold_backslash(s, i, out);
    case '*':
    case '`':
      while (byte_at(s, end) == '*' || byte_at(s, end) == '`') ++end;
      if (end == i + 1 && s[i] == '*' && multiplies(out, s, end)) return out += " x ", end;
      return close(out), end;
    case '}':
      if (!(byte_at(s, end) == '^' || is_word_at(s, end))) close(out);
      return end;
    case '$':
      return close(out), end;
    case '{':
      if (ends_with_word(out) && byte_at(s, end) != ',') out += ' ';
      return end;
    case '^':
      end = skip_raised_degree(s, i);
      if (end != i) out += "\xC2\xB0";
      return end;
    case '~':
      return out += ' ', end;
    case '-':
    case '=':
      return fold_dashes(s, i, out);
    case '<':
      return fold_tag(s, i, out);
    case '_':
      return fold_underscores(s, i, out);
    default:
      return i;
  }
}

// The bytes that can begin a mark.
constexpr std::array<bool, 256> make_begins() {
  std::array<bool, 256> begins{};
  for (const char c : std::string_view("\\*`}${^~-=_<")) begins[static_cast<unsigned char>(c)] = true;
  return begins;
}

std::string fold_marks(std::string_view s) {
  static constexpr std::array<bool, 256> kBegins = make_begins();
  std::string out;
  out.reserve(s.size());
  for (std::size_t i = 0; i < s.size();) {
    const std::size_t plain = i;
    while (i < s.size() && !kBegins[static_cast<unsigned char>(s[i])]) ++i;
    out.append(s, plain, i - plain);
    if (i == s.size()) break;
    const std::size_t end = fold_mark(s, i, out);
    if (end == i) {
      out += s[i++];
    } else {
      i = end;
    }
  }
  return out;
}

// Numbers ------------------------------------------------------------------------------------------------------------

std::size_t skip_digits_at(std::string_view s, std::size_t i) { return skip_digits(Text(s), i); }

// Normalizes a number: 1,000 to 1000, 4.00 to 4, .5 to 0.5. Other numbers are unchanged.
void fold_number(std::string_view number, std::string& out) {
  const std::size_t first = skip_digits_at(number, 0);
  std::size_t whole = first;
  if (first >= 1 && first <= 3 && number[0] != '0') {
    while (byte_at(number, whole) == ',' && skip_digits_at(number, whole + 1) == whole + 4) whole += 4;
  }
  std::size_t end = whole;
  std::size_t decimals = whole;
  if (byte_at(number, whole) == '.') {
    decimals = whole + 1;
    end = skip_digits_at(number, decimals);
  }
  if (end != number.size()) {
    out += number;
    return;
  }
  if (whole == 0) out += '0';
  for (const char c : number.substr(0, whole)) {
    if (c != ',') out += c;
  }
  while (end > decimals && number[end - 1] == '0') --end;
  if (end > decimals) {
    out += '.';
    out += number.substr(decimals, end - decimals);
  }
}

std::string fold_numbers(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (std::size_t i = 0; i < s.size();) {
    const std::size_t plain = i;
    while (i < s.size() && s[i] != '.' && !is_digit(byte_at(s, i))) ++i;
    out.append(s, plain, i - plain);
    if (i == s.size()) break;
    const int before = i > 0 ? byte_at(s, i - 1) : -1;
    const bool is_point = s[i] == '.' && !is_ascii_word(before) && before != '.' && is_digit(byte_at(s, i + 1));
    if (!is_point && !is_digit(byte_at(s, i))) {
      out += s[i++];
      continue;
    }
    std::size_t end = skip_digits_at(s, i + (is_point ? 1 : 0));
    while ((byte_at(s, end) == '.' || byte_at(s, end) == ',') && is_digit(byte_at(s, end + 1)))
      end = skip_digits_at(s, end + 1);
    fold_number(s.substr(i, end - i), out);
    if (is_letter(byte_at(s, end)) && !is_word_before(Text(s), i)) {  // 4cm becomes 4 cm, 2x3 becomes 2 x 3
      const bool multiplies = s[end] == 'x' && is_digit(byte_at(s, end + 1));
      out += multiplies ? " x " : " ";
      if (multiplies) ++end;
    }
    i = end;
  }
  return out;
}

// Words --------------------------------------------------------------------------------------------------------------

std::size_t skip_word(std::string_view s, std::size_t i) {
  while (is_word_at(s, i)) i += byte_at(s, i) < 0x80 ? 1 : 2;
  return i;
}

// The position after the continuation of a word across a hyphen, an apostrophe, a mark of a number or a point of an
// abbreviation, or `i`.
std::size_t skip_joint(std::string_view s, std::size_t i) {
  const int c = byte_at(s, i);
  if (c == '-' || c == '\'') return is_word_at(s, i + 1) ? skip_word(s, i + 1) : i;
  if (!is_one_of(c, ".,:/")) return i;
  const int before = byte_at(s, i - 1);
  if (is_digit(before) && is_digit(byte_at(s, i + 1))) return skip_word(s, i + 1);
  if (c != '.' || !is_letter(before) || !is_letter(byte_at(s, i + 1)) || is_word_at(s, i + 2)) return i;
  const int second = i >= 2 ? byte_at(s, i - 2) : -1;
  return is_ascii_word(second) || second == '\'' || second == '-' || second >= 0x80 ? i : i + 2;
}

}  // namespace

std::string fold(std::string_view text) { return fold_numbers(fold_marks(fold_characters(text))); }

Words::Words(std::string_view text, bool one_line) : folded_(fold(text)), lower_(lower(folded_)) {
  const std::string_view s = folded_;
  for (std::size_t i = 0; i < s.size();) {
    if (s[i] == ' ' || (one_line && s[i] == '\n')) {
      ++i;
      continue;
    }
    std::size_t end = skip_word(s, i);
    if (end != i) {
      for (std::size_t next = skip_joint(s, end); next != end; next = skip_joint(s, end)) end = next;
    } else {
      end = i + 1;
      if (byte_at(s, i) >= 0xC0) {
        while (end - i < 4 && is_continuation(byte_at(s, end))) ++end;
      }
    }
    spans_.emplace_back(i, end);
    i = end;
  }
}

}  // namespace fastsia
