"""The matrix products of a decoder on a CPU: weights packed once, and one product for layers that read one input.

A linear layer of transformers is asked for its output as before. The first of those that read one tensor (q, k and v;
gate and up) computes the product of all, and the others take their part of it. Packed products, activation functions
and rotary tables give a row the same bits whatever other rows are computed with it.
"""

from __future__ import annotations

import copy
import ctypes
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fastsia.engine.profile import StepProfile
from fastsia.ops import cpu, fp8, packed
from fastsia.ops.packed import Sizes

_OWNED = "_fastsia_owns_weights"
_ACTIVATIONS = {"SiLU": "silu", "SiLUActivation": "silu", "GELUTanh": "gelu_tanh", "PytorchGELUTanh": "gelu_tanh"}
# Parts of the modules' names that compute exponentials and the like, element by element.
_ELEMENTWISE = re.compile(r"(activations|activation)$")
_ROTARY = re.compile(r"Rotary.*Embedding")
# Rows of a rotary table computed at once: few enough that torch does not split them between threads.
_ROTARY_ROWS = 64
# Values of a parameter that are compared to see whether it has been written to.
_SAMPLED = 512
_VALUES = "_fastsia_values"
# Products after whose packing freed memory is given back; each time all of the allocator's memory is walked through.
_TRIM_EVERY = 4


@contextmanager
def own_weights(model: PreTrainedModel) -> Iterator[None]:
    """Let the products of an engine that is made inside the block take the place of the model's weights in memory."""
    setattr(model, _OWNED, True)
    try:
        yield
    finally:
        delattr(model, _OWNED)


def values_of(parameter: Tensor) -> Tensor:
    """A parameter's values, also where only its packed copy has them."""
    is_freed = parameter.dim() == 2 and parameter.stride() == (0, 0)
    unpacked: Callable[[], Tensor] | None = getattr(parameter, _VALUES, None) if is_freed else None
    return parameter.detach() if unpacked is None else unpacked()


def owns_weights(model: PreTrainedModel) -> bool:
    """Whether products may take the place of the model's weights."""
    return bool(getattr(model, _OWNED, False))


