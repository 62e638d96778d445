"""Triton's interpreter, faster: for a process that interprets every kernel and compiles none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


def make_faster() -> None:
    """Keep what the interpreter makes anew for every operation, and compute nothing that it drops.

    It computes every sum and product of integers again in 64 bits, to compare it with the limits of its type, and
    asserts the result in its debug mode only, which is off.
    """
    options = interpreter.interpreter_builder.options
    if not options.debug:
        interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
    _patch_once()
    _keep_types()


def _patch_once() -> None:
    """Replace the interpreter's `_patch_lang`: a module's language stays patched.

    The interpreter replaces some hundred functions of `triton.language` when a kernel is launched and whenever a kernel
    calls a function, and puts them back after the launch.
    """
    plain: Callable[[Any], interpreter._LangPatchScope] = interpreter._patch_lang
    patched: set[int] = set()

    def patch(function: Any) -> interpreter._LangPatchScope:
        module = id(function.__globals__)
        if module not in patched:
            patched.add(module)
            plain(function)
        return interpreter._LangPatchScope()  # with nothing to restore

    interpreter._patch_lang = patch


def _keep_types() -> None:
    """Shapes and sizes of tensors and of their types are made once for each type, not for each result."""
    init_type, init_tensor, np_dtype = core.block_type.__init__, core.tensor.__init__, interpreter._get_np_dtype
    np_dtypes: dict[str, Any] = {}
    types: dict[Any, tuple[Any, ...]] = {}
    sizes: dict[str, tuple[Any, ...]] = {}

    def block_type(self: Any, element_ty: Any, shape: Sequence[Any]) -> None:
        key = element_ty.name, *(size.value if isinstance(size, core.constexpr) else size for size in shape)
        if key not in types:
            init_type(self, element_ty, shape)
            types[key] = self.shape, self.numel, self.name
        self.element_ty = element_ty
        self.shape, self.numel, self.name = types[key]

    def tensor(self: Any, handle: Any, type: Any) -> None:
        if type.name not in sizes:
            init_tensor(self, handle, type)
            sizes[type.name] = self.shape, self.numel
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = sizes[type.name]

    def get_np_dtype(type: Any) -> Any:
        if type.name not in np_dtypes:
            np_dtypes[type.name] = np_dtype(type)
        return np_dtypes[type.name]

    core.block_type.__init__, core.tensor.__init__, interpreter._get_np_dtype = block_type, tensor, get_np_dtype
    broadcast = TritonSemantic.broadcast_impl_value

    def broadcast_impl_value(self: Any, lhs: Any, rhs: Any) -> tuple[Any, Any]:
        alike = lhs.type.is_block() and rhs.type.is_block() and lhs.shape is rhs.shape
        return (lhs, rhs) if alike else broadcast(self, lhs, rhs)

    TritonSemantic.broadcast_impl_value = broadcast_impl_value
