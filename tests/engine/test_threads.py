"""The number of threads of a CPU, and the memory that is left on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastsia import Engine, SamplingParams
from fastsia.engine import memory, threads
from fastsia.engine.memory import available_memory, default_num_blocks
from fastsia.engine.threads import choose_threads, default_num_seqs, largest_matrix, num_cores, using_threads
from fastsia.errors import FastsiaError
from tests.tiny import shared_model


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(64, 64)
    assert choose_threads(weight, 3) == (3, "num_threads")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_threads(weight) == (torch.get_num_threads(), "OMP_NUM_THREADS")
    with pytest.raises(FastsiaError, match="num_threads must be an integer >= 1, got 0"):
        Engine(*shared_model(), num_threads=0)


@pytest.mark.parametrize(
    ("seconds", "chosen"), [({1: 1.0, 2: 0.98}, 1), ({1: 1.0, 2: 0.6}, 2), ({1: 1.0, 2: 0.5, 4: 0.49, 8: 0.9}, 2)]
)
def test_the_fewest_threads_that_are_about_as_fast(
    seconds: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "num_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(threads, "_measure", lambda *_: seconds)
    count, why = choose_threads(torch.zeros(8, 8))
    assert count == chosen
    assert "1000.00 ms with 1" in why


def test_the_measurement_leaves_torch_as_it_was() -> None:
    before = torch.get_num_threads()
    found = threads._measure((48, 32), torch.float32, (1, 2))
    assert list(found) == [1, 2]
    assert all(taken > 0 for taken in found.values())
    assert torch.get_num_threads() == before
    assert 1 <= num_cores() <= (os.cpu_count() or 1)
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_step_of_a_slow_model_has_fewer_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = shared_model()
    weight = largest_matrix(model)
    assert weight is not None
    matrices = sum(value.numel() for value in model.parameters()) / weight.numel()

    def chosen(rows_per_second: float) -> int:
        monkeypatch.setattr(threads, "_measure", lambda *_: {1: 128 / rows_per_second / matrices})
        return default_num_seqs(model, weight, 1)

    assert [chosen(rate) for rate in (10, 300, 600, 1e6)] == [64, 128, 256, 512]
    monkeypatch.setattr(threads, "_measure", lambda *_: {1: 128 / 300 / matrices})
    assert Engine(model, None, num_threads=1).max_num_seqs == 128
    assert Engine(model, None, max_num_seqs=7).max_num_seqs == 7
    assert default_num_seqs(model, None, 1) == 512


def test_the_matrix_is_the_largest_of_a_layer() -> None:
    model, _ = shared_model()
    found = largest_matrix(model)
    assert found is not None
    assert set(found.shape) == {48, 32}, "not the head's"


def test_an_engine_computes_with_its_threads() -> None:
    """And only while it computes: another user of torch in the process keeps its own number."""
    before = torch.get_num_threads()
    engine = Engine(*shared_model(), num_threads=before + 1)
    seen = []
    forward = engine.runner.forward
    engine.runner.forward = lambda batch: (seen.append(torch.get_num_threads()), forward(batch))[1]  # type: ignore[method-assign]
    engine.rollout([1, 2, 3], 2, SamplingParams(max_tokens=4))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
    assert engine.describe()["num_threads"] == before + 1


SCRIPT = "import os, fastsia; import torch; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(("set_before", "expected"), [({}, "1000"), ({"OMP_WAIT_POLICY": "active"}, "None")])
def test_threads_do_not_spin_in_the_library_either(set_before: dict[str, str], expected: str) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP", "OMP_WAIT"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=plain | set_before, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = "MemTotal: 2048 kB\nMemAvailable: 1024 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": MEMINFO}, 1 << 20),
        ({}, None),
        (  # version 2; the limit is of the group above
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/memory.max": "max\n",
                "sys/fs/cgroup/pod/memory.max": "1000\n",
                "sys/fs/cgroup/pod/memory.current": "700\n",
                "sys/fs/cgroup/pod/memory.stat": "anon 500\ninactive_file 100\n",
            },
            400,
        ),
        (  # version 1
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "4:memory:/box\n1:cpu:/\n",
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "2000\n",
                "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "500\n",
                "sys/fs/cgroup/memory/box/memory.stat": "inactive_file 10\ntotal_inactive_file 20\n",
            },
            1520,
        ),
    ],
)
def test_the_memory_that_is_left(files: dict[str, str], expected: int | None, tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, files)) == expected


def test_the_pool_of_a_cpu_is_planned_from_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is available; never more than the sequences can fill, never less than a few blocks."""
    model, _ = shared_model()
    each = 16 * 2 * 2 * 2 * 8 * 4  # tokens, layers, keys and values, heads, head size, float32
    sizes = {"max_num_seqs": 512, "max_num_batched_tokens": 64, "max_concurrent_trajectories": 64}

    def planned(available: int | None) -> int:
        monkeypatch.setattr(memory, "available_memory", lambda: available)
        return default_num_blocks(model, torch.device("cpu"), 16, 0.9, **sizes)

    assert planned(64 << 30) == 576 * 512 // 16, "576 sequences of the whole context"
    assert planned(32 << 20) == (8 << 20) // each
    assert planned(1 << 10) == 64
    assert planned(None) == 576 * 512 // 16
