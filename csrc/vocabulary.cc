#include "vocabulary.h"

#include <algorithm>
#include <cstring>

namespace fastsia {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr std::size_t kShort = 16;                         // tokens up to this size are copied by one fixed-size move

// Whether the bytes are valid UTF-8, without overlong forms, surrogates and code points above U+10FFFF.
bool is_utf8(std::string_view bytes) {
  const auto* at = reinterpret_cast<const unsigned char*>(bytes.data());
  const unsigned char* const end = at + bytes.size();
  while (at < end) {
    const unsigned char lead = *at++;
    if (lead < 0x80) continue;
    if (lead < 0xC2 || lead > 0xF4) return false;
    const int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
    if (end - at < more) return false;
    const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (*at < low || *at > high) return false;
    for (int k = 1; k < more; ++k) {
      if ((at[k] & 0xC0) != 0x80) return false;
    }
    at += more;
  }
  return true;
}

// Concatenates the bytes of tokens. Most tokens are short: one move of a fixed size, whose excess the next token
// overwrites, is much faster than a copy of each token's size.
void append_plain(const Vocabulary& vocabulary, const std::int32_t* ids, std::size_t size, std::string& text) {
  std::size_t total = 0;
  for (std::size_t k = 0; k < size; ++k) total += vocabulary.token(ids[k]).size;
  const std::size_t begin = text.size();
  text.resize(begin + total + kShort);
  char* to = text.data() + begin;
  for (std::size_t k = 0; k < size; ++k) {
    const Vocabulary::Token token = vocabulary.token(ids[k]);
    std::memcpy(to, vocabulary.bytes(token), kShort);
    if (token.size > kShort) std::memcpy(to + kShort, vocabulary.bytes(token) + kShort, token.size - kShort);
    to += token.size;
  }
  text.resize(begin + total);
}

}  // namespace

Vocabulary::Vocabulary(std::string_view blob, const std::int64_t* offsets, const std::uint8_t* kinds, std::size_t size,
                       std::string_view joiner, std::size_t num_stripped, bool drops_first_spaces)
    : blob_(blob), joiner_(joiner), num_stripped_(num_stripped), drops_first_spaces_(drops_first_spaces) {
  blob_.append(kShort, '\0');
  tokens_.reserve(size);
  bool has_bytes = false;
  for (std::size_t i = 0; i < size; ++i) {
    const bool is_nothing = kinds[i] == static_cast<std::uint8_t>(TokenKind::kNothing);
    has_bytes |= kinds[i] == static_cast<std::uint8_t>(TokenKind::kByte);
    tokens_.push_back({static_cast<std::uint32_t>(offsets[i]),
                       is_nothing ? 0 : static_cast<std::uint32_t>(offsets[i + 1] - offsets[i]) & 0x3FFFFFFFu,
                       kinds[i] & 3u});
  }
  is_plain_ = !has_bytes && joiner_.empty() && num_stripped_ == 0 && !drops_first_spaces_;
}

void Decoder::append(const Vocabulary& vocabulary, const std::int32_t* ids, std::size_t size, std::string& text) {
  if (vocabulary.is_plain()) {
    append_plain(vocabulary, ids, size, text);
    return;
  }
  for (std::size_t k = 0; k < size; ++k) {
    const Vocabulary::Token token = vocabulary.token(ids[k]);
    if (token.kind == static_cast<std::uint32_t>(TokenKind::kNothing)) continue;
    const std::string_view piece(vocabulary.bytes(token), token.size);
    if (token.kind == static_cast<std::uint32_t>(TokenKind::kByte)) {
      run_.append(piece);
    } else {
      end_run(text);
      if (!is_first_) append_text(vocabulary.joiner(), text);
      if (is_first_ && vocabulary.drops_first_spaces()) {
        for (const char c : piece) {
          if (c != ' ') append_text({&c, 1}, text);
        }
      } else {
        append_text(piece, text);
      }
    }
    is_first_ = false;
  }
}

void Decoder::append_text(std::string_view piece, std::string& text) {
  while (num_to_strip_ > 0 && !piece.empty()) {
    if (piece.front() != ' ') {
      num_to_strip_ = 0;
      break;
    }
    piece.remove_prefix(1);
    --num_to_strip_;
  }
  text.append(piece);
}

void Decoder::end_run(std::string& text) {
  if (run_.empty()) return;
  if (is_utf8(run_)) {
    append_text(run_, text);
  } else {
    for (std::size_t k = 0; k < run_.size(); ++k) append_text(kReplacement, text);
  }
  run_.clear();
}

}  // namespace fastsia
