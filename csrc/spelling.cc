#include "spelling.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tables.h"
#include "text.h"

namespace fastsia {
namespace {

constexpr std::size_t kMaxContent = 4096;  // bytes of a content; longer ones are not normalized
constexpr int kMaxDepth = 32;              // nesting of arguments and groups

using Tokens = std::vector<std::string>;

const WordSet kDropped("dropped");
const WordSet kBlanks("blanks");
const WordSet kText("text");
const WordSet kRoman("roman");
const WordSet kFonts("fonts");
const WordSet kAccents("accents");
const WordSet kWithDroppedArgument("with_dropped_argument");
const WordSet kFunctions("functions");
const WordSet kGreek("greek");
const WordSet kUnits("units");
const WordSet kBoundaries("boundaries");
const WordSet kProseMarks("prose_marks");
const Replacements kAliases = replacements("aliases");
const Replacements kRaised = replacements("raised");
const Replacements kLowered = replacements("lowered");
const Replacements kHalfWidth = replacements("half_width");

// As `has`, for tables that contain only commands.
bool has_command(const WordSet& words, const std::string& word) { return word[0] == '\\' && words.has(word); }

bool begins(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }

bool starts_with_digit(std::string_view text) { return !text.empty() && is_digit(static_cast<unsigned char>(text[0])); }
bool starts_with_letter(std::string_view text) {
  return !text.empty() && is_letter(static_cast<unsigned char>(text[0]));
}
bool ends_with_digit(std::string_view text) {
  return !text.empty() && is_digit(static_cast<unsigned char>(text.back()));
}
bool are_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return is_digit(c); });
}
bool are_letters(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return is_letter(c); });
}

std::string without_end(std::string text, std::string_view of) {
  while (!text.empty() && of.find(text.back()) != kNone) text.pop_back();
  return text;
}

// Tokens

std::string half_width(std::string_view content) {
  std::string text;
  for (std::size_t i = 0; i < content.size();) {
    const std::string_view character = content.substr(i, std::max<std::size_t>(character_size(content, i), 1));
    const std::string* narrow = character[0] == '\xef' ? look_up(kHalfWidth, character) : nullptr;
    text += narrow ? std::string_view(*narrow) : character;
    i += character.size();
  }
  return text;
}

std::size_t past_continuations(const Text& text, std::size_t i) {
  while (is_continuation(text.at(i))) ++i;
  return i;
}

// The end of the token that begins at `i`.
std::size_t token_end(const Text& text, std::size_t i) {
  const int c = text.at(i);
  std::size_t end = i + 1;
  if (c == '\\') {
    const int next = text.at(end);
    if (next < 0) return end;
    if (next >= 0xC0) return past_continuations(text, end + 1);
    if (!is_letter(next)) return end + 1;
    while (is_letter(text.at(end))) ++end;
  } else if (is_space(c)) {
    while (is_space(text.at(end))) ++end;
  } else if (is_digit(c)) {
    end = skip_digits(text, end);
    if (text.at(end) == '.' && is_digit(text.at(end + 1))) end = skip_digits(text, end + 1);
  } else if (c == '.' && is_digit(text.at(end))) {
    end = skip_digits(text, end);
  } else if (is_letter(c)) {
    while (is_letter(text.at(end))) ++end;
  } else if (c >= 0xC0) {
    end = past_continuations(text, end);
  } else {
    for (const std::string_view sign : {"<=", ">=", "!=", "==", "=>", "->", "+/-", "**", "..."}) {
      if (text.has(i, sign)) return i + sign.size();
    }
  }
  return end;
}

void append_parts(Tokens& tokens, const std::string& name) {
  const std::size_t blank = name.find(' ');
  tokens.push_back(name.substr(0, blank));
  if (blank != std::string::npos) tokens.push_back(name.substr(blank + 1));
}

