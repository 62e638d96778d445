"""Options of the command line: made from the declared settings, grouped in the help, and read from their texts."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from fastsia.config import SETTINGS, EngineOptions, ModelOptions, Setting, checked, declared, fields_of, setting
from fastsia.errors import FastsiaError

MAIN, OUTPUT = "Model and task", "Output"
GROUPS = (
    *("Arguments", MAIN, "Sampling", "Answers", OUTPUT, "Prompt", "Data", "Statistics", "Weights", "Engine"),
    *("Ray (--executor ray)", "Server (--backend openai)", "vLLM (--backend vllm)", "Other"),
)
"""Headings of the help, the most used first."""


TableForm = Literal["text", "markdown", "json"]


@checked
class OutputOptions:
    """Output of `fastsia run`: report, table, trackers, profile."""

    report: bool = setting(True, group=OUTPUT)
    """Draw figures and report.html."""
    table: TableForm = setting("text", group=OUTPUT)
    """How the numbers are printed: as a table, as Markdown, or as JSON (then nothing else on standard output)."""
    wandb_args: Mapping[str, Any] | None = setting(None, group=OUTPUT)
    """Log the run to wandb: arguments of its init, such as project=p."""
    trackio_args: Mapping[str, Any] | None = setting(None, group=OUTPUT)
    """Log the run to trackio: arguments of its init."""
    profile: bool = setting(False, group=OUTPUT)
    """Time the parts of each step; print their shares, and write trace.json for ui.perfetto.dev."""


OPTIONS: Mapping[str, Setting] = {**SETTINGS, **declared(OutputOptions)}
NATIVE = fields_of(ModelOptions, EngineOptions)
"""Settings of the native backend."""


class GroupedCommand(TyperCommand):
    """A command whose help lists its options under the headings `GROUPS`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for param in self.get_params(ctx):
            group = "Arguments" if param.param_type_name == "argument" else getattr(param, "rich_help_panel", None)
            record = param.get_help_record(ctx)
            if record is not None:
                sections[group or "Other"].append(record)
        for group, records in sections.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def option(help: str, *names: str, group: str = MAIN, metavar: str | None = None) -> Any:
    """An option that belongs to one command and is not a setting."""
    return typer.Option(*names, help=help, rich_help_panel=group, metavar=metavar, show_default=False)


def takes(*wanted: type | str, but: tuple[str, ...] = (), unset: str = "") -> Callable[[Callable[..., None]], Any]:
    """Add the options of settings to a command, which receives the given values as keyword arguments.

    Args:
        wanted: classes of settings and names of single ones.
        but: names to leave out.
        unset: in words, what applies where a setting is not given, instead of its default.
    """
    names = [name for one in wanted for name in ((one,) if isinstance(one, str) else fields_of(one)) if name not in but]

    def decorate(command: Callable[..., None]) -> Any:
        @functools.wraps(command)
        def call(**values: Any) -> None:
            given = {name: value for name, value in values.items() if name not in names or value is not None}
            for name, parse in _PARSERS.items():
                if given.get(name) is not None:
                    given[name] = parse(f"--{name}", given[name])
            command(**given)

        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        settings = [_parameter(OPTIONS[name], unset) for name in names]
        call.__signature__ = signature.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
        return call

    return decorate


def _parameter(setting: Setting, unset: str) -> inspect.Parameter:
    kind = bool if setting.type is bool else str
    switch = f"/--no_{setting.name}" if kind is bool and setting.default is not False else ""
    default = unset or ("" if setting.default is False else setting.default_text)
    declared = option(
        f"{setting.help} [default: {default}]" if default else setting.help,
        f"--{setting.name}{switch}",
        *setting.aliases,
        group=setting.group,
        metavar=f"[{'|'.join(setting.words)}]" if setting.words else _METAVARS.get(setting.type),
    )
    annotation = Annotated[kind | None, declared]  # type: ignore[valid-type]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


# --- values as text --------------------------------------------------------------------------------------------


def names_in(option: str, text: str) -> list[str]:
    """The distinct names of a comma-separated list."""
    names = list(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
    if not names:
        raise FastsiaError(f"{option} names no {option.strip('-').removesuffix('s')}.")
    return names


def pairs_in(option: str, text: str) -> dict[str, str]:
    """name=value,name=value with values as text."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = next((name for name, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise FastsiaError(f"{option} must be name=value,name=value, got {wrong!r}.")
    return {name.strip(): value.strip() for name, _, value in pairs}


def arguments_in(option: str, text: str) -> dict[str, Any]:
    """name=value,name=value, or a JSON object where a value contains a comma; values are JSON or else text."""
    if not text.lstrip().startswith("{"):
        return {name: _value(value) for name, value in pairs_in(option, text).items()}
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise FastsiaError(f"{option} is not JSON: {error}.") from error
    except RecursionError as error:
        raise FastsiaError(f"{option} is JSON nested too deeply.") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except (ValueError, RecursionError):
        return text


def _marks_in(option: str, text: str) -> tuple[str, str]:
    opening, _, closing = (part.strip() for part in text.partition(","))
    if not opening or not closing or "," in closing:
        raise FastsiaError(f"{option} must be OPEN,CLOSE, as <think>,</think>, got {text!r}.")
    return opening, closing


def _number_in(kind: type[int] | type[float]) -> Callable[[str, str], Any]:
    """Return a reader of an int or a float; it returns another text as it is, and the setting's check refuses it."""

    def read(_: str, text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            return text

    return read


_METAVARS: Mapping[Any, str] = {int: "<int>", float: "<float>"}
_PARSERS: dict[str, Callable[[str, str], Any]] = {
    **{name: _number_in(found.type) for name, found in OPTIONS.items() if found.type in _METAVARS},
    "chat_template_args": arguments_in,
    "columns": pairs_in,
    "model_args": arguments_in,
    "think_tags": _marks_in,
    "trackio_args": arguments_in,
    "wandb_args": arguments_in,
}
