"""Free sizes (N, H, W ...) of a model: what the shapes of its inputs bind them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnconv.runtime.passes.bind import solve_sizes
from nnconv.schemas.dims import Dim, evaluate, names
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
    sizes = known_sizes(model, shapes)
    if missing := open_sizes(model, sizes):
        what = "size" if len(missing) == 1 else "sizes"
        raise InputError(
            f"the model leaves the {what} {', '.join(missing)} of its inputs open",
            hint=how_to_give(model, sizes),
        )
    return sizes


def known_sizes(model: Model, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """`bind_sizes` without those sizes that neither the shapes nor the source state.

    Raises InputError for an unknown input, a shape that does not fit, or two that contradict each
    other.
    """
    inputs = {value.name: value for value in model.inputs}
    for name, shape in shapes.items():
        if name not in inputs:
            hint = did_you_mean(name, inputs) or f"the inputs are {', '.join(inputs)}"
            raise InputError(f"the model has no input called '{name}'", hint=hint)
        if not fits(inputs[name], shape):
            wanted = text(inputs[name].known_shape)
            raise InputError(f"input '{name}' is {wanted}, it cannot be {text(shape)}")
    return solve_sizes(model.graph, {name: tuple(shape) for name, shape in shapes.items()})


def open_sizes(model: Model, sizes: Mapping[str, int]) -> list[str]:
    """The sizes of the inputs that have no value in `sizes`, in the order of the inputs."""
    found = [name for value in model.inputs for name in _names(value) if name not in sizes]
    return list(dict.fromkeys(found))


def how_to_give(model: Model, sizes: Mapping[str, int]) -> str:
    """The options that give the inputs' open sizes, `?` where a number belongs."""
    options = []
    for value in model.inputs:
        if any(name not in sizes for name in _names(value)):
            dims = ",".join(_shown(dim, sizes) for dim in value.shape or ())
            options.append(f"--input-shape {value.name}:{dims}")
    return f"give numbers for ?: {' '.join(options)}"


def _shown(dim: Dim, sizes: Mapping[str, int]) -> str:
    return str(evaluate(dim, sizes)) if names(dim) <= sizes.keys() else "?"


def _names(value: Value) -> list[str]:
    return [name for dim in value.shape or () for name in sorted(names(dim))]


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
