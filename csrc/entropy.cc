#include "entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace fastsia {
namespace {

// -sum p ln p with p = c / n.
double plugin(const std::vector<std::int64_t>& counts, double n) {
  double h = 0.0;
  for (const std::int64_t c : counts) {
    const double p = static_cast<double>(c) / n;
    h -= p * std::log(p);
  }
  return std::max(h, 0.0);
}

// Chao and Shen (2003): coverage-adjusted Horvitz-Thompson sum. With singletons only, the coverage would be 0;
// one singleton is then not counted, which leaves 1 / n.
double chao_shen(const std::vector<std::int64_t>& counts, double n) {
  std::int64_t singletons = std::count(counts.begin(), counts.end(), 1);
  if (static_cast<double>(singletons) == n) singletons -= 1;
  const double coverage = 1.0 - static_cast<double>(singletons) / n;
  double h = 0.0;
  for (const std::int64_t c : counts) {
    const double p = coverage * static_cast<double>(c) / n;
    const double seen = -std::expm1(n * std::log1p(-p));
    h -= p * std::log(p) / seen;
  }
  return std::max(h, 0.0);
}

}  // namespace

void summarize(const std::int32_t* codes, const std::int64_t* offsets, std::size_t num_groups, const std::int32_t* gold,
               const std::int32_t* num_answers, double alpha, const AnswerSummary& out) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<std::pair<std::int32_t, std::int64_t>> order;  // (code, place in the group)
  std::vector<std::int64_t> counts;
  for (std::size_t g = 0; g < num_groups; ++g) {
    const std::int64_t begin = offsets[g];
    const std::int64_t size = offsets[g + 1] - begin;
    order.clear();
    for (std::int64_t i = 0; i < size; ++i) order.emplace_back(codes[begin + i], i);
    std::sort(order.begin(), order.end());

    counts.clear();
    std::int32_t mode = -1;
    std::int64_t mode_count = 0, mode_first = 0, gold_count = 0, null_count = 0;
    for (std::size_t i = 0; i < order.size();) {
      std::size_t end = i;
      while (end < order.size() && order[end].first == order[i].first) ++end;
      const std::int64_t c = static_cast<std::int64_t>(end - i);
      counts.push_back(c);
      if (order[i].first == gold[g]) gold_count = c;
      if (order[i].first == -1) null_count = c;
      if (c > mode_count || (c == mode_count && order[i].second < mode_first)) {
        mode = order[i].first;
        mode_count = c;
        mode_first = order[i].second;
      }
      i = end;
    }

    const double n = static_cast<double>(size);
    const double num_distinct = static_cast<double>(counts.size());
    const double h = size > 0 ? plugin(counts, n) : nan;
    out.count[g] = size;
    out.entropy[g] = h;
    out.entropy_miller_madow[g] = size > 0 ? h + (num_distinct - 1.0) / (2.0 * n) : nan;
    out.entropy_chao_shen[g] = size > 0 ? chao_shen(counts, n) : nan;
    out.gold_surprisal[g] = -std::log((static_cast<double>(gold_count) + alpha) / (n + alpha * num_answers[g]));
    out.gold_count[g] = gold_count;
    out.null_count[g] = null_count;
    out.mode[g] = mode;
    out.num_distinct[g] = static_cast<std::int64_t>(counts.size());
  }
}

}  // namespace fastsia
