"""Few pictures are enough for a new task when a model that knows a related one is trained further.

A LeNet that reads digits learns to tell odd from even from sixty pictures: once as it was converted
from Caffe, once as ONNX, and, for comparison, from random weights. Needs the MNIST files (IDX):

    python finetune_parity.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import nnconv

MNIST = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"


def parity(folder: Path, part: str, count: int) -> nnconv.data.ArrayDataset:
    """The first digits of a part, labelled 0 for even and 1 for odd."""
    digits = nnconv.data.open_dataset(folder, part).read(np.arange(count))
    return nnconv.data.ArrayDataset(
        {"data": digits["data"], "label": digits["label"] % 2}, labels=("even", "odd")
    )


def main(folder: Path) -> None:
    few, fresh = parity(folder, "train", 60), parity(folder, "test", 2000)
    caffe = nnconv.load("zoo:lenet")
    with tempfile.TemporaryDirectory() as place:
        nnconv.save(caffe, Path(place, "lenet.onnx"))
        onnx = nnconv.load(Path(place, "lenet.onnx"))
        onnx.preprocessing = caffe.preprocessing  # ONNX has no place for it
        starts = {
            "from Caffe": (caffe, False),
            "from ONNX": (onnx, False),
            "from scratch": (caffe, True),
        }
        for name, (model, scratch) in starts.items():
            done = nnconv.finetune(
                model,
                few,
                head=2,
                scratch=scratch,
                solver="adam",
                lr=1e-3,
                epochs=20,
                batch=20,
                val=0,
            )
            accuracy = nnconv.evaluate(done.model, fresh).accuracy or 0
            print(f"{name}: {accuracy:.1%} of {len(fresh)} fresh digits")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else MNIST)
