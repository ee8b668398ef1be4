"""The kernel language: what a kernel may say, whatever it is printed as.

A kernel (`Kernel`) is a frozen record of sizes and choices whose `describe` runs once with a
`Printer`. Python's own loops unroll; `printer.loop` rolls. Addresses are `Index`es, linear forms
folded in Python, so that constants end up as address offsets. The two printers (llvm.py, opencl.py)
differ only in how the primitive operations at the end of `Printer` are spelled.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import ClassVar

from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError


@dataclass(frozen=True, slots=True)
class DType:
    """An element type of arrays and registers; `bits` is 1 for masks, which live in registers
    only.
    """

    name: str
    bits: int
    llvm: str
    opencl: str
    floating: bool = False

    @property
    def unsigned(self) -> bool:
        return self.name in ("u8", "u32", "mask")

    @property
    def bytes(self) -> int:
        return self.bits // 8


F32 = DType("f32", 32, "float", "float", floating=True)
I32 = DType("i32", 32, "i32", "int")
I64 = DType("i64", 64, "i64", "long")
U32 = DType("u32", 32, "i32", "uint")
U8 = DType("u8", 8, "i8", "uchar")
MASK = DType("mask", 1, "i1", "int")
DTYPES = {dtype.name: dtype for dtype in (F32, I32, I64, U32, U8)}


class Index:
    """A linear form: sum of coefficient * atom, plus a constant. Atoms are integer names of the
    printer.
    """

    __slots__ = ("constant", "terms")

    def __init__(self, terms: Iterable[tuple[str, int]] = (), constant: int = 0) -> None:
        self.terms = tuple(terms)
        self.constant = constant

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.constant + other)
        total = dict(self.terms)
        for atom, coefficient in other.terms:
            total[atom] = total.get(atom, 0) + coefficient
        kept = ((atom, coefficient) for atom, coefficient in total.items() if coefficient)
        return Index(kept, self.constant + other.constant)

    __radd__ = __add__

    def __sub__(self, other: Index | int) -> Index:
        return self + other * -1

    def __rsub__(self, other: int) -> Index:
        return self * -1 + other

    def __mul__(self, factor: int) -> Index:
        if not factor:
            return Index()
        return Index(((atom, c * factor) for atom, c in self.terms), self.constant * factor)

    __rmul__ = __mul__

    @staticmethod
    def of(value: Index | int) -> Index:
        return value if isinstance(value, Index) else Index((), value)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A number (lanes 1) or a vector in a register; arithmetic on it prints operations."""

    printer: Printer
    text: str
    dtype: DType
    lanes: int

    def __add__(self, other: Value | float) -> Value:
        return self.printer.binary("add", self, other)

    def __sub__(self, other: Value | float) -> Value:
        return self.printer.binary("sub", self, other)

    def __mul__(self, other: Value | float) -> Value:
        return self.printer.binary("mul", self, other)

    def __truediv__(self, other: Value | float) -> Value:
        return self.printer.binary("div", self, other)

    def __radd__(self, other: float) -> Value:
        return self.printer.binary("add", self, other)

    def __rmul__(self, other: float) -> Value:
        return self.printer.binary("mul", self, other)

    def __rsub__(self, other: float) -> Value:
        return self.printer.binary("sub", self.printer.like(self, other), self)

    def __rtruediv__(self, other: float) -> Value:
        return self.printer.binary("div", self.printer.like(self, other), self)

    def __neg__(self) -> Value:
        return self.printer.unary("neg", self)

    def __lt__(self, other: Value | float) -> Value:
        return self.printer.compare("lt", self, other)

    def __le__(self, other: Value | float) -> Value:
        return self.printer.compare("le", self, other)

    def __gt__(self, other: Value | float) -> Value:
        return self.printer.compare("gt", self, other)

    def __ge__(self, other: Value | float) -> Value:
        return self.printer.compare("ge", self, other)