// Splits a content into tokens. Each sign gets its normalized name; tokens without visible output are dropped.
Tokens tokens_of(std::string_view content) {
  const std::string narrow = half_width(content);
  const Text text{std::string_view(narrow)};
  Tokens tokens;
  char script = 0;
  for (std::size_t i = 0; i < narrow.size();) {
    const std::size_t end = token_end(text, i);
    const std::string token = narrow.substr(i, end - i);
    i = end;
    const int first = static_cast<unsigned char>(token[0]);
    if (!script && (is_digit(first) || (is_letter(first) && token.size() < 4))) {  // most tokens have no alias
      tokens.push_back(token);
      continue;
    }
    auto raised = kRaised.find(token);
    // 3² was written as a formula, not typed as arithmetic.
    if (raised != kRaised.end() && !script && !tokens.empty() && ends_with_digit(tokens.back())) raised = kRaised.end();
    const auto lowered = kLowered.find(token);
    const char kind = raised != kRaised.end() ? '^' : lowered != kLowered.end() ? '_' : 0;
    if (script && script != kind) tokens.push_back("}");
    if (kind && script != kind) tokens.insert(tokens.end(), {std::string(1, kind), "{"});
    script = kind;
    if (kind) {
      tokens.push_back(raised != kRaised.end() ? raised->second : lowered->second);
    } else if (token == "\\degree" || token == "°") {
      tokens.insert(tokens.end(), {"^", "\\circ"});
    } else if (token == "\\!" && !tokens.empty() && tokens.back() == ",") {
      tokens.back() = "{,}";
    } else if (kDropped.has(token)) {
      continue;
    } else if (kBlanks.has(token) || is_space(static_cast<unsigned char>(token[0])) || token == "\\ " ||
               token == "\\\t" || token == "\\\n" || token == "\\\r") {
      tokens.push_back(" ");
    } else if (const auto alias = kAliases.find(token); alias != kAliases.end()) {
      append_parts(tokens, alias->second);
    } else if (token == "*" && !tokens.empty() && (tokens.back() == "\\operatorname" || tokens.back() == "\\hspace")) {
      continue;
    } else {
      tokens.push_back(token);
    }
  }
  if (script) tokens.push_back("}");
  return tokens;
}

bool is_foreign(const std::string& token) {
  const int c = static_cast<unsigned char>(token[0]);
  return (c >= 0xC3 && c <= 0xDF && c != 0xCE && c != 0xCF) || (c >= 0xE0 && c <= 0xEE && c != 0xE2);
}

// The words with single blanks between them if all tokens are prose, else nothing. The case is kept.
std::optional<std::string> prose(const Tokens& tokens) {
  Tokens shown;
  for (const std::string& token : tokens) {
    if (!has_command(kFonts, token) && token != "{" && token != "}") shown.push_back(token);
  }
  // abc - d is a formula.
  const std::size_t shortest = std::find(shown.begin(), shown.end(), "-") != shown.end() ? 4 : 3;
  const auto is_word = [&](const std::string& token) {
    return is_foreign(token) || (are_letters(token) && !kFunctions.has(token) && token.size() >= shortest);
  };
  const auto is_prose = [](const std::string& token) {
    return token == " " || kProseMarks.has(token) || are_letters(token) || static_cast<unsigned char>(token[0]) >= 0xC3;
  };
  if (!std::any_of(shown.begin(), shown.end(), is_word) || !std::all_of(shown.begin(), shown.end(), is_prose)) {
    return std::nullopt;
  }
  std::string text;
  for (const std::string& token : shown) {
    if (token == "," || token == " ") text = without_end(std::move(text), " ");
    text += token;
    if (token == ",") text += ' ';
  }
  text.erase(std::unique(text.begin(), text.end(), [](char a, char b) { return a == ' ' && b == ' '; }), text.end());
  if (!text.empty() && text[0] == ' ') text.erase(0, 1);
  return without_end(without_end(std::move(text), " "), ". ,;:");
}

// Atoms

enum class Kind { kPlain, kUnit, kNegative, kShown };

// A unit of an expression: a symbol, digits, a command with its arguments, an exponent. kUnit: may be a unit, inside
// \text; kNegative: a fraction whose sign was removed from its text; kShown: a blank inside \text.
struct Atom {
  std::string text;
  Kind kind = Kind::kPlain;
};

using Atoms = std::vector<Atom>;

bool is_digits(const Atom& atom) { return starts_with_digit(atom.text); }

bool is_wordish(unsigned char c) { return is_digit(c) || is_letter(c) || c >= 0x80; }

bool is_spoken(const Atom& atom) { return atom.text == "and" || atom.text == "or"; }

