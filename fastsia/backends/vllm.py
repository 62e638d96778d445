"""The `vllm` backend: vLLM in this process, for models that need several GPUs and for comparisons."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fastsia.backends.base import DescribedModel, config_bytes
from fastsia.backends.continuations import Continuation, DrawnSequence, PendingRequest
from fastsia.config import EngineOptions, VLLMOptions, options_of
from fastsia.engine.sequence import Request, Trajectory
from fastsia.errors import FastsiaError, one_line
from fastsia.models.loading import resolve_device, resolve_dtype
from fastsia.models.resolve import ModelRef

# Trajectories drawn together before all their checkpoints: enough to fill vLLM's batch, and few enough that finished
# problems are stored steadily.
_WINDOW = 64
_SAMPLED_BLOCKS, _BLOCK_BYTES = 512, 64


class VLLMBackend(DescribedModel):
    """vLLM's engine: token-id prompts, prefix caching, n sequences per prompt, and its sampler's log-probabilities.

    `share` and `answer_stop` are ignored. The request's seed determines every draw, which makes vLLM draw sequence by
    sequence; two runs are equal as far as vLLM's logits are.

    Args:
        model: a name, a path or a `ModelRef`.
        tensor_parallel_size: GPUs that share the model.
        model_args: further arguments of `vllm.LLM`.
        dtype: as in `load_model`.
        trust_remote_code: run the repository's own code.
        revision: of a Hub model.
        gpu_memory_utilization: vLLM's setting of this name.
        max_num_seqs: vLLM's setting of this name.

    Raises:
        FastsiaError: vLLM is not installed or cannot load the model.
    """

    name = "vllm"
    warnings: Sequence[str] = ()

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelRef,
        *,
        tensor_parallel_size: int = 1,
        model_args: Mapping[str, Any] | None = None,
        dtype: Any = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        gpu_memory_utilization: float | None = None,
        max_num_seqs: int | None = None,
    ) -> None:
        # vLLM logs from several processes; standard output belongs to the caller.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.__stderr__")
        try:
            import vllm
        except ImportError as error:
            raise FastsiaError(f"the vllm backend needs vLLM: pip install 'fastsia[vllm]' ({error}).") from error
        own = VLLMOptions(tensor_parallel_size=tensor_parallel_size, model_args=model_args)
        if "model" in (own.model_args or {}):
            raise FastsiaError("model_args must not contain model.")
        asked = {"gpu_memory_utilization": gpu_memory_utilization, "max_num_seqs": max_num_seqs}
        sizes = options_of(EngineOptions, asked)  # vLLM has other defaults, but the same ranges
        super().__init__(model, trust_remote_code=trust_remote_code, revision=revision)
        if self.ref.gguf_file is not None:
            raise FastsiaError("the vllm backend does not read GGUF files; the native and hf backends do.")
        weights_dtype = str(resolve_dtype(dtype, resolve_device())).removeprefix("torch.")
        settings: dict[str, Any] = {
            "dtype": weights_dtype,
            "tensor_parallel_size": own.tensor_parallel_size,
            "trust_remote_code": trust_remote_code,
            "enable_prefix_caching": True,
            # Log-probabilities of the distribution that is drawn from, after temperature and top-p.
            "logprobs_mode": "processed_logprobs",
            # No top-k or penalty from the model's folder.
            "generation_config": "vllm",
        }
        if resolve_device().type == "cpu":
            # When vLLM (0.32.0) splits a prompt it rewinds the generator of a seeded request; CPU generators cannot.
            settings["enable_chunked_prefill"] = False
        settings |= {name: getattr(sizes, name) for name, value in asked.items() if value is not None}
        settings |= ({} if revision is None else {"revision": revision}) | dict(own.model_args or {})
        try:
            self._llm = vllm.LLM(model=self.ref.source, **settings)
        except (TypeError, ValueError, RuntimeError) as error:
            raise FastsiaError(f"vLLM cannot load {self.ref.name!r}: {one_line(error)[:300]}") from error
        self._sampling_params = vllm.SamplingParams
        self._version = vllm.__version__
        self._settings = settings
        self.limit_context(int(self._llm.llm_engine.model_config.max_model_len))

    def describe(self) -> dict[str, Any]:
        return {
            "device": str(self._llm.llm_engine.vllm_config.device_config.device_type),
            "dtype": self._settings["dtype"],
            "kernels": f"vllm {self._version}",
            "tensor_parallel_size": self._settings["tensor_parallel_size"],
            "model_args": {key: _json_value(value) for key, value in self._settings.items()},
        }

    def fingerprint(self) -> str:
        return _stored_fingerprint(self.ref, self.model_config, self._settings.get("revision"))

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """All trajectories of a window of requests in one batch, then all their rollouts in another."""
        waiting = iter(requests)
        while window := [
            PendingRequest(request, self.eos_token_ids, self.vocabulary) for request in islice(waiting, _WINDOW)
        ]:
            own = [pending for pending in window if pending.start is not None]
            drawn = self._draw([pending.start for pending in own if pending.start is not None])
            for pending, (trajectory,) in zip(own, drawn, strict=True):
                pending.take(trajectory)
            starts = [pending.starts() for pending in window]
            rollouts = iter(self._draw([start for mine in starts for start in mine]))
            for pending, mine in zip(window, starts, strict=True):
                parts = list(islice(rollouts, len(mine)))
                self.counters.generated_tokens += sum(len(sequence.token_ids) for part in parts for sequence in part)
                yield pending.finish(parts)

    def _draw(self, starts: Sequence[Continuation]) -> list[list[DrawnSequence]]:
        """The sequences of each continuation, in order."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": start.prefix} for start in starts],
            [self._params(start) for start in starts],
            use_tqdm=False,
        )
        found = []
        for start, output in zip(starts, outputs, strict=True):
            if len(output.outputs) != start.count:
                raise FastsiaError(f"{start.name}: vLLM returned {len(output.outputs)} sequences of {start.count}.")
            ranked = sorted(output.outputs, key=lambda sequence: sequence.index)
            found.append([_sequence(sequence, start) for sequence in ranked])
        return found

    def _params(self, start: Continuation) -> Any:
        sampling = start.sampling
        return self._sampling_params(
            n=start.count,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=start.max_tokens,
            stop=list(sampling.stop) or None,
            stop_token_ids=list(start.eos),
            ignore_eos=True,  # `stop_token_ids` alone end a sequence
            detokenize=bool(sampling.stop),
            logprobs=0,  # of the drawn token
            # vLLM uses seed + i for sequence i of a prompt.
            seed=start.number(bits=62),
        )


