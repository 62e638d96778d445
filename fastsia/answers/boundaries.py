"""Where sentences, lines and steps of a text end."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

_MATH_ENVIRONMENTS = "equation|align|gather|multline|cases|matrix|array|aligned|eqnarray|split|tabular"
_OPENING = re.compile(
    r"```"  # code
    r"|`[^`\n]+`"
    r"|\$\$|\\\[|\\\("  # mathematics
    rf"|\\begin\{{(?P<name>[pbvBV]?(?:{_MATH_ENVIRONMENTS})\*?)\}}"
    r"|(?<!\\)\$(?!\s)(?:[^$\\\n]|\\.|\n(?!\s*\n))+?(?<![\s\\])\$(?!\d)"
    r"|\\boxed\{(?:[^{}\n]|\{[^{}\n]*\})*\}"
    r"|https?://\S*[\w/]",
    re.DOTALL,
)
"""Spans in which nothing ends, or their opening marks."""
_CLOSING = {"```": "```", "$$": "$$", "\\[": "\\]", "\\(": "\\)"}

_MONEY = re.compile(r"\$\d[\d,]*(?:\.\d+)?(?:[.,;:!?)]*\s+[A-Za-z]{2}|[.,;:!?)]*\s+\S+\s+[A-Za-z]{2})")
"""`$3.50 and $` is an amount and no mathematics."""

_CLOSERS = "\"'”’»)\\]*_"
# Possessive, and only from the first mark of several, so that the time is linear.
_END = re.compile(rf"(?<![.!?…])(?P<mark>\.{{2,}}+|…++|[.!?]++)[{_CLOSERS}]*+(?=\s|\Z)|[。！？｡．]++[」』”’）】》]*+")
_CJK_QUOTES = re.compile("[「『」』]")
_EMPTY_LINE = re.compile(r"\n[ \t]*\n\Z")
_NEXT = re.compile(r"\s*(.?)", re.DOTALL)
_WORD = re.compile(r"[\w.\-]+\Z")
_ITEM = r"(?:[-*+•]\s|\(?\d{1,3}[.)](?=\s)|\(?[A-Za-z][.)](?=\s)|\(?[ivxIVX]+[.)](?=\s)|#{1,6}\s|>\s|\|"
_LINE_START = re.compile(rf"[ \t]*(?:{_ITEM}|(?:\*\*|__)?(?:Step|Case|Part)\s+\w+[.:)]))")
_ANSWER_LINE = re.compile(r"[ \t]*####")
_LABEL = re.compile(
    r"[ \t>]*(?:[-*+•]\s+)?[*_(]*(?:(?:Step|Case|Part|Question|Problem)\s+)?(?:\d{1,3}|[A-Za-z]|[ivxIVX]+)\.[*_]*\Z"
)
_CONTINUES = set(".!?+-=*/<>,;:)]}%&|·×÷≤≥≈^")

_NEVER_LAST = {
    *("approx", "ca", "capt", "cf", "ch", "def", "dr", "e.g", "eg", "eq", "eqn", "eqs", "ex", "fig", "figs"),
    *("gen", "gov", "hon", "i.e", "ie", "incl", "lem", "lt", "mr", "mrs", "ms", "mt", "mx", "pp", "prof"),
    *("prop", "rep", "resp", "rev", "s.t", "sec", "sen", "sgt", "st", "thm", "viz", "vol", "vs", "w.l.o.g"),
    *("w.r.t",),
}
"""Abbreviations that a further word follows."""
_SOMETIMES_LAST = {
    *("a.d", "a.m", "al", "apr", "aug", "b.a", "b.c", "co", "corp", "d.c", "dec", "dept", "e.u", "etc"),
    *("feb", "ft", "hr", "hrs", "inc", "jan", "jr", "jul", "jun", "lb", "lbs", "ltd", "m.d", "nov", "oct"),
    *("oz", "p.m", "ph.d", "sep", "sept", "sq", "sr", "thu", "thur", "thurs", "tue", "tues", "u.k", "u.n"),
    *("u.s", "u.s.a", "univ", "yr", "yrs"),
}
"""Abbreviations that end a sentence where a word of `_BEGINNINGS` follows."""
_BEGINNINGS = {
    *("a", "after", "all", "also", "an", "and", "as", "at", "because", "before", "but", "by", "each"),
    *("finally", "first", "for", "from", "given", "he", "hence", "her", "his", "how", "however", "i", "if"),
    *("in", "it", "its", "let", "next", "now", "on", "one", "or", "our", "she", "since", "so"),
    *("substituting", "that", "the", "their", "then", "there", "therefore", "these", "they", "this", "thus"),
    *("to", "we", "what", "when", "where", "which", "while", "with", "you"),
}


def sentence_ends(text: str) -> list[int]:
    """The positions (characters) at which sentences of a text end, ascending; white space after one is not its own.

    A sentence ends at `.`, `!`, `?` or `…` (with closing quotes and marks of emphasis) before white space, at a full
    stop of Chinese or Japanese, and with a line: a line break ends it unless the next line begins in lower case. It
    does not end in code, mathematics, `\\boxed{}` or an address, after an abbreviation, an initial or the number of a
    list's item, in a decimal number, or before a lower-case letter or an operator.
    """
    whole = _spans(text)
    quotes = _open_quotes(text)
    ends = [
        match.end()
        for match in _END.finditer(text)
        if not _inside(whole, match.start())
        and (_ends_sentence(text, match) if match["mark"] else _ends_cjk(text, match, quotes))
    ]
    breaks = [stop for stop in line_ends(text) if stop == len(text) or _ends_line(text, stop)]
    return _joined(text, ends, breaks)


def widen(text: str, ends: Sequence[int], begin: int, end: int, most: int = 200) -> tuple[int, int]:
    """The sentences that a part of a text belongs to, [begin, end) in characters.

    Args:
        text: The whole text.
        ends: `sentence_ends(text)`.
        begin: Of the part.
        end: Of the part.
        most: Characters that are added on either side.
    """
    place = bisect_right(ends, begin)
    first = max(ends[place - 1] if place else 0, begin - most)
    following = bisect_left(ends, end)
    last = min(ends[following] if following < len(ends) else len(text), end + most)
    first += len(text[first:begin]) - len(text[first:begin].lstrip())
    return first, max(last, end)


def line_ends(text: str) -> list[int]:
    """The positions after the line breaks of a text that follow a line with text, and its end; not inside of code or
    mathematics."""
    whole = _spans(text)
    ends = [match.end() for match in re.finditer(r"\n(?:[ \t]*\n)*", text) if not _inside(whole, match.start())]
    return _with_text(text, [*ends, len(text)])


def step_ends(text: str) -> list[int]:
    """The positions at which steps of a text end: where an empty line ends a paragraph, or an item of a list, a
    heading or a line that begins with `Step N` follows. Lines that nothing else begins belong to the step before them.

    A text without any of these, the line of a `####` answer apart, has one step a line, and a single line one step a
    sentence.
    """
    lines = line_ends(text)
    ends = [
        stop
        for stop in lines
        if stop == len(text) or _EMPTY_LINE.search(text, max(stop - 200, 0), stop) or _begins_step(text, stop)
    ]
    if any(_ANSWER_LINE.match(text, end) is None for end in ends[:-1]):
        return ends
    return lines if len(lines) > 1 else sentence_ends(text)


def _spans(text: str) -> tuple[list[int], list[int]]:
    """Beginnings and ends of the spans in which nothing ends. A span that is not closed is none, but for code."""
    begins, ends, at = [], [], 0
    unclosed: set[str] = set()  # each is looked for once, so that the time is linear
    while (match := _OPENING.search(text, at)) is not None:
        at, stop = match.end(), match.end()
        closing = f"\\end{{{match['name']}}}" if match["name"] else _CLOSING.get(match[0])
        if closing is not None:
            place = -1 if closing in unclosed else text.find(closing, at)
            if place < 0:
                unclosed.add(closing)
                place = len(text) if closing == "```" else -1
            if place < 0:
                continue
            stop = min(place + len(closing), len(text))
        elif _MONEY.match(text, match.start()):
            at = match.start() + 1
            continue
        begins.append(match.start())
        ends.append(stop)
        at = stop
    return begins, ends


def _inside(spans: tuple[list[int], list[int]], position: int) -> bool:
    place = bisect_right(spans[0], position) - 1
    return place >= 0 and position < spans[1][place]


def _begins_step(text: str, position: int) -> bool:
    return _LINE_START.match(text, position) is not None


def _ends_line(text: str, stop: int) -> bool:
    """Whether the line breaks before a position end a sentence."""
    following = _NEXT.match(text, stop)
    is_lower = following is not None and following[1].islower()
    return not is_lower or _EMPTY_LINE.search(text, max(stop - 200, 0), stop) is not None or _begins_step(text, stop)


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    following = _NEXT.match(text, match.end())
    if following is None or not following[1]:
        return True
    first, begin = following[1], following.start(1)
    is_break = "\n" in text[match.end() : begin]
    if not is_break and (first.islower() or (first in _CONTINUES and not text.startswith("**", begin))):
        return False
    mark = match["mark"]
    if mark == "…" or mark.startswith(("..", "……")):
        return is_break or not first.isdigit()  # 1, 2, ... 10
    return mark != "." or _full_stop_ends(text, match.start(), begin, is_break)


def _full_stop_ends(text: str, stop: int, following: int, is_break: bool) -> bool:
    """Whether a single full stop ends a sentence.

    Args:
        following: the position of the next word.
        is_break: whether a line break comes before it.
    """
    line = max(text.rfind("\n", max(stop - 60, 0), stop) + 1, stop - 60, 0)
    if (line == 0 or text[line - 1] == "\n") and _LABEL.match(text[line : stop + 1]):
        return False
    found = _WORD.search(text, max(line, stop - 40), stop)
    word = "" if found is None else found[0].lower().lstrip(".-")
    if word in _NEVER_LAST:
        return False
    next_word = re.match(r"\w+", text[following : following + 40])
    after = "" if next_word is None else next_word[0]
    if word in ("no", "nos"):
        return not after.isdigit()
    is_initial = len(word) == 1 and word.isalpha() and text[stop - 1].isupper()
    if word in _SOMETIMES_LAST or is_initial:
        return is_break or after.lower() in _BEGINNINGS
    return True


def _open_quotes(text: str) -> tuple[list[int], list[int]]:
    """Positions of Chinese and Japanese quotation marks, and how many quotes are open after each."""
    places, depths, depth = [], [], 0
    for match in _CJK_QUOTES.finditer(text):
        depth = max(depth + (1 if match[0] in "「『" else -1), 0)
        places.append(match.start())
        depths.append(depth)
    return places, depths


def _ends_cjk(text: str, match: re.Match[str], quotes: tuple[list[int], list[int]]) -> bool:
    place = bisect_right(quotes[0], match.end() - 1) - 1
    if place >= 0 and quotes[1][place] > 0:
        return False  # inside of a quote that goes on
    if match[0] == "．" and text[match.end() : match.end() + 1].isdigit():
        return False
    is_quote = match[0][-1] in "」』"
    return not (is_quote and text[match.end() : match.end() + 1] in ("と", "っ", "，", "、"))


def _joined(text: str, ends: Iterable[int], breaks: Iterable[int]) -> list[int]:
    """Ends of sentences, and of lines that go on after the last sentence's end."""
    found = sorted({*ends, *breaks})
    kept: list[int] = []
    for end in found:
        if text[kept[-1] if kept else 0 : end].strip():
            kept.append(end)
    return kept


def _with_text(text: str, ends: Iterable[int]) -> list[int]:
    return _joined(text, (), ends)
