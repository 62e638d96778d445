"""The word lists of the rules by which answers are read; tables.txt contains them for Python and C++."""

from __future__ import annotations

import re
from importlib.resources import files

_CODE_POINT = re.compile(rb"U\+([0-9A-F]{4,6})")


def _read() -> dict[str, list[list[bytes]]]:
    """Each table's lines as lists of words."""
    tables: dict[str, list[list[bytes]]] = {}
    name = ""
    # The first and the last line make the file a C++ string literal.
    for line in (files("fastsia.answers") / "tables.txt").read_bytes().split(b"\n")[1:-2]:
        if header := re.fullmatch(rb"\[([a-z_]+)\]", line):
            name = header[1].decode()
            tables[name] = []
        elif line and not line.startswith(b"//"):
            found = [(word, _CODE_POINT.fullmatch(word)) for word in line.split()]
            tables[name].append([chr(int(code[1], 16)).encode() if code else word for word, code in found])
    return tables


TABLES = _read()
"""The lines of each table, as lists of words."""


def word_set(name: str) -> frozenset[bytes]:
    """The words of a table as UTF-8, with the words of the tables that it includes."""
    return frozenset(word_list(name))


def word_list(name: str) -> list[bytes]:
    """As `word_set`, in the order of the file."""
    found: list[bytes] = []
    for line in TABLES[name]:
        if line[0] == b"@without":
            found = [word for word in found if word not in line]
            continue
        for word in line:
            found += word_list(word[1:].decode()) if word.startswith(b"@") else [word]
    return found


def replacements(name: str) -> dict[bytes, bytes]:
    """A table of replacements: each later word of a line maps to the first one, in which "_" means a blank if the
    word is longer. A line of one word includes a table."""
    found: dict[bytes, bytes] = {}
    for target, *words in TABLES[name]:
        if not words:
            found |= replacements(target[1:].decode())
        spelled = target.replace(b"_", b" ") if len(target) > 1 else target
        found |= dict.fromkeys(words, b"" if target == b"''" else spelled)
    return found
