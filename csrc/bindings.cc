// The core for Python. Batches cross as buffers; the work runs without the GIL.
#include "bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "activation.h"
#include "attention.h"
#include "extract_batch.h"
#include "sampling.h"
#include "stream.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

void require_offsets(const Array<std::int64_t>& offsets, std::int64_t size) {
  require(offsets.ndim() == 1 && offsets.size() >= 1, "offsets must have one entry more than there are rows");
  const std::int64_t* at = offsets.data();
  require(at[0] >= 0 && at[offsets.size() - 1] <= size, "offsets must be within the data");
  for (py::ssize_t i = 1; i < offsets.size(); ++i) require(at[i - 1] <= at[i], "offsets must not fall");
}

using VocabularyPointer = std::shared_ptr<fastsia::Vocabulary>;

VocabularyPointer make_vocabulary(const py::bytes& blob, const Array<std::int64_t>& offsets,
                                  const Array<std::uint8_t>& kinds, const py::bytes& joiner, std::size_t num_stripped,
                                  bool drops_first_spaces) {
  const std::string_view bytes(blob);
  require(bytes.size() <= UINT32_MAX, "a vocabulary may have at most 4 GiB of text");
  require_offsets(offsets, static_cast<std::int64_t>(bytes.size()));
  require(offsets.size() == kinds.size() + 1, "kinds must have one entry per token");
  return std::make_shared<fastsia::Vocabulary>(bytes, offsets.data(), kinds.data(),
                                               static_cast<std::size_t>(kinds.size()), std::string_view(joiner),
                                               num_stripped, drops_first_spaces);
}

fastsia::Spec make_spec(int format, const py::object& options, bool starts_in_think,
                        const std::vector<std::pair<py::bytes, py::bytes>>& think_tags, bool stop_texts,
                        bool expects_think) {
  require(format >= 0 && format <= 2, "format must be 0, 1 or 2");
  fastsia::Spec spec;
  spec.format = static_cast<fastsia::Format>(format);
  spec.starts_in_think = starts_in_think;
  spec.stop_texts = stop_texts;
  spec.expects_think = expects_think;
  for (const auto& [open, close] : think_tags) {
    spec.think_tags.emplace_back(open, close);
    require(!spec.think_tags.back().first.empty() && !spec.think_tags.back().second.empty(), "a mark is empty");
  }
  if (!options.is_none()) {
    std::vector<std::string> texts;
    for (const py::handle& option : options) texts.push_back(option.cast<std::string>());
    spec.set_options(texts);
  }
  return spec;
}

fastsia::Rows make_rows(const Array<std::int32_t>& ids, const Array<std::int64_t>& offsets) {
  require_offsets(offsets, ids.size());
  return {ids.data(), offsets.data(), static_cast<std::size_t>(offsets.size()) - 1};
}

py::object to_text(std::string_view bytes) {
  PyObject* text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<py::ssize_t>(bytes.size()), "replace");
  if (text == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(text);
}

// (strict, lenient)
std::pair<py::list, py::list> to_lists(const std::vector<fastsia::Answer>& answers) {
  py::list strict(answers.size()), lenient(answers.size());
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const auto& [one, other] = answers[i];
    strict[i] = one ? to_text(*one) : py::none();
    lenient[i] = one == other ? py::object(strict[i]) : other ? to_text(*other) : py::none();
  }
  return {strict, lenient};
}

std::pair<py::list, py::list> extract_texts(const py::bytes& blob, const Array<std::int64_t>& offsets,
                                            const std::vector<fastsia::Spec>& specs,
                                            const Array<std::int32_t>& spec_of_text, const Array<bool>& is_cut) {
  const std::string_view bytes(blob);
  require_offsets(offsets, static_cast<std::int64_t>(bytes.size()));
  const std::size_t count = static_cast<std::size_t>(offsets.size()) - 1;
  require(static_cast<std::size_t>(spec_of_text.size()) == count, "spec_of_text must have one entry per text");
  require(static_cast<std::size_t>(is_cut.size()) == count, "is_cut must have one entry per text");
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t spec = spec_of_text.data()[i];
    require(spec >= 0 && static_cast<std::size_t>(spec) < specs.size(), "spec_of_text must name one of the specs");
  }
  std::vector<fastsia::Answer> answers;
  {
    py::gil_scoped_release release;
    answers = fastsia::read_texts(bytes, offsets.data(), count, specs, spec_of_text.data(), is_cut.data());
  }
  return to_lists(answers);
}

