#include "boxed.h"

#include <algorithm>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "choice.h"
#include "number.h"
#include "spelling.h"
#include "tables.h"

namespace fastsia {
namespace {

constexpr std::string_view kWhite = " \t\n\r\f\v";
constexpr std::size_t kMaxBack = 32;  // bytes examined before a value

using Words = std::unordered_set<std::string>;

bool has(std::string_view set, int c) { return is_one_of(c, set); }

bool starts(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }

bool ends(std::string_view text, std::string_view with) {
  return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

std::string_view stripped(std::string_view text, std::string_view of) {
  while (!text.empty() && has(of, text.front())) text.remove_prefix(1);
  while (!text.empty() && has(of, text.back())) text.remove_suffix(1);
  return text;
}

// The end of the run of bytes from `i` on that satisfy `is_one`.
template <typename IsOne>
std::size_t past(std::string_view text, std::size_t i, IsOne is_one) {
  while (i < text.size() && is_one(static_cast<unsigned char>(text[i]))) ++i;
  return i;
}

std::optional<std::string> value_of(const Number& number) {
  return number.has_value ? std::optional<std::string>(canonical(number)) : std::nullopt;
}

Number number_in(std::string_view text, bool is_formula = true) {
  Text all(text);
  return whole_number(all, is_formula);
}

// Whether a text is digits, a fraction of digits, or both, with an optional sign or degree sign.
bool is_plain_number(std::string_view text) {
  if (starts(text, "-")) text.remove_prefix(1);
  if (ends(text, "^\\circ")) text.remove_suffix(6);
  const auto is_part = [](int c) { return is_digit(c) || c == '.'; };
  if (!text.empty() && past(text, 0, [&](int c) { return is_part(c) || c == ','; }) == text.size()) return true;
  text.remove_prefix(past(text, 0, is_digit));
  if (!starts(text, "\\frac{")) return false;
  text.remove_prefix(6);
  const std::size_t over = past(text, 0, is_part);
  if (over == 0 || !starts(text.substr(over), "}{")) return false;
  text.remove_prefix(over + 2);
  const std::size_t under = past(text, 0, is_part);
  return under > 0 && text.substr(under) == "}";
}

// Whether a text has only digits, operators and equals signs.
bool is_calculation(std::string_view text) {
  while (!text.empty()) {
    std::size_t size = is_digit(static_cast<unsigned char>(text[0])) || has("-.+*/^(){}= ", text[0]) ? 1 : 0;
    for (const std::string_view command : {"\\cdot", "\\times", "\\div", "\\frac"}) {
      if (starts(text, command)) size = command.size();
    }
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

// A number with repeating decimals, 0.1\overline{6}, as the text of a fraction; empty if the text is not one.
std::string repeating(std::string_view text) {
  std::string fraction = starts(text, "-") ? "-" : "";
  text.remove_prefix(fraction.size());
  const std::size_t point = past(text, 0, is_digit), line = past(text, std::min(point + 1, text.size()), is_digit);
  if (point > 6 || text.substr(point, 1) != "." || line - point - 1 > 6) return "";
  if (!starts(text.substr(line), "\\overline{")) return "";
  const std::size_t begin = line + 10, end = past(text, begin, is_digit);
  if (end == begin || end - begin > 6 || text.substr(end) != "}") return "";
  const std::string fixed = std::string(text.substr(0, point)) + std::string(text.substr(point + 1, line - point - 1));
  const std::string all = fixed + std::string(text.substr(begin, end - begin));
  const std::uint64_t over = std::stoull(all) - (fixed.empty() ? 0 : std::stoull(fixed));
  return fraction + std::to_string(over) + "/" + std::string(end - begin, '9') + std::string(line - point - 1, '0');
}

// Whether a blank follows a comma: 100, 200 is a list, 100,200 is a number.
bool has_list_comma(std::string_view text) {
  for (std::size_t i = 0; i + 1 < text.size(); ++i) {
    if (text[i] != ',') continue;
    const std::string_view after = text.substr(i + 1);
    if (has(kWhite, after[0]) || after[0] == '~') return true;
    for (const std::string_view blank : {"\\;", "\\:", "\\ ", "\\quad", "\\qquad"}) {
      if (starts(after, blank)) return true;
    }
  }
  return false;
}

// Whether the content is a placeholder copied from the instruction.
bool is_placeholder(std::string_view text) {
  const std::string small = lower(text);
  std::string_view rest = stripped(small, "[](){}<>?._ \\");
  if (ends(rest, " here")) rest.remove_suffix(5);
  return rest.empty() || rest == "dots" || rest == "answer" || rest == "your answer" || rest == "final answer" ||
         rest == "the answer" || rest == "insert answer" || rest == "your final answer";
}

// Normalizes a content that is not yet a number: \bf 7 becomes 7, 2 + 3 = 5 becomes 5.
std::optional<std::string> expression(std::string_view content) {
  std::optional<std::string> text = spelled(content);
  if (!text) return std::nullopt;
  const std::size_t equals = text->rfind('=');
  if (equals != std::string::npos && is_calculation(*text)) {
    return value_of(number_in(std::string_view(*text).substr(equals + 1)));
  }
  if (const std::string fraction = repeating(*text); !fraction.empty()) return value_of(number_in(fraction));
  if (is_placeholder(*text)) return std::nullopt;
  if (!is_plain_number(*text)) return text;
  const Number number = number_in(*text);
  if (!number.is_formed) return text;
  if (text->find(',') == std::string::npos || !has_list_comma(content)) return value_of(number);
  std::string list;
  for (const char c : *text) list.append(c == ',' ? ", " : std::string(1, c));
  return list;
}

// Whether there are raised digits: 3² was written as a formula, not typed as arithmetic.
bool has_raised(std::string_view text) {
  for (std::size_t i = 0; i + 1 < text.size(); ++i) {
    const int next = static_cast<unsigned char>(text[i + 1]);
    if (text[i] == '\xc2' && (next == 0xB2 || next == 0xB3 || next == 0xB9)) return true;
    if (text[i] == '\xe2' && next == 0x81 && i + 2 < text.size() && static_cast<unsigned char>(text[i + 2]) >= 0xB0 &&
        static_cast<unsigned char>(text[i + 2]) <= 0xBF) {
      return true;
    }
  }
  return false;
}

// (100,200) is a point or an interval; (1,000) is a number.
bool is_list_in_brackets(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    if (has(kWhite, text[i]) || text[i] == '$') {
      ++i;
    } else if (text[i] == '\\' && i + 1 < text.size() && has(",;:! (", text[i + 1])) {
      i += 2;
    } else {
      break;
    }
  }
  std::string_view rest = text.substr(i);
  if (starts(rest, "\\left")) rest.remove_prefix(5);
  if (rest.empty() || !has("([", rest[0]) || text.find(",0") != std::string_view::npos) return false;
  for (std::size_t k = text.find(','); k != std::string_view::npos; k = text.find(',', k + 1)) {
    if (k + 1 < text.size() && has("123456789", text[k + 1])) return true;
  }
  return false;
}

std::optional<std::string> number_or_expression(std::string_view content) {
  if (is_list_in_brackets(content)) return expression(content);
  const Number number = number_in(content);
  const bool is_number = number.is_formed && (number.has_value || !has_raised(content));
  return is_number ? value_of(number) : expression(content);
}

// After other markers

// Where the value begins: brackets and marks skipped before `i` belong to it.
std::size_t value_begin(const Text& line, std::size_t i) {
  std::size_t begin = i;
  while (begin > line.begin() && i - begin < kMaxBack) {
    const int before = line.before(begin), at = line.at(begin);
    std::size_t name = 0;
    for (const std::string_view command :
         {"\\textbf", "\\textit", "\\text", "\\mathrm", "\\mathbf", "\\mathit", "\\mbox"}) {
      if (name == 0 && at == '{' && line.has_before(begin, command)) name = command.size();
    }
    const bool is_quote = line.has_before(begin, "“");
    if (name > 0) {
      begin -= name;
    } else if (has(" \t([{$\\", before)) {
      --begin;
    } else if ((before == '*' || before == '`' || before == '"' || is_quote) && !is_blank(at)) {
      begin -= is_quote ? 3 : 1;
    } else {
      break;
    }
  }
  return begin;
}

std::size_t count(std::string_view text, std::string_view of) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [&](char c) { return has(of, c); }));
}

// Whether the text after marked mathematics is not part of the answer: it is empty, a unit, or a reason.
bool may_follow(std::string_view after) {
  bool are_units = true;
  for (std::size_t i = 0; i < after.size() && are_units;) {
    const std::string_view rest = after.substr(i);
    const std::size_t letters = past(after, i, is_letter);
    if (letters > i) {
      are_units = is_unit(std::string(after.substr(i, letters - i)));
      i = letters;
    } else if (has(" \t\r\n\f\v.,;:*_`\"')/^23-", rest[0])) {
      ++i;
    } else if (starts(rest, "”") || starts(rest, "。")) {
      i += 3;
    } else if (starts(rest, "²") || starts(rest, "³")) {
      i += 2;
    } else {
      are_units = false;
    }
  }
  if (are_units) return true;
  static const Words reasons = {"because", "since", "as", "by", "so", "which", "for", "when"};
  const auto is_white = [](int c) { return is_space(c); };
  std::size_t i = past(after, 0, is_white);
  if (i < after.size() && has(",;(", after[i])) i = past(after, i + 1, is_white);
  const std::size_t end = past(after, i, [](int c) { return is_ascii_word(c); });
  return reasons.count(lower(after.substr(i, end - i))) != 0;
}

// (content, whether it is marked as mathematics) after removing $...$, **...** and text that may follow them.
std::pair<std::string_view, bool> without_marks(std::string_view rest) {
  static constexpr std::pair<std::string_view, std::string_view> kPairs[] = {
      {"$$", "$$"}, {"$", "$"}, {"\\(", "\\)"}, {"\\[", "\\]"}, {"**", "**"},
      {"*", "*"},   {"`", "`"}, {"\"", "\""},   {"“", "”"}};
  constexpr std::size_t num_math = 4;
  bool is_math = false;
  rest = stripped(rest.substr(0, rest.find("</")), kWhite);
  for (int round = 0; round < 4; ++round) {
    const auto pair =
        std::find_if(std::begin(kPairs), std::end(kPairs), [&](const auto& one) { return starts(rest, one.first); });
    if (pair == std::end(kPairs)) break;
    const std::string_view inside = rest.substr(pair->first.size());
    const std::size_t closing = inside.find(pair->second);
    if (closing == std::string_view::npos) break;
    if (pair->second != "\"" && !may_follow(inside.substr(closing + pair->second.size()))) break;
    rest = stripped(inside.substr(0, closing), kWhite);
    is_math |= pair - std::begin(kPairs) < static_cast<std::ptrdiff_t>(num_math);
  }
  while (!rest.empty()) {
    const std::size_t size = has(" \t\r\n\f\v.,;:*_`\"", rest.back()) ? 1 : ends(rest, "”") || ends(rest, "。") ? 3 : 0;
    if (size == 0) break;
    rest.remove_suffix(size);
  }
  if (ends(rest, ")") && count(rest, ")]}") == count(rest, "([{") + 1) rest.remove_suffix(1);
  return {rest, is_math};
}

// The text with a blank in place of each command, including its text or name in braces.
std::string without_commands(std::string_view text) {
  std::string bare;
  Text all(text);
  for (std::size_t i = 0; i < text.size();) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      bare += text[i++];
      continue;
    }
    bare += ' ';
    const std::size_t begin = skip_text_command(all, i);
    const std::size_t close = std::min(text.find_first_of("{}", begin), text.size());
    if (begin > i && close < text.size() && text[close] == '}') {
      i = close + 1;
      continue;
    }
    const std::size_t end = past(text, i + 1, is_letter);
    if (end == i + 1) {
      i += 2;
      continue;
    }
    i = end;
    if (i < text.size() && text[i] == '{') {
      const std::size_t name = past(text, i + 1, is_letter);
      if (name < text.size() && text[name] == '}') i = name + 1;
    }
  }
  return bare;
}

