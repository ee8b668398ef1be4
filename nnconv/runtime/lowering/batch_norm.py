"""BatchNorm by the batch's own statistics, and its gradient, with what surrounds them.

Forward, the scale, offset, residual and ReLU behind a BatchNorm are steps of the chain that
normalises. Backward, the gradients of scale and offset are sums that the gradient of x needs
anyway, and a ReLU's condition is computed again from x: so what was normalised is never stored. A
`_Norm` says which nodes of the graph these are; it is found once, before any of them is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.kernels.batch_norm import (
    MOMENTS,
    SLOPES,
    STATISTICS,
    SUMS,
    ChannelMoments,
    ChannelSlopes,
    PlaneMoments,
    PlaneSums,
)
from nnconv.runtime.kernels.elementwise import Step, Strided, chain
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.elementwise import (
    Program,
    append,
    by_sample,
    chain_reads,
    emit_chain,
    follow,
)
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.gradients.losses import ChannelSum, channel_sum, only_next
from nnconv.runtime.lowering.layout import Buffer, Operand, Place, dense_array, is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_STATISTICS = ("mean", "inverse", "shift")  # what chains call rows of ChannelMoments' result
_AFFINE = ("mean", "slope", "offset")  # what BatchNormalization takes away, scales by, and adds
_SLOPES = ("p", "q", "r")  # and of ChannelSlopes'
_Joining = tuple[int, int, int, int, int, float]


@dataclass(slots=True)
class _Norm:
    """A gradient with the nodes around it that its kernels do too."""

    grad: Node
    forward: Node | None
    dy: Value
    given: Value  # dy behind a ReLU's gradient, where that is done too
    scale: Value | None = None
    offset: Value | None = None  # known where a ReLU's gradient is done too
    dscale: ChannelSum | None = None
    doffset: ChannelSum | None = None
    nodes: list[Node] = field(default_factory=list)  # in any order, the gradient among them

    @property
    def x(self) -> Value:
        return self.grad.required(0)

    @property
    def gated(self) -> bool:
        return self.offset is not None


# -- forward


@lowers("nnconv.BatchNorm")
def batch_norm(node: Node, scope: Scope) -> Claim | None:
    """BatchNorm [+ scale] [+ offset] [+ residual] [+ activation]."""
    x, y = node.required(0), node.outputs[0]
    operands = [value for value in node.inputs if value is not None]
    if node.use_global_stats != 0 or not all(map(is_float, operands)) or len(sizes(x)) < 2:
        return None
    lanes = _lanes(x, scope)
    program, nodes = Program(), [node]
    made = {y: _normalise(program, x, _STATISTICS)}
    _follow(nodes, program, made, lanes, scope)
    output = nodes[-1].output if len(nodes) > 1 else y
    reads = (Read(x, lanes), *plain_reads(tuple(node.inputs[1:4]), scope))
    reads += chain_reads(_values(program), sizes(x), lanes, scope)

    def emit(builder: Builder) -> str:
        found = _statistics(builder, node, lanes)
        builder.remembered[node] = found
        known = _known(builder, _STATISTICS, found, lanes, len(sizes(x)))
        return "batch norm " + emit_chain(builder, program, output, lanes, known)

    return Claim(tuple(nodes), reads, output, lanes, emit, tuple(node.outputs[1:]))


def _follow(
    nodes: list[Node], program: Program, made: dict[Any, int], lanes: int, scope: Scope
) -> None:
    """Take what reads the normalised value, where the gradient's kernels do not need it."""
    (node,) = nodes
    y, norm = node.outputs[0], _norms(scope).get(node)
    inside = set(norm.nodes) if norm is not None else set()
    readers = [reader for reader in y.consumers if reader not in inside]
    fits = _fitting(made, sizes(y), lanes, scope)
    if len(readers) != 1 or scope.is_result(y) or readers[0] in scope.taken:
        return
    (first,) = readers
    same = is_float(first.output) and sizes(first.output) == sizes(y)
    if same and fits(first) and append(first, scope, program, made):
        nodes.append(first)
        follow(nodes, program, made, scope, fits)


