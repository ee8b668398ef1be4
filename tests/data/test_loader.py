"""Loaders: batches are a function of (seed, epoch, index) alone, ahead of the step and bounded."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime import data
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


def numbers(count: int) -> data.ArrayDataset:
    return data.arrays(data=np.arange(count), label=np.arange(count) % 3)


def taken(loader: data.Loader, start: int, stop: int) -> list[list[int]]:
    return [batch["data"].tolist() for batch in loader.stream(start, stop)]


@given(count=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 5))
def test_every_epoch_gives_every_sample_once(count: int, batch: int, seed: int) -> None:
    loader = data.Loader(numbers(count), batch, seed=seed)
    stream = np.concatenate([loader.read(i)["data"] for i in range(-(-3 * count // batch))])
    for epoch in range(3):
        part = stream[epoch * count : (epoch + 1) * count]
        assert sorted(part.tolist()) == list(range(count))


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    first, second = taken(data.Loader(numbers(20), 20, seed=1), 0, 2)
    (other,) = taken(data.Loader(numbers(20), 20, seed=2), 0, 1)
    assert len({tuple(order) for order in (first, second, other)}) == 3


def test_a_stream_begun_anywhere_goes_on_as_the_whole_one() -> None:
    whole = taken(data.Loader(numbers(23), 5, seed=4), 0, 30)
    for start in (1, 7, 29):
        assert taken(data.Loader(numbers(23), 5, seed=4), start, 30) == whole[start:]


@pytest.mark.parametrize("workers", [1, 4])
def test_slow_and_uneven_reading_changes_nothing(workers: int) -> None:
    whole = numbers(50)

    class Slow:
        name, labels, shapes = whole.name, whole.labels, whole.shapes

        def __len__(self) -> int:
            return len(whole)

        def read(self, indices: Array) -> data.Batch:
            time.sleep(float(indices[0] % 5) / 1000)
            return whole.read(indices)

    loader = data.Loader(Slow(), 3, seed=9, workers=workers)
    assert taken(loader, 0, 20) == taken(data.Loader(whole, 3, seed=9), 0, 20)


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    assert taken(data.Loader(numbers(5), 3, shuffle=False), 0, 2) == [[0, 1, 2], [3, 4, 0]]


def test_once_gives_what_is_left_as_a_smaller_batch() -> None:
    assert [len(batch["data"]) for batch in data.Loader(numbers(8), 3).once()] == [3, 3, 2]


def test_batches_that_wait_are_bounded_in_number_and_memory() -> None:
    begun: list[int] = []

    class Watched(data.ArrayDataset):
        def read(self, indices: Array) -> data.Batch:
            begun.append(1)
            return super().read(indices)

    held = Watched({"data": np.zeros((4, 8 << 20), np.uint8)})  # 32 MiB a batch of four
    stream = data.Loader(held, 4, ahead=100, workers=2).stream()
    next(stream), next(stream)
    time.sleep(0.2)
    assert len(begun) <= 2 + 8  # 256 MiB wait at most
    stream.close()


def test_an_error_comes_with_its_batch_and_ends_the_workers() -> None:
    class Broken(data.ArrayDataset):
        def read(self, indices: Array) -> data.Batch:
            if 7 in indices:
                raise InputError("sample 7 is damaged")
            return super().read(indices)

    before = threading.active_count()
    loader = data.Loader(Broken({"data": np.arange(10)}), 2, shuffle=False)
    seen = []
    with pytest.raises(InputError, match="sample 7"):
        seen += [batch["data"].tolist() for batch in loader.stream()]
    assert threading.active_count() == before


def test_a_stream_that_is_left_leaves_no_threads() -> None:
    before = threading.active_count()
    for _ in range(5):
        stream = data.Loader(numbers(10), 2).stream()
        next(stream)
        stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("setting", ["batch", "workers", "ahead"])
def test_settings_below_one_are_refused(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting} must be at least 1"):
        data.Loader(numbers(3), **{setting: 0})  # type: ignore[arg-type]


# --- transforms -----------------------------------------------------------------------------------

PIXELS = np.random.default_rng(5).integers(0, 256, (6, 3, 9, 8)).astype(np.uint8)


def test_mean_and_scale_are_caffes_formula() -> None:
    found = data.Transform((104, 117, 123), scale=0.017)(PIXELS)
    expected = (PIXELS.astype(float) - np.reshape([104, 117, 123], (3, 1, 1))) * 0.017
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert found.dtype == np.float32


def test_the_mean_image_is_subtracted_where_the_crop_was_cut() -> None:
    image = np.arange(3 * 9 * 8, dtype=np.float32).reshape(3, 9, 8)
    found = data.Transform(mean_image=image, crop=4)(PIXELS)
    np.testing.assert_array_equal(found, (PIXELS - image)[:, :, 2:6, 2:6])


def test_training_crops_and_mirrors_are_pieces_of_the_picture() -> None:
    words = np.random.default_rng(1).integers(0, 1 << 32, (6, 3)).astype(np.uint64)
    found = data.Transform(crop=5, mirror=True)(PIXELS, words)
    mirrored = 0
    for piece, picture in zip(found, PIXELS.astype(np.float32), strict=True):
        places = [
            (turn, top, left)
            for turn in (1, -1)
            for top in range(5)
            for left in range(4)
            if (picture[:, top : top + 5, left : left + 5][:, :, ::turn] == piece).all()
        ]
        assert len(places) == 1
        mirrored += places[0][0] == -1
    assert 0 < mirrored < 6


def test_every_crop_position_is_drawn_and_none_more_often() -> None:
    dataset = data.arrays(data=np.zeros((1, 1, 4, 4), np.uint8) + np.arange(4, dtype=np.uint8))
    loader = data.Loader(dataset, 4000, transforms=data.Transform(crop=2))
    lefts = loader.read(0)["data"][:, 0, 0, 0].astype(int)
    assert np.abs(np.bincount(lefts, minlength=3) / 4000 - 1 / 3).max() < 0.03


def test_how_a_sample_is_varied_depends_on_itself_and_its_epoch_alone() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (12, 1, 6, 6)).astype(np.uint8)
    dataset = data.arrays(data=pixels, label=np.arange(12))
    by_batch = []
    for batch in (3, 4):
        loader = data.Loader(dataset, batch, transforms=data.Transform(crop=4, mirror=True))
        got = [loader.read(i) for i in range(24 // batch)]
        by_batch.append(np.concatenate([b["data"] for b in got]))
    np.testing.assert_array_equal(by_batch[0], by_batch[1])


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (data.Transform(crop=10), "does not fit"),
        (data.Transform((1, 2)), "2 means for 3 channels"),
        (data.Transform(mean_image=np.zeros((3, 4, 4))), "mean image is 3x4x4"),
    ],
)
def test_a_transform_that_does_not_fit_is_refused(transform: data.Transform, message: str) -> None:
    with pytest.raises(InputError, match=message):
        transform(PIXELS)


def test_numbers_that_are_no_pixels_are_left_alone() -> None:
    dataset = data.arrays(data=np.full((2, 1, 2, 2), 0.5, np.float32))
    loader = data.Loader(dataset, 2, transforms=data.Transform((10.0,)))
    assert loader.read(0)["data"].tolist() == dataset.held["data"].tolist()
