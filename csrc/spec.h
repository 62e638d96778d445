// What a text is read for. fastsia/answers/spec.py is the same for Python.
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
  bool stop_texts = true;                                       // "Question:" ends what counts
  bool expects_think = false;     // a think block may come at any time: nothing settles before one has closed
  std::size_t window = kWindow;   // bytes that a value after a marker may take
  bool has_long_options = false;  // an option's own text goes on past the end of a sentence

  // From the options' own texts.
  void set_options(const std::vector<std::string>& texts);

  bool reads_choices() const { return format == Format::kChoice || (format == Format::kBoxed && options.are_known); }
};

}  // namespace fastsia