// Keeps one blank between words of a text, around "and" and "or", and between digits; drops all others.
Atoms without_blanks(const Atoms& atoms) {
  Atoms kept;
  bool is_blank = false, is_shown = false;
  for (const Atom& atom : atoms) {
    if (atom.text == " ") {
      is_blank = true;
      is_shown |= atom.kind == Kind::kShown;
      continue;
    }
    if (is_blank && !kept.empty()) {
      const Atom& before = kept.back();
      const bool is_command = atom.text[0] == '\\' && starts_with_letter(std::string_view(atom.text).substr(1));
      const bool in_words = is_wordish(before.text.back()) && (is_wordish(atom.text[0]) || is_command);
      if ((in_words && (is_shown || is_spoken(before) || is_spoken(atom))) || (is_digits(before) && is_digits(atom))) {
        kept.push_back({" ", Kind::kShown});
      }
    }
    is_blank = is_shown = false;
    kept.push_back(atom);
  }
  return kept;
}

bool is_separator(const Atom& atom) { return atom.text == "{,}" || atom.text == "\\,"; }

// Joins digits that {,} or a thin blank separates into groups of three.
Atoms grouped(const Atoms& atoms) {
  Atoms out;
  bool is_group = false;
  for (std::size_t at = 0; at < atoms.size(); ++at) {
    const Atom& atom = atoms[at];
    if (is_separator(atom)) {
      const std::string_view following = at + 1 < atoms.size() ? std::string_view(atoms[at + 1].text) : "";
      const bool is_after = !out.empty() && are_digits(out.back().text) && (is_group || out.back().text.size() <= 3);
      const std::string_view whole = following.substr(0, following.find('.'));
      is_group = is_after && are_digits(whole) && whole.size() == 3;
      if (!is_group && atom.text == "{,}") {
        out.push_back({","});
      } else if (!is_group && !out.empty() && is_digits(out.back()) && starts_with_digit(following)) {
        out.push_back({" ", Kind::kShown});
      }
    } else if (is_group && are_digits(std::string_view(atom.text).substr(0, 3)) && are_digits(out.back().text) &&
               is_separator(atoms[at - 1])) {
      out.back() = {out.back().text + atom.text};
    } else {
      is_group = false;
      out.push_back(atom);
    }
  }
  return out;
}

bool is_sign(const Atom& atom) {
  return atom.text == "+" || atom.text == "-" || atom.text == "\\pm" || atom.text == "\\mp";
}

// Whether a term begins after the first `size` atoms.
bool may_begin(const Atoms& out, std::size_t size) {
  if (size == 0) return true;
  const std::string& text = out[size - 1].text;
  return kBoundaries.has(text) || text == "(" || text == "[" || text == "\\{" || text == "\\langle" ||
         begins(text, "\\begin");
}

bool may_end(const Atom& atom) {
  const std::string& text = atom.text;
  return kBoundaries.has(text) || is_sign(atom) || text == ")" || text == "]" || text == "\\}" || text == "\\rangle" ||
         begins(text, "\\end{");
}

// Whether a number may directly precede the atom: 2x, 2\pi, 2(x+1). Not a fraction: 2\frac{1}{2} is 2.5.
bool is_factor(const Atom& atom) {
  return (atom.text == "(" || are_letters(atom.text) || has_command(kGreek, atom.text) ||
          begins(atom.text, "\\sqrt")) &&
         !is_spoken(atom);
}

bool is_operand(const Atom& atom) {
  return is_digits(atom) || (atom.text.size() == 1 && are_letters(atom.text)) || has_command(kGreek, atom.text) ||
         begins(atom.text, "\\sqrt{");
}

// Functions that may be written without parentheses.
bool is_applied(const std::string& text) {
  const std::string name = text.substr(1);
  return text[0] == '\\' && kFunctions.has(name) && name != "pi" && name != "sqrt" && name != "gcd" && name != "lcm";
}

bool is_command(std::string_view text) { return !text.empty() && text[0] == '\\' && are_letters(text.substr(1)); }

// The atoms from `begin` on as LaTeX, with a blank between a command and a letter and braces around an exponent before
// a digit.
std::string written(const Atoms& atoms, std::size_t begin = 0) {
  std::string text;
  for (std::size_t at = begin; at < atoms.size(); ++at) {
    const std::string_view own = atoms[at].text;
    const std::string_view following = at + 1 < atoms.size() ? std::string_view(atoms[at + 1].text) : "";
    const bool is_script = own[0] == '^' || own[0] == '_';
    if (is_script && ends_with_digit(own) && starts_with_digit(following)) {
      text += own[0];
      text += '{';
      text += own.substr(1);
      text += '}';
    } else {
      text += own;
    }
    if (starts_with_letter(following) && is_command(is_script ? own.substr(1) : own)) text += ' ';
  }
  return text;
}

