"""Free sizes (N, H, W ...) of a model: what the shapes of its inputs bind them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnconv.runtime.passes.bind import solve_sizes
from nnconv.schemas.dims import names
from nnconv.schemas.errors import InputError, did_you_mean
from nnconv.schemas.graph import Model, Value


def bind_sizes(model: Model, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The value of every free size when some inputs have the given shapes, the rest as the source
    has it.

    Raises InputError for an unknown input, a shape that does not fit, two that contradict each
    other, or a size that neither they nor the source state.

    >>> import nnconv
    >>> bind_sizes(nnconv.load("zoo:lenet"), {"data": (8, 1, 28, 28)})["N"]
    8
    """
    inputs = {value.name: value for value in model.inputs}
    for name, shape in shapes.items():
        if name not in inputs:
            hint = did_you_mean(name, inputs) or f"the inputs are {', '.join(inputs)}"
            raise InputError(f"the model has no input called '{name}'", hint=hint)
        if not fits(inputs[name], shape):
            wanted = text(inputs[name].known_shape)
            raise InputError(f"input '{name}' is {wanted}, it cannot be {text(shape)}")
    sizes = solve_sizes(model.graph, {name: tuple(shape) for name, shape in shapes.items()})
    for value in model.inputs:
        open_sizes = sorted(set().union(*map(names, value.shape or ())) - sizes.keys())
        if open_sizes:
            raise InputError(
                f"the model does not state {', '.join(open_sizes)} of input '{value.name}' "
                f"({text(value.shape)})",
                hint=f"say it: --input-shape {value.name}:{','.join(map(str, value.shape or ()))}",
            )
    return sizes


def fits(value: Value, shape: Sequence[int]) -> bool:
    """Whether an input can have this shape."""
    wanted = value.shape
    if wanted is None:
        return True
    return len(wanted) == len(shape) and all(
        got == dim if isinstance(dim, int) else got > 0
        for dim, got in zip(wanted, shape, strict=True)
    )


def text(shape: Sequence[object] | None) -> str:
    """A shape for people: 1x3x224x224, `scalar`, or `?` while unknown."""
    return "?" if shape is None else "x".join(map(str, shape)) or "scalar"
