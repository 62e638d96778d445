"""Chat templates: what one writes for some turns, on which date, and which of its variables it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from fastsia.errors import FastsiaError

Turns = Sequence[Mapping[str, str]]

_CLOCK = "strftime_now"
# transformers gives templates a clock that reads the day's date; a macro of the same name stands before it. (What a
# caller passes as a variable is made plain data, so that no function could be passed.) The template begins on a line of
# its own: the environment strips blanks before blocks at the beginning of a line.
_FIXED_CLOCK = (
    "{%- macro strftime_now(format) -%}"
    "{%- set fixed = namespace(text=format) -%}"
    "{%- for directive, value in fastsia_date.items() -%}"
    "{%- set fixed.text = fixed.text | replace(directive, value) -%}"
    "{%- endfor -%}"
    "{{- fixed.text -}}"
    "{%- endmacro %}\n"
)
_DIRECTIVES = [f"%-{letter}" for letter in "deHIjklmMSUVWy"] + [
    f"%{x}" for x in "aAbBcCdDeFfgGhHIjklmMnprRsStTuUVwWxXyYzZ"
]
_NO_DIRECTIVE = "\x00"
# They differ in every part of a date: a template that reads one writes two texts.
_TWO_DATES = ("2001-02-03", "2012-11-30")


def today() -> str:
    """The local date as YYYY-MM-DD."""
    return date.today().isoformat()


def render(tokenizer: Any, turns: Turns, variables: Mapping[str, Any], template_date: str | None = None) -> str:
    """What the tokenizer's chat template writes for these turns and the beginning of the answer.

    variables: more names for the template. template_date: the date, at midnight, that it gets where it asks for one
    (`strftime_now`, or `date_string` as Llama's write it: "26 Jul 2024"); None is today, and no `date_string`.

    Raises FastsiaError: the template fails.
    """
    if template_date is None:
        return _render(tokenizer, turns, variables, _day(today()))
    day = _day(template_date)
    return _render(tokenizer, turns, {"date_string": day.strftime("%d %b %Y"), **variables}, day)


def asks_for_date(tokenizer: Any, turns: Turns, variables: Mapping[str, Any]) -> bool:
    """Whether the template writes the day's date: another text on another day."""
    source = _source(tokenizer)
    if source is None or _CLOCK not in source:
        return False
    one, other = (_render(tokenizer, turns, variables, _day(day)) for day in _TWO_DATES)
    return one != other


def reads_date(tokenizer: Any, turns: Turns, variables: Mapping[str, Any]) -> bool:
    """Whether the template writes the date that it is given, by either name."""
    one, other = (render(tokenizer, turns, variables, day) for day in _TWO_DATES)
    return one != other


def reads(tokenizer: Any, turns: Turns, variables: Mapping[str, Any], name: str, template_date: str | None) -> bool:
    """Whether a variable decides anything in what the template writes: it writes, or refuses, something else where the
    variable has another value or is not there."""
    value = variables[name]
    rest = {key: item for key, item in variables.items() if key != name}
    others = [{name: not value}] if isinstance(value, bool) else [{name: f"{value}0"}, {name: None}]
    given = render(tokenizer, turns, variables, template_date)
    for other in [{}, *others]:
        try:
            if render(tokenizer, turns, rest | other, template_date) != given:
                return True
        except FastsiaError:
            return True
    return False


def _render(tokenizer: Any, turns: Turns, variables: Mapping[str, Any], day: datetime) -> str:
    options = dict(variables)
    try:
        source = _source(tokenizer)
        if source is not None and _CLOCK in source:
            options |= {"chat_template": _FIXED_CLOCK + source, "fastsia_date": _directives(day)}
        text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True, **options)
    except Exception as error:  # a template is a program of the model's authors: it may raise anything
        raise FastsiaError(f"The tokenizer's chat template failed: {error}") from error
    return str(text)


def _source(tokenizer: Any) -> str | None:
    """The template's text; None where a tokenizer does not say it."""
    find = getattr(tokenizer, "get_chat_template", None)
    source = getattr(tokenizer, "chat_template", None) if find is None else find()
    return source if isinstance(source, str) else None


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _directives(now: datetime) -> dict[str, str]:
    """What each directive of strftime stands for; in the order in which they are replaced."""
    found = {"%%": _NO_DIRECTIVE}
    for directive in _DIRECTIVES:
        try:
            found[directive] = now.strftime(directive)
        except ValueError:  # not one of this system's
            continue
    return found | {_NO_DIRECTIVE: "%"}
