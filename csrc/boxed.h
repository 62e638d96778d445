// What the content of a \\boxed{...} says. fastsia/answers/boxed.py is the readable form of the same.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "spec.h"
#include "text.h"

namespace fastsia {

constexpr std::size_t kMaxBox = 512;  // bytes between the braces of \\boxed{...}

// Where the brace that is open just before `i` closes, or kNone.
std::size_t closing_brace(Text& text, std::size_t i);

// What the content of a box says: an option's letter, a canonical number, or (format boxed) an expression in one
// spelling.
std::optional<std::string> boxed_value(Text content, const Spec& spec);

// The answer behind another marker ("Answer:") in the boxed format; the line ends where it may end.
std::optional<std::string> expression_after_marker(Text& line, std::size_t i);

}  // namespace fastsia
