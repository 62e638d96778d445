// Normalizes texts and splits them into words. fastsia/answers/fold.py is the readable reference.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fastsia {

// Marks the end of emphasis, a formula or a brace after a single letter: in **A** the letter is not an article.
constexpr std::string_view kClose = "\x01";

// Normalizes quotes, dashes, spaces, accents, full-width and circled letters, super- and subscripts, emphasis, LaTeX
// and numbers. Line breaks are kept.
std::string fold(std::string_view text);

// The words and marks of a folded text, with their lower-case forms and spans. An index out of range gives "".
class Words {
 public:
  Words(std::string_view text, bool one_line);

  int size() const { return static_cast<int>(spans_.size()); }
  std::string_view text(int i) const { return has(i) ? view(folded_, i) : std::string_view(); }
  std::string_view low(int i) const { return has(i) ? view(lower_, i) : std::string_view(); }

  // Whether word i follows the one before it without a blank.
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
