"""Data sets: what files hold, and that damaged or hostile ones are refused with a clear line."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnconv.runtime import data
from nnconv.runtime.data.idx import read_idx
from nnconv.schemas.errors import InputError
from tests.places import shared


def idx(array: np.ndarray, code: int) -> bytes:
    return (
        bytes([0, 0, code, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + (array.tobytes())
    )


@pytest.fixture(scope="module")
def mnist() -> data.Dataset:
    return data.open_dataset(shared("data", "mnist"))


def test_mnist_is_what_its_readme_says(mnist: data.Dataset) -> None:
    everything = mnist.read(np.arange(len(mnist)))
    assert everything["data"].shape == (60_000, 1, 28, 28)
    assert everything["label"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(everything["label"]).tolist() == counts
    assert everything["data"].mean() == pytest.approx(33.3184, abs=1e-4)


def test_the_test_part_of_a_folder_is_the_other_files() -> None:
    digits = data.open_dataset(shared("data", "mnist"), part="test")
    assert len(digits) == 10_000
    assert digits.read(np.arange(5))["label"].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_holds_every_element_type(tmp_path: Path, code: int, dtype: str, packed: bool) -> None:
    array = np.arange(-3, 3).astype(dtype).reshape(2, 3)
    raw = idx(array, code)
    (tmp_path / "a").write_bytes(gzip.compress(raw) if packed else raw)
    found = read_idx(tmp_path / "a")
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


GOOD = idx(np.zeros((2, 3), np.uint8), 8)
BAD_IDX = {
    "no magic": (b"\x01\0\x08\x01" + GOOD[4:], "no IDX file"),
    "unknown type": (b"\0\0\x0a\x02" + GOOD[4:], "no IDX file"),
    "no axes": (b"\0\0\x08\0", "0 axes"),
    "200 axes": (b"\0\0\x08\xc8" + bytes(800), "200 axes"),
    "header cut": (GOOD[:9], "header ends after 9"),
    "data cut": (GOOD[:-1], "states 2x3, 6 bytes"),
    "data too long": (GOOD + b"\0", "are more"),
    "huge": (b"\0\0\x0e\x03" + b"\xff" * 12 + bytes(64), "cannot hold so many"),
    "empty": (b"", "no IDX file"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", BAD_IDX)
def test_damaged_idx_files_are_refused_before_memory_is_taken(
    tmp_path: Path, name: str, packed: bool
) -> None:
    raw, message = BAD_IDX[name]
    (tmp_path / "a").write_bytes(gzip.compress(raw) if packed else raw)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            read_idx(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_torn_gzip_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(GOOD)[:-9])
    with pytest.raises(InputError, match="cannot be read as an IDX file"):
        read_idx(tmp_path / "a")


def test_every_mutation_of_an_idx_file_is_read_or_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    whole = gzip.compress(GOOD, mtime=0)
    for _ in range(300):
        raw = bytearray(whole if random.random() < 0.5 else GOOD)
        for at in random.integers(0, len(raw), random.integers(1, 4)):
            raw[at] = random.integers(0, 256)
        (tmp_path / "a").write_bytes(raw)
        try:
            assert read_idx(tmp_path / "a").nbytes < 100
        except InputError as error:
            assert str(tmp_path) in str(error)


def test_labels_of_images_that_lack_them_are_missed_by_name(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 3, 3), np.uint8), 8))
    with pytest.raises(InputError, match="train-labels-idx1-ubyte, are missing"):
        data.open_dataset(tmp_path)


# --- pictures -------------------------------------------------------------------------------------


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two classes, three pictures: red, green and blue ones."""
    for name, colour in (("cats/1", (255, 0, 0)), ("cats/2", (0, 255, 0)), ("dogs/1", (0, 0, 255))):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4), colour).save(path)
    return tmp_path


def test_folders_are_classes_and_pictures_are_blue_first(zoo: Path) -> None:
    found = data.open_dataset(zoo)
    assert isinstance(found, data.PictureFolder)
    assert (found.labels, found.targets.tolist()) == (("cats", "dogs"), [0, 0, 1])
    batch = found.sized(3, 2, 2).read(np.array([2, 0]))
    assert batch["data"].shape == (2, 3, 2, 2)
    assert batch["data"][:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert batch["label"].tolist() == [1, 0]


def test_grey_pictures_for_models_with_one_channel(zoo: Path) -> None:
    found = data.open_dataset(zoo)
    assert isinstance(found, data.PictureFolder)
    grey = found.sized(1, 4, 6).read(np.array([0]))["data"]
    assert grey.shape == (1, 1, 4, 6)
    assert grey[0, 0, 0, 0] == 76  # 0.299 of red


def test_a_train_and_a_test_folder_are_two_parts(zoo: Path) -> None:
    (zoo / "train").mkdir()
    for name in ("cats", "dogs"):
        (zoo / name).rename(zoo / "train" / name)
    assert len(data.open_dataset(zoo, part="train")) == 3
    with pytest.raises(InputError, match="no test folder, only train"):
        data.open_dataset(zoo, part="test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a picture", "not a picture nnconv can read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "1.png"),
        (b"P5 100000 100000 255\n", "too large"),
    ],
)
def test_a_bad_picture_is_named(zoo: Path, content: bytes, message: str) -> None:
    (zoo / "dogs/1.png").write_bytes(content)
    found = data.open_dataset(zoo)
    with pytest.raises(InputError, match=message):
        found.read(np.array([2]))


