"""Randomness as a function of what it is for.

Every random number is drawn from a generator seeded by (recipe seed, step, purpose, ...), never from the
hidden position of a long-lived generator: a resumed run then draws what an uninterrupted one draws.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on every argument and is stable across processes and machines."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def recorded_seed(seed: int, *purpose: str | int) -> int:
    """A seed as `derive_seed`'s, of 53 bits: JavaScript, in which records may be read, rounds larger ones."""
    return derive_seed(seed, *purpose) >> 10