bool is_open_end(std::string_view rest) {
  if (rest.empty()) return false;
  if (has("-+*/^_=<>,([\\", rest.back())) return true;
  for (const std::string_view command : {"\\cdot", "\\times", "\\le", "\\ge", "\\pm"}) {
    if (ends(rest, command)) return true;
  }
  return false;
}

// Whether marked mathematics can be an answer: it is complete and not a sentence.
bool is_formula(std::string_view rest) {
  const std::string bare = without_commands(rest);
  int num_words = 0;
  for (std::size_t i = 0; i < bare.size();) {
    const std::size_t end = past(bare, i, is_letter);
    num_words += end - i >= 3 && !is_function(bare.substr(i, end - i));
    i = std::max(end, i + 1);
  }
  return !rest.empty() && !is_open_end(rest) && num_words <= 1;
}

// "42!", "42 (6 times 7)", "10 000".
bool is_remark(std::string_view rest) {
  std::size_t i = starts(rest, "-") ? 1 : 0;
  std::size_t end = past(rest, i, is_digit);
  if (end == i) return false;
  while (end + 1 < rest.size() && has(".,", rest[end]) && past(rest, end + 1, is_digit) > end + 1) {
    end = past(rest, end + 1, is_digit);
  }
  const std::size_t marks = past(rest, end, [](int c) { return c == '!'; });
  if (marks > end && marks == rest.size()) return true;
  i = past(rest, end, is_blank);
  return i > end && i < rest.size() && (rest[i] == '(' || is_digit(static_cast<unsigned char>(rest[i])));
}

