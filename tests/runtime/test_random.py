"""Random numbers: the published test vectors, and that they depend on their place alone."""

from __future__ import annotations

import numpy as np
import pytest

from nnconv.runtime.random import philox, stream_of, uniform_words

ONES = 0xFFFFFFFF

# Random123's known-answer tests for philox4x32-10 (kat_vectors): counter, key, result
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_philox_gives_the_published_words(
    counter: tuple[int, ...], key: tuple[int, int], wanted: tuple[int, ...]
) -> None:
    x0, x1, x2, x3 = (np.array([word], np.uint64) for word in counter)
    assert tuple(int(word[0]) for word in philox((x0, x1, x2, x3), key)) == wanted


def test_an_element_has_the_same_word_whatever_the_count() -> None:
    np.testing.assert_array_equal(uniform_words(1001, 5, 9)[:10], uniform_words(10, 5, 9))


def test_words_change_with_stream_and_step_and_are_spread_evenly() -> None:
    base = uniform_words(100_000, stream_of(1, "drop6"), 0)
    for other in (
        uniform_words(100_000, stream_of(1, "drop7"), 0),
        uniform_words(100_000, stream_of(1, "drop6"), 1),
    ):
        assert (base == other).mean() < 1e-3
    counts = np.histogram(base, bins=16, range=(0, 2**32))[0]
    assert np.abs(counts / 6250 - 1).max() < 0.06


def test_streams_are_fixed_for_good() -> None:
    assert stream_of(0, "drop6") == stream_of(0, "drop6") != stream_of(1, "drop6")
    assert 0 <= stream_of(2**63, "x") < 2**63
