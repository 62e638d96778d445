"""vLLM's side of vs_vllm.py; runs in vLLM's own environment and knows nothing of fastsia.

Reads a work file, loads and warms up, then answers each line of standard input, a path, by rolling out the whole work
once and writing {"seconds", "token_ids", "finish_reasons"} there. Seconds are those of `LLM.generate` alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    # Loggers of this process and of its children write to descriptor 1; the answers need a channel of their own.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    serve(json.loads(Path(sys.argv[1]).read_text()), channel)


def serve(work: dict[str, Any], channel: TextIO) -> None:
    import torch
    import vllm

    llm = vllm.LLM(model=work["model"], **work["engine"])
    # The engine's seed holds. One here would make vLLM draw every row from a generator of its own, one by one.
    sampling = vllm.SamplingParams(
        n=work["num_rollouts"],
        temperature=work["temperature"],
        top_p=work["top_p"],
        max_tokens=work["max_tokens"],
        stop=work["stop"] or None,
        stop_token_ids=work["eos_token_ids"],
        ignore_eos=True,  # exactly the ids given, whatever the model's folder says
        detokenize=bool(work["stop"]),
    )
    prompts = [{"prompt_token_ids": ids} for ids in work["prompts"]]
    llm.generate(prompts[: work["num_warmup"]], sampling, use_tqdm=False)
    print(json.dumps({"vllm": vllm.__version__, "torch": torch.__version__}), file=channel)
    for line in sys.stdin:
        if not llm.reset_prefix_cache():  # an earlier repeat must not leave its prompts behind
            raise RuntimeError("vLLM did not clear its prefix cache")
        begin = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - begin
        rows = [row for output in outputs for row in sorted(output.outputs, key=lambda row: row.index)]
        result = {
            "seconds": seconds,
            "token_ids": [list(row.token_ids) for row in rows],
            "finish_reasons": [row.finish_reason for row in rows],
        }
        Path(line.strip()).write_text(json.dumps(result))
        print("done", file=channel)


if __name__ == "__main__":  # vLLM's children import this file again
    main()
