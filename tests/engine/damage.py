"""Model folders with one thing wrong, made from a whole one, and what the refusal of each must say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Replace the weights of a folder."""
    tensors = change(load_file(folder / WEIGHTS))
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def reconfigure(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def without(*parts: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda t: {k: v for k, v in t.items() if not any(p in k for p in parts)})


def prefixed(prefix: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda tensors: {prefix + key: value for key, value in tensors.items()})


def with_value(key: str, value: float, row: int = 0) -> Callable[[Path], None]:
    def change(tensors: Tensors) -> Tensors:
        tensors[key].view(len(tensors[key]), -1)[row, 0] = value
        return tensors

    return lambda folder: rewrite(folder, change)


def added(**names: tuple[int, ...]) -> Callable[[Path], None]:
    more = {name.replace("__", "."): torch.ones(shape) for name, shape in names.items()}
    return lambda folder: rewrite(folder, lambda tensors: tensors | more)


def torn(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:4000])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def without_a_shard(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    where = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard, {"format": "pt"})
        where |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "model-00002-of-00002.safetensors").unlink()


def resized(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors | {"model.embed_tokens.weight": torch.ones(5, 32)})


def with_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))


def only_adapter(folder: Path) -> None:
    with_adapter(folder)
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")


Q = "model.layers.0.self_attn.q_proj.weight"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (without("layers.0.self_attn.q_proj.weight"), rf"lack {Q}, which Qwen2ForCausalLM needs; random"),
    "several missing": (without("layers.1."), r"lack model\.layers\.1\.\S+, \S+, \S+ and 9 more, which Qwen2"),
    "a norm missing": (without("model.norm.weight"), r"lack model\.norm\.weight"),
    "untied head": (without("lm_head"), r"lack lm_head\.weight, .*tie_word_embeddings: false"),
    "no weights": (without(""), r"lack lm_head\.weight, model\.embed_tokens\.weight"),
    "peft": (prefixed("base_model.model."), r"extra prefix 'base_model\.model\.' .*merge_and_unload"),
    "compiled": (prefixed("_orig_mod."), r"extra prefix '_orig_mod\.' .*torch\.compile"),
    "parallel": (prefixed("module."), r"extra prefix 'module\.' .*model\.module"),
    "doubled": (prefixed("model.model."), r"extra prefix 'model\.model\.' .*so 27 weights were not found"),
    "policy": (prefixed("policy.net."), r"extra prefix 'policy\.net\.' .*rename"),
    "compiled inside": (
        lambda folder: rewrite(folder, lambda t: {k.replace("layers.", "_orig_mod.layers."): v for k, v in t.items()}),
        r"extra prefix '_orig_mod\.' .*so 24 weights were not found",
    ),
    "lost": (
        lambda folder: rewrite(folder, lambda t: {k.replace("model.layers.", ""): v for k, v in t.items()}),
        r"lack the prefix 'model\.layers\.' .*so 24 weights were not found: add it",
    ),
    "lora": (
        lambda folder: rewrite(
            folder,
            lambda t: (
                {k.replace("q_proj.w", "q_proj.base_layer.w"): v for k, v in t.items()}
                | {Q.replace("weight", "lora_A.default.weight"): torch.ones(2, 32)}
            ),
        ),
        r"LoRA weights that are not merged .*--peft",
    ),
    "nan": (
        with_value("model.layers.1.mlp.up_proj.weight", float("nan")),
        r"model\.layers\.1\.mlp\.up_proj\.weight is NaN in 1 of its 1,536",
    ),
    "nan unseen": (
        with_value("model.embed_tokens.weight", float("nan"), 77),
        r"embed_tokens\.weight is NaN in 1 of its 8,224",
    ),
    "infinite": (with_value("model.norm.weight", float("-inf")), r"model\.norm\.weight is infinite in 1 of its 32"),
    "shape": (resized, r"model\.embed_tokens\.weight has the shape \[5, 32\] in its files.* \[257, 32\]"),
    "torn": (torn, r"cannot be loaded|are damaged"),
    "empty file": (empty, r"cannot be loaded|are damaged"),
    "shard": (without_a_shard, r"model-00002-of-00002\.safetensors"),
    "layers": (
        lambda folder: reconfigure(folder, num_hidden_layers=3, layer_types=["full_attention"] * 2),
        r"cannot be loaded: its config\.json contradicts itself: .*num_hidden_layers",
    ),
    "pointer": (pointer, r"is a Git LFS pointer, not the weights: .*git lfs pull"),
    "extra": (added(v_head__summary__weight=(1, 32)), r"have v_head\.summary\.weight, which Qwen2ForCausalLM does not"),
    "scales": (
        added(model__layers__0__mlp__up_proj__weight_scale=(1,)),
        r"have model\.layers\.0\.mlp\.up_proj\.weight_sc",
    ),
    "another architecture": (
        lambda folder: reconfigure(folder, model_type="llama", architectures=["LlamaForCausalLM"]),
        r"have model\.layers\.0\.self_attn\.k_proj\.bias.* and 3 more, which LlamaForCausalLM does not have",
    ),
    "fewer layers": (
        lambda folder: reconfigure(folder, num_hidden_layers=1, layer_types=["full_attention"]),
        r"have model\.layers\.1\.\S+, .* and 9 more, which Qwen2ForCausalLM does not have",
    ),
    "more layers": (
        lambda folder: reconfigure(folder, num_hidden_layers=3, layer_types=["full_attention"] * 3),
        r"lack model\.layers\.2\.",
    ),
    "wider": (lambda folder: reconfigure(folder, intermediate_size=64), r"\[48, 32\]|\[32, 48\]"),
    "adapter beside": (with_adapter, r"LoRA adapter \(adapter_config\.json\) beside its own weights: --peft"),
    "only an adapter": (only_adapter, r"only a LoRA adapter: give its base model \(a/b\) by --model .*--peft"),
}


def damaged(whole: Path, folder: Path, kind: str) -> tuple[Path, str]:
    """(a copy of the folder with that damage, what its refusal matches)."""
    shutil.copytree(whole, folder)
    change, says = DAMAGES[kind]
    change(folder)
    return folder, says
