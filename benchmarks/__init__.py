"""Measurements of the package; each module is a command."""

import fastsia as fastsia  # before torch, whose threads would spin otherwise (docs/engine.md)
