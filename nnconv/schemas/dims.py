"""Dimensions: plain integers, or expressions over named sizes such as `N` or `(H + 1)//2`.

Shape rules are written once, with ordinary arithmetic; given integers they count, given a
`Symbolic` they keep the formula. A `Symbolic` is a canonical sum of products, so two ways of
writing the same size compare equal: `2*H + H == 3*H`. Rounding and clipping become opaque atoms.
Names stand for sizes of 1 or more.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from nnconv.schemas.errors import InputError, UnsupportedError

Dim: TypeAlias = "int | Symbolic"
Shape: TypeAlias = tuple[Dim, ...]
Content: TypeAlias = tuple["Dim | None", ...]

MOST_TERMS = 1000
MOST_NESTING = 64
LONGEST_TEXT = 2000
"""An ordinary net needs little of each; a hostile one could square a size at every node."""


class _Call:
    """An operation that a sum of products cannot express; hashable, so it can stand as an atom."""

    __slots__ = ("_hash", "arguments", "name", "nesting", "text")

    def __init__(self, name: str, *arguments: Dim) -> None:
        self.name = name  # a key of _OPERATIONS
        self.arguments = arguments
        self.nesting = 1 + max(map(_nesting, arguments))
        if self.nesting > MOST_NESTING:
            raise UnsupportedError("the formula for a size is nested too deeply")
        self._hash = hash((name, arguments))
        if name == "floordiv":
            self.text = "//".join(map(_bracket, arguments))
        else:
            self.text = f"{name}({', '.join(map(str, arguments))})"
        if len(self.text) > LONGEST_TEXT:  # doubled at every node, it would soon fill the memory
            raise UnsupportedError("the formula for a size is nested too deeply, its text too long")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Call) or self._hash != other._hash:
            return False
        return self.name == other.name and self.arguments == other.arguments

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return self.text

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        return _OPERATIONS[self.name](*(evaluate(argument, sizes) for argument in self.arguments))


_Atom = str | _Call
_Product = tuple[_Atom, ...]


class Symbolic:
    """An integer known only when its names are bound, for example `N`, `7*H` or `(W + 1)//2`.

    >>> h = Symbolic.name("H")
    >>> (h + 2 - 3) // 2 + 1
    (H + 1)//2
    >>> evaluate((h + 2 - 3) // 2 + 1, {"H": 224})
    112
    """

    __slots__ = ("_hash", "nesting", "terms")

    def __init__(self, terms: Mapping[_Product, int]) -> None:
        self.terms: dict[_Product, int] = {key: factor for key, factor in terms.items() if factor}
        if len(self.terms) > MOST_TERMS:
            raise UnsupportedError(f"the formula for a size has more than {MOST_TERMS} terms")
        self.nesting = max(
            (_nesting(atom) for product in self.terms for atom in product), default=0
        )
        self._hash = hash(frozenset(self.terms.items()))

    @staticmethod
    def name(name: str) -> Symbolic:
        """The size called `name`, an identifier; raises InputError for other names."""
        if not name.isidentifier() or name in _FUNCTIONS:
            raise InputError(f"'{name}' cannot name a size", hint="a name is letters, digits and _")
        return Symbolic({(name,): 1})

    def names(self) -> set[str]:
        """All names that must be bound before this has a value."""
        found: set[str] = set()
        for product in self.terms:
            for atom in product:
                if isinstance(atom, str):
                    found.add(atom)
                else:
                    found.update(*(names(argument) for argument in atom.arguments))
        return found

    def __add__(self, other: Dim) -> Dim:
        terms = dict(self.terms)
        for product, factor in _terms(other).items():
            terms[product] = terms.get(product, 0) + factor
        return _simplify(terms)

    def __mul__(self, other: Dim) -> Dim:
        others = _terms(other)
        if len(self.terms) * len(others) > MOST_TERMS:
            raise UnsupportedError(f"the formula for a size has more than {MOST_TERMS} terms")
        terms: dict[_Product, int] = {}
        for left, a in self.terms.items():
            for right, b in others.items():
                product = tuple(sorted(left + right, key=str))
                terms[product] = terms.get(product, 0) + a * b
        return _simplify(terms)

    def __floordiv__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            return _divide_by_number(self, other)
        if self == other:
            return 1
        if (quotient := _divide_by_product(self, other)) is not None:
            return quotient
        return Symbolic({(_Call("floordiv", self, other),): 1})

    def __rfloordiv__(self, other: int) -> Dim:
        return Symbolic({(_Call("floordiv", other, self),): 1})

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + -other

    def __rsub__(self, other: int) -> Dim:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Symbolic) or self._hash != other._hash:
            return False
        return self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        parts = []
        for product, factor in sorted(self.terms.items(), key=_order):
            text = "*".join(
                _bracket_atom(atom, len(product) > 1 or factor != 1) for atom in product
            )
            if not product:
                text = str(abs(factor))
            elif abs(factor) != 1:
                text = f"{abs(factor)}*{text}"
            parts.append((" - " if factor < 0 else " + ") + text)
        joined = "".join(parts)
        return joined[3:] if joined.startswith(" + ") else "-" + joined[3:]


def evaluate(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The value of `dim` with its names bound; raises KeyError for a name that `sizes` lacks."""
    if isinstance(dim, int):
        return dim
    total = 0
    for product, factor in dim.terms.items():
        for atom in product:
            factor *= sizes[atom] if isinstance(atom, str) else atom.evaluate(sizes)
        total += factor
    return total


def evaluate_shape(shape: Iterable[Dim], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(dim, sizes) for dim in shape)


def names(dim: Dim) -> set[str]:
    return dim.names() if isinstance(dim, Symbolic) else set()


def call(name: str, *arguments: Dim) -> Dim:
    """The operation that `str` shows as `name(arguments)`; raises KeyError for an unknown one."""
    return _FUNCTIONS[name](*arguments)


def is_function(name: str) -> bool:
    """Whether `call` knows `name`; such a name cannot be that of a size."""
    return name in _FUNCTIONS


def ceil_div(a: Dim, b: Dim) -> Dim:
    """a / b rounded up."""
    return (a + b - 1) // b if isinstance(b, int) and b > 0 else -(-a // b)


def truncate_div(a: Dim, b: int) -> Dim:
    """a / b rounded toward zero as C does, for b > 0.

    This is a // b wherever a cannot be negative.
    """
    if isinstance(a, int):
        return _truncate(a, b)
    if b == 1 or _is_natural(a):
        return a // b
    return Symbolic({(_Call("truncdiv", a, b),): 1})


def lower_bound(dim: Dim) -> int | None:
    """The least value that `dim` can have while every name is 1 or more; None when unknown."""
    if isinstance(dim, int):
        return dim
    total = 0
    for product, factor in dim.terms.items():
        for atom in product:
            least = 1 if isinstance(atom, str) else _least(atom)
            if least is None or least < 0:
                return None
            factor *= least
        if product and dim.terms[product] < 0:
            return None
        total += factor
    return total


def maximum(a: Dim, b: Dim) -> Dim:
    return _extreme("max", a, b)


def minimum(a: Dim, b: Dim) -> Dim:
    return _extreme("min", a, b)


def size(shape: Iterable[Dim]) -> Dim:
    """The number of elements of `shape`; 1 for a scalar."""
    return math.prod(shape)


def _extreme(which: str, a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b) if which == "max" else min(a, b)
    for larger, smaller in ((a, b), (b, a)):
        if _is_natural(larger - smaller):
            return larger if which == "max" else smaller
    return Symbolic({(_Call(which, *sorted((a, b), key=str)),): 1})


def _is_natural(dim: Dim) -> bool:
    return (least := lower_bound(dim)) is not None and least >= 0


def _least(called: _Call) -> int | None:
    """`lower_bound` of an opaque operation."""
    bounds = [lower_bound(argument) for argument in called.arguments]
    if called.name == "max":
        return max((bound for bound in bounds if bound is not None), default=None)
    if called.name == "min":
        return None if None in bounds else min(bound for bound in bounds if bound is not None)
    first, second = bounds[0], called.arguments[1]
    if first is None or not isinstance(second, int) or second <= 0:
        return None
    return _OPERATIONS[called.name](first, second)


def _truncate(a: int, b: int) -> int:
    return a // b if a >= 0 else -(-a // b)


_OPERATIONS: dict[str, Callable[..., int]] = {
    "floordiv": operator.floordiv,
    "truncdiv": _truncate,
    "max": max,
    "min": min,
}
_FUNCTIONS: dict[str, Callable[..., Dim]] = {
    "truncdiv": truncate_div,
    "max": maximum,
    "min": minimum,
}


def _nesting(part: Dim | _Atom) -> int:
    return part.nesting if isinstance(part, _Call | Symbolic) else 0


def _terms(value: Dim) -> Mapping[_Product, int]:
    return value.terms if isinstance(value, Symbolic) else {(): value}


def _simplify(terms: Mapping[_Product, int]) -> Dim:
    result = Symbolic(terms)
    if not result.terms:
        return 0
    if len(result.terms) == 1 and () in result.terms:
        return result.terms[()]
    return result


def _divide_by_number(left: Symbolic, right: int) -> Dim:
    """floor(left / right): what divides evenly is taken out, so that equal sizes look equal.

    (x + q*k)//k == x//k + q and (g*x + r)//(g*k) == (x + r//g)//k hold for all integers, and
    x//a//b == x//(a*b) for positive divisors.
    """
    if right <= 0:
        return Symbolic({(_Call("floordiv", left, right),): 1})
    whole: dict[_Product, int] = {}
    rest: dict[_Product, int] = {}
    for product, factor in left.terms.items():
        if not product or factor % right == 0:
            whole[product], rest[product] = divmod(factor, right)
        else:
            rest[product] = factor
    shared = math.gcd(right, *(factor for product, factor in rest.items() if product))
    right //= shared
    remaining = _simplify({product: factor // shared for product, factor in rest.items()})
    if isinstance(remaining, int):  # less than `right`, so its quotient is 0
        return _simplify(whole)
    if len(remaining.terms) == 1 and (inner := _lone_division(remaining)) is not None:
        return inner.arguments[0] // (inner.arguments[1] * right) + _simplify(whole)
    return Symbolic({(_Call("floordiv", remaining, right),): 1}) + _simplify(whole)


def _lone_division(dim: Symbolic) -> _Call | None:
    """The operation that `dim` is, if it is a division by a positive number and nothing else."""
    (product, factor), *_ = dim.terms.items()
    if factor != 1 or len(product) != 1 or not isinstance(found := product[0], _Call):
        return None
    divisor = found.arguments[1]
    is_division = found.name == "floordiv" and isinstance(divisor, int) and divisor > 0
    return found if is_division else None


def _divide_by_product(left: Symbolic, right: Symbolic) -> Dim | None:
    """left / right where right is a single product that divides every term of left, else None."""
    if len(right.terms) != 1:
        return None
    (divisor, factor), *_ = right.terms.items()
    quotient: dict[_Product, int] = {}
    for product, coefficient in left.terms.items():
        rest: list[Any] = list(product)
        for atom in divisor:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % factor:
            return None
        quotient[tuple(rest)] = coefficient // factor
    return _simplify(quotient)


def _order(item: tuple[_Product, int]) -> tuple[bool, str]:
    """Named terms in alphabetical order, the constant last."""
    product, _ = item
    return (not product, "*".join(map(str, product)))


def _bracket(dim: Dim) -> str:
    text = str(dim)
    return f"({text})" if any(sign in text for sign in " -*/") else text


def _bracket_atom(atom: _Atom, inside_product: bool) -> str:
    text = str(atom)
    return f"({text})" if inside_product and "//" in text else text
