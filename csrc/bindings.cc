// The only file that knows Python. Batches cross as buffers; the work runs without the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

#include "entropy.h"

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

void require_offsets(const Array<std::int64_t>& offsets, std::int64_t size) {
  require(offsets.ndim() == 1 && offsets.size() >= 1, "offsets must have one entry more than there are rows");
  const std::int64_t* at = offsets.data();
  require(at[0] >= 0 && at[offsets.size() - 1] <= size, "offsets must lie inside the data");
  for (py::ssize_t i = 1; i < offsets.size(); ++i) require(at[i - 1] <= at[i], "offsets must not fall");
}

py::dict summarize(const Array<std::int32_t>& codes, const Array<std::int64_t>& offsets,
                   const Array<std::int32_t>& gold, const Array<std::int32_t>& num_answers, double alpha) {
  require_offsets(offsets, codes.size());
  const py::ssize_t num_groups = offsets.size() - 1;
  require(gold.size() == num_groups && num_answers.size() == num_groups, "gold and num_answers have one entry a group");
  py::array_t<std::int64_t> count(num_groups), gold_count(num_groups), null_count(num_groups), num_distinct(num_groups);
  py::array_t<double> entropy(num_groups), miller_madow(num_groups), chao_shen(num_groups), surprisal(num_groups);
  py::array_t<std::int32_t> mode(num_groups);
  const fastsia::AnswerSummary out{count.mutable_data(),        entropy.mutable_data(),   miller_madow.mutable_data(),
                                   chao_shen.mutable_data(),    surprisal.mutable_data(), gold_count.mutable_data(),
                                   null_count.mutable_data(),   mode.mutable_data(),      num_distinct.mutable_data()};
  {
    py::gil_scoped_release release;
    fastsia::summarize(codes.data(), offsets.data(), static_cast<std::size_t>(num_groups), gold.data(),
                       num_answers.data(), alpha, out);
  }
  py::dict result;
  result["count"] = count;
  result["entropy"] = entropy;
  result["entropy_miller_madow"] = miller_madow;
  result["entropy_chao_shen"] = chao_shen;
  result["gold_surprisal"] = surprisal;
  result["gold_count"] = gold_count;
  result["null_count"] = null_count;
  result["mode"] = mode;
  result["num_distinct"] = num_distinct;
  return result;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled core of fastsia: answers from token ids, and their entropies.";
  m.def("summarize", &summarize, py::arg("codes"), py::arg("offsets"), py::arg("gold"), py::arg("num_answers"),
        py::arg("alpha"));
}
