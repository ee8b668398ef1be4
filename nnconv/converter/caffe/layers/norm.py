"""Normalisations: LRN over channels or within one, BatchNorm with its running sums, and MVN."""

from __future__ import annotations

from typing import Any

from nnconv.converter.caffe.layers.layer import Layer
from nnconv.converter.caffe.layers.registry import reads, writes
from nnconv.converter.caffe.layers.writing import Written, message
from nnconv.schemas.graph import Node, Value


@reads("LRN")
def read_lrn(layer: Layer, x: Value) -> Value:
    p = layer.lrn_param
    if p.local_size % 2 == 0:
        raise layer.error(
            "local_size",
            f"local_size must be odd, got {p.local_size}",
            hint="Caffe refuses this net too; the usual value is 5",
        )
    layer.need_rank(x, 4)
    if p.norm_region == "ACROSS_CHANNELS":
        return layer.emit("LRN", x, size=p.local_size, alpha=p.alpha, beta=p.beta, bias=p.k)
    # WITHIN_CHANNEL: the average counts padding, and k is ignored (lrn_layer.cpp, LayerSetUp)
    side, pad = p.local_size, p.local_size // 2
    mean = layer.emit(
        "AveragePool",
        x * x,
        kernel_shape=(side, side),
        pads=(pad,) * 4,
        count_include_pad=1,
        ceil_mode=1,
    )
    return x * (1 + p.alpha * mean) ** -p.beta  # type: ignore[no-any-return]


@writes("LRN")
def write_lrn(node: Node) -> Written | None:
    if node.size % 2 == 0:
        return None
    param = {"local_size": node.size, "alpha": node.alpha, "beta": node.beta, "k": node.bias}
    return message(node, "LRN", lrn_param=param)


@reads("BatchNorm")
def read_batch_norm(layer: Layer, x: Value) -> Value:
    """The blobs are sums of means and variances, and the weight of what has been summed."""
    p = layer.batch_norm_param
    for spec in layer.param:
        if spec.lr_mult != 0:
            raise layer.error(
                "param",
                "BatchNorm's statistics cannot be trained: lr_mult must be 0",
                hint="write param { lr_mult: 0 } three times, or leave param out",
            )
    channels = layer.shape(x)[layer.axis(x, 1, "bottom")]
    blobs = [
        layer.parameter(i, shape, frozen=True) for i, shape in enumerate([(channels,)] * 2 + [(1,)])
    ]
    use_global = {True: 1, False: 0}[p.use_global_stats] if p.has("use_global_stats") else -1
    names: Any = 1 if use_global == 1 else 4
    result = layer.graph.emit(
        "nnconv.BatchNorm",
        x,
        *map(layer.net.parameters.current, blobs),
        outputs=names,
        epsilon=p.eps,
        moving_average_fraction=p.moving_average_fraction,
        use_global_stats=use_global,
    )
    if use_global == 1:
        return result  # type: ignore[no-any-return]
    y, *following = result
    for blob, value in zip(blobs, following, strict=True):
        layer.net.parameters.update(blob, value)
    return y  # type: ignore[no-any-return]


@writes("nnconv.BatchNorm")
def write_batch_norm(node: Node) -> Written:
    param: dict[str, Any] = {
        "eps": node.epsilon,
        "moving_average_fraction": node.moving_average_fraction,
    }
    if node.use_global_stats >= 0:
        param["use_global_stats"] = bool(node.use_global_stats)
    return message(
        node,
        "BatchNorm",
        blobs=node.inputs[1:],
        tops=node.outputs[:1],
        param=[{"lr_mult": 0.0}] * 3,
        batch_norm_param=param,
    )


@reads("MVN")
def read_mvn(layer: Layer, x: Value) -> Value:
    """The top has four axes whatever the bottom has (mvn_layer.cpp, Reshape)."""
    p, rank = layer.mvn_param, len(layer.shape(x))
    if rank > 4:
        raise layer.error("bottom", f"MVN takes at most 4 axes, '{x.name}' is {layer.show(x)}")
    return layer.emit(
        "nnconv.MVN",
        layer.unsqueeze(x, range(rank, 4)),
        normalize_variance=int(p.normalize_variance),
        across_channels=int(p.across_channels),
        eps=p.eps,
    )


@writes("nnconv.MVN")
def write_mvn(node: Node) -> Written:
    param = {
        "normalize_variance": bool(node.normalize_variance),
        "across_channels": bool(node.across_channels),
        "eps": node.eps,
    }
    return message(node, "MVN", mvn_param=param)