// Whether the rest of a line is one expression: a formula without words, or a single word.
bool is_expression(std::string_view rest) {
  static const WordSet no_answer("no_answer"), short_words("short_words");
  const std::string bare = without_commands(rest);
  if (rest.empty() || std::any_of(bare.begin(), bare.end(), [](char c) { return has("?:#@\"`;$", c); }) ||
      is_open_end(rest) || has(",)]}", rest[0]) || count(rest, "([{") != count(rest, ")]}")) {
    return false;
  }
  if (past(bare, 0, is_letter) == bare.size()) return !no_answer.has(lower(bare));
  if (is_remark(rest)) return false;

  bool has_sign = false, ends_symbol = false;  // ends_symbol: a letter and optional blanks ended here
  for (std::size_t i = 0; i < bare.size();) {
    const int c = static_cast<unsigned char>(bare[i]);
    std::size_t end = past(bare, i, is_letter);
    if (end > i) {
      const std::string run = bare.substr(i, end - i);
      const bool is_name = is_function(run);
      if (run.size() > 1 && !is_name) {
        const bool is_joined =
            (i > 0 && !has(" \t,.'", bare[i - 1])) || (end < bare.size() && !has(" \t,.'", bare[end]));
        if (run.size() > 3 || short_words.has(lower(run)) || !is_joined) return false;
      }
      if (ends_symbol && !is_name) return false;
      const std::size_t blanks = past(bare, end, is_blank);
      ends_symbol = !is_name && blanks > end;
      i = blanks;
      continue;
    }
    ends_symbol = false;
    end = i + 1;
    if (c >= 0x80) {
      while (c >= 0xC0 && end < bare.size() && is_continuation(static_cast<unsigned char>(bare[end]))) ++end;
      if (!is_known_sign(bare.substr(i, end - i))) return false;
      has_sign = true;
    }
    i = end;
  }
  return has_sign || std::any_of(rest.begin(), rest.end(), [](unsigned char c) { return is_digit(c) || is_letter(c); });
}

