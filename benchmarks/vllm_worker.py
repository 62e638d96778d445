"""vLLM's side of vllm_process.py; runs in vLLM's own environment and does not import fastsia.

Reads a work file, loads and warms up. Then, for each path read from standard input, it rolls out the whole work once
and writes {"seconds", "token_ids", "finish_reasons"} to that path. Only `LLM.generate` is timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    # Loggers of this process and its children write to descriptor 1, so the answers go through a copy of it.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    serve(json.loads(Path(sys.argv[1]).read_text()), channel)


def serve(work: dict[str, Any], channel: TextIO) -> None:
    import torch
    import vllm

    llm = vllm.LLM(model=work["model"], **work["engine"])
    # The seed is set on the engine: with a seed per request vLLM draws each row from its own generator, one by one.
    sampling = vllm.SamplingParams(
        n=work["num_rollouts"],
        temperature=work["temperature"],
        top_p=work["top_p"],
        max_tokens=work["max_tokens"],
        stop=work["stop"] or None,
        stop_token_ids=work["eos_token_ids"],
        ignore_eos=True,  # only the ids above end a sequence, not those in the model's folder
        detokenize=bool(work["stop"]),
    )
    prompts = [{"prompt_token_ids": ids} for ids in work["prompts"]]
    llm.generate(prompts[: work["num_warmup"]], sampling, use_tqdm=False)
    print(json.dumps({"vllm": vllm.__version__, "torch": torch.__version__}), file=channel)
    for line in sys.stdin:
        if not llm.reset_prefix_cache():  # a repeat must not find the prompts of the one before
            raise RuntimeError("vLLM did not clear its prefix cache")
        begin = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - begin
        rollouts = [rollout for output in outputs for rollout in sorted(output.outputs, key=lambda one: one.index)]
        result = {
            "seconds": seconds,
            "token_ids": [list(rollout.token_ids) for rollout in rollouts],
            "finish_reasons": [rollout.finish_reason for rollout in rollouts],
        }
        Path(line.strip()).write_text(json.dumps(result))
        print("done", file=channel)


if __name__ == "__main__":  # vLLM's child processes import this file again
    main()
