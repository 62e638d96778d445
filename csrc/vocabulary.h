// The bytes of each token, and how tokens are joined to a text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fastsia {

enum class TokenKind : std::uint8_t {
  kText = 0,
  kByte = 1,     // a byte-fallback token: a run of them is text if it is valid UTF-8, else each is U+FFFD
  kNothing = 2,  // special tokens and unused ids
};

class Vocabulary {
 public:
  // Token i is blob[offsets[i], offsets[i + 1]); there are `size` tokens. The caller has checked the offsets.
  Vocabulary(std::string_view blob, const std::int64_t* offsets, const std::uint8_t* kinds, std::size_t size,
             std::string_view joiner, std::size_t num_stripped, bool drops_first_spaces);

  struct Token {
    std::uint32_t begin;
    std::uint32_t size : 30;
    std::uint32_t kind : 2;
  };

  // Ids outside the vocabulary have no bytes.
  Token token(std::int32_t id) const {
    const auto index = static_cast<std::uint32_t>(id);
    return index < tokens_.size() ? tokens_[index] : Token{0, 0, static_cast<std::uint32_t>(TokenKind::kNothing)};
  }
  const char* bytes(Token token) const { return blob_.data() + token.begin; }

  // Whether a text is exactly the concatenated bytes of its tokens.
  bool is_plain() const { return is_plain_; }
  std::string_view joiner() const { return joiner_; }
  std::size_t num_stripped() const { return num_stripped_; }
  bool drops_first_spaces() const { return drops_first_spaces_; }

 private:
  std::string blob_;
  std::vector<Token> tokens_;
  std::string joiner_;
  std::size_t num_stripped_;
  bool drops_first_spaces_;
  bool is_plain_;
};

// Decodes ids incrementally. `append` adds to `text`; a run of byte-fallback tokens is held back until it ends or
// `finish` is called.
class Decoder {
 public:
  explicit Decoder(const Vocabulary& vocabulary) : num_to_strip_(vocabulary.num_stripped()) {}

  void append(const Vocabulary& vocabulary, const std::int32_t* ids, std::size_t size, std::string& text);
  void finish(std::string& text) { end_run(text); }

 private:
  void append_text(std::string_view piece, std::string& text);
  void end_run(std::string& text);

  bool is_first_ = true;
  std::size_t num_to_strip_;
  std::string run_;
};

}  // namespace fastsia
