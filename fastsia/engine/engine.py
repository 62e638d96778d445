"""The public engine: a decoder, and rollouts from any prefix of tokens."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastsia import processor, renamed
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import MAX_COUNT, EngineOptions, SamplingParams, Share, integer, integer_from, integers
from fastsia.engine.block_manager import BlockManager, OutOfBlocksError
from fastsia.engine.forcing import Forced, ForcedScore, NextTokens, check_forced, force, next_tokens
from fastsia.engine.loop import Run
from fastsia.engine.memory import KEPT_POSITIONS, default_num_blocks, gpu_num_seqs
from fastsia.engine.model_runner import ModelRunner
from fastsia.engine.products import own_weights
from fastsia.engine.profile import StepProfile
from fastsia.engine.sequence import Counters, Request, Rollout, Trajectory
from fastsia.engine.step import Bookkeeping
from fastsia.engine.threads import choose_threads, default_num_seqs, largest_matrix, using_threads
from fastsia.errors import FastsiaError
from fastsia.models.loading import context_length, eos_ids, load_model, origin_of
from fastsia.models.resolve import ModelRef
from fastsia.ops import select


@renamed.renamed(
    max_rows="max_num_seqs",
    num_blocks="num_kv_blocks",
    window="max_concurrent_trajectories",
    prefill_chunk="max_num_batched_tokens",
)
class Engine:
    """Rollouts of a Hugging Face decoder, from live weights: later updates of the model are seen.

    Token ids in and out; a tokenizer is needed only for stop texts and answers.

    Args:
        model: any decoder of transformers with the attention interface (Llama, Qwen2, Gemma2, Olmo3, ...).
        tokenizer: its tokenizer, or None.
        max_num_seqs: sequences decoded per step. The draws do not depend on it, up to rounding at the edge of a draw
            (docs/engine.md, Exactness). None takes 1,024 on a GPU whose memory has 512 tokens of KV for each, else
            512, and on a CPU as many as it computes in about half a second, but at least 64.
        num_kv_blocks: size of the KV pool in blocks; None takes up to half of the available memory on a CPU and what
            `gpu_memory_utilization` leaves on a GPU.
        block_size: tokens per KV block.
        max_concurrent_trajectories: active requests at a time.
        max_num_batched_tokens: prefill tokens per step: prompts, given trajectories, recomputed ones.
        kernels: "auto" (Triton on CUDA, the C++ core on a CPU), "triton", "native" or "reference" (plain PyTorch).
        compile: "on" puts steps of up to `max_num_seqs` rows through torch.compile and, on CUDA, into CUDA graphs;
            "graphs" only into those; "off" runs the model as it is. "auto" is "on" on CUDA and "off" on a CPU.
        deterministic: rollouts depend on no size or order set here, bit for bit, on a GPU too (docs/engine.md,
            Exactness). Steps run only in row counts that agree, so small ones are slower.
        overlap: "on" launches a second step, of other sequences, before the first is read, so that the device does not
            wait for the host; only while there are sequences for two full steps. "auto" is "on" on CUDA and "off" on a
            CPU. The draws do not depend on it.
        gpu_memory_utilization: share of the GPU's memory for weights, KV pool and steps together.
        quantization: "fp8" computes the layers' products in 8 bits, which changes the distribution that is drawn from;
            emulated on a CPU (docs/exactness.md). "none" is the model as it is.
        num_threads: threads of a CPU while this engine computes; None measures which number is fastest, unless
            OMP_NUM_THREADS says it.

    Raises:
        FastsiaError: the model's attention or logits cannot be reproduced through the interface.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        max_num_seqs: int | None = None,
        num_kv_blocks: int | None = None,
        block_size: int = 16,
        max_concurrent_trajectories: int = 64,
        max_num_batched_tokens: int = 1024,
        kernels: Literal["auto", "triton", "native", "reference"] = "auto",
        compile: Literal["auto", "on", "graphs", "off"] = "auto",
        deterministic: bool = False,
        overlap: Literal["auto", "on", "off"] = "auto",
        gpu_memory_utilization: float = 0.9,
        quantization: Literal["none", "fp8"] = "none",
        num_threads: int | None = None,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise FastsiaError(
                f"model must be a loaded model of transformers, got {type(model).__name__}; "
                "Engine.from_pretrained loads one by its name."
            )
        self.model = model
        self.tokenizer: Any = tokenizer  # transformers types its results as unions of all that they may be
        self.vocabulary = Vocabulary.from_tokenizer(tokenizer) if tokenizer is not None else None
        self.counters = Counters()
        chosen = EngineOptions(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_concurrent_trajectories=max_concurrent_trajectories,
            num_kv_blocks=num_kv_blocks,
            block_size=block_size,
            gpu_memory_utilization=gpu_memory_utilization,
            kernels=kernels,
            compile=compile,
            quantization=quantization,
            deterministic=deterministic,
            overlap=overlap,
            num_threads=num_threads,
        )
        self.block_size, self.max_num_batched_tokens = chosen.block_size, chosen.max_num_batched_tokens
        self.max_concurrent_trajectories = chosen.max_concurrent_trajectories
        device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
        self.num_threads, self.max_num_seqs = torch.get_num_threads(), chosen.max_num_seqs or 512
        if device.type == "cpu":
            weight = largest_matrix(model)
            self.num_threads = choose_threads(weight, chosen.num_threads)[0]
            self.max_num_seqs = chosen.max_num_seqs or default_num_seqs(model, weight, self.num_threads)
        self._overlap = chosen.overlap == "on" or (chosen.overlap == "auto" and device.type == "cuda")
        self.ops = select(device, chosen.kernels, dtype, deterministic=chosen.deterministic)
        how = _resolve_compile(chosen.compile, device)

        def num_blocks(max_num_seqs: int) -> int:
            limits = {**self._limits, "max_num_seqs": max_num_seqs}
            share = chosen.gpu_memory_utilization
            return chosen.num_kv_blocks or default_num_blocks(model, device, self.block_size, share, **limits)

        if device.type == "cuda" and chosen.max_num_seqs is None:
            self.max_num_seqs = gpu_num_seqs(num_blocks, self.block_size)
        self.num_kv_blocks = num_blocks(self.max_num_seqs)
        with using_threads(self.num_threads):
            self.runner = ModelRunner(
                model,
                self.ops,
                self.num_kv_blocks,
                self.block_size,
                compile=how,
                max_num_seqs=self.max_num_seqs,
                quantization=chosen.quantization,
                most_kept=self.max_concurrent_trajectories * KEPT_POSITIONS,
                max_num_batched_tokens=self.max_num_batched_tokens,
                deterministic=chosen.deterministic,
            )
        counts = self.runner.row_counts
        if counts is not None and self.max_num_seqs + self.max_num_batched_tokens > counts[-1]:
            # No step may have more rows than the largest row count that agrees.
            self.max_num_batched_tokens = min(self.max_num_batched_tokens, counts[-1] // 2)
            self.max_num_seqs = min(self.max_num_seqs, counts[-1] - self.max_num_batched_tokens)
        self._running = False

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | ModelRef,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        peft: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> Engine:
        """Load a Hub id, a folder, a GGUF file, or "demo:sft"; `settings` as in the constructor.

        dtype None is bfloat16 on a GPU; on a CPU float32 or bfloat16, see `load_model`. Only safetensors and GGUF
        weights are read, and only complete ones. peft: a LoRA adapter's folder or Hub id, merged into the weights.
        The packed products take the place of the weights; `model.state_dict()` unpacks them, and a forward
        pass with gradients gives the model its weights back.
        """
        model, tokenizer = load_model(
            name_or_path,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            revision=revision,
            peft=peft,
        )
        with own_weights(model):
            return cls(model, tokenizer, **settings)

    @property
    def _limits(self) -> dict[str, int]:
        names = ("max_num_seqs", "max_num_batched_tokens", "max_concurrent_trajectories")
        return {name: getattr(self, name) for name in names}

    @property
    def context_length(self) -> int | None:
        """Positions the model was made for, where its config says so."""
        return context_length(self.model)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every id that ends a sequence by default: the generation config's, the model's and the tokenizer's."""
        return tuple(i for i in eos_ids(self.model, self.tokenizer) if i < self.runner.vocab_size)

    def describe(self) -> dict[str, Any]:
        """Return where and how this engine computes."""
        origin = origin_of(self.model).describe()
        if self.runner.products is not None and self.runner.products.mode == "fp8":
            origin["quantization"] = ", ".join(filter(None, [origin.get("quantization"), "fp8 products"]))
        return {
            "device": str(self.runner.device),
            "dtype": str(self.runner.dtype).removeprefix("torch."),
            **origin,
            "kernels": self.ops.name,
            "compile": self.runner.compile,
            "products": self.runner.products_name,
            "deterministic": self.runner.is_deterministic,
            "rotary": "fused" if self.runner.rotary is not None else "model",
            "overlap": "on" if self._overlap else "off",
            "head": "fused" if self.runner.fused_head else "model",
            "max_num_seqs": self.max_num_seqs,
            "num_kv_blocks": self.num_kv_blocks,
            "kv_pool_bytes": self.num_kv_blocks * self.runner.bytes_per_block(self.model, self.block_size),
            "block_size": self.block_size,
            "max_concurrent_trajectories": self.max_concurrent_trajectories,
            **(
                {"num_threads": self.num_threads, "processor": processor.describe()}
                if self.runner.device.type == "cpu"
                else {}
            ),
        }

    def run(self, requests: Iterable[Request], watch: Callable[[Run], None] | None = None) -> Iterator[Trajectory]:
        """Draw trajectories and their rollouts, and yield each trajectory when it finishes; at most
        `max_concurrent_trajectories` requests are taken ahead.

        A trajectory depends on its request alone, not on other requests or on any size set here, up to rounding at the
        edge of a draw (docs/engine.md, Exactness).

        Args:
            watch: called after every step; `Run.take_drawn` has what was drawn of the active requests.
        """
        with closing(self.steps(requests, watch)) as steps:
            for finished in steps:
                yield from finished

    def steps(
        self, requests: Iterable[Request], watch: Callable[[Run], None] | None = None
    ) -> Generator[list[Trajectory], None, None]:
        """Like `run`, but yield after every step the list of trajectories that it finished, usually empty."""
        return self._start(iter(requests), None, watch)

    def rollout(
        self, prefix_ids: Sequence[int], n: int, sampling: SamplingParams | None = None, *, seed: int = 0
    ) -> list[Rollout]:
        """n continuations of a prefix, by index; the first k of them are those of n = k."""
        return self.rollout_checkpoints(prefix_ids, [], [0], n, sampling, seed=seed)[0]

    def rollout_checkpoints(
        self,
        prompt_ids: Sequence[int],
        trajectory_ids: Sequence[int],
        checkpoints: Sequence[int],
        n: int,
        sampling: SamplingParams | None = None,
        *,
        seed: int = 0,
        share: Share = "trajectory",
    ) -> dict[int, list[Rollout]]:
        """n continuations from each checkpoint t of a trajectory, i.e. of prompt + trajectory[:t].

        Args:
            share: "trajectory" computes rollouts on the same tokens once, whichever checkpoint they are from;
                "checkpoint" only within a checkpoint; "none" never. The rollouts are the same.

        Returns:
            checkpoint -> its rollouts, by index.
        """
        request = _request(prompt_ids, trajectory_ids, checkpoints, n, sampling, seed, share)
        (trajectory,) = self.run([request])
        rollouts = trajectory.rollouts
        assert rollouts is not None
        found: dict[int, list[Rollout]] = {int(checkpoint): [] for checkpoint in trajectory.checkpoints}
        for r in range(len(rollouts)):
            found[int(rollouts.checkpoint[r])].append(rollouts.row(r))
        return found

    def stream(
        self,
        prompt_ids: Sequence[int],
        trajectory_ids: Sequence[int],
        checkpoints: Sequence[int],
        n: int,
        sampling: SamplingParams | None = None,
        *,
        seed: int = 0,
        share: Share = "trajectory",
    ) -> Iterator[tuple[int, int, Rollout]]:
        """`rollout_checkpoints`, each rollout as it finishes: (checkpoint, index, rollout)."""
        request = _request(prompt_ids, trajectory_ids, checkpoints, n, sampling, seed, share)
        ended: deque[tuple[int, int, Rollout]] = deque()
        run = self._start(iter([request]), lambda _, rollouts: ended.extend(rollouts))
        for _ in run:
            while ended:
                yield ended.popleft()

    def force(self, *args: Any, **kwargs: Any) -> list[ForcedScore]:
        """The old name of `loglikelihood`."""
        renamed.warn("Engine.force", "Engine.loglikelihood")
        return self.loglikelihood(*args, **kwargs)

    def loglikelihood(
        self,
        prompt_ids: Sequence[int],
        trajectory_ids: Sequence[int],
        forced: Sequence[Forced],
        *,
        continuing: np.ndarray | None = None,
    ) -> list[ForcedScore]:
        """Log-probabilities of given tokens after prefixes of a trajectory (teacher forcing), in order.

        The trajectory is computed once. Each given token costs one row of a forward pass; equal tokens after equal
        tokens at the same position are computed once.

        Args:
            continuing: bool [vocabulary], the tokens that would continue the answer; `ForcedScore.end` is the
                log-probability that the next token is none of them.
        """
        prompt, trajectory = integers("prompt_ids", prompt_ids), integers("trajectory_ids", trajectory_ids)
        check_forced(prompt, trajectory, forced, continuing, self.runner.vocab_size, self.context_length)
        with self._forcing() as blocks:
            scores, num_trunk_rows, num_rows = force(
                self.runner,
                blocks,
                prompt,
                trajectory,
                forced,
                rows_at_once=self.max_num_batched_tokens,
                continuing=continuing,
            )
        self.counters.prefill_tokens += num_trunk_rows
        self.counters.forced_tokens += num_rows
        return scores

    def next_tokens(
        self,
        prompt_ids: Sequence[int],
        trajectory_ids: Sequence[int],
        positions: Sequence[int],
        most: int,
        sampling: SamplingParams | None = None,
    ) -> NextTokens:
        """The most probable tokens at positions of a trajectory, with their log-probabilities under `sampling`.

        The trajectory is computed once, up to the last position.

        Args:
            positions: of tokens of the trajectory; at least one.
            most: tokens per position, at most the vocabulary's size.

        Raises:
            FastsiaError: a position is outside the trajectory, or the trajectory does not fit.
        """
        prompt, trajectory = integers("prompt_ids", prompt_ids), integers("trajectory_ids", trajectory_ids)
        most = integer_from(1, "most", most, self.runner.vocab_size)
        at = integers("positions", positions)
        if not at or min(at) < 0 or max(at) >= len(trajectory):
            raise FastsiaError(f"positions must be at least one of 0 to {len(trajectory) - 1}, got {list(at)}.")
        forced = [Forced(position, (), trajectory[position : position + 1]) for position in at]
        check_forced(prompt, trajectory, forced, None, self.runner.vocab_size, self.context_length)
        how = sampling or SamplingParams()
        with self._forcing() as blocks:
            found, num_rows = next_tokens(
                self.runner,
                blocks,
                prompt,
                trajectory,
                at,
                most,
                how.temperature,
                how.top_p,
                rows_at_once=self.max_num_batched_tokens,
            )
        self.counters.prefill_tokens += num_rows
        return found

    @contextmanager
    def _forcing(self) -> Iterator[BlockManager]:
        """Blocks for a trunk that is computed outside of a run."""
        self._check_idle()
        self.runner.check_weights()
        try:
            with using_threads(self.num_threads):
                yield BlockManager(self.num_kv_blocks, self.block_size)
        except OutOfBlocksError as error:
            raise FastsiaError(
                f"the KV pool is too small for this trajectory: {error}; raise num_kv_blocks."
            ) from error

    @contextmanager
    def profile(self) -> Iterator[StepProfile]:
        """Record every step inside the block and the time of its parts."""
        profile = StepProfile(self.runner.device)
        self.runner.profile, self.runner.ops = profile, profile.timed(self.ops)
        try:
            yield profile
        finally:
            self.runner.profile, self.runner.ops = None, self.ops

    def _start(
        self,
        requests: Iterator[Request],
        on_rollouts: Any,
        watch: Callable[[Run], None] | None = None,
    ) -> Generator[list[Trajectory], None, None]:
        self._check_idle()
        try:
            self._running = True
            self.runner.reset()  # the reset after the last run may have been interrupted
            self.runner.check_weights()
            run = Run(
                self.runner,
                requests,
                counters=self.counters,
                blocks=BlockManager(self.num_kv_blocks, self.block_size),
                **self._limits,
                eos_token_ids=self.eos_token_ids,
                context_length=self.context_length,
                vocabulary=self.vocabulary,
                on_rollouts=on_rollouts,
                watch=watch,
                profile=self.runner.profile,
                bookkeeping=Bookkeeping if self.ops.name == "reference" else None,
                overlap=self._overlap,
            )
            with using_threads(self.num_threads):
                yield from run.steps()
        finally:
            try:
                self.runner.reset()
            finally:
                self._running = False

    def _check_idle(self) -> None:
        if self._running:
            raise FastsiaError("this engine is already running: finish or close the iteration that uses it first.")


def _request(
    prompt_ids: Sequence[int],
    trajectory_ids: Sequence[int],
    checkpoints: Sequence[int],
    n: int,
    sampling: SamplingParams | None,
    seed: int,
    share: Share,
) -> Request:
    if sampling is not None and not isinstance(sampling, SamplingParams):
        raise FastsiaError(f"sampling must be a SamplingParams, got {type(sampling).__name__}.")
    if share not in ("trajectory", "checkpoint", "none"):
        raise FastsiaError(f'share must be "trajectory", "checkpoint" or "none", got {share!r}.')
    any_seed = integer(seed)
    if any_seed is None:
        raise FastsiaError(f"seed must be an integer, got {seed!r}.")
    return Request(
        key=None,
        prompt_ids=integers("prompt_ids", prompt_ids),
        sampling=sampling or SamplingParams(),
        num_rollouts=integer_from(1, "n", n, MAX_COUNT),
        # Its lowest 64 bits, as the signed number that numpy stores.
        seed=int(np.uint64(any_seed & (2**64 - 1)).astype(np.int64)),
        trajectory_ids=integers("trajectory_ids", trajectory_ids),
        checkpoints=integers("checkpoints", checkpoints),
        share=share,
    )


def _resolve_compile(compile: str, device: torch.device) -> str:
    if compile == "graphs" and device.type != "cuda":
        raise FastsiaError(f'compile="graphs" needs a CUDA device, the model is on {device}; "on" and "off" do not.')
    if compile == "auto":
        return "on" if device.type == "cuda" else "off"
    return compile
