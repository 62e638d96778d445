#include "plain.h"

#include <cstdint>

#include "tables.h"
#include "text.h"

namespace fastsia {
namespace {

struct Character {
  std::size_t size = 0;  // 0: invalid UTF-8
  std::uint32_t code = 0;
};

Character read_character(std::string_view text, std::size_t i) {
  const unsigned char lead = static_cast<unsigned char>(text[i]);
  const std::size_t size = lead >= 0xC2 && lead <= 0xDF ? 2 : lead >= 0xE0 && lead <= 0xEF ? 3 : lead <= 0xF4 ? 4 : 0;
  if (lead < 0xC2 || size == 0 || i + size > text.size()) return {};
  std::uint32_t code = lead & (size == 2 ? 0x1Fu : size == 3 ? 0x0Fu : 0x07u);
  for (std::size_t k = 1; k < size; ++k) {
    const unsigned char c = static_cast<unsigned char>(text[i + k]);
    if (!is_continuation(c)) return {};
    code = code << 6 | (c & 0x3Fu);
  }
  const bool is_longer_than_needed = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
  return {size, is_longer_than_needed ? 0 : code};
}

// The value of a decimal digit, or -1: Arabic, Persian, Devanagari to Malayalam, Thai, Lao, full-width and mathematical
// digits.
int digit_of(std::uint32_t code) {
  for (const std::uint32_t zero : {0x660u, 0x6F0u, 0xE50u, 0xED0u, 0xFF10u}) {
    if (code >= zero && code < zero + 10) return static_cast<int>(code - zero);
  }
  if (code >= 0x966 && code < 0xD70 && (code - 0x966) % 0x80 < 10) return static_cast<int>((code - 0x966) % 0x80);
  if (code >= 0x1D7CE && code < 0x1D800) return static_cast<int>((code - 0x1D7CE) % 10);
  return -1;
}

// The ASCII character of a full-width form, or 0.
char narrow(std::uint32_t code) {
  if (code < 0xFF01 || code > 0xFF5E) return 0;
  const char c = static_cast<char>(code - 0xFEE0);
  const bool is_sign = std::string_view("!$%()*+,-./:;<=>[]^_{}~").find(c) != std::string_view::npos;
  return is_letter(c) || is_sign ? c : 0;
}

// The replacement of a character, or null.
const std::string* look_up(const Replacements& table, std::string_view character) {
  const auto found = table.find(std::string(character));
  return found == table.end() ? nullptr : &found->second;
}

// The digit or minus sign of a superscript or subscript, or 0.
char raised(std::uint32_t code) {
  if (code == 0xB2 || code == 0xB3) return static_cast<char>('0' + (code - 0xB0));
  if (code == 0xB9) return '1';
  if (code == 0x207B) return '-';
  return code == 0x2070 || (code >= 0x2074 && code <= 0x2079) ? static_cast<char>('0' + (code - 0x2070)) : 0;
}

char lowered(std::uint32_t code) {
  return code >= 0x2080 && code <= 0x2089 ? static_cast<char>('0' + (code - 0x2080)) : 0;
}

// Whether the output ends with a number and at most one blank.
bool ends_in_number(const std::string& out) {
  std::size_t end = out.size();
  if (end > 0 && (out[end - 1] == ' ' || out[end - 1] == '~')) --end;
  return end > 0 && (is_digit(static_cast<unsigned char>(out[end - 1])) || out[end - 1] == '%');
}

}  // namespace

bool is_ascii(std::string_view text) {
  std::uint8_t seen = 0;
  for (const char c : text) seen = static_cast<std::uint8_t>(seen | static_cast<unsigned char>(c));
  return seen < 0x80;
}

std::string plain(std::string_view text) {
  static const Replacements kAscii = replacements("ascii");
  static const Replacements kVulgarFractions = replacements("vulgar_fractions");
  std::string out;
  out.reserve(text.size() + 16);
  std::size_t joined_at = kNone;  // where the next superscript or subscript of this kind would begin
  char joined_sign = 0;
  for (std::size_t i = 0; i < text.size();) {
    const Character character = static_cast<unsigned char>(text[i]) < 0x80 ? Character{} : read_character(text, i);
    if (character.size == 0) {
      out += text[i++];
      continue;
    }
    const std::size_t begin = i;
    const std::uint32_t code = character.code;
    i += character.size;
    if (const int digit = digit_of(code); digit >= 0) {
      out += static_cast<char>('0' + digit);
    } else if (const char c = narrow(code)) {
      out += c;
    } else if (const std::string* sign = look_up(kAscii, text.substr(begin, character.size))) {
      out += *sign;
    } else if (const char above = raised(code), below = lowered(code); above || below) {
      const char sign = above ? '^' : '_';
      if (joined_at == begin && joined_sign == sign) {
        out.pop_back();
      } else {
        out += sign;
        out += '{';
      }
      out += above ? above : below;
      out += '}';
      joined_at = i;
      joined_sign = sign;
    } else if (const std::string* fraction = look_up(kVulgarFractions, text.substr(begin, character.size))) {
      const Text written{std::string_view(out)};
      if (is_word_before(written, out.size())) out += ' ';
      out += *fraction;
    } else if (code == 0x2013) {
      out += ends_in_number(out) ? "--" : "-";
    } else {
      out.append(text, begin, character.size);
    }
  }
  return out;
}

}  // namespace fastsia
