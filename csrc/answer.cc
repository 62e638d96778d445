#include "answer.h"

#include <algorithm>
#include <utility>

#include "number.h"

namespace fastsia {
namespace {

constexpr std::string_view kStops[] = {"Question:", "Q:"};
constexpr std::size_t kMaxIndent = 8;

// How many whitespace bytes (at most one more than `most`) end at `i`.
std::size_t spaces_before(const Text& text, std::size_t i, std::size_t most) {
  std::size_t count = 0;
  while (count <= most && is_space(text.before(i, count + 1))) ++count;
  return count;
}

// Where a lower-case word begins that ends at `i`, with 1 to 4 spaces between; kNone where it does not stand there.
std::size_t word_before(const Text& text, std::size_t i, std::string_view word) {
  const std::size_t spaces = spaces_before(text, i, 4);
  if (spaces < 1 || spaces > 4 || !text.has_word_before(i - spaces, word)) return kNone;
  return i - spaces - word.size();
}

// Past " is" (1 to 4 spaces, no longer word) at `i`, or kNone.
std::size_t skip_is(Text& text, std::size_t i) {
  std::size_t at = i;
  while (at - i < 4 && is_space(text.at(at))) ++at;
  if (at == i || !text.has_word(at, "is") || is_word(text, at + 2)) return kNone;
  return at + 2;
}

// The markers around the word "answer" at `i`: which one it is part of, if any.
Occurrence read_answer_marker(Text& text, std::size_t i, unsigned markers) {
  Occurrence found;
  const std::size_t after = i + 6;
  if (markers & kColon && !is_word_before(text, i)) {
    std::size_t colon = after;
    while (colon - after < 8 && (is_blank(text.at(colon)) || text.at(colon) == '*' || text.at(colon) == '_')) ++colon;
    if (text.at(colon) == ':') return {kColon, i, colon + 1};
  }
  if (markers & kFinal) {
    const std::size_t begin = word_before(text, i, "final");
    if (begin != kNone && !is_word_before(text, begin)) {
      const std::size_t end = skip_is(text, after);
      if (end != kNone) return {kFinal, begin, end};
    }
  }
  if (markers & kAnswerIs) {
    std::size_t begin = word_before(text, i, "the");
    for (const std::string_view word : {"correct", "best", "right"}) {
      const std::size_t adjective = word_before(text, i, word);
      if (adjective != kNone) begin = word_before(text, adjective, "the");
    }
    if (begin != kNone && !is_word_before(text, begin)) {
      const std::size_t end = skip_is(text, after);
      if (end != kNone) return {kAnswerIs, begin, end};
    }
  }
  return found;
}

// Where the brace that is open just before `i` closes, or kNone.
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

std::optional<std::string> value_or_none(const Number& number) {
  if (!number.has_value) return std::nullopt;
  return canonical(number);
}

std::optional<std::string> letter_or_none(std::optional<char> letter) {
  if (!letter) return std::nullopt;
  return std::string(1, *letter);
}

bool reads_choices(const Spec& spec) {
  return spec.format == Format::kChoice || (spec.format == Format::kBoxed && spec.options.are_known);
}

// What the content of a box says: an option's letter, a canonical number, or (format boxed) a tidied text.
std::optional<std::string> boxed_value(Text content, const Spec& spec) {
  if (reads_choices(spec)) return letter_or_none(choice_after_marker(content, content.begin(), spec.options, true));
  const Number number = whole_number(content);
  if (number.is_formed || spec.format == Format::kNumber) return value_or_none(number);
  return tidy(content.view(content.begin(), content.end()));
}

std::optional<std::string> first_value(Text& text, unsigned markers, const Spec& spec) {
  for (std::size_t i = text.begin();;) {
    const Occurrence occurrence = next_marker(text, i, markers);
    if (occurrence.begin == kNone) return std::nullopt;
    std::optional<std::string> value = value_of(text, occurrence, spec);
    if (value) return value;
    i = occurrence.end;
  }
}

std::optional<std::string> last_value(Text& text, unsigned markers, const Spec& spec) {
  std::optional<std::string> last;
  for (std::size_t i = text.begin();;) {
    const Occurrence occurrence = next_marker(text, i, markers);
    if (occurrence.begin == kNone) return last;
    std::optional<std::string> value = value_of(text, occurrence, spec);
    if (value) last = std::move(value);
    i = occurrence.end;
  }
}

// The answer of a text without think block and stop text, by the first rule that gives one.
std::optional<std::string> read(Text& text, const Spec& spec) {
  const Marker own = asked_for(spec.format);
  const unsigned others = (kHash | kBox | kColon | kFinal) & ~own;
  std::optional<std::string> answer =
      spec.format == Format::kBoxed ? last_value(text, own, spec) : first_value(text, own, spec);
  if (!answer) answer = first_value(text, others, spec);
  if (answer || spec.format == Format::kBoxed) return answer;
  answer = last_value(text, kAnswerIs, spec);
  if (answer) return answer;
  return spec.format == Format::kNumber ? value_or_none(last_number(text))
                                        : letter_or_none(last_letter(text, spec.options));
}

}  // namespace

Marker asked_for(Format format) {
  return format == Format::kNumber ? kHash : format == Format::kChoice ? kColon : kBox;
}

Occurrence next_marker(Text& text, std::size_t i, unsigned markers) {
  // Each marker is looked for by a byte that is rare in prose: of "answer" that is the w, of either case.
  const bool has_words = (markers & (kColon | kFinal | kAnswerIs)) != 0;
  std::size_t hash = markers & kHash ? text.find('#', i) : kNone;
  std::size_t backslash = markers & kBox ? text.find('\\', i) : kNone;
  std::size_t small_w = has_words ? text.find('w', i) : kNone;
  std::size_t large_w = has_words ? text.find('W', i) : kNone;
  while (true) {
    const std::size_t w = std::min(small_w, large_w);
    const std::size_t at = std::min({hash, backslash, w});
    if (at == kNone) return {};
    if (at == hash) {
      std::size_t end = hash + 1;
      while (text.at(end) == '#') ++end;
      if (end - hash >= 4) return {kHash, hash, end};
      hash = text.find('#', end);
    } else if (at == backslash) {
      if (text.has(backslash, "\\boxed")) {
        std::size_t brace = backslash + 6;
        while (brace - backslash - 6 < 8 && is_space(text.at(brace))) ++brace;
        if (text.at(brace) == '{') return {kBox, backslash, brace + 1};
      }
      backslash = text.find('\\', backslash + 1);
    } else {
      if (w >= i + 3 && text.has_word(w - 3, "answer")) {
        const Occurrence found = read_answer_marker(text, w - 3, markers);
        if (found.begin != kNone) return found;
      }
      (w == small_w ? small_w : large_w) = text.find(w == small_w ? 'w' : 'W', w + 1);
    }
  }
}

std::optional<std::string> value_of(Text& text, const Occurrence& occurrence, const Spec& spec) {
  if (occurrence.marker == kBox) {
    const std::size_t end = closing_brace(text, occurrence.end);
    return end == kNone ? std::nullopt : boxed_value(text.part(occurrence.end, end), spec);
  }
  if (reads_choices(spec)) {
    return letter_or_none(choice_after_marker(text, occurrence.end, spec.options, occurrence.marker != kAnswerIs));
  }
  return value_or_none(number_after_marker(text, occurrence.end));
}

std::size_t find_stop(const Text& text, std::size_t i) {
  for (i = text.find('Q', i); i != kNone; i = text.find('Q', i + 1)) {
    const std::string_view rest = text.view(i, text.end());
    if (rest.substr(0, kStops[0].size()) != kStops[0] && rest.substr(0, kStops[1].size()) != kStops[1]) continue;
    std::size_t indent = 0;
    while (indent <= kMaxIndent && is_blank(text.before(i, indent + 1))) ++indent;
    const int previous = text.before(i, indent + 1);
    if (indent <= kMaxIndent && (previous < 0 || previous == '\n' || previous == '\r')) return i - indent;
  }
  return kNone;
}

std::size_t before_partial_stop(const Text& text) {
  std::size_t begin = text.end();
  for (std::size_t size = 0; size <= kMaxIndent + kStops[0].size(); ++size, --begin) {
    const int previous = text.before(begin);
    if (previous >= 0 && previous != '\n' && previous != '\r') continue;
    std::string_view rest = text.view(begin, text.end());
    std::size_t indent = 0;
    while (indent < rest.size() && indent < kMaxIndent && is_blank(static_cast<unsigned char>(rest[indent]))) ++indent;
    rest.remove_prefix(indent);
    const bool is_partial = std::any_of(std::begin(kStops), std::end(kStops),
                                        [rest](std::string_view stop) { return stop.substr(0, rest.size()) == rest; });
    return is_partial ? begin : text.end();
  }
  return text.end();
}

Answer read_answer(std::string_view completion, const Spec& spec) {
  Answer answer;
  std::size_t begin = 0;
  while (begin < completion.size() && is_space(static_cast<unsigned char>(completion[begin]))) ++begin;
  const bool opens = completion.substr(begin, kThink.size()) == kThink;
  begin = opens && !spec.starts_in_think ? begin + kThink.size() : 0;
  if (opens || spec.starts_in_think) {
    const std::size_t close = completion.find(kEndThink, begin);
    answer.is_in_think = close == std::string_view::npos;
    if (!answer.is_in_think) begin = close + kEndThink.size();
  }
  const Text all(completion.data(), begin, completion.size());
  const std::size_t stop = find_stop(all, begin);
  Text text = all.part(begin, stop == kNone ? all.end() : stop);
  answer.value = read(text, spec);
  return answer;
}

}  // namespace fastsia
