// The rules by which an answer is read from a text. fastsia/answers/reference.py is the readable reference.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "spec.h"
#include "text.h"

namespace fastsia {

// The canonical answer in both readings, UTF-8 if the text is.
struct Answer {
  std::optional<std::string> strict;
  std::optional<std::string> lenient;
};

// Reads the answer of a completion. Any bytes are accepted; the time is linear in their number. is_cut: the token limit
// ended the completion.
Answer read_answer(std::string_view text, const Spec& spec, bool is_cut);

// Markers. An occurrence of a marker is complete if a value follows it.
enum Marker : unsigned { kHash = 1, kBox = 2, kColon = 4, kFinal = 8, kStated = 16 };

struct Occurrence {
  Marker marker = kHash;
  std::size_t begin = kNone;  // kNone: not found
  std::size_t end = kNone;
};

// The first occurrence of one of the markers in [i, end).
Occurrence next_marker(Text& text, std::size_t i, unsigned markers);

// The value after an occurrence; without one the occurrence is incomplete. is_closed: the end of the value has been
// read, so a continuation of the text cannot change it. is_formed: the text at [begin, end) has the form of a value.
struct Found {
  std::optional<std::string> value;
  bool is_closed = false;
  bool is_formed = false;
  std::size_t begin = 0, end = 0;
};

Found value_of(Text& text, const Occurrence& occurrence, const Spec& spec);

// The marker that the prompt of a task asks for.
Marker asked_for(Format format);

// Where the first stop text ("Question:", "Q:" at the start of a line) from `i` on begins, or kNone. `i` must not be
// inside a stop text.
std::size_t find_stop(const Text& text, std::size_t i);

// Where the last line of the text begins if it may still become a stop text, else the end of the text.
std::size_t before_partial_stop(const Text& text);

// The span of a closing mark of a think block; begin is kNone if there is none.
struct Closing {
  std::size_t begin = kNone;
  std::size_t end = kNone;
};

// The first closing mark from `i` on. The longer one wins at the same position.
Closing first_closing(std::string_view text, std::size_t i, const Spec& spec);

// Where an incomplete closing mark at the end of the text begins, searched from `i` on; the end of the text if there is
// none.
std::size_t before_partial_closing(std::string_view text, std::size_t i, const Spec& spec);

}  // namespace fastsia