std::pair<py::list, py::list> extract_rollouts(const fastsia::Vocabulary& vocabulary, const Array<std::int32_t>& prefix,
                                               const Array<std::int32_t>& prefix_lens, const Array<std::int32_t>& ids,
                                               const Array<std::int64_t>& offsets, const fastsia::Spec& spec,
                                               const Array<bool>& is_cut, std::size_t num_threads) {
  const fastsia::Rows rows = make_rows(ids, offsets);
  require(static_cast<std::size_t>(prefix_lens.size()) == rows.count, "prefix_lens must have one entry per row");
  require(static_cast<std::size_t>(is_cut.size()) == rows.count, "is_cut must have one entry per row");
  for (std::size_t r = 0; r < rows.count; ++r) {
    require(prefix_lens.data()[r] >= 0 && prefix_lens.data()[r] <= prefix.size(), "prefix_lens must fit the prefix");
  }
  std::vector<fastsia::Answer> answers;
  {
    py::gil_scoped_release release;
    answers =
        fastsia::read_rollouts(vocabulary, prefix.data(), prefix_lens.data(), rows, spec, is_cut.data(), num_threads);
  }
  return to_lists(answers);
}

py::list decode(const fastsia::Vocabulary& vocabulary, const Array<std::int32_t>& ids,
                const Array<std::int64_t>& offsets) {
  const fastsia::Rows rows = make_rows(ids, offsets);
  std::vector<std::string> texts;
  {
    py::gil_scoped_release release;
    texts = fastsia::decode(vocabulary, rows);
  }
  py::list result(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) result[i] = to_text(texts[i]);
  return result;
}

// The stream's calls take microseconds and change its slots: they keep the GIL.

py::object decided_at(const fastsia::AnswerStream& stream, int spec, const Array<std::int32_t>& ids) {
  const std::int64_t length = stream.decided_at(spec, ids.data(), static_cast<std::size_t>(ids.size()));
  return length < 0 ? py::object(py::none()) : py::object(py::int_(length));
}

py::array_t<bool> start(fastsia::AnswerStream& stream, const Array<std::int32_t>& slots, int spec,
                        const Array<std::int32_t>& prefix, const Array<std::int32_t>& prefix_lens) {
  require(slots.size() == prefix_lens.size(), "prefix_lens must have one entry per slot");
  for (py::ssize_t i = 0; i < prefix_lens.size(); ++i) {
    require(prefix_lens.data()[i] >= 0 && prefix_lens.data()[i] <= prefix.size(), "prefix_lens must fit the prefix");
  }
  py::array_t<bool> is_decided(slots.size());
  stream.start(slots.data(), static_cast<std::size_t>(slots.size()), spec, prefix.data(), prefix_lens.data(),
               is_decided.mutable_data());
  return is_decided;
}

void fork_slots(fastsia::AnswerStream& stream, const Array<std::int32_t>& from, const Array<std::int32_t>& to) {
  require(from.size() == to.size(), "fork needs as many slots to as from");
  stream.fork(from.data(), to.data(), static_cast<std::size_t>(from.size()));
}

py::array_t<bool> feed(fastsia::AnswerStream& stream, const Array<std::int32_t>& slots,
                       const Array<std::int32_t>& tokens) {
  require(slots.size() == tokens.size(), "feed needs one token for each slot");
  py::array_t<bool> is_decided(slots.size());
  stream.feed(slots.data(), tokens.data(), static_cast<std::size_t>(slots.size()), is_decided.mutable_data());
  return is_decided;
}

