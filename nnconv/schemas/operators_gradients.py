"""The operators that only gradients need: where standard ones would be clumsy, slow, or none.

Each is linear in `dY`, the gradient of a result, and gives `dX`, that of the operand named. `shape`
(int64) is what the operand's sizes are: mostly a Shape node, which binding folds, so that the
operand itself need not be kept. Attributes are those of the operator whose gradient it is.
"""

from __future__ import annotations

from nnconv.schemas.operators import Operator
from nnconv.schemas.operators_nnconv import LOSS, declare

_WINDOWS = {"auto_pad": "NOTSET", "dilations": tuple, "pads": tuple, "strides": tuple}
_CONV = {**_WINDOWS, "group": 1, "kernel_shape": tuple}
_POOL = {**_WINDOWS, "ceil_mode": 0, "kernel_shape": tuple}

OPERATORS: dict[str, Operator] = {
    op.name: op
    for op in (
        # broadcasting backwards: the sum over what broadcasting repeated
        declare("SumTo", "X shape", "Y"),
        declare("ConvGradData", "dY W shape", "dX", **_CONV),
        declare("ConvGradWeights", "X dY shape", "dW", **_CONV),
        # to the first of the largest cells of each window, as MaxPool's indices name it
        declare("MaxPoolGrad", "X dY", "dX", storage_order=0, **_POOL),
        # to the first of the largest cells of each plane
        declare("GlobalMaxPoolGrad", "X dY", "dX"),
        declare("AveragePoolGrad", "dY shape", "dX", count_include_pad=0, **_POOL),
        declare(
            "PoolGrad",
            "X dY",
            "dX",
            mode="MAX",
            kernel_shape=tuple,
            strides=tuple,
            pads=tuple,
            round_mode="CEIL",
        ),
        declare("PyramidPoolGrad", "X dY", "dX", mode="MAX", bins=1),
        declare("LRNGrad", "X dY", "dX", size=int, alpha=1e-4, beta=0.75, bias=1.0),
        # H and C are the results of the recurrence; h0, c0 and cont have no gradients
        declare("LSTMGrad", "X cont R h0 c0 H C dH dC", "dX dR"),
        declare("RNNGrad", "X cont R h0 H dH", "dX dR"),
        # these behave by the mode of the run, as the operators do whose gradients they are
        declare(
            "BatchNormGrad",
            "X mean_sum variance_sum factor dY",
            "dX",
            epsilon=1e-5,
            use_global_stats=-1,
        ),
        # Y, the result of the Dropout, says whose mask it is; its elements are not read
        declare("DropoutGrad", "Y dY", "dX", ratio=0.5, seed=0),
        declare("SoftmaxWithLossGrad", "X label dY", "dX", **LOSS),
        declare(
            "SigmoidCrossEntropyLossGrad",
            "X target dY",
            "dX",
            normalization="BATCH_SIZE",
            ignore_label=int,
        ),
        declare("GatherGrad", "dY indices shape", "dX", axis=0),
        declare("SliceGrad", "dY shape starts ends axes? steps?", "dX"),
        # hands X, the gradient of the value called `of`, to a hook, and passes on what that leaves
        declare("Hook", "X", "Y", of=str, key=0),
    )
}
