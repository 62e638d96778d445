// How a text is read. fastsia/answers/spec.py describes the fields.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "choice.h"

namespace fastsia {

constexpr std::size_t kWindow = 400;

enum class Format { kNumber = 0, kChoice = 1, kBoxed = 2 };

struct Spec {
  Format format = Format::kNumber;
  Options options;
  bool starts_in_think = false;
  std::vector<std::pair<std::string, std::string>> think_tags;  // opening and closing marks
  std::string closing_starts;           // the first bytes of the closing marks; AnswerStream::open sets it
  bool stop_texts = true;               // "Question:" ends the text that counts
  bool expects_think = false;           // a think block may still open: nothing is decided before one has closed
  std::size_t window = kWindow;         // bytes after a marker that may contain its value
  bool options_have_sentences = false;  // the text of an option contains the end of a sentence

  // Sets the options, and the fields that depend on their texts.
  void set_options(const std::vector<std::string>& texts);

  bool reads_choices() const { return format == Format::kChoice || (format == Format::kBoxed && options.are_known); }
};

}  // namespace fastsia
