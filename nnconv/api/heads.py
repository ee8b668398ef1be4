"""The head of a model: the scores it ends in, the loss that goes with them, how it is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from nnconv.runtime.training.fillers import fill_parameters
from nnconv.runtime.training.losses import LOSSES
from nnconv.schemas.errors import InputError, UnsupportedError, did_you_mean
from nnconv.schemas.graph import Graph, Model, Node, Value
from nnconv.schemas.infer import infer_graph

SOFTMAX, SIGMOID, EUCLIDEAN = "cross_entropy", "sigmoid_cross_entropy", "euclidean"
_LOSS_NODES = {
    "nnconv.SoftmaxWithLoss": SOFTMAX,
    "nnconv.SigmoidCrossEntropyLoss": SIGMOID,
    "nnconv.EuclideanLoss": EUCLIDEAN,
}
_ENDINGS = {"Softmax": SOFTMAX, "Sigmoid": SIGMOID}
# where an operator has its weights, which axis of them counts its results, and where its bias is
_WEIGHTED = {"Gemm": (1, 2), "Conv": (1, 2), "MatMul": (1, None)}


@dataclass(frozen=True, slots=True)
class Head:
    """`scores` is what the loss is computed from (before a final Softmax); `label` the input that
    carries the truth where the model has its own loss.
    """

    scores: Value
    loss: str
    label: Value | None = None

    @property
    def classes(self) -> int | None:
        """How many classes the scores [N,C] or [N,C,1,1] choose from, None for other scores."""
        shape = self.scores.shape
        if self.loss != SOFTMAX or shape is None or len(shape) < 2:
            return None
        return shape[1] if isinstance(shape[1], int) and set(shape[2:]) <= {1} else None


def head_of(model: Model, loss: str | None = None, scores: str | None = None) -> Head:
    """What a model is trained and judged by: its own loss; else the loss called `loss`; else the
    one that its last operator suggests. `scores` names the output, the last one by default.

    Raises InputError where nothing says which loss it is, or there is no such output.
    """
    if loss is not None and loss not in LOSSES:
        hint = did_you_mean(loss, LOSSES) or f"known: {', '.join(LOSSES)}"
        raise InputError(f"unknown loss '{loss}'", hint=hint)
    for own in model.graph.losses:
        node = own.value.producer
        if node is not None and node.op in _LOSS_NODES and loss in (None, _LOSS_NODES[node.op]):
            label = node.required(1)
            truth = label if label in model.inputs else None
            if scores is not None:
                hint = f"leave --scores away: it is of '{node.required(0).name}'"
                raise InputError("the model has a loss of its own", hint=hint)
            return Head(node.required(0), _LOSS_NODES[node.op], truth)
    last = _output(model, scores)
    ending = last.producer.op if last.producer is not None else ""
    chosen = loss or _ENDINGS.get(ending)
    if chosen is None:
        hint = (
            f"say it: --loss {SOFTMAX} (or {', '.join(name for name in LOSSES if name != SOFTMAX)})"
        )
        what = "the model" if scores is None else f"'{scores}'"
        raise InputError(f"{what} ends in {ending or 'an input'}: which loss is it?", hint=hint)
    # the loss of scores is better conditioned than that of what Softmax makes of them
    through = last.producer is not None and _ENDINGS.get(ending) == chosen
    learnt = last.producer.required(0) if through and last.producer is not None else last
    return Head(learnt, chosen)


def _output(model: Model, name: str | None) -> Value:
    outputs = {value.name: value for value in model.outputs}
    if not outputs:
        raise InputError("the model has no outputs to learn")
    if name is None:
        return model.outputs[-1]
    if name not in outputs:
        hint = did_you_mean(name, outputs) or f"there are {', '.join(outputs)}"
        raise InputError(f"--scores {name}: no output is called so", hint=hint)
    return outputs[name]


def freeze(model: Model, patterns: Sequence[str]) -> list[str]:
    """Keep the parameters that match a pattern as they are: `conv*` means every parameter, or all
    those of every layer, called so. Returns their names.

    Raises InputError for a pattern that nothing matches.
    """
    frozen: list[str] = []
    for pattern in patterns:
        found = [name for name in model.parameters if _matches(name, pattern)]
        if not found:
            layers = {name.rpartition("/")[0] or name for name in model.parameters}
            hint = did_you_mean(pattern, layers) or f"there are {', '.join(sorted(layers)[:8])}"
            raise InputError(f"--freeze {pattern}: no parameter is called so", hint=hint)
        frozen += found
    for name in frozen:
        value = model.parameters[name]
        assert value.parameter is not None
        # copies of a graph share these settings, so they are replaced and not changed
        value.parameter = replace(value.parameter, lr_mult=0.0)
    return list(dict.fromkeys(frozen))


def _matches(name: str, pattern: str) -> bool:
    layer = name.rpartition("/")[0]
    return fnmatchcase(name, pattern) or (bool(layer) and fnmatchcase(layer, pattern))


@dataclass(slots=True)
class _Weights:
    """The last weights before the scores: the axis that counts results, and the bias."""

    value: Value
    axis: int
    biases: list[Value] = field(default_factory=list)


def replace_head(
    model: Model, head: Head, outputs: int, labels: Sequence[str] = (), seed: int = 0
) -> list[str]:
    """Give the model's last layer with weights another number of outputs, freshly filled; the model
    is changed in place. Returns the names of the new parameters.

    Raises UnsupportedError where the last weights are not those of a fully connected layer or a
    convolution, or are used elsewhere too.
    """
    if outputs < 1:
        raise InputError(f"a head needs one output or more, got {outputs}")
    weights = _last_weights(head.scores)
    old = weights.value.known_shape[weights.axis]
    values = [weights.value, *(bias for bias in weights.biases if bias.known_shape == (old,))]
    for value in values:
        if len(value.uses) > 1:
            raise UnsupportedError(
                f"'{value.name}' is shared by several layers: no head to replace"
            )
        axis = weights.axis if value is weights.value else 0
        sizes = list(value.known_shape)
        sizes[axis] = outputs
        value.shape, value.data = tuple(sizes), None
    names = [value.name for value in values]
    _reshape(model.graph, values)
    fill_parameters(model.graph, seed, only=names)
    model.labels = tuple(labels) if len(labels) == outputs else ()
    return names


def _reshape(graph: Graph, values: Sequence[Value]) -> None:
    """Infer the graph again; what was inferred from the old sizes must not contradict."""
    try:
        infer_graph(graph)
    except InputError as error:
        what = ", ".join(value.name for value in values)
        raise UnsupportedError(f"another size of {what} does not fit the rest: {error}") from None


def _last_weights(scores: Value) -> _Weights:
    """Walk back from the scores to the first layer with weights, keeping biases on the way."""
    biases: list[Value] = []
    node = scores.producer
    while node is not None:
        found = _weights_of(node)
        if found is not None:
            found.biases += biases
            return found
        biases += [value for value in node.inputs if value is not None and value.parameter]
        computed = [v for v in node.inputs if v is not None and v.producer is not None]
        node = computed[0].producer if computed else None
    raise UnsupportedError(
        f"nothing with weights leads to '{scores.name}': there is no head to replace"
    )


def _weights_of(node: Node) -> _Weights | None:
    if node.op not in _WEIGHTED:
        return None
    at, bias_at = _WEIGHTED[node.op]
    value, axis = node.required(at), 0
    if node.op == "MatMul" or (node.op == "Gemm" and not node.transB):
        axis = value.rank - 1
    turning = value.producer
    if turning is not None and turning.op == "Transpose" and value.rank == 2:
        value, axis = turning.required(0), 1 - axis
    if value.parameter is None:
        return None
    bias = node.input(bias_at) if bias_at is not None else None
    return _Weights(value, axis, [bias] if bias is not None and bias.parameter else [])
