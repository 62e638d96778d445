"""GGUF files: the same model as its safetensors folder, as far as the file's quantisation goes."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

import fastsia
from fastsia import FastsiaError
from fastsia.backends import open_backend
from fastsia.models.loading import load_description, load_model, origin_of
from tests.tiny import PROBLEMS

gguf = pytest.importorskip("gguf", reason="needs fastsia[gguf]")
pytest.importorskip("accelerate", reason="needs fastsia[gguf]")

SMALL: dict[str, Any] = {"num_rollouts": 2, "max_tokens": 8, "num_bootstrap": 10, "num_splits": 2}
EOS, EOT = 0, 1
TOKENS = ["<eos>", "<eot>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "Ġ1"]
# Our names for llama.cpp's tensors.
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def llama(tied: bool = False) -> Any:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, tie_word_embeddings=tied,
        eos_token_id=EOS, bos_token_id=None, rms_norm_eps=1e-6,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows that are rotated."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(weight.shape))


def write_gguf(path: Path, model: Any, kind: str = "F32", without: str = "", **stated: Any) -> Path:
    """A llama file of a model, its matrices as `kind`."""
    writer = gguf.GGUFWriter(path, "llama")
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(
        stated.get("file_type", getattr(gguf.LlamaFileType, "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"))
    )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["a b", "Ġ 1"])
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(EOT)
    if "parts" in stated:
        writer.add_uint16("split.count", stated["parts"])
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = value.float().numpy()
        name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
                "lm_head.weight": "output.weight"}.get(key)  # fmt: skip
        if name is None:
            _, _, layer, part = key.split(".", 3)
            name = f"blk.{layer}.{NAMES[part.removesuffix('.weight')]}.weight"
            if ".q_proj" in key or ".k_proj" in key:
                heads = config.num_attention_heads if ".q_proj" in key else config.num_key_value_heads
                array = permuted(array, heads)
        if without and without in name:
            continue
        if kind == "F32" or array.ndim < 2:
            writer.add_tensor(name, array)
        else:
            stored = getattr(gguf.GGMLQuantizationType, kind)
            writer.add_tensor(name, gguf.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(2, 30)[None]).logits[0]


@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_are_those_of_the_safetensors_folder(tmp_path: Path, tied: bool) -> None:
    model = llama(tied)
    model.save_pretrained(tmp_path / "folder")
    path = write_gguf(tmp_path / "model.gguf", model)
    loaded, tokenizer = load_model(path, device="cpu")
    plain, _ = load_model(tmp_path / "folder", device="cpu")
    assert torch.allclose(logits_of(loaded), logits_of(plain), atol=1e-5)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert origin_of(loaded).quantization == "gguf F32"
    assert not hasattr(loaded.config, "quantization_config"), "it is an ordinary model now"
    assert tokenizer.encode("ab 1", add_special_tokens=False) == [TOKENS.index("ab"), TOKENS.index("Ġ1")]
    assert tokenizer.decode([TOKENS.index("ab"), TOKENS.index("Ġ1")]) == "ab 1"


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16", "Q4_0"])
def test_a_quantised_file_is_dequantised_and_named(tmp_path: Path, kind: str) -> None:
    model = llama()
    path = write_gguf(tmp_path / "model.gguf", model, kind)
    rough = llama()
    with torch.no_grad():  # what is left of each matrix
        for name, value in rough.named_parameters():
            if value.dim() > 1:
                stored = getattr(gguf.GGMLQuantizationType, kind)
                array, heads = value.numpy(), 4 if "q_proj" in name else 2
                rotated = ".q_proj" in name or ".k_proj" in name
                array = permuted(array, heads) if rotated else array
                left = torch.from_numpy(gguf.dequantize(gguf.quantize(array, stored), stored)).view(value.shape)
                if rotated:
                    rows = left.view(heads, -1, 2, left.shape[1]).transpose(1, 2).reshape(left.shape)
                    left = rows
                value.copy_(left)
    loaded, _ = load_model(path, device="cpu")
    assert loaded.dtype == torch.float32
    assert torch.allclose(logits_of(loaded), logits_of(rough), atol=1e-4)
    assert not torch.allclose(logits_of(loaded), logits_of(model), atol=1e-6)
    half, _ = load_model(path, device="cpu", dtype="bf16")
    assert half.dtype == torch.bfloat16
    assert open_backend(path, "native", {"device": "cpu"}).describe()["quantization"] == f"gguf {kind}"


def test_a_run_names_its_quantisation_and_every_end_of_sequence(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", llama(), "Q8_0")
    for backend in ("native", "hf"):
        loaded = open_backend(str(path), backend, {"device": "cpu"})
        assert set(loaded.eos_token_ids) == {EOS, EOT}
        result = fastsia.evaluate(loaded, PROBLEMS[:1], **SMALL)
        assert result.summary["model"] == str(path)
        assert result.summary["machine"]["quantization"] == "gguf Q8_0"
    described = load_description(path)
    assert described.config.num_hidden_layers == 2
    assert described.generation_config.eos_token_id == [EOS, EOT]
    assert described.tokenizer.get_vocab() == load_model(path, device="cpu")[1].get_vocab()


def test_the_fingerprint_does_not_know_where_the_file_is(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", llama())
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(path, tmp_path / "elsewhere" / "other.gguf")
    prints = {
        open_backend(file, "hf", {"device": "cpu"}).fingerprint()
        for file in (path, tmp_path / "elsewhere" / "other.gguf")
    }
    assert len(prints) == 1


def test_what_a_file_states_is_checked_against_its_tensors(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", llama(), "Q8_0", file_type=gguf.LlamaFileType.ALL_F32)
    assert origin_of(load_model(path, device="cpu")[0]).quantization == "gguf Q8_0"
    path = write_gguf(tmp_path / "other.gguf", llama(), "Q8_0", file_type=gguf.LlamaFileType.MOSTLY_Q4_K_M)
    assert origin_of(load_model(path, device="cpu")[0]).quantization == "gguf Q4_K_M", (
        "mixtures have a name of their own"
    )


@pytest.mark.parametrize("gone", ["blk.1.attn_q", "output_norm", "blk.0.ffn_down"])
def test_a_missing_tensor_is_named(tmp_path: Path, gone: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", llama(), without=gone)
    with pytest.raises(FastsiaError, match=r"its files lack model\."):
        load_model(path, device="cpu")


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", llama())
    whole = path.read_bytes()
    for size in (0, 3, 20, 200, 5_000, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:size])
        with pytest.raises(FastsiaError, match=r"is not a GGUF file|is damaged|are damaged|cannot be loaded") as error:
            load_model(path, device="cpu")
        assert "\n" not in str(error.value)
    with pytest.raises(FastsiaError, match=r"absent\.gguf' does not exist: no such file"):
        load_model(tmp_path / "absent.gguf", device="cpu")
    with pytest.raises(FastsiaError, match="revision 'v1' applies to Hub models only, not to the file"):
        load_model(path, device="cpu", revision="v1")
    part = write_gguf(tmp_path / "part.gguf", llama(), parts=3)
    with pytest.raises(FastsiaError, match="is one of 3 parts of a GGUF file"):
        load_model(part, device="cpu")


def test_a_folder_of_gguf_files_says_which_to_give(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", llama())
    with pytest.raises(
        FastsiaError, match=f"has no config.json; it has the GGUF file model.gguf, which --model {path}"
    ):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("absent", ["gguf", "accelerate"])
def test_without_the_packages_their_names_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    path = write_gguf(tmp_path / "model.gguf", llama())
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else found(name))
    with pytest.raises(FastsiaError, match=rf"\({absent} missing\): pip install 'fastsia\[gguf\]'"):
        load_model(path, device="cpu")
