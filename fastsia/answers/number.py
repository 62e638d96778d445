"""Numbers as people write them, and their canonical spelling. Part of the reference; csrc/number.cc does the same.

Works on UTF-8 bytes. All repetition in the patterns is possessive or bounded, so that each matches in one way only and
in time linear in the text. Nothing is ever evaluated: a power, a sum or an exponent out of range is no number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

MAX_NUMBER = 100  # bytes of a canonical number; what would be longer is no number
MAX_TERM_DIGITS = 18  # digits of a fraction's terms


def pattern(text: str, flags: int = 0) -> re.Pattern[bytes]:
    """A verbose pattern over UTF-8 bytes; only ASCII letters have a case."""
    return re.compile(text.encode(), flags | re.VERBOSE)


def skip(what: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Where `what` ends that begins at `at`; `at` where it does not match."""
    found = what.match(text, at)
    return found.end() if found else at


def is_word_before(text: bytes, at: int) -> bool:
    """Whether the character before `at` is a word's: an ASCII one, or one of U+00C0 to U+07FF."""
    return ends_with(_WORD, text, at)


def ends_with(what: re.Pattern[bytes], text: bytes, at: int) -> bool:
    """Whether the character before `at` is one that `what` describes."""
    return any(what.fullmatch(text, at - size, at) for size in (1, 2, 3) if at >= size)


# A word's characters: ASCII ones, and U+00C0 to U+07FF, the scripts that UTF-8 writes in two bytes. Longer characters
# (punctuation, CJK) part words: a letter between them stands alone.
WORD = r"(?: [0-9A-Za-z_] | [\xc3-\xdf][\x80-\xbf] )"
SPACE = r"[\ \t\n\r\f\v]"
TEXT_COMMAND = r"\\(?: textbf | textit | text | mathrm | mathbf | mathit | mbox )\{"
# What may stand between a marker and its value.
DECORATION = rf"""{SPACE} | [*_`"'(\[{{$:~=] | ： | （ | £ | € | ¥ | ₹ | ≈ | “ | ‘ | \\[(\[\ ,;:!$] | {TEXT_COMMAND}"""

BEFORE = pattern(rf"(?: {DECORATION} ){{0,32}}+")

_WORD = pattern(WORD)
_BEFORE = pattern(rf"(?: {DECORATION} | [A-Za-z]\ ?= ){{0,32}}+")  # "x = 5" too

_SIGN = r"(?: [-+] | − )"
_CURRENCY = r"(?: \\?\$ | £ | € | ¥ | ₹ )"
_SEPARATOR = "(?: ,\\\\! | , | \\{,\\} | \\\\, | \N{NARROW NO-BREAK SPACE} | \N{THIN SPACE} )"
# Groups of thousands ("1,234"; neither "1,2,3" nor "0,123"), or plain digits, or a point first. "42." leaves its point.
_PLAIN = rf"""(?> [1-9][0-9]{{0,2}}+ (?: {_SEPARATOR} [0-9]{{3}} (?![0-9]) )++ (?: \.[0-9]++ )?+
                | [0-9]++ (?: \.[0-9]++ )?+
                | \.[0-9]++ )"""
_HEAD = pattern(rf"(?: ({_SIGN}) {_CURRENCY}?+ | {_CURRENCY} ({_SIGN})?+ )?+ (?= \.?[0-9] | \\[dt]?frac[{{0-9] )")
_DIGITS = pattern(_PLAIN)
_COMMAND = pattern(
    rf"""\ ?+ \\[dt]?frac
         (?: \{{ \ {{0,4}}+ (?P<sign>{_SIGN})?+ (?P<over>{_PLAIN}) \ {{0,4}}+ \}} | (?P<over_digit>[0-9]) )
         (?: \{{ \ {{0,4}}+ (?P<under>{_PLAIN}) \ {{0,4}}+ \}} | (?P<under_digit>[0-9]) )"""
)
_POWER = pattern(rf"(?: (?: \^\{{?+ | \*\* ) {_SIGN}?+ [0-9][0-9.]*+ \}}?+ )++")
_INTEGER_POWER = pattern(rf"\^\{{?+ ({_SIGN})?+ ([0-9]++) \}}?+")
_EXPONENT = pattern(rf"[eE] ({_SIGN})?+ ([0-9]++)")
_TIMES_TEN = pattern(
    rf"[\ \t]?+ (?: × | x | X | \* | · | \\times | \\cdot ) [\ \t]?+ 10 \^ \{{?+ ({_SIGN})?+ ([0-9]++) \}}?+"
)
_OVER = pattern(rf"\ ?+ / \ ?+ ({_PLAIN}) (?! \ ?+ / \ ?+ [0-9] )")
_MIXED = pattern(r"\ ([0-9]++) / ([0-9]++) (?! / | \.[0-9] )")
_MULTIPLIER = pattern(rf"\ ?+ ( thousand | million | billion | trillion ) (?! {WORD} )", re.IGNORECASE)
_ZEROS = {b"thousand": 3, b"million": 6, b"billion": 9, b"trillion": 12}