// Writes a/b as \frac{a}{b} if both are a number, a symbol or a root; a may also be a number times one of these.
Atoms with_fractions(const Atoms& atoms) {
  Atoms out;
  for (std::size_t at = 0; at < atoms.size();) {
    std::size_t begin = out.size();
    const bool has_under = at + 1 < atoms.size() && is_operand(atoms[at + 1]);
    if (atoms[at].text == "/" && has_under && (at + 2 == atoms.size() || may_end(atoms[at + 2])) && !out.empty() &&
        is_operand(out.back())) {
      --begin;
      if (!is_digits(out[begin]) && begin > 0 && is_digits(out[begin - 1])) --begin;
      if (!may_begin(out, begin) && !is_sign(out[begin - 1])) begin = out.size();
    }
    if (begin < out.size()) {
      const std::string over = written(out, begin);
      out.resize(begin);
      out.push_back({"\\frac{" + over + "}{" + atoms[at + 1].text + "}"});
      at += 2;
    } else {
      out.push_back(atoms[at++]);
    }
  }
  return out;
}

// Writes \sin(x) as \sin x if the parentheses contain one operand, perhaps times a number, and end a term.
Atoms applied(const Atoms& atoms) {
  Atoms out;
  const auto is_script = [](const Atom& atom) { return atom.text[0] == '^' || atom.text[0] == '_'; };
  for (std::size_t at = 0; at < atoms.size();) {
    std::size_t size = 0;  // number of atoms in the parentheses
    if (atoms[at].text == "(" && !out.empty()) {
      const std::size_t name = out.size() - (out.size() > 1 && is_script(out.back()) ? 2 : 1);
      if (is_applied(out[name].text)) {
        size = at + 2 < atoms.size() && atoms[at + 2].text == ")"   ? 1
               : at + 3 < atoms.size() && atoms[at + 3].text == ")" ? 2
                                                                    : 0;
      }
    }
    if (size > 0) {
      const Atom& last = atoms[at + size];
      const std::size_t end = at + size + 2;
      const bool is_one = is_operand(last) || (size == 1 && begins(last.text, "\\frac{"));
      const bool is_product = size == 1 || (is_digits(atoms[at + 1]) && !is_digits(last));
      if (!is_one || !is_product || (end < atoms.size() && !may_end(atoms[end]))) size = 0;
    }
    if (size > 0) {
      out.insert(out.end(), atoms.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                 atoms.begin() + static_cast<std::ptrdiff_t>(at + size) + 1);
      at += size + 2;
    } else {
      out.push_back(atoms[at++]);
    }
  }
  return out;
}

// The atoms with one form for groups of thousands, products, signs and simple fractions.
Atoms arranged(const Atoms& from) {
  const Atoms atoms = grouped(without_blanks(from));
  Atoms out;
  for (std::size_t at = 0; at < atoms.size(); ++at) {
    Atom atom = atoms[at];
    const Atom* following = at + 1 < atoms.size() ? &atoms[at + 1] : nullptr;
    if (atom.text == "+" && following && may_begin(out, out.size())) continue;
    if (atom.kind == Kind::kNegative) {
      if (may_begin(out, out.size())) {
        out.push_back({"-"});
        out.push_back({atom.text});
      } else {
        out.push_back({"\\frac{-" + atom.text.substr(6)});
      }
      continue;
    }
    if ((atom.text == "*" || atom.text == "\\cdot" || atom.text == "\\times") && !out.empty() && following) {
      const bool left = is_digits(out.back()), right = is_digits(*following);
      if (left && !right && is_factor(*following)) continue;
      const bool is_scalar = atom.text == "\\times" ? left || right : !(left && right);
      if (is_scalar && atom.text != "\\cdot") atom = {"\\cdot"};
    }
    if (atom.text == "\\\\" && (!following || begins(following->text, "\\end{"))) continue;
    if (atom.text == "\\}" && !out.empty() && out.back().text == "\\{") {
      out.back() = {"\\emptyset"};
      continue;
    }
    out.push_back(std::move(atom));
  }
  return applied(with_fractions(out));
}

