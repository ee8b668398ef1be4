"""Preprocessing of pictures against the same arithmetic written out in numpy."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nnconv
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph, Model, Preprocessing
from nnconv.schemas.types import DType


def model(channels: int, height: int, width: int, how: Preprocessing) -> Model:
    graph = Graph("picture")
    graph.add_input("data", DType.FLOAT32, (1, channels, height, width))
    made = Model(graph)
    made.preprocessing["data"] = how
    return made


@pytest.fixture
def photo(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(7).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png", pixels.astype(np.float32)


def test_blue_comes_first_and_mean_and_scale_follow(photo: tuple[Path, np.ndarray]) -> None:
    file, pixels = photo
    how = Preprocessing(mean=(104.0, 117.0, 123.0), scale=0.017)
    expected = (pixels[:, :, ::-1] - [104, 117, 123]).transpose(2, 0, 1) * 0.017
    np.testing.assert_allclose(nnconv.picture(model(3, 6, 8, how), file)[0], expected, rtol=1e-5)


def test_rgb_models_get_red_first(photo: tuple[Path, np.ndarray]) -> None:
    file, pixels = photo
    array = nnconv.picture(model(3, 6, 8, Preprocessing(channels="RGB")), file)
    np.testing.assert_array_equal(array[0], pixels.transpose(2, 0, 1))


def test_a_larger_mean_image_is_subtracted_before_the_centre_crop(
    photo: tuple[Path, np.ndarray],
) -> None:
    file, pixels = photo
    mean = np.arange(3 * 6 * 8, dtype=np.float32).reshape(3, 6, 8)
    array = nnconv.picture(model(3, 4, 4, Preprocessing(mean_image=mean)), file)
    expected = (pixels[:, :, ::-1].transpose(2, 0, 1) - mean)[:, 1:5, 2:6]
    np.testing.assert_allclose(array[0], expected, rtol=1e-6)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 32896, np.uint16)).save(tmp_path / "deep.png")
    array = nnconv.picture(model(1, 4, 4, Preprocessing()), tmp_path / "deep.png")
    np.testing.assert_array_equal(array, np.full((1, 1, 4, 4), 128, np.float32))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Preprocessing(mean=(1.0, 2.0)), "mean has 2 numbers"),
        (Preprocessing(mean_image=np.zeros((1, 6, 8), np.float32)), "mean image has 1 channels"),
        (Preprocessing(mean_image=np.zeros((3, 2, 2), np.float32)), "smaller than the input"),
    ],
)
def test_preprocessing_that_cannot_apply_is_refused(
    photo: tuple[Path, np.ndarray], how: Preprocessing, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        nnconv.picture(model(3, 6, 8, how), photo[0])


def test_an_input_that_is_no_picture_is_named() -> None:
    graph = Graph("vector")
    graph.add_input("x", DType.FLOAT32, (1, 10))
    with pytest.raises(InputError, match="no input takes pictures"):
        nnconv.picture(Model(graph), "photo.png")
