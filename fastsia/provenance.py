"""Provenance of a run: its date, its command, and the versions that drew it."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from fastsia import __version__

_PACKAGES = ("torch", "transformers", "numpy")
_SECRET = ("--wandb_args", "--trackio_args")


def provenance() -> dict[str, Any]:
    """The date (UTC), the command if this is `fastsia ...`, versions, and the commit of a checkout of fastsia.

    A value that is not known is None. Arguments of trackers, which may hold keys, are left out of the command.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(sys.argv),
        "versions": {"fastsia": __version__, "python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "commit": _commit(Path(__file__).resolve().parent.parent),
    }


def _command(argv: Sequence[str]) -> str | None:
    program = Path(argv[0]) if argv else Path()
    if program.name != "fastsia" and program.parts[-2:] != ("fastsia", "__main__.py"):
        return None
    shown = ["fastsia"]
    for word in argv[1:]:
        name, equals, _ = word.partition("=")
        secret = name.replace("-", "_").replace("__", "--", 1) in _SECRET
        after = shown[-1].replace("-", "_").replace("__", "--", 1) in _SECRET
        shown.append("..." if after else f"{name}=..." if secret and equals else word)
    return shlex.join(shown)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