class Register:
    """A mutable variable: an alloca that `sroa` turns into a machine register, or a C variable."""

    __slots__ = ("dtype", "lanes", "name", "printer")

    def __init__(self, printer: Printer, name: str, dtype: DType, lanes: int) -> None:
        self.printer, self.name, self.dtype, self.lanes = printer, name, dtype, lanes

    @property
    def value(self) -> Value:
        return self.printer.read_register(self)

    @value.setter
    def value(self, new: Value) -> None:
        self.printer.write_register(self, new)


@dataclass(frozen=True, slots=True)
class Argument:
    """One buffer of a kernel. `written` buffers are not const; `aliased` ones may overlap
    another.
    """

    name: str
    dtype: DType = F32
    written: bool = False
    aliased: bool = False


@dataclass(frozen=True, slots=True)
class Local:
    """An array that the work-items of a group share; loaded and stored by its name, as arguments
    are.
    """

    name: str
    size: int
    dtype: DType = F32


@dataclass(frozen=True)
class Kernel:
    """A kernel by its description: subclasses are frozen records of sizes, strides and choices.

    The grid is a box of independent items; `total` of them are shared between threads in chunks of
    `chunk`. Every element of the output has one owner, so results do not depend on who takes what.
    """

    family: ClassVar[str] = "kernel"

    @property
    def grid(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def arguments(self) -> tuple[Argument, ...]:
        raise NotImplementedError

    def describe(self, k: Printer) -> None:
        """Print one item of the grid; `k.ids` are the item's coordinates, the last one runs
        fastest.
        """
        raise NotImplementedError

    @property
    def lanes(self) -> int:
        """Elements in a vector of this kernel."""
        raise NotImplementedError

    @property
    def local(self) -> tuple[int, ...]:
        """The box of work-items that do one item of the grid together, as a group; () on all that
        are no graphics cards. `k.local_ids` are a work-item's coordinates.
        """
        return ()

    @property
    def shared(self) -> tuple[Local, ...]:
        """The arrays of a group."""
        return ()

    @property
    def flops(self) -> int:
        """Floating point operations of all items, a multiply-add counted as two; 0 where memory
        rules.
        """
        return 0

    @property
    def bytes(self) -> int:
        """Memory read and written once over, for choosing chunks and judging speed."""
        return 0

    @property
    def total(self) -> int:
        return math.prod(self.grid)

    @property
    def chunk(self) -> int:
        """Items to take at once: about 10 microseconds of work, but a sixteenth of all at most."""
        nanoseconds = max(self.flops / 100, self.bytes / 10) / max(self.total, 1)
        wanted = max(1, int(10_000 / max(nanoseconds, 1)))
        return min(wanted, -(-self.total // 16))

    @cached_property
    def digest(self) -> str:
        """Hex digest of the description: equal kernels are compiled once."""
        return hashlib.sha256(f"{self.family}:{self!r}".encode()).hexdigest()

    @property
    def name(self) -> str:
        return f"{self.family}_{self.digest[:12]}"

    def comment(self) -> list[str]:
        """The description as lines, for the head of the generated source."""
        summary = " ".join((type(self).__doc__ or "").split("\n\n")[0].split())
        lines = [f"{self.name}: {summary}"]
        for field in fields(self):
            value = getattr(self, field.name)
            lines.append(f"  {field.name} = {_short(value)}")
        shape = f"groups of {self.local}" if self.local else f"chunk = {self.chunk}"
        return [*lines, f"  grid = {self.grid}, {shape}"]


def _short(value: object) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        shown = ((f.name, getattr(value, f.name)) for f in fields(value))
        return f"{type(value).__name__}({', '.join(f'{name}={_short(v)}' for name, v in shown)})"
    return repr(value)


def _pieces(count: int) -> list[tuple[int, int]]:
    """(start, width) of the powers of two that make up `count`: a masked access without masks."""
    pieces, start = [], 0
    for bit in reversed(range(count.bit_length())):
        if count >> bit & 1:
            pieces.append((start, 1 << bit))
            start += 1 << bit
    return pieces


Condition = Value
Operand = Value | float


class Printer(ABC):
    """What `Kernel.describe` talks to. Shared here: grid, folding, composite operations, halving
    trees.
    """

    groups: ClassVar[bool] = False  # whether it can print kernels that work in groups

    def __init__(self, kernel: Kernel, target: Target) -> None:
        self.kernel = kernel
        self.target = target
        self.lanes = kernel.lanes
        self.lines: list[str] = []
        self._count = 0
        self._arguments = {argument.name: argument for argument in kernel.arguments}
        self._shared = {array.name: array for array in kernel.shared}
        self.ids: tuple[Index, ...] = ()
        self.local_ids: tuple[Index, ...] = ()
        if kernel.local and not self.groups:
            raise InternalError(
                f"kernel {kernel.name} works in groups, which {type(self).__name__} cannot print"
            )

    # -- names and constants

    def fresh(self, hint: str) -> str:
        """A name not used yet; the underscore keeps it apart from arguments such as x1."""
        self._count += 1
        return f"{hint}_{self._count}"

    def argument(self, name: str) -> Argument | Local:
        """An argument, or an array of the group."""
        try:
            return self._shared.get(name) or self._arguments[name]
        except KeyError:
            raise InternalError(f"kernel {self.kernel.name} has no argument {name!r}") from None

    def constant(self, number: float, dtype: DType = F32, lanes: int | None = None) -> Value:
        """`number` in every lane."""
        lanes = self.lanes if lanes is None else lanes
        return Value(self, self.spell_constant(number, dtype, lanes), dtype, lanes)

    def like(self, value: Value, number: float) -> Value:
        return self.constant(number, value.dtype, value.lanes)

    def _lift(self, operand: Operand, like: Value) -> Value:
        return operand if isinstance(operand, Value) else self.like(like, operand)

    # -- composite arithmetic (equal operations in equal order on both printers)

    def max(self, a: Operand, b: Value) -> Value:
        """a if a > b else b: gives b when unordered, so with the data as `b` a NaN passes
        through.
        """
        first = self._lift(a, b)
        return self.select(first > b, first, b)

    def min(self, a: Operand, b: Value) -> Value:
        """a if a < b else b: gives b when unordered, so with the data as `b` a NaN passes
        through.
        """
        first = self._lift(a, b)
        return self.select(first < b, first, b)

    def fma(self, a: Operand, b: Value, c: Operand) -> Value:
        """a * b + c, rounded once where the target can; multiply then add where it cannot."""
        first, last = self._lift(a, b), self._lift(c, b)
        if not self.target.fma:
            return self.binary("add", self.binary("mul", first, b), last)
        return self.fused(first, b, last)

    def abs(self, a: Value) -> Value:
        return self.unary("abs", a)

    def sqrt(self, a: Value) -> Value:
        return self.unary("sqrt", a)

    def rint(self, a: Value) -> Value:
        """The nearest whole number, ties to even."""
        return self.unary("rint", a)

    def sum(self, values: Iterable[Value]) -> Value:
        """Adds in the order given."""
        first, *rest = values
        for value in rest:
            first = first + value
        return first

    def combine(self, coefficients: Sequence[float], values: Sequence[Value]) -> Value:
        """A row of a constant matrix times vectors; zero coefficients cost nothing, +-1 no
        multiply.
        """
        terms = [(c, v) for c, v in zip(coefficients, values, strict=True) if c]
        terms.sort(key=lambda term: (abs(term[0]) != 1, term[0] < 0))
        if not terms:
            raise InternalError("a row of a constant matrix must not be zero")
        (first, value), *rest = terms
        total = value if first == 1 else value * first
        for coefficient, value in rest:
            if coefficient == 1:
                total = total + value
            elif coefficient == -1:
                total = total - value
            else:
                total = self.fma(coefficient, value, total)
        return total

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """Horner's scheme, highest power first."""
        total = self.like(x, coefficients[0])
        for coefficient in coefficients[1:]:
            total = self.fma(total, x, coefficient)
        return total

    REDUCTIONS: ClassVar = {
        "add": lambda k, a, b: a + b,
        "mul": lambda k, a, b: a * b,
        "max": lambda k, a, b: k.max(a, b),
        "min": lambda k, a, b: k.min(a, b),
    }

    def combine2(self, operation: str, a: Value, b: Value) -> Value:
        """`a` and `b` joined by one of add, mul, max, min."""
        result: Value = self.REDUCTIONS[operation](self, a, b)
        return result

    def reduce(self, operation: str, value: Value) -> Value:
        """All lanes joined into one number, by halves: the same order everywhere."""
        while value.lanes > 1:
            low, high = self.halves(value)
            value = self.combine2(operation, low, high)
        return value

    # -- indices

    def loop(
        self, stop: Index | int, start: Index | int = 0, step: int = 1, name: str = "i"
    ) -> AbstractContextManager[Index]:
        """for (name = start; name < stop; name += step), rolled; bounds known to give one turn
        print no loop.
        """
        first, last = Index.of(start), Index.of(stop)
        if first.terms == last.terms and 0 < last.constant - first.constant <= step:
            return nullcontext(first)
        return self.print_loop(first, last, step, name)

    def index(self, value: Index | int) -> Index:
        """The form computed here and now: one atom, to be used in many places."""
        form = Index.of(value)
        return form if len(form.terms) <= 1 else self.materialise(form)

    def coordinates(self, number: Index, extents: Sequence[int]) -> tuple[Index, ...]:
        """The place of a number in a box, the last axis fastest; axes of size 1 cost nothing."""
        found: list[Index] = []
        longer = [axis for axis, extent in enumerate(extents) if extent > 1]
        for axis in range(len(extents) - 1, -1, -1):
            if axis not in longer:
                found.append(Index())
            elif axis == longer[0]:
                found.append(self.index(number))
            else:
                found.append(self.remainder(number, extents[axis]))
                number = self.quotient(number, extents[axis])
        return tuple(reversed(found))

    def within(self, index: Index, low: int, high: int) -> Condition:
        """low <= index < high as one condition."""
        return self.both(
            self.index_compare("ge", index, low), self.index_compare("lt", index, high)
        )

    # -- primitives, spelled by each printer

    @abstractmethod
    def spell_constant(self, number: float, dtype: DType, lanes: int) -> str: ...
    @abstractmethod
    def vector(self, numbers: Sequence[float], dtype: DType = F32) -> Value:
        """A constant vector, lane by lane."""

    def load(self, argument: str, index: Index | int, lanes: int = 0, count: int = 0) -> Value:
        """A vector from consecutive elements; with `count`, only so many are read, the rest are
        0.
        """
        lanes, start = lanes or self.lanes, Index.of(index)
        if not count or count == lanes:
            return self.load_vector(argument, start, lanes)
        parts = [self.load_vector(argument, start + at, wide) for at, wide in _pieces(count)]
        return self.join(parts, lanes)

    def store(self, argument: str, index: Index | int, value: Value, count: int = 0) -> None:
        """Lanes to consecutive elements; with `count`, only the first so many."""
        start = Index.of(index)
        if not count or count == value.lanes:
            self.store_vector(argument, start, value)
            return
        for at, wide in _pieces(count):
            self.store_vector(argument, start + at, self.part(value, at, wide))

    def halves(self, value: Value) -> tuple[Value, Value]:
        half = value.lanes // 2
        return self.part(value, 0, half), self.part(value, half, half)

    def part(self, value: Value, start: int, lanes: int) -> Value:
        """`lanes` consecutive lanes of a vector."""
        return self.shuffle(value, value, range(start, start + lanes))

    @abstractmethod
    def load_vector(self, argument: str, index: Index, lanes: int) -> Value: ...
    @abstractmethod
    def store_vector(self, argument: str, index: Index, value: Value) -> None: ...
    @abstractmethod
    def join(self, parts: Sequence[Value], lanes: int) -> Value:
        """Vectors of falling width side by side, filled up with 0."""

    @abstractmethod
    def splat(self, value: Value, lanes: int = 0) -> Value:
        """A number to all lanes."""

    def scalar(self, argument: str, index: Index | int) -> Value:
        return self.load(argument, index, lanes=1)

    def broadcast(self, argument: str, index: Index | int) -> Value:
        """One element to all lanes."""
        return self.splat(self.scalar(argument, index))

    def broadcasts(self, argument: str, index: Index | int, count: int) -> list[Value]:
        """`count` consecutive elements, each to all lanes (one load where the target can index
        lanes).
        """
        start = Index.of(index)
        return [self.broadcast(argument, start + i) for i in range(count)]

    @abstractmethod
    def prefetch(self, argument: str, index: Index | int) -> None: ...
    @abstractmethod
    def binary(self, operation: str, a: Value, b: Operand) -> Value:
        """add, sub, mul, div; for integers also and, or, xor, shl, shr (logical); for u32 also
        mulhi, the upper half of the product.
        """

    @abstractmethod
    def unary(self, operation: str, a: Value) -> Value:
        """neg, abs, sqrt, rint, floor, ceil, trunc."""

    @abstractmethod
    def fused(self, a: Value, b: Value, c: Value) -> Value: ...
    @abstractmethod
    def compare(self, operation: str, a: Value, b: Operand) -> Value:
        """lt, le, gt, ge, eq (all false when unordered), ne (true when unordered)."""

    @abstractmethod
    def select(self, mask: Value, a: Operand, b: Value) -> Value: ...
    @abstractmethod
    def both(self, a: Condition, b: Condition) -> Condition: ...
    @abstractmethod
    def negate(self, a: Condition) -> Condition: ...
    @abstractmethod
    def cast(self, value: Value, dtype: DType) -> Value:
        """Convert numbers; float to integer truncates and must be in range."""

    @abstractmethod
    def bits(self, value: Value, dtype: DType) -> Value:
        """The same bits read as another type of the same width."""

    @abstractmethod
    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes picked from `a` (0...) and `b` (a.lanes...)."""

    @abstractmethod
    def register(self, value: Value, name: str = "r") -> Register: ...
    @abstractmethod
    def read_register(self, register: Register) -> Value: ...
    @abstractmethod
    def write_register(self, register: Register, value: Value) -> None: ...
    @abstractmethod
    def materialise(self, form: Index) -> Index: ...
    @abstractmethod
    def index_value(self, index: Index, dtype: DType = I32) -> Value:
        """An index as a number to compute with."""

    @abstractmethod
    def value_index(self, value: Value) -> Index:
        """An integer number as an index; the kernel answers for its bounds."""

    @abstractmethod
    def quotient(self, index: Index, divisor: int) -> Index: ...
    @abstractmethod
    def remainder(self, index: Index, divisor: int) -> Index: ...
    @abstractmethod
    def smaller(self, a: Index | int, b: Index | int) -> Index: ...
    @abstractmethod
    def larger(self, a: Index | int, b: Index | int) -> Index: ...
    @abstractmethod
    def index_compare(self, operation: str, a: Index | int, b: Index | int) -> Condition: ...
    @abstractmethod
    def print_loop(
        self, start: Index, stop: Index, step: int, name: str
    ) -> AbstractContextManager[Index]: ...
    @abstractmethod
    def when(self, condition: Condition) -> AbstractContextManager[None]: ...
    def unroll(self) -> None:
        """Ask the compiler to unroll the loop that comes next, in kernels that work in groups."""
        raise InternalError(f"kernel {self.kernel.name} does not work in groups")

    def barrier(self) -> None:
        """All work-items of a group wait for each other, and see what was stored to its arrays."""
        raise InternalError(f"kernel {self.kernel.name} does not work in groups")

    @abstractmethod
    def text(self) -> str:
        """The finished source."""


def tiles(k: Printer, length: int, width: int, name: str) -> Iterator[tuple[Index, int]]:
    """Cover `length` by a rolled loop of `width` wide tiles and, where it does not divide, one
    last body.

    Yields (number of the tile, its width) once or twice; what is printed between is that tile's
    body.
    """
    full, rest = divmod(length, width)
    if full:
        with k.loop(full, name=name) as number:
            yield number, width
    if rest:
        yield Index((), full), rest
