"""Random numbers that depend on where they are used, not on what ran before: Philox4x32-10.

A generator is a function of a key and a counter (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", 2011). The key is the stream of one node, the counter (element // 4, step): so a run
can be repeated or resumed at any step, in any order, and gives the same numbers on every device.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, ...]:
    """Four 32-bit words for each counter, all held in uint64 arrays.

    One round: (hi, lo) are the halves of multiplier * word; x0' = hi1 ^ x1 ^ k0, x1' = lo1, x2' =
    hi0 ^ x3 ^ k1, x3' = lo0; the key moves on by a Weyl constant between rounds.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = (
            (second >> _HALF) ^ x1 ^ np.uint64(k0),
            second & _LOW,
            (first >> _HALF) ^ x3 ^ np.uint64(k1),
            first & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return x0, x1, x2, x3


def uniform_words(count: int, stream: int, step: int) -> Array:
    """`count` uniform integers in [0, 2^32) as uint64: those of elements 0, 1, ... at `step` of
    `stream`.
    """
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    low, high = step & 0xFFFFFFFF, (step >> 32) & 0xFFFFFFFF
    constant = [np.full(blocks.shape, word, np.uint64) for word in (low, high)]
    counter = (blocks & _LOW, blocks >> _HALF, constant[0], constant[1])
    words = philox(counter, (stream & 0xFFFFFFFF, (stream >> 32) & 0xFFFFFFFF))
    return np.stack(words, axis=1).reshape(-1)[:count]


def stream_of(seed: int, name: str) -> int:
    """The stream of the node whose first output is called `name`: 63 bits of BLAKE2b over both."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
