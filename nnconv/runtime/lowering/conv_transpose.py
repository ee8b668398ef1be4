"""Transposed convolutions with stored weights: the kernels of ordinary ones, phase by phase.

A phase (phases.py) writes every s-th row and column of the result, which a view of the result with
wider strides says. Neighbouring columns whose phases differ in weights only are the images of one
job: the x of all of them is the same, the y one column further.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.conv import Conv, Window, every_conv, pack_weights
from nnconv.runtime.kernels.depthwise import depthwise, pack_depthwise
from nnconv.runtime.kernels.elementwise import Step, Strided
from nnconv.runtime.kernels.elementwise import chain as elementwise
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.lowering.algorithms import (
    Direct,
    Epilogue,
    Form,
    Places,
    choose,
    padded,
    winograd_form,
)
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.conv import epilogue, floats, input_lanes, winograd_outputs
from nnconv.runtime.lowering.layout import Buffer, Floats, Operand, Place, dense_array
from nnconv.runtime.lowering.phases import MOST_PHASES, Phase, phases, runs
from nnconv.runtime.lowering.windows import Image, plane
from nnconv.runtime.ops.conv import transposed_geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array as Data


@dataclass(frozen=True, slots=True)
class _Work:
    """A transposed convolution as kernels need it."""

    x: Value
    y: Value  # the last result: after residual and activation
    x_sizes: Image
    weights: Data
    bias: Data | None
    groups: int
    rows: list[Phase]
    columns: list[Phase]
    residual: Value | None
    activation: Activation
    x_lanes: int
    winograd: int

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.weights.shape[:2] == (self.groups, 1)

    def phase_weights(self, row: Phase, column: Phase) -> Floats:
        """The weights of a phase as an ordinary convolution has them: [outputs, inputs of a group,
        rows, columns]."""
        inputs, each, *area = self.weights.shape
        taps = floats(self.weights).reshape(inputs, each, *(1,) * (2 - len(area)), *area)
        found = taps[:, :, row.taps][:, :, :, column.taps]
        grouped = found.reshape(self.groups, inputs // self.groups, each, *found.shape[2:])
        turned = grouped.swapaxes(1, 2).reshape(-1, inputs // self.groups, *found.shape[2:])
        return np.ascontiguousarray(turned)


@lowers("ConvTranspose")
def conv_transpose(node: Node, scope: Scope) -> Claim | None:
    """ConvTranspose [+ Add of another value] [+ activation], up to two spatial axes, stored
    weights."""
    x, weights, bias = node.required(0), scope.constant(node.required(1)), node.input(2)
    source = plane(x)
    if source is None or plane(node.output) is None or weights is None:
        return None
    if bias is not None and scope.constant(bias) is None:
        return None
    axes = axis_phases(node, sizes(x), weights.shape, sizes(node.output))
    if axes is None:
        return None
    rows, columns = [*[_ONE] * (2 - len(axes)), *axes]
    nodes, residual, activation = epilogue(node, scope)
    lanes, single = input_lanes(x, node.group, scope), len(rows) == len(columns) == 1
    window = _window(rows[0], columns[0])
    outputs = (
        winograd_outputs(scope, source, node.output, window, node.group, lanes)
        if single and window.pad == (rows[0].pad, columns[0].pad) else 0
    )  # fmt: skip
    work = _Work(
        x, nodes[-1].output, source, weights, scope.constant(bias), node.group, rows, columns,
        residual, activation, lanes, outputs,
    )  # fmt: skip
    reach = _reach(work)
    if reach is None:
        return None
    reads = [Read(x, lanes, reach)]
    reads += [Read(residual, scope.width)] if residual else []
    return Claim(nodes, tuple(reads), work.y, scope.width, lambda b: _emit(b, work))


_ONE = [Phase(0, 1, (0,), 1, 0)]  # of an axis that is not there


def axis_phases(
    node: Node, x: tuple[int, ...], weights: tuple[int, ...], y: tuple[int, ...]
) -> list[list[Phase]] | None:
    """The phases along each spatial axis; None where there are too many, or the padding is
    negative."""
    if len(x) != len(weights):
        return None
    where = transposed_geometry(
        x[2:], weights[2:], node.strides, node.pads, node.dilations, node.auto_pad,
        node.output_padding, node.output_shape,
    )  # fmt: skip
    steps = (min(stride, extent) for stride, extent in zip(where.strides, y[2:], strict=True))
    if min((*where.begins, *(node.pads or ())), default=0) < 0 or math.prod(steps) > MOST_PHASES:
        return None
    axes = zip(where.kernel, where.strides, where.dilations, where.begins, y[2:], strict=True)
    return [phases(*axis) for axis in axes]


def _window(row: Phase, column: Phase) -> Window:
    """A phase's window; where it starts inside the input, that is cut (`_cropped`)."""
    size = (len(row.taps), len(column.taps))
    pad = (max(row.pad, 0), max(column.pad, 0))
    return Window(size, (1, 1), (row.dilation, column.dilation), pad)


