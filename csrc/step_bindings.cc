// The step's bookkeeping for Python: it reads and writes the columns of the engine's tables in place.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "step.h"

namespace py = pybind11;

namespace {

template <typename T>
using Column = py::array_t<T, py::array::c_style>;

// A column's memory, which its table keeps alive.
template <typename T>
Column<T> array_of(const py::handle& table, const char* name) {
  py::object found = table.attr(name);
  if (!py::isinstance<Column<T>>(found)) throw py::type_error(std::string(name) + " has another dtype or layout");
  return py::reinterpret_steal<Column<T>>(found.release());
}

template <typename T>
T* column(const py::handle& table, const char* name) {
  return array_of<T>(table, name).mutable_data();
}

template <typename T = std::int32_t>
fastsia::Wide<T> lists(const py::handle& table, const char* name) {
  Column<T> found = array_of<T>(table, name);
  return {found.mutable_data(), static_cast<std::size_t>(found.shape(1))};
}

fastsia::FreeRows free_rows(const py::handle& table) {
  return {column<bool>(table, "live"), column<std::int32_t>(table, "_free"), 0};
}

std::size_t capacity(const py::handle& table) { return table.attr("capacity").cast<std::size_t>(); }

void view(const py::handle& t, fastsia::Trunks& out) {
  out = {capacity(t),
         column<bool>(t, "live"),
         column<std::int32_t>(t, "job"),
         column<std::int64_t>(t, "order"),
         column<std::int32_t>(t, "prompt_len"),
         column<std::int32_t>(t, "length"),
         column<std::int32_t>(t, "max_length"),
         column<std::int32_t>(t, "computed"),
         column<std::int32_t>(t, "high_water"),
         column<bool>(t, "fixed"),
         column<bool>(t, "passed"),
         column<std::int32_t>(t, "num_blocks"),
         column<std::int32_t>(t, "pending"),
         column<std::int64_t>(t, "seed"),
         column<std::int32_t>(t, "domain"),
         column<std::int32_t>(t, "num_hidden"),
         column<std::int32_t>(t, "answer_spec"),
         column<float>(t, "temperature"),
         column<float>(t, "top_p"),
         column<std::int32_t>(t, "rules"),
         column<std::int32_t>(t, "stop_state"),
         lists(t, "tokens"),
         lists(t, "blocks"),
         lists<float>(t, "logprobs"),
         lists<float>(t, "entropies")};
}

void view(const py::handle& t, fastsia::Branches& out) {
  out = {capacity(t),
         free_rows(t),
         column<std::int32_t>(t, "trunk"),
         column<std::int64_t>(t, "order"),
         column<std::int32_t>(t, "prefix_len"),
         column<std::int32_t>(t, "length"),
         column<std::int32_t>(t, "computed"),
         column<std::int32_t>(t, "high_water"),
         column<std::int32_t>(t, "node"),
         column<std::int32_t>(t, "token"),
         column<std::int32_t>(t, "num_blocks"),
         column<std::int32_t>(t, "stop_state"),
         lists(t, "blocks")};
}

void view(const py::handle& t, fastsia::Rollouts& out) {
  out = {column<std::int32_t>(t, "trunk"),  column<std::int32_t>(t, "checkpoint"), column<std::int32_t>(t, "index"),
         column<std::int32_t>(t, "length"), column<std::int32_t>(t, "limit"),      column<std::int32_t>(t, "node"),
         column<std::int32_t>(t, "branch"), column<std::int8_t>(t, "reason")};
}

void view(const py::handle& t, fastsia::Nodes& out) {
  out = {free_rows(t), column<std::int32_t>(t, "parent"), column<std::int32_t>(t, "token"), column<float>(t, "logprob"),
         column<std::int32_t>(t, "owner")};
}

// An attribute's name, interned once: looking one up by its letters takes longer than what is done with it.
class Name {
 public:
  explicit Name(const char* name) : name_(py::reinterpret_steal<py::object>(PyUnicode_InternFromString(name))) {}
  py::object of(const py::object& owner) const {
    PyObject* found = PyObject_GetAttr(owner.ptr(), name_.ptr());
    if (found == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(found);
  }
  std::int64_t number_of(const py::object& owner) const { return PyLong_AsLongLong(of(owner).ptr()); }
  void set(const py::object& owner, std::int64_t number) const { set(owner, py::int_(number)); }
  void set(const py::object& owner, const py::object& value) const {
    if (PyObject_SetAttr(owner.ptr(), name_.ptr(), value.ptr()) != 0) throw py::error_already_set();
  }

 private:
  py::object name_;
};

// A table of the tree and its columns' memory, looked up again whenever they have moved.
template <typename View>
class Seen {
 public:
  explicit Seen(py::object table) : table_(std::move(table)) {}
  const py::object& table() const { return table_; }
  View& operator()() {
    const std::int64_t moves = num_moves_.number_of(table_);
    if (moves != moves_) view(table_, view_);
    moves_ = moves;
    return view_;
  }

