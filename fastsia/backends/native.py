"""The engine of this package behind the backend protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends.base import model_fingerprint, model_name, recommended_sampling
from fastsia.engine.engine import Engine
from fastsia.engine.sequence import Counters, Request, Trajectory
from fastsia.models.loading import origin_of


class NativeBackend:
    """A thin wrap of `Engine`; live weights stay live."""

    name = "native"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model_name = model_name(engine.model, engine.tokenizer)

    @classmethod
    def load(cls, name_or_path: str, **options: Any) -> NativeBackend:
        """Load a model by name; `options` are those of `Engine.from_pretrained`."""
        backend = cls(Engine.from_pretrained(name_or_path, **options))
        backend.model_name = name_or_path
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
    def notes(self) -> Sequence[str]:
        return origin_of(self.engine.model).notes

    @property
    def recommended(self) -> dict[str, Any]:
        return recommended_sampling(self.engine.model)

    @property
    def warnings(self) -> Sequence[str]:
        return self.engine.runner.warnings

    def describe(self) -> dict[str, Any]:
        return self.engine.describe()

    def fingerprint(self) -> str:
        return model_fingerprint(self.engine.model)

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        return self.engine.run(requests)
