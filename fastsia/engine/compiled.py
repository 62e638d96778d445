"""Functions under torch.compile: one compilation for every size, separate for each engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import FunctionType

import torch
from torch import Tensor

_numbers = itertools.count()


def compile_function(function: Callable[..., Tensor], *, dynamic: bool | None = None) -> Callable[..., Tensor]:
    """The function as one graph without a break. dynamic: as torch.compile's.

    Dynamo keeps what it compiled with the function's code object, and only so many versions of it: a code object of its
    own keeps the models of one process out of one another's way.
    """
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    own = FunctionType(code, function.__globals__, code.co_name, None, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    return torch.compile(own, fullgraph=True, dynamic=dynamic)


def mark_dynamic(tensors: Sequence[Tensor]) -> None:
    """Make every size of these tensors dynamic. No two sizes may be equal by chance, and none may be 0 or 1.

    torch.compile takes sizes that are equal in the first call to be equal always, and builds 0 and 1 in.
    """
    for tensor in tensors:
        for axis in range(tensor.dim()):
            torch._dynamo.mark_dynamic(tensor, axis)
