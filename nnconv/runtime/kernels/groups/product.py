"""Products on graphics cards: a group computes a block of outputs, its factors by way of memory
that the group shares.

While a group multiplies one pair of tiles its work-items already load the next: two tiles of each
factor take turns, so one barrier a step is enough. A work-item's outputs are `down` rows that
follow each other (their factors come as vectors) and `across` columns as far apart as the group is
wide (so neighbours load and store neighbours). Where there are few blocks the depth is split; the
parts are added up in order by `SplitSum`, so results depend on shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from nnconv.runtime.kernels.arrays import Array, Matrix
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.groups.operands import Operand
from nnconv.runtime.kernels.language import (
    Argument,
    Index,
    Kernel,
    Local,
    Printer,
    Register,
    Value,
)
from nnconv.runtime.kernels.target import Groups
from nnconv.schemas.errors import InternalError

# A large card, as plans see all cards: so they repeat
_UNITS = 128
_UNIT_LANES = 128  # multiply-adds a cycle
_UNIT_ITEMS = 1024  # work-items at a time, with as many registers as blocks take
_LOAD_CYCLES = 500  # from memory
_GROUP_CYCLES = 1500  # before its first product and behind its last
_LAUNCH_CYCLES = 4000  # of another kernel
_LEAST_DEPTH = 128  # of a part of a split product
_MOST_PARTS = 32


@dataclass(frozen=True, slots=True)
class Block:
    """rows x columns outputs of a group, `depth` products at a time; down x across outputs of a
    work-item. `speed` is how near to the best such a block comes on large products.
    """

    rows: int
    columns: int
    depth: int
    down: int
    across: int
    speed: float

    @property
    def local(self) -> tuple[int, int]:
        return (self.rows // self.down, self.columns // self.across)

    @property
    def items(self) -> int:
        return math.prod(self.local)

    @property
    def local_bytes(self) -> int:
        """At most: two tiles of each factor, rows a little apart."""
        return 4 * 2 * self.depth * (self.rows + self.columns + 2 * _APART)

    def fits(self, groups: Groups) -> bool:
        return self.items <= groups.items and self.local_bytes <= groups.local_bytes

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.columns}x{self.depth}"


_APART = 4  # elements between rows of a tile that is stored across: other banks, still aligned

# The work of an output falls with the block's sides; small ones fill a card with small products.
BLOCKS = (
    Block(128, 128, 8, 8, 8, 1.0),
    Block(64, 128, 8, 8, 4, 0.9),
    Block(128, 64, 8, 8, 4, 0.9),
    Block(64, 64, 16, 8, 4, 0.8),
    Block(32, 128, 8, 8, 4, 0.7),
    Block(128, 32, 8, 8, 4, 0.7),
    Block(32, 64, 16, 4, 4, 0.5),
    Block(32, 32, 16, 4, 4, 0.35),
    Block(16, 64, 16, 4, 4, 0.3),
    Block(8, 32, 16, 4, 4, 0.12),  # 16 work-items: what every device takes
)


@dataclass(frozen=True, slots=True)
class Goal:
    """Where y[m, n] lies: n is an image and a column in it (a pixel), m a row (a channel)."""

    columns: int  # of an image
    image: int
    row: int
    column: int
    item: int = 0

    @staticmethod
    def pixels(array: Array, groups: int) -> Goal:
        """Channels as rows, pixels as columns."""
        if not array.flat:
            raise InternalError(f"{array} has gaps between its rows")
        item = array.channels // groups * array.block
        return Goal(array.pixels, array.image, array.block, array.column, item)

    @staticmethod
    def matrix(matrix: Matrix) -> Goal:
        return Goal(matrix.columns, 0, matrix.row, matrix.column, matrix.step)

    def column_at(self, k: Printer, n: Index, count: int) -> Index:
        """What n adds to an address, of `count` in all."""
        image, column = k.coordinates(n, (count // self.columns, self.columns))
        return k.index(image * self.image + column * self.column)


@dataclass(frozen=True, slots=True)
class Ending:
    """y = activation(scale * sum + bias_scale * bias + residual). `bias` holds the steps of the
    bias by item, row and column; the residual lies like a `Goal`.
    """

    scale: float = 1.0
    bias: tuple[int, int, int] | None = None
    bias_scale: float = 1.0
    residual: Goal | None = None
    activation: Activation = NONE

    @property
    def arguments(self) -> tuple[Argument, ...]:
        bias = (Argument("bias"),) if self.bias else ()
        return (*bias, *((Argument("residual"),) if self.residual else ()))

    def apply(self, k: Printer, total: Value, bias: Value | None, residual: Value | None) -> Value:
        value = total if self.scale == 1 else total * self.scale
        if bias is not None:
            value = value + (bias if self.bias_scale == 1 else bias * self.bias_scale)
        return self.activation(k, value if residual is None else value + residual)


class Finisher:
    """What ends sums and stores them, column by column, for some rows of an item.

    All that is read comes before what is written, and a bias that rows share is read but once: a
    card waits hundreds of cycles for each read that it cannot start early.
    """

    def __init__(
        self, k: Printer, goal: Goal, ending: Ending, item: Index, size: tuple[int, int],
        rows: Sequence[Index], tile: int = 1,
    ) -> None:  # fmt: skip
        self._k, self._goal, self._ending, self._item = k, goal, ending, item
        self._size, self._rows, self._tile = size, rows, tile
        # rows past the end are read as the last one, and not stored
        self._read = [_last(k, m, size[0], tile) for m in rows]
        self._bias: list[Value] | None = None
        if ending.bias and ending.bias[2] == 0:
            self._bias = [self._bias_at(m, Index()) for m in self._read]

    def _bias_at(self, m: Index, n: Index) -> Value:
        assert self._ending.bias is not None
        item, row, column = self._ending.bias
        return self._k.scalar("bias", self._item * item + m * row + n * column)

    def column(self, n: Index, totals: Sequence[Value]) -> None:
        k, goal, ending = self._k, self._goal, self._ending
        at = k.index(self._item * goal.item + goal.column_at(k, n, self._size[1]))
        biases, residuals = self._biases(n), self._residuals(n)
        for m, total, bias, residual in zip(self._rows, totals, biases, residuals, strict=True):
            with existing(k, m, self._size[0], self._tile):
                k.store("y", at + m * goal.row, ending.apply(k, total, bias, residual))

    def _biases(self, n: Index) -> Sequence[Value | None]:
        steps = self._ending.bias
        if steps is None:
            return [None] * len(self._rows)
        if self._bias is not None:
            return self._bias
        if steps[1] == 0:
            return [self._bias_at(Index(), n)] * len(self._rows)
        return [self._bias_at(m, n) for m in self._read]

    def _residuals(self, n: Index) -> Sequence[Value | None]:
        k, other = self._k, self._ending.residual
        if other is None:
            return [None] * len(self._rows)
        at = k.index(self._item * other.item + other.column_at(k, n, self._size[1]))
        return [k.scalar("residual", at + m * other.row) for m in self._read]


def _last(k: Printer, number: Index, count: int, tile: int) -> Index:
    return k.smaller(number, count - 1) if count % tile else number


def existing(k: Printer, number: Index, count: int, tile: int) -> AbstractContextManager[Any]:
    """Where tiles hang over, only what exists."""
    return k.when(k.index_compare("lt", number, count)) if count % tile else nullcontext()


@dataclass(frozen=True)
class Product(Kernel):
    """y[m, n] = ending(sum over d of a[m, d] * b[n, d]) for each item (a group, or a matrix).

    Arguments: a, b, [bias], [residual], y. With `parts` above 1 the ending is left to `SplitSum`,
    and y is [part, item, m, n].
    """

    family: ClassVar[str] = "group_product"

    a: Operand
    b: Operand
    goal: Goal
    block: Block
    items: int = 1
    ending: Ending = Ending()
    parts: int = 1

    def __post_init__(self) -> None:
        if self.a.depth != self.b.depth:
            raise InternalError(f"no product of depths {self.a.depth} and {self.b.depth}")

    # -- sizes

    @property
    def lanes(self) -> int:
        return 1

    @property
    def rows(self) -> int:
        return self.a.count

    @property
    def columns(self) -> int:
        return self.b.count

    @property
    def steps(self) -> int:
        """Tiles of depth in a part; the last part may have fewer."""
        return -(-self._all_steps // self.parts)

    @property
    def _all_steps(self) -> int:
        return -(-self.a.depth // self.block.depth)

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows run fastest: the larger factor is then read by groups that run together."""
        across, down = -(-self.columns // self.block.columns), -(-self.rows // self.block.rows)
        return (self.items, self.parts, across, down)

    @property
    def local(self) -> tuple[int, ...]:
        return self.block.local

    @property
    def _widths(self) -> tuple[int, int]:
        """Elements from one depth to the next in either tile."""
        block = self.block
        return (
            block.rows + (_APART if self.a.along_depth else 0),
            block.columns + (1 if self.b.along_depth else 0),
        )

    @property
    def shared(self) -> tuple[Local, ...]:
        wide, narrow = self._widths
        depth = 2 * self.block.depth
        return (Local("a_tile", depth * wide), Local("b_tile", depth * narrow))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        more = () if self.parts > 1 else self.ending.arguments
        return (
            Argument("a"),
            Argument("b"),
            *more,
            Argument("y", written=True, aliased=bool(more)),
        )

    @property
    def flops(self) -> int:
        return 2 * self.items * self.rows * self.columns * self.a.depth

    # -- description

    def describe(self, k: Printer) -> None:
        item, part, across, down = k.ids
        corner = (k.index(down * self.block.rows), k.index(across * self.block.columns))
        start = k.index(part * (self.steps * self.block.depth))
        loaders = [
            _Loader(k, self, name, operand, item, first)
            for name, operand, first in zip("ab", (self.a, self.b), corner, strict=True)
        ]
        sums = [
            [k.register(k.constant(0.0), "sum") for _ in range(self.block.across)]
            for _ in range(self.block.down)
        ]
        for loader in loaders:
            loader.load(start)
            loader.store(Index())
        k.barrier()
        turns = self._turns(k, part)
        with k.loop(turns, name="turn") as turn:
            self._turn(k, turn, turns, start, loaders, sums)
        self._store(k, item, part, corner, sums)

    def _turns(self, k: Printer, part: Index) -> Index | int:
        if self._all_steps % self.parts == 0:
            return self.steps
        return k.smaller(part * -self.steps + self._all_steps, self.steps)

    def _turn(
        self, k: Printer, turn: Index, turns: Index | int, start: Index, loaders: list[_Loader],
        sums: list[list[Register]],
    ) -> None:  # fmt: skip
        """Multiply a pair of tiles while the next one is on its way."""
        one = isinstance(turns, int) and turns == 1
        current = k.remainder(turn, 2) if not one else Index()
        if not one:
            with k.when(k.index_compare("lt", turn + 1, turns)):
                for loader in loaders:
                    loader.load(k.index(start + (turn + 1) * self.block.depth))
        self._multiply(k, current, sums)
        if not one:
            with k.when(k.index_compare("lt", turn + 1, turns)):
                for loader in loaders:
                    loader.store(current * -1 + 1)
            k.barrier()

    def _multiply(self, k: Printer, current: Index, sums: list[list[Register]]) -> None:
        block, (wide, narrow) = self.block, self._widths
        row, column = k.local_ids
        first = k.index(current * (block.depth * wide) + row * block.down)
        second = k.index(current * (block.depth * narrow) + column)
        k.unroll()
        with k.loop(block.depth, name="d") as d:
            down = [
                k.part(quad, lane, 1)
                for at in range(0, block.down, 4)
                for quad in [k.load("a_tile", first + d * wide + at, lanes=4)]
                for lane in range(4)
            ]
            apart = block.local[1]
            across = [
                k.load("b_tile", second + d * narrow + j * apart) for j in range(block.across)
            ]
            for line, a in zip(sums, down, strict=True):
                for total, b in zip(line, across, strict=True):
                    total.value = k.fma(a, b, total.value)

    def _store(
        self, k: Printer, item: Index, part: Index, corner: tuple[Index, Index],
        sums: list[list[Register]],
    ) -> None:  # fmt: skip
        block, (row, column) = self.block, k.local_ids
        first = k.index(corner[0] + row * block.down)
        rows = [first + i for i in range(block.down)]
        write = self._writer(k, item, part, rows)
        for j in range(block.across):
            n = k.index(corner[1] + column + j * block.local[1])
            with existing(k, n, self.columns, block.columns):
                write(n, [line[j].value for line in sums])

    def _writer(
        self, k: Printer, item: Index, part: Index, rows: Sequence[Index]
    ) -> Callable[[Index, Sequence[Value]], None]:
        """Stores of a column's elements."""
        if self.parts == 1:
            size = (self.rows, self.columns)
            ends = Finisher(k, self.goal, self.ending, item, size, rows, self.block.rows)
            return ends.column
        start = k.index((part * self.items + item) * (self.rows * self.columns))

        def store(n: Index, totals: Sequence[Value]) -> None:
            for m, total in zip(rows, totals, strict=True):
                with existing(k, m, self.rows, self.block.rows):
                    k.store("y", start + m * self.columns + n, total)

        return store


class _Loader:
    """One work-item's part of a factor's tiles: from memory to registers, from there to the tile.

    Neighbouring work-items load neighbouring elements, whichever way the factor lies.
    """

    def __init__(
        self, k: Printer, product: Product, name: str, operand: Operand, item: Index, first: Index
    ) -> None:
        block = product.block
        self._k, self._name, self._operand = k, name, operand
        self._tile = block.rows if name == "a" else block.columns
        self._width = product._widths[0 if name == "a" else 1]
        self._depth = block.depth
        # (number in the tile, depth in the tile) of each element
        self._places = [
            _split(k, product.block, self._tile, operand, i) for i in self._turns(block)
        ]
        known: dict[Any, Any] = {}
        for number, _ in self._places:
            key = (number.terms, number.constant)
            if key not in known:
                known[key] = operand.outer(k, item, first + number, self._tile)
        self._outer = [known[number.terms, number.constant] for number, _ in self._places]
        self._registers = [k.register(k.constant(0.0), "next") for _ in self._places]

    def _turns(self, block: Block) -> range:
        count, rest = divmod(self._tile * block.depth, block.items)
        if rest:
            raise InternalError(f"{block.items} work-items do not fill tiles of {block.name}")
        return range(count)

    def load(self, base: Index) -> None:
        k, operand = self._k, self._operand
        for register, (_, depth), outer in zip(
            self._registers, self._places, self._outer, strict=True
        ):
            inner = operand.inner(k, base, depth, self._depth)
            element = operand.element(k, outer, inner)
            if not element.inside:
                register.value = k.scalar(self._name, element.at)
                continue
            register.value = k.constant(0.0)
            inside = element.inside[0]
            for other in element.inside[1:]:
                inside = k.both(inside, other)
            with k.when(inside):
                register.value = k.scalar(self._name, element.at)

    def store(self, which: Index) -> None:
        k = self._k
        start = which * (self._depth * self._width)
        for register, (number, depth) in zip(self._registers, self._places, strict=True):
            k.store(f"{self._name}_tile", start + depth * self._width + number, register.value)


def _split(k: Printer, block: Block, tile: int, operand: Operand, turn: int) -> tuple[Index, Index]:
    """(number, depth) in a tile of a work-item's element number `turn`."""
    row, column = k.local_ids
    me = row * block.local[1] + column
    fast = block.depth if operand.along_depth else tile
    if block.items % fast == 0:
        first, second = k.remainder(me, fast), k.quotient(me, fast) + turn * (block.items // fast)
    else:
        rounds = fast // block.items
        first, second = me + turn % rounds * block.items, Index((), turn // rounds)
    return (second, first) if operand.along_depth else (first, second)


@dataclass(frozen=True)
class SplitSum(Kernel):
    """y[m, n] = ending(sum over parts of x[part, item, m, n]), an element a work-item.

    Arguments: x, [bias], [residual], y.
    """

    family: ClassVar[str] = "group_split_sum"

    rows: int
    columns: int
    parts: int
    items: int
    goal: Goal
    ending: Ending

    @property
    def lanes(self) -> int:
        return 1

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.items, self.rows, self.columns)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), *self.ending.arguments, Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 4 * self.items * self.rows * self.columns * (self.parts + 1)

    def describe(self, k: Printer) -> None:
        item, m, n = k.ids
        step = self.items * self.rows * self.columns
        start = k.index((item * self.rows + m) * self.columns + n)
        total = k.register(k.constant(0.0), "sum")
        with k.loop(self.parts, name="part") as part:
            total.value = total.value + k.scalar("x", start + part * step)
        size = (self.rows, self.columns)
        Finisher(k, self.goal, self.ending, item, size, [m]).column(n, [total.value])


def every_product(
    groups: Groups, a: Operand, b: Operand, goal: Goal, *, items: int = 1, ending: Ending = Ending()
) -> Iterator[Product]:
    """Products with every block that fits, the rule's choice first."""
    whole = Product(a, b, goal, BLOCKS[-1], items, ending)
    fitting = [replace(whole, block=block) for block in BLOCKS if block.fits(groups)]
    if not fitting:
        raise InternalError(f"no block fits groups of {groups}")
    found = [
        min((product, replace(product, parts=_parts(product))), key=_cycles) for product in fitting
    ]
    yield from sorted(found, key=_cycles)


def _parts(product: Product) -> int:
    """Into how many parts the depth is split: so many that all units have work."""
    groups = math.prod(product.grid)
    most = min(_MOST_PARTS, product.a.depth // _LEAST_DEPTH, _UNITS // groups)
    if most < 2:
        return 1
    steps = -(-product._all_steps // most)
    return -(-product._all_steps // steps)


def _cycles(product: Product) -> float:
    """Of a unit of a large card, counted: a step takes its multiply-adds, or the time of a load
    where there are few; groups that are at a unit together wait together.
    """
    block = product.block
    mine = -(-math.prod(product.grid) // _UNITS)
    together = max(1, _UNIT_ITEMS // block.items)
    work = block.rows * block.columns * block.depth / _UNIT_LANES / block.speed
    step = max(mine * work, -(-mine // together) * _LOAD_CYCLES)
    extra = _LAUNCH_CYCLES if product.parts > 1 else 0
    return product.steps * step + -(-mine // together) * _GROUP_CYCLES + extra


def split_sum(product: Product) -> SplitSum:
    """What adds the parts of a product up."""
    return SplitSum(
        product.rows, product.columns, product.parts, product.items, product.goal, product.ending
    )
