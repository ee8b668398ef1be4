"""Dense layers on arrays whose lanes are samples: products with matrices that change every step.

The matrix is read where the model has it, one scalar at a time to all lanes, in either order of its
axes; so the forward product and the data gradient are one kernel. The weight gradient runs along
the features of a plain array instead, for it sums over samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer
from nnconv.runtime.kernels.samples.lanes import Cut, Finish, cut_tile, even_piece
from nnconv.runtime.kernels.target import Target

_IMAGES = 4


@dataclass(frozen=True)
class SampleGemm(Kernel):
    """y[j] = activation(scale * sum over c of w[j, c] x[c] + bias_scale * bias[j]), by lane.

    w[j, c] is element j * `w_row` + c * `w_column`; bias[j] is element j * `bias_step`.
    Arguments: x, w, [bias], y.
    """

    family: ClassVar[str] = "samples_gemm"

    x: Array
    y: Array
    w_row: int
    w_column: int
    rows: int  # outputs in a tile
    images: int  # groups of samples in a tile
    scale: float = 1.0
    bias: bool = False
    bias_scale: float = 1.0
    bias_step: int = 1
    activation: Activation = NONE

    @property
    def lanes(self) -> int:
        return self.y.lanes

    @property
    def outs(self) -> Cut:
        return Cut(self.y.blocks, self.rows)

    @property
    def batches(self) -> Cut:
        return Cut(self.y.batch, self.images)

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.outs.count, self.batches.count)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        named = [Argument("x"), Argument("w")]
        named += [Argument("bias")] if self.bias else []
        return (*named, Argument("y", written=True))

    @property
    def flops(self) -> int:
        return 2 * self.x.blocks * self.y.blocks * self.y.batch * self.lanes

    def describe(self, k: Printer) -> None:
        out, batch = k.ids
        for images in self.batches.bodies(k, batch):
            for rows in self.outs.bodies(k, out):
                self._tile(k, batch * self.images, out * self.rows, images, rows)

    def _tile(self, k: Printer, image: Index, out: Index, images: int, rows: int) -> None:
        sums = [[k.register(k.constant(0.0)) for _ in range(images)] for _ in range(rows)]
        source, weight = self.x.at(image), out * self.w_row
        with k.loop(self.x.blocks, name="c") as c:
            at = source + c * self.x.block
            xs = [k.load("x", at + i * self.x.image) for i in range(images)]
            for r in range(rows):
                factor = k.broadcast("w", weight + c * self.w_column + r * self.w_row)
                for i, x in enumerate(xs):
                    sums[r][i].value = k.fma(factor, x, sums[r][i].value)
        goal = self.y.at(image, out)
        for r in range(rows):
            start = None
            if self.bias:
                start = k.broadcast("bias", (out + r) * self.bias_step) * self.bias_scale
            for i in range(images):
                value = sums[r][i].value * self.scale
                value = value if start is None else value + start
                at = goal + r * self.y.block + i * self.y.image
                k.store("y", at, self.activation(k, value))


@dataclass(frozen=True)
class SampleGemmOptions:
    """What a product does besides multiplying; fields as in `SampleGemm`."""

    scale: float = 1.0
    bias: bool = False
    bias_scale: float = 1.0
    bias_step: int = 1
    activation: Activation = NONE


def sample_gemm(
    target: Target,
    x: Array,
    y: Array,
    strides: tuple[int, int],
    options: SampleGemmOptions | None = None,
) -> SampleGemm:
    """The product with the tile that the rule chooses; `strides` of w along outputs and inputs."""
    images = min(y.batch, _IMAGES)  # with all samples in a tile w is read once
    rows = even_piece(y.blocks, (target.registers - 1 - images) // images)
    if images == 1 or rows < _IMAGES:
        rows, images = cut_tile(target, y.blocks, y.batch, x.blocks)
    o = options or SampleGemmOptions()
    return SampleGemm(
        x, y, *strides, rows, images, o.scale, o.bias, o.bias_scale, o.bias_step, o.activation
    )


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Where column c of sample n lies: n // lanes * group + n % lanes * lane + c * column."""

    group: int
    lane: int
    column: int


