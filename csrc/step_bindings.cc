// The bookkeeping of a step for Python: it reads and writes the columns of the engine's tables in place.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings.h"
#include "step.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

template <typename T>
using Column = py::array_t<T, py::array::c_style>;
using Ints = Column<std::int32_t>;
using Longs = Column<std::int64_t>;

// An array by its name, with the dtype T and `ndim` dimensions; its owner keeps it alive.
template <typename T>
Column<std::remove_const_t<T>> array_of(const py::handle& owner, const char* name, py::ssize_t ndim = 1) {
  using Array = Column<std::remove_const_t<T>>;
  const py::object found = owner.attr(name);
  if (py::isinstance<Array>(found) && py::reinterpret_borrow<Array>(found).ndim() == ndim)
    return py::reinterpret_borrow<Array>(found);
  const py::object dtype = py::dtype::of<std::remove_const_t<T>>();
  throw py::type_error(std::string(name) + " must be a contiguous array of " + std::string(py::str(dtype)) + " with " +
                       std::to_string(ndim) + " dimension(s)");
}

template <typename T>
T* column(const py::handle& table, const char* name) {
  return array_of<T>(table, name).mutable_data();
}

template <typename T>
fastsia::Array2D<T> lists(const py::handle& table, const char* name) {
  auto found = array_of<T>(table, name, 2);
  return {found.mutable_data(), static_cast<std::size_t>(found.shape(1))};
}

#define BIND_COLUMN(type, name) out.name = column<type>(table, #name);
#define BIND_LIST(type, name) out.name = lists<type>(table, #name);
#define BIND_TABLE(View, columns)                                                          \
  void bind(const py::handle& table, fastsia::View& out) {                                 \
    out.capacity = table.attr("capacity").cast<std::size_t>();                             \
    out.free = {column<bool>(table, "live"), column<std::int32_t>(table, "free_list"), 0}; \
    columns(BIND_COLUMN, BIND_LIST)                                                        \
  }

BIND_TABLE(Trunks, FASTSIA_TRUNK_COLUMNS)
BIND_TABLE(Branches, FASTSIA_BRANCH_COLUMNS)
BIND_TABLE(Rollouts, FASTSIA_ROLLOUT_COLUMNS)
BIND_TABLE(Nodes, FASTSIA_NODE_COLUMNS)

// An attribute of Python objects by its interned name: making the name again takes longer than the look-up.
class InternedName {
 public:
  explicit InternedName(const char* name)
      : name_(py::reinterpret_steal<py::object>(PyUnicode_InternFromString(name))) {}
  std::int64_t number_of(const py::object& owner) const { return owner.attr(name_).cast<std::int64_t>(); }
  Ints ints_of(const py::object& owner) const { return owner.attr(name_).cast<Ints>(); }
  template <typename T>
  void set(const py::object& owner, const T& value) const {
    owner.attr(name_) = value;
  }

 private:
  py::object name_;
};

// A table of the tree with its columns' memory, bound again whenever the columns have moved.
template <typename View>
class CachedView {
 public:
  explicit CachedView(py::object table) : table_(std::move(table)) {}
  const py::object& table() const { return table_; }
  View& operator()() {
    const std::int64_t moves = num_moves_.number_of(table_);
    if (moves != moves_) bind(table_, view_);
    moves_ = moves;
    return view_;
  }

 private:
  py::object table_;
  View view_{};
  std::int64_t moves_ = -1;
  InternedName num_moves_{"num_moves"};
};

