"""Data to train and test on: data sets (IDX, picture folders, .npz, CSV) and the loader over them.

>>> import numpy as np
>>> from nnconv import data
>>> numbers = data.arrays(data=np.arange(10.0), label=np.arange(10) % 2)
>>> loader = data.Loader(numbers, batch=4, seed=1)
>>> [len(batch["data"]) for batch in loader.stream(0, 3)]
[4, 4, 4]
"""

from nnconv.runtime.data.datasets import (
    ArrayDataset,
    Batch,
    Dataset,
    Subset,
    arrays,
    open_dataset,
    split,
)
from nnconv.runtime.data.folder import PictureFolder
from nnconv.runtime.data.loader import Loader
from nnconv.runtime.data.transform import Transform

__all__ = [
    "ArrayDataset", "Batch", "Dataset", "Loader", "PictureFolder", "Subset", "Transform", "arrays",
    "open_dataset", "split",
]  # fmt: skip