def read_number(text: bytes, at: int) -> tuple[str | None, int]:
    """(canonical number, end) of the number that begins at `at`, its sign and currency included.

    The end is `at` where there is none. The number is None where it has a number's form but no value that we would
    state: a power, a division by zero, an exponent out of range.
    """
    head = _HEAD.match(text, at)
    if head is None:
        return None, at
    negative = _is_minus(head[1] or head[2])
    begin = head.end()
    if text[begin : begin + 1] == b"\\":
        command = _COMMAND.match(text, begin)
        if command is None:
            return None, at
        inner, over, under = _terms(command)
        return _ratio(negative != inner, over, under), command.end()

    plain = _DIGITS.match(text, begin)
    assert plain is not None  # the head looked ahead
    end = plain.end()
    digits, scale = _digits(plain[0])
    if power := _POWER.match(text, end):
        integer = _INTEGER_POWER.fullmatch(power[0])
        if plain[0] != b"10" or integer is None:
            return None, power.end()
        return _decimal(negative, b"1", _exponent(integer)), power.end()
    if exponent := _EXPONENT.match(text, end) or _TIMES_TEN.match(text, end):
        return _decimal(negative, digits, _exponent(exponent) - scale), exponent.end()
    if text[at - 1 : at] != b"/" and (ratio := _OVER.match(text, end)):  # not inside of 3/4/2020
        return _ratio(negative, plain[0], ratio[1]), ratio.end()
    if plain[0].isdigit() and len(digits) <= MAX_TERM_DIGITS:
        mixed = _MIXED.match(text, end)
        terms = (False, mixed[1], mixed[2]) if mixed else None
        if mixed is None and (mixed := _COMMAND.match(text, end)):
            terms = _terms(mixed)
        if mixed and terms and not terms[0] and _is_below_one(*terms[1:]):
            return _ratio(negative, *terms[1:], whole=int(digits or b"0")), mixed.end()
    if multiplier := _MULTIPLIER.match(text, end):
        return _decimal(negative, digits, _ZEROS[multiplier[1].lower()] - scale), multiplier.end()
    return _decimal(negative, digits, -scale), end


def _is_minus(sign: bytes | None) -> bool:
    return sign is not None and sign != b"+"


def _terms(command: re.Match[bytes]) -> tuple[bool, bytes, bytes]:
    """(negative, numerator, denominator) of a LaTeX fraction."""
    over, under = command["over"] or command["over_digit"], command["under"] or command["under_digit"]
    return _is_minus(command["sign"]), over, under


def _is_below_one(over: bytes, under: bytes) -> bool:
    """Whether over / under, both plain digits, is a proper fraction."""
    over, under = over.lstrip(b"0"), under.lstrip(b"0")
    return over.isdigit() and under.isdigit() and (len(over), over) < (len(under), under)


def _digits(plain: bytes) -> tuple[bytes, int]:
    """(digits, scale) with the number = digits / 10^scale; no zeros lead, none end its decimals."""
    whole, _, decimals = plain.partition(b".")
    decimals = decimals.rstrip(b"0")
    return (re.sub(rb"[^0-9]", b"", whole) + decimals).lstrip(b"0"), len(decimals)


def _exponent(found: re.Match[bytes]) -> int:
    """A power of ten, cut off far outside of what a number may have."""
    digits = found[2].lstrip(b"0")
    size = int(digits or b"0") if len(digits) <= 6 else 10**6
    return -size if _is_minus(found[1]) else size


def _decimal(negative: bool, digits: bytes, power: int) -> str | None:
    """Canonical spelling of digits * 10^power; None where it would be longer than MAX_NUMBER."""
    if not digits:
        return "0"
    text = digits.rstrip(b"0").decode()
    power += len(digits) - len(text)
    point = len(text) + power  # place of the decimal point, counted from the first digit
    length = point if power >= 0 else len(text) + (1 if point > 0 else 2 - point)
    if length + negative > MAX_NUMBER:
        return None
    if power >= 0:
        text += "0" * power
    elif point > 0:
        text = f"{text[:point]}.{text[point:]}"
    else:
        text = f"0.{'0' * -point}{text}"
    return f"-{text}" if negative else text


