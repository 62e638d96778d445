// Reads the content of a \\boxed{...}. fastsia/answers/boxed.py is the readable reference.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "spec.h"
#include "text.h"

namespace fastsia {

constexpr std::size_t kMaxBox = 512;  // bytes between the braces of \\boxed{...}

// Where the brace that opens just before `i` closes, or kNone.
std::size_t closing_brace(Text& text, std::size_t i);

// Reads the content of a box: an option's letter, a canonical number, or (boxed format) a normalized expression.
std::optional<std::string> boxed_value(Text content, const Spec& spec);

// The answer after another marker ("Answer:") in the boxed format. The line ends where the value may end.
std::optional<std::string> expression_after_marker(Text& line, std::size_t i);

}  // namespace fastsia
