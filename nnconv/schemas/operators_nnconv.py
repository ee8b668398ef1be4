"""The operators of our own domain, `nnconv`: what ONNX lacks.

Each is declared here once: inputs, outputs, attributes. Its shape rule stands in `infer/`, its
meaning and gradient in `runtime/ops/`, and, where it can be said in standard operators, its body in
`functions.py`.
"""

from __future__ import annotations

from typing import Any

from nnconv.schemas.operators import Attribute, Formal, Operator


def declare(name: str, inputs: str, outputs: str, /, **attributes: Any) -> Operator:
    """`inputs` and `outputs` are names apart by blanks, `?` behind an optional and `*` behind a
    variadic one.

    An attribute is given by its default, or by its type where it has none.
    """
    return Operator(
        name=f"nnconv.{name}",
        inputs=tuple(map(_formal, inputs.split())),
        outputs=tuple(map(_formal, outputs.split())),
        attributes={key: _attribute(value) for key, value in attributes.items()},
        since=(1,),
    )


def _formal(text: str) -> Formal:
    kind = {"?": "optional", "*": "variadic"}.get(text[-1], "single")
    return Formal(text.rstrip("?*"), kind, "T")


def _attribute(default: Any) -> Attribute:
    if isinstance(default, type):
        return Attribute(default.__name__.replace("tuple", "ints").replace("str", "string"))
    kind = {int: "int", float: "float", str: "string", tuple: "ints"}[type(default)]
    return Attribute(kind, default)


LOSS = {"normalization": "VALID", "axis": 1, "ignore_label": int}

OPERATORS: dict[str, Operator] = {
    op.name: op
    for op in (
        # shapes in Caffe's way: axes [axis, end_axis] become one; `dims` replace num_axes axes from
        # `axis`
        declare("Flatten", "X", "Y", axis=1, end_axis=-1),
        declare("Reshape", "X", "Y", dims=tuple, axis=0, num_axes=-1),
        # windows that may lie outside the data: Caffe's pooling without padding where stride >
        # kernel
        declare(
            "Pool",
            "X",
            "Y",
            mode="MAX",
            kernel_shape=tuple,
            strides=tuple,
            pads=tuple,
            round_mode="CEIL",
        ),
        # a level of Caffe's SPP: bins x bins windows over planes of any size
        declare("PyramidPool", "X", "Y", mode="MAX", bins=1),
        # the items of X whose selector is not 0; `size` names how many these are
        declare("Select", "X selector", "Y", size=str),
        # behaviour that depends on the mode of the run; `use_global_stats` is -1 for "as the mode
        # says"
        declare(
            "BatchNorm",
            "X mean_sum variance_sum factor",
            "Y mean_sum_next? variance_sum_next? factor_next?",
            epsilon=1e-5,
            moving_average_fraction=0.999,
            use_global_stats=-1,
        ),
        declare("Dropout", "X", "Y", ratio=0.5, seed=0),
        # Caffe's MVN: eps is added to the deviation, and its derivative leaves that out
        declare("MVN", "X", "Y", normalize_variance=1, across_channels=0, eps=1e-9),
        # X itself, beyond which no gradient goes: Caffe's `propagate_down: false`
        declare("StopGradient", "X", "Y"),
        # recurrences in Caffe's way: X [T, N, 4 H] or [T, N, H] is what the gates (i, f, o, g) get
        # from outside, R their weights for the state before, which `cont` [T, N] is multiplied with
        declare("LSTM", "X cont R h0 c0", "H C"),
        declare("RNN", "X cont R h0", "H"),
        # losses with Caffe's normalisers
        declare("SoftmaxWithLoss", "X label", "loss", **LOSS),
        declare(
            "SigmoidCrossEntropyLoss",
            "X target",
            "loss",
            normalization="BATCH_SIZE",
            ignore_label=int,
        ),
        declare("EuclideanLoss", "A B", "loss"),
        declare("Accuracy", "X label", "accuracy per_class?", axis=1, top_k=1, ignore_label=int),
    )
}
