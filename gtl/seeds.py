"""One integer seed per (run, purpose, generation, individual, ...). There is no global randomness in gtl.

Integers, not generators, travel between processes, so a result never depends on who computed it or in which order.
"""

from __future__ import annotations

import hashlib

import numpy as np

_SEED_BITS = 63  # torch.Generator.manual_seed takes a signed 64-bit integer


def derive(root: int, *parts: int | str) -> int:
    """Seed for the purpose that `parts` name, under `root`; the same words give the same seed on every machine.

    >>> derive(0, "life", 3, 7) == derive(0, "life", 3, 7)
    True
    >>> derive(0, "life", 3, 7) == derive(0, "life", 37)
    False
    """
    words = "/".join(f"{type(part).__name__}:{part}" for part in (root, *parts))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> (64 - _SEED_BITS)


def rng(root: int, *parts: int | str) -> np.random.Generator:
    """A fresh numpy generator for the purpose that `parts` name."""
    return np.random.default_rng(derive(root, *parts))