// An array that owns the vector's memory.
template <typename T>
py::array_t<T> to_array(std::vector<T>&& values, std::vector<py::ssize_t> shape = {}) {
  auto* kept = new std::vector<T>(std::move(values));
  const py::capsule owner(kept, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  if (shape.empty()) shape = {static_cast<py::ssize_t>(kept->size())};
  return py::array_t<T>(std::move(shape), kept->data(), owner);
}

// One kind of sequence in a `Selection` of fastsia/engine/step.py.
class SelectedArrays {
 public:
  SelectedArrays(const py::object& selection, const char* slots, const char* counts, std::size_t capacity)
      : slots_(array_of<std::int32_t>(selection, slots)), counts_(array_of<std::int32_t>(selection, counts)) {
    if (slots_.size() != counts_.size()) throw py::value_error("slots and counts must have one length");
    check(slots_, capacity);
  }
  operator fastsia::SlotSelection() const {
    return {slots_.data(), counts_.data(), static_cast<std::size_t>(slots_.size())};
  }
  static void check(const Ints& slots, std::size_t capacity) {
    for (py::ssize_t i = 0; i < slots.size(); ++i)
      if (slots.data()[i] < 0 || static_cast<std::size_t>(slots.data()[i]) >= capacity)
        throw py::value_error("a slot is outside of its table");
  }

 private:
  Ints slots_, counts_;
};

class StepTables {
 public:
  explicit StepTables(py::object tree)
      : tree_(std::move(tree)),
        trunks_(tree_.attr("trunks")),
        branches_(tree_.attr("branches")),
        rollouts_(tree_.attr("rollouts")),
        nodes_(tree_.attr("nodes")),
        pool_(tree_.attr("blocks")),
        blocks_{pool_.attr("block_size").cast<std::int32_t>(),
                pool_.attr("num_blocks").cast<std::int64_t>(),
                column<std::int32_t>(pool_, "reference_counts"),
                column<std::int32_t>(pool_, "free_list"),
                0,
                0} {
    trunks_(), branches_(), rollouts_(), nodes_();
  }

  // The fields of a Selection, or those of a Shortage.
  py::dict select(std::int64_t max_num_seqs, std::int64_t max_num_batched_tokens) {
    fastsia::Blocks& blocks = take_blocks();
    fastsia::Selection found = fastsia::select(trunks_(), branches_(), blocks, max_num_seqs, max_num_batched_tokens);
    if (found.short_slot >= 0)
      return py::dict("slot"_a = found.short_slot, "is_trunk"_a = found.short_is_trunk,
                      "blocks"_a = found.short_blocks);
    widen(trunks_.table(), "blocks", trunks_().blocks.width, found.trunk_width);
    widen(branches_.table(), "blocks", branches_().blocks.width, found.branch_width);
    fastsia::give_blocks(found, trunks_(), branches_(), blocks);
    put_back(blocks);
    return py::dict("trunks"_a = to_array(std::move(found.trunks.slots)),
                    "trunk_counts"_a = to_array(std::move(found.trunks.counts)),
                    "branches"_a = to_array(std::move(found.branches.slots)),
                    "branch_counts"_a = to_array(std::move(found.branches.counts)));
  }

  // The fields of a Batch.
  py::dict batch(const py::object& selection) {
    fastsia::Layout out = fastsia::lay_out(trunks_(), branches_(), nodes_(), blocks_.block_size,
                                           selected_trunks(selection), selected_branches(selection));
    const auto rows = static_cast<py::ssize_t>(out.token_ids.size());
    const auto prefixes = static_cast<py::ssize_t>(out.cu_rows.size()) - 1;
    const auto width = [this](std::int32_t tokens) -> py::ssize_t {
      return (tokens + blocks_.block_size - 1) / blocks_.block_size;
    };
    return py::dict(
        "token_ids"_a = to_array(std::move(out.token_ids)), "positions"_a = to_array(std::move(out.positions)),
        "slots"_a = to_array(std::move(out.slots)),
        "prefix_tables"_a = to_array(std::move(out.prefix_tables), {prefixes, width(out.max_prefix_len)}),
        "cu_rows"_a = to_array(std::move(out.cu_rows)), "prefix_lens"_a = to_array(std::move(out.prefix_lens)),
        "suffix_tables"_a = to_array(std::move(out.suffix_tables), {rows, width(out.max_suffix_len)}),
        "suffix_lens"_a = to_array(std::move(out.suffix_lens)), "max_prefix_len"_a = out.max_prefix_len,
        "max_suffix_len"_a = out.max_suffix_len, "max_rows_per_prefix"_a = out.max_rows_per_prefix,
        "trunk_last"_a = to_array(std::move(out.trunk_last)), "branch_last"_a = to_array(std::move(out.branch_last)),
        "hidden_rows"_a = to_array(std::move(out.hidden_rows)),
        "hidden_trunk"_a = to_array(std::move(out.hidden_trunk)),
        "hidden_position"_a = to_array(std::move(out.hidden_position)));
  }

  // The fields of a RowCounts.
  py::dict mark_computed(const py::object& selection) {
    const fastsia::RowCounts counted =
        fastsia::mark_computed(trunks_(), branches_(), selected_trunks(selection), selected_branches(selection));
    return py::dict("computed_tokens"_a = counted.computed_tokens, "trajectory_tokens"_a = counted.trajectory_tokens,
                    "prefill_tokens"_a = counted.prefill_tokens, "recomputed_tokens"_a = counted.recomputed_tokens);
  }

  // The fields of a DrawPlan, those of its DrawSpec apart.
  std::pair<py::dict, py::dict> plan_draws(const py::object& selection, const Longs& trunk_last,
                                           const Longs& branch_last, std::int32_t domain) {
    const SelectedArrays trunks = selected_trunks(selection), branches = selected_branches(selection);
    const fastsia::SlotSelection of_trunks = trunks, of_branches = branches;
    if (static_cast<std::size_t>(trunk_last.size()) != of_trunks.size ||
        static_cast<std::size_t>(branch_last.size()) != of_branches.size)
      throw py::value_error("trunk_last and branch_last must have one entry per selected sequence");
    const Ints decoding = decoding_.ints_of(tree_);
    fastsia::DrawPlan out = fastsia::plan_draws(trunks_(), branches_(), rollouts_(), decoding.data(),
                                                static_cast<std::size_t>(decoding.size()), of_trunks, of_branches,
                                                trunk_last.data(), branch_last.data(), domain);
    const auto num_draws = static_cast<py::ssize_t>(out.row.size());
    const bool want_entropy = !out.trunk.empty();
    return {
        py::dict("trunk"_a = to_array(std::move(out.trunk)), "branch"_a = to_array(std::move(out.branch)),
                 "rollout"_a = to_array(std::move(out.rollout)), "hidden_row"_a = to_array(std::move(out.hidden_row))),
        py::dict("row"_a = to_array(std::move(out.row)), "seeds"_a = to_array(std::move(out.seeds)),
                 "counters"_a = to_array(std::move(out.counters), {num_draws, 4}),
                 "temperature"_a = to_array(std::move(out.temperature)), "top_p"_a = to_array(std::move(out.top_p)),
                 "want_entropy"_a = want_entropy)};
  }

  // rules: (is_eos bool [ids], table int16 [states, ids] or None, matched state) each. The fields of a Forks.
  py::dict split(const std::vector<py::tuple>& rules, fastsia::AnswerStream* stream, const Ints& branch,
                 const Longs& row, const Ints& rollout, const Longs& tokens, const Column<float>& logprobs) {
    const py::ssize_t num_draws = rollout.size();
    if (row.size() != num_draws || tokens.size() != num_draws || logprobs.size() != num_draws)
      throw py::value_error("row, rollout, tokens and logprobs must have one length");
    for (py::ssize_t i = 0; i < num_draws; ++i)
      if (row.data()[i] < 0 || row.data()[i] >= branch.size()) throw py::value_error("row must be an index of branch");
    branches_.table().attr("reserve")(num_draws);
    nodes_.table().attr("reserve")(num_draws);
    const std::vector<fastsia::Stops> stops = stops_of(rules, tokens);
    fastsia::Branches& branches = branches_();
    fastsia::Nodes& nodes = nodes_();
    fastsia::Blocks& blocks = take_blocks();
    branches.free.count = num_free_.number_of(branches_.table());
    nodes.free.count = num_free_.number_of(nodes_.table());
    const auto decoding = decoding_.ints_of(tree_);
    fastsia::Split out = fastsia::split(trunks_(), branches, rollouts_(), nodes, blocks, stops, stream, branch.data(),
                                        static_cast<std::size_t>(branch.size()), row.data(), rollout.data(),
                                        tokens.data(), logprobs.data(), static_cast<std::size_t>(num_draws),
                                        decoding.data(), static_cast<std::size_t>(decoding.size()));
    num_free_.set(branches_.table(), branches.free.count);
    num_free_.set(nodes_.table(), nodes.free.count);
    put_back(blocks);
    decoding_.set(tree_, to_array(std::move(out.decoding)));
    return py::dict("src"_a = to_array(std::move(out.src)), "dst"_a = to_array(std::move(out.dst)),
                    "ended"_a = to_array(std::move(out.ended)));
  }

  // The trunks that end, and why.
  py::tuple append(const std::vector<py::tuple>& rules, const Ints& trunk, const Longs& tokens,
                   const Column<float>& logprobs, const Column<float>& entropies) {
    SelectedArrays::check(trunk, trunks_().capacity);
    if (tokens.size() != trunk.size() || logprobs.size() != trunk.size() || entropies.size() != trunk.size())
      throw py::value_error("trunk, tokens, logprobs and entropies must have one length");
    std::int32_t length = 0, drawn = 0;
    const fastsia::Trunks& all = trunks_();
    for (py::ssize_t i = 0; i < trunk.size(); ++i) {
      const std::int32_t t = trunk.data()[i];
      length = std::max(length, all.length[t] + 1);
      drawn = std::max(drawn, all.length[t] + 1 - all.origin[t]);
    }
    widen(trunks_.table(), "tokens", all.tokens.width, length);
    widen(trunks_.table(), "logprobs", all.logprobs.width, drawn);
    widen(trunks_.table(), "entropies", all.entropies.width, drawn);
    fastsia::Ended out = fastsia::append(trunks_(), stops_of(rules, tokens), trunk.data(), tokens.data(),
                                         logprobs.data(), entropies.data(), static_cast<std::size_t>(trunk.size()));
    return py::make_tuple(to_array(std::move(out.slots)), to_array(std::move(out.reasons)));
  }

 private:
  static void widen(const py::object& table, const char* name, std::size_t width, std::int64_t wanted) {
    if (static_cast<std::int64_t>(width) < wanted) table.attr("widen")(name, wanted);
  }

  static std::vector<fastsia::Stops> stops_of(const std::vector<py::tuple>& rules, const Longs& tokens) {
    std::int64_t largest = -1;
    for (py::ssize_t i = 0; i < tokens.size(); ++i) largest = std::max(largest, tokens.data()[i]);
    std::vector<fastsia::Stops> stops;
    for (const py::tuple& rule : rules) {
      const auto is_eos = rule[0].cast<Column<bool>>();
      if (largest >= is_eos.size()) throw py::value_error("a token is outside of the vocabulary");
      stops.push_back({is_eos.data(), nullptr, static_cast<std::size_t>(is_eos.size()), rule[2].cast<std::int32_t>()});
      if (!rule[1].is_none()) stops.back().table = rule[1].cast<Column<std::int16_t>>().data();
    }
    return stops;
  }

  SelectedArrays selected_trunks(const py::object& selection) {
    return {selection, "trunks", "trunk_counts", trunks_().capacity};
  }

  SelectedArrays selected_branches(const py::object& selection) {
    return {selection, "branches", "branch_counts", branches_().capacity};
  }

  fastsia::Blocks& take_blocks() {
    blocks_.num_free = num_free_.number_of(pool_);
    blocks_.peak_used = peak_used_.number_of(pool_);
    return blocks_;
  }

  void put_back(const fastsia::Blocks& blocks) {
    num_free_.set(pool_, blocks.num_free);
    peak_used_.set(pool_, blocks.peak_used);
  }

  py::object tree_;
  CachedView<fastsia::Trunks> trunks_;
  CachedView<fastsia::Branches> branches_;
  CachedView<fastsia::Rollouts> rollouts_;
  CachedView<fastsia::Nodes> nodes_;
  py::object pool_;
  fastsia::Blocks blocks_;
  InternedName num_free_{"num_free"}, peak_used_{"peak_used"}, decoding_{"decoding"};
};

}  // namespace

void bind_step(py::module_& m) {
  py::class_<StepTables>(m, "StepTables")
      .def(py::init<py::object>(), "tree"_a)
      .def("select", &StepTables::select, "max_num_seqs"_a, "max_num_batched_tokens"_a)
      .def("batch", &StepTables::batch, "selection"_a)
      .def("mark_computed", &StepTables::mark_computed, "selection"_a)
      .def("plan_draws", &StepTables::plan_draws, "selection"_a, "trunk_last"_a.noconvert(),
           "branch_last"_a.noconvert(), "domain"_a)
      .def("append", &StepTables::append, "rules"_a, "trunk"_a.noconvert(), "tokens"_a.noconvert(),
           "logprobs"_a.noconvert(), "entropies"_a.noconvert())
      .def("split", &StepTables::split, "rules"_a, py::arg("stream").none(true), "branch"_a.noconvert(),
           "row"_a.noconvert(), "rollout"_a.noconvert(), "tokens"_a.noconvert(), "logprobs"_a.noconvert());
}
