"""The kernels of a compiled decode step, in order, as torch.compile generates them on this device.

    python -m tests.engine.compiled_step --model qwen2.5-3b --layers 3

ends in a JSON line. Without a GPU the model is small, and Inductor writes C++ for the CPU instead of Triton: its names
show what it fuses into one kernel, by the same scheduler.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from unittest.mock import patch

import torch
from torch._inductor import config as inductor
from torch._inductor.graph import GraphLowering
from transformers import AutoModelForCausalLM

from fastsia import Engine
from fastsia.engine.products import own_weights
from tests.models.architectures import ARCHITECTURES, architecture

_LAUNCH = re.compile(
    r"^\s+(?:\w+ = )?(?:(triton_\w+)\.run|(cpp_fused\w*)|extern_kernels\.(\w+)|torch\.ops\.([\w.]+))\("
)


def kernels(code: str) -> list[str]:
    """The calls in generated code: Inductor's own kernels, torch's products, and operators."""
    body = code.partition("def call(")[2].partition("\ndef ")[0]
    return [next(filter(None, found.groups())) for line in body.splitlines() if (found := _LAUNCH.match(line))]


def compiled(name: str, layers: int) -> tuple[list[str], Engine]:
    """The kernels of a decode step of a model with random weights and so many layers."""
    on_gpu = torch.cuda.is_available()
    config = architecture(name, small=not on_gpu)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    written: list[str] = []
    with torch.device("cuda" if on_gpu else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if on_gpu else torch.float32)
    with (
        inductor.patch(force_disable_caches=True),
        patch.object(GraphLowering, "save_output_code", written.append),
        own_weights(model),
    ):
        engine = Engine(model.eval(), compile="on", kernels="triton" if on_gpu else "reference", num_kv_blocks=64)
    return kernels(written[0]), engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="qwen2.5-3b")
    parser.add_argument("--layers", type=int, default=3)
    options = parser.parse_args()
    found, engine = compiled(options.model, options.layers)
    print("\n".join(found))
    how = {key: engine.describe()[key] for key in ("device", "kernels", "compile", "products", "rotary")}
    kinds = Counter(re.sub(r"_?\d+$", "", name) for name in found)
    row = {"model": options.model, "layers": options.layers, **how, "launches": len(found), "kinds": kinds}
    print(json.dumps({**row, "warnings": engine.runner.warnings, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
