"""What happens to the pixels of a batch: (pixel - mean) * scale, crop, mirror, as in Caffe.

All samples of a batch at once; where to crop and what to mirror is drawn from random words that
belong to the samples, not to the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Preprocessing
    from nnconv.schemas.types import Array

WORDS = 3  # random words a sample needs: top, left, mirror


@dataclass(frozen=True, slots=True)
class Transform:
    """`mean` is one number, or one a channel; `mean_image` [C,H,W] is subtracted at the uncropped
    position instead. `crop` is a side in pixels (0: none): cut at random while training, from the
    centre otherwise. `mirror` turns half of the training samples left to right.
    """

    mean: tuple[float, ...] = ()
    mean_image: Array | None = None
    scale: float = 1.0
    crop: int = 0
    mirror: bool = False

    @staticmethod
    def of(how: Preprocessing, *, crop: int = 0, mirror: bool = False) -> Transform:
        """What a model asks for, and how training varies it."""
        return Transform(how.mean, how.mean_image, how.scale, crop, mirror)

    def __call__(self, batch: Array, words: Array | None = None) -> Array:
        """float32 [n,C,h,w] from pixels [n,C,H,W] of any real dtype.

        `words` [n, WORDS] are uniform in [0, 2^32) and make it a training batch; None stands for
        the centre, unmirrored. Raises InputError where the crop or the mean does not fit.
        """
        if batch.ndim == 2:  # rows of bytes have no height and width
            return self._shifted(batch[:, None, None])[:, 0, 0]
        if batch.ndim != 4:
            raise InputError(f"pixels are [n,C,H,W], got an array with {batch.ndim} axes")
        shifted = self._shifted(batch)
        cropped = self._cropped(shifted, words) if self.crop else shifted
        if self.mirror and words is not None:
            turned = (words[:, 2] & 1).astype(bool)
            cropped = np.where(turned[:, None, None, None], cropped[..., ::-1], cropped)
        return np.ascontiguousarray(cropped)

    def _shifted(self, batch: Array) -> Array:
        floats = batch.astype(np.float32)
        if self.mean_image is not None:
            if self.mean_image.shape != batch.shape[1:]:
                sizes = ("x".join(map(str, s)) for s in (self.mean_image.shape, batch.shape[1:]))
                raise InputError("the mean image is {}, the pictures are {}".format(*sizes))
            floats -= self.mean_image
        elif self.mean:
            if len(self.mean) not in (1, batch.shape[1]):
                raise InputError(f"{len(self.mean)} means for {batch.shape[1]} channels")
            floats -= np.asarray(self.mean, np.float32).reshape(-1, 1, 1)
        if self.scale != 1:
            floats *= np.float32(self.scale)
        return floats

    def _cropped(self, batch: Array, words: Array | None) -> Array:
        side, (height, width) = self.crop, batch.shape[2:]
        if side > min(height, width):
            raise InputError(f"a crop of {side} does not fit into pictures of {height}x{width}")
        if words is None:
            top, left = (height - side) // 2, (width - side) // 2
            return batch[:, :, top : top + side, left : left + side]
        windows = np.lib.stride_tricks.sliding_window_view(batch, (side, side), axis=(2, 3))
        tops, lefts = (_below(words[:, i], n - side + 1) for i, n in enumerate((height, width)))
        return windows[np.arange(len(batch)), :, tops, lefts]


def _below(words: Array, bound: int) -> Array:
    """Uniform integers in [0, bound) from uniform 32-bit words (the high half of a product)."""
    return ((words.astype(np.uint64) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)