def _ratio(negative: bool, over: bytes, under: bytes, *, whole: int = 0) -> str | None:
    """Canonical spelling of whole + over / under: a decimal where that ends, else the reduced fraction."""
    (a, a_scale), (b, b_scale) = _digits(over), _digits(under)
    if not b or len(a) + b_scale > MAX_TERM_DIGITS or len(b) + a_scale > MAX_TERM_DIGITS:
        return None
    value = whole + Fraction(int(a or b"0") * 10**b_scale, int(b) * 10**a_scale)
    if value.numerator >= 10**MAX_TERM_DIGITS:
        return None
    scale, rest = 0, value.denominator
    while divisor := next((d for d in (10, 5, 2) if rest % d == 0), None):
        rest //= divisor
        scale += 1
    if rest > 1:
        return f"{'-' if negative else ''}{value.numerator}/{value.denominator}"
    return _decimal(negative, str(value.numerator * 10**scale // value.denominator).encode().lstrip(b"0"), -scale)


# An expression after a marker ("16 - 3 - 4 = 9") is read at its right-hand end.
_OPERATOR = r"(?: [-+*/xX] | × | ÷ | · | − | \\times | \\cdot | \\div )"
_GOES_ON = pattern(rf"(?: [\ \t)%] | \\% ){{0,4}}+ {_OPERATOR} [\ \t(]{{0,4}}+ (?: \\?\$ )?+ [.0-9]")
_EXPRESSION = pattern(
    r"(?: [-0-9\ \t.,+*/xX()=$%^<>] | × | ÷ | · | − | \\times | \\cdot | \\div | \\\$ | \\% ){0,200}+"
)


def number_after_marker(line: bytes, at: int, is_heading: bool = False) -> tuple[str | None, bool]:
    """(canonical number, whether something with a number's form is there) of what `line` has at `at`, behind a marker.

    line: ends where the value may end. is_heading: the marker is "####", which may open a numbered heading.
    """
    begin = skip(_BEFORE, line, at)
    value, end = read_number(line, begin)
    if end > begin and _GOES_ON.match(line, end):
        equals = line.rfind(b"=", begin, skip(_EXPRESSION, line, begin))
        if equals >= 0:
            value, _ = read_number(line, skip(_BEFORE, line, equals + 1))
    return value, end > begin


# What may follow a number that is a whole box or a whole gold answer: closing marks and units, nothing of a formula.
_UNITS = pattern(
    rf"""(?: {SPACE} | [.*_`"')\]}}$,;:?~%] | \\[,;:!\ $%)\]] | ” | ’ | ° | ² | ³ | € | £ | \^?\{{?\\circ\}}?
           | (?<=[A-Za-z}}])\^\{{?[23]\}}? | {TEXT_COMMAND}[^{{}}\\0-9]{{0,64}}+\}}
           | [A-Za-z]{{2,}}+ (?: /[A-Za-z]++ )?+ | (?<=[\ \t~])[A-Za-z] | [\xe4-\xe9][\x80-\xbf][\x80-\xbf] )*+"""
)


def whole_number(text: bytes) -> tuple[str | None, bool]:
    """(canonical number, whether the text has a number's form) where the whole text is one number and its units."""
    at = text.index(b"=") + 1 if text.count(b"=") == 1 else 0
    begin = skip(_BEFORE, text, at)
    value, end = read_number(text, begin)
    is_number = end > begin and skip(_UNITS, text, end) == len(text)
    return (value, True) if is_number else (None, False)


_LEAD = pattern(r"[-0-9.$\\\xe2\xc2]")  # bytes that may begin a number: a cheap filter
_NO_SIGN_AFTER = pattern(rf"{WORD} | [)\]}}%-] | −")  # a minus after these takes away
_RUN = pattern(r"\.?[0-9]*+ (?: \.[0-9]++ )*+")


def last_number(text: bytes, spared: Sequence[tuple[int, int]] = ()) -> str | None:
    """The last number that stands by itself: not part of a word (x2, CO2), an exponent or a subscript.

    spared: (begin, end) of what it is not looked for in.
    """
    for begin, end in spared:
        text = text[:begin] + b" " * (end - begin) + text[end:]
    last, at = None, 0
    while lead := _LEAD.search(text, at):
        at = lead.start()
        head = _HEAD.match(text, at)
        is_bare = head is not None and head.end() == at
        in_word = ends_with(_WORD, text, at)
        if (
            head is None
            or (head[1] is not None and ends_with(_NO_SIGN_AFTER, text, at))
            or (is_bare and text[at : at + 1] == b"." and (in_word or text[at - 1 : at] == b"."))
        ):
            at += 1
        elif (is_bare and in_word) or text.endswith((b"^", b"^{", b"_{"), 0, at):
            at = max(skip(_RUN, text, head.end()), at + 1)
        else:
            value, end = read_number(text, at)
            last = last if value is None else value
            at = max(end, at + 1)
    return last
