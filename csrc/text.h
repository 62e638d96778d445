// A view of a text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace fastsia {

constexpr std::size_t kNone = static_cast<std::size_t>(-1);

// The bytes [begin, end) of a text. The rules do not see the bytes outside.
class Text {
 public:
  Text(const char* data, std::size_t begin, std::size_t end)
      : data_(reinterpret_cast<const unsigned char*>(data)), begin_(begin), end_(end) {}

  explicit Text(std::string_view text) : Text(text.data(), 0, text.size()) {}

  std::size_t begin() const { return begin_; }
  std::size_t end() const { return end_; }

  // The byte at `i`, or -1 past the end.
  int at(std::size_t i) const { return i < end_ ? data_[i] : -1; }

  // The byte `distance` before `i`, or -1 if there is none.
  int before(std::size_t i, std::size_t distance = 1) const {
    return i >= begin_ + distance ? data_[i - distance] : -1;
  }

  bool has(std::size_t i, std::string_view what) const {
    for (std::size_t k = 0; k < what.size(); ++k) {
      if (at(i + k) != static_cast<unsigned char>(what[k])) return false;
    }
    return true;
  }

  // As `has` for a word in lower case, ignoring the case of ASCII letters in the text.
  bool has_word(std::size_t i, std::string_view what) const {
    for (std::size_t k = 0; k < what.size(); ++k) {
      if (lower(at(i + k)) != static_cast<unsigned char>(what[k])) return false;
    }
    return true;
  }

  bool has_before(std::size_t i, std::string_view what) const {
    return i >= begin_ + what.size() && std::memcmp(data_ + i - what.size(), what.data(), what.size()) == 0;
  }

  bool has_word_before(std::size_t i, std::string_view what) const {
    if (i < begin_ + what.size()) return false;
    for (std::size_t k = 0; k < what.size(); ++k) {
      if (lower(data_[i - what.size() + k]) != static_cast<unsigned char>(what[k])) return false;
    }
    return true;
  }

  // The first `byte` in [i, end), or kNone.
  std::size_t find(char byte, std::size_t i) const {
    if (i >= end_) return kNone;
    const void* found = std::memchr(data_ + i, byte, end_ - i);
    return found ? static_cast<std::size_t>(static_cast<const unsigned char*>(found) - data_) : kNone;
  }

  // The first `what` in [i, end), or kNone.
  std::size_t find(std::string_view what, std::size_t i) const {
    const std::size_t found = view(0, end_).find(what, i);
    return found == std::string_view::npos ? kNone : found;
  }

  Text part(std::size_t begin, std::size_t end) const { return Text(chars(), begin, end); }

  std::string_view view(std::size_t begin, std::size_t end) const { return {chars() + begin, end - begin}; }

  static int lower(int c) { return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c; }

 private:
  const char* chars() const { return reinterpret_cast<const char*>(data_); }

  const unsigned char* data_;
  std::size_t begin_;
  std::size_t end_;
};

inline bool is_one_of(int c, std::string_view set) {
  return c >= 0 && set.find(static_cast<char>(c)) != std::string_view::npos;
}

// The text with its ASCII letters in lower case.
inline std::string lower(std::string_view text) {
  std::string small(text);
  for (char& c : small) c = static_cast<char>(Text::lower(static_cast<unsigned char>(c)));
  return small;
}

inline bool is_digit(int c) { return c >= '0' && c <= '9'; }
inline bool is_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
inline bool is_blank(int c) { return c == ' ' || c == '\t'; }
inline bool is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
inline bool is_continuation(int c) { return c >= 0x80 && c <= 0xBF; }

// The size of the character of two or more bytes that begins at `i`, or 0.
inline std::size_t character_size(std::string_view text, std::size_t i) {
  const int c = i < text.size() ? static_cast<unsigned char>(text[i]) : -1;
  const std::size_t size = c >= 0xC2 && c <= 0xDF ? 2 : c >= 0xE0 && c <= 0xEF ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
  for (std::size_t k = 1; k < size; ++k) {
    if (i + k >= text.size() || !is_continuation(static_cast<unsigned char>(text[i + k]))) return 0;
  }
  return size;
}

// The position after at most `most` blanks at `i`.
inline std::size_t skip_blanks(const Text& text, std::size_t i, std::size_t most) {
  const std::size_t begin = i;
  while (i - begin < most && is_blank(text.at(i))) ++i;
  return i;
}

inline std::size_t skip_digits(const Text& text, std::size_t i) {
  while (is_digit(text.at(i))) ++i;
  return i;
}

// The position after at most `most` bytes of a set at `i`.
inline std::size_t skip_at_most(const Text& text, std::size_t i, std::string_view set, std::size_t most) {
  for (; most > 0 && is_one_of(text.at(i), set); --most) ++i;
  return i;
}

// Word characters: ASCII, and U+00C0 to U+07FF, the scripts that UTF-8 encodes in two bytes. Longer characters
// (punctuation, CJK) separate words: a letter between them stands alone.
inline bool is_ascii_word(int c) { return is_digit(c) || is_letter(c) || c == '_'; }

inline bool is_word(const Text& text, std::size_t i) {
  const int c = text.at(i);
  return is_ascii_word(c) || (c >= 0xC3 && c <= 0xDF && is_continuation(text.at(i + 1)));
}

inline bool is_word_before(const Text& text, std::size_t i) {
  const int c = text.before(i);
  if (c < 0x80) return is_ascii_word(c);
  const int lead = text.before(i, 2);
  return is_continuation(c) && lead >= 0xC3 && lead <= 0xDF;
}

}  // namespace fastsia