 private:
  py::object table_;
  View view_{};
  std::int64_t moves_ = -1;
  Name num_moves_{"num_moves"};
};

// An array that owns the vector's memory.
template <typename T>
py::array_t<T> to_array(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  const py::capsule owner(kept, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>({static_cast<py::ssize_t>(kept->size())}, kept->data(), owner);
}

template <typename T>
py::array_t<T> to_table(std::vector<T>&& values, std::size_t rows, std::size_t width) {
  auto* kept = new std::vector<T>(std::move(values));
  const py::capsule owner(kept, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(width)}, kept->data(), owner);
}

using Ints = Column<std::int32_t>;
using Longs = Column<std::int64_t>;

class Books {
 public:
  explicit Books(py::object tree)
      : tree_(std::move(tree)),
        trunks_(tree_.attr("trunks")),
        branches_(tree_.attr("branches")),
        rollouts_(tree_.attr("rollouts")),
        nodes_(tree_.attr("nodes")),
        pool_(tree_.attr("blocks")),
        blocks_{pool_.attr("block_size").cast<std::int32_t>(),
                pool_.attr("num_blocks").cast<std::int64_t>(),
                column<std::int32_t>(pool_, "_references"),
                column<std::int32_t>(pool_, "_free"),
                0,
                0} {}

  // (trunks, counts, branches, counts), or (row, is it a trunk's, blocks) where that many are not free.
  py::tuple select(std::int64_t max_num_seqs, std::int64_t max_num_batched_tokens) {
    fastsia::Blocks& blocks = take_blocks();
    fastsia::Selection found = fastsia::select(trunks_(), branches_(), blocks, max_num_seqs, max_num_batched_tokens);
    if (found.short_row >= 0) return py::make_tuple(found.short_row, found.short_is_trunk, found.short_blocks);
    widen(trunks_.table(), "blocks", trunks_().blocks.width, found.trunk_width);
    widen(branches_.table(), "blocks", branches_().blocks.width, found.branch_width);
    fastsia::give_blocks(found, trunks_(), branches_(), blocks);
    put_back(blocks);
    return py::make_tuple(to_array(std::move(found.trunks.rows)), to_array(std::move(found.trunks.counts)),
                          to_array(std::move(found.branches.rows)), to_array(std::move(found.branches.counts)));
  }

  // The fields of a Batch, in its order.
  py::tuple batch(const Ints& trunks, const Ints& trunk_counts, const Ints& branches, const Ints& branch_counts) {
    const fastsia::Trunks& all_trunks = trunks_();
    const fastsia::Branches& all_branches = branches_();
    fastsia::Layout out = fastsia::lay_out(all_trunks, all_branches, nodes_(), blocks_.block_size,
                                           chosen(trunks, trunk_counts, all_trunks.capacity),
                                           chosen(branches, branch_counts, all_branches.capacity));
    const std::size_t rows = out.token_ids.size(), num_trunks = out.cu_rows.size() - 1;
    const auto width = [this](std::int32_t tokens) {
      return static_cast<std::size_t>((tokens + blocks_.block_size - 1) / blocks_.block_size);
    };
    return py::make_tuple(
        to_array(std::move(out.token_ids)), to_array(std::move(out.positions)), to_array(std::move(out.slots)),
        to_table(std::move(out.trunk_tables), num_trunks, width(out.max_prefix_len)), to_array(std::move(out.cu_rows)),
        to_array(std::move(out.prefix_lens)), to_table(std::move(out.suffix_tables), rows, width(out.max_suffix_len)),
        to_array(std::move(out.suffix_lens)), out.max_prefix_len, out.max_suffix_len, out.max_rows,
        to_array(std::move(out.trunk_last)), to_array(std::move(out.branch_last)), to_array(std::move(out.hidden_rows)),
        to_array(std::move(out.hidden_trunk)), to_array(std::move(out.hidden_position)));
  }

