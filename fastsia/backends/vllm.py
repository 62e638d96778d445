"""vLLM inside this process behind the backend protocol: for models that need several GPUs, and to compare with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends.base import config_bytes
from fastsia.backends.continuations import (
    NO_ROW,
    Continuation,
    Drawn,
    Row,
    assemble,
    checkpoint_start,
    cut,
    eos_of,
    given,
    trajectory_of,
    trajectory_start,
)
from fastsia.config import integer_from
from fastsia.engine.run import checkpoints_of
from fastsia.engine.sequence import Counters, Request, Trajectory
from fastsia.errors import FastsiaError
from fastsia.models.gguf import is_gguf
from fastsia.models.loading import Description, context_length, eos_ids, load_description, resolve_device, resolve_dtype
from fastsia.models.resolve import resolve_model

# Trajectories drawn together, then all their checkpoints: enough to fill vLLM's batch, few enough to store steadily.
_WINDOW = 64
_SAMPLED_BLOCKS, _BLOCK_BYTES = 512, 64


class VLLMBackend:
    """vLLM's engine: token-id prompts, prefix caching, n sequences a prompt, the log-probabilities of the sampler.

    `share` has no meaning here and `answer_stop` is ignored. Every draw follows from the request's seed, which makes
    vLLM draw row by row; two runs are equal as far as vLLM's logits are.

    Args:
        tensor_parallel_size: GPUs that share the model.
        model_args: further arguments of `vllm.LLM`, as they are.
        dtype, trust_remote_code, revision, gpu_memory_utilization: as elsewhere. max_num_seqs: vLLM's max_num_seqs.
    """

    name = "vllm"
    warnings: Sequence[str] = ()

    def __init__(
        self,
        name_or_path: str,
        *,
        tensor_parallel_size: int = 1,
        model_args: Mapping[str, Any] | None = None,
        dtype: Any = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        gpu_memory_utilization: float | None = None,
        max_num_seqs: int | None = None,
    ) -> None:
        # It logs from several processes; standard output is for what the caller prints.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.__stderr__")
        try:
            import vllm
        except ImportError as error:
            raise FastsiaError(f"the vllm backend needs vLLM: pip install 'fastsia[vllm]' ({error}).") from error
        if is_gguf(name_or_path):
            raise FastsiaError("the vllm backend does not read GGUF files; the native and hf backends do.")
        model = load_description(name_or_path, trust_remote_code=trust_remote_code, revision=revision)
        if model.tokenizer is None:
            raise FastsiaError(f"model {name_or_path!r} has no tokenizer, which prompts and answers need.")
        weights_dtype = str(resolve_dtype(dtype, resolve_device())).removeprefix("torch.")
        settings: dict[str, Any] = {
            "dtype": weights_dtype,
            "tensor_parallel_size": integer_from(1, "tensor_parallel_size", tensor_parallel_size),
            "trust_remote_code": trust_remote_code,
            "enable_prefix_caching": True,
            # Of the distribution that is drawn from, after temperature and top-p.
            "logprobs_mode": "processed_logprobs",
            # No top-k or penalty of the model's folder.
            "generation_config": "vllm",
        }
        optional = {
            "revision": revision,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_num_seqs": None if max_num_seqs is None else integer_from(1, "max_num_seqs", max_num_seqs),
        }
        if resolve_device().type == "cpu":
            # While vLLM splits a prompt it rewinds the generator of a seeded request; a CPU's cannot be (0.32.0).
            settings["enable_chunked_prefill"] = False
        settings |= {name: value for name, value in optional.items() if value is not None}
        own = dict(model_args or {})
        if "model" in own:
            raise FastsiaError("model_args must not name the model again.")
        try:
            self._llm = vllm.LLM(model=resolve_model(name_or_path), **(settings | own))
        except (TypeError, ValueError, RuntimeError) as error:
            raise FastsiaError(f"vLLM cannot load {name_or_path!r}: {' '.join(str(error).split())[:300]}") from error
        self._sampling_params = vllm.SamplingParams
        self._version = vllm.__version__
        self._settings = settings | own
        self._model = model
        self.model_name = name_or_path
        self.tokenizer = model.tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(model.tokenizer)
        self.eos_token_ids = eos_ids(model, model.tokenizer)
        self.context_length = min(
            filter(None, (context_length(model), int(self._llm.llm_engine.model_config.max_model_len)))
        )
        self.counters = Counters()

    def describe(self) -> dict[str, Any]:
        return {
            "device": str(self._llm.llm_engine.vllm_config.device_config.device_type),
            "dtype": self._settings["dtype"],
            "kernels": f"vllm {self._version}",
            "tensor_parallel_size": self._settings["tensor_parallel_size"],
            "model_args": {key: _json_value(value) for key, value in self._settings.items()},
        }

    def fingerprint(self) -> str:
        return _stored_fingerprint(self.model_name, self._model, self._settings.get("revision"))

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """A window of trajectories, then all their checkpoints, at once each."""
        waiting = iter(requests)
        while window := list(islice(waiting, _WINDOW)):
            yield from self._run(window)

    def _run(self, requests: list[Request]) -> Iterator[Trajectory]:
        trajectories = self._trajectories(requests)
        points = [
            checkpoints_of(request, len(trajectory.token_ids))
            for request, trajectory in zip(requests, trajectories, strict=True)
        ]
        starts = [
            checkpoint_start(request, trajectory.token_ids, int(checkpoint))
            for request, trajectory, checkpoints in zip(requests, trajectories, points, strict=True)
            for checkpoint in checkpoints
        ]
        parts = iter(self._draw(starts))
        for request, trajectory, checkpoints in zip(requests, trajectories, points, strict=True):
            rows = list(islice(parts, len(checkpoints)))
            self.counters.generated_tokens += sum(len(row.token_ids) for part in rows for row in part)
            yield assemble(request, trajectory, checkpoints, rows)

    def _trajectories(self, requests: list[Request]) -> list[Drawn]:
        own = [request for request in requests if request.trajectory_ids is None]
        rows = iter(self._draw([trajectory_start(request) for request in own]))

        def of(request: Request) -> Drawn:
            (row,) = next(rows)
            eos = eos_of(request.sampling, self.eos_token_ids)
            return trajectory_of(row, request.sampling.stop, eos, self.vocabulary)

        return [given(request) or of(request) for request in requests]

    def _draw(self, starts: Sequence[Continuation]) -> list[list[Row]]:
        """The rows of each, in order."""
        found = [[NO_ROW] * start.count for start in starts]
        wanted = [i for i, start in enumerate(starts) if start.count and start.max_tokens]
        outputs = self._llm.generate(
            [{"prompt_token_ids": starts[i].prefix} for i in wanted],
            [self._params(starts[i]) for i in wanted],
            use_tqdm=False,
        )
        for i, output in zip(wanted, outputs, strict=True):
            rows = sorted(output.outputs, key=lambda row: row.index)
            if len(rows) != starts[i].count:
                raise FastsiaError(f"{starts[i].name}: vLLM gave {len(rows)} sequences of {starts[i].count}.")
            found[i] = [self._row(row, starts[i]) for row in rows]
        return found

    def _params(self, start: Continuation) -> Any:
        sampling = start.sampling
        return self._sampling_params(
            n=start.count,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=start.max_tokens,
            stop=list(sampling.stop) or None,
            stop_token_ids=list(eos_of(sampling, self.eos_token_ids)),
            ignore_eos=True,  # exactly the ids given
            detokenize=bool(sampling.stop),
            logprobs=0,  # of the drawn token
            # vLLM gives sequence i of a prompt seed + i.
            seed=start.number(bits=62),
        )

    def _row(self, output: Any, start: Continuation) -> Row:
        sampling = start.sampling
        tokens = np.array(output.token_ids, dtype=np.int32)
        logprobs = np.array(
            [step[token].logprob for step, token in zip(output.logprobs, output.token_ids, strict=True)],
            dtype=np.float32,
        )
        if sampling.temperature == 0:
            logprobs = np.zeros_like(logprobs)
        at_stop = output.finish_reason == "stop" and bool(sampling.stop)  # an EOS, if there is one, comes first
        return cut(tokens, logprobs, eos_of(sampling, self.eos_token_ids), len(tokens) if at_stop else None)


def _json_value(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _stored_fingerprint(name_or_path: str, model: Description, revision: str | None) -> str:
    """16 hex digits over the configuration and the weight files: their names, sizes, and bytes sampled from each.

    vLLM's weights lie in other processes, fused and sharded; the files are what tells one model from another.
    """
    digest = hashlib.blake2b(config_bytes(model.config), digest_size=8)
    folder = Path(resolve_model(name_or_path))
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(str(folder), "config.json", revision=revision)
        if not isinstance(cached, str):
            raise FastsiaError(f"model {name_or_path!r} is not in the local cache although vLLM loaded it.")
        folder = Path(cached).parent
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}\x1f{size}".encode())
        with file.open("rb") as stored:
            for at in np.linspace(0, max(size - _BLOCK_BYTES, 0), _SAMPLED_BLOCKS, dtype=np.int64).tolist():
                stored.seek(at)
                digest.update(stored.read(_BLOCK_BYTES))
    return digest.hexdigest()
