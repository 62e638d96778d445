"""Rotary embedding deferred to the attention operator: one kernel rotates queries and keys and stores keys and values.

An attention layer of transformers calls `apply_rotary_pos_emb(q, k, cos, sin)` of its own module just before the
attention function. Here it calls a function that keeps cos and sin for the latter instead.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fastsia.ops import reference

_NAME = "apply_rotary_pos_emb"
_numbers = itertools.count()
Deferred = list[tuple[Tensor, Tensor, Tensor, Tensor]]
"""(query, key, cos, sin) of the layer that is being computed, or empty."""


class Rotary:
    """The attention layers of a model that rotate as Llama does; inside `in_use` they leave it to `attention`.

    Args:
        deferred: Gets what the layer under way leaves to `attention`.

    Attributes:
        num_layers: how many such layers there are.
    """

    def __init__(self, model: nn.Module, deferred: Deferred) -> None:
        self._deferred = deferred
        self._forwards: list[tuple[nn.Module, Callable[..., Any]]] = []
        changed: dict[FunctionType, FunctionType | None] = {}

        def defer(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            deferred.append((q, k, cos, sin))
            return q, k

        for module in model.modules():
            forward = type(module).forward
            if not isinstance(forward, FunctionType) or "forward" in module.__dict__:
                continue
            if forward not in changed:
                rotates = _NAME in forward.__code__.co_names and _is_plain(forward.__globals__.get(_NAME))
                changed[forward] = self._in_scope(forward, defer) if rotates else None
            own = changed[forward]
            if own is not None:
                self._forwards.append((module, MethodType(own, module)))
        self.num_layers = len(self._forwards)

    def _in_scope(self, forward: FunctionType, defer: Callable[..., Any]) -> FunctionType:
        """The function in a module of its own, of which torch.compile can name the globals, with another rotation."""
        scope = ModuleType(f"{forward.__module__}_{next(_numbers)}")
        scope.__dict__.update({**forward.__globals__, _NAME: defer, "__name__": scope.__name__})
        sys.modules[scope.__name__] = scope
        weakref.finalize(self, sys.modules.pop, scope.__name__, None)
        arguments = forward.__name__, forward.__defaults__, forward.__closure__
        own = FunctionType(forward.__code__, scope.__dict__, *arguments)
        own.__kwdefaults__ = forward.__kwdefaults__
        return own

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the layers defer their rotation inside the block."""
        self._deferred.clear()  # an error may have left something
        for module, forward in self._forwards:
            module.__dict__["forward"] = forward
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.__dict__["forward"]


def taken(deferred: Deferred, query: Tensor, key: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Take cos and sin, [n, head_dim], of a layer that has deferred its rotation; (None, None) of one that has not.

    Raises:
        RuntimeError: the layer rotates a part of its heads only, or changes them once more.
    """
    if not deferred:
        return None, None
    q, k, cos, sin = deferred.pop()
    if q is not query or k is not key or cos.shape[-1] != q.shape[-1]:
        raise RuntimeError("this layer's rotation cannot be deferred")
    return cos[0], sin[0]


def _is_plain(rotate: Any) -> bool:
    """Whether a function is `reference.rotate` of queries and keys [1, heads, n, head_dim]."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn((2, 1, 3, 5, 8), generator=generator)
    cos, sin = torch.randn((2, 1, 5, 8), generator=generator)
    try:
        found = rotate(q, k, cos, sin)
    except Exception:  # of another signature
        return False
    expected = (reference.rotate(x[0].transpose(0, 1), cos[0], sin[0]).transpose(0, 1)[None] for x in (q, k))
    return all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))
