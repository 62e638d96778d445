// One spelling for what is written in several ways, and the words of that. fastsia/answers/fold.py is the readable form
// of the same.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fastsia {

// Where an emphasis, a formula or a brace ends behind a single letter: **A** is no article.
constexpr std::string_view kClose = "\x01";

// The text in one spelling: quotes, dashes, spaces, accents, full-width and circled letters, super- and subscripts,
// emphasis, LaTeX, numbers. New lines stay.
std::string fold(std::string_view text);

// A folded text's words and marks, each with its lower-case form and place. Out of range there is "".
class Words {
 public:
  Words(std::string_view text, bool one_line);

  int size() const { return static_cast<int>(spans_.size()); }
  std::string_view text(int i) const { return has(i) ? view(folded_, i) : std::string_view(); }
  std::string_view low(int i) const { return has(i) ? view(lower_, i) : std::string_view(); }

  // Whether nothing parts word i from the one before it.
  bool is_adjacent(int i) const { return i > 0 && i < size() && spans_[at(i - 1)].second == spans_[at(i)].first; }

 private:
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }
  bool has(int i) const { return i >= 0 && i < size(); }
  std::string_view view(const std::string& text, int i) const {
    const auto [begin, end] = spans_[at(i)];
    return std::string_view(text).substr(begin, end - begin);
  }

  std::string folded_;
  std::string lower_;
  std::vector<std::pair<std::size_t, std::size_t>> spans_;
};

}  // namespace fastsia
