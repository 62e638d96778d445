// Activation functions of a decoder's feed-forward layers, on a CPU.
#pragma once

#include <cstddef>

#include "bfloat16.h"

namespace fastsia {

enum class Activation { kSilu, kGeluTanh };

// out[r, i] = f(x[r, i]), computed in float; rows of x are row_stride elements apart, those of out contiguous. Each
// value depends on its own input alone: torch's vector code and the scalar code that it uses for the last elements of
// a thread's part give other bits, so that a row's result would depend on its place.
template <typename T>
void activate(Activation function, const T* x, std::size_t num_rows, std::size_t width, std::size_t row_stride,
              int num_threads, T* out);

}  // namespace fastsia
