#include "boxed.h"

#include <algorithm>
#include <string_view>

#include "choice.h"
#include "number.h"

namespace fastsia {
namespace {

// Replaces what `match` finds: it gives the position past a match at `i` (or `i`) and writes what stands for it.
template <typename Match>
std::string rewrite(const std::string& from, Match match) {
  std::string to;
  Text text{std::string_view(from)};
  for (std::size_t i = 0; i < from.size();) {
    const std::size_t end = match(text, i, to);
    if (end == i) {
      to += from[i++];
    } else {
      i = end;
    }
  }
  return to;
}

std::size_t skip_no_ink(Text& text, std::size_t i, std::string&) {
  if (text.at(i) == '$') return i + 1;
  if (text.at(i) != '\\') return i;
  for (const std::string_view command : {"left", "right", "displaystyle"}) {
    const std::size_t end = i + 1 + command.size();
    if (text.has(i + 1, command) && !(text.at(end) >= 'a' && text.at(end) <= 'z')) return end;
  }
  const int c = text.at(i + 1);
  return c == '!' || c == ',' || c == ';' || c == ':' || c == '$' ? i + 2 : i;
}

std::size_t widen(Text& text, std::size_t i, std::string& to) {
  const std::size_t end = text.at(i) == '~' ? i + 1 : text.has(i, "\\ ") ? i + 2 : i;
  if (end != i) to += ' ';
  return end;
}

std::size_t unsize_fraction(Text& text, std::size_t i, std::string& to) {
  if (!text.has(i, "\\dfrac") && !text.has(i, "\\tfrac")) return i;
  to += "\\frac";
  return i + 6;
}

std::size_t unwrap(Text& text, std::size_t i, std::string& to) {
  const std::size_t begin = skip_text_command(text, i);
  if (begin == i) return i;
  std::size_t end = begin;
  while (text.at(end) >= 0 && text.at(end) != '{' && text.at(end) != '}') ++end;
  if (text.at(end) != '}') return i;
  to += text.view(begin, end);
  return end + 1;
}

bool is_prose(int c) {
  return is_letter(c) || c >= 0x80 || (c > 0 && std::string_view("'\",.;:!?& -").find(static_cast<char>(c)) != kNone);
}

// One spelling for what LaTeX writes in several. Arithmetic is not evaluated: it is no answer.
std::optional<std::string> tidy(std::string_view content) {
  std::string text = rewrite(std::string(content), skip_no_ink);
  text = rewrite(rewrite(rewrite(text, widen), unsize_fraction), unwrap);
  std::string single;
  for (const char c : text) {
    if (!is_space(static_cast<unsigned char>(c))) {
      single += c;
    } else if (!single.empty() && single.back() != ' ') {
      single += ' ';
    }
  }
  while (!single.empty() && single.back() == ' ') single.pop_back();
  if (!std::all_of(single.begin(), single.end(), [](char c) { return is_prose(static_cast<unsigned char>(c)); })) {
    single.erase(std::remove(single.begin(), single.end(), ' '), single.end());
  }
  while (!single.empty() && (single.back() == '.' || single.back() == ' ')) single.pop_back();
  if (single.empty() || single.size() > kMaxText) return std::nullopt;

  bool is_arithmetic = true, has_operation = false;
  for (std::size_t i = 0; i < single.size(); ++i) {
    const char c = single[i];
    is_arithmetic &= is_digit(static_cast<unsigned char>(c)) || std::string_view("-.+*/^(){}").find(c) != kNone;
    has_operation |=
        i > 0 && std::string_view("-+*/^").find(c) != kNone &&
        (is_digit(static_cast<unsigned char>(single[i - 1])) || single[i - 1] == ')' || single[i - 1] == '}');
  }
  if (is_arithmetic && has_operation) return std::nullopt;
  return single;
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
  const Number number = whole_number(content);
  if (number.is_formed || spec.format == Format::kNumber) {
    return number.has_value ? std::optional<std::string>(canonical(number)) : std::nullopt;
  }
  return tidy(content.view(content.begin(), content.end()));
}

std::optional<std::string> expression_after_marker(Text& line, std::size_t i) {
  const Number number = number_after_marker(line, i, false);
  return number.has_value ? std::optional<std::string>(canonical(number)) : std::nullopt;
}

}  // namespace fastsia
