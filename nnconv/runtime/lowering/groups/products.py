"""Convolutions and matrix products on graphics cards, in inference and in training.

Rules registered by `on_cards` come before all others where the target works in groups, and are
unknown elsewhere. Values lie plain, and concatenations are written in place where that can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.kernels.arrays import Array, Matrix
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.groups.depthwise import GroupwiseConv
from nnconv.runtime.kernels.groups.operands import Factors, Pixels
from nnconv.runtime.kernels.groups.product import (
    Ending,
    Goal,
    Product,
    every_product,
    split_sum,
)
from nnconv.runtime.kernels.groups.vector import FewRows
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.movement import copy
from nnconv.runtime.lowering.activation import after
from nnconv.runtime.lowering.claims import Claim, Rule, Scope, image, lowers, sizes
from nnconv.runtime.lowering.conv import epilogue
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.layout import Buffer, Floats, Home, Operand, Place, is_float
from nnconv.runtime.ops.windows import geometry

if TYPE_CHECKING:
    from nnconv.runtime.kernels.target import Groups
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array as Data

_FEW_ROWS = 4  # of a product: then each of its outputs is a group's sum
_FEW_CHANNELS = 2  # outputs of a convolution's group: a block of them would be empty
_ROW_ITEMS = 64  # that sum a row: many rows are on their way at once
_MANY_WEIGHTS = 1 << 16  # fewer stay in a card's caches, and turning them costs a launch
_DEEPEST = 16  # of the blocks: packed weights are filled up to whole steps of all


def on_cards(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for targets that work in groups, before all others."""

    def register(rule: Rule) -> Rule:
        lowers(*ops, first=True)(
            lambda node, scope: rule(node, scope) if scope.target.groups else None
        )
        return rule

    return register


def groups_of(builder: Builder) -> Groups:
    groups = builder.target.groups
    assert groups is not None
    return groups


# -- products


def multiply(
    builder: Builder, products: Iterator[Product], operands: Sequence[Place | Operand | Buffer]
) -> str:
    """The product of the rule's choice, or of tuning's; operands as a `Product` has them."""
    product = _choose(builder, products, operands)
    split = f" in {product.parts}" if product.parts > 1 else ""
    for kernel, each in _jobs(product, operands, builder.buffer):
        builder.job(kernel, *each)
    return f"{product.block.name}{split}"


def _jobs(
    product: Product,
    operands: Sequence[Place | Operand | Buffer],
    scratch: Callable[[int], Buffer],
) -> list[tuple[Kernel, list[Place | Operand | Buffer]]]:
    if product.parts == 1:
        return [(product, list(operands))]
    parts = scratch(product.parts * product.items * product.rows * product.columns)
    last = [parts, *operands[2:]]
    return [(product, [*operands[:2], parts]), (split_sum(product), last)]


def _choose(
    builder: Builder, products: Iterator[Product], operands: Sequence[Place | Operand | Buffer]
) -> Product:
    if not builder.settings.tune:
        return next(products)
    known = {product.block.name: product for product in products}
    neutral = replace(known[min(known)], parts=1)
    trials = {name: _trial(product, operands) for name, product in known.items()}
    return known[builder.tuner.choose(f"{neutral.family} {neutral.digest}", trials)]


def _trial(
    product: Product, operands: Sequence[Place | Operand | Buffer]
) -> Callable[[], list[tuple[Kernel, list[Operand]]]]:
    """The jobs of a product on memory of their own."""

    def make() -> list[tuple[Kernel, list[Operand]]]:
        own = [_elsewhere(each) for each in operands]
        jobs = _jobs(product, own, lambda size: Buffer(Home.ARENA, size))
        return [
            (kernel, [e if isinstance(e, Operand) else _elsewhere(e, same=True) for e in each])
            for kernel, each in jobs
        ]

    return make


def _elsewhere(given: Place | Operand | Buffer, same: bool = False) -> Operand:
    if isinstance(given, Place):
        size = max(given.array.size, given.buffer.size)
        return Operand(Buffer(Home.ARENA, size), given.array.offset)
    operand = given if isinstance(given, Operand) else Operand(given)
    return operand if same else Operand(Buffer(Home.ARENA, operand.buffer.size), operand.offset)


# -- convolutions


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution's sizes: its window, its pictures, and its groups."""

    window: Window
    x: tuple[int, int, int, int]
    y: tuple[int, int, int, int]
    groups: int

    @property
    def inputs(self) -> int:
        """Channels of x in a group."""
        return self.x[1] // self.groups

    @property
    def outputs(self) -> int:
        return self.y[1] // self.groups

    @property
    def taps(self) -> int:
        return self.window.size[0] * self.window.size[1]

    @property
    def weights_item(self) -> int:
        """Weights of a group."""
        return self.outputs * self.inputs * self.taps


