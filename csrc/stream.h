// Detects, token by token, when no continuation can change an answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "answer.h"
#include "vocabulary.h"

namespace fastsia {

// One growing text. It is decided once the marker that its task asks for has a value whose end has been read: the first
// such occurrence has the same value in every continuation. Nothing is decided inside a think block, after a stop text,
// or after a closing mark without an opening one.
class GrowingText {
 public:
  explicit GrowingText(const Spec& spec);

  // The bytes that are not processed yet. The caller appends new ones here before `advance`.
  std::string& tail() { return tail_; }

  // Processes the new bytes. Returns whether the text is decided.
  bool advance(const Spec& spec);

 private:
  enum class State : std::uint8_t { kOpening, kInThink, kReading, kDecided, kNever };

  void read_opening(const Spec& spec);
  void read_think(const Spec& spec);
  void read_on(const Spec& spec);

  State state_;
  bool has_closed_ = false;    // a think block has closed
  std::size_t block_ = kNone;  // the tags of the open block; kNone if the prompt opened it, so that any mark closes it
  std::string tail_;
  std::size_t next_marker_ = 0;   // no marker that could decide the text begins before this byte of the tail
  std::size_t next_stop_ = 0;     // no stop text begins before this byte
  std::size_t next_closing_ = 0;  // no closing mark begins before this byte
};

// Many growing texts ("slots") that are fed with tokens.
class AnswerStream {
 public:
  explicit AnswerStream(std::shared_ptr<const Vocabulary> vocabulary) : vocabulary_(std::move(vocabulary)) {}

  // Adds a spec and returns its number.
  int open(Spec spec);

  // The smallest number of ids after which the text is decided, or -1. The spec must have been opened.
  std::int64_t decided_at(int spec, const std::int32_t* ids, std::size_t size) const;

  // Restarts slot slots[i] with the text of prefix[:lens[i]]. is_decided[i] receives whether it is decided.
  void start(const std::int32_t* slots, std::size_t num_slots, int spec, const std::int32_t* prefix,
             const std::int32_t* lens, bool* is_decided);

  // Copies slot from[i] to slot to[i]. Throws std::invalid_argument for a source that was not started.
  void fork(const std::int32_t* from, const std::int32_t* to, std::size_t num_slots);

  // Slot slots[i] reads tokens[i]. Throws std::invalid_argument for a slot that was not started.
  void feed(const std::int32_t* slots, const std::int32_t* tokens, std::size_t num_slots, bool* is_decided);

 private:
  struct Slot {
    int spec;
    Decoder decoder;
    GrowingText text;
    bool is_decided;
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
