"""Weights that are not those of the model: refused by name, where transformers would go on with random ones."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from fastsia import Engine, FastsiaError
from fastsia.backends import open_backend
from fastsia.models.loading import load_model
from fastsia.models.weights import non_finite
from tests.engine.damage import DAMAGES, added, damaged, prefixed, reconfigure, rewrite, with_value, without
from tests.tiny import save_tiny, shared_model, tiny_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("whole") / "model")


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_refused_by_name(whole: Path, tmp_path: Path, kind: str) -> None:
    """Each of these but the torn files was evaluated on random weights, with exit code 0."""
    folder, says = damaged(whole, tmp_path / "damaged", kind)
    with pytest.raises(FastsiaError, match=says) as error:
        load_model(folder, device="cpu")
    assert "\n" not in str(error.value)
    assert "damaged" in str(error.value), "the folder is named"


@pytest.mark.parametrize("backend", ["native", "hf"])
def test_both_backends_refuse(whole: Path, tmp_path: Path, backend: str) -> None:
    folder, says = damaged(whole, tmp_path / "damaged", "missing")
    with pytest.raises(FastsiaError, match=says):
        open_backend(folder, backend, {"device": "cpu"})


def logits_of(folder: Path) -> torch.Tensor:
    model, _ = load_model(folder, device="cpu")
    with torch.inference_mode():
        return model(torch.arange(5)[None]).logits[0]


def test_what_is_of_no_use_to_a_decoder_is_no_damage(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    shutil.copytree(whole, folder)
    added(
        model__layers__0__self_attn__rotary_emb__inv_freq=(4,),
        vision_tower__encoder__layers__0__weight=(2, 2),
        model__visual__patch_embed__weight=(2, 2),
        multi_modal_projector__linear__weight=(2, 2),
        mtp__layers__0__weight=(2, 2),
    )(folder)
    assert torch.equal(logits_of(folder), logits_of(whole))


@pytest.mark.parametrize("prefix", ["model.", None])
def test_the_decoders_own_prefix_may_be_lost_or_doubled(whole: Path, tmp_path: Path, prefix: str | None) -> None:
    """transformers reads both rightly: no damage."""
    folder = tmp_path / "renamed"
    shutil.copytree(whole, folder)
    if prefix is None:
        rewrite(folder, lambda tensors: {key.removeprefix("model."): value for key, value in tensors.items()})
    else:
        prefixed(prefix)(folder)
    assert torch.equal(logits_of(folder), logits_of(whole))


@pytest.mark.parametrize("stored", ["both", "embedding", "head"])
def test_tied_weights_may_be_stored_once_or_twice(whole: Path, tmp_path: Path, stored: str) -> None:
    folder = tmp_path / "tied"
    shutil.copytree(whole, folder)
    reconfigure(folder, tie_word_embeddings=True)
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]})
    if stored != "both":
        without("lm_head" if stored == "embedding" else "embed_tokens")(folder)
    model, _ = load_model(folder, device="cpu")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, load_model(whole, device="cpu")[0].model.embed_tokens.weight)


def test_tied_weights_that_are_nowhere_are_missing(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tied"
    shutil.copytree(whole, folder)
    reconfigure(folder, tie_word_embeddings=True)
    without("lm_head", "embed_tokens")(folder)
    with pytest.raises(FastsiaError, match=r"lack lm_head\.weight, model\.embed_tokens\.weight"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("prefix", ["base_model.model.", "a.b."])
def test_a_prefix_explains_a_tied_model_too(whole: Path, tmp_path: Path, prefix: str) -> None:
    """Its head is stored nowhere, under no name."""
    folder = tmp_path / "tied"
    shutil.copytree(whole, folder)
    reconfigure(folder, tie_word_embeddings=True)
    without("lm_head")(folder)
    prefixed(prefix)(folder)
    with pytest.raises(FastsiaError, match=f"extra prefix {prefix!r}"):
        load_model(folder, device="cpu")


def test_a_head_that_contradicts_the_configuration_is_said(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "contradiction"
    shutil.copytree(whole, folder)
    reconfigure(folder, tie_word_embeddings=True)
    (note,) = open_backend(folder, "native", {"device": "cpu"}).notes  # type: ignore[attr-defined]
    assert "has an output head of its own in its files, although its config.json ties" in note
    assert torch.equal(logits_of(folder), logits_of(whole))


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    """transformers joins experts into one weight; what it then says points to a report that nobody sees."""
    config = MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1, max_position_embeddings=64,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path / "whole")
    load_model(tmp_path / "whole", device="cpu")
    for part in ("experts.1.w2", "experts"):
        folder = tmp_path / part
        shutil.copytree(tmp_path / "whole", folder)
        without(part)(folder)
        with pytest.raises(FastsiaError, match=r"experts\.(down_proj|gate_up_proj)"):
            load_model(folder, device="cpu")


def test_transformers_report_stays_out_of_the_log(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The one sentence says it; other warnings of transformers are not swallowed."""
    folder, _ = damaged(whole, tmp_path / "damaged", "missing")
    logger = logging.getLogger("transformers.modeling_utils")
    filters, level = list(logger.filters), logger.level
    with caplog.at_level(logging.WARNING), pytest.raises(FastsiaError):
        load_model(folder, device="cpu")
    assert "LOAD REPORT" not in caplog.text
    assert (list(logger.filters), logger.level) == (filters, level)