template <typename T>
using Contiguous = py::array_t<T, py::array::c_style>;

template <typename T>
using Strided = py::array_t<T, 0>;

// Elements as the core takes them: numpy has no bfloat16, so its bits come as uint16.
inline const float* elements(const float* x) { return x; }
inline float* elements(float* x) { return x; }
inline const fastsia::BFloat16* elements(const std::uint16_t* x) {
  return reinterpret_cast<const fastsia::BFloat16*>(x);
}
inline fastsia::BFloat16* elements(std::uint16_t* x) { return reinterpret_cast<fastsia::BFloat16*>(x); }

template <typename T>
using Element = std::conditional_t<std::is_same_v<T, float>, float, fastsia::BFloat16>;

// Steps between rows and between heads of [rows, heads, head_dim], in elements.
struct Steps {
  template <typename T>
  explicit Steps(const Strided<T>& array) {
    const auto of = [&](int axis) {
      require(array.strides(axis) >= 0 && array.strides(axis) % py::ssize_t{sizeof(T)} == 0, "a stride is odd");
      return static_cast<std::size_t>(array.strides(axis)) / sizeof(T);
    };
    require(array.ndim() == 3, "3 dimensions are needed: rows, heads, head_dim");
    require(array.shape(2) == 1 || array.strides(2) == py::ssize_t{sizeof(T)}, "a head must be contiguous");
    row = of(0), head = of(1);
  }
  std::size_t row, head;
};

// The caches are read in place, so nothing here is cast or copied: another dtype or layout is refused by pybind11.
template <typename T>
void attend(const Strided<T>& q, const Contiguous<T>& k_cache, const Contiguous<T>& v_cache,
            const Contiguous<std::int32_t>& prefix_tables, const Contiguous<std::int32_t>& cu_rows,
            const Contiguous<std::int32_t>& prefix_lens, const Contiguous<std::int32_t>& suffix_tables,
            const Contiguous<std::int32_t>& suffix_lens, float scale, std::int64_t sliding_window, float softcap,
            int num_threads, Contiguous<T>& out) {
  const Steps steps(q);
  require(k_cache.ndim() == 4 && v_cache.ndim() == 4, "a cache has 4 dimensions");
  require(prefix_tables.ndim() == 2 && suffix_tables.ndim() == 2, "block tables have 2 dimensions");
  const auto size = [](const py::array& array, int axis) { return static_cast<std::size_t>(array.shape(axis)); };
  const std::size_t rows = size(q, 0), num_blocks = size(k_cache, 0), block_size = size(k_cache, 1);
  require(out.size() == q.size() && v_cache.size() == k_cache.size() && size(k_cache, 3) == size(q, 2) &&
              size(q, 1) % size(k_cache, 2) == 0 && size(q, 2) <= fastsia::kMaxHeadDim,
          "q, caches and out do not fit together");
  require(size(cu_rows, 0) == size(prefix_tables, 0) + 1 && size(prefix_lens, 0) == rows &&
              size(suffix_lens, 0) == rows && size(suffix_tables, 0) == rows,
          "the metadata does not fit the rows");
  const fastsia::AttentionInput<Element<T>> in{elements(q.data()),
                                               steps.row,
                                               steps.head,
                                               elements(k_cache.data()),
                                               elements(v_cache.data()),
                                               rows,
                                               size(q, 1),
                                               size(k_cache, 2),
                                               size(q, 2),
                                               block_size,
                                               prefix_tables.data(),
                                               size(prefix_tables, 0),
                                               size(prefix_tables, 1),
                                               cu_rows.data(),
                                               prefix_lens.data(),
                                               suffix_tables.data(),
                                               size(suffix_tables, 1),
                                               suffix_lens.data(),
                                               scale,
                                               sliding_window,
                                               softcap};
  require(fastsia::reaches_only_blocks(in, num_blocks), "a length reaches past its table, or a table past the cache");
  Element<T>* to = elements(out.mutable_data());
  py::gil_scoped_release release;
  fastsia::prefix_attention(in, num_threads, to);
}

