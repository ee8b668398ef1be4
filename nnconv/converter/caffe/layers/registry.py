"""Where the layer rules register: one rule a Caffe layer type for reading, one an operator for
writing.

A reading rule gets the layer and its bottoms and returns its tops; what Caffe demands of their
numbers, of in-place use and of loss weights is declared beside the rule, so that all types are
checked in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from nnconv.converter.caffe.layers.writing import Written
    from nnconv.schemas.graph import Node

Count = "int | tuple[int, int | None]"
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Rule:
    """How one layer type is read. `in_place` is False where Caffe refuses a top equal to the
    bottom; `loss` layers have an automatic top and weight 1 on their first."""

    read: Callable[..., Any]
    bottoms: tuple[int, int | None]
    tops: tuple[int, int | None]
    in_place: bool = True
    loss: bool = False


READERS: dict[str, Rule] = {}
WRITERS: dict[str, Callable[[Node], Written | None]] = {}


def reads(
    *types: str,
    bottoms: int | tuple[int, int | None] = 1,
    tops: int | tuple[int, int | None] = 1,
    in_place: bool = True,
    loss: bool = False,
) -> Callable[[Function], Function]:
    """Register the reading rule of one or more layer types. A count is a number or (least, most
    or None)."""

    def register(function: Function) -> Function:
        rule = Rule(function, _range(bottoms), _range(tops), in_place, loss)
        READERS.update(dict.fromkeys(types, rule))
        return function

    return register


def writes(*operators: str) -> Callable[[Function], Function]:
    """Register the writing rule of one or more operators; it returns None where no layer is
    equal."""

    def register(function: Function) -> Function:
        WRITERS.update(dict.fromkeys(operators, function))
        return function

    return register


def _range(count: int | tuple[int, int | None]) -> tuple[int, int | None]:
    return (count, count) if isinstance(count, int) else count
