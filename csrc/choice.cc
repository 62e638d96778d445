#include "choice.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "fold.h"
#include "tables.h"

namespace fastsia {
namespace {

// Words --------------------------------------------------------------------------------------------------------------

constexpr std::string_view kDegree = "\xC2\xB0", kArrow = "\xE2\x86\x92";

const WordSet kBe("be");
const WordSet kModals("modals");
const WordSet kVerbs("verbs");
const WordSet kNotAfterArticle("not_after_article");
const WordSet kNotAfterI("not_after_i");
const WordSet kFollow("follow");
const WordSet kArticles("articles");
const WordSet kKinds("kinds");
const WordSet kFillers("fillers");
const WordSet kNoLabelAfter("no_label_after");
const WordSet kAdverbs("adverbs");
const WordSet kNegative("negative");
const WordSet kBeforeNegative("before_negative");
const WordSet kCrosses("crosses");
const WordSet kGood("good");
const WordSet kPositive("positive");
const WordSet kNouns("nouns");
const WordSet kAfterVerdict("after_verdict");
const WordSet kJoinWords("join_words");
const WordSet kAfterOr("after_or");
const WordSet kSoft("soft");
const WordSet kDoubt("doubt");
const WordSet kChoose("choose");
const WordSet kWith("with");
const WordSet kSubjects("subjects");
const WordSet kAuxiliaries("auxiliaries");
const WordSet kConnectives("connectives");
const WordSet kReasons("reasons");
const WordSet kBeforeIt("before_it");
const WordSet kMine("mine");
const WordSet kChosen("chosen");
const WordSet kNegators("negators");
const WordSet kTurns("turns");
const WordSet kOtherMeaning("other_meaning");
const WordSet kOtherNoun("other_noun");
const WordSet kOfOne("of_one");
const WordSet kAbbreviations("abbreviations");
const WordSet kChooseWith("choose_with");
const WordSet kJoinMarks("join_marks");
const WordSet kOperators("operators");
const WordSet kOpeners("openers");
const WordSet kClosers("closers");
const WordSet kMarks("marks");
const WordSet kDelimiters("delimiters");
const WordSet kStops("stops");
const WordSet kNotAfterText("not_after_text");
const WordSet kUnread("unread");
const WordSet kTrailing("trailing");
const WordSet kLed("led");
const WordSet kAfterNumber("after_number");

bool is_one_of(std::string_view word, std::initializer_list<std::string_view> items) {
  return std::find(items.begin(), items.end(), word) != items.end();
}

int first_byte(std::string_view word) { return word.empty() ? -1 : static_cast<unsigned char>(word[0]); }

bool is_word(std::string_view word) {
  const int c = first_byte(word);
  return is_ascii_word(c) ||
         (c >= 0xC3 && c <= 0xDF && word.size() > 1 && is_continuation(static_cast<unsigned char>(word[1])));
}

bool is_number(std::string_view word) { return is_digit(first_byte(word)); }

bool is_digits(std::string_view word) {
  return !word.empty() && std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_single_letter(std::string_view word) { return word.size() == 1 && is_letter(first_byte(word)); }

int letter_index(std::string_view letter) { return Text::lower(first_byte(letter)) - 'a'; }

// Whether a word is a number in the spelling of fold.cc.
bool is_value(std::string_view word) {
  return is_number(word) &&
         std::all_of(word.begin(), word.end(), [](char c) { return (c >= '0' && c <= '9') || c == '.' || c == '/'; });
}

// Options ------------------------------------------------------------------------------------------------------------

// Whether word i continues the article or pronoun before it.
bool has_noun(const Words& t, int i, const WordSet& others) {
  const std::string_view word = t.low(i);
  if (t.is_adjacent(i) || !is_word(word) || word.size() < 2) return false;
  if (is_digits(word)) return is_word(t.low(i + 1)) && !others.has(t.low(i + 1));
  return !others.has(word) && !others.has(word, t.low(i + 1));
}

// Whether word i is an article, and not the option A.
bool is_article(const Words& t, int i) {
  const std::string_view word = t.low(i);
  return word == "an" || word == "the" || (word == "a" && has_noun(t, i + 1, kNotAfterArticle));
}

// Skips the marks before a value. A minus sign that belongs to a number is not skipped.
int skip_marks(const Words& t, int i) {
  for (int k = 0; k < 16; ++k) {
    if (!kMarks.has(t.text(i)) || (t.text(i) == "-" && t.is_adjacent(i + 1) && is_number(t.text(i + 1)))) break;
    ++i;
  }
  return i;
}

// The words of an option without quotes, a leading article and the marks around them.
Options::Phrase bare_option(std::string_view option) {
  const Words t(option, true);
  int begin = skip_marks(t, 0), end = t.size();
  while (end > begin && kTrailing.has(t.text(end - 1))) --end;
  if (end - begin > 1 && is_article(t, begin)) ++begin;
  Options::Phrase phrase;
  for (int i = begin; i < end; ++i) {
    if (!kUnread.has(t.text(i))) phrase.emplace_back(t.text(i));
  }
  return phrase;
}

std::string first_number(const Options::Phrase& phrase) {
  const std::size_t sign = !phrase.empty() && phrase[0] == "-" ? 1 : 0;
  if (phrase.size() <= sign || !is_value(phrase[sign])) return "";
  return (sign != 0 ? "-" : "") + phrase[sign];
}

// Values -------------------------------------------------------------------------------------------------------------

// The index of the named option (-1: not one of the options) and the end of its name, including closing marks.
struct Value {
  int index;
  int end;
};

// A single letter. is_article: it is a label only if its option's text follows. is_closed: a closing mark follows.
struct Label {
  int index;
  int end;
  bool is_article;
  bool is_closed;
  bool is_capital;
};

int skip_closers(const Words& t, int i) {
  int end = i;
  while (end - i < 8 && kClosers.has(t.text(end))) ++end;
  return end;
}

// The single letter at word i.
std::optional<Label> label_at(const Words& t, int i) {
  const std::string_view letter = t.text(i);
  if (!is_single_letter(letter)) return std::nullopt;
  if (t.is_adjacent(i + 1) && is_one_of(t.text(i + 1), {"+", "#", "&"})) return std::nullopt;
  const int end = skip_closers(t, i + 1), index = letter_index(letter);
  bool article = false;
  if (end == i + 1 && index == 0) article = has_noun(t, end, kNotAfterArticle);
  if (end == i + 1 && index == 8) article = has_noun(t, end, kNotAfterI);
  return Label{index, end, article, end > i + 1, letter[0] < 'a'};
}

// Where the words of an option that begin at i end, or -1 if they are not there.
int matches(const Words& t, int i, const Options::Phrase& phrase) {
  for (const std::string& word : phrase) {
    for (int k = 0; k < 4 && kUnread.has(t.text(i)); ++k) ++i;
    if (t.low(i) != word) return -1;
    ++i;
  }
  return phrase.empty() ? -1 : i;
}

// Whether the word after an option's words changes their meaning: "water vapor", "5%", "red/green". is_named: the
// option's letter precedes its words, so more words may follow.
bool is_joined(const Words& t, int end, const Options::Phrase& phrase, bool is_named) {
  const std::string_view follower = t.low(end);
  const bool ends_in_number = is_number(phrase.back());
  if (ends_in_number && is_one_of(follower, {"%", kDegree, "^", "="})) return true;
  if (t.is_adjacent(end) && kNotAfterText.has(t.text(end))) return true;
  if (is_named || !is_word(follower) || phrase.size() >= 4) return false;
  return !kFollow.has(follower) || (follower == "in" && ends_in_number);
}

// Whether a word is the letter of an option. The letter then takes precedence over an equal option text.
bool is_letter_of(std::string_view word, const Options& own) {
  return is_single_letter(word) && letter_index(word) < own.num_letters;
}

bool has_same_case(const Words& t, int begin, int end, const Options::Phrase& cased) {
  std::size_t k = 0;
  for (int i = begin; i < end; ++i) {
    if (kUnread.has(t.text(i))) continue;
    if (k == cased.size() || t.text(i) != cased[k]) return false;
    ++k;
  }
  return k == cased.size();
}

// The option whose text begins at i. The longest match wins, then the one in the same case, then the first.
std::optional<Value> text_at(const Words& t, int i, const Options& own) {
  std::optional<Value> best;
  std::pair<int, bool> best_rank{0, false};
  for (std::size_t index = 0; index < own.texts.size(); ++index) {
    const Options::Phrase& phrase = own.texts[index];
    if (phrase.empty() || phrase[0] != t.low(i)) continue;  // texts do not begin with a mark that is not compared
    if (phrase.size() == 1 && is_letter_of(phrase[0], own)) continue;
    const int end = matches(t, i, phrase);
    if (end < 0 || is_joined(t, end, phrase, false)) continue;
    const std::pair<int, bool> rank{end, has_same_case(t, i, end, own.cased[index])};
    if (rank > best_rank) {
      best = Value{static_cast<int>(index), skip_closers(t, end)};
      best_rank = rank;
    }
  }
  return best;
}

// As `text_at`, but also after an article.
std::optional<Value> own_text(const Words& t, int i, const Options& own) {
  const bool may_be_article = t.low(i) == "a" && is_word(t.low(i + 1)) && t.low(i + 1).size() > 1;
  if (may_be_article || is_article(t, i)) {
    const std::optional<Value> after = text_at(t, i + 1, own);
    if (after) return after;
  }
  return text_at(t, i, own);
}

// Where an option's text after its letter ends, or -1 if it does not follow.
int names_itself(const Words& t, const Label& label, const Options& own) {
  if (label.index >= static_cast<int>(own.texts.size())) return -1;
  const Options::Phrase& phrase = own.texts[static_cast<std::size_t>(label.index)];
  int at = label.end;
  for (int k = 0; k < 4; ++k) {
    const int last = kArticles.has(t.low(at)) ? at + 1 : at;
    for (int begin = at; begin <= last; ++begin) {
      const int end = matches(t, begin, phrase);
      if (end >= 0 && !is_joined(t, end, phrase, true)) return end;
    }
    if (!kDelimiters.has(t.text(at))) break;
    ++at;
  }
  return -1;
}

// Whether word i is a verb followed within a few words by a rejection ("is not correct"), or a cross.
bool is_called_wrong(const Words& t, int i) {
  if (t.text(i) == kClose) ++i;
  if (!kVerbs.has(t.low(i))) return kCrosses.has(t.low(i));
  for (int k = i; k < i + 5; ++k) {
    if (kNegative.has(t.low(k))) return true;
    if (k > i && !kBeforeNegative.has(t.low(k))) return false;
  }
  return false;
}

struct Joiner {
  int end;
  std::string_view mark;  // the mark or word (the first of several words); "" if there is none
  bool is_word;
};

// Reads a joiner of two options at i: its word, else its mark.
Joiner skip_joiner(const Words& t, int i) {
  std::string_view joiner;
  bool is_join_word = false;
  if (t.text(i) == "(" && kJoinWords.has(t.low(i + 1))) ++i;  // "A (or B)"
  if (kJoinMarks.has(t.text(i))) joiner = t.text(i++);
  if (t.low(i) == "as" && t.low(i + 1) == "well" && t.low(i + 2) == "as") {
    joiner = t.low(i);
    is_join_word = true;
    i += 3;
  } else if (kJoinWords.has(t.low(i), t.low(i + 1))) {
    joiner = t.low(i);
    is_join_word = true;
    i += 2;
  } else if (kJoinWords.has(t.low(i)) && !(!joiner.empty() && t.low(i) == "then")) {
    joiner = t.low(i);
    is_join_word = true;
    i += t.text(i + 1) == "/" && kJoinWords.has(t.low(i + 2)) ? 3 : 1;
    if (joiner == "vs" && t.text(i) == ".") ++i;
  }
  for (int k = 0; k < 3; ++k) {
    if ((!joiner.empty() && kSoft.has(t.low(i))) || (is_join_word && kAfterOr.has(t.low(i)))) ++i;
  }
  return {i, joiner, is_join_word};
}

// A further option at i: a letter or, after a joiner, the text of another option.
std::optional<Value> other_at(const Words& t, int i, const Options& own, std::string_view joiner, bool is_capital,
                              bool is_digit) {
  const int begin = i;
  while (i - begin < 3 && kOpeners.has(t.text(i))) ++i;
  const std::optional<Label> label = label_at(t, i);
  if (label && !label->is_article && (label->is_capital || !is_capital)) {
    const bool is_lone_a = !label->is_capital && label->index == 0 && !label->is_closed && is_word(t.low(label->end));
    if (!is_lone_a) return Value{label->index, label->end};
  }
  if (is_digit && !joiner.empty() && joiner != "-" && joiner != "+" && is_value(t.text(i)))
    return Value{-1, skip_closers(t, i + 1)};
  return !joiner.empty() && joiner != "-" ? own_text(t, i, own) : std::nullopt;
}

// Whether more options are named after the first: "A or B", "A, C", "(A)(C)". False for "B, C is wrong".
bool has_others(const Words& t, const Value& value, const Options& own, bool is_capital, bool is_digit) {
  int at = value.end;
  std::string_view first_joiner;
  bool by_word = false, found = false;
  for (int k = 0; k < 26; ++k) {
    const Joiner joiner = skip_joiner(t, at);
    const std::optional<Value> other = other_at(t, joiner.end, own, joiner.mark, is_capital, is_digit);
    if (!other) break;
    if (first_joiner.empty()) {
      first_joiner = joiner.mark.empty() ? " " : joiner.mark;
      by_word = joiner.is_word;
    }
    found = found || other->index != value.index;
    at = other->end;
  }
  if (found && !by_word && kNegative.has(t.low(at))) return false;
  if (!found || !kVerbs.has(t.low(at))) return found;
  if (by_word || is_one_of(first_joiner, {"/", "&", "|"}))
    return !(first_joiner == "and" && is_one_of(t.low(at), {"is", "isn't", "was"}) && is_called_wrong(t, at));
  return kBe.has(t.low(at)) && (kGood.has(t.low(at + 1)) || is_one_of(t.low(at + 1), {"both", "true"}));
}

// The value, with index -1 if there is no such option, it is called wrong, or other options are named with it.
Value alone(const Words& t, const Value& value, const Options& own, bool is_capital, bool is_digit) {
  if (value.index >= own.num_letters || is_called_wrong(t, value.end) ||
      has_others(t, value, own, is_capital, is_digit))
    return {-1, value.end};
  return value;
}

// A number at i: it names the option whose text begins with it, or is a label.
std::optional<Value> digit_at(const Words& t, int i, const Options& own) {
  const bool sign = t.text(i) == "-" && t.is_adjacent(i + 1);
  const std::string_view number = t.text(i + (sign ? 1 : 0));
  if (!is_value(number)) return std::nullopt;
  int end = i + (sign ? 2 : 1);
  const bool may_label = !sign && own.digits_are_labels && is_digits(number) && number.size() <= 2 && number[0] != '0';
  const int index = may_label ? std::stoi(std::string(number)) - 1 : -1;
  if (may_label && index < own.num_letters) {
    const int named = names_itself(t, Label{index, end, false, false, true}, own);
    if (named >= 0) return Value{index, skip_closers(t, named)};
  }
  const std::string_view follower = t.low(end);
  if (kAfterNumber.has(follower) || (follower == "-" && t.is_adjacent(end))) return std::nullopt;
  if (is_word(follower) && (!kFollow.has(follower) || follower == "in")) return std::nullopt;
  end = skip_closers(t, end);
  const std::string wanted = (sign ? "-" : "") + std::string(number);
  int same = -1, count = 0;
  for (std::size_t k = 0; k < own.numbers.size(); ++k) {
    if (own.numbers[k] != wanted) continue;
    same = static_cast<int>(k);
    ++count;
  }
  if (count == 1) return alone(t, {same, end}, own, true, true);
  if (count > 1 || !may_label) return std::nullopt;
  return alone(t, {index, end}, own, true, true);
}

// The option named at i. Its index is -1 if it is not one of the options or more than one is named.
std::optional<Value> read_at(const Words& t, int i, const Options& own, bool with_label, bool with_digits) {
  const std::optional<Label> label = label_at(t, i);
  const std::optional<Value> text = own_text(t, i, own);
  const bool counts = label && (with_label || label->is_closed);
  if (counts && !label->is_article) {
    const int end = names_itself(t, *label, own);
    if (end >= 0 && (!text || text->end <= end)) {
      const Value value{label->index, skip_closers(t, end)};
      return has_others(t, value, own, true, false) ? Value{-1, value.end} : value;
    }
  }
  if (text) return alone(t, *text, own, true, false);
  if (!label) return with_digits ? digit_at(t, i, own) : std::nullopt;
  if (label->is_article) {
    const int end = with_label && label->is_capital ? names_itself(t, *label, own) : -1;
    if (end < 0) return std::nullopt;
    return Value{label->index, skip_closers(t, end)};
  }
  if (!counts) return std::nullopt;
  return alone(t, {label->index, label->end}, own, label->is_capital, false);
}

// Skips one filler word between a marker and its value ("it", "option").
int skip_filler(const Words& t, int i) {
  if (t.low(i) == "no" && t.text(i + 1) == "." && is_digits(t.text(i + 2))) return i + 2;
  return kFillers.has(t.low(i)) ? i + 1 : i;
}

// The option named at i, after filler words.
std::optional<Value> value_at(const Words& t, int i, const Options& own) {
  bool with_label = true;
  for (int k = 0; k < 9; ++k) {
    i = skip_marks(t, i);
    const std::optional<Value> found = read_at(t, i, own, with_label, true);
    if (found) return found;
    const int after = skip_filler(t, i);
    if (after == i) return std::nullopt;
    with_label = !kNoLabelAfter.has(t.low(i));
    i = after;
  }
  return std::nullopt;
}

std::optional<char> letter_of(const std::optional<Value>& value) {
  if (!value || value->index < 0) return std::nullopt;
  return static_cast<char>('A' + value->index);
}

// Statements ---------------------------------------------------------------------------------------------------------

bool is_question(const Words& t, int i) {
  for (int k = i; k < i + 40; ++k) {
    if (k >= t.size() || kStops.has(t.text(k))) return t.text(k) == "?";
  }
  return false;
}

// Skips "is", "must be", "seems to be" at i.
int skip_be(const Words& t, int i) {
  const std::string_view word = t.low(i);
  if (word == "is" || word == "was") return i + 1;
  if (kModals.has(word)) {
    int end = i + 1;
    while (end - i < 3 && is_one_of(t.low(end), {"only", "to", "therefore", "then"})) ++end;
    if (word == "can" && t.low(i + 1) != "only") return i;
    return t.low(end) == "be" ? end + 1 : i;
  }
  if (word == "seems" || word == "appears") return t.low(i + 1) == "to" && t.low(i + 2) == "be" ? i + 3 : i + 1;
  return i;
}

int skip_adverbs(const Words& t, int i) {
  int end = i;
  while (end - i < 6 && t.low(end) != "the" && (kAdverbs.has(t.low(end)) || t.low(end) == ",")) ++end;
  return end;
}

// Whether the clause ends before i: i is not a word, or a word that begins another clause.
bool ends_clause(const Words& t, int i, const WordSet& allowed) { return !is_word(t.low(i)) || allowed.has(t.low(i)); }

// Whether nothing before `begin` in the clause negates the statement or makes the option one of several.
bool is_asserted(const Words& t, int begin) {
  if (is_one_of(t.low(begin - 1), {"or", "and", "nor", "/", "&"})) {
    int at = begin - 2;
    while (kClosers.has(t.text(at)) || t.text(at) == ",") --at;
    if (t.low(begin - 1) == "nor" || is_single_letter(t.text(at))) return false;
  }
  for (int k = begin - 1; k > begin - 13; --k) {
    if (kStops.has(t.text(k)) || is_one_of(t.text(k), {",", ";", ":", ""}) || kTurns.has(t.low(k))) return true;
    if (kDoubt.has(t.low(k))) return false;
  }
  return true;
}

// Where the words of an option that end at `last`, ignoring marks, begin; -1 if they are not there.
int begin_of(const Words& t, int last, const Options::Phrase& phrase) {
  int at = last;
  for (int k = 0; k < 8 && (kClosers.has(t.text(at)) || t.text(at) == "."); ++k) --at;
  for (auto word = phrase.rbegin(); word != phrase.rend(); ++word) {
    for (int k = 0; k < 4 && kUnread.has(t.text(at)); ++k) --at;
    if (at < 0 || t.low(at) != *word) return -1;
    --at;
  }
  return phrase.empty() ? -1 : at + 1;
}

bool may_precede_subject(std::string_view word) { return kBeforeIt.has(word) || kKinds.has(word); }

// The option named directly before i. The `end` of the value is where the option begins.
std::optional<Value> subject_before(const Words& t, int i, const Options& own) {
  int at = i - 1;
  while (i - at < 8 && kClosers.has(t.text(at))) --at;
  if (at < 0) return std::nullopt;
  const std::string_view letter = t.text(at);
  if (is_single_letter(letter) && letter_index(letter) < own.num_letters) {
    int begin = at;
    while (at - begin < 4 && kOpeners.has(t.text(begin - 1))) --begin;
    bool is_label = letter[0] < 'a' || at < i - 1;
    while (kKinds.has(t.low(begin - 1)) || t.low(begin - 1) == "the") {
      is_label = is_label || kKinds.has(t.low(begin - 1));
      --begin;
    }
    if (!is_label) return std::nullopt;
    return Value{letter_index(letter), begin};
  }
  std::optional<Value> best;
  for (std::size_t index = 0; index < own.texts.size(); ++index) {
    const Options::Phrase& phrase = own.texts[index];
    const int begin = begin_of(t, i - 1, phrase);
    if (begin < 0 || (phrase.size() == 1 && is_letter_of(phrase[0], own))) continue;
    if (!best || begin < best->end) best = Value{static_cast<int>(index), begin};
  }
  if (!best) return std::nullopt;
  int begin = best->end;
  while (kOpeners.has(t.text(begin - 1)) || t.text(begin - 1) == kClose) --begin;
  bool is_whole = begin == 0 || !is_word(t.low(begin - 1)) || may_precede_subject(t.low(begin - 1));
  if (kArticles.has(t.low(begin - 1))) {
    --begin;
    is_whole = !is_word(t.low(begin - 1)) || may_precede_subject(t.low(begin - 1));
  }
  if (!is_whole) return std::nullopt;
  return Value{best->index, begin};
}

// "B is correct", with its verb at i.
std::optional<Value> verdict_at(const Words& t, int i, const Options& own) {
  const int end = skip_be(t, i);
  if (end == i) return std::nullopt;
  int begin = skip_adverbs(t, end);
  const bool the = t.low(begin) == "the";
  if (the) begin = skip_adverbs(t, begin + 1);
  const bool is_good = kGood.has(t.low(begin));
  int at = begin + (is_good ? 1 : 0);
  if (kNouns.has(t.low(at)) && (is_good || ((the || kMine.has(t.low(begin - 1))) && t.low(at) != "one"))) {
    ++at;
  } else if (!is_good) {
    return std::nullopt;
  }
  if (!ends_clause(t, at, kAfterVerdict)) return std::nullopt;
  if (at == begin + (is_good ? 1 : 0) && (t.low(at) == "of" || t.low(at) == "to")) return std::nullopt;
  if (t.low(at) == "and" && t.low(at + 1) == "so") return std::nullopt;
  const std::optional<Value> subject = subject_before(t, i, own);
  if (!subject || !is_asserted(t, subject->end)) return std::nullopt;
  return Value{subject->index, at};
}

// The option named at i in a statement. Only another clause may follow.
std::optional<Value> named_at(const Words& t, int i, const Options& own) {
  bool is_marked = false;
  for (int k = 0; k < 6; ++k) {
    const int begin = skip_marks(t, i);
    is_marked = is_marked || (begin > i && kOpeners.has(t.text(begin - 1)));
    const std::optional<Label> label = label_at(t, begin);
    const std::optional<Value> found = read_at(t, begin, own, true, false);
    if (found) {
      const bool is_label = label && !label->is_article && found->index == label->index;
      if (is_label && !(label->is_capital || is_marked || label->is_closed)) return std::nullopt;
      return ends_clause(t, found->end, kFollow) ? found : std::nullopt;
    }
    const std::string_view word = t.low(begin);
    if (!kKinds.has(word) && !kAdverbs.has(word) && word != "the" && word != "correct") return std::nullopt;
    is_marked = kKinds.has(word);
    i = begin + 1;
  }
  return std::nullopt;
}

// "I choose B" with its verb at i, or "my choice is B" with its noun at i.
std::optional<Value> chosen_at(const Words& t, int i, const Options& own) {
  const std::string_view word = t.low(i);
  int begin;
  if (kChoose.has(word)) {
    begin = i + 1;
  } else if (kChooseWith.has(word) && kWith.has(t.low(i + 1))) {
    begin = i + 2;
  } else if (kChosen.has(word) && kMine.has(t.low(i - 1))) {
    begin = skip_be(t, i + 1);
    if (begin == i + 1 && t.text(begin) != ":" && t.text(begin) != "-") return std::nullopt;
    return named_at(t, begin, own);
  } else {
    return std::nullopt;
  }
  int at = i - 1;
  while (i - at < 6 && (kAuxiliaries.has(t.low(at)) || t.text(at) == ",")) --at;
  const bool is_start = at < 0 || kStops.has(t.text(at)) || t.text(at) == ":";
  if (!is_start && (!kSubjects.has(t.low(at)) || !is_asserted(t, at))) return std::nullopt;
  return named_at(t, begin, own);
}

// Whether only marks follow i.
bool is_last_sentence(const Words& t, int i) {
  if (i + 8 < t.size()) return false;
  for (int k = i; k < t.size(); ++k) {
    if (is_word(t.text(k))) return false;
  }
  return true;
}

// "So it is B" and "it must be B" with "it" at i, or "thus B" with "thus" at i.
std::optional<Value> concluded_at(const Words& t, int i, const Options& own) {
  const std::string_view word = t.low(i);
  const bool is_short = word == "it's" || word == "that's";
  const bool is_connective = kConnectives.has(word);
  if (!is_connective && !is_short && word != "it" && word != "that" && word != "this") return std::nullopt;
  int before = i - 1;
  while (i - before < 4 && kUnread.has(t.text(before))) --before;
  const bool is_start = before < 0 || kStops.has(t.text(before));
  if (is_connective) {
    const int begin = skip_marks(t, i + 1 + (t.text(i + 1) == "," || t.text(i + 1) == ":" ? 1 : 0));
    const std::optional<Label> label = label_at(t, begin);
    if (!label || label->is_article || !label->is_capital) return std::nullopt;
    if (!is_start && t.low(before) != "," && t.low(before) != "and") return std::nullopt;
    const std::optional<Value> found = read_at(t, begin, own, true, false);
    return found && ends_clause(t, found->end, kReasons) ? found : std::nullopt;
  }
  const int begin = is_short ? i + 1 : skip_be(t, i + 1);
  const bool is_strong = !is_short && kModals.has(t.low(i + 1));
  if (!is_short && begin == i + 1) return std::nullopt;
  const bool is_led = kBeforeIt.has(t.low(before)) || kLed.has(t.text(before));
  if (!(is_start || is_led || is_strong) || !is_asserted(t, i)) return std::nullopt;
  const std::optional<Value> found = named_at(t, begin, own);
  if (!found || found->index < 0 || is_strong || kConnectives.has(t.low(before))) return found;
  for (int k = begin; k < found->end; ++k) {
    const std::optional<Label> label = label_at(t, k);
    if (!label) continue;
    if (label->index == found->index) return found;
    break;
  }
  return is_last_sentence(t, found->end) ? found : std::nullopt;
}

// The last letter ----------------------------------------------------------------------------------------------------

struct Range {
  int begin;
  int end;
};

// The lines that are not empty.
std::vector<Range> lines_of(const Words& t) {
  std::vector<Range> lines;
  int begin = 0;
  for (int i = 0; i <= t.size(); ++i) {
    if (i < t.size() && t.text(i) != "\n") continue;
    if (i > begin) lines.push_back({begin, i});
    begin = i + 1;
  }
  return lines;
}

bool has_word(const Words& t, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    if (is_word(t.text(i))) return true;
  }
  return false;
}

// Skips a bullet, the edge of a table, opening marks and "option" before a label.
int begin_of_label(const Words& t, int i) {
  for (int k = 0; k < 2; ++k) {
    if (t.text(i) == "|") ++i;
  }
  i = skip_marks(t, i);
  if (is_digits(t.text(i)) && is_one_of(t.text(i + 1), {".", ")", "|"}) && label_at(t, skip_marks(t, i + 2)))
    i = skip_marks(t, i + 2);
  for (int k = 0; k < 2; ++k) {
    if (kKinds.has(t.low(i)) || (t.low(i) == "the" && kKinds.has(t.low(i + 1)))) i = skip_marks(t, i + 1);
  }
  return i;
}

// The label at the beginning of a line that has a mark ("B.", "(B)", "**B**") or is the whole line.
std::optional<Label> line_label(const Words& t, const Range& line, const Options& own) {
  const int begin = begin_of_label(t, line.begin);
  const std::optional<Label> label = label_at(t, begin);
  if (!label || label->end > line.end) return std::nullopt;
  if (label->end == line.end) return label;
  if (label->is_capital || label->is_closed) {
    const int end = names_itself(t, *label, own);
    if (end >= 0 && end <= line.end) return label;
  }
  const std::string_view mark = t.text(label->end);
  const bool is_row = mark == "|" && t.text(line.begin) == "|";  // of a table: "| A | red |"
  const bool is_marked =
      is_row || (is_one_of(mark, {".", ":", ")", "-", kArrow}) && !(mark == "-" && !label->is_capital));
  if (!label->is_closed && !is_marked) return std::nullopt;
  int at = label->end;
  while (at < line.end && kDelimiters.has(t.text(at)) && at - label->end < 8) ++at;
  if (kNegative.has(t.low(at))) return std::nullopt;
  if (!is_marked && (kFollow.has(t.low(at)) || kJoinMarks.has(t.text(at)))) return std::nullopt;
  return label;
}

// Where the text of a list entry begins, after a label and a mark; -1 if a verb or no word follows.
int listed_at(const Words& t, const Label& label) {
  const bool is_marked = t.text(label.end) == "." || t.text(label.end) == ":";
  if (!label.is_closed && !is_marked) return -1;
  const int at = label.end + (is_marked ? 1 : 0);
  return is_word(t.low(at)) && !kFollow.has(t.low(at)) ? at : -1;
}

// Adds the parts of a line outside a list of options: "(A) red (B) green", or marked letters if none are known.
void add_without_list(const Words& t, const Range& line, const Options& own, std::vector<Range>& kept) {
  const bool are_known = !own.texts.empty();
  int first = -1, last = -1, end_of_last = -1, count = 0;
  for (int i = line.begin; i < line.end;) {
    const std::optional<Label> label = label_at(t, i);
    int after = -1;
    if (label && label->end <= line.end) {
      if (are_known) {
        after = names_itself(t, *label, own);
      } else if (!label->is_article && (label->is_capital || label->is_closed)) {
        after = listed_at(t, *label);
      }
    }
    if (after < 0) {
      ++i;
      continue;
    }
    if (count > 0 && label->index <= last) break;
    if (count == 0) first = i;
    last = label->index;
    end_of_last = std::min(after, line.end);
    ++count;
    i = std::max(i + 1, end_of_last);
  }
  if (count < 2) {
    kept.push_back(line);
    return;
  }
  if (has_word(t, line.begin, first)) kept.push_back({line.begin, first});
  if (are_known && has_word(t, end_of_last, line.end)) kept.push_back({end_of_last, line.end});
}

// The lines that remain after removing lists of the options, both one option a line and within a line.
std::vector<Range> without_lists(const Words& t, const Options& own) {
  const std::vector<Range> lines = lines_of(t);
  std::vector<std::vector<Range>> parts(lines.size());
  std::vector<int> labels;  // -1 for none
  for (std::size_t i = 0; i < lines.size(); ++i) {
    add_without_list(t, lines[i], own, parts[i]);
    const bool is_whole =
        parts[i].size() == 1 && parts[i][0].begin == lines[i].begin && parts[i][0].end == lines[i].end;
    const std::optional<Label> label = is_whole ? line_label(t, lines[i], own) : std::nullopt;
    labels.push_back(label ? label->index : -1);
  }
  std::vector<Range> kept;
  for (std::size_t i = 0; i < lines.size();) {
    std::size_t last = i;
    while (last + 1 < lines.size() && labels[last] >= 0 && labels[last + 1] > labels[last]) ++last;
    if (last == i) kept.insert(kept.end(), parts[i].begin(), parts[i].end());
    i = last + 1;
  }
  return kept;
}

// The sentences of a line, without questions.
std::vector<Range> sentences_of(const Words& t, const Range& line) {
  std::vector<Range> sentences;
  int first = line.begin;
  for (int i = line.begin; i < line.end; ++i) {
    const std::string_view mark = t.text(i);
    if (mark != "." && mark != "!" && mark != "?") continue;
    if (t.is_adjacent(i + 1) && is_word(t.text(i + 1))) continue;
    if (mark != "?") sentences.push_back({first, i});
    first = i + 1;
  }
  if (first < line.end) sentences.push_back({first, line.end});
  return sentences;
}

// Whether a capital letter and a colon begin at i.
bool is_entry_at(const Words& t, int i) {
  const std::optional<Label> label = label_at(t, i);
  return label && label->is_capital && t.text(label->end) == ":";
}

// The option that a line is or begins with; -1 for more than one, nullopt for none.
std::optional<int> line_value(const Words& t, const Range& line, const Options& own) {
  const std::optional<Value> whole = own_text(t, skip_marks(t, line.begin), own);
  if (whole && !has_word(t, whole->end, line.end)) return whole->index;
  const int at = begin_of_label(t, line.begin);
  if (at >= line.end) return std::nullopt;
  const std::optional<Label> label = line_label(t, line, own);
  if (label) {
    const int named = names_itself(t, *label, own);
    if (named >= 0) return has_others(t, {label->index, skip_closers(t, named)}, own, true, false) ? -1 : label->index;
    const std::vector<Range> sentences = sentences_of(t, line);
    for (std::size_t k = 1; k < sentences.size(); ++k) {
      if (is_entry_at(t, sentences[k].begin)) return std::nullopt;  // "A: it is hot. B: it is cold."
    }
    return alone(t, {label->index, label->end}, own, label->is_capital, false).index;
  }
  const std::optional<Value> value = read_at(t, at, own, true, true);
  if (!value || value->index < 0 || has_word(t, value->end, line.end)) return std::nullopt;
  return value->index;
}

// How a negator rejects the letters after it.
enum class Negator { kNone, kList, kNot, kOne };  // kOne: ends at a comma; kNot: "not A, B" rejects the whole list

Negator negator_at(const Words& t, int i) {
  const std::string_view word = t.low(i);
  if (kNegators.has(word, t.low(i + 1))) return kOfOne.has(word, t.low(i + 1)) ? Negator::kOne : Negator::kList;
  if (word == "no" && t.text(i + 1) == ",") return Negator::kNone;
  if (kNegators.has(word)) {
    if (kOfOne.has(word)) return Negator::kOne;
    return is_one_of(word, {"not", "none", "neither", "nor"}) ? Negator::kNot : Negator::kList;
  }
  return word.size() >= 3 && word.substr(word.size() - 3) == "n't" ? Negator::kList : Negator::kNone;
}

// Whether a list of letters continues after a comma.
bool goes_on(const Words& t, int i, Negator negator) {
  if (negator == Negator::kOne) return false;
  if (is_one_of(t.low(i), {"and", "or", "nor"})) ++i;
  while (kKinds.has(t.low(i))) ++i;
  const std::optional<Label> label = label_at(t, i);
  if (!label || label->is_article) return false;
  return negator == Negator::kNot || !kVerbs.has(t.low(label->end));
}

struct Listed {
  std::vector<int> letters;
  int end;
};

// The letters joined as in "A, C and D", beginning with `label`, and their end. The last letter is left out if it
// begins its own clause: "B, C is wrong".
Listed joined_labels(const Words& t, const Label& label, int end) {
  Listed listed{{label.index}, label.end};
  int end_before = label.end;
  std::string_view last_joiner;
  for (int k = 0; k < 26; ++k) {
    const Joiner joiner = skip_joiner(t, listed.end);
    if (joiner.mark == ";") break;
    int begin = joiner.end;
    while (kOpeners.has(t.text(begin)) && begin < end) ++begin;
    const std::optional<Label> other = label_at(t, begin);
    if (begin >= end || !other || !other->is_capital || other->is_article) break;
    const bool is_spaced = joiner.mark.empty() && begin == listed.end && !t.is_adjacent(begin);
    if (is_spaced && other->index <= listed.letters.back()) break;
    listed.letters.push_back(other->index);
    end_before = listed.end;
    listed.end = other->end;
    last_joiner = joiner.mark;
  }
  const std::string_view verb = t.low(listed.end);
  const bool is_clause = kVerbs.has(verb) && (verb.back() == 's' || is_one_of(verb, {"isn't", "wasn't", "doesn't"}));
  if (listed.letters.size() > 1 && is_clause && is_one_of(last_joiner, {",", ";", "and", "-"})) {
    listed.letters.pop_back();
    listed.end = end_before;
  }
  return listed;
}

// Whether a letter does not name an option: vitamin C, 5 C, E = mc^2, carbon [C], an A, the pronoun I.
bool means_other(const Words& t, int i, const Label& label) {
  int at = i - 1;
  while (i - at < 4 && kOpeners.has(t.text(at))) --at;
  const std::string_view before = t.low(at), after = t.low(label.end);
  if (is_one_of(before, {"was", "is", ":", "of"}) && is_one_of(t.low(at - 1), {"grade", "grades"})) return true;
  if (kKinds.has(before)) return false;
  if (label.index == 8 && at == i - 1) return true;
  if (before == "." && kAbbreviations.has(t.low(at - 1))) return true;
  if (kOtherMeaning.has(before) || is_number(before) || (t.text(i - 1) == "[" && is_word(before))) return true;
  if (kOperators.has(before) || (before == "&" && t.is_adjacent(i)) || kOperators.has(after)) return true;
  return kOtherNoun.has(after) && !label.is_closed;
}

// Whether the words at i call the letters before them wrong: "is wrong", ": incorrect", "(no)".
bool is_rejected(const Words& t, int i, const Label& label, const Options& own) {
  if (is_called_wrong(t, i) || is_one_of(t.low(i), {"could", "might", "may"})) return true;
  if (i == label.end && names_itself(t, label, own) >= 0) return false;
  return kNegative.has(t.low(is_one_of(t.text(i), {":", "(", "-", "=", "|", kArrow}) ? i + 1 : i));
}

constexpr int kNoLetter = -2, kSeveral = -1;

// The option whose capital letter stands alone in a sentence and is not rejected; kSeveral for more than one.
int letter_in(const Words& t, const Range& sentence, const Options& own) {
  int letter = kNoLetter;
  Negator negator = Negator::kNone;
  for (int i = sentence.begin; i < sentence.end;) {
    const std::string_view word = t.low(i);
    const Negator found = negator_at(t, i);
    if (found != Negator::kNone) {
      negator = found;
      if (kNegators.has(word, t.low(i + 1))) ++i;
    } else if ((kTurns.has(word) && word != "and") || word == ";" ||
               (word == ":" && negator_at(t, i - 1) == Negator::kNone) ||
               (word == "," && !goes_on(t, i + 1, negator))) {
      negator = Negator::kNone;
    }
    const std::optional<Label> label = label_at(t, i);
    if (!label || !label->is_capital || (label->is_article && names_itself(t, *label, own) < 0)) {
      ++i;
      continue;
    }
    Listed listed = joined_labels(t, *label, sentence.end);
    const int next = std::max(listed.end, i + 1);
    std::vector<int> letters = listed.letters;
    std::sort(letters.begin(), letters.end());
    letters.erase(std::unique(letters.begin(), letters.end()), letters.end());
    const bool is_all = static_cast<int>(letters.size()) >= std::max(3, own.texts.empty() ? 4 : own.num_letters);
    const bool is_entry = i == sentence.begin && t.text(listed.end) == ":" && !kPositive.has(t.low(listed.end + 1)) &&
                          names_itself(t, *label, own) < 0;  // "A: it is hot. B: it is cold."
    if (negator == Negator::kNone && !is_all && !is_entry && !means_other(t, i, *label) &&
        !is_rejected(t, listed.end, *label, own) && letters.front() < own.num_letters) {
      for (const int one : letters) {
        const int index = one < own.num_letters ? one : kSeveral;
        letter = letter == kNoLetter || letter == index ? index : kSeveral;
      }
    }
    i = next;
  }
  return letter;
}

}  // namespace

Options make_options(const std::vector<std::string>& texts) {
  Options own;
  own.are_known = true;
  own.num_letters = static_cast<int>(std::min<std::size_t>(texts.size(), 26));
  int num_numbers = 0;
  for (int i = 0; i < own.num_letters; ++i) {
    own.cased.push_back(bare_option(texts[static_cast<std::size_t>(i)]));
    own.texts.emplace_back();
    for (const std::string& word : own.cased.back()) own.texts.back().push_back(lower(word));
    own.numbers.push_back(first_number(own.texts.back()));
    num_numbers += own.numbers.back().empty() ? 0 : 1;
  }
  own.digits_are_labels = num_numbers < 2;
  return own;
}

std::optional<char> choice_after_marker(Text& line, std::size_t i, const Options& options) {
  const Words t(line.view(std::min(i, line.end()), line.end()), true);
  return letter_of(value_at(t, 0, options));
}

std::optional<char> stated_choice(Text& text, const Options& options) {
  const Words t(text.view(text.begin(), text.end()), false);
  std::optional<Value> last;
  for (int i = 0; i < t.size(); ++i) {
    std::optional<Value> found = verdict_at(t, i, options);
    if (!found) found = chosen_at(t, i, options);
    if (!found) found = concluded_at(t, i, options);
    if (found && found->index >= 0 && !is_question(t, found->end)) last = found;
  }
  return letter_of(last);
}

std::optional<char> last_choice(Text& text, const Options& options) {
  const Words t(text.view(text.begin(), text.end()), false);
  const std::vector<Range> lines = without_lists(t, options);
  if (lines.empty()) return std::nullopt;
  const std::optional<int> first = line_value(t, lines.front(), options);
  const std::optional<int> last = line_value(t, lines.back(), options);
  if (first || last) {
    const int index = first ? *first : *last;
    if (index < 0 || (first && last && *first != *last)) return std::nullopt;
    return static_cast<char>('A' + index);
  }
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    const std::vector<Range> sentences = sentences_of(t, *line);
    for (auto sentence = sentences.rbegin(); sentence != sentences.rend(); ++sentence) {
      const int letter = letter_in(t, *sentence, options);
      if (letter == kSeveral) return std::nullopt;
      if (letter >= 0) return static_cast<char>('A' + letter);
    }
  }
  return std::nullopt;
}

}  // namespace fastsia
