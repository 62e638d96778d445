"""The compiled core (csrc/bindings.cc). `fastsia.answers` is what to call; it checks what it hands over."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastsia.engine.step import Selection
from fastsia.engine.tables import TrajectoryTree

# float32, or the bits of bfloat16 as uint16.
_Number = TypeVar("_Number", np.float32, np.uint16)

class Vocabulary:
    def __init__(
        self,
        blob: bytes,
        offsets: NDArray[np.int64],
        kinds: NDArray[np.uint8],
        joiner: bytes,
        num_stripped: int,
        drops_first_spaces: bool,
    ) -> None: ...
    def decode(self, token_ids: NDArray[np.int32], offsets: NDArray[np.int64]) -> list[str]: ...

class Spec:
    def __init__(
        self,
        format: int,
        options: Sequence[bytes] | None,
        starts_in_think: bool,
        think_tags: Sequence[tuple[bytes, bytes]],
        stop_texts: bool,
        expects_think: bool,
    ) -> None: ...

class AnswerStream:
    def __init__(self, vocabulary: Vocabulary) -> None: ...
    def open(self, spec: Spec) -> int: ...
    def decided_at(self, spec: int, token_ids: NDArray[np.int32]) -> int | None: ...
    def start(
        self, slots: NDArray[np.int32], spec: int, prefix_ids: NDArray[np.int32], prefix_lens: NDArray[np.int32]
    ) -> NDArray[np.bool_]: ...
    def fork(self, src_slots: NDArray[np.int32], dst_slots: NDArray[np.int32]) -> None: ...
    def feed(self, slots: NDArray[np.int32], tokens: NDArray[np.int32]) -> NDArray[np.bool_]: ...

def extract_texts(
    blob: bytes,
    offsets: NDArray[np.int64],
    specs: Sequence[Spec],
    spec_of_text: NDArray[np.int32],
    is_cut: NDArray[np.bool_],
) -> tuple[list[str | None], list[str | None]]: ...
def extract_rollouts(
    vocabulary: Vocabulary,
    prefix_ids: NDArray[np.int32],
    prefix_lens: NDArray[np.int32],
    token_ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    spec: Spec,
    is_cut: NDArray[np.bool_],
    num_threads: int,
) -> tuple[list[str | None], list[str | None]]: ...
def sample(
    logits: NDArray[_Number],
    draw_row: NDArray[np.int64],
    seeds: NDArray[np.int64],
    counters: NDArray[np.int32],
    temperature: NDArray[np.float32],
    top_p: NDArray[np.float32],
    want_entropy: bool,
    num_threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.bool_]]: ...
def prefix_attention(
    q: NDArray[_Number],
    k_cache: NDArray[_Number],
    v_cache: NDArray[_Number],
    prefix_tables: NDArray[np.int32],
    cu_rows: NDArray[np.int32],
    prefix_lens: NDArray[np.int32],
    suffix_tables: NDArray[np.int32],
    suffix_lens: NDArray[np.int32],
    scale: float,
    sliding_window: int,
    softcap: float,
    num_threads: int,
    out: NDArray[_Number],
) -> None: ...
def activate(function: str, x: NDArray[_Number], num_threads: int, out: NDArray[_Number]) -> None: ...
def store_kv(
    k: NDArray[_Number],
    v: NDArray[_Number],
    k_cache: NDArray[_Number],
    v_cache: NDArray[_Number],
    slots: NDArray[np.int64],
) -> None: ...

class StepTables:
    """`fastsia.engine.step.Bookkeeping` over a tree's tables; a dict has the fields of the dataclass of that result.

    Raises TypeError where a column of a table is missing or has another dtype.
    """

    def __init__(self, tree: TrajectoryTree) -> None: ...
    def select(self, max_num_seqs: int, max_num_batched_tokens: int) -> dict[str, Any]: ...
    def batch(self, selection: Selection) -> dict[str, Any]: ...
    def mark_computed(self, selection: Selection) -> dict[str, int]: ...
    def draws(
        self, selection: Selection, trunk_last: NDArray[np.int64], branch_last: NDArray[np.int64], domain: int
    ) -> tuple[dict[str, Any], dict[str, Any]]: ...
    def append(
        self,
        rules: Sequence[tuple[NDArray[np.bool_], NDArray[np.int16] | None, int]],
        trunk: NDArray[np.int32],
        tokens: NDArray[np.int64],
        logprobs: NDArray[np.float32],
        entropies: NDArray[np.float32],
    ) -> tuple[NDArray[np.int32], NDArray[np.int8]]: ...
    def split(
        self,
        rules: Sequence[tuple[NDArray[np.bool_], NDArray[np.int16] | None, int]],
        stream: AnswerStream | None,
        branch: NDArray[np.int32],
        row: NDArray[np.int64],
        rollout: NDArray[np.int32],
        tokens: NDArray[np.int64],
        logprobs: NDArray[np.float32],
    ) -> dict[str, Any]: ...
