"""Reads numbers as people write them and gives their canonical spelling. csrc/number.cc implements the same rules.

Part of the Python reference. Works on UTF-8 bytes; `plain` first converts digits, signs and spaces of other scripts to
ASCII. All repetition in the patterns is possessive or bounded, so each pattern matches in one way only and in time
linear in the text. Nothing is evaluated: a power, a sum or an exponent out of range is not a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from fastsia.answers.tables import replacements, word_list, word_set

MAX_NUMBER = 100  # bytes of a canonical number; longer ones are not numbers
MAX_TERM_DIGITS = 18  # digits of the terms of a fraction
MAX_TERMS = 40  # terms of an expression
MAX_HEADING = 30  # a larger number after "####" does not begin a heading
MAX_FACTORIAL = 20  # after larger numbers "!" is an exclamation mark: "#### 42!"


def pattern(text: str, flags: int = 0) -> re.Pattern[bytes]:
    """Compile a verbose pattern over UTF-8 bytes. Only ASCII letters have a case."""
    return re.compile(text.encode(), flags | re.VERBOSE)


def _alternatives(table: str) -> str:
    return " | ".join(word.decode() for word in word_list(table))


def skip(what: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Return the end of a match of `what` at `at`; `at` if it does not match."""
    found = what.match(text, at)
    return found.end() if found else at


def is_word_before(text: bytes, at: int) -> bool:
    """Whether the character before `at` belongs to a word: ASCII, or U+00C0 to U+07FF."""
    return ends_with(_WORD, text, at)


def ends_with(what: re.Pattern[bytes], text: bytes, at: int) -> bool:
    """Whether the character before `at` matches `what`."""
    return any(what.fullmatch(text, at - size, at) for size in (1, 2, 3) if at >= size)


# Word characters: ASCII, and U+00C0 to U+07FF, the scripts that UTF-8 encodes in two bytes. Longer characters
# (punctuation, CJK) separate words: a letter between them stands alone.
WORD = r"(?: [0-9A-Za-z_] | [\xc3-\xdf][\x80-\xbf] )"
SPACE = r"[\ \t\n\r\f\v]"
TEXT_COMMAND = r"\\(?: textbf | textit | text | mathrm | mathbf | mathit | mbox )\{"
# Marks between a marker and its value.
DECORATION = rf"""{SPACE} | [*_`"'(\[{{$:~=] | ： | （ | £ | € | ¥ | ₹ | ≈ | “ | ‘ | \\[(\[\ ,;:!$] | {TEXT_COMMAND}"""

BEFORE = pattern(rf"(?: {DECORATION} ){{0,32}}+")

_WORD = pattern(WORD)

# Other scripts ------------------------------------------------------------------------------------------------------


_PLAIN_OF = replacements("ascii")
_JOINED = {char: (b"^", digit) for char, digit in replacements("superscript_numbers").items()}
_JOINED |= {char: (b"_", digit) for char, digit in replacements("subscripts").items()}
_VULGAR = replacements("vulgar_fractions")
_EN_DASH = "\N{EN DASH}".encode()
_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_AFTER_NUMBER = pattern(r"[0-9%][\ ~]?+ \Z")


def plain(text: bytes) -> bytes:
    """Convert digits, signs and spaces of other scripts to ASCII; other characters are kept.

    No-break and thin spaces become "~", currency signs "$", signs like × their LaTeX command, 10² becomes 10^{2}, 2½
    becomes "2 1/2", and an en dash after a number becomes "--", a range.
    """
    if text.isascii():
        return text
    out, at, joined = bytearray(), 0, (-1, b"")
    for found in _CHARACTER.finditer(text):
        char = found[0]
        out += text[at : found.start()]
        at = found.end()
        if char in _PLAIN_OF:
            out += _PLAIN_OF[char]
        elif char in _JOINED:
            sign, digit = _JOINED[char]
            if joined == (found.start(), sign):
                del out[-1]
            else:
                out += sign + b"{"
            out += digit + b"}"
            joined = (at, sign)
        elif char in _VULGAR:
            before = bytes(out[-2:])
            out += (b" " if is_word_before(before, len(before)) else b"") + _VULGAR[char]
        elif char == _EN_DASH:
            out += b"--" if _AFTER_NUMBER.search(out, max(len(out) - 2, 0)) else b"-"
        else:
            out += char
    return bytes(out + text[at:])


# One number ---------------------------------------------------------------------------------------------------------

