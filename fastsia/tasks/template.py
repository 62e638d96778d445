"""Renders chat templates, with a given date, and detects which variables a template reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from fastsia.errors import FastsiaError

Turns = Sequence[Mapping[str, str]]

_CLOCK = "strftime_now"
# transformers provides templates with a clock function; a macro of the same name shadows it. (A function cannot be
# passed as a variable, because variables become plain data.) The template begins on a new line: the environment strips
# blanks before blocks at the beginning of a line.
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
# These dates differ in every part, so a template that reads the date writes two texts.
_TWO_DATES = ("2001-02-03", "2012-11-30")


def today() -> str:
    """Return the local date as YYYY-MM-DD."""
    return date.today().isoformat()


def render(tokenizer: Any, turns: Turns, variables: Mapping[str, Any], template_date: str | None = None) -> str:
    """Render the tokenizer's chat template for these turns and the beginning of the answer.

    Args:
        variables: further variables of the template.
        template_date: the date, at midnight, for templates that ask for one (`strftime_now`, or `date_string` as in
            Llama's: "26 Jul 2024"); None is today, without `date_string`.

    Raises:
        FastsiaError: if the template fails.
    """
    if template_date is None:
        return _render(tokenizer, turns, variables, _day(today()))
    day = _day(template_date)
    return _render(tokenizer, turns, {"date_string": day.strftime("%d %b %Y"), **variables}, day)


def asks_for_date(tokenizer: Any, turns: Turns, variables: Mapping[str, Any]) -> bool:
    """Return whether the text of the template depends on today's date."""
    source = _source(tokenizer)
    if source is None or _CLOCK not in source:
        return False
    one, other = (_render(tokenizer, turns, variables, _day(day)) for day in _TWO_DATES)
    return one != other


def reads_date(tokenizer: Any, turns: Turns, variables: Mapping[str, Any]) -> bool:
    """Return whether the text of the template depends on the given date, under either name."""
    one, other = (render(tokenizer, turns, variables, day) for day in _TWO_DATES)
    return one != other


def reads(tokenizer: Any, turns: Turns, variables: Mapping[str, Any], name: str, template_date: str | None) -> bool:
    """Return whether a variable affects the template.

    That is so if the text or the refusal differs when the variable has another value or is missing.
    """
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
    except Exception as error:  # a template is a program by the model's authors: it may raise anything
        raise FastsiaError(f"The tokenizer's chat template failed: {error}") from error
    return str(text)


def _source(tokenizer: Any) -> str | None:
    """The source of the template; None if the tokenizer does not provide it."""
    find = getattr(tokenizer, "get_chat_template", None)
    source = getattr(tokenizer, "chat_template", None) if find is None else find()
    return source if isinstance(source, str) else None


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _directives(now: datetime) -> dict[str, str]:
    """The value of each directive of strftime, in the order in which they are replaced."""
    found = {"%%": _NO_DIRECTIVE}
    for directive in _DIRECTIVES:
        try:
            found[directive] = now.strftime(directive)
        except ValueError:  # not supported on this system
            continue
    return found | {_NO_DIRECTIVE: "%"}