def test_an_empty_folder_says_how_it_should_look(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one folder of pictures for each class"):
        data.open_dataset(tmp_path)


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("x", "y"), ("data", "labels"), ("x_train", "y_train"), ("train_images", "target")]
)
def test_an_npz_may_use_any_usual_name(tmp_path: Path, names: tuple[str, str]) -> None:
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    held = {names[0]: x, names[1]: y, "x_test": x[:1], "y_test": y[:1]}
    np.savez(tmp_path / "a.npz", **held)  # type: ignore[arg-type]
    found = data.open_dataset(tmp_path / "a.npz").read(np.array([1]))
    assert {key: array.tolist() for key, array in found.items()} == {
        "data": [[2.0, 3.0]], "label": [1]
    }  # fmt: skip
    assert len(data.open_dataset(tmp_path / "a.npz", part="test")) == 1


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.zeros(2))
    with pytest.raises(InputError, match="data 3, label 2"):
        data.open_dataset(tmp_path / "a.npz")


CSV = {
    "label column by name": ("a,species,b\n1,cat,2\n3,dog,4\n", [[1, 2], [3, 4]], [0, 1]),
    "last column": ("1,2,7\n3,4,8\n", [[1, 2], [3, 4]], [7, 8]),
    "quotes and blanks": ('a,b,label\n"1", 2,"x, y"\n\n3,4,z\n', [[1, 2], [3, 4]], [0, 1]),
    "real targets": ("1,2,0.5\n3,4,1.5\n", [[1, 2], [3, 4]], [0.5, 1.5]),
    "byte order mark": ("\ufeffa,b,label\n1,2,0\n", [[1, 2]], [0]),
}


@pytest.mark.parametrize("name", CSV)
def test_csv_rows_become_data_and_labels(tmp_path: Path, name: str) -> None:
    text, rows, labels = CSV[name]
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    found = data.open_dataset(tmp_path / "a.csv")
    batch = found.read(np.arange(len(found)))
    assert (batch["data"].tolist(), batch["label"].tolist()) == (rows, labels)


@pytest.mark.parametrize(("label", "rows"), [("1", [[2, 3]]), ("b", [[1, 3]])])
def test_the_label_column_can_be_chosen(tmp_path: Path, label: str, rows: list[object]) -> None:
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3\n")
    found = data.open_dataset(tmp_path / "a.csv", label=label)
    assert found.read(np.array([0]))["data"].tolist() == rows


BAD_CSV = {
    "a word": ("a,b,c\n1,2,3\n\n4,x,6\n", "a.csv:4:3: could not convert string 'x' to a number"),
    "too short": ("1,2,3\n4,5\n", "a.csv:2:1: '4': the row needs 3 columns"),
    "too long": ("1,2,3\n4,5,6,7\n", "a.csv:2:7: '7': the row has 4 columns"),
    "nan": ("1,2,3\n4,nan,6\n", "a.csv:2:3: 'nan': is not a finite number"),
    "empty": ("", "the file is empty"),
    "one column": ("1\n2\n", "needs two columns"),
    "header only": ("a,b,label\n", "no rows of numbers"),
    "long label": ("1,2," + "a" * 70 + "\n", "a.csv:1:5"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_errors_in_csv_say_line_and_column(tmp_path: Path, name: str) -> None:
    text, message = BAD_CSV[name]
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        data.open_dataset(tmp_path / "a.csv")
    assert message in str(caught.value)


def test_lines_are_counted_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnconv.runtime.data.tables.CHUNK", 20)
    rows = ["a,b,label"] + [f"{n},{n + 1},{n % 2}" for n in range(50)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    assert len(data.open_dataset(tmp_path / "a.csv")) == 50
    rows[37] = "1,?,0"
    (tmp_path / "a.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"a\.csv:38:3"):
        data.open_dataset(tmp_path / "a.csv")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe1,2\n")
    with pytest.raises(InputError, match="not a text file"):
        data.open_dataset(tmp_path / "a.csv")


# --- in general -----------------------------------------------------------------------------------


def test_an_unknown_path_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "digits.npz").touch()
    with pytest.raises(InputError, match=r"did you mean 'digits\.npz'"):
        data.open_dataset(tmp_path / "digts.npz")


def test_a_split_is_decided_by_its_seed_and_loses_nothing() -> None:
    whole = data.arrays(data=np.arange(100))
    parts = [data.split(whole, 0.1, seed) for seed in (1, 1, 2)]
    held_out = [part[1].read(np.arange(10))["data"].tolist() for part in parts]
    assert held_out[0] == held_out[1] != held_out[2]
    kept = parts[0][0].read(np.arange(90))["data"].tolist()
    assert sorted(kept + held_out[0]) == list(range(100))


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.001])
def test_a_split_that_leaves_a_half_empty_is_refused(share: float) -> None:
    with pytest.raises(InputError):
        data.split(data.arrays(data=np.arange(100)), share)
