// One spelling for an expression that LaTeX writes in several ways. fastsia/answers/spelling.py is the readable form of
// the same, and says how.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace fastsia {

constexpr std::size_t kMaxText = 256;  // bytes of a boxed answer that is no number

// The one spelling of a box's content; none where it is empty, too long or nested too deeply, or arithmetic.
std::optional<std::string> spelled(std::string_view content);

// Names of functions that are written without a backslash ("sin"), words for units, and signs outside of ASCII that
// formulas are written with.
bool is_function(const std::string& word);
bool is_unit(const std::string& word);
bool is_known_sign(const std::string& sign);

}  // namespace fastsia