@dataclass(frozen=True)
class SampleGemmWeights(Kernel):
    """dw[r, c] = scale * sum over samples n of a[n, r] * b[n, c].

    b is plain, its features contiguous and `b_row` apart from sample to sample; dw is dense. `a` is
    either plain or has samples in its lanes. Arguments: a, b, dw, or instead of dw what `finish`
    has.
    """

    family: ClassVar[str] = "samples_gemm_weights"

    a: SampleRows
    b_row: int
    samples: int
    height: int
    width: int
    rows: int  # of dw in a tile
    vectors: int  # of a row of dw in a tile
    step: int  # lanes of a vector
    scale: float = 1.0
    finish: Finish | None = None

    @property
    def lanes(self) -> int:
        return self.step

    @property
    def down(self) -> Cut:
        return Cut(self.height, self.rows)

    @property
    def along(self) -> Cut:
        return Cut(self.width, self.vectors * self.lanes)

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.along.count, self.down.count)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        made = self.finish.arguments if self.finish else (Argument("dw", written=True),)
        return (Argument("a"), Argument("b"), *made)

    @property
    def flops(self) -> int:
        return 2 * self.samples * self.height * self.width

    def describe(self, k: Printer) -> None:
        along, down = k.ids
        for width in self.along.bodies(k, along):
            for rows in self.down.bodies(k, down):
                column, row = along * (self.vectors * self.lanes), down * self.rows
                item = along * self.down.count + down
                self._tile(k, item, row, column, rows, self._counts(width))

    def _counts(self, width: int) -> list[int]:
        """Elements of each vector that are there."""
        full, rest = divmod(width, self.lanes)
        return [self.lanes] * full + ([rest] if rest else [])

    def _tile(
        self, k: Printer, item: Index, row: Index, column: Index, rows: int, counts: list[int]
    ) -> None:
        sums = [[k.register(k.constant(0.0)) for _ in counts] for _ in range(rows)]
        goal = row * self.width + column
        if self.finish:
            for r in range(rows):
                for v in range(len(counts)):
                    self.finish.ask(k, goal + r * self.width + v * self.lanes)
        for a, b in self._each_sample(k):
            start = b + column
            bs = [k.load("b", start + v * self.lanes, count=n) for v, n in enumerate(counts)]
            for r in range(rows):
                factor = k.broadcast("a", a + (row + r) * self.a.column)
                for v, value in enumerate(bs):
                    sums[r][v].value = k.fma(factor, value, sums[r][v].value)
        squares = k.constant(0.0)
        for r in range(rows):
            for v, count in enumerate(counts):
                at = goal + r * self.width + v * self.lanes
                value = sums[r][v].value * self.scale
                if self.finish is None:
                    k.store("dw", at, value, count=count)
                    continue
                made = self.finish.store(k, at, value, count)
                squares = k.fma(made, made, squares)
        if self.finish and self.finish.squares:
            k.store("squares", item * self.lanes, squares)

    def _each_sample(self, k: Printer) -> Iterator[tuple[Index, Index]]:
        """Where a sample starts in a and in b, in two rolled loops and the rest."""
        full, rest = divmod(self.samples, self.lanes)
        if full:
            with k.loop(full, name="group") as group, k.loop(self.lanes, name="lane") as lane:
                number = group * self.lanes + lane
                yield group * self.a.group + lane * self.a.lane, number * self.b_row
        if rest:
            with k.loop(rest, name="lane") as lane:
                yield (
                    lane * self.a.lane + full * self.a.group,
                    (lane + full * self.lanes) * self.b_row,
                )


def sample_gemm_weights(
    target: Target,
    a: SampleRows,
    b_row: int,
    samples: int,
    shape: tuple[int, int],
    scale: float = 1.0,
) -> SampleGemmWeights:
    """The product with the tile that the rule chooses; `shape` is that of dw."""
    vectors = -(-shape[1] // target.lanes)
    rows, wide = cut_tile(target, shape[0], vectors, samples)
    return SampleGemmWeights(a, b_row, samples, *shape, rows, wide, target.lanes, scale)
