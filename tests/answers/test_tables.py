"""The word lists that Python and C++ share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastsia.answers import tables
from fastsia.answers.tables import replacements, word_list, word_set

ROOT = Path(__file__).parents[2]
NAMES = set(tables.TABLES)
REPLACEMENTS = {
    "aliases",
    "ascii",
    "fold",
    "vulgar_fractions",
    "half_width",
    "half_width_numeric",
    "mathematical_digits",
}
REPLACEMENTS |= {"superscripts", "superscript_numbers", "raised", "subscripts", "lowered"}


@pytest.mark.parametrize("files", ["fastsia/answers/*.py", "csrc/*.cc"])
def test_both_implementations_use_every_table(files: str) -> None:
    """A table that only one of them reads would be a rule that the other one lacks."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob(files))
    named = set(re.findall(r"""\(["']([a-z_]+)["']\)""", source))
    included = {
        word[1:].decode() for lines in tables.TABLES.values() for line in lines for word in line if word[:1] == b"@"
    }
    assert NAMES - included <= named


def test_tables_are_composed() -> None:
    assert word_list("articles") == [b"a", b"an", b"the"]
    assert word_set("articles") < word_set("adverbs") < word_set("before_negative")
    assert b"can" in word_set("verbs")
    assert not word_set("negators") & {b"student", b"claim"}  # removed by @without
    assert {b"\n", b"."} < word_set("stops")  # U+000A
    assert replacements("aliases")["ℝ".encode()] == b"\\mathbb R"
    assert replacements("ascii")["\u200b".encode()] == b""
    assert replacements("fold")["𝐀".encode()] == b"A"
    assert replacements("half_width")["＿".encode()] == b"_"
    assert replacements("superscripts").items() < replacements("raised").items()


def test_a_word_stands_once_in_a_table() -> None:
    for name, lines in tables.TABLES.items():
        if name in REPLACEMENTS:
            words = [word for line in lines for word in line[1:]]
        else:
            words = [word for line in lines if line[0] != b"@without" for word in line]
        assert sorted({word for word in words if words.count(word) > 1}) == [], name
