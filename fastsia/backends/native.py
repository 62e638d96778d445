"""The `native` backend: the engine of this package."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends.base import LocalModel, Watch, model_name
from fastsia.engine.engine import Engine
from fastsia.engine.sequence import Counters, Request, Trajectory
from fastsia.models.resolve import ModelRef, resolve_model


class NativeBackend(LocalModel):
    """A thin wrapper around `Engine`; later updates of the weights are seen."""

    name = "native"
    can_be_watched = True

    def __init__(self, engine: Engine) -> None:
        self.engine, self.model = engine, engine.model
        self.model_name = model_name(engine.model, engine.tokenizer)

    @classmethod
    def load(cls, model: str | os.PathLike[str] | ModelRef, **options: Any) -> NativeBackend:
        """Load a model by name; options as in `Engine.from_pretrained`."""
        ref = resolve_model(model)
        backend = cls(Engine.from_pretrained(ref, **options))
        backend.model_name = ref.name
        return backend

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self.engine.vocabulary

    @property
    def tokenizer(self) -> Any:
        return self.engine.tokenizer

    @property
    def context_length(self) -> int | None:
        return self.engine.context_length

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self.engine.eos_token_ids

    @property
    def counters(self) -> Counters:
        return self.engine.counters

    @property
    def warnings(self) -> Sequence[str]:
        return self.engine.runner.warnings

    def describe(self) -> dict[str, Any]:
        return self.engine.describe()

    def generate(self, requests: Iterable[Request], watch: Watch | None = None) -> Iterator[Trajectory]:
        return self.engine.run(requests, watch)

    def steps(self, requests: Iterable[Request], watch: Watch | None = None) -> Iterator[list[Trajectory]]:
        """As `generate`, the trajectories that each step finished."""
        return self.engine.steps(requests, watch)