// The atoms without parentheses around the whole, unless they enclose a list or a matrix.
Atoms without_parentheses(Atoms atoms) {
  for (int round = 0; round < 4 && atoms.size() >= 3 && atoms.front().text == "(" && atoms.back().text == ")";
       ++round) {
    int depth = 0;
    for (std::size_t at = 0; at < atoms.size(); ++at) {
      const std::string& text = atoms[at].text;
      depth += text == "(" || text == "[" ? 1 : text == ")" || text == "]" ? -1 : 0;
      const bool is_list =
          text == "," || text == ";" || text == "&" || text == "\\\\" || text == " " || begins(text, "\\begin");
      if (is_list || (depth == 0 && at + 1 < atoms.size())) return atoms;
    }
    atoms.pop_back();
    atoms.erase(atoms.begin());
  }
  return atoms;
}

// Whether an argument needs no braces.
bool is_symbol(const std::string& text) {
  if (text.size() == 1 || is_command(text)) return true;
  if (text[0] == '\\') return text.size() == 2;
  return static_cast<unsigned char>(text[0]) >= 0xC0 &&
         past_continuations(Text{std::string_view(text)}, 1) == text.size();
}

// Whether there is no sum outside brackets.
bool is_term(std::string_view text) {
  int depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '(' || c == '[' || c == '{') {
      ++depth;
    } else if (c == ')' || c == ']' || c == '}') {
      --depth;
    } else if (depth == 0 &&
               (c == '+' || c == '-' || c == ',' || begins(text.substr(i), "\\pm") || begins(text.substr(i), "\\mp"))) {
      return false;
    }
  }
  return !text.empty();
}

// Digits with a point: with a zero before it and without trailing zeros.
std::string decimal(const std::string& digits) {
  return without_end(without_end(digits[0] == '.' ? "0" + digits : digits, "0"), ".");
}

// For each opening bracket the index of its closing one within the same braces, 0 for all other tokens.
std::vector<std::size_t> closing_brackets(const Tokens& tokens) {
  std::vector<std::size_t> closing(tokens.size(), 0), opened;
  for (std::size_t at = 0; at < tokens.size(); ++at) {
    const std::string& token = tokens[at];
    if (token == "(" || token == "[" || token == "{") {
      opened.push_back(at);
    } else if (token == "}") {
      while (!opened.empty() && tokens[opened.back()] != "{") opened.pop_back();
      if (!opened.empty()) opened.pop_back();
    } else if ((token == ")" || token == "]") && !opened.empty() && tokens[opened.back()] != "{") {
      const std::size_t begin = opened.back();
      opened.pop_back();
      if ((tokens[begin] == "(") == (token == ")")) closing[begin] = at;
    }
  }
  return closing;
}

// How a command's argument may be written without braces: all digits of a number (x^10), a group in parentheses
// (x^(n+1)), a sign (x^-1). kBracketed: parentheses around the whole argument are dropped, as in \frac{(x-1)}{2}; not
// for f^{(2)}.
enum Argument : unsigned { kSingle = 0, kWholeDigits = 1, kParentheses = 2, kSigns = 4, kBracketed = 8 };

// Parses tokens into atoms.
class Reader {
 public:
  explicit Reader(Tokens tokens) : tokens_(std::move(tokens)), closing_(closing_brackets(tokens_)) {}

  // The content is nested more deeply than kMaxDepth, so the atoms read are not valid.
  bool is_too_deep() const { return is_too_deep_; }

  Atoms all() { return sequence(tokens_.size(), false); }

 private:
  // The atoms up to the token `end`, or up to a closing brace, which is skipped.
  Atoms sequence(std::size_t end, bool in_text) {
    Atoms atoms;
    while (at_ < end && !is_too_deep_) {
      if (tokens_[at_] != "}") {
        one(atoms, in_text);
        continue;
      }
      ++at_;
      if (depth_ > 0) break;
    }
    return atoms;
  }

  bool enter() {
    is_too_deep_ |= ++depth_ > kMaxDepth;
    return !is_too_deep_;
  }

  bool has(std::size_t at, std::string_view token) const { return at < tokens_.size() && tokens_[at] == token; }

