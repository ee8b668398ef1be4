"""Elementwise operators: as many in a row as possible become one kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.kernels.elementwise import Step, Strided, chain
from nnconv.runtime.lowering.activation import activation
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.layout import (
    Operand,
    Place,
    broadcast,
    dense_array,
    is_float,
    strided_plain,
)

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_FOLDED = {"Add": "Add", "Sum": "Add", "Max": "Max", "Min": "Min", "Mean": "Add", "Mul": "Mul",
           "Sub": "Sub", "Div": "Div", "PRelu": "PRelu"}  # fmt: skip
_UNARY = (
    "Relu", "LeakyRelu", "Clip", "Neg", "Abs", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round",
    "Sign", "Exp", "Log", "Tanh", "Erf", "Sigmoid", "Softplus", "Softsign", "Elu", "Selu", "Celu",
    "ThresholdedRelu", "HardSigmoid", "HardSwish", "Swish", "Mish", "Gelu", "Pow",
)  # fmt: skip
ELEMENTWISE = (*_FOLDED, *_UNARY, "Where", "Cast")
_COMPARED = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"}  # of floats
_CONDITIONS = {*_COMPARED, "And", "Or", "Not"}
_CHOOSING = ("Where", "Cast")  # what makes floats of conditions
_MOST_INPUTS = 8
_MOST_STEPS = 24


@dataclass(slots=True)
class Program:
    """A chain being built: inputs first, then one value a step, as the kernel numbers them."""

    inputs: list[Value] = field(default_factory=list)
    steps: list[tuple[str, tuple[Any, ...], tuple[float, ...]]] = field(default_factory=list)

    def operand(self, value: Value, made: dict[Value, int]) -> Any:
        """A value made in the chain by its step number, else an input (numbered when all are
        known).
        """
        if value in made:
            return made[value]
        if value not in self.inputs:
            self.inputs.append(value)
        return value

    def kernel_steps(self) -> list[Step]:
        first = len(self.inputs)
        return [
            Step(name, tuple(self._number(o, first) for o in operands), parameters)
            for name, operands, parameters in self.steps
        ]

    def _number(self, operand: Any, first: int) -> int:
        return first + operand if isinstance(operand, int) else self.inputs.index(operand)


@lowers(*ELEMENTWISE)
def elementwise(node: Node, scope: Scope) -> Claim | None:
    """This node and those that follow it alone, as long as they keep its shape."""
    program, made = Program(), dict[Any, int]()
    if not append(node, scope, program, made):
        return None
    nodes = [*conditions(node), node]
    shape = sizes(node.output)
    follow(nodes, program, made, scope)
    lanes = _form(program.inputs, shape, scope)
    reads = chain_reads(program.inputs, shape, lanes, scope)
    output = nodes[-1].output
    return Claim(
        tuple(nodes), reads, output, lanes, lambda b: emit_chain(b, program, output, lanes)
    )


def follow(
    nodes: list[Node],
    program: Program,
    made: dict[Any, int],
    scope: Scope,
    fits: Callable[[Node], bool] = lambda node: True,
) -> None:
    """Take what follows the last node alone, as long as it keeps its shape and `fits`."""
    shape = sizes(nodes[-1].output)
    while (following := scope.only_reader(nodes[-1].output)) is not None:
        if len(program.steps) > _MOST_STEPS or len(program.inputs) > _MOST_INPUTS:
            break
        if not is_float(following.output) or sizes(following.output) != shape:
            break
        if not fits(following) or not append(following, scope, program, made):
            break
        nodes += [n for n in (*conditions(following), following) if n not in nodes]


def chain_reads(
    inputs: Sequence[Value], shape: tuple[int, ...], lanes: int, scope: Scope
) -> tuple[Read, ...]:
    """What a chain in form `lanes` reads, stored values left out."""
    return tuple(
        Read(value, _input_lanes(value, shape, lanes))
        for value in inputs
        if scope.constant(value) is None
    )


def append(node: Node, scope: Scope, program: Program, made: dict[Any, int]) -> bool:
    """Add a node's steps; False, and nothing is added, where no kernel has its meaning."""
    values = [value for value in node.inputs if value is not None]
    if node.op in _CHOOSING:
        return _append_choice(node, program, made)
    if len(node.outputs) > 1 or not all(is_float(value) for value in values[:1]):
        return False
    unary = activation(node, scope) if node.op in _UNARY else None
    if unary is not None:
        operands = (program.operand(values[0], made),)
        program.steps.append((unary.name, operands, unary.parameters))
    elif node.op in _FOLDED:
        if not all(is_float(value) for value in values):
            return False
        _fold(node, values, program, made)
    else:
        return False
    made[node.output] = len(program.steps) - 1
    return True


