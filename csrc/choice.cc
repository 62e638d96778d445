#include "choice.h"

#include <algorithm>
#include <string_view>

#include "number.h"

namespace fastsia {
namespace {

constexpr std::string_view kApostrophe = "\xE2\x80\x99";  // U+2019
constexpr std::string_view kDegree = "\xC2\xB0";
constexpr std::string_view kDegreeSpace = "\xC2\xB0 ";

// What an article cannot stand before: "A is" means the option, "A rock" does not.
constexpr std::string_view kNotAfterArticle[] = {"is",  "was", "because", "since", "as",    "and", "or",
                                                 "has", "for", "from",    "which", "would", "but", "not"};

// Past "option", "choice" or "letter" and what parts it from the label, or `i`.
std::size_t skip_keyword(Text& text, std::size_t i) {
  for (const std::string_view word : {"option", "choice", "letter"}) {
    if (!text.has_word(i, word)) continue;
    const std::size_t begin = i + word.size();
    std::size_t end = begin;
    while (end - begin < 4 && (is_blank(text.at(end)) || text.at(end) == ':')) ++end;
    return end == begin ? i : end;
  }
  return i;
}

// Whether the word goes on: "Bob", "B-12", "B's".
bool is_joined(Text& text, std::size_t i) {
  if (is_word(text, i)) return true;
  const int c = text.at(i);
  if (c == '-' || c == '\'') return is_word(text, i + 1);
  return c == 0xE2 && text.has(i, kApostrophe) && is_word(text, i + kApostrophe.size());
}

// Whether a letter is the beginning of a word, or an article (a pronoun, for I) with a word to come.
bool goes_on(Text& text, std::size_t after, int letter) {
  if (is_joined(text, after)) return true;
  const int low = Text::lower(letter);
  if (low != 'a' && low != 'i') return false;
  const std::size_t word = skip_blanks(text, after, 4);
  if (word == after) return false;
  char next[8];
  std::size_t size = 0;
  while (size < sizeof(next) && is_letter(text.at(word + size))) {
    next[size] = static_cast<char>(Text::lower(text.at(word + size)));
    ++size;
  }
  const std::string_view found(next, size);
  return size >= 2 &&
         std::find(std::begin(kNotAfterArticle), std::end(kNotAfterArticle), found) == std::end(kNotAfterArticle);
}

// Whether a digit before `i` was part of a longer number or of a word.
bool number_goes_on(Text& text, std::size_t i) {
  if (is_word(text, i)) return true;
  const int c = text.at(i);
  if (c == '.' || c == ',' || c == '/' || c == ':') return is_digit(text.at(i + 1));
  return c == '%' || (c == 0xC2 && text.has(i, kDegree));
}

struct Match {
  std::size_t end;
  bool is_same_case;
};

// An option's own text at `i`, in any case; its end is `i` where it does not stand there.
Match match_option(Text& text, std::size_t i, std::string_view wanted) {
  std::size_t at = i;
  bool is_same_case = true;
  for (const char c : wanted) {
    if (c == ' ') {
      const std::size_t end = skip_blanks(text, at, 4);
      if (end == at) return {i, false};
      at = end;
    } else {
      const int found = text.at(at++), expected = static_cast<unsigned char>(c);
      if (Text::lower(found) != Text::lower(expected)) return {i, false};
      is_same_case &= found == expected;
    }
  }
  if (is_word_before(text, at) && is_word(text, at)) return {i, false};
  if (is_digit(static_cast<unsigned char>(wanted.back())) && number_goes_on(text, at)) return {i, false};
  return {at, is_same_case};
}

// The option whose own text stands at `i` in any case: the longest, or of such the one in the same case; -1 for none.
// A text of one letter is not looked for: labels have the precedence.
int find_option(Text& text, std::size_t i, const Options& options) {
  int best = -1;
  Match best_match{i, false};
  for (int index = 0; index < options.num_letters(); ++index) {
    const std::string& wanted = options.texts[static_cast<std::size_t>(index)];
    if (wanted.empty() || (wanted.size() == 1 && is_letter(static_cast<unsigned char>(wanted[0])))) continue;
    const Match match = match_option(text, i, wanted);
    if (match.end == i) continue;
    if (match.end > best_match.end || (match.end == best_match.end && match.is_same_case && !best_match.is_same_case)) {
      best = index;
      best_match = match;
    }
  }
  return best;
}

// The option that a letter of either case, or a digit 1 to 5, stands for at `i`; -1 for none.
int read_label(Text& text, std::size_t i) {
  const int c = text.at(i);
  if (is_letter(c)) return goes_on(text, i + 1, c) ? -1 : Text::lower(c) - 'a';
  if (c >= '1' && c <= '5') return number_goes_on(text, i + 1) ? -1 : c - '1';
  return -1;
}

}  // namespace

int Options::num_letters() const {
  return are_known ? static_cast<int>(std::min<std::size_t>(texts.size(), 26)) : kDefaultNumOptions;
}

Options make_options(const std::vector<std::string>& texts) {
  Options options;
  options.are_known = true;
  for (const std::string& option : texts) {
    Text text{std::string_view(option)};
    std::string wanted;
    for (const char c : option.substr(skip_decoration(text, 0, false))) {
      if (!is_space(static_cast<unsigned char>(c))) {
        wanted += c;
      } else if (!wanted.empty() && wanted.back() != ' ') {
        wanted += ' ';
      }
    }
    while (!wanted.empty() && std::string_view(". \"'").find(wanted.back()) != std::string_view::npos)
      wanted.pop_back();
    options.texts.push_back(wanted);
  }
  return options;
}

std::optional<char> choice_after_marker(Text& line, std::size_t i, const Options& options) {
  std::size_t begin = skip_decoration(line, i);
  const std::size_t keyword_end = skip_keyword(line, begin);
  if (keyword_end != begin) begin = skip_decoration(line, keyword_end);
  int index = options.are_known ? find_option(line, begin, options) : -1;
  if (index < 0) index = read_label(line, begin);
  if (index < 0 || index >= options.num_letters()) return std::nullopt;
  return static_cast<char>('A' + index);
}

std::optional<char> stated_choice(Text&, const Options&) { return std::nullopt; }

std::optional<char> last_choice(Text& text, const Options& options) {
  for (std::size_t i = text.end(); i > text.begin();) {
    const int letter = text.at(--i);
    if (letter < 'A' || letter >= 'A' + options.num_letters()) continue;
    if (is_word_before(text, i) || text.has_before(i, kDegree) || text.has_before(i, kDegreeSpace)) continue;
    const int previous = text.before(i);
    if ((previous == '-' || previous == '\'' || previous == '.') && is_word_before(text, i - 1)) continue;
    if (text.has_before(i, kApostrophe) && is_word_before(text, i - kApostrophe.size())) continue;
    if (goes_on(text, i + 1, letter) || (text.at(i + 1) == '.' && is_word(text, i + 2))) continue;
    return static_cast<char>(letter);
  }
  return std::nullopt;
}

}  // namespace fastsia
