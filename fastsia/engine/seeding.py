"""Keys of the draws: one 64-bit seed per trajectory, and domains that separate kinds of draws."""

from __future__ import annotations

import hashlib
from enum import IntEnum


class Domain(IntEnum):
    """The last counter word of a draw (`ops.reference.uniforms`)."""

    TRAJECTORY = 0
    ROLLOUT = 1
    SHUFFLED_ROLLOUT = 2
    PERMUTATION = 3


def request_seed(run_seed: int, problem_id: str, trajectory: int) -> int:
    """Seed of one trajectory and its rollouts: 63 bits of a hash, so it moves with nothing but its three inputs."""
    text = f"fastsia\x1f{run_seed}\x1f{trajectory}\x1f{problem_id}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