  // The fields of a RowCounts, in its order.
  py::tuple mark_computed(const Ints& trunks, const Ints& trunk_counts, const Ints& branches,
                          const Ints& branch_counts) {
    const fastsia::Trunks& all_trunks = trunks_();
    const fastsia::Branches& all_branches = branches_();
    const fastsia::RowCounts counted =
        fastsia::mark_computed(all_trunks, all_branches, chosen(trunks, trunk_counts, all_trunks.capacity),
                               chosen(branches, branch_counts, all_branches.capacity));
    return py::make_tuple(counted.computed_tokens, counted.trajectory_tokens, counted.prefill_tokens,
                          counted.recomputed_tokens);
  }

  // The fields of a Draws, in its order.
  py::tuple draws(const Ints& trunks, const Ints& trunk_counts, const Ints& branches, const Ints& branch_counts,
                  const Longs& trunk_last, const Longs& branch_last, std::int32_t domain) {
    const fastsia::Trunks& all_trunks = trunks_();
    const fastsia::Branches& all_branches = branches_();
    const auto riding = riding_.of(tree_).cast<Ints>();
    fastsia::Draws out = fastsia::draws(
        all_trunks, all_branches, rollouts_(), riding.data(), static_cast<std::size_t>(riding.size()),
        chosen(trunks, trunk_counts, all_trunks.capacity), chosen(branches, branch_counts, all_branches.capacity),
        trunk_last.data(), branch_last.data(), domain);
    const std::size_t num_draws = out.row.size();
    return py::make_tuple(to_array(std::move(out.trunk)), to_array(std::move(out.branch)),
                          to_array(std::move(out.rollout)), to_array(std::move(out.hidden_row)),
                          to_array(std::move(out.row)), to_array(std::move(out.seeds)),
                          to_table(std::move(out.counters), num_draws, 4), to_array(std::move(out.temperature)),
                          to_array(std::move(out.top_p)));
  }

  // rules: (is_eos bool [ids], table int16 [states, ids] or None, matched state) each. Returns (src, dst, ended).
  py::tuple split(const std::vector<py::tuple>& rules, fastsia::AnswerStream* stream, const Ints& branch,
                  const Longs& row, const Ints& rollout, const Longs& tokens, const Column<float>& logprobs) {
    const py::ssize_t num_draws = rollout.size();
    if (row.size() != num_draws || tokens.size() != num_draws || logprobs.size() != num_draws)
      throw py::value_error("row, rollout, tokens and logprobs must have one length");
    for (py::ssize_t i = 0; i < num_draws; ++i)
      if (row.data()[i] < 0 || row.data()[i] >= branch.size()) throw py::value_error("a row has no branch");
    branches_.table().attr("reserve")(num_draws);
    nodes_.table().attr("reserve")(num_draws);
    const std::vector<fastsia::Stops> stops = stops_of(rules, tokens);
    fastsia::Branches& branches = branches_();
    fastsia::Nodes& nodes = nodes_();
    fastsia::Blocks& blocks = take_blocks();
    branches.free.count = num_free_.number_of(branches_.table());
    nodes.free.count = num_free_.number_of(nodes_.table());
    const auto riding = riding_.of(tree_).cast<Ints>();
    fastsia::Split out = fastsia::split(trunks_(), branches, rollouts_(), nodes, blocks, stops, stream, branch.data(),
                                        static_cast<std::size_t>(branch.size()), row.data(), rollout.data(),
                                        tokens.data(), logprobs.data(), static_cast<std::size_t>(num_draws),
                                        riding.data(), static_cast<std::size_t>(riding.size()));
    num_free_.set(branches_.table(), branches.free.count);
    num_free_.set(nodes_.table(), nodes.free.count);
    put_back(blocks);
    riding_.set(tree_, to_array(std::move(out.riding)));
    return py::make_tuple(to_array(std::move(out.src)), to_array(std::move(out.dst)), to_array(std::move(out.ended)));
  }

