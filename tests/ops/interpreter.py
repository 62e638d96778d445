"""Triton's interpreter, faster: its language is patched once per launch and module, not at every function's call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from triton.runtime import interpreter


def patch_once_per_launch() -> None:
    """Replace the interpreter's `_patch_lang`.

    The interpreter replaces some hundred functions of `triton.language` when a kernel is launched, and again whenever
    a kernel calls a function, where all of them are replaced already: most of its time. A launch ends with `restore`
    of the scope that it has got; calls in between restore nothing.
    """
    plain: Callable[[Any], interpreter._LangPatchScope] = interpreter._patch_lang
    patched: set[int] = set()

    class Scope(interpreter._LangPatchScope):
        def restore(self) -> None:
            super().restore()
            patched.clear()

    def patch(function: Any) -> Scope:
        scope, module = Scope(), id(function.__globals__)
        if module not in patched:
            patched.add(module)
            scope._changes = plain(function)._changes
        return scope

    interpreter._patch_lang = patch
