// Says, token by token, when no continuation can change an answer any more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "answer.h"
#include "vocabulary.h"

namespace fastsia {

// One growing text. It is settled once the marker that its task asks for has a value whose end is in sight: then it
// reads the same in every longer text, as the first such occurrence. Inside of a think block nothing settles, behind a
// stop text, or behind a closing mark whose block nobody opened, nothing can.
class Settler {
 public:
  explicit Settler(const Spec& spec);

  // The bytes read but not yet dealt with; new ones are appended here before `advance`.
  std::string& tail() { return tail_; }

  // Reads on. Returns whether the text is settled.
  bool advance(const Spec& spec);

 private:
  enum class State : std::uint8_t { kOpening, kInThink, kReading, kSettled, kNever };

  void read_opening(const Spec& spec);
  void read_think(const Spec& spec);
  void read_on(const Spec& spec);

  State state_;
  bool has_closed_ = false;    // a think block
  std::size_t block_ = kNone;  // the open block's tags; kNone where the prompt opened it: any mark closes it
  std::string tail_;
  std::size_t next_marker_ = 0;  // no marker that could settle the text begins before this byte of the tail
  std::size_t next_stop_ = 0;     // no stop text begins before this byte
  std::size_t next_closing_ = 0;  // no closing mark begins before this byte
};

// Many texts ("slots"), fed with tokens.
class AnswerStream {
 public:
  explicit AnswerStream(std::shared_ptr<const Vocabulary> vocabulary) : vocabulary_(std::move(vocabulary)) {}

  // A new spec; returns its number.
  int open(Spec spec);

  // The smallest number of ids after which the text is settled; -1 where it is not. The spec must be open.
  std::int64_t settled_at(int spec, const std::int32_t* ids, std::size_t size) const;

  // Slot slots[i] begins anew and has read prefix[:lens[i]]. is_settled[i] says whether that is settled.
  void start(const std::int32_t* slots, std::size_t num_slots, int spec, const std::int32_t* prefix,
             const std::int32_t* lens, bool* is_settled);

  // Slot to[i] has read what slot from[i] has. Throws std::invalid_argument for a source that was not started.
  void fork(const std::int32_t* from, const std::int32_t* to, std::size_t num_slots);

  // Slot slots[i] reads tokens[i]. Throws std::invalid_argument for a slot that was not started.
  void feed(const std::int32_t* slots, const std::int32_t* tokens, std::size_t num_slots, bool* is_settled);

 private:
  struct Slot {
    int spec;
    Decoder decoder;
    Settler settler;
    bool is_settled;
  };

  Slot fresh(int spec) const;
  bool read(Slot& slot, const std::int32_t* ids, std::size_t size) const;
  Slot& started(std::int32_t slot);
  void set(std::int32_t slot, const Slot& value);

  std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<Spec> specs_;
  std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace fastsia
