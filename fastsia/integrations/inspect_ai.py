"""The entry point that Inspect loads: `inspect eval task.py --model fastsia/demo:sft`. See docs/inspect_ai.md.

Inspect imports this module wherever fastsia is installed, so torch and the engine are imported on first use.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="fastsia")
def fastsia() -> type[ModelAPI]:
    """The provider `fastsia/...`."""
    from fastsia.integrations.inspect_provider import FastsiaAPI

    return FastsiaAPI
