"""Write the digit pictures of the shipped LeNet: the first MNIST test image of each chosen digit.

python tools/zoo_digits.py ../shared/data/mnist
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parents[1] / "nnconv/zoo/models/lenet/digits"
DIGITS = {0: "zero", 1: "one", 2: "two", 4: "four", 5: "five", 7: "seven"}


def main(mnist: Path) -> None:
    images = idx(mnist / "t10k-images-idx3-ubyte.gz", offset=16).reshape(-1, 28, 28)
    labels = idx(mnist / "t10k-labels-idx1-ubyte.gz", offset=8)
    FOLDER.mkdir(exist_ok=True)
    for digit, name in DIGITS.items():
        first = int(np.flatnonzero(labels == digit)[0])
        Image.fromarray(images[first]).save(FOLDER / f"{name}.png", optimize=True)


def idx(path: Path, offset: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The bytes of an IDX file behind its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
