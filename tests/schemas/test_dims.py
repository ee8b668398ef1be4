"""Symbolic sizes: evaluated, they are what integers give; written and read, they are the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnconv.schemas.dims import (
    Dim,
    Symbolic,
    ceil_div,
    evaluate,
    lower_bound,
    maximum,
    minimum,
    size,
    truncate_div,
)  # fmt: skip
from nnconv.schemas.dims_text import parse
from nnconv.schemas.errors import InputError, NnconvError, UnsupportedError

EXAMPLES = settings(max_examples=400, derandomize=True, deadline=None)
NAMES = ["N", "H", "W"]
H = Symbolic.name("H")

# a formula is a function from sizes to a size, so that it can be used with both kinds
Formula = Callable[[dict[str, Dim]], Dim]
BINARY: list[Callable[[Dim, Dim], Dim]] = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, maximum, minimum,
]  # fmt: skip
BY_NUMBER: list[Callable[[Dim, int], Dim]] = [
    lambda a, k: a // k, ceil_div, truncate_div, lambda a, k: k - a, lambda a, k: k * a + k,
]  # fmt: skip


def combine(parts: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
    def binary(operation: int, a: Formula, b: Formula) -> Formula:
        return lambda sizes: BINARY[operation](a(sizes), b(sizes))

    def by_number(operation: int, a: Formula, k: int) -> Formula:
        return lambda sizes: BY_NUMBER[operation](a(sizes), k)

    return st.builds(binary, st.integers(0, 4), parts, parts) | st.builds(
        by_number, st.integers(0, 4), parts, st.integers(1, 7)
    )


def name_of(name: str) -> Formula:
    return lambda sizes: sizes[name]


def number(value: int) -> Formula:
    return lambda sizes: value


leaves = st.sampled_from(NAMES).map(name_of) | st.integers(-20, 20).map(number)
formulas = st.recursive(leaves, combine, max_leaves=8)
bindings = st.fixed_dictionaries({name: st.integers(1, 50) for name in NAMES})


@EXAMPLES
@given(formulas, bindings)
def test_a_formula_evaluates_to_what_integers_give(formula: Formula, sizes: dict[str, int]) -> None:
    symbolic = formula({name: Symbolic.name(name) for name in NAMES})
    wanted = formula(dict(sizes))
    assert evaluate(symbolic, sizes) == wanted
    least = lower_bound(symbolic)
    assert least is None or least <= wanted  # type: ignore[operator]


@EXAMPLES
@given(formulas)
def test_a_formula_reads_back_from_its_text(formula: Formula) -> None:
    symbolic = formula({name: Symbolic.name(name) for name in NAMES})
    assert parse(str(symbolic)) == symbolic
    assert hash(parse(str(symbolic))) == hash(symbolic)


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (2 * H + H, "3*H"),
        ((H + 2 - 3) // 2 + 1, "(H + 1)//2"),
        ((4 * H + 6) // 4, "H + 6//4"),
        (H // 2 // 3, "H//6"),
        (truncate_div(H - 1, 2), "(H - 1)//2"),
        (truncate_div(H - 11, 4) + 1, "truncdiv(H - 11, 4) + 1"),
        (maximum(H, 1), "H"),
        (minimum(H + 3, H), "H"),
        (maximum(H, 7), "max(7, H)"),
        (H - H, "0"),
        (size((H, 3, H)) // (3 * H), "H"),
        ((H * 6) // H, "6"),
        ((6 * H + 5) // 4, "(3*H + 2)//2"),
    ],
)
def test_equal_sizes_look_equal(dim: Dim, text: str) -> None:
    assert dim == parse(text)
    assert str(dim) == str(parse(text))


@pytest.mark.parametrize(
    "text", ["", "N*", "(N", "N)", "N N", "1.5", "N//0", "max(N)", "foo(N)", "truncdiv(N, H)",
             "a-b!",
             "(" * 500 + "N" + ")" * 500, "N+" * 20_000 + "N", "max(N, H", "²"],
)  # fmt: skip
def test_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


@pytest.mark.parametrize("name", ["", "max", "2N", "a b", "N-1"])
def test_names_are_identifiers(name: str) -> None:
    with pytest.raises(InputError):
        Symbolic.name(name)


def test_a_hostile_formula_stops_growing() -> None:
    squared: Dim = H + Symbolic.name("W") + 1
    with pytest.raises(UnsupportedError, match="terms"):
        for _ in range(20):
            squared = squared * squared
    nested: Dim = H
    with pytest.raises(NnconvError, match="nested"):
        for _ in range(200):
            nested = maximum(7 - nested, 3 * nested // 2)
