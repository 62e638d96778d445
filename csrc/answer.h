// The rules by which an answer is read from a text. fastsia/answers/reference.py is the readable form of the same.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "choice.h"
#include "text.h"

namespace fastsia {

constexpr std::size_t kMaxBox = 512;   // bytes between the braces of \boxed{...}
constexpr std::size_t kMaxText = 256;  // bytes of a boxed answer that is no number
constexpr std::size_t kUnseen = 3;     // bytes of a marker that its beginning may have without being noticed

enum class Format { kNumber = 0, kChoice = 1, kBoxed = 2 };

// What a text is read for.
struct Spec {
  Format format = Format::kNumber;
  Options options;
  bool starts_in_think = false;
};

// An answer in canonical form, UTF-8 as far as the text was. Where the think block that opens the text (or that its
// prompt opened) never closes, only a lenient reading has it.
struct Answer {
  std::optional<std::string> value;
  bool is_in_think = false;
};

// Reads the answer of a completion: of any bytes, in time linear in their number.
Answer read_answer(std::string_view text, const Spec& spec);

// Markers. A value may follow each; with one, the marker's occurrence is complete.
enum Marker : unsigned { kHash = 1, kBox = 2, kColon = 4, kFinal = 8, kAnswerIs = 16 };

struct Occurrence {
  Marker marker = kHash;
  std::size_t begin = kNone;  // kNone: there is none
  std::size_t end = kNone;
};

// The first occurrence of one of the markers in [i, end). An open text may end inside of a marker: then either it has
// seen its end, or the marker begins in its last kUnseen bytes.
Occurrence next_marker(Text& text, std::size_t i, unsigned markers);

// The value that completes a marker's occurrence.
std::optional<std::string> value_of(Text& text, const Occurrence& occurrence, const Spec& spec);

// The marker that a task's prompt asks for.
Marker asked_for(Format format);

// Where the first stop text ("Question:", "Q:" at the start of a line) begins that is looked for from `i` on, else
// kNone. `i` must not lie inside of one.
std::size_t find_stop(const Text& text, std::size_t i);

// Where the text's last line begins if that may still become a stop text, else the text's end.
std::size_t before_partial_stop(const Text& text);

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";

}  // namespace fastsia
