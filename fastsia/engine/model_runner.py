"""Runs the model on a batch: input tensors, forward pass, head, and the pools of KV blocks and hidden states."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from fastsia.engine.attention import AttentionContext, fastsia_attention
from fastsia.engine.compiled import compile_function, mark_dynamic
from fastsia.engine.graphs import Call, CaptureError, CudaPool, Graphs, row_buckets
from fastsia.engine.inputs import BatchShape, Inputs, stage
from fastsia.engine.products import Products, called_together, owns_weights
from fastsia.engine.profile import StepProfile, part
from fastsia.engine.rotary import Deferred, Rotary
from fastsia.engine.row_counts import PROBE, agreeing, probe
from fastsia.engine.staging import HostStaging, Staging, tensors_in
from fastsia.engine.step import Batch, batch_of_one_trunk
from fastsia.engine.tables import Table
from fastsia.errors import FastsiaError, one_line
from fastsia.models.weights import non_finite
from fastsia.ops import Ops, fp8, packed
from fastsia.ops.attend import using
from fastsia.ops.launch import current, empty_rows
from fastsia.ops.reference import DrawSpec, score

_T = TypeVar("_T")


class HostSamples(NamedTuple):
    """`ops.reference.Samples` on the host, in numpy arrays; `entropy` is NaN where it was not wanted."""

    tokens: np.ndarray
    logprobs: np.ndarray
    entropy: np.ndarray


class ModelRunner:
    """A decoder of transformers, unmodified, over one pool of KV blocks.

    Args:
        compile: "off" runs the model as it is. "on" puts batches of up to `max_num_seqs` rows, padded, through
            torch.compile and, on CUDA, into CUDA graphs; "graphs" only into those. A path that fails is not used, and
            `warnings` says so.
        quantization: "none", or "fp8" for products in 8 bits where the device has them, else `warnings` says so.
        most_kept: hidden states of trunks that the device keeps; with more of them the host keeps all. None: no bound.
        deterministic: run in the numbers of rows of `row_counts` only; they are looked for up to `max_num_seqs` +
            `max_num_batched_tokens` rows.

    Attributes:
        kv_cache: [num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim] in the model's dtype.
        fused_head: logits are the head's product (and Gemma2's softcap); False where a model changes its logits
            further (Granite scales them): then the model's own forward computes them from the hidden states.
        num_out_of_memory: how often device memory did not suffice and something was tried again.
        products: packed products, with the C++ core's ops on a CPU; fused ones in a loaded model under torch.compile
            and on a GPU; in fp8 where that is asked for; None elsewhere.
        row_counts: numbers of rows in which a row's bits do not depend on the others, ascending; None where steps run
            in others too, or where products are exact in any. head_row_counts: the same of the head.
        rotary: the layers whose rotary embedding is a part of the attention operator, or None.
        profile: records the parts of each step, or None.
        hidden_slots: the slots of kept hidden states.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ops: Ops,
        num_blocks: int,
        block_size: int,
        compile: str = "off",
        max_num_seqs: int = 512,
        quantization: str = "none",
        most_kept: int | None = None,
        max_num_batched_tokens: int = 1024,
        deterministic: bool = False,
    ) -> None:
        self.model = model
        self.ops = ops
        self.profile: StepProfile | None = None
        config = model.config.get_text_config(decoder=True)
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        num_kv_heads, head_dim = kv_shape(config)
        self.hidden_size = int(config.hidden_size)
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self._softcap = getattr(config, "final_logit_softcapping", None)
        shape = (config.num_hidden_layers, 2, num_blocks, block_size, num_kv_heads, head_dim)
        try:
            self.kv_cache = _zeros(shape, self.dtype, self.device)
        except (MemoryError, ValueError, torch.OutOfMemoryError) as error:  # twice numpy's, on a CPU
            raise FastsiaError(
                f"num_kv_blocks must fit into memory, got {num_blocks:,}, a KV pool of "
                f"{num_blocks * self.bytes_per_block(model, block_size) / 2**30:,.0f} GiB."
            ) from error
        self._hidden = torch.empty((256, self.hidden_size), dtype=self.dtype, device=self.device)
        self.hidden_slots = Table(256)
        self._most_kept = most_kept
        self.fused_head = True
        self.num_out_of_memory = 0
        self.warnings: list[str] = []
        self.graphs: Graphs | None = None
        self.products: Products | None = None
        self._most_rows = row_buckets(max_num_seqs + (max_num_batched_tokens if deterministic else 0))[-1]
        self.row_counts: list[int] | None = None
        self.head_row_counts: list[int] | None = None
        self.staging = (HostStaging if self.device.type == "cpu" else Staging)(self.device)
        self._weights = self._addresses()
        decoder, head, softcap = model.base_model, model.get_output_embeddings(), self._softcap
        self.rotary: Rotary | None = None
        self._deferred: Deferred = []
        deferred = self._deferred

        # Free functions: torch.compile takes them with what they name, and a graph with what it is given.
        def decode(kv_cache: Tensor, *inputs: Tensor, max_rows_per_prefix: int | None = None) -> Tensor:
            read = Inputs(*inputs)
            output = decoder(
                input_ids=read.token_ids[None],
                position_ids=read.positions[None],
                use_cache=False,
                fastsia_context=AttentionContext(kv_cache, read, max_rows_per_prefix or len(read.token_ids), deferred),
            )
            return output.last_hidden_state[0]

        def project(hidden: Tensor) -> Tensor:
            logits = head(hidden)
            return logits if softcap is None else torch.tanh(logits / softcap) * softcap

        self._decode, self._project = decode, project
        self._compiled: Callable[..., Tensor] | None = None
        self._compiled_project: Callable[..., Tensor] | None = None
        tokens = np.arange(min(3, num_blocks * block_size), dtype=np.int64) % self.vocab_size
        blocks = np.arange(-(-len(tokens) // block_size), dtype=np.int32)
        batch = batch_of_one_trunk(tokens, blocks, block_size, np.arange(1, len(tokens) + 1))
        with called_together(model) as groups:
            hidden = self.forward(batch)
        expected = self._check_logits(tokens, hidden)
        head_candidates = row_buckets(max_num_seqs) if deterministic else None
        self._choose_paths(batch, hidden, expected, groups, compile, quantization, head_candidates)

    @staticmethod
    def bytes_per_block(model: PreTrainedModel, block_size: int) -> int:
        config = model.config.get_text_config(decoder=True)
        num_kv_heads, head_dim = kv_shape(config)
        size = torch.finfo(next(model.parameters()).dtype).bits // 8
        return int(config.num_hidden_layers * 2 * block_size * num_kv_heads * head_dim * size)

    @property
    def compile(self) -> str:
        """The path in use: "on", "graphs" or "off"."""
        return "on" if self._compiled is not None else "graphs" if self.graphs is not None else "off"

    @property
    def products_name(self) -> str:
        """How products are computed.

        "exact" (packed, and a row's bits do not depend on the rows beside it), "packed", "fused", "fp8", "fp8 emulated"
        or "plain".
        """
        if self.products is None:
            return "plain"
        if self.products.mode == "fp8" and self.device.type != "cuda":
            return "fp8 emulated"
        return "exact" if self.products.exact else self.products.mode

    @property
    def is_deterministic(self) -> bool:
        """Whether a row's bits depend on no other row."""
        return self.products_name == "exact" or self.row_counts is not None

    @part("model")
    def forward(self, batch: Batch) -> Tensor:
        """Final hidden states of the batch's rows, [n, hidden_size]; their keys and values are stored on the way."""
        shape = BatchShape.of(batch)
        rows = shape.rows
        padded = shape._replace(rows=self._rounded(rows), trunks=shape.trunks + 1)  # one more trunk for the padding
        if rows <= self._most_rows:
            if self.graphs is not None:
                hidden = self._replay(batch)
                if hidden is not None:
                    return hidden
            if self._compiled is not None:
                # torch.compile would make sizes of 0 and 1 cases of their own.
                inputs = self._inputs(batch, BatchShape(*(max(size, 2) for size in padded)))
                return self._run(self._compiled, inputs)[:rows]
        if padded.rows > rows:
            shape = padded
        return self._run(self._decode, self._inputs(batch, shape), max_rows_per_prefix=batch.max_rows_per_prefix)[:rows]

    def _rounded(self, rows: int) -> int:
        """The number of rows that a batch is padded to."""
        if self.row_counts is not None and rows <= self.row_counts[-1]:
            return self.row_counts[bisect_left(self.row_counts, rows)]
        return rows if self.products is None else self.products.rounded(rows)

    def _inputs(self, batch: Batch, shape: BatchShape) -> Inputs:
        memory = stage(batch, shape, self.staging)
        return Inputs(*tensors_in(memory.to(self.device, non_blocking=True), shape.fields))

    def _run(self, decode: Callable[..., Tensor], inputs: Inputs, **bound: int) -> Tensor:
        rotary = nullcontext() if self.rotary is None else self.rotary.in_use()
        with self._inference(), fastsia_attention(self.model), using(self.ops), rotary:
            return decode(self.kv_cache, *inputs, **bound)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        products = self.products
        if products is not None:
            products.profile = self.profile
        in_use = nullcontext() if products is None else products.in_use()
        with current(self.device), torch.inference_mode(), in_use:
            yield

    def use_graphs(self, new_pool: Callable[[], Callable[[Call], Call]] | None = None) -> None:
        """Replay batches of up to `max_num_seqs` rows from CUDA graphs from now on."""
        forward = partial(self._run, self._compiled or self._decode)
        hidden = torch.empty((self._most_rows, self.hidden_size), dtype=self.dtype, device=self.device)
        new_pool = new_pool or partial(CudaPool, self.device)
        self.graphs = Graphs(forward, self.staging, hidden, self.kv_cache.shape[3], new_pool, self.row_counts)

    def _replay(self, batch: Batch) -> Tensor | None:
        assert self.graphs is not None
        try:
            return self.graphs(batch)
        except CaptureError as error:
            is_temporary = error.is_temporary
            if not is_temporary:
                self._warn("CUDA graphs are not used", error)
        # Outside of the handler, where the exception would keep the failed tensors alive.
        if is_temporary:
            self.release_memory()
        else:
            self.graphs = None
            self._give_back()
        return None

    def _warn(self, what: str, error: Exception) -> None:
        reason = one_line(error) or type(error).__name__
        self.warnings.append(f"{what}: {reason[:300]}.")

    def check_weights(self) -> None:
        """Before a run, see the weights as they are: pack changed ones again, drop CUDA graphs if weights have moved.

        Graphs read weights and buffers (a rotary embedding's frequencies) at the addresses of their capture.
        """
        if self.products is not None:
            self.products.refresh()
        if self.graphs is not None:
            weights = self._addresses()
            if weights != self._weights:
                self.graphs.drop()
            self._weights = weights

    def _addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers())]

    @part("head")
    def logits(self, hidden: Tensor) -> Tensor:
        """[r, hidden_size] -> [r, vocab_size]."""
        counts = self.head_row_counts
        if counts is None:
            return self._logits(hidden)
        padded = (
            nn.functional.pad(piece, (0, 0, 0, counts[bisect_left(counts, len(piece))] - len(piece)))
            for piece in hidden.split(counts[-1])
        )
        return torch.cat([self._logits(piece) for piece in padded])[: len(hidden)]

    def _logits(self, hidden: Tensor) -> Tensor:
        with self._inference():
            if not self.fused_head:
                return self._own_head(hidden)
            if self.products is not None and self.products.mode == "packed" and self._softcap is not None:
                logits: Tensor = self.model.get_output_embeddings()(hidden)
                for row in logits:  # over all rows at once, a value's bits would depend on its place
                    row.div_(self._softcap).tanh_().mul_(self._softcap)
                return logits
            if self._pads_logits:
                head = self.model.get_output_embeddings()
                aligned = empty_rows(len(hidden), self.vocab_size, hidden.dtype, hidden.device)
                torch.mm(hidden, head.weight.t(), out=aligned)
                return aligned if head.bias is None else aligned.add_(head.bias)
            # One row would be compiled as a case of its own.
            project = self._project if self._compiled_project is None or len(hidden) < 2 else self._compiled_project
            return project(hidden)

    @property
    def _pads_logits(self) -> bool:
        """Whether rows of logits need a wider stride, for the sampling kernel to read several values in a load."""
        head = self.model.get_output_embeddings()
        is_plain = type(head) is nn.Linear and "forward" not in head.__dict__
        return self.ops.name == "triton" and self.vocab_size % 16 != 0 and is_plain and self._softcap is None

    def _own_head(self, hidden: Tensor) -> Tensor:
        """The logits of the model's own forward, its decoder replaced by hidden states that are already computed."""
        base = self.model.base_model
        base.forward = lambda **_: BaseModelOutputWithPast(last_hidden_state=hidden[None])
        try:
            token = torch.zeros((1, 1), dtype=torch.int64, device=self.device)
            return self.model(input_ids=token, use_cache=False).logits[0]
        finally:
            del base.forward

    def begin_draw(self, hidden: Tensor, spec: DrawSpec[np.ndarray]) -> Callable[[], HostSamples]:
        """Give the device `ops.sample` from the logits of hidden states [R, hidden_size]; return what waits for it.

        Where the device has no memory for the logits of all rows at once, half of the rows are drawn from at a time.
        """
        try:
            return self._begin_draw(hidden, spec)
        except torch.OutOfMemoryError:
            if len(hidden) == 1:
                raise
        # Outside of the handler, where the exception would keep the failed tensors alive.
        self.release_memory()
        half, parts = len(hidden) // 2, []
        for rows in (slice(0, half), slice(half, len(hidden))):
            mine = (spec.row >= rows.start) & (spec.row < rows.stop)
            part_spec = DrawSpec(
                row=spec.row[mine] - rows.start,
                seeds=spec.seeds[mine],
                counters=spec.counters[mine],
                temperature=spec.temperature[rows],
                top_p=spec.top_p[rows],
                want_entropy=spec.want_entropy,
            )
            parts.append((mine, self.begin_draw(hidden[rows], part_spec)))

        def fetch() -> HostSamples:
            tokens = np.empty(len(spec.row), dtype=np.int64)
            logprobs = np.empty(len(spec.row), dtype=np.float32)
            entropies = []
            for mine, of_part in parts:
                tokens[mine], logprobs[mine], entropy = of_part()
                entropies.append(entropy)
            return HostSamples(tokens, logprobs, np.concatenate(entropies))

        return fetch

    def _begin_draw(self, hidden: Tensor, spec: DrawSpec[np.ndarray]) -> Callable[[], HostSamples]:
        logits = self.logits(hidden)
        row, seeds, counters, temperature, top_p = self.staging.put(*spec[:-1])
        on_device = DrawSpec(row, seeds, counters, temperature, top_p, spec.want_entropy)
        with torch.inference_mode():
            samples = self.ops.sample(logits, on_device)
            fetched = self.staging.begin_fetch(*(array for array in samples[:3] if array is not None))
        num_rows = len(logits)

        def fetch() -> HostSamples:
            tokens, logprobs, *entropy = fetched()
            return HostSamples(tokens, logprobs, entropy[0] if entropy else np.full(num_rows, np.nan, dtype=np.float32))

        return fetch

    def score(
        self, hidden: Tensor, token_ids: np.ndarray, temperature: float, top_p: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """`ops.reference.score` from hidden states [R, hidden_size]: logprobs and entropies, float32 [R]."""
        with torch.inference_mode():
            tokens = torch.from_numpy(token_ids.astype(np.int64)).to(self.device)
            logprobs, entropy = score(self.logits(hidden), tokens, temperature, top_p)
            return logprobs.cpu().numpy(), entropy.cpu().numpy()

    def release_memory(self) -> None:
        """Free memory that torch caches: its pieces may be too small for the next allocation."""
        self.num_out_of_memory += 1
        self._give_back()

    def _give_back(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _retried(self, allocate: Callable[[], _T]) -> _T:
        """Return what an allocation gives; where memory does not suffice, try once more without what torch caches.

        Raises:
            FastsiaError: memory does not suffice then either.
        """
        try:
            return allocate()
        except torch.OutOfMemoryError:
            pass  # outside of the handler, which keeps what the failed call had allocated
        self.release_memory()
        try:
            return allocate()
        except torch.OutOfMemoryError as error:
            short = str(error).partition(". ")[0]
            raise FastsiaError(
                f"device memory does not suffice for a step's results ({short}); lower num_kv_blocks."
            ) from error

    def copy_blocks(self, src: np.ndarray, dst: np.ndarray) -> None:
        """Copy KV blocks `src` to `dst`, int64 [m]."""
        if len(src):
            pairs = self._retried(lambda: self.staging.put(src, dst))
            with torch.inference_mode():
                self.ops.copy_blocks(self.kv_cache, *pairs)

    # --- final hidden states of trunks, kept until they are verified ---------------------------------------------

    def keep_hidden(self, hidden: Tensor) -> np.ndarray:
        """Store hidden states [k, hidden_size]; return their slots, int32 [k]."""
        rows = self.hidden_slots.allocate(len(hidden))
        capacity = self.hidden_slots.capacity
        if capacity > len(self._hidden):
            device = "cpu" if self._most_kept is not None and capacity > self._most_kept else self._hidden.device
            shape = (capacity, self.hidden_size)
            larger = self._retried(lambda: torch.empty(shape, dtype=self.dtype, device=device))
            larger[: len(self._hidden)] = self._hidden
            self._hidden = larger
        if self._hidden.device != self.device:
            self._hidden[torch.from_numpy(rows.astype(np.int64))] = hidden.to(self._hidden.device)
            return rows
        (places,) = self._retried(lambda: self.staging.put(rows.astype(np.int64)))
        with torch.inference_mode():
            self._hidden.index_copy_(0, places, hidden)
        return rows

    def hidden(self, rows: np.ndarray) -> Tensor:
        """Return kept hidden states [len(rows), hidden_size]."""
        if self._hidden.device != self.device:
            kept = self._hidden[torch.from_numpy(rows.astype(np.int64))]
            return self._retried(lambda: kept.to(self.device))
        return self.take(self._hidden, rows.astype(np.int64))

    @part("head")
    def take(self, tensor: Tensor, rows: np.ndarray) -> Tensor:
        """Rows of a tensor on the device by int64 numbers on the host."""
        return self._retried(lambda: tensor.index_select(0, self.staging.put(rows)[0]))

    def drop_hidden(self, rows: np.ndarray) -> None:
        self.hidden_slots.free(rows)

    def reset(self) -> None:
        """Drop every kept hidden state, for example after an interrupted run."""
        if self._hidden.device != self.device:
            self._hidden = torch.empty((256, self.hidden_size), dtype=self.dtype, device=self.device)
        self.hidden_slots = Table(len(self._hidden))

    def _check_logits(self, token_ids: np.ndarray, hidden: Tensor) -> Tensor:
        """Compare the logits of this path with those of the model's own forward on a few tokens; choose the head.

        Some models scale their logits (Granite) or post-process them; there the model's own forward is the head.

        Args:
            token_ids: int64 [n], a prompt.
            hidden: [n, hidden_size], its final hidden states through fastsia's attention.

        Returns:
            [n, vocab_size], the logits of the model's own forward.

        Raises:
            FastsiaError: the logits differ, or are NaN or infinite.
        """
        training = self.model.training
        self.model.eval()
        with current(self.device), torch.inference_mode():
            theirs = self.model(input_ids=self.staging.put(token_ids)[0][None], use_cache=False).logits[0].float()
        self.model.train(training)
        for self.fused_head in (True, False):
            error = self._difference(self.logits(hidden), theirs)
            if error <= 1:
                return theirs
        found = non_finite(self.model.named_parameters())
        if found is not None:
            raise FastsiaError(f"{type(self.model).__name__}: {found}.")
        if not bool(torch.isfinite(theirs).all()):
            raise FastsiaError(
                f"{type(self.model).__name__} gives logits that are NaN or infinite in {self.dtype}, "
                "although its weights are finite; another dtype may have the range that it needs."
            )
        raise FastsiaError(
            f"{type(self.model).__name__} gives other logits through fastsia's attention than through its own forward"
            f" (a difference {error:.3g} times the tolerated one); this architecture is not supported."
        )

    def _choose_paths(
        self,
        batch: Batch,
        hidden: Tensor,
        expected: Tensor,
        groups: list[list[nn.Linear]],
        compile: str,
        quantization: str,
        head_candidates: list[int] | None,
    ) -> None:
        """Use each fast path that is asked for, works here and gives the expected results. In this order:

        1. the rotary embedding in the attention operator, and products in fp8 or fused: they are a part of what is
           compiled and captured;
        2. torch.compile;
        3. packed products, only where nothing is compiled: compiled code would not call them;
        4. row counts, where products are not exact in any: those of the paths chosen so far;
        5. CUDA graphs of all that, in those row counts.

        Args:
            hidden, expected: final hidden states [n, hidden_size] and logits [n, vocab_size] of the batch.
            groups: linear layers that read one tensor, from `called_together`.
            head_candidates: row counts of the head to choose from where a row's bits must not depend on the others,
                else None.
        """
        if compile != "off" and self.ops.name != "native":
            self._use_rotary(batch, expected)
        in_fp8 = quantization == "fp8" and self._use_fp8(groups)
        if in_fp8:
            hidden = self.forward(batch)
        elif owns_weights(self.model) and (compile != "off" or self.ops.name == "triton"):
            self._use_products(groups, batch, expected, "fused")
        if compile == "on":
            self._try_compile(batch, hidden)
        is_packable = self.ops.name == "native" and packed.is_available(self.dtype)
        if self.compile == "off" and is_packable and not in_fp8:
            self._use_products(groups, batch, expected, "packed")
        if head_candidates is not None and not self.is_deterministic:
            self._find_row_counts(head_candidates)
        if compile != "off" and self.device.type == "cuda":
            self._try_graphs(batch, hidden)

    def _use_fp8(self, groups: list[list[nn.Linear]]) -> bool:
        """Compute products in fp8 from now on; return False, with a warning, where that is not supported."""
        reason = fp8.unsupported(self.device, self.dtype)
        if reason is None:
            try:
                self.products = Products(self.model, groups, "fp8")
                return True
            except RuntimeError as error:
                reason = one_line(error)
        self._warn("fp8 products are not used", FastsiaError(reason))
        return False

    def _use_rotary(self, batch: Batch, expected: Tensor) -> None:
        """Leave rotary embeddings to the attention operator if that works here and gives the expected logits."""
        rotary = Rotary(self.model, self._deferred)
        if rotary.num_layers == 0:
            return
        self.rotary, failure = rotary, Exception("their results differ")
        try:
            if self._difference(self.logits(self.forward(batch)), expected) <= 1:
                return
        except RuntimeError as error:
            failure = error
        self.rotary = None
        self._warn("rotary embeddings are not fused", failure)

    def _use_products(
        self, groups: list[list[nn.Linear]], batch: Batch, expected: Tensor, mode: Literal["packed", "fused"]
    ) -> None:
        """Use packed or fused products if they work here and give the expected logits."""
        if self.products is not None:
            self.products.release()
            self.products = None
        try:
            self.products = Products(self.model, groups, mode)
            if self._difference(self.logits(self.forward(batch)), expected) <= 1:
                self._weights = self._addresses()
                return
            failure: Exception = FastsiaError("their results differ")
        except RuntimeError as error:
            failure = error
        if self.products is not None:
            self.products.release()
        self.products = None
        self._warn(f"{mode} products are not used", failure)

    def _difference(self, ours: Tensor, theirs: Tensor) -> float:
        """Return the largest difference as a multiple of the tolerated rounding."""
        in_fp8 = self.products is not None and self.products.mode == "fp8"
        limit = 1e-3 if self.dtype in (torch.float32, torch.float64) and not in_fp8 else 0.15
        theirs = theirs.float()
        return (ours.float() - theirs).abs().max().item() / (limit * max(theirs.abs().max().item(), 1.0))

    def _find_row_counts(self, head_candidates: list[int]) -> None:
        """Find the row counts of steps and of the head in which a row's bits do not depend on the others."""
        num_blocks, block_size = self.kv_cache.shape[2:4]
        of_steps = agreeing(
            row_buckets(self._most_rows),
            lambda rows: self.forward(probe(rows, num_blocks, block_size, self.vocab_size)),
        )
        hidden = self.forward(probe(PROBE, num_blocks, block_size, self.vocab_size))
        of_head = agreeing(head_candidates, lambda rows: self.logits(hidden.repeat(rows // PROBE, 1)))
        if of_steps and of_head:
            self.row_counts, self.head_row_counts, self._most_rows = of_steps, of_head, of_steps[-1]
        else:
            self._warn("rollouts depend on batch sizes", FastsiaError("a row's bits depend on its place in a product"))

    def _try_compile(self, batch: Batch, expected: Tensor) -> None:
        """Use torch.compile if it works here and agrees with the plain path."""
        try:
            self._compile(batch, expected)
        except Exception as error:  # a compiler may raise anything; the plain path remains
            self._warn("torch.compile is not used", error)

    def _try_graphs(self, batch: Batch, expected: Tensor) -> None:
        """Use CUDA graphs if they work here and agree with the plain path."""
        self.use_graphs()
        hidden = self._replay(batch)
        if hidden is not None and not self._difference(hidden, expected) <= 1:
            self.graphs = None
            self._warn("CUDA graphs are not used", FastsiaError("their hidden states differ"))

    def _compile(self, batch: Batch, expected: Tensor) -> None:
        decode = compile_function(self._decode)
        inputs = self._inputs(batch, BatchShape(rows=16, trunks=3, prefix_blocks=5, suffix_blocks=7))
        mark_dynamic(inputs)
        pairs = [(self._run(decode, inputs)[: len(expected)], expected)]
        project = None
        if self.fused_head and self._softcap is not None:
            project, hidden = compile_function(self._project, dynamic=True), expected.clone()
            with torch.inference_mode():
                pairs.append((project(hidden), self._project(hidden)))
        if not all(self._difference(ours, plain) <= 1 for ours, plain in pairs):
            raise FastsiaError("its results differ")
        self._compiled, self._compiled_project = decode, project


def kv_shape(config: PretrainedConfig) -> tuple[int, int]:
    """Return (num_kv_heads, head_dim) of a text config."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads, head_dim


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU from the operating system's own zero pages, so that blocks never used take no memory.

    They must be zeros: a masked key has weight 0, and 0 times an uninitialised value could be NaN.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = torch.finfo(dtype).bits // 8
    return torch.from_numpy(np.zeros(math.prod(shape) * size, dtype=np.uint8)).view(dtype).view(shape)