def _fitting(
    made: dict[Any, int], shape: tuple[int, ...], lanes: int, scope: Scope
) -> Callable[[Node], bool]:
    """Whether what a node reads besides can be read in a chain of this form."""

    def fits(reader: Node) -> bool:
        operands = [v for v in reader.inputs if v is not None and v not in made and is_float(v)]
        if lanes < 0:
            return by_sample(operands, shape, scope)
        return lanes == 1 or all(
            len(sizes(v)) == 4 or scope.constant(v) is not None for v in operands
        )

    return fits


def _normalise(program: Program, x: Value, names: tuple[str, ...]) -> int:
    """Steps that make x normalised: less, times, and plus a number a channel."""
    operand: Any = program.operand
    last = operand(x, {})
    for operation, name in zip(("Sub", "Mul", "Add"), names, strict=True):
        last = _step(program, operation, last, operand(name, {}))
    return int(last)


def _step(program: Program, operation: str, *operands: Any) -> int:
    program.steps.append((operation, operands, ()))
    return len(program.steps) - 1


def _values(program: Program) -> list[Value]:
    """A program's inputs that are values of the graph."""
    inputs: list[Any] = [*program.inputs]
    return [value for value in inputs if not isinstance(value, str)]


def _lanes(x: Value, scope: Scope) -> int:
    """Samples in lanes where they are, or where planes have not even a vector; else plain."""
    natural, shape = scope.natural(x), sizes(x)
    if natural < 0:
        return natural
    return -scope.width if len(shape) <= 4 and math.prod(shape[2:]) < scope.width else 1


def _statistics(builder: Builder, node: Node, lanes: int) -> Place:
    """Mean, inverse and shift by channel of what a BatchNorm, or its gradient, reads; the former
    moves its decaying sums on."""
    parts, joining, made = _moments(builder, node, lanes)
    if node.op != "nnconv.BatchNorm":
        builder.job(ChannelMoments(*joining), parts, made)
        return made
    kernel = ChannelMoments(*joining, float(node.moving_average_fraction))
    old = [plain(builder, node.required(i)) for i in (1, 2, 3)]
    new = [builder.write_state(value, [node]) for value in node.outputs[1:4]]
    builder.job(kernel, parts, *old, made, *new)
    return made


def _moments(builder: Builder, node: Node, lanes: int) -> tuple[Buffer, _Joining, Place]:
    """Moments of planes, what ChannelMoments must know to join them, and where to."""
    x = node.required(0)
    source, channels = builder.read(x, lanes), sizes(x)[1]
    array, width = source.view, builder.scope.width
    parts = builder.buffer(MOMENTS * array.batch * channels)
    builder.job(PlaneMoments(array, sizes(x)[0], width), source, parts)
    made = Place(builder.buffer(STATISTICS * channels), dense_array((STATISTICS * channels,), 1))
    joining = (channels, sizes(x)[0], array.lanes, array.pixels, width, float(node.epsilon))
    return parts, joining, made


def _known(
    builder: Builder, names: tuple[str, ...], rows: Place, lanes: int, rank: int
) -> dict[Any, tuple[Operand, Strided]]:
    """Numbers by channel as operands of a chain."""
    channels = rows.array.size // len(names)
    return {
        name: (rows.at(rows.array.offset + number * channels), _by_channel(lanes, rank))
        for number, name in enumerate(names)
    }


def _by_channel(lanes: int, rank: int) -> Strided:
    if lanes > 1:
        return Strided((0, lanes, 0, 0, 1))
    return Strided((0, 1, *(0,) * (3 if lanes < 0 else rank - 2)))


# -- by given statistics


@lowers("BatchNormalization")
def batch_normalization(node: Node, scope: Scope) -> Claim | None:
    """BatchNormalization by given statistics [+ what follows it by element]."""
    x, given = node.required(0), [node.required(i) for i in range(1, 5)]
    if node.training_mode or len(node.outputs) > 1 or not all(map(is_float, (x, *given))):
        return None
    shape, lanes = sizes(x), scope.natural(x)
    if len(shape) < 2 or (lanes > 1 and len(shape) != 4):
        return None
    program, nodes = Program(), [node]
    made = {node.output: _normalise(program, x, _AFFINE)}
    follow(nodes, program, made, scope, _fitting(made, shape, lanes, scope))
    output = nodes[-1].output
    reads = chain_reads(_values(program), shape, lanes, scope) + plain_reads(tuple(given), scope)

    def emit(builder: Builder) -> str:
        known = _known(builder, _AFFINE, _affine(builder, node), lanes, len(shape))
        return "batch normalization " + emit_chain(builder, program, output, lanes, known)

    return Claim(tuple(nodes), reads, output, lanes, emit)


