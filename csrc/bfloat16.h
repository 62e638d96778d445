// bfloat16 numbers: the upper half of a float. Arithmetic is float; conversion to float is exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "exp.h"

namespace fastsia {

struct BFloat16 {
  std::uint16_t bits;
};

FASTSIA_INLINE float to_float(float x) { return x; }
FASTSIA_INLINE float to_float(BFloat16 x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The nearest T, ties to even; NaN stays NaN.
template <typename T>
T round_to(float x);
template <>
FASTSIA_INLINE float round_to<float>(float x) {
  return x;
}
template <>
FASTSIA_INLINE BFloat16 round_to<BFloat16>(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<std::uint16_t>(x != x ? 0x7FC0u : rounded)};
}

}  // namespace fastsia
