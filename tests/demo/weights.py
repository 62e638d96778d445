"""Where the demo models are, for the tests of this folder."""

from pathlib import Path

import fastsia.demo

WEIGHTS = Path(fastsia.demo.__file__).parent / "weights"
STAGES = sorted(folder.name for folder in WEIGHTS.iterdir() if (folder / "config.json").is_file())
