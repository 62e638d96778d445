#include "plain.h"

#include <cstdint>

#include "tables.h"
#include "text.h"

namespace fastsia {
namespace {

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
  static const Replacements kRaised = replacements("superscript_numbers");
  static const Replacements kLowered = replacements("subscripts");
  static const Replacements kVulgarFractions = replacements("vulgar_fractions");
  std::string out;
  out.reserve(text.size() + 16);
  std::size_t joined_at = kNone;  // where the next superscript or subscript of this kind would begin
  char joined_sign = 0;
  for (std::size_t i = 0; i < text.size();) {
    const std::string_view character = text.substr(i, character_size(text, i));
    if (character.empty()) {
      out += text[i++];
      continue;
    }
    const std::size_t begin = i;
    i += character.size();
    const std::string *above = look_up(kRaised, character), *below = look_up(kLowered, character);
    if (const std::string* spelling = look_up(kAscii, character)) {
      out += *spelling;
    } else if (above || below) {
      const char sign = above ? '^' : '_';
      if (joined_at == begin && joined_sign == sign) {
        out.pop_back();
      } else {
        out += sign;
        out += '{';
      }
      out += above ? *above : *below;
      out += '}';
      joined_at = i;
      joined_sign = sign;
    } else if (const std::string* fraction = look_up(kVulgarFractions, character)) {
      const Text written{std::string_view(out)};
      if (is_word_before(written, out.size())) out += ' ';
      out += *fraction;
    } else if (character == "\u2013") {
      out += ends_in_number(out) ? "--" : "-";
    } else {
      out += character;
    }
  }
  return out;
}

}  // namespace fastsia
