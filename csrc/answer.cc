#include "answer.h"

#include <algorithm>
#include <utility>

#include "boxed.h"
#include "number.h"
#include "tables.h"

namespace fastsia {
namespace {

constexpr std::string_view kStops[] = {"Question:", "Q:"};
constexpr std::size_t kMaxIndent = 8;
constexpr std::size_t kMaxWord = 12;  // letters of a word before a marker

constexpr std::string_view kBlanks = " \t";
constexpr std::string_view kSpaces = " \t\n\r\f\v";
constexpr std::string_view kMarks = " \t*_\"'`([<>#-";
constexpr std::string_view kAround = " \t*_\"'`";

// The word before a word that may be part of a marker.
struct Before {
  bool is_word_start = false;
  char letters[kMaxWord];  // in lower case
  std::size_t size = 0;    // 0: the beginning of a line or sentence
  bool is_other = false;   // not a plain word
  std::size_t begin = 0;   // begin of that word, or of the word itself if there is none

  std::string_view word() const { return {letters, size}; }
  bool is_start() const { return size == 0 && !is_other; }
};

Before word_before(const Text& text, std::size_t at) {
  Before before;
  before.begin = at;
  std::size_t begin = at;
  while (at - begin < 8 && is_one_of(text.before(begin), kMarks)) --begin;
  if (begin == at) {
    constexpr std::string_view kFinal = "final";
    if (text.has_word_before(at, "final_")) {
      before.is_word_start = true;
      before.size = kFinal.copy(before.letters, kFinal.size());
      before.begin = at - 6;
    } else {
      before.is_word_start = !is_one_of(text.before(at), "/\\") && !is_word_before(text, at);
    }
    return before;
  }
  before.is_word_start = true;
  const std::size_t end = begin;
  while (end - begin <= kMaxWord && is_letter(text.before(begin))) --begin;
  if (end - begin > kMaxWord || is_word_before(text, begin)) {
    before.is_other = true;
    before.begin = begin;
    return before;
  }
  for (std::size_t i = begin; i < end; ++i) {
    before.letters[before.size++] = static_cast<char>(Text::lower(text.at(i)));
  }
  if (begin < end) before.begin = begin;
  return before;
}

const WordSet kGood("marker_good");
const WordSet kBad("marker_bad");

// The position after marks and ":" or "=", or kNone.
std::size_t skip_colon(const Text& text, std::size_t i) {
  const std::size_t at = skip_at_most(text, i, kAround, 8);
  if (text.at(at) == ':') return at + 1;
  if (text.at(at) == '=' && text.at(at + 1) != '=') return at + 1;
  return text.has(at, "\xEF\xBC\x9A") ? at + 3 : kNone;
}

// The position after " -", if a blank follows, or kNone.
std::size_t skip_dash(const Text& text, std::size_t i) {
  const std::size_t blanks = skip_at_most(text, i, "*_", 4);
  const std::size_t at = skip_blanks(text, blanks, 4);
  if (at == blanks) return kNone;
  for (const std::string_view dash : {"-", "\xE2\x80\x93", "\xE2\x80\x94"}) {
    if (text.has(at, dash) && is_blank(text.at(at + dash.size()))) return at + dash.size();
  }
  return kNone;
}

// Whether only marks of a heading ("## ", "**") precede `at` on its line.
bool is_heading(const Text& text, std::size_t at) {
  std::size_t begin = at;
  bool has_mark = false;
  while (at - begin < 16 && is_one_of(text.before(begin), " \t>#*_")) {
    --begin;
    has_mark |= is_one_of(text.at(begin), "#*_");
  }
  return has_mark && (text.before(begin) < 0 || text.before(begin) == '\n');
}

// The position after white space and "is" or a similar word, or kNone.
std::size_t skip_link(const Text& text, std::size_t i) {
  const std::size_t at = skip_at_most(text, i, kSpaces, 4);
  if (at == i) return kNone;
  for (const std::string_view word : {"is", "was", "equals"}) {
    if (text.has_word(at, word) && !is_word(text, at + word.size())) return at + word.size();
  }
  for (const std::string_view word : {"would", "should", "must", "will", "can", "has to"}) {
    if (!text.has_word(at, word)) continue;
    std::size_t be = at + word.size();
    if (text.has_word(be, " only")) be += 5;
    return text.has_word(be, " be") && !is_word(text, be + 3) ? be + 3 : kNone;
  }
  return kNone;
}

// The position after "is" and the words that may precede it ("to this question", "we want"), or kNone.
std::size_t skip_is(const Text& text, std::size_t i) {
  const std::size_t at = skip_blanks(text, i, 4);
  for (const std::string_view word : {"to", "for", "in", "of", "here", "we", "you", "i"}) {
    if (at == i || !text.has_word(at, word)) continue;
    std::size_t end = at + word.size();
    for (int words = 0; words <= 4; ++words) {
      const std::size_t link = skip_link(text, end);
      if (link != kNone) return link;
      const std::size_t next = skip_blanks(text, end, 4);
      std::size_t stop = next;
      while (stop - next < 15 &&
             (is_letter(text.at(stop)) || is_digit(text.at(stop)) || is_one_of(text.at(stop), "'-"))) {
        ++stop;
      }
      if (next == end || stop == next) break;
      end = stop;
    }
  }
  return skip_link(text, i);
}

// The marker that the word "answer", "option", "choice" or "ans" at [begin, end) belongs to.
Occurrence read_statement(const Text& text, std::size_t begin, std::size_t end, bool is_answer, bool is_ans) {
  const Before before = word_before(text, begin);
  if (!before.is_word_start || (!before.is_other && kBad.has(before.word()))) return {};
  const bool is_start = before.is_start(), is_good = !before.is_other && kGood.has(before.word());
  const bool is_final = !before.is_other && before.word() == "final" && before.begin + 6 == begin;
  const std::size_t tag = is_final && text.before(begin) == '_' ? before.begin : begin;
  const bool is_tag = text.before(tag) == '<' && text.at(end) == '>';
  std::size_t stop = skip_colon(text, end);
  if (stop == kNone && (is_good || is_start)) {
    stop = skip_dash(text, end);
    if (stop == kNone && is_heading(text, before.begin)) {
      const std::size_t newline = skip_at_most(text, end, " \t*_", 8);
      if (text.at(newline) == '\n') stop = newline + 1;
    }
  }
  if (stop == kNone && is_tag) stop = end + 1;
  if (stop != kNone) return {is_answer && (is_good || is_start) ? kColon : kStated, begin, stop};
  stop = skip_is(text, end);
  if (stop == kNone) return {};
  if (!before.is_other && before.word() == "final") return {is_answer ? kFinal : kStated, begin, stop};
  const bool is_likely = !before.is_other && before.word() == "likely";
  if (is_answer || is_ans || is_good || is_likely) return {kStated, begin, stop};
  return {};
}

// "####" or its escaped form with a sign at `hash`, unless it is quoted.
Occurrence read_hash(const Text& text, std::size_t hash, std::size_t from) {
  const auto is_quoted = [&text](std::size_t i) {
    return is_one_of(text.before(i), "\"'`") || text.has_before(i, "\xE2\x80\x9C") ||
           text.has_before(i, "\xE2\x80\x98");
  };
  if (hash > from && text.before(hash) == '\\' && !text.has_before(hash - 1, "\\#")) {
    std::size_t end = hash - 1;
    while (text.at(end) == '\\' && text.at(end + 1) == '#') end += 2;
    if (end - hash + 1 >= 8 && !is_quoted(hash - 1)) return {kHash, hash - 1, end};
  }
  if (text.before(hash) == '#') return {};
  std::size_t end = hash;
  while (text.at(end) == '#') ++end;
  return end - hash >= 4 && !is_quoted(hash) ? Occurrence{kHash, hash, end} : Occurrence{};
}

Occurrence read_box(const Text& text, std::size_t backslash) {
  for (const std::string_view command : {"\\boxed", "\\fbox"}) {
    if (!text.has(backslash, command)) continue;
    const std::size_t brace = skip_at_most(text, backslash + command.size(), kSpaces, 8);
    if (text.at(brace) == '{') return {kBox, backslash, brace + 1};
  }
  return {};
}

// The first statement of any kind that begins in [i, end).
Occurrence next_statement(const Text& text, std::size_t i, std::size_t end_of_search) {
  for (; i < end_of_search; ++i) {
    const int c = Text::lower(text.at(i));
    if (c != 'a' && c != 'o' && c != 'c') continue;
    for (const std::string_view word : {"answer", "option", "choice", "ans"}) {
      const std::size_t end = i + word.size();
      if (!text.has_word(i, word) || is_word(text, end)) continue;
      const Occurrence found = read_statement(text, i, end, word == "answer", word == "ans");
      if (found.begin != kNone) return found;
      break;
    }
  }
  return {};
}

struct Window {
  std::size_t begin;
  std::size_t end;
  bool is_closed;
};

// The end of the first sentence that ends in [i, end), or kNone. The point of an abbreviation does not end a sentence.
std::size_t sentence_end(const Text& text, std::size_t i, std::size_t end) {
  for (; i < end; ++i) {
    const int c = text.at(i);
    if (c != '.' && c != '?') continue;
    if (text.has_before(i, "Rs") || text.has_before(i, "No") || text.has_before(i, "approx") ||
        text.has_before(i, "vs"))
      continue;
    std::size_t stop = i + 1;
    while (stop - i - 1 < 4 && stop < end && is_one_of(text.at(stop), "*_\"')]")) ++stop;
    if (stop < end && is_blank(text.at(stop))) return stop;
  }
  return kNone;
}

Window window_of(Text& text, const Occurrence& occurrence, const Spec& spec) {
  const std::size_t begin = skip_decoration(text, occurrence.end);
  const std::size_t limit = begin + spec.window;
  std::size_t end = std::min(limit, text.end());
  bool is_closed = limit <= text.end();
  const std::string_view line = text.view(begin, end);
  const std::size_t newline = line.find('\n');
  if (newline != std::string_view::npos) {
    end = begin + newline;
    is_closed = true;
  }
  if (spec.options_have_sentences) return {begin, end, is_closed};
  std::size_t start = begin;
  while (occurrence.marker == kHash && start < end && !is_blank(text.at(start))) ++start;
  const std::size_t sentence = sentence_end(text, start, end);
  return sentence == kNone ? Window{begin, end, is_closed} : Window{begin, sentence, true};
}

std::optional<std::string> letter_or_none(std::optional<char> letter) {
  if (!letter) return std::nullopt;
  return std::string(1, *letter);
}

struct Value {
  std::size_t begin = kNone;  // of the marker
  std::optional<std::string> value;
};

// The first (or last) complete occurrence of the markers.
Value find_value(Text& text, unsigned markers, const Spec& spec, bool is_open, bool is_last) {
  Value value;
  for (std::size_t i = text.begin();;) {
    const Occurrence occurrence = next_marker(text, i, markers);
    if (occurrence.begin == kNone) return value;
    Found found = value_of(text, occurrence, spec);
    if (found.value && (found.is_closed || !is_open)) {
      value = {occurrence.begin, std::move(found.value)};
      if (!is_last) return value;
    }
    i = occurrence.begin + 1;
  }
}

// Rules 1 to 3. is_open: more text may follow, so a value counts only if its end has been read.
Value announced(Text& text, const Spec& spec, bool is_open) {
  const Marker own = asked_for(spec.format);
  const unsigned others = (kHash | kBox | kColon | kFinal) & ~own;
  Value found = find_value(text, own, spec, is_open, spec.format == Format::kBoxed);
  if (!found.value) found = find_value(text, others, spec, is_open, false);
  if (!found.value && spec.format != Format::kBoxed) found = find_value(text, kStated, spec, is_open, true);
  return found;
}

// The parts of the text in which the last number is not searched.
Spans passed_over(Text& text, const Spec& spec) {
  Spans spans;
  for (std::size_t i = text.begin();;) {
    const Occurrence occurrence = next_marker(text, i, kHash | kBox | kColon | kFinal | kStated);
    if (occurrence.begin == kNone) return spans;
    const Found found = value_of(text, occurrence, spec);
    if (found.is_formed && !found.value) spans.emplace_back(found.begin, found.end);
    i = occurrence.begin + 1;
  }
}

// The answer of a text without think blocks and stop texts, by the first rule that finds one.
std::optional<std::string> read(Text text, const Spec& spec, bool is_cut) {
  Value found = announced(text, spec, is_cut);
  if (found.value || is_cut || spec.format == Format::kBoxed) return std::move(found.value);
  if (spec.format == Format::kChoice) {
    const std::optional<char> stated = stated_choice(text, spec.options);
    return letter_or_none(stated ? stated : last_choice(text, spec.options));
  }
  const Number number = last_number(text, passed_over(text, spec));
  return number.has_value ? std::optional<std::string>(canonical(number)) : std::nullopt;
}

// The answer of the text after the think blocks.
std::optional<std::string> read_counted(std::string_view completion, std::size_t begin, std::size_t end,
                                        const Spec& spec, bool is_cut) {
  const Text text(completion.data(), begin, end);
  std::size_t stop = begin;
  for (int number = 0; spec.stop_texts && number < 2; ++number) {
    stop = find_stop(text, stop);
    if (stop == kNone) break;
    std::optional<std::string> answer = read(text.part(begin, stop), spec, false);
    if (answer) return answer;
    while (text.at(stop) != ':') ++stop;
  }
  return read(text, spec, is_cut);
}

std::size_t without_last_word(std::string_view text, std::size_t begin) {
  std::size_t end = text.size();
  while (end > begin && !is_space(static_cast<unsigned char>(text[end - 1]))) --end;
  return end;
}

struct Thought {
  std::size_t begin;
  bool is_open;
};

Thought after_think(std::string_view text, const Spec& spec) {
  std::size_t begin = 0;
  // The position after white space and an opening mark, or kNone; `closing` receives its closing mark.
  const auto opening = [&](std::size_t at, const std::string** closing) {
    while (at < text.size() && is_space(static_cast<unsigned char>(text[at]))) ++at;
    for (const auto& [open, close] : spec.think_tags) {
      if (text.compare(at, open.size(), open) == 0) {
        *closing = &close;
        return at + open.size();
      }
    }
    return kNone;
  };
  const std::string* close = nullptr;
  if (spec.starts_in_think) {
    const Closing closing = first_closing(text, 0, spec);
    if (closing.begin == kNone) return {0, true};
    begin = closing.end;
  } else if (opening(0, &close) == kNone) {
    const Closing closing = first_closing(text, 0, spec);
    if (closing.begin == kNone) return {0, false};
    Text before(text.data(), 0, closing.begin);
    if (announced(before, spec, true).value) return {0, false};
    begin = closing.end;
  }
  for (std::size_t inside; (inside = opening(begin, &close)) != kNone;) {
    const std::size_t end = text.find(*close, inside);
    if (end == std::string_view::npos) return {inside, true};
    begin = end + close->size();
  }
  return {begin, false};
}

}  // namespace

void Spec::set_options(const std::vector<std::string>& texts) {
  options = make_options(texts);
  window = kWindow;
  options_have_sentences = false;
  for (const std::string& option : texts) {
    window = std::max(window, option.size() + 64);
    const Text text{std::string_view(option)};
    for (std::size_t i = 0; i < option.size(); ++i) {
      if (option[i] != '.' && option[i] != '?') continue;
      options_have_sentences |= is_blank(text.at(skip_at_most(text, i + 1, "*_\"')]", 4)));
    }
  }
}

Marker asked_for(Format format) {
  return format == Format::kNumber ? kHash : format == Format::kChoice ? kColon : kBox;
}

Occurrence next_marker(Text& text, std::size_t i, unsigned markers) {
  // Search for each marker by a byte that is rare in prose ("answer": w of either case). The search runs in pieces, so
  // that a byte that does not occur is not searched to the end of the text again for every marker.
  constexpr std::size_t kPiece = 1024;
  const bool has_words = (markers & (kColon | kFinal)) != 0;
  Occurrence found;
  const bool has_signs = (markers & ~kStated) != 0;
  for (std::size_t begin = i; has_signs && begin < text.end() && found.begin == kNone; begin += kPiece) {
    const Text piece = text.part(text.begin(), std::min(begin + kPiece, text.end()));
    std::size_t hash = markers & kHash ? piece.find('#', begin) : kNone;
    std::size_t backslash = markers & kBox ? piece.find('\\', begin) : kNone;
    std::size_t small_w = has_words ? piece.find('w', begin) : kNone;
    std::size_t large_w = has_words ? piece.find('W', begin) : kNone;
    while (found.begin == kNone) {
      const std::size_t at = std::min({hash, backslash, small_w, large_w});
      if (at == kNone) break;
      if (at == hash) {
        found = read_hash(text, hash, i);
        hash = piece.find('#', hash + 1);
      } else if (at == backslash) {
        found = read_box(text, backslash);
        backslash = piece.find('\\', backslash + 1);
      } else {
        if (at >= i + 3 && text.has_word(at - 3, "answer") && !is_word(text, at + 3)) {
          found = read_statement(text, at - 3, at + 3, true, false);
          if (!(markers & found.marker)) found = {};
        }
        (at == small_w ? small_w : large_w) = piece.find(at == small_w ? 'w' : 'W', at + 1);
      }
    }
  }
  if (markers & kStated) {
    // The loop above may have found another statement: the earlier one counts.
    for (std::size_t from = i;;) {
      const Occurrence said = next_statement(text, from, std::min(found.begin, text.end()));
      if (said.begin == kNone) break;
      if (markers & said.marker) return said;
      from = said.begin + 1;
    }
  }
  return found;
}

Found value_of(Text& text, const Occurrence& occurrence, const Spec& spec) {
  Found found;
  if (occurrence.marker == kBox) {
    const std::size_t end = closing_brace(text, occurrence.end);
    found.is_closed = end != kNone || text.end() > occurrence.end + kMaxBox;
    if (end == kNone) return found;
    found.value = boxed_value(text.part(occurrence.end, end), spec);
    found.is_formed = true;
    found.begin = occurrence.end;
    found.end = end;
    return found;
  }
  const Window window = window_of(text, occurrence, spec);
  found.begin = window.begin;
  found.end = window.end;
  found.is_closed = window.is_closed;
  Text line = text.part(text.begin(), window.end);
  if (spec.reads_choices()) {
    found.value = letter_or_none(choice_after_marker(line, window.begin, spec.options));
  } else if (spec.format == Format::kBoxed) {
    found.value = expression_after_marker(line, window.begin);
  } else {
    const Number number = number_after_marker(line, window.begin, occurrence.marker == kHash);
    found.is_formed = number.is_formed;
    if (number.has_value) found.value = canonical(number);
  }
  return found;
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

Closing first_closing(std::string_view text, std::size_t i, const Spec& spec) {
  Closing first;
  for (const auto& [open, close] : spec.think_tags) {
    const std::size_t begin = text.find(close, i);
    if (begin == std::string_view::npos) continue;
    const std::size_t end = begin + close.size();
    if (first.begin == kNone || begin < first.begin || (begin == first.begin && end > first.end)) first = {begin, end};
  }
  return first;
}

std::size_t before_partial_closing(std::string_view text, std::size_t from, const Spec& spec) {
  std::size_t first = text.size();
  for (const auto& [open, close] : spec.think_tags) {
    const std::size_t begin = std::max(from, text.size() - std::min(close.size() - 1, text.size()));
    for (std::size_t i = text.find(close[0], begin); i < first; i = text.find(close[0], i + 1)) {
      if (text.compare(i, text.size() - i, close, 0, text.size() - i) == 0) first = i;
    }
  }
  return first;
}

Answer read_answer(std::string_view text, const Spec& spec, bool is_cut) {
  const Thought thought = after_think(text, spec);
  Answer answer;
  answer.strict = answer.lenient = read_counted(text, thought.begin, text.size(), spec, is_cut);
  if (is_cut && !answer.strict) {
    const std::size_t end = without_last_word(text, thought.begin);
    answer.lenient = read_counted(text, thought.begin, end, spec, false);
  }
  if (thought.is_open) answer.strict = std::nullopt;
  return answer;
}

}  // namespace fastsia