  // Reads one token, with its arguments.
  void one(Atoms& atoms, bool in_text) {
    const std::string token = tokens_[at_++];
    if (token == " ") {
      atoms.push_back({" ", in_text ? Kind::kShown : Kind::kPlain});
    } else if (token == "{") {
      if (has(at_, ",") && has(at_ + 1, "}")) {
        at_ += 2;
        atoms.push_back({"{,}"});
      } else {
        for (Atom& atom : group(in_text)) atoms.push_back(std::move(atom));
      }
    } else if (token == "^" || token == "_") {
      script(token, atoms);
    } else if (token[0] != '\\' && token != "sqrt") {
      plain(token, atoms, in_text);
    } else if (kFonts.has(token)) {
      if (!next_is("{")) return;
      for (Atom& atom : group(in_text || kText.has(token))) {
        if (kRoman.has(token) && atom.kind == Kind::kPlain) atom.kind = Kind::kUnit;
        atoms.push_back(std::move(atom));
      }
    } else if (token == "\\frac" || token == "\\binom") {
      atoms.push_back(fraction(token));
    } else if (token == "\\sqrt" || token == "sqrt") {
      atoms.push_back(root());
    } else if (kAccents.has(token)) {
      atoms.push_back({token + "{" + argument(kSingle) + "}"});
    } else if (kWithDroppedArgument.has(token)) {
      argument(kSingle);
    } else if (token == "\\begin" || token == "\\end") {
      atoms.push_back(environment(token));
    } else if (token == "\\\\") {
      if (next_is("[") && is_length(at_)) at_ = closing_[at_ - 1] + 1;
      atoms.push_back({token});
    } else {
      atoms.push_back({token, in_text ? Kind::kUnit : Kind::kPlain});
    }
  }

  // Reads a token that is not a command.
  static void plain(const std::string& token, Atoms& atoms, bool in_text) {
    if (token.size() > 1 && kFunctions.has(token)) {
      atoms.push_back({"\\" + token});
    } else if (token.size() > 1 && token.find('.') != std::string::npos) {
      atoms.push_back({decimal(token)});
    } else {
      const bool is_bare_unit = token.size() >= 4
                                    ? kUnits.has(token)
                                    : token == "cm" || token == "km" || token == "mm" || token == "ft" || token == "kg";
      atoms.push_back({token, in_text || is_bare_unit ? Kind::kUnit : Kind::kPlain});
    }
  }

  // Skips blanks and the token `wanted` if it is next. Returns whether it was.
  bool next_is(std::string_view wanted) {
    std::size_t at = at_;
    while (has(at, " ")) ++at;
    if (!has(at, wanted)) return false;
    at_ = at + 1;
    return true;
  }

  // The atoms of a group whose opening brace was just read.
  Atoms group(bool in_text) {
    if (!enter()) return {};
    Atoms atoms = sequence(tokens_.size(), in_text);
    --depth_;
    return atoms;
  }

  std::string argument(unsigned allowed) {
    while (has(at_, " ")) ++at_;
    if (at_ == tokens_.size() || tokens_[at_] == "}" || !enter()) return "";
    const std::string& token = tokens_[at_];
    Atoms atoms;
    if (token == "{") {
      ++at_;
      atoms = sequence(tokens_.size(), false);
    } else if ((allowed & kParentheses) && token == "(" && closing_[at_] > 0) {
      const std::size_t end = closing_[at_];
      ++at_;
      atoms = sequence(end, false);
      at_ = std::max(at_, end + 1);  // a command at the end may have read past it
    } else if ((allowed & kSigns) && (token == "-" || token == "+")) {
      atoms.push_back({token});
      ++at_;
      if (at_ < tokens_.size() &&
          (starts_with_digit(tokens_[at_]) || are_letters(tokens_[at_]) || has_command(kGreek, tokens_[at_]))) {
        atoms.push_back({symbol(allowed)});
      }
    } else if (starts_with_digit(token) || (are_letters(token) && !kFunctions.has(token))) {
      atoms.push_back({symbol(allowed)});
    } else {
      one(atoms, false);
    }
    --depth_;
    return written(arranged(allowed & kBracketed ? without_parentheses(without_blanks(atoms)) : atoms));
  }

  // The next token, or its first letter or digit. In that case the rest remains to be read.
  std::string symbol(unsigned allowed) {
    std::string& token = tokens_[at_];
    if (token.size() > 1 && (are_letters(token) || (starts_with_digit(token) && !(allowed & kWholeDigits)))) {
      const std::string first = token.substr(0, 1);
      token.erase(0, 1);
      return first;
    }
    ++at_;
    return token.find('.') != std::string::npos ? decimal(token) : token;
  }

