#include "activation.h"

#include <algorithm>
#include <cmath>

#include "parallel.h"

namespace fastsia {
namespace {

// x / (1 + e^-gate), without an overflow on either side: x e^min(gate, 0) / (1 + e^-|gate|). Not std::min, with which
// gcc leaves the loop over it scalar.
FASTSIA_INLINE float silu(float x, float gate) {
  const float size = std::fabs(gate), low = 0.5f * (gate - size);
  return x * exp_nonpositive(low) / (1.0f + exp_nonpositive(-size));
}

// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)). From 12 on the
// sigmoid is 0 or 1, and the cube could overflow.
FASTSIA_INLINE float gelu_tanh(float x) {
  const float c = std::max(-12.0f, std::min(x, 12.0f));
  return silu(x, 1.5957691216057308f * (c + 0.044715f * c * c * c));
}

constexpr std::size_t kBlock = 64;

template <Activation kFunction>
FASTSIA_INLINE void activate_block(const float* __restrict x, float* __restrict out) {
  for (std::size_t i = 0; i < kBlock; ++i) out[i] = kFunction == Activation::kSilu ? silu(x[i], x[i]) : gelu_tanh(x[i]);
}

// Whole blocks only, so that every element goes through the same vector code; the last block is padded.
template <Activation kFunction, typename T>
FASTSIA_INLINE void activate_row(const T* x, std::size_t width, T* out) {
  float from[kBlock] = {}, to[kBlock];
  std::size_t begin = 0;
  for (; begin + kBlock <= width; begin += kBlock) {
    for (std::size_t i = 0; i < kBlock; ++i) from[i] = to_float(x[begin + i]);
    activate_block<kFunction>(from, to);
    for (std::size_t i = 0; i < kBlock; ++i) out[begin + i] = round_to<T>(to[i]);
  }
  if (begin == width) return;
  for (std::size_t i = 0; begin + i < width; ++i) from[i] = to_float(x[begin + i]);
  activate_block<kFunction>(from, to);
  for (std::size_t i = 0; begin + i < width; ++i) out[begin + i] = round_to<T>(to[i]);
}

FASTSIA_WIDE void silu_row(const float* x, std::size_t width, float* out) {
  activate_row<Activation::kSilu>(x, width, out);
}
FASTSIA_WIDE void silu_row(const BFloat16* x, std::size_t width, BFloat16* out) {
  activate_row<Activation::kSilu>(x, width, out);
}
FASTSIA_WIDE void gelu_tanh_row(const float* x, std::size_t width, float* out) {
  activate_row<Activation::kGeluTanh>(x, width, out);
}
FASTSIA_WIDE void gelu_tanh_row(const BFloat16* x, std::size_t width, BFloat16* out) {
  activate_row<Activation::kGeluTanh>(x, width, out);
}

}  // namespace

template <typename T>
void activate(Activation function, const T* x, std::size_t num_rows, std::size_t width, std::size_t row_stride,
              int num_threads, T* out) {
  const bool is_small = num_rows * width < (std::size_t{1} << 17) || num_threads < 1;
  parallel_for(num_rows, is_small ? 1 : static_cast<std::size_t>(num_threads), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const T* from = x + row * row_stride;
      T* to = out + row * width;
      function == Activation::kSilu ? silu_row(from, width, to) : gelu_tanh_row(from, width, to);
    }
  });
}

template void activate(Activation, const float*, std::size_t, std::size_t, std::size_t, int, float*);
template void activate(Activation, const BFloat16*, std::size_t, std::size_t, std::size_t, int, BFloat16*);

}  // namespace fastsia