@lowers("BatchNormalization")
def by_own_statistics(node: Node, scope: Scope) -> Claim | None:
    """BatchNormalization in training mode, which moves running statistics on."""
    x, given = node.required(0), [node.required(i) for i in range(1, 5)]
    if not node.training_mode or not all(map(is_float, (x, *given))) or len(sizes(x)) < 2:
        return None
    lanes, program = _lanes(x, scope), Program()
    operand: Any = program.operand
    last: Any = _normalise(program, x, _STATISTICS)
    for operation, name in (("Mul", "scale"), ("Add", "offset")):
        last = _step(program, operation, last, operand(name, {}))

    def emit(builder: Builder) -> str:
        found, rank = _running_statistics(builder, node, lanes), len(sizes(x))
        known = _known(builder, _STATISTICS, found, lanes, rank)
        for name, value in zip(("scale", "offset"), given, strict=False):
            known[name] = (plain(builder, value).operand, _by_channel(lanes, rank))
        return "batch norm in training " + emit_chain(builder, program, y, lanes, known)

    y, *running = node.outputs
    reads = (Read(x, lanes), *plain_reads(tuple(given), scope))
    return Claim((node,), reads, y, lanes, emit, tuple(running))


def _running_statistics(builder: Builder, node: Node, lanes: int) -> Place:
    """The batch's statistics; those that run become old * momentum + the batch's * (1 - momentum),
    with the variance of all elements, not of a sample.
    """
    parts, joining, made = _moments(builder, node, lanes)
    channels, count = joining[0], math.prod(sizes(node.required(0))) // joining[0]
    nothing = builder.packed(("zeros", channels), [], lambda: np.zeros(channels, np.float32))
    mean, variance, weight = (builder.buffer(channels) for _ in range(3))
    kernel = ChannelMoments(*joining, 0.0)
    builder.job(kernel, parts, *[nothing] * 3, made, mean, variance, weight)
    keep, row = float(node.momentum), Strided((1,))
    biased = (count - 1) / count if count > 1 else 1.0
    running = zip((3, 4), (mean, variance), (1.0, biased), node.outputs[1:], strict=False)
    for place, new, share, value in running:
        steps = [Step("Affine", (0,), (keep, 0.0)), Step("Affine", (1,), ((1 - keep) * share, 0.0)),
                 Step("Add", (2, 3))]  # fmt: skip
        moved = chain([channels], [row] * 2, [row], steps, [4], builder.scope.width)
        builder.job(moved, plain(builder, node.required(place)), new, builder.write(value))
    return made