  // Appends an exponent or a subscript. The subscript is written first.
  void script(const std::string& token, Atoms& atoms) {
    const std::string text = argument(kWholeDigits | kSigns | (token == "^" ? kParentheses : kSingle));
    if (text.empty()) return;
    if (token == "^" && text.find_first_not_of('\'') == std::string::npos) {
      atoms.push_back({text});
      return;
    }
    const Atom atom{token + (is_symbol(text) ? text : "{" + text + "}")};
    const bool follows_superscript = token == "_" && !atoms.empty() && atoms.back().text[0] == '^';
    atoms.insert(atoms.end() - (follows_superscript ? 1 : 0), atom);
  }

  Atom fraction(const std::string& token) {
    std::string parts[2];
    bool is_negative = false;
    for (std::string& part : parts) {
      part = argument(kBracketed);
      if (token == "\\frac" && part[0] == '-' && is_term(std::string_view(part).substr(1))) {
        is_negative = !is_negative;
        part.erase(0, 1);
      }
    }
    return {token + "{" + parts[0] + "}{" + parts[1] + "}", is_negative ? Kind::kNegative : Kind::kPlain};
  }

  Atom root() {
    std::string degree;
    if (next_is("[")) {
      const std::size_t end = closing_[at_ - 1];
      if (end > 0) {
        if (!enter()) return {"\\sqrt"};
        degree = written(arranged(sequence(end, false)));
        --depth_;
        at_ = std::max(at_, end + 1);
      } else {
        --at_;
      }
    }
    const std::string text = argument(kWholeDigits | kParentheses | kBracketed);
    return {"\\sqrt" + (degree.empty() || degree == "2" ? "" : "[" + degree + "]") + "{" + text + "}"};
  }

  Atom environment(const std::string& token) {
    if (!next_is("{")) return {token};
    std::string name;
    for (; at_ < tokens_.size() && tokens_[at_] != "}"; ++at_) {
      if (tokens_[at_] != " ") name += tokens_[at_];
    }
    at_ = std::min(at_ + 1, tokens_.size());
    if (token == "\\begin" && name == "array" && next_is("{")) group(false);
    return {token + "{" + name + "}"};
  }

  // Whether the bracket that was just read contains a length such as 2pt.
  bool is_length(std::size_t begin) const {
    const std::size_t end = closing_[begin - 1];
    if (end == 0 || end > begin + 4) return false;
    std::string inside;
    for (std::size_t at = begin; at < end; ++at) inside += tokens_[at];
    const std::size_t digits = inside[0] == '-' ? 1 : 0;
    std::size_t unit = digits;
    while (unit < inside.size() && (starts_with_digit(std::string_view(inside).substr(unit)) || inside[unit] == '.')) {
      ++unit;
    }
    if (unit == digits) return false;
    if (inside[unit] == ' ') ++unit;
    const std::string name = inside.substr(unit);
    return name == "pt" || name == "em" || name == "ex" || name == "mm" || name == "cm" || name == "in";
  }

  Tokens tokens_;
  std::vector<std::size_t> closing_;
  std::size_t at_ = 0;
  int depth_ = 0;
  bool is_too_deep_ = false;
};

// Whole contents

// The atoms without the points and commas at the end.
Atoms without_end(Atoms atoms) {
  const auto is_mark = [](const std::string& text) {
    return (text.size() == 1 && std::string_view(" .,;:").find(text[0]) != kNone) || text == "\\\\" || text == "\\," ||
           text == "{,}";
  };
  while (!atoms.empty() && is_mark(atoms.back().text)) atoms.pop_back();
  return atoms;
}

// The atoms without the units at the end.
Atoms without_units(const Atoms& atoms) {
  std::size_t end = atoms.size();
  if (end > 0) {
    const std::string& text = atoms[end - 1].text;
    if (text == "^2" || text == "^3" || text == "²" || text == "³") --end;
  }
  std::size_t begin = end;
  while (begin > 0 && (atoms[begin - 1].kind == Kind::kUnit || atoms[begin - 1].text == " ")) --begin;
  std::string words;
  for (std::size_t at = begin; at < end; ++at) words += atoms[at].text;
  bool has_word = false;
  for (std::size_t at = 0; at < words.size();) {
    std::size_t past = std::min(words.find_first_of(" ./-", at), words.size());
    if (past > at) {
      if (!kUnits.has(words.substr(at, past - at))) return atoms;
      has_word = true;
    }
    at = past + 1;
  }
  if (!has_word) return atoms;
  Atoms bare = without_end(Atoms(atoms.begin(), atoms.begin() + static_cast<std::ptrdiff_t>(begin)));
  return bare.empty() ? atoms : bare;
}

