// Normalizes expressions that LaTeX writes in several ways. fastsia/answers/spelling.py is the readable reference and
// explains how.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace fastsia {

constexpr std::size_t kMaxText = 256;  // bytes of a boxed answer that is not a number

// The normalized content of a box; none if it is empty, too long, nested too deeply, or arithmetic.
std::optional<std::string> spelled(std::string_view content);

// Names of functions written without a backslash ("sin"), words for units, and signs outside ASCII that occur in
// formulas.
bool is_function(const std::string& word);
bool is_unit(const std::string& word);
bool is_known_sign(const std::string& sign);

}  // namespace fastsia