def _cropped(x: Array, row: Phase, column: Phase) -> Array:
    """The part of x that a phase sees, from where its first window starts."""
    top, left = max(-row.pad, 0), max(-column.pad, 0)
    return x.crop(top, left, x.height - top, x.width - left)


def _reach(work: _Work) -> Border | None:
    """The border of x that the phases read; None where one starts behind x."""
    x, border = dense_array(work.x_sizes, 1), Border()
    for row, column in product(work.rows, work.columns):
        if -row.pad >= x.height or -column.pad >= x.width:
            return None
        if work.depthwise or not row.taps or not column.taps:
            continue
        part = _cropped(x, row, column)
        y = replace(part, height=row.count, width=column.count)
        border = border.union(_window(row, column).reach(part, y))
    return border


def _emit(builder: Builder, work: _Work) -> str:
    reach = _reach(work)
    x = builder.read(work.x, work.x_lanes, bordered=work.x_lanes == 1 and bool(reach))
    residual = builder.read(work.residual, builder.scope.width) if work.residual else None
    places = Places(x, builder.write(work.y), residual)
    names: dict[str, None] = {}
    for row in work.rows:
        for run in runs(work.columns):
            images = range(x.array.batch) if len(run) > 1 else (None,)
            for image in images:
                part = _part(places, row, run, image, (len(work.rows), len(work.columns)))
                names[_phase(builder, work, part, row, run)] = None
    return f"transposed {next(iter(names))}"


def _part(
    places: Places, row: Phase, run: Sequence[Phase], image: int | None, strides: tuple[int, int]
) -> Places:
    """What a run of phases reads and writes: all images of one phase, or all phases of one image
    as the images of a batch."""
    down, across = strides

    def written(place: Place) -> Place:
        array = place.array
        start = array.offset + row.first * array.row + run[0].first * array.column
        view = replace(
            array, height=row.count, width=run[0].count, row=array.row * down,
            column=array.column * across, offset=start, border=Border(),
        )  # fmt: skip
        return Place(place.buffer, _of_one(view, image, len(run), array.column))

    x = _of_one(_cropped(places.x.array, row, run[0]), image, len(run), 0)
    residual = written(places.residual) if places.residual else None
    return Places(Place(places.x.buffer, x), written(places.y), residual)


def _of_one(array: Array, image: int | None, count: int, step: int) -> Array:
    """`count` views of one image, `step` apart; the array itself where no image is named."""
    if image is None:
        return array
    return replace(array, batch=count, image=step, offset=array.offset + image * array.image)


def _phase(
    builder: Builder, work: _Work, places: Places, row: Phase, run: Sequence[Phase]
) -> str:  # fmt: skip
    if not row.taps or not run[0].taps:
        return _fill(builder, work, places)
    if work.depthwise:
        return _depthwise(builder, work, places, row, run)
    epilogue = Epilogue(work.bias is not None, work.activation)
    forms: Iterator[Form] = _direct_forms(builder, work, places, row, run, epilogue)
    if work.winograd:
        window = _window(row, run[0])
        form = winograd_form(builder.target, places, window, work.winograd, epilogue)
        forms = chain([form], forms)
    form = choose(builder, forms, [work.weights], places)
    taps = (row.taps, tuple(column.taps for column in run))
    weights = builder.packed(
        (form.key, taps), [work.weights], lambda: _packed(form, work, row, run)
    )
    bias = None
    if work.bias is not None:
        key = ("bias", form.bias_layout)
        bias = builder.packed(key, [work.bias], lambda: form.pack_bias(floats(work.bias)))
    scratch = [builder.buffer(size) for size in form.scratch]
    for kernel, operands in form.jobs(places, weights, bias, scratch):
        builder.job(kernel, *operands)
    return f"conv {form.name}"


