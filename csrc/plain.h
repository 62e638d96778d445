// Converts digits, signs and spaces of other scripts to ASCII before numbers are read.
#pragma once

#include <string>
#include <string_view>

namespace fastsia {

bool is_ascii(std::string_view text);

// Converts digits, signs and spaces of other scripts to ASCII; other characters are kept. No-break and thin spaces
// become "~", currency signs "$", signs like × their LaTeX command, 10² becomes 10^{2}, 2½ becomes "2 1/2", and an en
// dash after a number becomes "--", a range.
std::string plain(std::string_view text);

}  // namespace fastsia