template <typename T>
void store(const Strided<T>& k, const Strided<T>& v, Contiguous<T>& k_cache, Contiguous<T>& v_cache,
           const Contiguous<std::int64_t>& slots) {
  const Steps k_steps(k), v_steps(v);
  const auto size = [](const py::array& array, int axis) { return static_cast<std::size_t>(array.shape(axis)); };
  require(k_cache.ndim() == 4 && v_cache.ndim() == 4, "a cache has 4 dimensions");
  for (int axis = 0; axis < 3; ++axis) require(k.shape(axis) == v.shape(axis), "k and v do not fit together");
  require(size(k_cache, 2) == size(k, 1) && size(k_cache, 3) == size(k, 2) && v_cache.size() == k_cache.size() &&
              size(slots, 0) == size(k, 0),
          "k, caches and slots do not fit together");
  const std::int64_t end = k_cache.shape(0) * k_cache.shape(1);
  for (py::ssize_t i = 0; i < slots.size(); ++i) require(slots.data()[i] < end, "a slot is past the end of the cache");
  const fastsia::StoreInput<Element<T>> in{elements(k.data()), k_steps.row,  k_steps.head,    elements(v.data()),
                                           v_steps.row,        v_steps.head, slots.data(),    size(k, 0),
                                           size(k, 1),         size(k, 2),   size(k_cache, 1)};
  fastsia::store_kv(in, elements(k_cache.mutable_data()), elements(v_cache.mutable_data()));
}

// logits are read in place; the small arrays may be cast. Returns (tokens, logprobs, entropy or None, bad).
template <typename T>
py::tuple sample(const Contiguous<T>& logits, const Array<std::int64_t>& draw_row, const Array<std::int64_t>& seeds,
                 const Array<std::int32_t>& counters, const Array<float>& temperature, const Array<float>& top_p,
                 bool want_entropy, int num_threads) {
  require(logits.ndim() == 2 && logits.shape(1) >= 1, "logits have 2 dimensions");
  const py::ssize_t num_rows = logits.shape(0), num_draws = draw_row.size();
  require(seeds.size() == num_draws && counters.ndim() == 2 && counters.shape(0) == num_draws && counters.shape(1) == 4,
          "seeds and counters have one entry per draw, of 1 and of 4 numbers");
  require(temperature.size() == num_rows && top_p.size() == num_rows, "temperature and top_p have one entry per row");
  for (py::ssize_t i = 0; i < num_draws; ++i)
    require(draw_row.data()[i] >= 0 && draw_row.data()[i] < num_rows, "draw_row names a row that is not there");
  py::array_t<std::int64_t> tokens(num_draws);
  py::array_t<float> logprobs(num_draws), entropy(want_entropy ? num_rows : 0);
  py::array_t<bool> bad(num_rows);
  const fastsia::SampleInput<Element<T>> in{elements(logits.data()),
                                            static_cast<std::size_t>(num_rows),
                                            static_cast<std::size_t>(logits.shape(1)),
                                            draw_row.data(),
                                            seeds.data(),
                                            counters.data(),
                                            static_cast<std::size_t>(num_draws),
                                            temperature.data(),
                                            top_p.data()};
  const fastsia::SampleOutput out{tokens.mutable_data(), logprobs.mutable_data(),
                                  want_entropy ? entropy.mutable_data() : nullptr, bad.mutable_data()};
  {
    py::gil_scoped_release release;
    fastsia::sample(in, num_threads, out);
  }
  return py::make_tuple(tokens, logprobs, want_entropy ? py::object(entropy) : py::none(), bad);
}