def _sequence(output: Any, start: Continuation) -> DrawnSequence:
    tokens = np.array(output.token_ids, dtype=np.int32)
    logprobs = np.array(
        [step[token].logprob for step, token in zip(output.logprobs, output.token_ids, strict=True)],
        dtype=np.float32,
    )
    if start.sampling.temperature == 0:
        logprobs = np.zeros_like(logprobs)
    at_stop = output.finish_reason == "stop" and bool(start.sampling.stop)  # an EOS among the tokens comes first
    return DrawnSequence.cut(tokens, logprobs, start.eos, len(tokens) if at_stop else None)


def _json_value(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _stored_fingerprint(ref: ModelRef, config: Any, revision: str | None) -> str:
    """16 hex digits over the configuration and the weight files: their names, sizes, and bytes sampled from each.

    vLLM's weights are in other processes, fused and sharded, so the files identify the model.
    """
    digest = hashlib.blake2b(config_bytes(config), digest_size=8)
    folder = ref.path
    if folder is None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(ref.source, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise FastsiaError(f"model {ref.name!r} is not in the local cache although vLLM loaded it.")
        folder = Path(cached).parent
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}\x1f{size}".encode())
        with file.open("rb") as stored:
            for at in np.linspace(0, max(size - _BLOCK_BYTES, 0), _SAMPLED_BLOCKS, dtype=np.int64).tolist():
                stored.seek(at)
                digest.update(stored.read(_BLOCK_BYTES))
    return digest.hexdigest()