  // The trunks that end, and of what.
  py::tuple append(const std::vector<py::tuple>& rules, const Ints& trunk, const Longs& tokens,
                   const Column<float>& logprobs, const Column<float>& entropies) {
    const fastsia::Chosen rows = chosen(trunk, trunk, trunks_().capacity);
    if (tokens.size() != trunk.size() || logprobs.size() != trunk.size() || entropies.size() != trunk.size())
      throw py::value_error("trunk, tokens, logprobs and entropies must have one length");
    std::int32_t length = 0, drawn = 0;
    const fastsia::Trunks& all = trunks_();
    for (std::size_t i = 0; i < rows.size; ++i) {
      length = std::max(length, all.length[rows.rows[i]] + 1);
      drawn = std::max(drawn, all.length[rows.rows[i]] + 1 - all.prompt_len[rows.rows[i]]);
    }
    widen(trunks_.table(), "tokens", all.tokens.width, length);
    widen(trunks_.table(), "logprobs", all.logprobs.width, drawn);
    widen(trunks_.table(), "entropies", all.entropies.width, drawn);
    fastsia::Ended out = fastsia::append(trunks_(), stops_of(rules, tokens), rows.rows, tokens.data(), logprobs.data(),
                                         entropies.data(), rows.size);
    return py::make_tuple(to_array(std::move(out.rows)), to_array(std::move(out.reasons)));
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
      if (largest >= is_eos.size()) throw py::value_error("a token lies outside of the vocabulary");
      stops.push_back({is_eos.data(), nullptr, static_cast<std::size_t>(is_eos.size()), rule[2].cast<std::int32_t>()});
      if (!rule[1].is_none()) stops.back().table = rule[1].cast<Column<std::int16_t>>().data();
    }
    return stops;
  }

  static fastsia::Chosen chosen(const Ints& rows, const Ints& counts, std::size_t capacity) {
    if (rows.size() != counts.size()) throw py::value_error("rows and counts must have one length");
    for (py::ssize_t i = 0; i < rows.size(); ++i)
      if (rows.data()[i] < 0 || static_cast<std::size_t>(rows.data()[i]) >= capacity)
        throw py::value_error("a row lies outside of its table");
    return {rows.data(), counts.data(), static_cast<std::size_t>(rows.size())};
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
  Seen<fastsia::Trunks> trunks_;
  Seen<fastsia::Branches> branches_;
  Seen<fastsia::Rollouts> rollouts_;
  Seen<fastsia::Nodes> nodes_;
  py::object pool_;
  fastsia::Blocks blocks_;
  Name num_free_{"_num_free"}, peak_used_{"peak_used"}, riding_{"riding"};
};

}  // namespace

void bind_step(py::module_& m) {
  py::class_<Books>(m, "Books")
      .def(py::init<py::object>(), py::arg("tree"))
      .def("select", &Books::select, py::arg("max_num_seqs"), py::arg("max_num_batched_tokens"))
      .def("batch", &Books::batch, py::arg("trunks").noconvert(), py::arg("trunk_counts").noconvert(),
           py::arg("branches").noconvert(), py::arg("branch_counts").noconvert())
      .def("mark_computed", &Books::mark_computed, py::arg("trunks").noconvert(), py::arg("trunk_counts").noconvert(),
           py::arg("branches").noconvert(), py::arg("branch_counts").noconvert())
      .def("draws", &Books::draws, py::arg("trunks").noconvert(), py::arg("trunk_counts").noconvert(),
           py::arg("branches").noconvert(), py::arg("branch_counts").noconvert(), py::arg("trunk_last").noconvert(),
           py::arg("branch_last").noconvert(), py::arg("domain"))
      .def("append", &Books::append, py::arg("rules"), py::arg("trunk").noconvert(), py::arg("tokens").noconvert(),
           py::arg("logprobs").noconvert(), py::arg("entropies").noconvert())
      .def("split", &Books::split, py::arg("rules"), py::arg("stream").none(true), py::arg("branch").noconvert(),
           py::arg("row").noconvert(), py::arg("rollout").noconvert(), py::arg("tokens").noconvert(),
           py::arg("logprobs").noconvert());
}
