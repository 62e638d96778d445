"""What the processor can do, and what may forbid it."""

from __future__ import annotations

import json

import pytest

from fastsia import processor


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        ({"avx512f", "avx512_bf16"}, None, True),
        ({"avx512f", "amx_bf16"}, "AVX512_CORE_AMX", True),
        ({"asimd", "bf16"}, None, True),
        ({"avx512f", "avx512_bf16"}, "avx512_core", False),
        ({"avx512f", "amx_bf16"}, "AVX2_VNNI_2", False),
        ({"avx512f", "amx_bf16"}, "AVX512_CORE_VNNI", False),
        ({"avx512f", "amx_bf16"}, "AVX512_CORE_BF16", True),
        ({"avx512f", "avx512_vnni"}, None, False),
        (set(), None, False),
    ],
)
def test_bfloat16_needs_instructions_that_are_not_forbidden(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], limit: str | None, expected: bool
) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: ("a processor", frozenset(flags)))
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert processor.multiplies_bfloat16() is expected
    assert processor.describe().get("max_cpu_isa") == limit


@pytest.mark.parametrize(("speedup", "preferred"), [(0.0, False), (0.6, False), (1.1, False), (1.5, True), (6.0, True)])
def test_bfloat16_is_preferred_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, speedup: float, preferred: bool
) -> None:
    """The instructions alone do not make it so: AVX512_BF16 took 1.6 times as long as float32 on a Xeon."""
    monkeypatch.setattr(processor, "bfloat16_speedup", lambda: speedup)
    assert processor.prefers_bfloat16() is preferred


@pytest.mark.parametrize("native", [True, False])
def test_the_speedup_is_measured_where_there_are_instructions(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: native)
    processor.bfloat16_speedup.cache_clear()
    try:
        assert (processor.bfloat16_speedup() > 0) is native
    finally:
        processor.bfloat16_speedup.cache_clear()


def test_the_description_names_processor_libraries_and_threads() -> None:
    found = json.loads(json.dumps(processor.describe()))
    assert found["name"]
    assert found["threads"] >= 1
    assert "torch" in found["libraries"]