# --- not finite ------------------------------------------------------------------------------------------------


def test_a_model_in_memory_with_nan_weights_is_not_called_unsupported() -> None:
    model, tokenizer = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[3, 2] = float("nan")
    with pytest.raises(
        FastsiaError, match=r"the weight model\.layers\.1\.mlp\.gate_proj\.weight is NaN in 1 of its 1,536 values\."
    ):
        Engine(model, tokenizer, num_kv_blocks=64)


def test_weights_that_overflow_their_dtype_are_said_with_it(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(whole, folder)
    with_value("model.norm.weight", 1e6)(folder)
    load_model(folder, device="cpu")
    with pytest.raises(
        FastsiaError, match=r"norm\.weight is infinite in 1 of its 32 values \(float16 ends at 65504: try bfloat16"
    ):
        load_model(folder, device="cpu", dtype="float16")


def test_logits_that_overflow_are_not_called_unsupported() -> None:
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.fill_(3e38)
        model.model.norm.weight.fill_(100.0)
    with pytest.raises(
        FastsiaError, match=r"logits that are NaN or infinite in torch\.float32, although its weights are"
    ):
        Engine(model, num_kv_blocks=64)


def test_values_are_looked_at_one_by_one_only_where_the_sum_says_so() -> None:
    large = torch.full((4,), 3e38)
    assert not torch.isfinite(large.sum()), "finite values, and a sum that is not"
    assert non_finite([("large", large), ("none", torch.zeros(0)), ("whole", torch.ones(2, dtype=torch.int64))]) is None
    found = non_finite([("large", large), ("both", torch.tensor([float("inf"), float("-inf"), 1.0, float("nan")]))])
    assert found == "the weight both is NaN or infinite in 3 of its 4 values"
    several = [(name, torch.tensor([float("nan")], dtype=dtype)) for name, dtype in (("a", torch.float64), ("b", None))]
    assert non_finite(several) == "the weight a is NaN in 1 of its 1 values, and 1 more weights have such values"


# --- settings that are not applied -------------------------------------------------------------------------------


def test_sampling_that_the_model_recommends_is_said(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import fastsia
    from tests.tiny import PROBLEMS

    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    stated = json.loads((folder / "generation_config.json").read_text())
    wanted = {
        "do_sample": True,
        "top_k": 20,
        "repetition_penalty": 1.1,
        "temperature": 0.6,
        "top_p": 0.95,
        "min_p": 0.0,
    }
    (folder / "generation_config.json").write_text(json.dumps(stated | wanted))
    small = {"num_rollouts": 2, "max_tokens": 8, "num_bootstrap": 10, "num_splits": 2}
    for backend in ("native", "hf"):
        result = fastsia.evaluate(str(folder), PROBLEMS[:2], backend=backend, device="cpu", **small)
        (note,) = [text for text in result.summary["warnings"] if "generation_config" in text]
        assert note == (
            "the model's generation_config.json recommends top_k=20, repetition_penalty=1.1, which fastsia does not "
            "apply; and temperature=0.6, where this run has temperature=0.7."
        )
        assert caplog.text.count(note) == 1, "in the log, once"
        caplog.clear()
    for same in (whole, shared_model()):
        result = fastsia.evaluate(same, PROBLEMS[:1], **small)
        assert not any("generation_config" in text for text in result.summary["warnings"]), "nothing is stated there"


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"top_k": 0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "typical_p": 1.0, "num_beams": 1}, None),
        ({"temperature": 0.7, "top_p": 0.95}, None),
        ({"temperature": 1.0}, "temperature=1.0, where this run has temperature=0.7."),
        ({"top_k": 50}, "top_k=50, which"),
        ({"no_repeat_ngram_size": 3, "penalty_alpha": 0.6}, "no_repeat_ngram_size=3, penalty_alpha=0.6, which"),
        ({"presence_penalty": 1.5, "min_p": 0.05}, "min_p=0.05, presence_penalty=1.5, which"),
        ({"suppress_tokens": [3, 4]}, "suppress_tokens=..., which"),
        ({"top_p": 0.8, "eos_token_id": [0, 1]}, "top_p=0.8, where this run has top_p=0.95."),
    ],
)
def test_only_what_the_file_states_and_changes_something_counts(
    whole: Path, tmp_path: Path, stated: dict[str, object], says: str | None
) -> None:
    from fastsia.backends.base import note_on_sampling, recommended_sampling

    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    (folder / "generation_config.json").write_text(json.dumps(stated))
    note = note_on_sampling(recommended_sampling(load_model(folder, device="cpu")[0]), 0.7, 0.95)
    assert (note is None) if says is None else (note is not None and f"recommends {says}" in note)
