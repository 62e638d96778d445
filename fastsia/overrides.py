"""Types of the keyword arguments of `evaluate`, from the settings; `python docs/_settings.py` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict


class Overrides(TypedDict, total=False):
    """Settings by name, each with the values that its declaration in `fastsia.config` allows."""

    temperature: float
    top_p: float
    num_rollouts: int
    target_se: float | None
    target_of: Literal["entropy", "gold"]
    max_total_tokens: int | None
    stride: int | None
    max_checkpoints: int | None
    num_trajectories: int
    max_tokens: int
    rollout_budget: Literal["new", "total"]
    seed: int
    share: Literal["trajectory", "checkpoint", "none"]
    answer_reading: Literal["strict", "lenient"]
    equivalence: Literal["spelling", "math_verify"]
    answer_regex: str | None
    stop_at_answer: bool
    shuffle_prefix: bool
    num_fewshot: int
    apply_chat_template: bool | None
    system_instruction: str | None
    enable_thinking: bool | None
    chat_template_args: str | Mapping[str, Any] | None
    template_date: str | None
    think_tags: tuple[str, str] | None
    truncate_prompt: bool
    smoothing: float
    num_bootstrap: int
    num_splits: int
    save_interval: float
    data_dir: str | Path | None
    answer_format: Literal["number", "choice", "boxed"] | None
    columns: Mapping[str, Any] | None
    answer_base: int | None
    device: Any
    dtype: Any
    revision: str | None
    trust_remote_code: bool
    peft: Any
    max_num_seqs: int | None
    max_num_batched_tokens: int
    max_concurrent_trajectories: int
    num_kv_blocks: int | None
    block_size: int
    gpu_memory_utilization: float
    kernels: Literal["auto", "triton", "native", "reference"]
    compile: Literal["auto", "on", "graphs", "off"]
    quantization: Literal["none", "fp8"]
    deterministic: bool
    overlap: Literal["auto", "on", "off"]
    num_threads: int | None
    base_url: str | None
    api_key_env: str | None
    served_model: str | None
    send_seed: bool
    num_concurrent: int
    max_retries: int
    timeout: float
    tensor_parallel_size: int
    model_args: Mapping[str, Any] | None
