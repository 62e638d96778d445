"""The suite's results: JSON lines, one per row, with provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STATUSES = ("ok", "skipped", "failed", "timeout")

_NUMBER = {"type": "number"}
_TEXT = {"type": ["string", "null"]}
_COUNTERS = {"type": "object", "additionalProperties": {"type": "integer"}}
_RUN = {
    "type": "object",
    "required": ["seconds", "computed_tokens_per_s", "tokens_per_s", "counters"],
    "properties": {
        "seconds": {"type": "number", "exclusiveMinimum": 0},
        "computed_tokens_per_s": _NUMBER,
        "tokens_per_s": _NUMBER,
        "counters": _COUNTERS,
    },
}
_RESULTS: dict[str, dict[str, Any]] = {
    "peer": {
        "required": [
            "weights",
            "head_entropy",
            "work",
            "part",
            "seconds",
            "whole_seconds",
            "tokens_per_s",
            "agreement",
        ],
        "properties": {
            "weights": {"type": "string"},
            "head_entropy": {"type": ["number", "null"]},
            "seconds": {"type": "number", "exclusiveMinimum": 0},
            "whole_seconds": {"type": "number", "exclusiveMinimum": 0},
            "all_seconds": {"type": "array", "items": _NUMBER, "minItems": 1},
            "generated_tokens": {"type": "integer"},
            "part": {"type": "object", "required": ["problems", "checkpoints", "scale"]},
            "agreement": {
                "type": "object",
                "required": ["excess_nats", "excess_nats_generate", "excess_error", "outside", "p_value", "agrees"],
                "properties": {"agrees": {"type": "boolean"}, "p_value": {"type": "number", "maximum": 1}},
            },
        },
    },
    "steady": {
        "required": [
            "rows",
            "prefix",
            "suffix",
            "rates",
            "fraction_of_floor",
            "decode",
            "work",
            "parts_ms_per_step",
            "memory",
        ],
        "properties": {
            "fraction_of_floor": {"type": "number", "exclusiveMinimum": 0},
            "decode": _RUN,
            "work": _RUN,
            "parts_ms_per_step": {"type": "object", "additionalProperties": _NUMBER},
            "memory": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
    },
    "growth": {
        "required": ["axis", "points", "slope", "slope_last3", "slope_computed_tokens"],
        "properties": {
            "points": {
                "type": "array",
                "minItems": 2,
                "items": {"type": "object", "required": ["value", "seconds", "generated_tokens", "computed_tokens"]},
            },
            "slope": _NUMBER,
        },
    },
    "kernels": {
        "required": ["cases", "failures", "cut"],
        "properties": {
            "cases": {"type": "array", "items": {"type": "object", "required": ["benchmark", "path", "us"]}}
        },
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": [
        "key",
        "kind",
        "model",
        "name",
        "device",
        "toy",
        "status",
        "reason",
        "wall_seconds",
        "result",
        "commit",
        "versions",
    ],
    "properties": {
        "key": {"type": "string"},
        "kind": {"enum": list(_RESULTS)},
        "model": _TEXT,
        "device": {"enum": ["cuda", "cpu"]},
        "toy": {"type": "boolean"},
        "status": {"enum": list(STATUSES)},
        "reason": _TEXT,
        "wall_seconds": _NUMBER,
        "versions": {"type": "object"},
    },
    "allOf": [
        {
            "if": {"properties": {"kind": {"const": kind}, "status": {"const": "ok"}}},
            "then": {"properties": {"result": {"type": "object", **result}}},
        }
        for kind, result in _RESULTS.items()
    ],
}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; of those with one key the last one counts, in the place of the first."""
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return list({row["key"]: row for row in rows}.values())
