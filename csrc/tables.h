// The word lists of the rules, which Python and C++ share: fastsia/answers/tables.txt.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace fastsia {

// A set of short words. The first byte and the length of a word rule out most words that are not in the set.
class WordSet {
 public:
  // The words of a table, with the words of the tables that it includes.
  explicit WordSet(std::string_view table);

  bool has(std::string_view word) const {
    return !word.empty() && may_have(word[0], word.size()) && words_.count(word) != 0;
  }

  // Whether the set has the two words joined by a hyphen.
  bool has(std::string_view first, std::string_view second) const;

 private:
  static constexpr std::size_t kLongest = 24;

  bool may_have(char begin, std::size_t size) const {
    return size <= kLongest && (lengths_[static_cast<unsigned char>(begin)] >> size & 1U) != 0;
  }

  std::unordered_set<std::string_view> words_;
  std::array<std::uint32_t, 256> lengths_{};  // bit n: the set has a word of n bytes with this first byte
};

// A table of replacements: each later word of a line maps to the first one, in which "_" means a blank if the word
// is longer. A line of one word includes a table.
using Replacements = std::unordered_map<std::string, std::string>;

Replacements replacements(std::string_view table);

// The replacement of a character, or null.
const std::string* look_up(const Replacements& table, std::string_view character);

}  // namespace fastsia
