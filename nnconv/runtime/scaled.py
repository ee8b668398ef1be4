"""Weights times one number a channel, multiplied when they are read.

Folding BatchNorm scales whole layers, which kernels then read in an order of their own: between the
two nobody needs the scaled weights, and as arrays they would take as much memory as the packed
ones. So they stay what they were made from; who asks for elements gets a fresh array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

__all__ = ["Scaled", "plain"]


class Scaled(np.lib.mixins.NDArrayOperatorsMixin):
    """source * scale, where `scale` (float64) has an axis for each of `source`; rounded once."""

    __slots__ = ("scale", "source")

    def __init__(self, source: Array, scale: Array) -> None:
        self.source = source
        self.scale = scale

    @property
    def shape(self) -> tuple[int, ...]:
        found: tuple[int, ...] = self.source.shape
        return found

    @property
    def ndim(self) -> int:
        return self.source.ndim

    @property
    def dtype(self) -> Any:
        return self.source.dtype

    @property
    def size(self) -> int:
        return self.source.size

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def times(self, scale: Array) -> Scaled:
        return Scaled(self.source, self.scale * scale)

    def array(self) -> Array:
        """The elements, each time anew."""
        made = np.empty(self.shape, self.dtype)
        # in float64 piece by piece: a whole layer in doubles would be the peak of a compile
        np.multiply(self.source, self.scale, out=made, dtype=np.float64, casting="same_kind")
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("scaled weights have no array that could be shared")
        return self.array().astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, method)(*map(plain, inputs), **options)

    def __getitem__(self, key: Any) -> Any:
        return self.array()[key]

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        """Whatever else arrays offer."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.array(), name)


def plain(data: Any) -> Any:
    """Stored data as an array of its own elements; anything but `Scaled` as it is."""
    return data.array() if isinstance(data, Scaled) else data
