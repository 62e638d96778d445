#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "exp.h"
#include "parallel.h"

namespace fastsia {
namespace {

constexpr std::size_t kLanes = 16;

// One row of logits as floats: read in place, or widened into `buffer`.
const float* as_floats(const float* x, std::size_t, std::vector<float>*) { return x; }
FASTSIA_WIDE void widen(const BFloat16* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
}
const float* as_floats(const BFloat16* x, std::size_t n, std::vector<float>* buffer) {
  buffer->resize(n);
  widen(x, n, buffer->data());
  return buffer->data();
}

// The largest logit; NaN where any is NaN.
FASTSIA_WIDE float largest(const float* x, std::size_t n) {
  float top[kLanes], poison[kLanes];
  std::fill(top, top + kLanes, -std::numeric_limits<float>::infinity());
  std::fill(poison, poison + kLanes, 0.0f);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) {
      top[j] = top[j] < x[i + j] ? x[i + j] : top[j];
      poison[j] += x[i + j] != x[i + j] ? 1.0f : 0.0f;
    }
  for (; i < n; ++i) {
    top[0] = top[0] < x[i] ? x[i] : top[0];
    poison[0] += x[i] != x[i] ? 1.0f : 0.0f;
  }
  for (std::size_t j = 1; j < kLanes; ++j) {
    top[0] = std::max(top[0], top[j]);
    poison[0] += poison[j];
  }
  return poison[0] > 0 ? std::nanf("") : top[0];
}

// weights[i] = e^((x[i] - top) * scale); returns their sum. Sums of 16 x 64 terms in float, these in double.
FASTSIA_WIDE double exponentials(const float* x, std::size_t n, float top, float scale, float* weights) {
  double total = 0;
  for (std::size_t begin = 0; begin < n; begin += kLanes * 64) {
    const std::size_t end = std::min(begin + kLanes * 64, n);
    float lanes[kLanes] = {};
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (std::size_t j = 0; j < kLanes; ++j) {
        weights[i + j] = exp_nonpositive((x[i + j] - top) * scale);
        lanes[j] += weights[i + j];
      }
    for (; i < end; ++i) {
      weights[i] = exp_nonpositive((x[i] - top) * scale);
      lanes[0] += weights[i];
    }
    for (std::size_t j = 0; j < kLanes; ++j) total += lanes[j];
  }
  return total;
}

// sum of w * (x - top); a weight of 0 adds 0, even where the logit is infinite.
FASTSIA_WIDE double weighted(const float* x, std::size_t n, float top, const float* weights) {
  double total = 0;
  for (std::size_t begin = 0; begin < n; begin += kLanes * 64) {
    const std::size_t end = std::min(begin + kLanes * 64, n);
    float lanes[kLanes] = {};
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (std::size_t j = 0; j < kLanes; ++j) lanes[j] += weights[i + j] * std::max(x[i + j] - top, -1e4f);
    for (; i < end; ++i) lanes[0] += weights[i] * std::max(x[i] - top, -1e4f);
    for (std::size_t j = 0; j < kLanes; ++j) total += lanes[j];
  }
  return total;
}

// Indices of weights >= least, ascending.
void survivors(const float* weights, std::size_t n, float least, std::vector<std::int32_t>* kept) {
  kept->clear();
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    float top = 0;
    for (std::size_t j = 0; j < kLanes; ++j) top = std::max(top, weights[i + j]);
    if (top < least) continue;
    for (std::size_t j = 0; j < kLanes; ++j)
      if (weights[i + j] >= least) kept->push_back(static_cast<std::int32_t>(i + j));
  }
  for (; i < n; ++i)
    if (weights[i] >= least) kept->push_back(static_cast<std::int32_t>(i));
}

// The nucleus of one row, ready to be drawn from: ids ascending, the running sum of their weights.
struct Nucleus {
  std::vector<float> weights;
  std::vector<std::int32_t> ids, ordered;
  std::vector<double> cumulative;

