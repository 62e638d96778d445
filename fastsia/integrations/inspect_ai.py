"""The entry point that Inspect loads: `inspect eval task.py --model fastsia/demo:sft`. docs/inspect_ai.md is its page.

Inspect imports this in every process where fastsia is installed, so torch and the engine wait until they are asked for.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="fastsia")
def fastsia() -> type[ModelAPI]:
    """The provider `fastsia/...`."""
    from fastsia.integrations.inspect_provider import FastsiaAPI

    return FastsiaAPI