// The atoms without a leading "x =" or "x \in", if x is one symbol and no other such sign follows.
Atoms without_name(const Atoms& atoms) {
  const auto is_equals = [](const Atom& atom) { return atom.text == "=" || atom.text == "\\in"; };
  const auto sign = std::find_if(atoms.begin(), atoms.end(), is_equals);
  if (sign == atoms.end() || sign + 1 == atoms.end() || std::find_if(sign + 1, atoms.end(), is_equals) != atoms.end()) {
    return atoms;
  }
  const auto size = sign - atoms.begin();
  if (size < 1 || size > 2 || (size == 2 && atoms[1].text[0] != '_')) return atoms;
  const std::string& name = atoms[0].text;
  const bool is_name = (name.size() == 1 && are_letters(name)) || (has_command(kGreek, name) && name != "\\infty");
  return is_name ? Atoms(sign + 1, atoms.end()) : atoms;
}

std::size_t count(std::string_view text, std::string_view what) {
  std::size_t num = 0;
  for (std::size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, at + what.size())) ++num;
  return num;
}

std::string replaced(std::string_view text, std::string_view what, std::string_view by) {
  std::string out;
  std::size_t begin = 0;
  for (std::size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, begin)) {
    out += text.substr(begin, at - begin);
    out += by;
    begin = at + what.size();
  }
  return out += text.substr(begin);
}

// Writes a plain array in brackets as the matrix with these brackets.
std::string with_matrices(std::string text) {
  if (text.find("\\begin{") == std::string::npos) return text;
  for (const auto& [opening, closing, letter] : {std::tuple{"(", ")", "p"}, std::tuple{"[", "]", "b"}}) {
    for (const std::string name : {"array", "matrix", "smallmatrix"}) {
      const std::string begin = opening + ("\\begin{" + name + "}"), end = "\\end{" + name + "}" + closing;
      if (count(text, begin) != count(text, end)) continue;
      text = replaced(text, begin, std::string("\\begin{") + letter + "matrix}");
      text = replaced(text, end, std::string("\\end{") + letter + "matrix}");
    }
  }
  return text;
}

// Digits and operators without letters: an unevaluated calculation.
bool is_arithmetic(std::string_view text) {
  bool has_operation = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!is_digit(static_cast<unsigned char>(text[i])) && std::string_view("-.+*/^(){}").find(text[i]) == kNone) {
      return false;
    }
    has_operation |= i > 0 && std::string_view("-+*/^").find(text[i]) != kNone &&
                     (is_digit(static_cast<unsigned char>(text[i - 1])) || text[i - 1] == ')' || text[i - 1] == '}');
  }
  return has_operation;
}

}  // namespace

std::optional<std::string> spelled(std::string_view content) {
  if (content.size() > kMaxContent) return std::nullopt;
  const Tokens tokens = tokens_of(content);
  std::optional<std::string> text = prose(tokens);
  if (!text) {
    Reader reader(tokens);
    Atoms atoms = reader.all();
    if (reader.is_too_deep()) return std::nullopt;
    atoms = without_name(grouped(without_blanks(without_units(without_end(std::move(atoms))))));
    text = with_matrices(written(arranged(without_parentheses(std::move(atoms)))));
  }
  if (text->empty() || text->size() > kMaxText || is_arithmetic(*text)) return std::nullopt;
  return text;
}

bool is_function(const std::string& word) { return kFunctions.has(word); }

bool is_unit(const std::string& word) { return kUnits.has(word); }

bool is_known_sign(const std::string& sign) {
  const bool is_outside = static_cast<unsigned char>(sign[0]) >= 0x80;
  return is_outside &&
         (kAliases.count(sign) || kRaised.count(sign) || kLowered.count(sign) || kBlanks.has(sign) || sign == "°");
}

}  // namespace fastsia
