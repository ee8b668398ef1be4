"""Normalisation, dropout and recurrence: flags that told training from inference, and what became
of them.
"""

from __future__ import annotations

import math

from nnconv.converter.onnx.adapters.registry import lifts
from nnconv.converter.onnx.call import Call
from nnconv.schemas.types import DType


@lifts(7, "BatchNormalization", "Dropout")
def inference_only(call: Call) -> None:
    """`is_test` told a training graph from one to be used; exporters of the time left it out at
    will.
    """
    call.take("is_test")


@lifts(9, "BatchNormalization")
def not_spatial(call: Call) -> None:
    """spatial = 0: every element has statistics of its own, (x - mean) / sqrt(var + eps) * scale +
    bias.
    """
    if call.take("spatial", 1):
        return
    x, scale, bias, mean, variance = (call.x(index) for index in range(5))
    deviation = call.emit("Sqrt", variance + call.like(call.take("epsilon", 1e-5), variance))
    normal = call.emit("Div", x - mean, deviation)
    call.drop_unused_outputs()
    call.finish("Add", normal * scale, bias)


@lifts(14, "BatchNormalization")
def batch_normalization(call: Call) -> None:
    """Giving more outputs than Y asked for training."""
    call.drop_unused_outputs()
    if len(call.outputs) > 3 and any(call.outputs[3:]):
        raise call.unsupported("gives the saved statistics of a training step")
    if len(call.outputs) > 1:
        call.attributes["training_mode"] = 1


@lifts(21, "GroupNormalization")
def group_normalization(call: Call) -> None:
    """Scale and bias had a number for each group, now for each channel."""
    groups, channels = call.attributes.get("num_groups", 1), call.shape()[1]
    if not isinstance(channels, int) or groups < 1:
        raise call.unsupported("needs a fixed number of channels")
    for index in (1, 2):
        column = call.emit("Unsqueeze", call.x(index), call.integers([1]))
        wide = call.emit("Expand", column, call.integers([groups, channels // groups]))
        call.set_input(index, call.emit("Reshape", wide, call.integers([channels])))


@lifts(10, "Dropout")
def dropout_mask(call: Call) -> None:
    """The mask was a number, and is a truth value."""
    call.drop_unused_outputs()
    if len(call.outputs) > 1:
        raise call.unsupported("gives its mask as numbers")


@lifts(12, "Dropout")
def dropout(call: Call) -> None:
    """The ratio becomes an input; without training_mode nothing is dropped."""
    call.drop_unused_outputs()
    ratio = call.take("ratio", 0.5)
    if not math.isclose(ratio, 0.5):
        call.set_input(1, call.graph.constant(ratio, DType.FLOAT32))


@lifts(3, "GRU")
def gru_sequence(call: Call) -> None:
    call.take("output_sequence")


@lifts(7, "RNN", "LSTM", "GRU")
def output_sequence(call: Call) -> None:
    """Whether Y is wanted shows in whether it is named."""
    call.take("output_sequence")


@lifts(9, "Scan")
def scan(call: Call) -> None:
    raise call.unsupported("runs over a batch axis")