def _affine(builder: Builder, node: Node) -> Place:
    """Mean, scale / sqrt(variance + epsilon) and offset, each for whole vectors of channels."""
    channels, width = sizes(node.required(0))[1], builder.scope.width
    scale, offset, mean, variance = (node.required(i) for i in range(1, 5))
    room = -(-channels // width) * width
    made = Place(builder.buffer(len(_AFFINE) * room), dense_array((len(_AFFINE) * room,), 1))
    steps = [
        Step("Affine", (3,), (1.0, float(node.epsilon))), Step("Sqrt", (4,)), Step("Div", (1, 5)),
    ]  # fmt: skip
    row = Strided((1,))
    outputs = [Strided((1,), number * room) for number in range(len(_AFFINE))]
    kernel = chain([channels], [row] * 4, outputs, steps, [0, 6, 2], width)
    read = [plain(builder, value) for value in (mean, scale, offset, variance)]
    builder.job(kernel, *read, *[made] * len(_AFFINE))
    return made


# -- backward


@lowers("nnconv.BatchNormGrad", "Where", "Mul", "ReduceSum", first=True)
def batch_norm_grad(node: Node, scope: Scope) -> Claim | None:
    """[The gradient of ReLU +] those of scale and offset + that of x."""
    norm = _norms(scope).get(node)
    if norm is None or node not in norm.nodes:
        return None
    _give_up(norm, scope)
    x, lanes = norm.x, _lanes(norm.x, scope)
    reads = (Read(x, lanes), Read(norm.dy, lanes), *plain_reads((norm.scale, norm.offset), scope))
    sums = tuple(each.result for each in (norm.dscale, norm.doffset) if each is not None)
    # the first that reads dy takes the turn: whoever waits for one of the sums comes behind it
    rest = [each for each in norm.nodes if each is not node]
    return Claim(
        (*rest, node), reads, norm.grad.output, lanes, lambda b: _emit_grad(b, norm, lanes), sums
    )


def _emit_grad(builder: Builder, norm: _Norm, lanes: int) -> str:
    x, width = norm.x, builder.scope.width
    channels, samples = sizes(x)[1], sizes(x)[0]
    remembered = None if norm.forward is None else builder.remembered.get(norm.forward)
    found = remembered or _statistics(builder, norm.grad, lanes)
    source, slope = builder.read(x, lanes), builder.read(norm.dy, lanes)
    array = source.view
    factors = [plain(builder, v) for v in (norm.scale, norm.offset) if v is not None]
    parts = builder.buffer(SUMS * array.batch * channels)
    sums = PlaneSums(array, samples, width, slope.view, norm.gated)
    builder.job(sums, source, slope, found, *(factors if norm.gated else ()), parts)
    slopes = Place(builder.buffer(SLOPES * channels), dense_array((SLOPES * channels,), 1))
    wanted = (norm.dscale, norm.doffset)
    join = ChannelSlopes(
        channels, samples, array.lanes, array.pixels, width, norm.scale is not None,
        (norm.dscale is not None, norm.doffset is not None),
    )  # fmt: skip
    made = [builder.write(each.result) for each in wanted if each is not None]
    builder.job(join, parts, found, *factors[:1], slopes, *made)
    rank = len(sizes(x))
    known = _known(builder, _STATISTICS, found, lanes, rank)
    known |= _known(builder, _SLOPES, slopes, lanes, rank)
    for name, place in zip(("scale", "offset"), factors, strict=False):
        known[name] = (place.operand, _by_channel(lanes, rank))
    emit_chain(builder, _gradient(norm), norm.grad.output, lanes, known)
    return "batch norm gradient" + (" of relu" if norm.gated else "")


def _gradient(norm: _Norm) -> Program:
    """dx = p dy + q (x - mean) + r, with dy gated by the sign of what ReLU was given."""
    program = Program()
    operand: Any = program.operand
    dy = operand(norm.dy, {})
    deviation = _step(program, "Sub", operand(norm.x, {}), operand("mean", {}))
    if norm.gated:
        last = deviation
        for operation, name in zip(
            ("Mul", "Add") * 2, ("inverse", "shift", "scale", "offset"), strict=True
        ):
            last = _step(program, operation, last, operand(name, {}))
        dy = _step(program, "Gate", last, dy)
    direct = _step(program, "Mul", dy, operand("p", {}))
    own = _step(program, "Mul", deviation, operand("q", {}))
    both = _step(program, "Add", direct, own)
    _step(program, "Add", both, operand("r", {}))
    return program


# -- which nodes belong together


def _norms(scope: Scope) -> dict[Node, _Norm]:
    """What belongs to each gradient by its nodes, its BatchNorm included."""
    found: dict[Node, _Norm] = scope.remember("batch norms", lambda: dict(_find(scope)))
    return found


def _find(scope: Scope) -> Iterator[tuple[Node, _Norm]]:
    for grad in scope.graph.nodes:
        if grad.op != "nnconv.BatchNormGrad" or grad.use_global_stats != 0:
            continue
        x, dy = grad.required(0), grad.required(4)
        if not is_float(x) or not is_float(dy) or len(sizes(x)) < 2:
            continue
        alike = (n for n in x.consumers if n.op == "nnconv.BatchNorm" and _same(n, grad))
        norm = _Norm(grad, next(alike, None), dy, dy, nodes=[grad])
        _take_scale(norm, scope)
        _take_offset(norm, scope)
        _take_gate(norm, scope)
        yield from ((node, norm) for node in norm.nodes)
        if norm.forward is not None:
            yield norm.forward, norm


def _same(node: Node, grad: Node) -> bool:
    return (node.use_global_stats, node.epsilon) == (0, grad.epsilon)


def _take_scale(norm: _Norm, scope: Scope) -> None:
    """dy scaled by channel, and the sum of dy times the normalised value."""
    product = norm.dy.producer
    if product is None or product.op != "Mul" or not _only(norm.dy, norm.grad, scope):
        return
    split = _scaled(product, sizes(norm.x))
    if split is None:
        return
    norm.dy, norm.scale = split
    norm.given = norm.dy
    norm.nodes.append(product)
    y = None if norm.forward is None else norm.forward.outputs[0]
    for reader in [] if y is None else y.consumers:
        if reader.op == "Mul" and {*reader.inputs} == {y, norm.dy} and norm.dscale is None:
            norm.dscale = channel_sum(reader.output, scope)
            norm.nodes += [reader, *norm.dscale.nodes] if norm.dscale is not None else []


def _give_up(norm: _Norm, scope: Scope) -> None:
    """Leave out what chains behind other nodes have taken by now."""
    gate, product = norm.given.producer, norm.grad.required(4).producer
    if norm.gated and gate is not None and gate in scope.taken:
        norm.offset, norm.dy = None, norm.given
        norm.nodes = [n for n in norm.nodes if n is not gate and n is not gate.required(0).producer]
    if norm.scale is not None and product in scope.taken:  # its operand had no other reader
        norm.scale, norm.dy = None, norm.grad.required(4)
        norm.nodes = [norm.grad]


def _scaled(product: Node, shape: tuple[int, ...]) -> tuple[Value, Value] | None:
    """(value, factor by channel) of a product."""
    a, b = product.required(0), product.required(1)
    for value, factor in ((a, b), (b, a)):
        if is_float(value) and sizes(value) == shape and _is_by_channel(factor, shape):
            return value, factor
    return None


def _is_by_channel(value: Value, shape: tuple[int, ...]) -> bool:
    if not is_float(value) or len(sizes(value)) > len(shape):
        return False
    own = (1,) * (len(shape) - len(sizes(value))) + sizes(value)
    return own == (1, shape[1], *(1,) * (len(shape) - 2))


def _take_offset(norm: _Norm, scope: Scope) -> None:
    found = (channel_sum(norm.dy, scope, n) for n in norm.dy.consumers if n.op == "ReduceSum")
    norm.doffset = next((each for each in found if each is not None), None)
    norm.nodes += norm.doffset.nodes if norm.doffset is not None else []


def _only(value: Value, reader: Node, scope: Scope) -> bool:
    return only_next(value, scope) is reader


def _take_gate(norm: _Norm, scope: Scope) -> None:
    """The gradient of a ReLU right behind scale and offset."""
    gate = norm.dy.producer
    inside = set(norm.dy.consumers) <= set(norm.nodes) and not scope.is_result(norm.dy)
    if norm.forward is None or gate is None or gate.op != "Where" or not inside:
        return
    above, dy, zero = (gate.required(i) for i in range(3))
    offset, asked = _offset(norm, scope), above.producer
    if offset is None or asked is None or not _only(above, gate, scope):
        return
    nothing = scope.constant(zero)
    else_nothing = nothing is not None and nothing.size == 1 and not nothing.any()
    alike = is_float(dy) and sizes(dy) == sizes(norm.x)
    if _is_sign(asked, offset[1], scope) and else_nothing and alike:
        norm.given, norm.dy, norm.offset = norm.dy, dy, offset[0]
        norm.nodes += [asked, gate]


def _offset(norm: _Norm, scope: Scope) -> tuple[Value, Value] | None:
    """(offset by channel, what ReLU makes) of the way scale, offset, ReLU behind the BatchNorm."""
    assert norm.forward is not None
    y, shape = norm.forward.outputs[0], sizes(norm.x)
    for product in y.consumers:
        if product.op != "Mul" or {*product.inputs} != {y, norm.scale}:
            continue
        total = only_next(product.output, scope)
        if total is None or total.op != "Add":
            continue
        other = total.required(1 if total.required(0) is product.output else 0)
        relu = only_next(total.output, scope)
        if relu is not None and relu.op == "Relu" and _is_by_channel(other, shape):
            return other, relu.output
    return None


def _is_sign(node: Node, value: Value, scope: Scope) -> bool:
    """Whether a node says where a value is above 0."""
    if node.op != "Greater" or node.required(0) is not value:
        return False
    bound = scope.constant(node.required(1))
    return bound is not None and bound.size == 1 and not bound.any()