def conditions(node: Node) -> list[Node]:
    """The nodes that compute what a Where chooses by, or a Cast makes a number of, and that are
    done in the same kernel, in order; none where the condition comes from elsewhere.
    """
    found: dict[Node, None] = {}
    open_ends = [node.required(0)] if node.op in _CHOOSING else []
    while open_ends:
        maker = open_ends.pop().producer
        if maker is None or not _is_condition(maker):
            return []
        found.pop(maker, None)
        found[maker] = None
        if maker.op not in _COMPARED:
            open_ends += [value for value in maker.inputs if value is not None]
    return list(reversed(found))


def _is_condition(node: Node) -> bool:
    """Whether a condition lives in chains alone: all its readers do it over."""
    kept = all(r.op in _CONDITIONS or (r.op in _CHOOSING and is_float(r.output))
               for r in node.output.consumers)  # fmt: skip
    floats = node.op not in _COMPARED or all(is_float(value) for value in node.inputs)
    return node.op in _CONDITIONS and kept and floats and node.output not in node.graph.outputs


def _append_choice(node: Node, program: Program, made: dict[Any, int]) -> bool:
    if not (found := conditions(node)) or not all(is_float(v) for v in node.inputs[1:]):
        return False
    for maker in (*found, *([node] if node.op == "Where" else [])):
        operands = tuple(program.operand(v, made) for v in maker.inputs if v is not None)
        program.steps.append((maker.op, operands, ()))
        made[maker.output] = len(program.steps) - 1
    made[node.output] = len(program.steps) - 1  # a condition is a number already
    return True


def _fold(node: Node, values: list[Value], program: Program, made: dict[Any, int]) -> None:
    operands = [program.operand(value, made) for value in values]
    total = operands[0]
    for operand in operands[1:]:
        program.steps.append((_FOLDED[node.op], (total, operand), ()))
        total = len(program.steps) - 1
    if node.op == "Mean" or len(operands) == 1:
        scale = 1 / len(operands) if node.op == "Mean" else 1.0
        program.steps.append(("Affine", (total,), (scale, 0.0)))


def _form(inputs: list[Value], shape: tuple[int, ...], scope: Scope) -> int:
    """Blocked where an image comes so; plain where not, or where an operand has other axes."""
    computed = [value for value in inputs if scope.constant(value) is None]
    if any(scope.natural(v) < 0 and sizes(v) == shape for v in computed):
        return -scope.width if by_sample(inputs, shape, scope) else 1
    if len(shape) != 4 or any(len(sizes(value)) != 4 for value in computed):
        return 1
    blocked = any(scope.natural(value) > 1 and sizes(value) == shape for value in computed)
    return scope.width if blocked else 1


def by_sample(inputs: list[Value], shape: tuple[int, ...], scope: Scope) -> bool:
    """Whether each operand belongs to samples or is the same for all of them."""
    return 2 <= len(shape) <= 4 and all(
        len(sizes(value)) < len(shape)
        or sizes(value)[0] == 1
        or (sizes(value)[0] == shape[0] and scope.constant(value) is None)
        for value in inputs
    )


def _input_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> int:
    """One channel for all is read plain: blocked it would be one lane of a block."""
    if lanes < 0:
        own = sizes(value)
        return lanes if len(own) == len(shape) and own[0] == shape[0] else 1
    return 1 if lanes > 1 and sizes(value)[1] == 1 < shape[1] else lanes


