#include "tables.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <vector>

#include "text.h"

namespace fastsia {
namespace {

constexpr char kFile[] =
#include "tables.txt"
    ;

using Lines = std::vector<std::vector<std::string>>;

// The UTF-8 of "U+XXXX"; any other word as it is.
std::string decoded(const std::string& word) {
  if (word.compare(0, 2, "U+") != 0) return word;
  const unsigned long code = std::stoul(word.substr(2), nullptr, 16);
  const auto byte = [code](unsigned shift, unsigned lead) {
    return static_cast<char>(lead | (code >> shift & (lead == 0x80 ? 0x3FU : 0xFFU)));
  };
  if (code < 0x80) return {byte(0, 0)};
  if (code < 0x800) return {byte(6, 0xC0), byte(0, 0x80)};
  if (code < 0x10000) return {byte(12, 0xE0), byte(6, 0x80), byte(0, 0x80)};
  return {byte(18, 0xF0), byte(12, 0x80), byte(6, 0x80), byte(0, 0x80)};
}

std::map<std::string, Lines> read_file() {
  std::map<std::string, Lines> tables;
  std::istringstream file(kFile);
  Lines* table = nullptr;
  for (std::string line; std::getline(file, line);) {
    const bool is_name = line.size() > 2 && line[0] == '[' && line.back() == ']' && is_letter(line[1]);
    if (is_name) {
      table = &tables[line.substr(1, line.size() - 2)];
    } else if (!line.empty() && line.compare(0, 2, "//") != 0) {
      std::istringstream words(line);
      table->emplace_back();
      for (std::string word; words >> word;) table->back().push_back(decoded(word));
    }
  }
  return tables;
}

const Lines& lines_of(std::string_view table) {
  static const auto tables = read_file();
  return tables.at(std::string(table));
}

}  // namespace

WordSet::WordSet(std::string_view table) {
  for (const auto& line : lines_of(table)) {
    const bool is_without = line[0] == "@without";
    for (const std::string& word : line) {
      if (is_without) {
        words_.erase(word);
      } else if (word[0] == '@') {
        const WordSet included(std::string_view(word).substr(1));
        words_.insert(included.words_.begin(), included.words_.end());
      } else {
        words_.insert(word);
      }
    }
  }
  for (const std::string_view word : words_) lengths_[static_cast<unsigned char>(word[0])] |= 1U << word.size();
}

bool WordSet::has(std::string_view first, std::string_view second) const {
  if (first.empty() || second.empty() || !may_have(first[0], first.size() + 1 + second.size())) return false;
  char joined[kLongest + 1];
  const auto middle = std::copy(first.begin(), first.end(), joined);
  *middle = '-';
  const auto end = std::copy(second.begin(), second.end(), middle + 1);
  return words_.count(std::string_view(joined, static_cast<std::size_t>(end - joined))) != 0;
}

Replacements replacements(std::string_view table) {
  Replacements all;
  for (const auto& line : lines_of(table)) {
    std::string target = line[0] == "''" ? "" : line[0];
    if (line.size() == 1) all.merge(replacements(std::string_view(target).substr(1)));
    if (target.size() > 1) std::replace(target.begin(), target.end(), '_', ' ');
    for (std::size_t i = 1; i < line.size(); ++i) all[line[i]] = target;
  }
  return all;
}

const std::string* look_up(const Replacements& table, std::string_view character) {
  const auto found = table.find(std::string(character));
  return found == table.end() ? nullptr : &found->second;
}

}  // namespace fastsia