_SIGN = r"[-+]"
_CURRENCY = r"\\?\$"
_BLANK = r"(?: [\ \t~] | \\[,;:!\ ] )"
_COMMA = r"(?: ,\\! | ,\\, | , | \{,\} | \ \{,\}\ )"
_WIDE = r"(?: [\ ~] | \\[,;:!\ ] )"
_THREE = r"[0-9]{3} (?![0-9])"
_INDIAN = rf"[1-9][0-9]?+ (?: {_COMMA} [0-9]{{2}} (?![0-9]) ){{1,12}}+ {_COMMA} {_THREE}"
_ENDING = r"(?: \.[0-9]++ )?+ | [0-9]++ (?: \.[0-9]++ )?+ | \.[0-9]++ )"
_GROUPS = rf"(?: {_COMMA} {_THREE} )++ | (?: ' {_THREE} )++ | (?: _ {_THREE} )++"
# Groups of thousands ("1,234", but not "1,2,3" or "0,123"), plain digits, or decimals that begin with a point. The
# point of "42." is not included. Blanks do not group digits in a fraction's denominator.
_TIGHT = rf"(?> (?: {_INDIAN} | [1-9][0-9]{{0,2}}+ (?: {_GROUPS} ) ) {_ENDING}"
_PLAIN = rf"""(?> (?: {_INDIAN} | [1-9][0-9]{{0,2}}+ (?: {_GROUPS} | (?: {_WIDE} {_THREE} (?! / ) )++ ) ) {_ENDING}"""
_FRACTION = r"\\(?: [dtc]?frac | nicefrac | sfrac )"
_AHEAD = rf"(?= \.?[0-9] | {_FRACTION} \ {{0,2}}+ [{{0-9] )"
_HEAD = pattern(
    rf"(?: (?P<sign>{_SIGN}) (?: \\[,;:!] )?+ (?: {_CURRENCY} )?+ | {_CURRENCY} (?P<inner>{_SIGN})?+ )?+ {_AHEAD}"
)
_LOOSE_HEAD = pattern(
    rf"""(?: (?: (?P<sign>{_SIGN}) | (?P<word>minus|negative) {_BLANK} ) {_BLANK}{{0,2}}+ (?: {_CURRENCY} {_BLANK}?+ )?+
           | {_CURRENCY} {_BLANK}?+ (?P<inner>{_SIGN})?+ {_BLANK}?+ )?+ {_AHEAD}""",
    re.IGNORECASE,
)
_DIGITS = pattern(_PLAIN)
_ARGUMENT = (
    r"\ {{0,2}}+ (?: \{{ \ {{0,4}}+ (?P<{0}_sign>[-+])?+ (?: \\?\$ )?+ (?P<{0}>"
    + _PLAIN.replace("{", "{{").replace("}", "}}")
    + r") \ {{0,4}}+ \}} | (?P<{0}_digit>[0-9]) )"
)
_COMMAND = pattern(f"{_FRACTION} {_ARGUMENT.format('over')} {_ARGUMENT.format('under')}")
_REPEATING = pattern(
    r"(\.)?+ (?: \\(?: overline | bar | dot ) \ ?+ (?: \{ ([0-9]{1,9}+) \} | ([0-9]) ) | \( ([0-9]{1,9}+) \) )"
)
_POWER = pattern(rf"(?: (?: \^\{{?+ | \*\* ) {_SIGN}?+ [0-9][0-9.]*+ \}}?+ )++")
_INTEGER_POWER = pattern(rf"\^\{{?+ ({_SIGN})?+ ([0-9]++) \}}?+")
_EXPONENT = pattern(rf"[eE] ({_SIGN})?+ ([0-9]++)")
_TIMES_TEN = pattern(
    rf"{_BLANK}{{0,2}}+ (?: x | X | \* | \\times | \\cdot ) {_BLANK}{{0,2}}+ 10 \^ \{{?+ ({_SIGN})?+ ([0-9]++) \}}?+"
)
_OVER = pattern(rf"\ ?+ / \ ?+ (-)?+ ({_TIGHT}) (?! \ ?+ / \ ?+ [0-9] )")
_JOINT = pattern(rf"\ and\  | - | {_BLANK}")
_MIXED = pattern(r"([0-9]++) / ([0-9]++) (?! / | \.[0-9] )")
_TIMES_WORD = rf"((?i: hundred | thousand | million | billion | trillion | lakh | crore )) [sS]?+ (?! {WORD} )"
_MULTIPLIER = pattern(rf"[\ ~]?+ {_TIMES_WORD}")
_TEXT_MULTIPLIER = pattern(  # \text{ million dollars}
    rf"{_BLANK}{{0,2}}+ {TEXT_COMMAND} [\ ~]{{0,2}}+ {_TIMES_WORD} [^{{}}\\0-9\n]{{0,48}}+ \}}"
)
_SUFFIX = pattern(rf"( k | K | MM | mn | M | bn | Bn | BN | B ) (?! {WORD} )")
_ZEROS = {b"hundred": 2, b"thousand": 3, b"million": 6, b"billion": 9, b"trillion": 12, b"lakh": 5, b"crore": 7}
_ZEROS |= {b"k": 3, b"K": 3, b"M": 6, b"MM": 6, b"mn": 6, b"B": 9, b"bn": 9, b"Bn": 9, b"BN": 9}


