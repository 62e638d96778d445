"""Normalizes texts, so that an option is found in a text that writes it differently.

Part of the Python reference; csrc/fold.cc implements the same rules. Works on UTF-8 bytes. `fold` gives quotes, dashes,
spaces, accents, full-width and circled letters, super- and subscripts, emphasis, LaTeX and numbers one spelling each;
`words_of` splits the result into words. Both take time linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastsia.answers.number import pattern
from fastsia.answers.tables import replacements

CLOSE = b"\x01"  # the end of emphasis, a formula or a brace after a single letter: **A** is not an article

# Characters ----------------------------------------------------------------------------------------------------------


_CHARACTERS = replacements("fold")
_SUPERSCRIPTS = replacements("superscripts")
_SUPERSCRIPT = pattern("|".join("⁰¹²³⁴⁵⁶⁷⁸⁹"))
# A space that separates thousands; a run of superscripts; any other character.
_CHARACTER = pattern(
    r"""(?P<thousands> (?<= [0-9] ) (?: \xc2\xa0 | \xe2\x80\xaf | \xe2\x80\x89 ) (?= [0-9]{3} (?! [0-9] ) ) )
        | (?P<power> (?: ⁰ | ¹ | ² | ³ | ⁴ | ⁵ | ⁶ | ⁷ | ⁸ | ⁹ )++ )
        | [\t\r\f\v] | [\xc2-\xdf][\x80-\xbf] | [\xe0-\xef][\x80-\xbf]{2} | [\xf0-\xf4][\x80-\xbf]{3}"""
)


def _one_character(found: re.Match[bytes]) -> bytes:
    character = found[0]
    if found["power"]:
        return b"^" + _SUPERSCRIPT.sub(lambda digit: _SUPERSCRIPTS[digit[0]], character)
    return b"," if found["thousands"] else _CHARACTERS.get(character, character)


# Marks and LaTeX -----------------------------------------------------------------------------------------------------

_W = r"(?: [0-9A-Za-z_] | [\xc3-\xdf][\x80-\xbf] )"
_TEXT = r"\\(?: text(?: bf | it | rm | sf | tt )?+ | math(?: rm | bf | it | sf ) | mbox | emph )\{"
_SIMPLE = r"\{ \ ?+ [0-9A-Za-z]{1,8} \ ?+ \}"
_MARK = pattern(
    rf"""(?P<frac> \\[dtc]?frac (?: {_SIMPLE} {_SIMPLE} | [0-9][0-9] ) )
       | (?P<command> {_TEXT} | \\left (?![A-Za-z]) | \\right (?![A-Za-z]) | \\! )
       | (?P<close> \\[()\[\]$] | [*`]++ | [}}$] )
       | (?P<open> \{{ )
       | (?P<degree> \^ \{{?+ \\circ (?![A-Za-z]) \}}?+ | \\(?: circ | degree ) (?![A-Za-z]) )
       | (?P<times> \\times (?![A-Za-z]) )
       | (?P<dot> \\cdot (?![A-Za-z]) )
       | (?P<space> \\[\ ,;:\\] | ~ | \ ++ )
       | (?P<escaped> \\[%&\#_"'] )
       | (?P<arrow> [-=]{{1,4}}+ > )
       | (?P<dashes> --++ )
       | (?P<tag> < (?: /?+ (?: strong | em | br | p | span | code | sub | sup ) | /[biu]
                        | [biu] (?= > (?: \( | {_W} ) ) )
                  (?: \ ?+ / )?+ > )
       | (?P<under> _++ (?: \{{ (?= [0-9] ) )?+ )"""
)


def _marks(text: bytes) -> bytes:
    out = bytearray()
    at = 0
    for found in _MARK.finditer(text):
        out += text[at : found.start()]
        at = found.end()
        match found.lastgroup:
            case "frac":
                terms = re.findall(rb"[0-9A-Za-z]+", found[0][found[0].index(b"frac") + 4 :])
                over, under = terms if len(terms) == 2 else (terms[0][:1], terms[0][1:])
                out += over + b"/" + under
            case "close":
                if found[0] == b"*" and _is_digit_at(out, text, at):
                    out += b" x "
                elif _ends_with_letter(out) and not (found[0] == b"}" and _GOES_ON.match(text, at)):
                    out += CLOSE
            case "open":
                if _W_AT_END.search(out[-2:]) is not None and text[at : at + 1] != b",":
                    out += b" "
            case "degree":
                out += "°".encode()
            case "times":
                out += b" x "
            case "dot":
                out += "·".encode()
            case "space":
                out += b" "
            case "escaped":
                out += found[0][1:]
            case "arrow":
                out += " → ".encode()
            case "dashes":
                out += b" - "
            case "tag":
                if found[0] in (b"<br>", b"<br/>", b"<br />"):
                    out += b" "
                elif found[0][1:2] == b"/" and not found[0].startswith(b"</su") and _ends_with_letter(out):
                    out += CLOSE
            case "under":
                before = _W_AT_END.search(out[-2:]) is not None
                after = text[at : at + 1]
                if before and after.isdigit():
                    pass  # a subscript
                elif before and _W_BEGIN.match(text, at):
                    out += b"_"
                elif _ends_with_letter(out):
                    out += CLOSE
            case _:
                pass
    return bytes(out + text[at:])


_W_AT_END = pattern(rf"{_W}\Z")
_W_BEGIN = pattern(_W)
_GOES_ON = pattern(rf"[_^] | {_W}")
_LETTER_AT_END = pattern(r"(?: \A | (?<= [^0-9A-Za-z_'.\x80-\xff-] ) ) [A-Za-z] \Z")
_DIGIT_NEXT = pattern(r"\ ?+ [0-9]")
_DIGIT_BEFORE = pattern(r"[0-9] \ ?+ \Z")


def _ends_with_letter(out: bytearray) -> bool:
    """Whether the output ends with a single letter."""
    return _LETTER_AT_END.search(out[-2:]) is not None


def _is_digit_at(out: bytearray, text: bytes, at: int) -> bool:
    """Whether a star between two digits is a multiplication sign."""
    return _DIGIT_BEFORE.search(out[-2:]) is not None and _DIGIT_NEXT.match(text, at) is not None


# Numbers -------------------------------------------------------------------------------------------------------------

_NUMBER = pattern(
    r"(?P<number> (?: (?<! [0-9A-Za-z_.] ) \. )?+ [0-9]++ (?: [.,][0-9]++ )*+ ) (?P<times> x (?= [0-9] ) )?+"
)
_PLAIN_NUMBER = pattern(r"(?P<whole> [1-9][0-9]{0,2}+ (?: ,[0-9]{3} )++ | [0-9]*+ ) (?: \. (?P<decimals> [0-9]++ ) )?+")


def _one_number(found: re.Match[bytes]) -> bytes:
    """Normalize a number: 1,000 to 1000, 4.00 to 4, .5 to 0.5, 4cm to 4 cm, 2x3 to 2 x 3."""
    text, number = found.string, found["number"]
    unit = found["times"] or b""
    if _W_AT_END.search(text[max(found.start() - 2, 0) : found.start()]) is None:
        unit = b" x " if unit else b" " if text[found.end() : found.end() + 1].isalpha() else b""
    plain = _PLAIN_NUMBER.fullmatch(number)
    if plain is None:
        return number + unit
    whole, decimals = plain["whole"].replace(b",", b"") or b"0", (plain["decimals"] or b"").rstrip(b"0")
    return (whole + b"." + decimals if decimals else whole) + unit


def fold(text: bytes) -> bytes:
    """Return the normalized text. Line breaks are kept."""
    return _NUMBER.sub(_one_number, _marks(_CHARACTER.sub(_one_character, text)))


# Words ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """The words and marks of a folded text, with their lower-case forms and spans. An index out of range gives b""."""

    texts: list[bytes]
    lows: list[bytes]
    spans: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.texts)

    def text(self, i: int) -> bytes:
        return self.texts[i] if 0 <= i < len(self.texts) else b""

    def low(self, i: int) -> bytes:
        return self.lows[i] if 0 <= i < len(self.lows) else b""

    def is_adjacent(self, i: int) -> bool:
        """Whether word i follows the one before it without a blank."""
        return 0 < i < len(self.spans) and self.spans[i - 1][1] == self.spans[i][0]


# A word continues across a hyphen or an apostrophe ("B-12", "A's"), the marks of a number ("3.5", "1/2") and the points
# of an abbreviation ("U.S.A").
_WORD = pattern(
    rf"""{_W}++ (?: [-'] (?= {_W} ) {_W}++
                  | [.,:/] (?<= [0-9]. ) (?= [0-9] ) {_W}++
                  | \. (?<= (?<! [0-9A-Za-z_'\x80-\xff-] ) [A-Za-z] \. ) [A-Za-z] (?! {_W} ) )*+
       | \n | [\xc0-\xff][\x80-\xbf]{{0,3}}+ | [^\ ]"""
)


def words_of(text: bytes, *, one_line: bool = False) -> Words:
    """Return the words and marks of a text after folding. A line break is a word of its own unless `one_line`."""
    folded = fold(text)
    texts, spans = [], []
    for found in _WORD.finditer(folded):
        if not (one_line and found[0] == b"\n"):
            texts.append(found[0])
            spans.append(found.span())
    return Words(texts, [word.lower() for word in texts], spans)


def is_word(word: bytes) -> bool:
    return _W_BEGIN.match(word) is not None


def is_number(word: bytes) -> bool:
    return word[:1].isdigit()


def is_digits(word: bytes) -> bool:
    return word.isdigit()
