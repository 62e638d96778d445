#include "stream.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace fastsia {
namespace {

// Bytes kept in the tail before the unread ones: more than any rule looks back.
constexpr std::size_t kContext = 64;
constexpr std::size_t kMaxTail = 256;
// Bytes that an incomplete marker at the end may have: "\\#\\#\\#\\", or "answer" and the marks before its ":".
constexpr std::size_t kPartialHash = 8;
constexpr std::size_t kPartialColon = 32;

std::size_t longest_closing(const Spec& spec) {
  std::size_t longest = 1;
  for (const auto& [open, close] : spec.think_tags) longest = std::max(longest, close.size());
  return longest;
}

}  // namespace

GrowingText::GrowingText(const Spec& spec)
    : state_(spec.format == Format::kBoxed ? State::kNever  // the last box counts
             : spec.starts_in_think        ? State::kInThink
                                           : State::kOpening) {}

bool GrowingText::advance(const Spec& spec) {
  while (state_ == State::kOpening || state_ == State::kInThink) {
    const State before = state_;
    if (state_ == State::kOpening) {
      read_opening(spec);
    } else {
      read_think(spec);
    }
    if (state_ == before) break;
  }
  if (state_ == State::kReading) read_on(spec);
  if (state_ == State::kDecided || state_ == State::kNever) tail_.clear();
  return state_ == State::kDecided;
}

void GrowingText::read_opening(const Spec& spec) {
  std::size_t begin = 0;
  while (begin < tail_.size() && is_space(static_cast<unsigned char>(tail_[begin]))) ++begin;
  const std::string_view rest = std::string_view(tail_).substr(begin);
  for (std::size_t i = 0; i < spec.think_tags.size(); ++i) {
    const std::string& open = spec.think_tags[i].first;
    const std::string_view opening = rest.substr(0, open.size());
    if (open.compare(0, opening.size(), opening) != 0) continue;
    if (opening.size() < open.size()) return;  // the mark may still become complete
    block_ = i;
    tail_.erase(0, begin + open.size());
    state_ = State::kInThink;
    return;
  }
  state_ = has_closed_ || !spec.expects_think ? State::kReading : State::kNever;
}

void GrowingText::read_think(const Spec& spec) {
  Closing closing;
  if (block_ != kNone) {
    const std::string& close = spec.think_tags[block_].second;
    const std::size_t begin = tail_.find(close);
    if (begin != std::string::npos) closing = {begin, begin + close.size()};
  } else {
    closing = first_closing(tail_, 0, spec);
    // Another mark that begins at or before this one may still become complete.
    if (closing.begin != kNone && before_partial_closing(tail_, 0, spec) <= closing.begin) return;
  }
  if (closing.begin != kNone) {
    tail_.erase(0, closing.end);
    has_closed_ = true;
    state_ = State::kOpening;
  } else if (const std::size_t kept = longest_closing(spec) - 1; tail_.size() > kept) {
    tail_.erase(0, tail_.size() - kept);
  }
}

void GrowingText::read_on(const Spec& spec) {
  // After a closed block later marks are text; without one, a closing mark turns the text before it into a block.
  Closing closing;
  std::size_t end = tail_.size();
  if (!has_closed_) {
    const std::size_t start = tail_.find_first_of(spec.closing_starts, next_closing_);
    if (start != std::string::npos) {
      closing = first_closing(tail_, start, spec);
      end = closing.begin != kNone ? closing.begin : before_partial_closing(tail_, start, spec);
    }
    next_closing_ = end;
  }
  const Text all(tail_.data(), 0, end);
  const std::size_t stop = spec.stop_texts ? find_stop(all, next_stop_) : kNone;
  end = stop != kNone ? stop : spec.stop_texts ? before_partial_stop(all) : end;
  next_stop_ = end;

  Text text(tail_.data(), 0, end);
  while (next_marker_ < end) {
    const Occurrence occurrence = next_marker(text, next_marker_, asked_for(spec.format));
    if (occurrence.begin == kNone) {
      const std::size_t partial = spec.format == Format::kNumber ? kPartialHash : kPartialColon;
      next_marker_ = std::max(next_marker_, end - std::min(end, partial));
      break;
    }
    const Found found = value_of(text, occurrence, spec);
    if (!found.is_closed) {
      next_marker_ = occurrence.begin;
      break;
    }
    if (found.value) {
      state_ = State::kDecided;
      return;
    }
    next_marker_ = occurrence.begin + 1;
  }
  if (stop != kNone || closing.begin != kNone) {
    state_ = State::kNever;
    return;
  }
  const std::size_t done = std::min(next_marker_, next_stop_);
  if (done >= kContext + kMaxTail) {
    const std::size_t excess = done - kContext;
    tail_.erase(0, excess);
    next_marker_ -= excess;
    next_stop_ -= excess;
    next_closing_ -= std::min(excess, next_closing_);
  }
}

