"""From a model's name to its weights: what exists, what is refused, and what is said offline."""

from __future__ import annotations

import http.server
import importlib.util
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from fastsia import FastsiaError
from fastsia.models.loading import load_model, origin_of, resolve_device, resolve_dtype
from fastsia.models.resolve import demo_models, resolve_model
from tests.core import needs_core
from tests.programs import ROOT
from tests.tiny import save_tiny, tiny_model


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A Hub of our own that answers every request with the status in the list."""
    status = [404]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield status
    server.shutdown()
    server.server_close()
    thread.join()


def test_demo_models_are_in_the_package() -> None:
    for name, folder in demo_models().items():
        assert (resolve_model(name).source, resolve_model(name).path) == (str(folder), folder)
        assert (folder / "config.json").is_file()
    with pytest.raises(FastsiaError, match="'demo:stf' is not a demo model; available: "):
        resolve_model("demo:stf")


def test_names_and_folders(tmp_path: Path) -> None:
    assert resolve_model("gpt2").source == "gpt2"
    assert resolve_model("Qwen/Qwen2.5-3B").source == "Qwen/Qwen2.5-3B"
    assert resolve_model("Qwen/Qwen2.5-3B").path is None
    assert resolve_model("qwen2.5-3b-it").source == "Qwen/Qwen2.5-3B-Instruct", "the paper's own names"
    folder = save_tiny(tmp_path / "model")
    ref = resolve_model(folder)
    assert (ref.name, ref.source, ref.path, ref.gguf_file) == (str(folder), str(folder), folder, None)
    assert resolve_model(ref) is ref, "a name is resolved once"


def test_what_cannot_be_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match="no such folder, and not a Hub id"):
        resolve_model(tmp_path / "absent")
    with pytest.raises(FastsiaError, match=r"has no config.json"):
        resolve_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FastsiaError, match="is a file"):
        resolve_model(tmp_path / "config.json")


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    pickled = pickle.dumps({"weight": Evil()})
    pickle.loads(pickled)
    assert ran.exists(), "whoever loads it runs its program"
    ran.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickled)
    load_model(folder, device="cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FastsiaError, match=r"only .bin \(pickle\) weights, which are never loaded"):
        load_model(folder, device="cpu")
    assert not ran.exists()


def test_a_loaded_model_is_ready(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    model, tokenizer = load_model(folder, device="cpu")
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer.eos_token_id == model.config.eos_token_id
    half, _ = load_model(folder, device="cpu", dtype="bf16")
    assert half.dtype == torch.bfloat16
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert load_model(folder, device="cpu")[1] is None, "an engine needs no tokenizer"


def test_weights_go_straight_to_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the dtype asked for, whatever is stored; no copy of them on the host first, where accelerate allows that."""
    folder = save_tiny(tmp_path / "model")
    asked: dict[str, object] = {}
    plain = AutoModelForCausalLM.from_pretrained.__func__

    def seeing(cls: type, *arguments: object, **named: object) -> object:
        asked.update(named)
        return plain(cls, *arguments, **named)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", classmethod(seeing))
    meta = torch.device("meta")
    model, _ = load_model(folder, device="meta", dtype="bf16")
    assert {parameter.device for parameter in model.parameters()} == {meta}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert (asked["device_map"], asked["dtype"]) == ({"": meta}, torch.bfloat16)

    asked.clear()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    load_model(folder, device="meta", dtype="bf16")
    assert "device_map" not in asked
    assert asked["dtype"] == torch.bfloat16
    load_model(folder, device="cpu")
    assert "device_map" not in asked


@pytest.mark.gpu
def test_on_a_gpu_weights_leave_no_copy_on_the_host(tmp_path: Path) -> None:
    """Half a gigabyte of float32 weights, loaded as bfloat16 by a process of its own that says its largest size."""
    config = Qwen2Config(hidden_size=2048, intermediate_size=8192, num_hidden_layers=2, vocab_size=8192)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "large")
    code = """if True:
        import resource, sys, torch
        from fastsia.models.loading import load_model
        torch.zeros(1, device="cuda")
        load_model(sys.argv[1], device="cuda", dtype="bf16")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model, _ = load_model(sys.argv[2], device="cuda", dtype="bf16")
        assert model.dtype == torch.bfloat16 and model.device.type == "cuda"
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    arguments = [sys.executable, "-c", code, str(save_tiny(tmp_path / "tiny")), str(tmp_path / "large")]
    grown = int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    weights = sum(file.stat().st_size for file in (tmp_path / "large").glob("*.safetensors")) >> 10
    # The file is mapped, and its pages count while they are read.
    assert grown < 1.25 * weights


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FastsiaError, match=r"cannot be loaded|are damaged") as error:
        load_model(folder, device="cpu")
    assert "\n" not in str(error.value)


def test_remote_code_needs_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may name code of its own; without the flag it must not run."""
    folder = save_tiny(tmp_path / "model")
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config = (folder / "config.json").read_text()
    changed = config.replace(
        "{", '{"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, "model_type_": 1,', 1
    ).replace('"qwen2"', '"of-its-own"')
    (folder / "config.json").write_text(changed)
    with pytest.raises(FastsiaError):
        load_model(folder, device="cpu")
    with pytest.raises(FastsiaError, match="trust_remote_code must be true or false, got 'false'"):
        load_model(folder, device="cpu", trust_remote_code="false")  # type: ignore[arg-type]
    assert not ran.exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(AttributeError, match="evil' has no attribute 'C'"):
        load_model(folder, device="cpu", trust_remote_code=True)
    assert ran.exists(), "with the flag it does run: there was something to refuse"