class Products:
    """The products of one model; its layers use them inside `in_use`.

    Args:
        groups: linear layers that read one tensor, in the order of their calls, from `called_together`.
        mode: "packed": pack the weights of every linear layer, on a CPU. "fused": make each group one matrix, of which
            the layers' weights become views, on any device; the model's weights must be owned. "fp8": compute the
            groups in fp8 (`ops/fp8.py`); the weights stay as they are.

    Attributes:
        exact: whether a row's bits do not depend on the rows beside it, as checked on each shape of weights.
        profile: records the products, or None.
        owned: whether the products have replaced the model's weights; until `release`.
    """

    def __init__(
        self, model: PreTrainedModel, groups: Sequence[Sequence[nn.Linear]], mode: Literal["packed", "fused", "fp8"]
    ) -> None:
        self.profile: StepProfile | None = None
        self._model = model
        self.exact = False
        self.mode = mode
        self.owned = owns_weights(model) and mode != "fp8"
        self._groups: list[_Group] = []
        self._forwards: list[tuple[nn.Module, Callable[..., Any]]] = []
        uses: dict[int, int] = {}
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                uses[id(parameter)] = uses.get(id(parameter), 0) + 1
        try:
            if mode == "packed":
                self._pack(groups, uses)
            elif mode == "fused":
                for group in groups:
                    if len(group) > 1 and all(uses[id(value)] == 1 for layer in group for value in layer.parameters()):
                        self._groups.append(_Fused(group, self))
            else:
                for group in groups:
                    if all(fp8.fits(layer.weight) for layer in group):
                        self._groups.append(_Fp8(group, self))
            self._forwards += [pair for group in self._groups for pair in group.forwards()]
        except BaseException:
            self.owned = False
            self.release()
            raise
        if self.owned:
            self._install()
            model.__dict__["__deepcopy__"] = self._copy

    def _pack(self, groups: Sequence[Sequence[nn.Linear]], uses: dict[int, int]) -> None:
        """Pack every linear layer, and find out which numbers of rows to compute in.

        Args:
            uses: by the id of a parameter, the modules that have it.
        """
        model = self._model
        together = {id(layer) for group in groups for layer in group}
        linears = (module for module in model.modules() if _is_plain(module))
        found: list[_Packed] = []
        for group in [*groups, *([layer] for layer in linears if id(layer) not in together)]:
            freed = [self.owned and uses[id(layer.weight)] == 1 for layer in group]
            found.append(_Packed(group, self, freed))
            self._groups.append(found[-1])
            if len(found) % _TRIM_EVERY == 0:
                _trim()
        _trim()
        self._forwards += _elementwise(model)
        self._find_sizes(found)

    def _find_sizes(self, groups: Sequence[_Packed]) -> None:
        """Give groups of one shape one `Sizes`, and set `exact`."""
        sizes: dict[tuple[int, ...], Sizes] = {}
        with torch.no_grad():
            for group in groups:
                shape = tuple(group.packed.shape)
                if shape not in sizes:
                    sizes[shape] = Sizes(group.packed, group.bias)
                group.sizes = sizes[shape]
        # Products of other layers (experts in one tensor, GPT-2's) are not packed.
        others = (
            module
            for module in self._model.modules()
            if not _is_plain(module) and not isinstance(module, nn.Embedding)
            if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
        )
        self.exact = all(one.exact for one in sizes.values()) and next(others, None) is None

    def rounded(self, rows: int) -> int:
        """The number of rows to pad a batch of `rows` to."""
        return packed.rounded(rows) if self.mode == "packed" else rows

    def refresh(self) -> None:
        """Pack weights again that have changed since."""
        for group in self._groups:
            if group.is_stale():
                group.pack()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the model compute its products here inside the block, and as before after it."""
        if self.owned:
            yield
            return
        self._install()
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.__dict__["forward"]

    def release(self) -> None:
        """Give the model its weights and its own `forward`s back, for good: it is used with gradients.

        The packed weights go on as a copy, as of a caller's model.
        """
        for group in self._groups:
            if isinstance(group, _Packed):
                group.release()
        if self.owned:
            for module, _ in self._forwards:
                del module.__dict__["forward"]
            self._model.__dict__.pop("__deepcopy__", None)
            self.owned = False

    def _copy(self, memo: dict[int, Any]) -> PreTrainedModel:
        self.release()
        return copy.deepcopy(self._model, memo)

    def _install(self) -> None:
        for module, forward in self._forwards:
            module.__dict__["forward"] = forward  # nn.Module's own setattr takes a microsecond for each


class _Group(ABC):
    """Layers that read one tensor, and their product.

    Attributes:
        packed: the weights of the layers, one below another, as they are multiplied.
        bias: their biases, zeros for a layer that has none; None where no layer has one.
    """

    packed: Tensor
    bias: Tensor | None

    def __init__(self, layers: Sequence[nn.Linear], products: Products) -> None:
        self.layers = layers
        self._products = products
        self._widths = [layer.out_features for layer in layers]
        self._input: Tensor | None = None
        self._outputs: list[Tensor | None] = []
        self._stamp: list[Any] = []
        self.pack()

    @abstractmethod
    def pack(self) -> None:
        """Take the layers' weights as they are now."""

    @abstractmethod
    def _product(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features of all layers]."""

    def is_stale(self) -> bool:
        """Whether a parameter has been written to or replaced."""
        return self._stamp != self._stamps()

    def _stamps(self) -> list[Any]:
        """A mark that changes when a parameter does: its memory, its version, and some of its values.

        Writing through `parameter.data` changes no version.
        """
        found: list[Any] = []
        for layer in self.layers:
            for parameter in layer.parameters(recurse=False):
                values = parameter.detach().flatten() if parameter.stride() != (0, 0) else parameter.detach()[:0, 0]
                step = max(values.numel() // _SAMPLED, 1)
                found.append((id(parameter), parameter.data_ptr(), parameter._version, values[::step].tolist()))
        return found

    def forwards(self) -> list[tuple[nn.Module, Callable[..., Tensor]]]:
        """Each layer's `forward`: the first to read a tensor computes the product of all."""

        def part(i: int) -> Callable[[Tensor], Tensor]:
            def forward(input: Tensor) -> Tensor:
                if torch.is_grad_enabled() and self._products.owned:
                    self._products.release()
                    return self.layers[i](input)
                if self._input is not input or self._outputs[i] is None:
                    self._input, self._outputs = input, list(self._product(input).split(self._widths, dim=-1))
                output, self._outputs[i] = self._outputs[i], None
                if i == len(self.layers) - 1:
                    self._input, self._outputs = None, []
                assert output is not None
                return output

            return forward

        return [(layer, part(i)) for i, layer in enumerate(self.layers)]