def _direct_forms(
    builder: Builder, work: _Work, places: Places, row: Phase, run: Sequence[Phase],
    epilogue: Epilogue,
) -> Iterator[Direct]:  # fmt: skip
    found = every_conv(
        builder.target, places.x.view, places.y.view, _window(row, run[0]), groups=work.groups,
        bias=epilogue.bias, residual=places.residual.view if places.residual else None,
        activation=epilogue.activation,
    )  # fmt: skip
    for kernel in found:
        step = kernel.groups * kernel.panels * kernel.steps * kernel.panel_width
        several = replace(kernel, weight_image=step if len(run) > 1 else 0)
        yield Direct(several, _packer(several, work.groups), ("transposed", work.groups))


def _packer(kernel: Conv, groups: int) -> Callable[[Floats], Floats]:
    return lambda weights: pack_weights(kernel, weights, groups)


def _packed(form: Form, work: _Work, row: Phase, run: Sequence[Phase]) -> Floats:
    return np.concatenate([form.pack(work.phase_weights(row, column)) for column in run])


def _bias(builder: Builder, work: _Work, y: Array) -> Buffer | None:
    if work.bias is None:
        return None
    size = y.blocks * y.lanes
    return builder.packed(("bias", size), [work.bias], lambda: padded(floats(work.bias), size))


def _depthwise(
    builder: Builder, work: _Work, places: Places, row: Phase, run: Sequence[Phase]
) -> str:
    x, y, residual = places.x, places.y, places.residual
    kernel = depthwise(
        builder.target, x.view, y.view, _window(row, run[0]), bias=work.bias is not None,
        residual=residual.view if residual else None, activation=work.activation,
    )  # fmt: skip
    if len(run) > 1:
        kernel = replace(kernel, weight_image=y.array.blocks * kernel.taps * kernel.lanes)
    taps = (row.taps, tuple(column.taps for column in run))
    weights = builder.packed(
        ("depthwise", kernel.lanes, taps), [work.weights],
        lambda: np.concatenate(
            [pack_depthwise(kernel, work.phase_weights(row, column)) for column in run]
        ),
    )  # fmt: skip
    bias = _bias(builder, work, y.array)
    operands: list[Place | Buffer] = [
        x,
        weights,
        *([bias] if bias else []),
        *([residual] if residual else []),
    ]
    builder.job(kernel, *operands, y)
    return f"depthwise {kernel.columns}"


def _fill(builder: Builder, work: _Work, places: Places) -> str:
    """A phase that no tap reaches: bias and residual alone."""
    y, bias = places.y, _bias(builder, work, places.y.array)
    shape = (y.array.batch, y.array.blocks, y.array.height, y.array.width, y.lanes)
    given: list[tuple[Operand, Strided]] = []
    if bias is not None:
        given.append((Operand(bias), Strided((0, y.lanes, 0, 0, 1))))
    if places.residual:
        given.append((places.residual.operand, _blocked(places.residual.array)))
    steps, last = [], 0
    if len(given) == 2:
        steps, last = [Step("Add", (0, 1))], 2
    if not given:
        zero = builder.packed("zero", [work.weights], lambda: np.zeros(1, np.float32))
        given.append((Operand(zero), Strided((0, 0, 0, 0, 0))))
    steps.append(Step(work.activation.name, (last,), work.activation.parameters))
    strided = [operand for _, operand in given]
    kernel = elementwise(
        shape, strided, [_blocked(y.array)], steps, [len(given) + len(steps) - 1],
        builder.scope.width,
    )  # fmt: skip
    builder.job(kernel, *(operand for operand, _ in given), y)
    return "bias"


def _blocked(array: Array) -> Strided:
    return Strided((array.image, array.block, array.row, array.column, 1))