template <typename T>
void activate(const std::string& function, const Strided<T>& x, int num_threads, Contiguous<T>& out) {
  require(function == "silu" || function == "gelu_tanh", "the function must be silu or gelu_tanh");
  require(x.ndim() == 2 && out.ndim() == 2 && out.shape(0) == x.shape(0) && out.shape(1) == x.shape(1),
          "x and out have 2 dimensions and the same shape");
  require(x.shape(1) <= 1 || x.strides(1) == py::ssize_t{sizeof(T)}, "a row must be contiguous");
  require(x.strides(0) >= 0 && x.strides(0) % py::ssize_t{sizeof(T)} == 0, "a stride is odd");
  const auto rows = static_cast<std::size_t>(x.shape(0)), width = static_cast<std::size_t>(x.shape(1));
  const std::size_t stride = static_cast<std::size_t>(x.strides(0)) / sizeof(T);
  const auto* from = elements(x.data());
  auto* to = elements(out.mutable_data());
  py::gil_scoped_release release;
  fastsia::activate(function == "silu" ? fastsia::Activation::kSilu : fastsia::Activation::kGeluTanh, from, rows, width,
                    stride, num_threads, to);
}

// The ops on elements of one type; which of them runs follows from the arrays, since nothing is converted.
template <typename T>
void bind_ops(py::module_& m) {
  m.def("activate", &activate<T>, "function"_a, "x"_a.noconvert(), "num_threads"_a, "out"_a.noconvert());
  m.def("prefix_attention", &attend<T>, "q"_a.noconvert(), "k_cache"_a.noconvert(), "v_cache"_a.noconvert(),
        "prefix_tables"_a.noconvert(), "cu_rows"_a.noconvert(), "prefix_lens"_a.noconvert(),
        "suffix_tables"_a.noconvert(), "suffix_lens"_a.noconvert(), "scale"_a, "sliding_window"_a, "softcap"_a,
        "num_threads"_a, "out"_a.noconvert());
  m.def("store_kv", &store<T>, "k"_a.noconvert(), "v"_a.noconvert(), "k_cache"_a.noconvert(), "v_cache"_a.noconvert(),
        "slots"_a.noconvert());
  m.def("sample", &sample<T>, "logits"_a.noconvert(), "draw_row"_a, "seeds"_a, "counters"_a, "temperature"_a, "top_p"_a,
        "want_entropy"_a, "num_threads"_a);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled core of fastsia: answers from token ids, the engine's bookkeeping, and ops on a CPU.";

  py::class_<fastsia::Vocabulary, VocabularyPointer>(m, "Vocabulary")
      .def(py::init(&make_vocabulary), "blob"_a, "offsets"_a, "kinds"_a, "joiner"_a, "num_stripped"_a,
           "drops_first_spaces"_a)
      .def("decode", &decode, "token_ids"_a, "offsets"_a);

  py::class_<fastsia::Spec>(m, "Spec").def(py::init(&make_spec), "format"_a, "options"_a, "starts_in_think"_a,
                                           "think_tags"_a, "stop_texts"_a, "expects_think"_a);

  py::class_<fastsia::AnswerStream>(m, "AnswerStream")
      .def(py::init([](const VocabularyPointer& vocabulary) { return fastsia::AnswerStream(vocabulary); }),
           "vocabulary"_a)
      .def("open", &fastsia::AnswerStream::open, "spec"_a)
      .def("decided_at", &decided_at, "spec"_a, "token_ids"_a)
      .def("start", &start, "slots"_a, "spec"_a, "prefix_ids"_a, "prefix_lens"_a)
      .def("fork", &fork_slots, "src_slots"_a, "dst_slots"_a)
      .def("feed", &feed, "slots"_a, "tokens"_a);

  m.def("extract_texts", &extract_texts, "blob"_a, "offsets"_a, "specs"_a, "spec_of_text"_a, "is_cut"_a);
  m.def("extract_rollouts", &extract_rollouts, "vocabulary"_a, "prefix_ids"_a, "prefix_lens"_a, "token_ids"_a,
        "offsets"_a, "spec"_a, "is_cut"_a, "num_threads"_a);
  bind_ops<float>(m);
  bind_ops<std::uint16_t>(m);
  bind_step(m);
}