int AnswerStream::open(Spec spec) {
  for (const auto& [open, close] : spec.think_tags) spec.closing_starts += close[0];
  std::sort(spec.closing_starts.begin(), spec.closing_starts.end());
  spec.closing_starts.erase(std::unique(spec.closing_starts.begin(), spec.closing_starts.end()),
                            spec.closing_starts.end());
  specs_.push_back(std::move(spec));
  return static_cast<int>(specs_.size()) - 1;
}

std::int64_t AnswerStream::decided_at(int spec, const std::int32_t* ids, std::size_t size) const {
  Slot slot = fresh(spec);
  for (std::size_t i = 0; i < size; ++i) {
    if (read(slot, ids + i, 1)) return static_cast<std::int64_t>(i) + 1;
  }
  return -1;
}

void AnswerStream::start(const std::int32_t* slots, std::size_t num_slots, int spec, const std::int32_t* prefix,
                         const std::int32_t* lens, bool* is_decided) {
  std::vector<std::size_t> order(num_slots);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [lens](std::size_t a, std::size_t b) { return lens[a] < lens[b]; });
  Slot reader = fresh(spec);
  std::size_t num_read = 0;
  for (const std::size_t i : order) {
    const std::size_t len = static_cast<std::size_t>(lens[i]);
    is_decided[i] = read(reader, prefix + num_read, len - num_read);
    num_read = len;
    set(slots[i], reader);
  }
}

void AnswerStream::fork(const std::int32_t* from, const std::int32_t* to, std::size_t num_slots) {
  for (std::size_t i = 0; i < num_slots; ++i) {
    if (from[i] != to[i]) set(to[i], started(from[i]));
  }
}

void AnswerStream::feed(const std::int32_t* slots, const std::int32_t* tokens, std::size_t num_slots,
                        bool* is_decided) {
  for (std::size_t i = 0; i < num_slots; ++i) is_decided[i] = read(started(slots[i]), tokens + i, 1);
}

AnswerStream::Slot AnswerStream::fresh(int spec) const {
  return {spec, Decoder(*vocabulary_), GrowingText(specs_.at(static_cast<std::size_t>(spec))), false};
}

bool AnswerStream::read(Slot& slot, const std::int32_t* ids, std::size_t size) const {
  if (slot.is_decided || size == 0) return slot.is_decided;
  slot.decoder.append(*vocabulary_, ids, size, slot.text.tail());
  slot.is_decided = slot.text.advance(specs_[static_cast<std::size_t>(slot.spec)]);
  return slot.is_decided;
}

AnswerStream::Slot& AnswerStream::started(std::int32_t slot) {
  const auto index = static_cast<std::size_t>(slot);
  if (slot < 0 || index >= slots_.size() || !slots_[index]) {
    throw std::invalid_argument("slot " + std::to_string(slot) + " was not started.");
  }
  return *slots_[index];
}

void AnswerStream::set(std::int32_t slot, const Slot& value) {
  if (slot < 0) throw std::invalid_argument("slot " + std::to_string(slot) + " is negative.");
  const auto index = static_cast<std::size_t>(slot);
  if (index >= slots_.size()) slots_.resize(index + 1);
  if (slots_[index]) {
    *slots_[index] = value;
  } else {
    slots_[index] = std::make_unique<Slot>(value);
  }
}

}  // namespace fastsia