def read_number(
    text: bytes, at: int, *, is_loose: bool = True, is_negative: bool = False, is_formula: bool = False
) -> tuple[str | None, int]:
    """Read the number that begins at `at`, including its sign and currency.

    Args:
        is_loose: a blank may follow the sign, and "minus" is a sign.
        is_negative: a sign precedes the number further to the left.
        is_formula: letters are symbols, so "5k" is not 5000.

    Returns:
        (canonical number, end). The end is `at` if there is no number. The number is None if the text has the form of a
            number but no canonical value: a power, a division by zero, an exponent out of range.
    """
    head = (_LOOSE_HEAD if is_loose else _HEAD).match(text, at)
    if head is None:
        return None, at
    negative = b"-" in (head["sign"], head["inner"]) or (is_loose and head["word"] is not None) or is_negative
    begin = head.end()
    if text[begin : begin + 1] == b"\\":
        command = _COMMAND.match(text, begin)
        if command is None:
            return None, at
        inner, over, under = _terms(command)
        return _ratio(negative != inner, over, under), command.end()

    plain_number = _DIGITS.match(text, begin)
    assert plain_number is not None  # the head looked ahead
    number, end = plain_number[0], plain_number.end()
    digits, scale = _digits(number)
    repeating = _REPEATING.match(text, end)
    if repeating and (repeating[1] is None) == (b"." in number) and (repeating[4] is None or repeating[1]):
        return _repeating(negative, number, repeating[2] or repeating[3] or repeating[4]), repeating.end()
    if power := _POWER.match(text, end):
        integer = _INTEGER_POWER.fullmatch(power[0])
        if number != b"10" or integer is None:
            return None, power.end()
        return _decimal(negative, b"1", _exponent(integer)), power.end()
    if exponent := _EXPONENT.match(text, end) or _TIMES_TEN.match(text, end):
        return _decimal(negative, digits, _exponent(exponent) - scale), exponent.end()
    if text[at - 1 : at] != b"/" and (ratio := _OVER.match(text, end)):  # not inside of 3/4/2020
        return _ratio(negative != (ratio[1] is not None), number, ratio[2]), ratio.end()
    if number.isdigit() and len(digits) <= MAX_TERM_DIGITS:
        part = skip(_JOINT, text, end)
        terms = None
        if part > end and (mixed := _MIXED.match(text, part)):
            terms = (False, mixed[1], mixed[2])
        elif mixed := _COMMAND.match(text, part):
            terms = _terms(mixed)
        if mixed and terms and not terms[0] and _is_below_one(*terms[1:]):
            return _ratio(negative, *terms[1:], whole=int(digits or b"0")), mixed.end()
    multiplier = _MULTIPLIER.match(text, end) or _TEXT_MULTIPLIER.match(text, end)
    if multiplier is None and not is_formula:
        multiplier = _SUFFIX.match(text, end)
    if multiplier:
        zeros = _ZEROS.get(multiplier[1]) or _ZEROS[multiplier[1].lower()]
        return _decimal(negative, digits, zeros - scale), multiplier.end()
    return _decimal(negative, digits, -scale), end


def _is_minus(sign: bytes | None) -> bool:
    return sign == b"-"


def _terms(command: re.Match[bytes]) -> tuple[bool, bytes, bytes]:
    """Return (negative, numerator, denominator) of a LaTeX fraction."""
    over, under = command["over"] or command["over_digit"], command["under"] or command["under_digit"]
    return _is_minus(command["over_sign"]) != _is_minus(command["under_sign"]), over, under


def _is_below_one(over: bytes, under: bytes) -> bool:
    """Whether over / under, both plain digits, is a proper fraction and not 0."""
    over, under = over.lstrip(b"0"), under.lstrip(b"0")
    return over.isdigit() and under.isdigit() and (len(over), over) < (len(under), under)


def _digits(plain_number: bytes) -> tuple[bytes, int]:
    """Return (digits, scale) with number = digits / 10^scale, without leading zeros and trailing decimal zeros."""
    whole, _, decimals = plain_number.partition(b".")
    decimals = decimals.rstrip(b"0")
    return (re.sub(rb"[^0-9]", b"", whole) + decimals).lstrip(b"0"), len(decimals)


def _exponent(found: re.Match[bytes]) -> int:
    """A power of ten, limited to a value far outside the accepted range."""
    digits = found[2].lstrip(b"0")
    size = int(digits or b"0") if len(digits) <= 6 else 10**6
    return -size if _is_minus(found[1]) else size


def _decimal(negative: bool, digits: bytes, power: int) -> str | None:
    """Return the canonical spelling of digits * 10^power; None if it is longer than MAX_NUMBER."""
    if not digits:
        return "0"
    text = digits.rstrip(b"0").decode()
    power += len(digits) - len(text)
    point = len(text) + power  # position of the decimal point, counted from the first digit
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
    """Return the canonical spelling of whole + over / under: a terminating decimal, else the reduced fraction."""
    (a, a_scale), (b, b_scale) = _digits(over), _digits(under)
    if not b or len(a) + b_scale > MAX_TERM_DIGITS or len(b) + a_scale > MAX_TERM_DIGITS:
        return None
    return _rational(negative, whole + Fraction(int(a or b"0") * 10**b_scale, int(b) * 10**a_scale))


