// Splits a range of rows over threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace fastsia {

// Calls work(begin, end) for consecutive parts of [0, size), the last one on this thread. Rethrows the first exception.
template <typename Work>
void parallel_for(std::size_t size, std::size_t num_threads, const Work& work) {
  num_threads = std::max<std::size_t>(1, std::min(num_threads, size));
  std::vector<std::exception_ptr> errors(num_threads);
  std::vector<std::thread> threads;
  const auto part = [&](std::size_t k) {
    try {
      work(size * k / num_threads, size * (k + 1) / num_threads);
    } catch (...) {
      errors[k] = std::current_exception();
    }
  };
  threads.reserve(num_threads - 1);
  std::size_t started = 0;
  try {
    for (; started + 1 < num_threads; ++started) threads.emplace_back(part, started);
  } catch (const std::system_error&) {  // no more threads to be had: this one does the rest
  }
  for (std::size_t k = started; k < num_threads; ++k) part(k);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace fastsia
