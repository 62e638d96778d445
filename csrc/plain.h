// Other scripts' digits, signs and spaces in ASCII, before numbers are read.
#pragma once

#include <string>
#include <string_view>

namespace fastsia {

bool is_ascii(std::string_view text);

// The text with other scripts' digits, signs and spaces in ASCII; what is none of these stays. No-break and thin spaces
// become "~", currency signs "$", signs like × their LaTeX command, 10² 10^{2}, 2½ "2 1/2", and an en dash behind a
// number "--", which is a range.
std::string plain(std::string_view text);

}  // namespace fastsia
