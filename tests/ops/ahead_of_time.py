"""Compiles every kernel for a GPU that need not be here, with the launches that production makes.

    python -m tests.ops.ahead_of_time 90

prints one JSON line a launch: registers a thread, stack bytes a thread (a spill needs one), shared memory a program,
how many programs a processor holds at once, and how far loads run ahead in its loops. `--table` writes these rows to
docs/kernels.md instead. The launches come from the ops' own `plan` functions on meta tensors, so what is compiled is
what would run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastsia.ops.kv_cache import plan_copy_blocks, plan_rotate_and_store, plan_store_kv
from fastsia.ops.launch import Launch, empty_rows
from fastsia.ops.prefix_attention import PrefixAttention
from fastsia.ops.reference import AttentionMetadata, DrawSpec
from fastsia.ops.sampling import Sampler

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
BEGIN, END = "<!-- resources -->\n\n", "\n<!-- /resources -->"
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
}
# num_heads, num_kv_heads, head_dim, softcap, sliding window
HEADS = {
    "qwen2.5-3b": (16, 2, 128, None, None),
    "gemma-2-2b": (8, 4, 256, 50.0, 4096),
    "deepseek-7b": (32, 32, 128, None, None),
    "llama-3.2-3b": (24, 8, 128, None, None),
}


def meta(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def sampling(rows: int, vocab: int, draws: int, dtype: torch.dtype) -> Launch:
    logits, floats = empty_rows(rows, vocab, dtype, torch.device("meta")), meta(rows, dtype=torch.float32)
    seeds = meta(draws, dtype=torch.int64)
    spec = DrawSpec(meta(draws, dtype=torch.int64), seeds, meta(draws, 4), floats, floats)
    return Sampler().plan(logits, spec)[0]


def attention(model: str, dtype: torch.dtype, rows: int, trunks: int, prefix: int, suffix: int) -> list[Launch]:
    num_heads, num_kv_heads, head_dim, softcap, window = HEADS[model]
    tables = meta(trunks, 64), meta(trunks + 1), meta(rows), meta(rows, 64), meta(rows)
    metadata = AttentionMetadata(*tables, prefix, suffix, max_rows_per_prefix=-(-rows // trunks))
    cache = meta(2, 4096, 16, num_kv_heads, head_dim, dtype=dtype)
    # As a model's layers give queries: [heads, rows, head_dim] seen row by row.
    q = meta(num_heads, rows, head_dim, dtype=dtype).transpose(0, 1)
    return PrefixAttention().plan(q, cache[0], cache[1], metadata, 0.1, window, softcap)[0]


def launches() -> Iterator[tuple[str, Launch]]:
    bf16, f32 = torch.bfloat16, torch.float32
    yield "sampling bf16 V=151936", sampling(512, 151_936, 512, bf16)
    yield "sampling bf16 V=256000, draws sorted beforehand", sampling(512, 256_000, 50_000, bf16)
    yield "sampling bf16 V=100278, padded rows", sampling(512, 100_278, 512, bf16)
    yield "sampling f32 V=151936", sampling(512, 151_936, 512, f32)
    for model in HEADS:
        yield f"attention bf16 {model} decode", attention(model, bf16, 512, 4, 900, 600)[0]
    for model in ("qwen2.5-3b", "gemma-2-2b"):
        yield f"attention bf16 {model} prefill", attention(model, bf16, 1024, 4, 300, 0)[0]
    for model in ("qwen2.5-3b", "gemma-2-2b", "deepseek-7b"):
        trunks, suffixes = attention(model, bf16, 512, 4, 6000, 1000)
        yield f"attention bf16 {model} long trunks", trunks
    yield "attention bf16 deepseek-7b suffixes of long trunks", suffixes
    yield "attention f32 qwen2.5-3b decode", attention("qwen2.5-3b", f32, 512, 4, 900, 600)[0]
    for model in ("qwen2.5-3b", "deepseek-7b"):
        _, num_kv_heads, head_dim, *_ = HEADS[model]
        cache = meta(36, 2, 4096, 16, num_kv_heads, head_dim, dtype=bf16)
        k = meta(num_kv_heads, 512, head_dim, dtype=bf16).transpose(0, 1)
        slots = meta(512, dtype=torch.int64)
        yield f"store_kv bf16 {model}", plan_store_kv(k, k, cache[0, 0], cache[0, 1], slots)
        q = meta(HEADS[model][0], 512, head_dim, dtype=bf16).transpose(0, 1)
        cos = meta(512, head_dim, dtype=bf16)
        rotation = plan_rotate_and_store(q, k, k, cos, cos, cache[0, 0], cache[0, 1], slots)
        yield f"rotate_and_store bf16 {model}", rotation[0]
        yield f"copy_blocks bf16 {model}", plan_copy_blocks(cache, slots, slots)


def compile_launch(launch: Launch, capability: int) -> Any:
    """Compile as the launcher would specialise: pointers on 16 bytes, integers by 1 and by multiples of 16."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        specialised = isinstance(value, int) and not parameter.do_not_specialize
        if parameter.is_constexpr or (specialised and value == 1):
            signature[parameter.name], constants[(index,)] = "constexpr", value
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            is_tensor = isinstance(value, Tensor)
            signature[parameter.name] = f"*{TYPES[value.dtype]}" if is_tensor else "i32" if value < 2**31 else "i64"
            if is_tensor or (specialised and value % 16 == 0):
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(cubin: bytes) -> dict[str, int]:
    """REG, STACK, SHARED, LOCAL of compiled code, from the cuobjdump that comes with triton."""
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run([cuobjdump, "-res-usage", file.name], capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", shown.stdout)}


def loops(ttgir: str) -> dict[str, list[int]]:
    """Whether loads run ahead of their use, in Triton's last representation before machine code.

    Returns:
        waits: for each wait inside a loop, the asynchronous copies that may still be under way after it; 0 means that
            it waits for the last one asked for. buffers: the copies of each tile that a loop is given in shared memory.
    """
    waits, blocks = [], []
    for line in ttgir.splitlines():
        opened = line.count("{") - line.count("}")
        if opened < 0:
            blocks.pop()
        elif opened > 0:
            blocks.append("scf.for" in line or "scf.while" in line)
        found = re.search(r"async_wait.*num = (\d+)", line)
        if found and any(blocks):
            waits.append(int(found[1]))
    buffers = re.findall(r"local_alloc : \(\) -> !ttg\.memdesc<(\d+)x\d+x\d+x", ttgir)
    return {"waits": sorted(waits), "buffers": sorted(map(int, buffers))}


def programs(capability: int, warps: int, registers: int, shared: int) -> int:
    """Programs that a processor holds at once (CUDA C++ Programming Guide, compute capabilities)."""
    by_registers = 65536 // (32 * warps * -(-registers // 8) * 8)
    by_memory = {80: 164, 90: 228}[capability] * 1024 // (shared + 1024)
    return min(32, 64 // warps, by_registers, by_memory)


def measured(capability: int) -> Iterator[dict[str, Any]]:
    """A row for each launch."""
    for name, launch in launches():
        begin = time.perf_counter()
        compiled = compile_launch(launch, capability)
        used = resources(compiled.asm["cubin"])
        row = {
            "launch": name,
            "sm": capability,
            "warps": launch.num_warps,
            "grid": list(launch.grid),
            "registers": used["REG"],
            "stack": used["STACK"] + used["LOCAL"],
            "shared": compiled.metadata.shared,
            "programs": programs(capability, launch.num_warps, used["REG"], compiled.metadata.shared),
            **loops(compiled.asm["ttgir"]),
            # Copies of 16 bytes a thread; narrow ones are as many instructions for a fraction of the bytes.
            "wide_copies": compiled.asm["ptx"].count("cp.async.cg.shared.global"),
            "seconds": round(time.perf_counter() - begin, 1),
        }
        yield row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, between the marks of docs/kernels.md."""
    head = ["launch", "warps", "registers", "stack", "shared memory", "programs a processor", "copies under way"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        ahead = ", ".join(map(str, sorted(set(row["waits"])))) or "–"
        numbers = (row["warps"], row["registers"], row["stack"], row["shared"], row["programs"])
        lines.append([row["launch"], *(f"{number:,}" for number in numbers), ahead])
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{BEGIN}sm_{rows[0]['sm']}, triton {triton.__version__}:\n\n{text}\n{END}"


def main(capability: int, into_docs: bool) -> None:
    warnings.simplefilter("ignore")
    if not into_docs:
        for row in measured(capability):
            print(json.dumps(row), flush=True)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + table(list(measured(capability))) + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), "--table" in sys.argv)
