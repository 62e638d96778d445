"""Names that have been replaced. They are accepted, with a DeprecationWarning, for one release."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

SETTINGS = {
    "max_rows": "max_num_seqs",
    "prefill_chunk": "max_num_batched_tokens",
    "window": "max_concurrent_trajectories",
    "num_blocks": "num_kv_blocks",
    "format": "answer_format",
    "think": "answer_reading",
}
"""Settings, keyword arguments and options of the command line: old name to new name."""

COMMANDS = {"force": "loglikelihood"}
"""Commands of the command line: old name to new name."""

_T = TypeVar("_T")


def current(values: Mapping[str, Any], names: Mapping[str, str] = SETTINGS) -> dict[str, Any]:
    """A mapping with old keys replaced by current ones and without a warning: for what an older version stored."""
    return {names.get(key, key): value for key, value in values.items()}


def accept(values: Mapping[str, Any], names: Mapping[str, str] = SETTINGS, *, stacklevel: int = 3) -> dict[str, Any]:
    """Keyword arguments with old names replaced by current ones; every replacement warns.

    Raises:
        TypeError: an old name and its replacement are both given.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        new = names.get(key, key)
        if new != key:
            if new in values:
                raise TypeError(f"{key} is the old name of {new}; give only {new}.")
            warn(key, new, stacklevel=stacklevel + 1)
        found[new] = value
    return found


def warn(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn that `old` is now called `new`."""
    warnings.warn(sentence(old, new), DeprecationWarning, stacklevel)


def sentence(old: str, new: str) -> str:
    """The warning for users of an old name."""
    return f"{old} is now called {new}; the old name will be removed in the next release."


def renamed(**names: str) -> Callable[[_T], _T]:
    """Let a function, or a class's constructor and attributes, go by old names too.

    Args:
        names: old name to new name. A function takes the old keywords; a class also has the old attributes.
    """

    def decorate(target: Any) -> Any:
        if isinstance(target, type):
            target.__init__ = _accepting(target.__init__, names)  # type: ignore[misc]
            for old, new in names.items():
                setattr(target, old, _alias(old, new))
            return target
        return _accepting(target, names)

    return decorate


def _accepting(function: Any, names: Mapping[str, str]) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs.keys() & names.keys():
            kwargs = accept(kwargs, names)
        return function(*args, **kwargs)

    return call


def _alias(old: str, new: str) -> property:
    def read(self: Any) -> Any:
        warn(old, new)
        return getattr(self, new)

    return property(read)