// The end of the number at the beginning of the text, with the marks before it; 0 if there is none. A blank in it may
// only precede a fraction or a group of three digits.
std::size_t head_end(std::string_view rest) {
  std::size_t i = 0;
  for (int round = 0; round < 8; ++round) {
    const std::string_view at = rest.substr(i);
    std::size_t size = 0;
    for (const std::string_view mark : {"−", "\\$", "$", "£", "€", "¥", "₹", "≈", "\\(", "\\["}) {
      if (starts(at, mark)) size = mark.size();
    }
    if (size == 0) size = !at.empty() && has("-+*_\"`= \t", at[0]) ? 1 : 0;
    if (size == 0) break;
    i += size;
  }
  if (i < rest.size() && rest[i] == '.') ++i;
  if (i >= rest.size() || !is_digit(static_cast<unsigned char>(rest[i]))) return 0;
  i = past(rest, i, [](int c) { return !is_blank(c); });

  const std::size_t over = past(rest, i + 1, is_digit);
  if (i < rest.size() && over > i + 1 && over < rest.size() && rest[over] == '/') {
    const std::size_t under = past(rest, over + 1, is_digit);
    if (under > over + 1) return under;
  }
  while (i < rest.size() && is_blank(static_cast<unsigned char>(rest[i])) && past(rest, i + 1, is_digit) == i + 4)
    i += 4;
  return i;
}

