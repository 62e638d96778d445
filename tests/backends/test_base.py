"""Opening a backend by name, and what tells one model from another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastsia import Engine, FastsiaError
from fastsia.backends import open_backend
from fastsia.backends.base import model_fingerprint, model_name
from fastsia.backends.hf_generate import HFGenerateBackend
from fastsia.backends.native import NativeBackend
from fastsia.models.loading import context_length, eos_ids
from tests.tiny import save_tiny, shared_model, tiny_model


def test_a_model_is_known_by_its_weights_not_by_its_place(tmp_path: Path) -> None:
    one, two = (open_backend(str(save_tiny(tmp_path / name)), "hf") for name in ("one", "two"))
    native = open_backend(str(tmp_path / "one"), "native")
    assert one.fingerprint() == two.fingerprint() == native.fingerprint()
    assert one.model_name == str(tmp_path / "one")
    other, _ = tiny_model(seed=1)
    assert model_fingerprint(other) != one.fingerprint()
    half, _ = tiny_model()
    assert model_fingerprint(half.to(torch.bfloat16)) != one.fingerprint(), "another dtype draws otherwise"
    trained, _ = tiny_model()
    before = model_fingerprint(trained)
    with torch.no_grad():
        trained.model.norm.weight[0] += 1e-3
    assert model_fingerprint(trained) != before


def test_every_kind_of_model_opens() -> None:
    model, tokenizer = shared_model()
    engine = Engine(model, tokenizer)
    native = open_backend(engine)
    assert isinstance(native, NativeBackend)
    assert native.engine is engine
    assert open_backend(native) is native
    assert open_backend(native, "native") is native
    assert isinstance(open_backend(engine, "hf"), HFGenerateBackend)
    assert isinstance(open_backend((model, tokenizer), "hf"), HFGenerateBackend)
    small = open_backend((model, tokenizer), "native", {"max_num_seqs": 3, "max_concurrent_trajectories": None})
    assert small.describe()["max_num_seqs"] == 3
    for backend in (native, open_backend((model, tokenizer), "hf")):
        assert backend.context_length == 512
        assert backend.eos_token_ids == (tokenizer.eos_token_id,)
        assert backend.vocabulary is not None
        assert {"device", "dtype", "kernels"} <= set(backend.describe())
        assert backend.model_name == "Qwen2ForCausalLM"


@pytest.mark.parametrize(
    ("kind", "name", "options", "sentence"),
    [
        ("pair", "natve", {}, r"backend must be one of native, hf, openai, vllm, got 'natve'; did you mean native\?"),
        (
            "pair",
            "hf",
            {"max_num_seqs": 3},
            "max_num_seqs applies to backend='native' or 'vllm' only, got backend='hf'",
        ),
        ("pair", "native", {"dtype": "float32"}, "dtype does not apply to a model that is already loaded"),
        (
            "engine",
            "native",
            {"max_concurrent_trajectories": 2},
            "max_concurrent_trajectories does not apply to an Engine",
        ),
        ("backend", "hf", {}, "backend is 'hf', but the model is a loaded backend 'native'"),
        (
            "backend",
            None,
            {"max_concurrent_trajectories": 2},
            "max_concurrent_trajectories does not apply to a backend",
        ),
        ("model", "native", {}, "got Qwen2ForCausalLM; a model alone lacks the tokenizer"),
    ],
)
def test_what_makes_no_sense_is_said(kind: str, name: str | None, options: dict[str, object], sentence: str) -> None:
    model, tokenizer = shared_model()
    engine = Engine(model, tokenizer)
    given = {"pair": (model, tokenizer), "engine": engine, "backend": NativeBackend(engine), "model": model}[kind]
    with pytest.raises(FastsiaError, match=sentence):
        open_backend(given, name, options)


def test_eos_ids_of_every_owner_end_a_sequence() -> None:
    """A chat model's template ends in an id that its config does not name."""
    model, tokenizer = tiny_model()
    model.generation_config.eos_token_id = [3, 4]
    model.config.eos_token_id = 4
    assert eos_ids(model, tokenizer) == (3, 4, tokenizer.eos_token_id)
    assert eos_ids(object()) == ()
    assert context_length(object()) is None
    assert model_name(object()) == "object"