def _repeating(negative: bool, number: bytes, period: bytes) -> str | None:
    """Return the canonical spelling of a decimal whose last digits, `period`, repeat."""
    whole, _, decimals = number.partition(b".")
    digits = (re.sub(rb"[^0-9]", b"", whole) + decimals).lstrip(b"0")
    if len(digits) + len(period) > MAX_TERM_DIGITS or len(decimals) + len(period) > MAX_TERM_DIGITS:
        return None
    over = int(digits + period) - int(digits or b"0")
    return _rational(negative, Fraction(over, (10 ** len(period) - 1) * 10 ** len(decimals)))


def _rational(negative: bool, value: Fraction) -> str | None:
    if value.numerator >= 10**MAX_TERM_DIGITS:
        return None
    scale, rest = 0, value.denominator
    while divisor := next((d for d in (10, 5, 2) if rest % d == 0), None):
        rest //= divisor
        scale += 1
    if rest > 1:
        return f"{'-' if negative else ''}{value.numerator}/{value.denominator}"
    return _decimal(negative, str(value.numerator * 10**scale // value.denominator).encode().lstrip(b"0"), -scale)


# Units --------------------------------------------------------------------------------------------------------------

_UNITS_1 = frozenset(b"msghlLNJWVAKCFt")
_UNITS_2 = word_set("unit_symbols")
_UNITS_3 = word_set("attached_units")
_NO_UNITS = word_set("no_units")
_SHORT = word_set("prepositions")

_LETTERS = r"(?: [A-Za-z] | [\xc3-\xdf][\x80-\xbf] )++"
_CJK = r"(?: [\xe4-\xed][\x80-\xbf][\x80-\xbf] | \xe3[\x81-\x83][\x80-\xbf] )"
_CLOSING = pattern(
    rf"""{SPACE} | [.*_`"')\]}}$,;:?~%] | \\[,;:!\ $%)\]] | \^?+\{{?+\\(?: circ | degree )(?![a-z])\}}?+
         | \^\{{?+ (?: \\(?: text | mathrm )\{{ )?+ (?: st | nd | rd | th ) \}}{{0,2}}+
         | \\right(?![a-z])\.?+ | {_CJK}"""
)
_UNIT_POWER = r"(?: \^\{?+[23]\}?+ )?+"
_UNIT_TEXT = pattern(
    rf"""{TEXT_COMMAND} (?! [\ ~]*+ (?: and | or | to | if | mod | when | where | for | i | e | x | y | n )
         (?![A-Za-z]) )
         [^{{}}\\0-9]{{0,64}}+ \}} {_UNIT_POWER}"""
)
_UNIT_WORD = pattern(rf"({_LETTERS}) (?: / {_LETTERS} )?+ {_UNIT_POWER}")
_PER_UNIT = pattern(rf"\ ?+ / \ ?+ ({_LETTERS})")


def _skip_units(text: bytes, begin: int, is_formula: bool) -> int:
    """The position after all marks and units that may follow a number, which ends at `begin`, in a box or a gold."""
    at, has_word = begin, False
    while True:
        end = skip(_CLOSING, text, at)
        if end == at:
            end = skip(_UNIT_TEXT, text, at)
        if end == at and (per := _PER_UNIT.match(text, at)):
            end = per.end() if len(per[1]) > 1 and _is_unit(per[1], False, False, is_formula) else at
        if end == at:
            word = _UNIT_WORD.match(text, at)
            if word is None or not _is_unit(word[1], at == begin, has_word, is_formula):
                return at
            end, has_word = word.end(), has_word or len(word[1]) > 2
        at = end


def _is_unit(word: bytes, is_attached: bool, has_word: bool, is_formula: bool) -> bool:
    """Whether a word after a number may be its unit. is_attached: no blank precedes it; has_word: other words do."""
    if len(word) == 1:
        return (word[0] in _UNITS_1 and not (is_attached and is_formula)) or (has_word and word == b"a")
    if len(word) == 2:
        return word in _UNITS_2 or (has_word and word in _SHORT) or word[0] in b"\xd0\xd1" or word == "Ω".encode()
    if is_attached:
        return word.lower() in _UNITS_3
    return word.lower() not in _NO_UNITS


# After a marker -----------------------------------------------------------------------------------------------------

_NAME = rf"""(?: [A-Za-z] (?: _[0-9A-Za-z] | _\{{ [0-9A-Za-z]{{1,8}}+ \}} | \([0-9A-Za-z]{{1,3}}+\) )?+
               | \\[A-Za-z]{{2,12}}+ | {TEXT_COMMAND} [A-Za-z\ ]{{1,24}}+ \}} | [A-Za-z][A-Za-z\ ]{{1,23}}+ \}}
               | (?: [A-Za-z]{{2,15}}+ \  ){{0,4}} [A-Za-z]{{4,20}}+ ) {_BLANK}{{0,2}}+ (?: = | \\approx (?![a-z]) )"""
_PLAIN_DECORATION = rf"""\\(?: text | mathrm )\{{ [\ ~]?+
      (?: \\?\$ | Rs\.?+ | USD | EUR | GBP | INR | approximately | approx\.?+ | about ) [\ ~]?+ \}}
    | {SPACE} | [-=]> | [*_`"'(\[{{$:~=] | \\[(\[\ ,;:!$] | {TEXT_COMMAND} | \\underline\{{
    | \\(?: approx | left | displaystyle )(?![a-z]) | <<[^<>]{{0,64}}+>>
    | (?: Rs | USD | EUR | GBP | INR | US ) \.?+ \ ?+ (?= -?[0-9$] )"""
_BEFORE = pattern(rf"(?: {_NAME} | {_PLAIN_DECORATION} ){{0,32}}+")
_FILLER = pattern(
    rf"""(?: therefore | thus | then | hence | indeed | simply | just | exactly | precisely | only | about
           | approximately | approx | around | roughly | nearly | almost | actually | clearly | also | still
           | now | circa
           | it\ is | it's | this\ is | equal\ to | equals | a\ total\ of | given\ by | found\ to\ be | to\ be )
         (?! {WORD} | - ) [,.]?+""",
    re.IGNORECASE,
)
_BULLET = pattern(rf"-{_BLANK}")


def number_after_marker(line: bytes, at: int, is_heading: bool = False) -> tuple[str | None, bool]:
    """Read the number that `line` has at `at`, after a marker.

    Args:
        line: text up to the end of the window that may contain the value.
        is_heading: the marker is "####", which may begin a numbered heading.

    Returns:
        (canonical number, whether the text has the form of a number).
    """
    text = plain(line[at:])
    if is_heading and _is_heading(text) and not ends_with(_NO_HEADING_AFTER, line, at):
        return None, True
    begin = skip(_BULLET, text, 0) if _ends_line(line, at) else 0
    begin = _value_begin(text, begin)
    value, end = read_number(text, begin)
    if end == begin:
        return None, _FORMULA.match(text, begin) is not None
    return None if _goes_on(text, end, is_heading) else value, True


def _value_begin(text: bytes, at: int) -> int:
    """Return where the value begins: after marks, fillers ("therefore", "about"), "x =" and "2 + 3 ="."""
    at = skip(_BEFORE, text, at)
    for _ in range(3):
        at = skip(_BEFORE, text, skip(_FILLER, text, at))
    return _right_hand_end(text, at)


def _ends_line(line: bytes, at: int) -> bool:
    """Whether only blanks precede `at` on its line."""
    begin = at
    while at - begin < 32 and line[begin - 1 : begin] in (b" ", b"\t"):
        begin -= 1
    return line[begin - 1 : begin] == b"\n"


_NO_HEADING_AFTER = pattern(r"[$={] | £ | € | ¥ | ₹ | ≈ | \\\( | \\\[")
_SECTION = r"([0-9]{1,2}+) (?: [./] [0-9]{1,2}+ ){0,3}+ (?![0-9])"
_INITIAL = rf"(?: [A-Za-z] | [\xc3-\xdf][\x80-\xbf] | {_CJK} )"
_HEADINGS = (
    # 1. Count, (1) Add, 1: Setup, _1._ Add, 1. **Find**
    pattern(
        rf"""{_SECTION} [*_"'`]{{0,4}}+ \ ?+ \\?+ [.):\]|] [*_"'`)\].:]{{0,4}}+
             (?: {_BLANK}{{0,4}}+ [*_"'`(\[]{{0,4}}+ {_INITIAL} | {_BLANK}{{1,4}}+ \$?+ [0-9] )"""
    ),
    # 1st step
    pattern(
        rf"""{_SECTION} (?: st | nd | rd | th ) [*_"'`)\].:]{{0,4}}+ {_BLANK}{{1,4}}+ [*_"'`]{{0,4}}+ {_INITIAL}"""
    ),
    # 5 Add the numbers; but 5 Apples, 5 Apples in total
    pattern(
        rf"""{_SECTION} [*_"'`]{{0,4}}+ {_BLANK}{{1,4}}+ [*_"'`]{{0,4}}+ [A-Z][a-z]++ \ {{1,4}}+
             (?! (?: in | per | left | each | total | remaining | remain | of | are | and | were | is | was | will
                     | more | altogether | a | an ) (?! {WORD} ) ) [A-Za-z]"""
    ),
    # 1 - Find the cost; but 18 - final
    pattern(rf"""{_SECTION} [*_"'`]{{0,4}}+ {_BLANK}{{1,4}}+ (?: --?+ | — ) {_BLANK}{{1,4}}+ [*_"'`]{{0,4}}+ [A-Z]"""),
)


def _is_heading(text: bytes) -> bool:
    """Whether the text is a numbered heading ("1. Count the apples") rather than a value."""
    found = (heading.match(text) for heading in _HEADINGS)
    return any(one is not None and int(one[1]) <= MAX_HEADING for one in found)


# Expressions: the value of "8 bolts * 2 bolts/bolt = 16 bolts" is its right-hand side.
_ROOT = pattern(rf"\\?+sqrt \ ?+ (?: [{{(] {_PLAIN} [)}}] | {_PLAIN} )")
_POSTFIX = pattern(
    rf"""! | [\ ~]?+ / [\ ~]?+ (?: [A-Za-z]{{2}} [A-Za-z]*+ | [hs] (?![A-Za-z]) ) | \\?+% | \^\{{?+ [-0-9]++ \}}?+
         | [)\]}}$] | \\[)\],;:!] | {TEXT_COMMAND} [^{{}}\\0-9]{{0,64}}+ \}}"""
)
_OPERATOR = pattern(
    rf"""{_BLANK}{{0,4}}+ (?: (?: \\(?: times | cdot | div )(?![a-z]) | --?+ | [+*/] | [xX](?=[\ ~]?[0-9($.])
          | (?: of | at | plus | minus | times | and | (?: divided | multiplied )\ by ) (?! {WORD} ) )
         {_BLANK}{{0,4}}+ )"""
)
_EQUALS = pattern(
    rf"""{_BLANK}{{0,4}}+ (?: (=) =?+ >?+ | (equals) (?! {WORD} )
         | (?: \\approx (?![a-z]) | (?: ,?+ \ ?+ which\  )?+ is (?! {WORD} )
             | ,?+ \ ?+ which\ (?: equals | gives | makes ) (?! {WORD} ) ) )"""
)
_TERM_WORD = pattern(r"[\ ~]{0,2}+ ([A-Za-z]++) (?: [/-] [A-Za-z]++ )?+ (?: \^ \{?+[0-9]\}?+ )?+")
_NEXT_PART = pattern(r",?+ \ (?=[0-9])")
_PRODUCT = pattern(r"\(")
_NO_TERM_WORDS = word_set("no_term_words")


def _right_hand_end(text: bytes, begin: int) -> int:
    """Return where the value of the expression at `begin` begins: at its last side that is a single term.

    If no side is a single term, the value begins after the last "="; without an "=" it begins at `begin`.
    """
    side, single = begin, None  # where this side, and the last single-term side, begin
    at, has_operator, is_sum = begin, False, False
    for _ in range(MAX_TERMS):
        term = skip(_BEFORE, text, at)
        end = _term_end(text, term)
        if end == term:
            return side if single is None else single
        if not is_sum:
            side = term
        at, has_words = _past_term_words(text, end)
        equals = _EQUALS.match(text, at)
        if equals is not None and (has_operator or equals[1] is not None or equals[2] is not None):
            single = single if is_sum else side
            at, is_sum = equals.end(), False
            continue
        operator = _OPERATOR.match(text, at)
        if operator is None:  # (3)(4) = 12, 2 hours 30 minutes = 150 minutes
            operator = _PRODUCT.match(text, at) or (_NEXT_PART.match(text, at) if has_words else None)
        if operator is None:
            break
        at, has_operator, is_sum = operator.end(), True, True
    return side if single is None or not is_sum else single


def _term_end(text: bytes, at: int) -> int:
    """Return the end of the digits, fraction or root of a term; `at` if there is none."""
    root = _ROOT.match(text, at)
    if root is not None:
        return root.end()
    head = _LOOSE_HEAD.match(text, at)
    if head is None:
        return at
    if text[head.end() : head.end() + 1] == b"\\":
        command = _COMMAND.match(text, head.end())
        return command.end() if command else at
    return skip(_EXPONENT, text, skip(_DIGITS, text, head.end()))


def _past_term_words(text: bytes, at: int) -> tuple[int, bool]:
    """Skip "!", "%", powers, closing brackets and at most three words. Return also whether there were words."""
    num_words = 0
    for _ in range(12):
        end = skip(_POSTFIX, text, at)
        if end == at and num_words < 3 and _OPERATOR.match(text, at) is None:
            word = _TERM_WORD.match(text, at)
            if word is not None and word[1].lower() not in _NO_TERM_WORDS:
                is_symbol = len(word[1]) == 1 and word[1][0] not in _UNITS_1 and word[1] not in (b"k", b"M", b"B")
                end = at if is_symbol else word.end()
                num_words += not is_symbol
        if end == at:
            break
        at = end
    return at, num_words > 0


# A number that continues is not a value: 3:45, 10-12, 1,2,3, "2 hours 30 minutes", "16 (ducks) * 3 (muffins)".
_NUMBER_AHEAD = r"(?: \\?\$ )?+ -?+ \.?+ [0-9]"
_WHOLE_UNITS = rf"(?: {_alternatives('whole_units')} ) (?![A-Za-z])"
_KNOWN_COMMANDS = rf"(?: {_alternatives('plain_commands')} ) (?![A-Za-z])"
_SYMBOL_COMMAND = rf"\\ (?! {_KNOWN_COMMANDS} ) [A-Za-z]{{2}}"
_GOES_ON = pattern(
    rf"""{_COMMA} [\ ~]{{0,2}}+ [0-9] | {_BLANK}{{1,4}}+ [0-9] | ['_;] \ ?+ [0-9] | _\{{
       | : [0-9] | \ :\ [0-9] | \ ?+ / \ ?+ [0-9] | \.[0-9] | \([0-9]++\)(?!{WORD}) | \)\([0-9]
       | \ ?+ \( [^()\n]{{1,60}}+ \) \ ?+ (?: [*+/] | \\times | \\cdot | -(?=\ ) ) \ ?+ [0-9($]
       | \ ?+ (?: [-=]> \ ?+ [0-9] | \+/?+- )
       | \^ (?! \{{?+ (?: \\(?: circ | degree ) | (?: \\(?: text | mathrm )\{{ )?+ (?: st | nd | rd | th ) ) )
       | \^\{{?+\\circ\}}?+ \ {{0,2}}+ [0-9]
       | {_BLANK}{{0,2}}+ {_SYMBOL_COMMAND}
       | \ ?+ [-+*] \ ?+ [0-9]*+ (?: {_SYMBOL_COMMAND} | [b-zB-HJ-Z] (?! {WORD} | ['.] ) )
       | ,?+ \ (?: (?: and | or ) \  )?+ [A-Za-z] \ ?+ =
       | [\ ~][xyz] (?! [\ ~]?[0-9($] | {WORD} )
       | \ ?+ [<>]=?+ \ [A-Za-z] (?! {WORD} )
       | (?: \\?+% | [\ ~]?+ {_WHOLE_UNITS} )?+
         (?: - (?: \\?\$ )?+ [0-9] | \ ?+ -- \ ?+ {_NUMBER_AHEAD}
           | \ (?: to | through | versus | vs\.?+ ) \ {_NUMBER_AHEAD} )
       | (?: \\?+% | [\ ~]?+ (?! (?: and | or ) \  ) [A-Za-z]{{1,15}}+ )?+ ,?+ \ (?: and | or | & ) \ {_NUMBER_AHEAD}
       | (?: [\ ~]?+ {_WHOLE_UNITS} )?+ \ and\ (?: a | one )\ (?: half | third | quarter ) (?! {WORD} )
       | [\ ~]?+ {_WHOLE_UNITS} [.,]?+ \ {{0,2}}+ (?: and\  )?+ [0-9]"""
)
# "16.7, which is rounded up to 17", but "3.14 (rounded to 2 decimal places)"; "16... no, 18".
_CORRECTED = pattern(
    rf"""(?: [\ ,(~]{{1,3}}+ (?! round ) [A-Za-z]{{1,15}}+ ){{0,4}}+ [\ ,(~]{{1,3}}+ round (?: s | ed | ing )?+
         \ (?: (?: up | down | off | it )\  ){{0,2}}+ to \ {_NUMBER_AHEAD} [0-9.,]*+
         (?! \ (?: decimal | significant | sig | place | digit | dp | d\.p ) )
       | (?: \.\.\.?+ | \ ?+ [,;(?!] | \ ?+ -{{1,2}}+ \  | \ ?+ — ) \ {{0,2}}+
         (?: no | wait | oops | sorry | hmm )
         (?: [,.!] | \ (?: wait | it | that | actually | sorry | I ) (?! {WORD} ) )"""
)
_ATTACHED = pattern(r"[A-Za-z]++")
_FACTOR = pattern(r"[xX] [\ ~]?+ [0-9($.]")
_FUNCTION = pattern(r"(?: sin | cos | tan | cot | csc | log | sqrt | exp )", re.IGNORECASE)
_FACTORIAL = pattern(r"! (?! [=!] )")


def _goes_on(text: bytes, end: int, is_heading: bool) -> bool:
    """Whether the text after a number makes it part of something longer: a range, a list, a time, a formula."""
    if _GOES_ON.match(text, end) or _CORRECTED.match(text, end):
        return True
    if is_heading and _FACTORIAL.match(text, end):
        return _SMALL.fullmatch(text, max(end - 2, 0), end) is not None and not text[:end][-3:-2].isdigit()
    word = _ATTACHED.match(text, end)
    if word is None or not text[end - 1 : end].isdigit() or _FACTOR.match(text, end):
        return False
    if len(word[0]) > 3:
        return _FUNCTION.match(word[0]) is not None
    return not _is_unit(word[0], True, False, False)


_SMALL = pattern(r"[^0-9]?[0-9] | 1[0-9] | 20")

# The beginning of a formula that is not a number: \sqrt{2}, x^2 + 1, > 5.
_FORMULA = pattern(
    rf"""[-+]?+ \ ?+ (?: \\ (?! (?: boxed | fbox | quad | qquad | text | textbf | textit | mathrm | mathbf | mathit
                                  | mbox | hspace | therefore | because | rightarrow | Rightarrow | implies
                                  | n | t ) (?![A-Za-z]) )
                         (?: [A-Za-z]{{2}} | [{{|] )
                       | (?: sqrt | ln | log | sin | cos | tan | exp | pi | infinity | undefined ) (?![A-Za-z])
                       | [A-Za-z] \ ?+ (?: [-+*/^] | \*\* ) \ ?+ [0-9a-z\\({{] (?![A-Za-z])
                       | [A-Za-z] \^ | [A-Za-z] \ ?+ {_SYMBOL_COMMAND} | [A-Za-z] , \ ?+ [A-Za-z] \)
                       | /?+ - \ ?+ {_NUMBER_AHEAD} | between \ {_NUMBER_AHEAD}
                       | (?: [A-Za-z] \ ?+ )?+ [<>]=?+ \ ?+ {_NUMBER_AHEAD} )"""
)


# Boxes and golds ----------------------------------------------------------------------------------------------------


def whole_number(text: bytes, *, is_formula: bool = False) -> tuple[str | None, bool]:
    """Read a text that is one number and its units.

    Args:
        is_formula: a letter right after the digits is a symbol ("5k", "3m"), as in the boxed format.

    Returns:
        (canonical number, whether the text has the form of a number).
    """
    text = plain(text)
    begin = _value_begin(text, 0)
    value, end = read_number(text, begin, is_formula=is_formula)
    is_number = end > begin and _skip_units(text, end, is_formula) == len(text)
    return (value, True) if is_number else (None, False)


# The last number ----------------------------------------------------------------------------------------------------

_LEAD = pattern(r"[-0-9.$\\]")  # bytes that can begin a number: a fast filter
_NO_SIGN_AFTER = pattern(rf"{WORD} | [)\]}}%-]")  # a minus sign after these subtracts
_RUN = pattern(r"\.?[0-9]*+ (?: \.[0-9]++ )*+")
# A product of which the next number is a factor.
_FACTOR_BEFORE = pattern(r"[0-9%$)}] [\ ~]{0,2}+ (?: [*xX] | \\times | \\cdot ) [\ ~]{0,2}+ \Z")
# The text before the 56 of 1.234,56 or the 000 of 1.000.000.
_PART_BEFORE = pattern(r"(?: (?<! [0-9.,] ) [0-9]{1,3}+ (?: \.[0-9]{3} ){0,3}+ , | [0-9]\. ) \Z")
_LABEL_BEFORE = pattern(r"(?<! [0-9A-Za-z_\x80-\xff] ) (?i: step | steps | case | equation | figure ) [\ ~] [(\#]?+ \Z")
_MARKS_BEFORE = pattern(r"\n [\ \t*_>\#(\[-]{0,12}+ \Z")
_ITEM = pattern(rf"[0-9]{{1,2}}+ [.)\]]{{1,2}}+ [*_]{{0,4}}+ [\ \t]{{1,4}}+ [*_`\"'(]{{0,4}}+ {WORD} (?<! [0-9] )")
_NEGATED = pattern(
    r"""(?: (?<! [0-9A-Za-z_\x80-\xff] ) negative [\ ~]
           | (?: (?<! [0-9A-Za-z_\x80-\xff] ) (?: is | was | to | at | by | be | of ) [\ ~]{1,2}
             | = [\ ~]{0,2} ) minus [\ ~]
           | = [\ ~]{0,2} - [\ ~]{1,2} ) \Z""",
    re.IGNORECASE,
)


def last_number(text: bytes, spared: Sequence[tuple[int, int]] = ()) -> str | None:
    """Return the last number that stands by itself: not part of a word (x2, CO2), an exponent, a subscript or a label.

    The result is None if that number is a factor of an unevaluated product ("which is $80,000 x 150%") or may be part
    of a longer number (1.234,56).

    Args:
        spared: (begin, end) of the parts of the text to ignore.
    """
    for begin, end in spared:
        text = text[:begin] + b"\n" * (end - begin) + text[end:]
    text = plain(text)
    last, at = None, 0
    while lead := _LEAD.search(text, at):
        at = lead.start()
        head = _HEAD.match(text, at)
        is_bare = head is not None and head.end() == at
        in_word = ends_with(_WORD, text, at)
        if (
            head is None
            or (head["sign"] is not None and ends_with(_NO_SIGN_AFTER, text, at))
            or (is_bare and text[at : at + 1] == b"." and (in_word or text[at - 1 : at] == b"."))
        ):
            at += 1
        elif (is_bare and in_word) or text.endswith((b"^", b"^{", b"_{"), 0, at) or (is_bare and _is_label(text, at)):
            at = max(skip(_RUN, text, head.end()), at + 1)
        else:
            is_negative = _NEGATED.search(text[max(at - 24, 0) : at]) is not None
            value, end = read_number(text, at, is_loose=False, is_negative=is_negative)
            if value is not None:
                is_part = _FACTOR_BEFORE.search(text, max(at - 16, 0), at) or _PART_BEFORE.search(
                    text[max(at - 20, 0) : at]
                )
                last = None if is_part else value
            at = max(end, at + 1)
    return last


def _is_label(text: bytes, at: int) -> bool:
    """Whether the digits at `at` are a label ("step 3") or number a list item ("2. Subtract the eaten ones")."""
    if _LABEL_BEFORE.search(text[max(at - 16, 0) : at]):
        return True
    return _ITEM.match(text, at) is not None and _MARKS_BEFORE.search(text[max(at - 14, 0) : at]) is not None