def test_an_unknown_hub_model_is_said_with_the_nearest_names(hub: list[int]) -> None:
    with pytest.raises(FastsiaError, match=r"no such model; did you mean Qwen/Qwen2.5-3B") as error:
        load_model("Qwen/Qwen2.5-3b-inst", device="cpu")
    assert "\n" not in str(error.value)
    hub[0] = 401
    with pytest.raises(FastsiaError, match="needs HF_TOKEN"):
        load_model("nobody/nothing", device="cpu")
    hub[0] = 403
    with pytest.raises(FastsiaError, match="accepted the model's terms"):
        load_model("meta-llama/Llama-3.2-3B", device="cpu")


def test_offline_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers alone retries for half a minute before it says the same."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(FastsiaError, match="not in the local cache, and the Hub cannot be reached"):
        load_model("nobody/nothing", device="cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FastsiaError, match="not in the local cache"):
        load_model("nobody/nothing", device="cpu")


@pytest.mark.parametrize(
    ("stored", "faster", "smallest", "expected", "reason"),
    [
        ("float32", True, 0, "float32", "stored in float32; --dtype bfloat16 is faster on this processor"),
        ("float32", False, 0, "float32", "stored in float32"),
        ("bfloat16", True, 0, "bfloat16", "stored in bfloat16; bfloat16 is faster than float32 on this processor"),
        ("float16", True, 0, "bfloat16", "stored in float16; bfloat16 is faster than float32 on this processor"),
        ("bfloat16", True, 50_000_000, "float32", "stored in bfloat16; below 50 million parameters float32 is used"),
        ("bfloat16", False, 0, "float32", "stored in bfloat16; float32 is faster on this processor"),
    ],
)
def test_the_dtype_on_a_cpu_follows_the_stored_one_and_the_processor(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: str,
    faster: bool,
    smallest: int,
    expected: str,
    reason: str,
) -> None:
    model, tokenizer = tiny_model()
    model.to(getattr(torch, stored)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("fastsia.processor.prefers_bfloat16", lambda: faster)
    monkeypatch.setattr("fastsia.models.loading._BFLOAT16_FROM", smallest)
    loaded, _ = load_model(tmp_path, device="cpu")
    assert {value.dtype for value in loaded.parameters()} == {getattr(torch, expected)}
    assert {value.dtype for value in loaded.buffers()} == {torch.float32}, "rotary frequencies keep their precision"
    assert origin_of(loaded).describe() == {"dtype_reason": reason}
    as_stored, _ = load_model(tmp_path, device="cpu", dtype="auto")
    assert as_stored.dtype == getattr(torch, stored)
    asked, _ = load_model(tmp_path, device="cpu", dtype="float32")
    assert (asked.dtype, origin_of(asked).describe()) == (torch.float32, {})


@needs_core
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_holds_no_weight_twice(tmp_path: Path) -> None:
    """From float32 to bfloat16: half of the file, not the converted weights beside the packed ones."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 20, "vocab_size": 64}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    Qwen2ForCausalLM(Qwen2Config(**sizes, **heads)).save_pretrained(tmp_path)
    command = [sys.executable, "-m", "tests.models.loading_memory", "--model", str(tmp_path), "--dtype", "bfloat16"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["file_mib"] > 200
    assert found["products"] == "exact"
    assert found["kept_private_mib"] < found["file_mib"]
    assert found["peak_per_file"] < 1.4


def test_devices_and_dtypes() -> None:
    cpu = torch.device("cpu")
    assert resolve_device("cpu") == cpu
    assert resolve_dtype(None, cpu) == torch.float32
    assert resolve_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("auto", cpu) == "auto"
    assert resolve_dtype(torch.float16, cpu) == torch.float16
    with pytest.raises(FastsiaError, match="dtype must be one of auto, float32"):
        resolve_dtype("int4", cpu)
    with pytest.raises(FastsiaError, match='device must be a name such as "cpu"'):
        resolve_device("gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(FastsiaError, match="sees no CUDA device"):
            resolve_device("cuda")
