"""Random numbers in kernels, and what drops elements by them: those of runtime/random.py, bit for
bit.

A number belongs to an element's place in row-major order, in whatever form the element lies. Four
elements in a row share one evaluation of Philox: where these are four vectors (samples in lanes),
it is made once for them; elsewhere every lane picks its word of four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.elementwise import Strided, space
from nnconv.runtime.kernels.language import U8, U32, Argument, Index, Kernel, Printer, Value
from nnconv.runtime.kernels.samples.lanes import Cut
from nnconv.runtime.random import MULTIPLIERS, ROUNDS, next_key
from nnconv.schemas.errors import InternalError

_ITEM_ELEMENTS = 2048
_WORDS = 4  # of one evaluation


def philox(
    k: Printer, counter: Sequence[Value], key: tuple[int, int]
) -> tuple[Value, Value, Value, Value]:
    """Four random words for each counter; the formula stands in runtime/random.py."""
    x0, x1, x2, x3 = counter
    for _ in range(ROUNDS):
        (low0, high0), (low1, high1) = (
            (x * multiplier, k.binary("mulhi", x, multiplier))
            for x, multiplier in zip((x0, x2), MULTIPLIERS, strict=True)
        )
        x0 = k.binary("xor", k.binary("xor", high1, x1), key[0])
        x2 = k.binary("xor", k.binary("xor", high0, x3), key[1])
        x1, x3 = low1, low0
        key = next_key(key)
    return x0, x1, x2, x3


@dataclass(frozen=True)
class Dropout(Kernel):
    """y = x * scale where the random word of the element is at least `threshold`, else x * 0.

    `shape`, `x` and `y` are those of a chain; `numbers` has the strides of the elements' numbers.
    With `mask` 1 is written where an element was kept and 0 elsewhere, as y lies.
    Arguments: x, step (two words), y, [mask].
    """

    family: ClassVar[str] = "dropout"

    shape: tuple[int, ...]
    x: Strided
    y: Strided
    numbers: Strided
    threshold: int
    scale: float
    key: tuple[int, int]
    width: int
    mask: bool = False

    def __post_init__(self) -> None:
        ranks = {len(operand.strides) for operand in (self.x, self.y, self.numbers)}
        if ranks != {len(self.shape)} or len(self.shape) < 2:
            raise InternalError("dropout: operands and shape do not belong together")
        if self.x.strides[-1] != 1 or self.y.strides[-1] != 1:
            raise InternalError("dropout: lanes are not neighbours")

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def in_fours(self) -> bool:
        """Whether four rows in a row have the words of one evaluation."""
        others = (*self.numbers.strides[:-2], self.numbers.strides[-1], self.shape[-2])
        return self.numbers.strides[-2] == 1 and all(number % _WORDS == 0 for number in others)

    @property
    def _spans(self) -> Cut:
        """The last dimension in items, whole vectors."""
        return Cut(self.shape[-1], min(self.shape[-1], _ITEM_ELEMENTS // self.width * self.width))

    @property
    def _rows(self) -> Cut:
        """The dimension before it in items, in fours where words are shared."""
        step = _WORDS if self.in_fours else 1
        rows = max(step, _ITEM_ELEMENTS // self._spans.width // step * step)
        return Cut(self.shape[-2], min(self.shape[-2], rows))

    @property
    def grid(self) -> tuple[int, ...]:
        return (*self.shape[:-2], self._rows.count, self._spans.count)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        x, y = Argument("x", aliased=True), Argument("y", written=True, aliased=True)
        more = (Argument("mask", U8, written=True),) if self.mask else ()
        return (x, Argument("step", U32), y, *more)

    @property
    def bytes(self) -> int:
        return 16 * math.prod(self.shape)  # as long as four streams take

    def describe(self, k: Printer) -> None:
        *outer, group, span = k.ids
        start = group * self._rows.width
        stop: Index | int = start + self._rows.width
        if self._rows.rest:
            stop = k.smaller(stop, self.shape[-2])
        for length in self._spans.bodies(k, span):
            with k.loop(stop, start=start, step=_WORDS if self.in_fours else 1, name="row") as row:
                self._run(k, (*outer, row, span * self._spans.width), length)

    def _run(self, k: Printer, place: Sequence[Index], length: int) -> None:
        full, rest = divmod(length, self.width)
        if full:
            with k.loop(full, name="vector") as v:
                self._vector(k, (*place[:-1], place[-1] + v * self.width), 0)
        if rest:
            self._vector(k, (*place[:-1], place[-1] + full * self.width), rest)

    def _vector(self, k: Printer, place: Sequence[Index], count: int) -> None:
        step = self.numbers.strides[-1]
        lanes = k.vector([lane * step % 2**32 for lane in range(self.width)], U32)
        first = k.index_value(_address(self.numbers, place), U32)
        number = k.splat(first) + lanes
        counter = [k.binary("shr", number, 2), k.constant(0, U32)]
        counter += [k.broadcast("step", word) for word in range(2)]
        words = philox(k, counter, self.key)
        if self.in_fours:
            for i, word in enumerate(words):
                self._drop(k, (*place[:-2], place[-2] + i, place[-1]), word, count)
            return
        which = k.binary("and", number, _WORDS - 1)
        chosen = words[-1]
        for i, word in enumerate(words[:-1]):
            chosen = k.select(k.compare("eq", which, i), word, chosen)
        self._drop(k, place, chosen, count)

    def _drop(self, k: Printer, place: Sequence[Index], word: Value, count: int) -> None:
        x = k.load("x", _address(self.x, place), count=count)
        kept = k.compare("ge", word, self.threshold)
        factor = k.select(kept, self.scale, k.constant(0.0))
        k.store("y", _address(self.y, place), x * factor, count=count)
        if self.mask:
            k.store("mask", _address(self.y, place), k.cast(kept, U8), count=count)


def _address(operand: Strided, place: Sequence[Index]) -> Index:
    at = Index((), operand.offset)
    for index, stride in zip(place, operand.strides, strict=True):
        at = at + index * stride
    return at


def dropout(
    shape: Sequence[int],
    operands: tuple[Strided, Strided, Strided],
    drop: tuple[int, float, tuple[int, int]],
    width: int,
    mask: bool = False,
) -> Dropout:
    """The kernel over the simplest equal space; `operands` are x, y and the elements' numbers,
    `drop` the threshold, the scale and the key.
    """
    extents, found = space(shape, operands)
    if len(extents) < 2:
        extents = (1, *extents)
        found = [Strided((0, *o.strides), o.offset) for o in found]
    return Dropout(extents, found[0], found[1], found[2], *drop, width, mask)
