"""The letters of multiple-choice options. Part of the reference; csrc/choice.cc does the same.

Works on UTF-8 bytes and gives a case to ASCII letters only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from fastsia.answers.number import DECORATION, SPACE, WORD, ends_with, pattern, skip

DEFAULT_NUM_OPTIONS = 5  # letters A to E where a problem's options are not given

Options = Sequence[bytes] | None

_SPACES = pattern(rf"{SPACE}++")
_BEFORE = pattern(rf"(?: {DECORATION} ){{0,32}}+")
_KEYWORD = pattern(r"(?: option | choice | letter ) [\ \t:]{1,4}+", re.IGNORECASE)
_JOINED = pattern(rf"(?: {WORD} | (?: [-'] | ’ ) {WORD} )")  # the word goes on: "Bob", "B-12", "B's"
_AFTER_DIGIT = pattern(rf"(?: {WORD} | [.,/:][0-9] | % | ° )")
_NEXT_WORD = pattern(r"[\ \t]{1,4}+ ([A-Za-z]{2,}+)")
# What an article cannot stand before: "A is" means the option, "A rock" does not.
_NOT_AFTER_ARTICLE = frozenset(b"is was because since as and or has for from which would but not".split())
_LETTER = re.compile(rb"[A-Z]")
_WORD = pattern(WORD)
_JOINT = pattern(r"[-'.] | ’")
_DEGREE = ("°".encode(), "° ".encode())
_ABBREVIATION = pattern(rf"\.{WORD}")


def num_letters(options: Options) -> int:
    """How many letters can be answers."""
    return DEFAULT_NUM_OPTIONS if options is None else min(len(options), len(ascii_uppercase))


def normalize_option(option: bytes) -> bytes:
    """An option's own text as it is looked for: without what is skipped before a value, single spaces, no full stop."""
    return _SPACES.sub(b" ", option[skip(_BEFORE, option, 0) :]).lstrip(b" ").rstrip(b". \"'")


def choice_after_marker(line: bytes, at: int, options: Options) -> str | None:
    """The letter of the option that `line` names at `at`, right after a marker. `line` ends where its value may end."""
    begin = skip(_BEFORE, line, at)
    keyword = _KEYWORD.match(line, begin)
    if keyword is not None:
        begin = skip(_BEFORE, line, keyword.end())
    index = _option_text(line, begin, options) if options is not None else None
    if index is None:
        index = _label(line, begin)
    return ascii_uppercase[index] if index is not None and index < num_letters(options) else None


def whole_choice(text: bytes, options: Options) -> str | None:
    """The letter of a text that is an option's letter, own text or digit label, and nothing else."""
    wanted = normalize_option(text)
    texts = [normalize_option(option) for option in (options or ())[: len(ascii_uppercase)]]
    if wanted and not (len(wanted) == 1 and wanted.isalpha()):
        if wanted in texts:
            return ascii_uppercase[texts.index(wanted)]
        lower = [own.lower() for own in texts]
        if wanted.lower() in lower:
            return ascii_uppercase[lower.index(wanted.lower())]
    bare = text.strip(b"()[]*. ")
    return choice_after_marker(bare, 0, None if options is None else [b""] * len(options)) if len(bare) == 1 else None


def _option_text(text: bytes, at: int, options: Sequence[bytes]) -> int | None:
    """The option whose own text stands at `at` in any case: the longest, or of such the one in the same case.

    A text of one letter is not looked for: labels have the precedence.
    """
    best, best_rank = None, (at, False)
    for index, option in enumerate(options[: len(ascii_uppercase)]):
        wanted = normalize_option(option)
        if not wanted or (len(wanted) == 1 and wanted.isalpha()):
            continue
        spaced = rb"[ \t]{1,4}+".join(re.escape(part) for part in wanted.split(b" "))
        found = re.compile(spaced, re.IGNORECASE).match(text, at)
        if found is None:
            continue
        rank = found.end(), _SPACES.sub(b" ", found[0]) == wanted
        joined = ends_with(_WORD, text, found.end()) and _WORD.match(text, found.end())
        inside_number = wanted[-1:].isdigit() and _AFTER_DIGIT.match(text, found.end())
        if rank > best_rank and not joined and not inside_number:
            best, best_rank = index, rank
    return best


def _label(text: bytes, at: int) -> int | None:
    """The option that a letter of either case, or a digit 1 to 5, stands for at `at`."""
    label, after = text[at : at + 1], at + 1
    if label.isalpha():
        return None if _goes_on(text, after, label) else ascii_uppercase.index(label.upper().decode())
    if label in (b"1", b"2", b"3", b"4", b"5"):
        return None if _AFTER_DIGIT.match(text, after) else int(label) - 1
    return None


def _goes_on(text: bytes, after: int, letter: bytes) -> bool:
    """Whether a letter is the beginning of a word, or an article (a pronoun, for I) with a word to come."""
    if _JOINED.match(text, after):
        return True
    word = _NEXT_WORD.match(text, after) if letter in b"aAiI" else None
    return word is not None and word[1].lower() not in _NOT_AFTER_ARTICLE


def last_choice(text: bytes, options: Options) -> str | None:
    """The last capital option letter that stands alone: no article, no degree, no part of a word or abbreviation."""
    for found in reversed(list(_LETTER.finditer(text))):
        at, after = found.span()
        index = ascii_uppercase.index(found[0].decode())
        if index >= num_letters(options) or ends_with(_WORD, text, at) or text.endswith(_DEGREE, 0, at):
            continue
        joint = next((size for size in (1, 3) if at >= size and _JOINT.fullmatch(text, at - size, at)), None)
        if joint is not None and ends_with(_WORD, text, at - joint):
            continue
        if not _goes_on(text, after, found[0]) and not _ABBREVIATION.match(text, after):
            return ascii_uppercase[index]
    return None


def stated_choice(text: bytes, options: Options) -> str | None:
    """The letter of the last statement such as "B is correct" or "I choose B"."""
    return None