def geometry_of(node: Node, x: Value, weights: Value, y: Value) -> Geometry | None:
    """None where an operand is no picture, or a pad is negative."""
    source, goal = image(x), image(y)
    if source is None or goal is None or len(sizes(weights)) != 4 or not is_float(weights):
        return None
    size = sizes(weights)[2:]
    where = geometry(source[2:], size, node.strides, node.pads, node.dilations, node.auto_pad)
    if min(*where.begins, *where.ends) < 0:
        return None
    pairs = ((int(item[0]), int(item[1])) for item in where[:4])
    return Geometry(Window(*pairs), source, goal, int(node.group))


def of_group(array: Array, groups: int) -> Array:
    """The channels of one group; the others follow."""
    return replace(array, channels=array.channels // groups)


@on_cards("Conv")
def conv(node: Node, scope: Scope) -> Claim | None:
    """Conv [+ Add of another value] [+ activation], two spatial axes."""
    x, weights, bias = node.required(0), node.required(1), node.input(2)
    where = geometry_of(node, x, weights, node.output)
    if where is None or (bias is not None and not is_float(bias)):
        return None
    nodes, residual, activation = epilogue(node, scope)
    y = nodes[-1].output
    reads = plain_reads((x, weights, bias, residual), scope)
    return Claim(
        nodes, reads, y, 1,
        lambda b: _emit_conv(b, where, (x, weights, bias, residual, y), activation),
    )  # fmt: skip


def _emit_conv(
    builder: Builder,
    where: Geometry,
    values: tuple[Value, Value, Value | None, Value | None, Value],
    activation: Activation,
) -> str:
    x, weights, bias, residual, y = values
    source, made = plain(builder, x), builder.write(y)
    beside = plain(builder, residual) if residual is not None else None
    more = [plain(builder, bias)] if bias is not None else []
    more += [beside] if beside else []
    if where.groups > 1 and where.outputs <= _FEW_CHANNELS:
        kernel = GroupwiseConv(
            source.view, made.view, where.window, where.groups, bias is not None,
            beside.view if beside else None, activation,
        )  # fmt: skip
        builder.job(kernel, source, plain(builder, weights), *more, made)
        return "groupwise conv"
    factors, buffer = _weights(builder, where, weights)
    ending = Ending(
        bias=(where.outputs, 1, 0) if bias is not None else None,
        residual=Goal.pixels(beside.view, where.groups) if beside else None,
        activation=activation,
    )
    pixels = Pixels(of_group(source.view, where.groups), where.window, where.y[2:])
    products = every_product(
        groups_of(builder), factors, pixels, Goal.pixels(made.view, where.groups),
        items=where.groups, ending=ending,
    )  # fmt: skip
    return f"group conv {multiply(builder, products, [buffer, source, *more, made])}"


def _weights(builder: Builder, where: Geometry, value: Value) -> tuple[Factors, Place | Buffer]:
    """Weights turned, so that outputs follow each other: stored ones for good."""
    outputs, inputs, taps = where.outputs, where.inputs, where.taps
    data = builder.scope.constant(value)
    if data is None:
        return lying_weights(builder, where, value)
    depth = -(-inputs * taps // _DEEPEST) * _DEEPEST
    turned = Factors(
        outputs, inputs, 1, outputs, taps, outputs * inputs, depth * outputs, padded=True
    )
    buffer = builder.packed(
        ("group weights", where.groups), [data], lambda: _turned(data, where, depth)
    )
    buffer.size = where.groups * depth * outputs
    return turned, buffer


def lying_weights(
    builder: Builder, where: Geometry, value: Value, back: bool = False
) -> tuple[Factors, Place | Buffer]:
    """Weights that change from run to run, by outputs or (`back`) by inputs: where they lie, or, if
    they are many, turned first so that neighbours load neighbours.
    """
    outputs, inputs, taps, item = where.outputs, where.inputs, where.taps, where.weights_item
    source = plain(builder, value)
    rows, depth = (inputs, outputs) if back else (outputs, inputs)
    steps = (taps, inputs * taps) if back else (inputs * taps, taps)
    if taps == 1 or item * where.groups < _MANY_WEIGHTS:
        return Factors(rows, depth, *steps, taps, 1, item), source
    made = builder.buffer(item * where.groups)
    shape = (where.groups, taps, depth, rows)
    goal = Strided((item, depth * rows, rows, 1))
    turn = copy(shape, Strided((item, 1, *reversed(steps))), goal, builder.scope.width)
    builder.job(turn, source, made)
    return Factors(rows, depth, 1, rows, taps, depth * rows, item), made


def _turned(data: Data, where: Geometry, depth: int) -> Floats:
    """Weights as group, tap, input, output, with zeros behind."""
    groups, outputs, inputs, taps = where.groups, where.outputs, where.inputs, where.taps
    made = np.zeros((groups, depth, outputs), np.float32)
    source = np.asarray(data).reshape(groups, outputs, inputs, taps)
    goal = made[:, : taps * inputs].reshape(groups, taps, inputs, outputs)
    np.copyto(goal, source.transpose(0, 3, 2, 1), casting="same_kind")
    return made


# -- matrices


@dataclass(frozen=True, slots=True)
class MatrixWork:
    """y = activation(scale * a b + bias_scale * c), by the values that hold them."""

    a: Value
    b: Value
    c: Value | None
    y: Value
    left: Matrix
    right: Matrix  # with the outputs as rows, the depths as columns
    made: Matrix
    ending: Ending


@on_cards("Gemm")
def gemm(node: Node, scope: Scope) -> Claim | None:
    """Gemm [+ activation], all transposes, operands stored or not."""
    a, b, c = node.required(0), node.required(1), node.input(2)
    if not all(is_float(value) for value in (a, b, *([c] if c else []))):
        return None
    (rows, columns), shape, right = sizes(node.output), sizes(a), Matrix.dense(*sizes(b))
    left = Matrix.dense(shape[0], shape[1])
    last, activation = after(node.output, scope)
    nodes = (node, *([last] if last else []))
    ending = Ending(
        float(node.alpha), _bias_steps(c, rows, columns), float(node.beta), None, activation
    )
    work = MatrixWork(
        a, b, c, nodes[-1].output, left.transposed if node.transA else left,
        right if node.transB else right.transposed, Matrix.dense(rows, columns), ending,
    )  # fmt: skip
    return _matrix_claim(nodes, work, scope)


def _bias_steps(c: Value | None, rows: int, columns: int) -> tuple[int, int, int] | None:
    """How far a bias goes on by item, row and column."""
    if c is None:
        return None
    own = (1, 1, *sizes(c))[-2:]
    return (0, own[1] if own[0] == rows > 1 else 0, 1 if own[1] == columns > 1 else 0)


@on_cards("MatMul")
def matmul(node: Node, scope: Scope) -> Claim | None:
    """MatMul [+ Add of one number an output] [+ activation] of matrices, or of as many on both
    sides.
    """
    a, b = node.required(0), node.required(1)
    if not is_float(a) or not is_float(b) or min(len(sizes(a)), len(sizes(b))) < 2:
        return None
    left, right = sizes(a), sizes(b)
    if len(right) == 2:
        left, items = (math.prod(left[:-1]), left[-1]), 1
    elif left[:-2] == right[:-2]:
        items = math.prod(left[:-2])
    else:
        return None
    nodes, c = _with_bias(node, right[-1], scope)
    last, activation = after(nodes[-1].output, scope)
    nodes = (*nodes, *([last] if last else []))
    steps = None if c is None else (0, 0, 1)
    work = MatrixWork(
        a, b, c, nodes[-1].output, Matrix.dense(left[-2], left[-1], items),
        Matrix.dense(right[-2], right[-1], items).transposed,
        Matrix.dense(left[-2], right[-1], items), Ending(1.0, steps, 1.0, None, activation),
    )  # fmt: skip
    return _matrix_claim(nodes, work, scope)


def _with_bias(node: Node, columns: int, scope: Scope) -> tuple[tuple[Node, ...], Value | None]:
    add = scope.only_reader(node.output)
    if add is not None and add.op == "Add":
        other = add.required(1 if add.required(0) is node.output else 0)
        vector = is_float(other) and math.prod(sizes(other)) == columns == sizes(other)[-1]
        if vector and other is not node.output and sizes(add.output) == sizes(node.output):
            return (node, add), other
    return (node,), None


def _matrix_claim(nodes: tuple[Node, ...], work: MatrixWork, scope: Scope) -> Claim:
    reads = plain_reads((work.a, work.b, work.c), scope)
    return Claim(nodes, reads, work.y, 1, lambda b: _emit_product(b, work))


def _emit_product(builder: Builder, work: MatrixWork) -> str:
    a, made = plain(builder, work.a), builder.write(work.y)
    left, right, goal = work.left, work.right, Goal.matrix(work.made)
    more = [plain(builder, work.c)] if work.c is not None else []
    if left.rows <= _FEW_ROWS and left.batch == 1 and left.column == 1:
        b, right = _as_rows(builder, work)
        if right.column == 1:
            kernel = FewRows(
                left.rows, right.rows, right.columns, left.row, right.row, goal, work.ending,
                min(_ROW_ITEMS, groups_of(builder).items),
            )  # fmt: skip
            builder.job(kernel, a, b, *more, made)
            return f"group sums of {left.rows}"
    else:
        b = plain(builder, work.b)
    products = every_product(
        groups_of(builder), Factors.rows(left), Factors.rows(right), goal, items=left.batch,
        ending=work.ending,
    )  # fmt: skip
    return f"group gemm {multiply(builder, products, [a, b, *more, made])}"


def _as_rows(builder: Builder, work: MatrixWork) -> tuple[Place | Buffer, Matrix]:
    """The second matrix, turned where it is stored with its depths apart."""
    data, right = builder.scope.constant(work.b), work.right
    if data is None or right.column == 1:
        return plain(builder, work.b), right
    turned = builder.packed(
        "turned", [data], lambda: np.ascontiguousarray(np.asarray(data, np.float32).T)
    )
    return turned, Matrix.dense(right.rows, right.columns)
