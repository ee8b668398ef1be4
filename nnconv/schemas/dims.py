"""Dimensions: plain integers, or expressions over named sizes such as `N` or `(H - 1)//2`.

Shape rules are written once, with ordinary arithmetic; given integers they count, given a
`Symbolic` they keep the formula. A `Symbolic` is a canonical sum of products, so two ways of
writing the same size compare equal: `2*H + H == 3*H`. Rounding and clipping become opaque atoms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Dim = "int | Symbolic"
Shape = tuple["int | Symbolic", ...]


class _Call(NamedTuple):
    """An operation that a sum of products cannot express; hashable, so it can stand as an atom."""

    name: str  # "floordiv", "max" or "min"
    arguments: tuple[int | Symbolic, ...]

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        values = [evaluate(argument, sizes) for argument in self.arguments]
        if self.name == "floordiv":
            return values[0] // values[1]
        return max(values) if self.name == "max" else min(values)

    def __str__(self) -> str:
        if self.name == "floordiv":
            left, right = self.arguments
            return f"{_bracket(left)}//{_bracket(right)}"
        return f"{self.name}({', '.join(map(str, self.arguments))})"


_Atom = str | _Call
_Product = tuple[_Atom, ...]


class Symbolic:
    """An integer known only when its names are bound, for example `N`, `7*H` or `(W + 1)//2`.

    >>> h = Symbolic.name("H")
    >>> (h + 2 - 3) // 2 + 1
    (H - 1)//2 + 1
    >>> evaluate((h + 2 - 3) // 2 + 1, {"H": 224})
    112
    """

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[_Product, int]) -> None:
        kept = {product: factor for product, factor in terms.items() if factor}
        self.terms: dict[_Product, int] = dict(sorted(kept.items(), key=_order))
        self._hash = hash(frozenset(kept.items()))

    @staticmethod
    def name(name: str) -> Symbolic:
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

    def __add__(self, other: int | Symbolic) -> int | Symbolic:
        terms = dict(self.terms)
        for product, factor in _terms(other).items():
            terms[product] = terms.get(product, 0) + factor
        return _simplify(terms)

    def __mul__(self, other: int | Symbolic) -> int | Symbolic:
        terms: dict[_Product, int] = {}
        for left, a in self.terms.items():
            for right, b in _terms(other).items():
                product = tuple(sorted(left + right, key=str))
                terms[product] = terms.get(product, 0) + a * b
        return _simplify(terms)

    def __floordiv__(self, other: int | Symbolic) -> int | Symbolic:
        if self == other:
            return 1
        if isinstance(other, int):
            if other and all(factor % other == 0 for factor in self.terms.values()):
                return _simplify({product: factor // other for product, factor in self.terms.items()})
        elif (quotient := _divide_by_product(self, other)) is not None:
            return quotient
        return Symbolic({(_Call("floordiv", (self, other)),): 1})

    def __rfloordiv__(self, other: int) -> int | Symbolic:
        return Symbolic({(_Call("floordiv", (other, self)),): 1})

    def __neg__(self) -> int | Symbolic:
        return self * -1

    def __sub__(self, other: int | Symbolic) -> int | Symbolic:
        return self + -other

    def __rsub__(self, other: int) -> int | Symbolic:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Symbolic) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        parts = []
        for product, factor in self.terms.items():
            text = "*".join(_bracket_atom(atom, len(product) > 1 or factor != 1) for atom in product)
            if not product:
                text = str(abs(factor))
            elif abs(factor) != 1:
                text = f"{abs(factor)}*{text}"
            parts.append((" - " if factor < 0 else " + ") + text)
        joined = "".join(parts)
        return joined[3:] if joined.startswith(" + ") else "-" + joined[3:]


def evaluate(dim: int | Symbolic, sizes: Mapping[str, int]) -> int:
    """The value of `dim` with its names bound; raises KeyError for a name that `sizes` lacks."""
    if isinstance(dim, int):
        return dim
    total = 0
    for product, factor in dim.terms.items():
        for atom in product:
            factor *= sizes[atom] if isinstance(atom, str) else atom.evaluate(sizes)
        total += factor
    return total


def evaluate_shape(shape: Iterable[int | Symbolic], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(dim, sizes) for dim in shape)


def names(dim: int | Symbolic) -> set[str]:
    return dim.names() if isinstance(dim, Symbolic) else set()


def ceil_div(a: int | Symbolic, b: int | Symbolic) -> int | Symbolic:
    """a / b rounded up."""
    return -(-a // b)


def maximum(a: int | Symbolic, b: int | Symbolic) -> int | Symbolic:
    return _extreme("max", a, b)


def minimum(a: int | Symbolic, b: int | Symbolic) -> int | Symbolic:
    return _extreme("min", a, b)


def size(shape: Iterable[int | Symbolic]) -> int | Symbolic:
    """The number of elements of `shape`; 1 for a scalar."""
    return math.prod(shape)  # type: ignore[arg-type]  # math.prod only needs *


def _extreme(which: str, a: int | Symbolic, b: int | Symbolic) -> int | Symbolic:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b) if which == "max" else min(a, b)
    if a == b:
        return a
    difference = a - b
    if isinstance(difference, int):
        return a if (difference > 0) == (which == "max") else b
    return Symbolic({(_Call(which, (a, b)),): 1})


def _terms(value: int | Symbolic) -> Mapping[_Product, int]:
    return value.terms if isinstance(value, Symbolic) else {(): value}


def _simplify(terms: Mapping[_Product, int]) -> int | Symbolic:
    result = Symbolic(terms)
    if not result.terms:
        return 0
    if set(result.terms) == {()}:
        return result.terms[()]
    return result


def _divide_by_product(left: Symbolic, right: Symbolic) -> int | Symbolic | None:
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


def _bracket(dim: int | Symbolic) -> str:
    text = str(dim)
    return f"({text})" if any(sign in text for sign in " -*/") else text


def _bracket_atom(atom: _Atom, inside_product: bool) -> str:
    text = str(atom)
    return f"({text})" if inside_product and "//" in text else text
