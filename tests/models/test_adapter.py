"""LoRA adapters merged at load: the numbers are those of peft's own unmerged model; what does not fit is refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastsia
from fastsia import Engine, FastsiaError
from fastsia.backends import open_backend
from fastsia.loglikelihood import score_answers
from fastsia.models.loading import load_model
from tests.engine.damage import reconfigure, without
from tests.tiny import PROBLEMS, save_tiny, tiny_tokenizer

peft = pytest.importorskip("peft", reason="needs fastsia[peft]")

SMALL: dict[str, Any] = {"num_rollouts": 2, "max_tokens": 8, "num_bootstrap": 10, "num_splits": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "model")


def save_adapter(base: Path, folder: Path, seed: int = 1, **settings: Any) -> torch.Tensor:
    """Save a random adapter to the folder; the logits of peft's own model with it, unmerged."""
    model, _ = load_model(base, device="cpu")
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]} | settings
    torch.manual_seed(seed)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if any(part in name for part in ("lora_", "modules_to_save")):
                value.add_(0.1 * torch.randn_like(value))
    wrapped.save_pretrained(folder)
    with torch.inference_mode():
        return wrapped(torch.arange(9)[None]).logits[0]


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(9)[None]).logits[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear", "use_rslora": True},
        {"use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "rank_pattern": {"layers.0.self_attn.q_proj": 2}, "lora_bias": True},
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_merged_logits_are_those_of_the_unmerged_model(
    base: Path, tmp_path: Path, settings: dict[str, Any], tied: bool
) -> None:
    """Where head and embedding share a weight, merging a change of one must not change the other."""
    source = tmp_path / "base"
    shutil.copytree(base, source)
    if tied:
        reconfigure(source, tie_word_embeddings=True)
        without("lm_head")(source)
    theirs = save_adapter(source, tmp_path / "adapter", **settings)
    plain, _ = load_model(source, device="cpu")
    merged, tokenizer = load_model(source, device="cpu", peft=tmp_path / "adapter")
    assert (logits_of(merged) - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp(min=1)
    assert (logits_of(plain) - theirs).abs().max() > 1e-2, "there is something to merge"
    assert type(merged) is type(plain)
    assert [name for name, _ in plain.named_parameters()] == [
        name for name, _ in merged.named_parameters() if not (tied and name == "lm_head.weight")
    ]
    assert Engine(merged, tokenizer, num_kv_blocks=64).describe()["peft"] == str(tmp_path / "adapter")


def test_the_adapter_is_in_the_runs_identity_and_names(base: Path, tmp_path: Path) -> None:
    adapter, run = tmp_path / "adapter", tmp_path / "run"
    save_adapter(base, adapter)
    plain = open_backend(base, "native", {"device": "cpu"})
    for name in ("native", "hf"):
        merged = open_backend(base, name, {"device": "cpu", "peft": str(adapter)})
        assert merged.fingerprint() != plain.fingerprint()
    result = fastsia.evaluate(str(base), PROBLEMS[:2], peft=str(adapter), device="cpu", output=run, **SMALL)
    assert result.summary["model"] == f"{base} + {adapter}"
    assert result.summary["machine"]["peft"] == str(adapter)
    assert fastsia.load(run).summary["model"] == f"{base} + {adapter}"
    with pytest.raises(FastsiaError, match=r"contains another run: model\.fingerprint was .*model\.peft was "):
        fastsia.evaluate(str(base), PROBLEMS[:2], device="cpu", output=run, **SMALL)
    moved = tmp_path / "moved"
    adapter.rename(moved)
    fastsia.evaluate(str(base), PROBLEMS[:3], peft=str(moved), device="cpu", output=run, **SMALL)


def test_forced_answers_come_from_the_merged_model(base: Path, tmp_path: Path) -> None:
    """The run's own model is the base with its adapter: the base alone was refused as another one."""
    save_adapter(base, tmp_path / "adapter")
    run = tmp_path / "run"
    fastsia.evaluate(str(base), PROBLEMS[:1], peft=str(tmp_path / "adapter"), device="cpu", output=run, **SMALL)
    own = score_answers(run, device="cpu")
    assert set(own["scorer"]) == {f"{base} + {tmp_path / 'adapter'}"}
    other = score_answers(run, str(base), device="cpu")
    assert set(other["scorer"]) == {str(base)}
    assert not own["gold_logprob"].equals(other["gold_logprob"])


def test_an_adapter_in_the_models_own_folder_is_merged_where_it_is_named(base: Path, tmp_path: Path) -> None:
    """transformers merges it by itself where peft is installed, and ignores it where it is not."""
    folder = tmp_path / "both"
    theirs = save_adapter(base, folder)
    for file in base.iterdir():
        shutil.copy(file, folder)
    with pytest.raises(FastsiaError, match=f"has a LoRA adapter .* beside its own weights: --peft {folder} merges"):
        load_model(folder, device="cpu")
    merged, _ = load_model(folder, device="cpu", peft=folder)
    assert torch.allclose(logits_of(merged), theirs, atol=1e-5)


def write_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change(folder: Path, how: Any) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(how(load_file(path)), path, {"format": "pt"})


def _drop_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(sorted(tensors.items())[1:])


def _poison(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    next(iter(tensors.values()))[0, 0] = float("nan")
    return tensors


def _pickle_only(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda f: write_config(f, peft_type="IA3"), "is an adapter of type IA3; only LORA can be merged"),
        (lambda f: write_config(f, peft_type="PROMPT_TUNING"), "of type PROMPT_TUNING; only LORA"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read or has no peft_type"),
        (lambda f: (f / "adapter_config.json").unlink(), "is not an adapter: it has no adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "has no weights: adapter_model.safetensors is missing"),
        (_pickle_only, r"only \.bin \(pickle\) weights, which are never loaded; convert them to adapter_model"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"12345"), "its weights are damaged"),
        (lambda f: change(f, _drop_one), r"lacks base_model\.model\.model\.layers\.0\.mlp\.down_proj\.lora_A\.weight"),
        (lambda f: change(f, lambda t: t | {"base_model.model.x.lora_A.weight": torch.ones(4, 4)}), "not have"),
        (lambda f: change(f, _poison), r"lora_A\.weight is NaN in 1 of its"),
        (lambda f: write_config(f, target_modules=["c_attn"]), r"does not fit this model: Target modules \{'c_attn'\}"),
        (lambda f: write_config(f, target_modules=["q_proj"]), "this model does not have: base_model"),
        (lambda f: write_config(f, target_modules=["q_proj", "v_proj", "down_proj", "up_proj"]), r"lacks .*up_proj"),
        (lambda f: write_config(f, r=8), r"does not fit this model: .*lora_A\S* has the shape \[4, \d+\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(base: Path, tmp_path: Path, how: Any, says: str) -> None:
    """peft itself goes on with a missing weight as it was initialised, and only warns."""
    adapter = tmp_path / "adapter"
    save_adapter(base, adapter)
    how(adapter)
    with pytest.raises(FastsiaError, match=says) as error:
        load_model(base, device="cpu", peft=str(adapter))
    assert "\n" not in str(error.value)
    assert str(adapter) in str(error.value)


def test_an_adapter_of_a_wider_model_is_refused(base: Path, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=257, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "wide")
    save_adapter(tmp_path / "wide", tmp_path / "adapter")
    with pytest.raises(FastsiaError, match=r"does not fit this model: .* has the shape \["):
        load_model(base, device="cpu", peft=tmp_path / "adapter")


def test_names_that_are_no_adapter(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FastsiaError, match=r"peft '.*absent' does not exist: no such folder, and not a Hub id"):
        load_model(base, device="cpu", peft=tmp_path / "absent")
    with pytest.raises(FastsiaError, match="peft must be a folder or a Hub id, got int"):
        load_model(base, device="cpu", peft=3)  # type: ignore[arg-type]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FastsiaError, match="peft 'nobody/adapter': not in the local cache, and the Hub cannot be"):
        load_model(base, device="cpu", peft="nobody/adapter")
    with pytest.raises(FastsiaError, match="peft does not apply to a model that is already loaded"):
        open_backend(load_model(base, device="cpu"), "native", {"peft": "x"})
    with pytest.raises(FastsiaError, match="peft applies to backend='native' or 'hf' only, got backend='openai'"):
        open_backend(str(base), "openai", {"peft": "x", "base_url": "http://127.0.0.1:1"})


def test_without_the_package_its_name_is_said(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else found(name))
    with pytest.raises(FastsiaError, match=r"needs the package peft: pip install 'fastsia\[peft\]'"):
        load_model(base, device="cpu", peft=tmp_path)


def test_another_tokenizer_in_the_adapters_folder_is_said(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    save_adapter(base, adapter)
    shutil.copy(base / "tokenizer.json", adapter)
    shutil.copy(base / "tokenizer_config.json", adapter)
    assert open_backend(base, "native", {"device": "cpu", "peft": adapter}).notes == ()  # type: ignore[attr-defined]
    other = copy.deepcopy(tiny_tokenizer())
    other.chat_template = "{{ messages[0].content }}"
    other.save_pretrained(adapter)
    result = fastsia.evaluate(str(base), PROBLEMS[:1], peft=str(adapter), device="cpu", **SMALL)
    assert any(
        "has a tokenizer with another chat template; the tokenizer of" in text for text in result.summary["warnings"]
    )
