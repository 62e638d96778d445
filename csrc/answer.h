// The rules by which an answer is read from a text. fastsia/answers/reference.py is the readable form of the same.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "spec.h"
#include "text.h"

namespace fastsia {

// An answer in canonical form, UTF-8 as far as the text was, by both readings.
struct Answer {
  std::optional<std::string> strict;
  std::optional<std::string> lenient;
};

// Reads the answer of a completion: of any bytes, in time linear in their number. is_cut: the completion was ended by
// its token limit.
Answer read_answer(std::string_view text, const Spec& spec, bool is_cut);

// Markers. A value may follow each; with one, the marker's occurrence is complete.
enum Marker : unsigned { kHash = 1, kBox = 2, kColon = 4, kFinal = 8, kStated = 16 };

struct Occurrence {
  Marker marker = kHash;
  std::size_t begin = kNone;  // kNone: there is none
  std::size_t end = kNone;
};

// The first occurrence of one of the markers that begins in [i, end).
Occurrence next_marker(Text& text, std::size_t i, unsigned markers);

// What follows an occurrence. No value: the occurrence is incomplete. is_closed: the value's end is in sight, so no
// longer text changes it. is_formed: something is stated, readable or not, at [begin, end).
struct Found {
  std::optional<std::string> value;
  bool is_closed = false;
  bool is_formed = false;
  std::size_t begin = 0, end = 0;
};

Found value_of(Text& text, const Occurrence& occurrence, const Spec& spec);

// The marker that a task's prompt asks for.
Marker asked_for(Format format);

// Where the first stop text ("Question:", "Q:" at the start of a line) begins that is looked for from `i` on, else
// kNone. `i` must not lie inside of one.
std::size_t find_stop(const Text& text, std::size_t i);

// Where the text's last line begins if that may still become a stop text, else the text's end.
std::size_t before_partial_stop(const Text& text);

// A closing mark of a think block in a text; begin is kNone where there is none.
struct Closing {
  std::size_t begin = kNone;
  std::size_t end = kNone;
};

// The first closing mark from `i` on; of two at one place the longer.
Closing first_closing(std::string_view text, std::size_t i, const Spec& spec);

// Where a closing mark begins that the text ends within, looked for from `i` on; the text's end where there is none.
std::size_t before_partial_closing(std::string_view text, std::size_t i, const Spec& spec);

}  // namespace fastsia