class _Packed(_Group):
    """Layers whose weights are packed for the processor.

    Args:
        freed: for each layer, whether its own weights give up their memory.

    Attributes:
        sizes: the numbers of rows that products of its shape are computed in.
    """

    sizes: Sizes

    def __init__(self, layers: Sequence[nn.Linear], products: Products, freed: Sequence[bool]) -> None:
        self._freed = list(freed)
        super().__init__(layers, products)
        for i, layer in enumerate(layers):
            if self._freed[i]:
                layer.register_state_dict_post_hook(self._fill(i))
                layer.register_load_state_dict_pre_hook(lambda *_: self.unpack())

    def pack(self) -> None:
        """Pack the layers' weights as they are now, and free those that only this model has."""
        with torch.no_grad():
            self.unpack()
            weights = [layer.weight.detach() for layer in self.layers]
            self.packed = packed.pack(torch.cat(weights) if len(weights) > 1 else weights[0])
            biases = [layer.bias for layer in self.layers]
            self.bias = None
            if any(bias is not None for bias in biases):
                zeros = (weight.new_zeros(len(weight)) for weight in weights)
                self.bias = torch.cat([zero if own is None else own for zero, own in zip(zeros, biases, strict=True)])
            del weights
        for i, layer in enumerate(self.layers):
            if self._freed[i]:
                # A placeholder of the same shape, without memory; reading it gives NaN.
                layer.weight.data = layer.weight.new_full((), torch.nan).expand(layer.weight.shape)
                setattr(layer.weight, _VALUES, partial(self._dense, i))
        self._stamp = self._stamps()

    def unpack(self) -> None:
        """Give freed weights their values again."""
        for i, layer in enumerate(self.layers):
            if self._freed[i] and self._stamp and layer.weight.stride() == (0, 0):
                layer.weight.data = self._dense(i)

    def release(self) -> None:
        """Give freed weights their values again, and free none from now on."""
        self.unpack()
        self._freed = [False] * len(self.layers)

    def _dense(self, i: int) -> Tensor:
        begin = sum(self._widths[:i])
        return self.packed.to_dense()[begin : begin + self._widths[i]].clone()

    def _fill(self, i: int) -> Callable[..., None]:
        def fill(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
            key = f"{prefix}weight"
            if key in state and state[key].stride() == (0, 0):
                state[key] = self._dense(i)

        return fill

    def _product(self, input: Tensor) -> Tensor:
        profile = self._products.profile
        with torch.no_grad(), nullcontext() if profile is None else profile.span("products"):
            rows = input.flatten(0, -2)
            out = packed.product(rows, self.packed, self.bias, self.sizes.parts(len(rows), self.packed, self.bias))
        return out.view(*input.shape[:-1], -1)


class _Fused(_Group):
    """Layers whose weights and biases are views of one matrix and one vector, so that updates in place are seen."""

    def pack(self) -> None:
        """Copy the layers' weights into one matrix."""
        with torch.no_grad():
            self.packed = torch.cat([layer.weight for layer in self.layers])
            biases = [layer.bias for layer in self.layers]
            self.bias = None
            if any(bias is not None for bias in biases):
                self.bias = self.packed.new_zeros(len(self.packed))
            begin = 0
            for layer, bias in zip(self.layers, biases, strict=True):
                end = begin + layer.out_features
                layer.weight.data = self.packed[begin:end]
                if bias is not None and self.bias is not None:
                    self.bias[begin:end] = bias
                    bias.data = self.bias[begin:end]
                begin = end
        self._stamp = self._stamps()

    def _stamps(self) -> list[Any]:
        return [(id(value), value.data_ptr()) for layer in self.layers for value in layer.parameters(recurse=False)]

    def _product(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.packed, self.bias)


class _Fp8(_Group):
    """Layers computed in fp8, or on a CPU as if: their weights stay, and a rounded copy is multiplied."""

    _scale: Tensor  # float32, one per row of the weights on CUDA

    def pack(self) -> None:
        """Round the layers' weights as they are now; into the same memory, which CUDA graphs read."""
        with torch.no_grad():
            weight = torch.cat([layer.weight.detach() for layer in self.layers])
            scale = weight.new_ones(1, dtype=torch.float32)
            if weight.is_cuda:
                weight, scale = fp8.quantise(weight)
            else:
                weight = fp8.rounded(weight)
            bias = None
            if any(layer.bias is not None for layer in self.layers):
                bias = torch.cat(
                    [
                        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
                        for layer in self.layers
                    ]
                )
            if self._stamp:
                self.packed.copy_(weight)
                self._scale.copy_(scale)
                if bias is not None and self.bias is not None:
                    self.bias.copy_(bias)
            else:
                self.packed, self._scale, self.bias = weight, scale, bias
        self._stamp = self._stamps()

    def _product(self, input: Tensor) -> Tensor:
        rows = input.flatten(0, -2)
        if rows.is_cuda:
            out = fp8.product(rows, self.packed, self._scale, self.bias)
        else:
            out = nn.functional.linear(fp8.rounded(rows), self.packed, self.bias)
        return out.view(*input.shape[:-1], -1)


@contextmanager
def called_together(model: nn.Module) -> Iterator[list[list[nn.Linear]]]:
    """Record which linear layers of one parent read the same tensor in succession, in a forward pass inside."""
    groups: list[list[nn.Linear]] = []
    seen: set[int] = set()
    last: list[Any] = [None, None]
    parents = {id(child): module for module in model.modules() for child in module.children()}

    def record(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if not isinstance(layer, nn.Linear) or id(layer) in seen or not args:
            return
        seen.add(id(layer))
        if last[0] is args[0] and last[1] is parents[id(layer)]:
            groups[-1].append(layer)
        else:
            groups.append([layer])
        last[:] = args[0], parents[id(layer)]  # keeps the tensor, so that no other gets its id

    hooks = [module.register_forward_pre_hook(record) for module in model.modules() if _is_plain(module)]
    try:
        yield groups
    finally:
        last[:] = None, None
        for hook in hooks:
            hook.remove()


def _trim() -> None:
    """Give freed memory back to the system.

    Loading allocates weights in threads, each with its own arena of malloc, in which packed weights find no room.
    """
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is torch's linear layer with its own `forward`."""
    return type(module) is nn.Linear and "forward" not in module.__dict__


def _elementwise(model: nn.Module) -> list[tuple[nn.Module, Callable[..., Any]]]:
    """`forward`s of activation functions and rotary tables that give a value the same bits at any place."""
    found: list[tuple[nn.Module, Callable[..., Any]]] = []
    for module in model.modules():
        name = type(module).__name__
        if next(module.children(), None) is not None or "forward" in module.__dict__:
            continue
        if name in _ACTIVATIONS:
            found.append((module, _activation(_ACTIVATIONS[name])))
        elif _ROTARY.search(name):
            found.append((module, _in_pieces(module.forward)))
        elif _ELEMENTWISE.search(type(module).__module__):
            found.append((module, _row_by_row(module.forward)))
    return found


def _activation(function: str) -> Callable[[Tensor], Tensor]:
    def forward(input: Tensor) -> Tensor:
        return cpu.activate(function, input if input.stride(-1) == 1 else input.contiguous())

    return forward


def _row_by_row(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def by_row(input: Tensor) -> Tensor:
        rows = input.flatten(0, -2)
        return torch.stack([forward(row) for row in rows]).view(input.shape) if len(rows) else forward(input)

    return by_row


def _in_pieces(forward: Callable[..., Any]) -> Callable[..., Any]:
    def by_pieces(x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        pieces = [forward(x, piece, *args, **kwargs) for piece in position_ids.split(_ROTARY_ROWS, dim=1)]
        if len(pieces) == 1:
            return pieces[0]
        if isinstance(pieces[0], Tensor):
            return torch.cat(pieces, dim=1)
        return tuple(torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))

    return by_pieces
