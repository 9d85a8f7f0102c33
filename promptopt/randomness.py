"""Random number generators: one per seed and purpose. Knows nothing of what they are used for."""

from __future__ import annotations

import hashlib

import numpy as np


def named_generator(seed: int, name: str) -> np.random.Generator:
    """Return a generator that depends only on the seed and the name, so that new uses do not change existing streams."""
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))
