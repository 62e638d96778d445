// e^x for x <= 0 in arithmetic that compilers vectorise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

// One build runs on every x86-64: the loader picks the widest vectors that the machine has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define FASTSIA_TARGETS
#define FASTSIA_WIDE __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define FASTSIA_WIDE
#endif
#define FASTSIA_INLINE inline __attribute__((always_inline))

namespace fastsia {

// Within 2 units in the last place; 0 below -87, where float runs out of normal numbers. x = n ln 2 + r, a polynomial
// in r (Cephes' coefficients), and n added to the exponent. No step may branch, call or trap, or a loop over it stays
// scalar: rounding is by adding 1.5 * 2^23, and the zero is chosen among integers.
FASTSIA_INLINE float exp_nonpositive(float x) {
  const float clamped = std::max(x, -87.0f);
  const float n = (clamped * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const std::int32_t exponent = (static_cast<std::int32_t>(n) + 127) << 23;
  const std::int32_t bits = x < -87.0f ? 0 : exponent;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

}  // namespace fastsia