  void build(const float* x, std::size_t vocab, float top, float temperature, float top_p) {
    const float scale = 1.0f / temperature;
    // A temperature so small that its reciprocal overflows leaves the most probable token alone, as 0 does.
    if (!(temperature > 0) || !std::isfinite(scale)) {
      ids.assign(1, static_cast<std::int32_t>(std::find(x, x + vocab, top) - x));
      weights.resize(std::max(weights.size(), vocab));
      weights[static_cast<std::size_t>(ids[0])] = 1;
    } else {
      weights.resize(std::max(weights.size(), vocab));
      const double total = exponentials(x, vocab, top, scale, weights.data());
      if (top_p >= 1) {
        survivors(weights.data(), vocab, std::numeric_limits<float>::min(), &ids);
      } else {
        // A token below (1 - top_p) / V of the mass cannot be in the nucleus: all such together weigh less than 1 -
        // top_p. The margin covers the rounding of the sum.
        const double least = (1.0 - top_p) * total / static_cast<double>(vocab) * (1 - 1e-5);
        survivors(weights.data(), vocab, std::max(static_cast<float>(least), std::numeric_limits<float>::min()), &ids);
        cut(static_cast<double>(top_p) * total);
      }
    }
    cumulative.resize(ids.size());
    double sum = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) cumulative[i] = sum += weights[static_cast<std::size_t>(ids[i])];
  }

  // Keeps the most probable of `ids` (lower ids first among equals) until their mass reaches `goal`.
  void cut(double goal) {
    ordered = ids;
    const auto before = [this](std::int32_t a, std::int32_t b) {
      const float left = weights[static_cast<std::size_t>(a)], right = weights[static_cast<std::size_t>(b)];
      return left != right ? left > right : a < b;
    };
    double sum = 0;
    std::size_t count = 0;
    // Nuclei are small beside their candidates as a rule: sort them as far as needed.
    for (std::size_t sorted = 0; count < ordered.size() && (count == 0 || sum < goal);) {
      if (count == sorted) {
        sorted = std::min(ordered.size(), std::max<std::size_t>(2 * sorted, 16));
        std::partial_sort(ordered.begin() + static_cast<std::ptrdiff_t>(count),
                          ordered.begin() + static_cast<std::ptrdiff_t>(sorted), ordered.end(), before);
      }
      sum += weights[static_cast<std::size_t>(ordered[count++])];
    }
    ids.assign(ordered.begin(), ordered.begin() + static_cast<std::ptrdiff_t>(count));
    std::sort(ids.begin(), ids.end());
  }

  // The first token whose cumulative weight exceeds u * total (the last one if rounding leaves none).
  std::int64_t draw(double u, float* logprob) const {
    const double total = cumulative.back(), target = u * total;
    auto at = std::upper_bound(cumulative.begin(), cumulative.end(), target) - cumulative.begin();
    at = std::min(at, static_cast<std::ptrdiff_t>(cumulative.size()) - 1);
    const std::int32_t id = ids[static_cast<std::size_t>(at)];
    *logprob = static_cast<float>(std::log(weights[static_cast<std::size_t>(id)] / total));
    return id;
  }
};

}  // namespace

double uniform(std::int64_t seed, const std::int32_t counter[4]) {
  auto key0 = static_cast<std::uint32_t>(static_cast<std::uint64_t>(seed));
  auto key1 = static_cast<std::uint32_t>(static_cast<std::uint64_t>(seed) >> 32);
  std::uint32_t c[4];
  for (int i = 0; i < 4; ++i) c[i] = static_cast<std::uint32_t>(counter[i]);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * c[0], b = std::uint64_t{0xCD9E8D57} * c[2];
    const std::uint32_t next[4] = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key0, static_cast<std::uint32_t>(b),
                                   static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key1, static_cast<std::uint32_t>(a)};
    std::copy(next, next + 4, c);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return (static_cast<double>(c[0] >> 5) * 67108864.0 + static_cast<double>(c[1] >> 6)) / 9007199254740992.0;
}

template <typename T>
void sample(const SampleInput<T>& in, int num_threads, const SampleOutput& out) {
  // Draws by row, as a counting sort.
  std::vector<std::size_t> begin(in.num_rows + 1, 0), order(in.num_draws);
  for (std::size_t m = 0; m < in.num_draws; ++m) ++begin[static_cast<std::size_t>(in.draw_row[m]) + 1];
  for (std::size_t row = 0; row < in.num_rows; ++row) begin[row + 1] += begin[row];
  std::vector<std::size_t> next(begin.begin(), begin.end() - 1);
  for (std::size_t m = 0; m < in.num_draws; ++m) order[next[static_cast<std::size_t>(in.draw_row[m])]++] = m;

  const auto rows = [&](std::size_t first, std::size_t last) {
    Nucleus nucleus;
    std::vector<float> plain(out.entropy ? in.vocab : 0), wide;
    for (std::size_t row = first; row < last; ++row) {
      const float* x = as_floats(in.logits + row * in.vocab, in.vocab, &wide);
      const float top = largest(x, in.vocab);
      out.bad[row] = !std::isfinite(top);
      if (out.bad[row]) {
        if (out.entropy) out.entropy[row] = std::nanf("");
        for (std::size_t i = begin[row]; i < begin[row + 1]; ++i) {
          out.tokens[order[i]] = -1;
          out.logprobs[order[i]] = std::nanf("");
        }
        continue;
      }
      if (out.entropy) {
        const double total = exponentials(x, in.vocab, top, 1.0f, plain.data());
        out.entropy[row] = static_cast<float>(std::log(total) - weighted(x, in.vocab, top, plain.data()) / total);
      }
      if (begin[row] == begin[row + 1]) continue;
      nucleus.build(x, in.vocab, top, in.temperature[row], in.top_p[row]);
      for (std::size_t i = begin[row]; i < begin[row + 1]; ++i) {
        const std::size_t m = order[i];
        out.tokens[m] = nucleus.draw(uniform(in.seeds[m], in.counters + 4 * m), out.logprobs + m);
      }
    }
  };
  const bool is_small = in.num_rows * in.vocab + 64 * in.num_draws < (std::size_t{1} << 17);
  parallel_for(in.num_rows, is_small || num_threads < 1 ? 1 : static_cast<std::size_t>(num_threads), rows);
}

template void sample(const SampleInput<float>&, int, const SampleOutput&);
template void sample(const SampleInput<BFloat16>&, int, const SampleOutput&);

}  // namespace fastsia