def emit_chain(
    builder: Builder,
    program: Program,
    output: Value,
    lanes: int,
    known: Mapping[Any, tuple[Operand, Strided]] | None = None,
) -> str:
    """A job for the whole program; inputs that are no values of the graph are `known`."""
    shape, known = sizes(output) or (1,), known or {}
    where = [
        known[value] if value in known else input_of(builder, value, shape, lanes)
        for value in program.inputs
    ]
    place = builder.write(output)
    array = place.view
    space: tuple[int, ...] = shape
    target = strided_plain(place, shape)
    if lanes != 1:
        space = (array.batch, array.blocks, array.height, array.width, array.lanes)
        target = Strided((array.image, array.block, array.row, array.column, 1))
    kernel = chain(
        space, [strided for _, strided in where], [target], program.kernel_steps(),
        [len(program.inputs) + len(program.steps) - 1], builder.scope.width,
    )  # fmt: skip
    builder.job(kernel, *(operand for operand, _ in where), place)
    return "chain " + " ".join(name.lower() for name, _, _ in program.steps[:6])


def input_of(
    builder: Builder, value: Value, shape: tuple[int, ...], lanes: int
) -> tuple[Operand, Strided]:
    data = builder.scope.constant(value)
    if lanes < 0:
        return _by_samples(builder, value, shape, lanes)
    if data is not None:
        place = builder.constant(value) if lanes == 1 else _blocked_constant(builder, value, lanes)
        own = data.shape
    else:
        place, own = builder.read(value, _input_lanes(value, shape, lanes)), sizes(value)
    if lanes == 1:
        return place.operand, broadcast(strided_plain(place, own), own or (1,), len(shape))
    return place.operand, _over_blocks(place)


def _by_samples(
    builder: Builder, value: Value, shape: tuple[int, ...], lanes: int
) -> tuple[Operand, Strided]:
    """An operand over (groups, channels, height, width, lanes): one that belongs to samples, or a
    plain one that is the same for all of them.
    """
    constant, own = builder.scope.constant(value) is not None, sizes(value)
    if not constant and _input_lanes(value, shape, lanes) < 0:
        place = builder.read(value, lanes)
        array = place.view
        extents = (array.blocks, array.height, array.width)
        steps = (array.block, array.row, array.column)
        free = (0 if size == 1 else step for size, step in zip(extents, steps, strict=True))
        return place.operand, Strided((array.image, *free, 1))
    place = builder.constant(value) if constant else builder.read(value, 1)
    steps4 = broadcast(strided_plain(place, own), own or (1,), len(shape)).strides
    by_axis = (*steps4[:2], 0, *steps4[2:]) if len(shape) == 3 else (*steps4, 0, 0)
    return place.operand, Strided((0, *by_axis[1:4], 0))


def _over_blocks(place: Place) -> Strided:
    """An operand over (batch, blocks, height, width, lanes), axes of size 1 repeated; a plain one
    has one channel for all, even where there is but one.
    """
    array = place.view
    one_channel = array.lanes == 1
    return Strided(
        (
            array.image if array.batch > 1 else 0,
            0 if one_channel else array.block,
            array.row if array.height > 1 else 0,
            array.column if array.width > 1 else 0,
            0 if one_channel else 1,
        )
    )


def _blocked_constant(builder: Builder, value: Value, lanes: int) -> Place:
    """A constant in blocks: channels padded with zeros; one channel for all stays plain."""
    data = builder.scope.constant(value)
    assert data is not None
    own = (1,) * (4 - data.ndim) + data.shape
    wide = lanes if own[1] > 1 else 1
    array = dense_array(own, wide)
    buffer = builder.packed(("blocked", own, wide), [data], lambda: _to_blocks(data, own, wide))
    return Place(buffer, array)


def _to_blocks(data: Any, own: tuple[int, ...], lanes: int) -> Any:
    batch, channels, height, width = own
    blocks = -(-channels // lanes)
    full = np.zeros((batch, blocks * lanes, height, width), np.float32)
    full[:, :channels] = data.reshape(own)
    split = full.reshape(batch, blocks, lanes, height, width)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 4, 2)).reshape(-1)
