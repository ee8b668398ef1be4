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


MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key moves on by
ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def next_key(key: tuple[int, int]) -> tuple[int, int]:
    """The key of the round behind one."""
    return (key[0] + WEYL[0]) & 0xFFFFFFFF, (key[1] + WEYL[1]) & 0xFFFFFFFF


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, ...]:
    """Four 32-bit words for each counter, all held in uint64 arrays.

    One round: (hi, lo) are the halves of multiplier * word; x0' = hi1 ^ x1 ^ k0, x1' = lo1, x2' =
    hi0 ^ x3 ^ k1, x3' = lo0; the key moves on by a Weyl constant between rounds.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = (x * np.uint64(m) for x, m in zip((x0, x2), MULTIPLIERS, strict=True))
        x0, x1, x2, x3 = (
            (second >> _HALF) ^ x1 ^ np.uint64(k0),
            second & _LOW,
            (first >> _HALF) ^ x3 ^ np.uint64(k1),
            first & _LOW,
        )
        k0, k1 = next_key((k0, k1))
    return x0, x1, x2, x3


def uniform_words(count: int, stream: int, step: int) -> Array:
    """`count` uniform integers in [0, 2^32) as uint64: those of elements 0, 1, ... at `step` of
    `stream`.
    """
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    constant = [np.full(blocks.shape, word, np.uint64) for word in two_words(step)]
    counter = (blocks & _LOW, blocks >> _HALF, constant[0], constant[1])
    words = philox(counter, two_words(stream))
    return np.stack(words, axis=1).reshape(-1)[:count]


def two_words(number: int) -> tuple[int, int]:
    """The lower and the upper 32 bits of a step or stream, as counters and keys take them."""
    return number & 0xFFFFFFFF, (number >> 32) & 0xFFFFFFFF


def threshold(ratio: float) -> int:
    """What is dropped: elements whose words are below this."""
    return round(ratio * 2**32)


def stream_of(seed: int, name: str) -> int:
    """The stream of the node whose first output is called `name`: 63 bits of BLAKE2b over both."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
