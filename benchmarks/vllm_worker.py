"""vLLM's side of vllm_process.py; runs in vLLM's own environment and does not import fastsia.

Receives the work, loads and warms up, and answers with versions. Then, for each message, it rolls out the whole work
once and answers (seconds, [(token ids, whether the limit cut them), ...]). Only `LLM.generate` is timed.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any


def serve(parent: Connection) -> None:
    work: dict[str, Any] = parent.recv()
    import torch
    import vllm

    llm = vllm.LLM(model=work["model"], **work["engine"])
    # The seed is set on the engine: with a seed per request vLLM draws each row from its own generator, one by one.
    sampling = vllm.SamplingParams(
        n=work["num_rollouts"],
        **{name: work[name] for name in ("temperature", "top_p", "max_tokens")},
        stop=work["stop"] or None,
        stop_token_ids=work["eos_token_ids"],
        ignore_eos=True,  # only the ids above end a sequence, not those in the model's folder
        detokenize=bool(work["stop"]),
    )
    prompts = [{"prompt_token_ids": ids} for ids in work["prompts"]]
    llm.generate(prompts[:8], sampling, use_tqdm=False)
    parent.send({"vllm": vllm.__version__, "torch": torch.__version__})
    while parent.recv():
        if not llm.reset_prefix_cache():  # a repeat must not find the prompts of the one before
            raise RuntimeError("vLLM did not clear its prefix cache")
        begin = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - begin
        rollouts = [rollout for output in outputs for rollout in sorted(output.outputs, key=lambda one: one.index)]
        if len(rollouts) != len(prompts) * work["num_rollouts"]:
            raise RuntimeError(f"vLLM returned {len(rollouts)} rollouts of {len(prompts)} prompts")
        parent.send((seconds, [(list(one.token_ids), one.finish_reason == "length") for one in rollouts]))


if __name__ == "__main__":  # vLLM's child processes import this file again
    with suppress(EOFError), Connection(int(sys.argv[1])) as connection:
        serve(connection)