// The number at the beginning of prose ("42 apples", "16 - 3 = 13"), unless a list or formula continues.
std::optional<std::string> number_in_prose(Text& line, std::size_t i, std::string_view rest) {
  static const Words goes_on = {"or", "and", "to", "x", "times", "plus", "minus", "over", "divided"};
  const std::size_t equals = rest.rfind('=');
  if (equals != std::string_view::npos) {
    if (!is_digit(static_cast<unsigned char>(rest[0]))) return std::nullopt;
    return value_of(number_in(rest.substr(equals + 1)));
  }
  const std::size_t end = head_end(rest);
  if (end == 0 || !number_in(rest.substr(0, end)).is_formed) return std::nullopt;
  const std::string_view after = stripped(rest.substr(end), " \t");
  const std::string word(after.substr(0, past(after, 0, is_letter)));
  if (!word.empty()) {
    if (goes_on.count(lower(word)) != 0 || (word.size() == 1 && !is_unit(word))) return std::nullopt;
  } else if (!after.empty()) {
    if (has("+*/^_\\<>[$&|", after[0])) return std::nullopt;
    const std::size_t sign = after[0] == '-' || after[0] == '\xe2' ? 1 : 0;
    for (const std::size_t begin : {sign, std::size_t{0}}) {
      const std::size_t at = past(after, begin, is_blank);
      if (at < after.size() && (has("-.$\\", after[at]) || is_digit(static_cast<unsigned char>(after[at])))) {
        return std::nullopt;
      }
    }
  }
  return value_of(number_after_marker(line, i, false));
}

}  // namespace

std::size_t closing_brace(Text& text, std::size_t i) {
  const std::size_t limit = std::min(text.end(), i + kMaxBox + 1);
  int depth = 1;
  for (; i < limit; ++i) {
    const int c = text.at(i);
    if (c == '\\' && i + 1 < limit) {
      ++i;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth == 0) {
      return i;
    }
  }
  return kNone;
}

std::optional<std::string> boxed_value(Text content, const Spec& spec) {
  if (spec.reads_choices()) {
    const std::optional<char> letter = choice_after_marker(content, content.begin(), spec.options);
    return letter ? std::optional<std::string>(std::string(1, *letter)) : std::nullopt;
  }
  const std::string_view all = content.view(content.begin(), content.end());
  return spec.format == Format::kNumber ? value_of(number_in(all, false)) : number_or_expression(all);
}

std::optional<std::string> expression_after_marker(Text& line, std::size_t i) {
  const auto [rest, is_math] = without_marks(line.view(value_begin(line, i), line.end()));
  if (is_math ? is_formula(rest) : is_expression(rest)) return number_or_expression(rest);
  return is_math ? std::nullopt : number_in_prose(line, i, rest);
}

}  // namespace fastsia
