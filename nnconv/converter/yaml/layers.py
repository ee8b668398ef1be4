"""The short layer language: words for common layers, each a row of one table.

A layer is written as text (`conv 20 5x5 /2 pad 1`) or as a mapping (`{op: conv, channels: 20,
kernel: 5}`); both become the same settings. Bare numbers fill the settings named `positional`,
`5x5` is a kernel, `/2` a stride, a flag is its own name, anything else is a name and its value.
What a word does not say is ONNX's own default, so any model can be written with operators by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnconv.schemas.errors import InputError, UnsupportedError, did_you_mean
from nnconv.schemas.graph import Filler, Value

if TYPE_CHECKING:
    from nnconv.converter.yaml.builder import Layer

# kind of setting -> what it must look like
INTEGER, NUMBER, SIZES, FLAG, INTEGERS = "whole number", "number", "size", "flag", "whole numbers"
Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Word:
    """One word of the language. `build` gets the layer, its inputs and all settings filled in.

    `settings` maps each setting to its kind; `defaults` fills in those left out, and a setting
    without a default is required.
    """

    build: Callable[..., Value]
    settings: Mapping[str, str]
    defaults: Settings
    positional: tuple[str, ...] = ()
    inputs: int = 1  # -1: two or more


def _window_settings(layer: Layer, settings: Settings) -> dict[str, Any]:
    """kernel_shape, strides, pads and dilations of two axes, as ONNX has them."""
    kernel, stride = pair(settings["kernel"]), pair(settings["stride"])
    pad, dilation = pair(settings["pad"]), pair(settings["dilation"])
    for name, sides in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if min(sides) < 1:
            raise layer.wrong(name, f"{name} must be 1 or more")
    return {
        "kernel_shape": kernel,
        "strides": stride,
        "pads": pad * 2,
        "dilations": dilation,
    }


def conv(layer: Layer, x: Value, settings: Settings) -> Value:
    """Conv with weights NAME/0 [channels, inputs / group, kh, kw] and bias NAME/1."""
    return _convolution("Conv", layer, x, settings)


def deconv(layer: Layer, x: Value, settings: Settings) -> Value:
    """ConvTranspose with weights NAME/0 [inputs, channels / group, kh, kw] and bias NAME/1."""
    return _convolution("ConvTranspose", layer, x, settings)


def _convolution(op: str, layer: Layer, x: Value, settings: Settings) -> Value:
    window = _window_settings(layer, settings)
    group, channels = settings["group"], settings["channels"]
    inner = layer.channels(x)
    if group < 1 or channels < 1 or inner % group or channels % group:
        raise layer.wrong(
            "group", f"{inner} input and {channels} output channels do not split into {group}"
        )
    first, second = (channels, inner) if op == "Conv" else (inner, channels)
    weights = layer.weights((first, second // group, *window["kernel_shape"]))
    bias = layer.bias((channels,)) if settings["bias"] else None
    return layer.emit(op, x, weights, bias, group=group, **window)


def dense(layer: Layer, x: Value, settings: Settings) -> Value:
    """Gemm with weights NAME/0 [units, inputs] and bias NAME/1, over everything but the batch."""
    units, shape = settings["units"], x.known_shape
    if units < 1:
        raise layer.wrong("units", "units must be 1 or more")
    inner = layer.product(shape[1:])
    weights = layer.weights((units, inner))
    bias = layer.bias((units,)) if settings["bias"] else None
    flat = (
        x if len(shape) == 2 else layer.graph.emit("Flatten", x, outputs=[layer.inner("flatten")])
    )
    return layer.emit("Gemm", flat, weights, bias, transB=1)


def batch_norm(layer: Layer, x: Value, settings: Settings) -> Value:
    """nnconv.BatchNorm: running sums NAME/0, NAME/1 and their weight NAME/2 are state; then scale
    NAME/3 and shift NAME/4 by channel, unless `affine: false`."""
    channels = layer.channels(x)
    sums = [layer.running(index, shape) for index, shape in enumerate([(channels,)] * 2 + [(1,)])]
    affine = settings["affine"]
    first = layer.inner("normalized") if affine else layer.name
    names = [first, *(layer.inner(word) for word in ("mean", "variance", "factor"))]
    y, *following = layer.graph.emit(
        "nnconv.BatchNorm", x, *sums, outputs=names, epsilon=settings["epsilon"],
        moving_average_fraction=settings["fraction"],
    )  # fmt: skip
    layer.keep(sums, following)
    if not affine:
        result: Value = y
        return result
    shape = (channels,) + (1,) * (len(x.known_shape) - 2)
    scale = layer.parameter(3, shape, Filler(options={"value": 1.0}))
    shift = layer.parameter(4, shape, Filler())
    scaled = layer.graph.emit("Mul", y, scale, outputs=[layer.inner("scaled")])
    return layer.emit("Add", scaled, shift)


def pool(op: str) -> Callable[[Layer, Value, Settings], Value]:
    def build(layer: Layer, x: Value, settings: Settings) -> Value:
        window = _window_settings(layer, settings)
        if any(p >= k for p, k in zip(pair(settings["pad"]), window["kernel_shape"], strict=True)):
            raise layer.wrong("pad", "pad must be smaller than the kernel")
        if window["dilations"] == (1, 1):
            del window["dilations"]
        more = {"count_include_pad": int(settings["count_pad"])} if "count_pad" in settings else {}
        return layer.emit(op, x, ceil_mode=int(settings["ceil"]), **window, **more)

    return build


def plain(op: str, **attributes: str) -> Callable[..., Value]:
    """An operator whose attributes are the word's settings, under the names given here."""

    def build(layer: Layer, *arguments: Any) -> Value:
        *inputs, settings = arguments
        renamed = {attributes[name]: value for name, value in settings.items()}
        return layer.emit(op, *inputs, **renamed)

    return build


def reshape(layer: Layer, x: Value, settings: Settings) -> Value:
    import numpy as np

    sizes = layer.graph.constant(
        np.array(settings["shape"], np.int64), name=layer.graph.fresh_name(layer.inner("shape"))
    )
    return layer.emit("Reshape", x, sizes)


def lrn(layer: Layer, x: Value, settings: Settings) -> Value:
    k = settings["k"]
    return layer.emit(
        "LRN", x, size=settings["size"], alpha=settings["alpha"], beta=settings["beta"], bias=k
    )


_WINDOW = {"kernel": SIZES, "stride": SIZES, "pad": SIZES, "dilation": SIZES}
_WINDOW_DEFAULTS = {"stride": (1,), "pad": (0,), "dilation": (1,)}
_CONV = Word(
    conv,
    {"channels": INTEGER, **_WINDOW, "group": INTEGER, "bias": FLAG},
    {**_WINDOW_DEFAULTS, "group": 1, "bias": True},
    ("channels",),
)
_MAX = Word(
    pool("MaxPool"), {**_WINDOW, "ceil": FLAG}, {**_WINDOW_DEFAULTS, "ceil": False}, ("kernel",)
)
_AVERAGE = Word(
    pool("AveragePool"),
    {**_WINDOW, "ceil": FLAG, "count_pad": FLAG},
    {**_WINDOW_DEFAULTS, "ceil": False, "count_pad": False},
    ("kernel",),
)


def _bare(op: str, inputs: int = 1) -> Word:
    return Word(plain(op), {}, {}, inputs=inputs)


WORDS: dict[str, Word] = {
    "conv": _CONV,
    "deconv": Word(deconv, _CONV.settings, _CONV.defaults, ("channels",)),
    "dense": Word(dense, {"units": INTEGER, "bias": FLAG}, {"bias": True}, ("units",)),
    "max": _MAX,
    "average": _AVERAGE,
    "global_max": _bare("GlobalMaxPool"),
    "global_average": _bare("GlobalAveragePool"),
    "relu": _bare("Relu"),
    "sigmoid": _bare("Sigmoid"),
    "tanh": _bare("Tanh"),
    "softplus": _bare("Softplus"),
    "abs": _bare("Abs"),
    "exp": _bare("Exp"),
    "identity": _bare("Identity"),
    "leaky_relu": Word(
        plain("LeakyRelu", alpha="alpha"), {"alpha": NUMBER}, {"alpha": 0.01}, ("alpha",)
    ),
    "elu": Word(plain("Elu", alpha="alpha"), {"alpha": NUMBER}, {"alpha": 1.0}, ("alpha",)),
    "softmax": Word(plain("Softmax", axis="axis"), {"axis": INTEGER}, {"axis": 1}, ("axis",)),
    "flatten": Word(plain("Flatten", axis="axis"), {"axis": INTEGER}, {"axis": 1}, ("axis",)),
    "concat": Word(plain("Concat", axis="axis"), {"axis": INTEGER}, {"axis": 1}, ("axis",), -1),
    "reshape": Word(reshape, {"shape": INTEGERS}, {}, ("shape",)),
    "dropout": Word(
        plain("nnconv.Dropout", ratio="ratio"), {"ratio": NUMBER}, {"ratio": 0.5}, ("ratio",)
    ),
    "lrn": Word(
        lrn,
        {"size": INTEGER, "alpha": NUMBER, "beta": NUMBER, "k": NUMBER},
        {"alpha": 0.0001, "beta": 0.75, "k": 1.0},
        ("size",),
    ),
    "batch_norm": Word(
        batch_norm,
        {"epsilon": NUMBER, "fraction": NUMBER, "affine": FLAG},
        {"epsilon": 1e-5, "fraction": 0.999, "affine": True},
    ),
    "add": _bare("Add", 2),
    "sub": _bare("Sub", 2),
    "mul": _bare("Mul", 2),
    "div": _bare("Div", 2),
    "sum": _bare("Sum", -1),
    "maximum": _bare("Max", -1),
    "mean": _bare("Mean", -1),
}

_SIZES = re.compile(r"\d{1,9}(?:x\d{1,9})+")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_INTEGER = re.compile(r"[-+]?\d{1,15}")


def pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    """A size for both axes; one number counts twice."""
    first, second = (sizes * 2)[:2]
    return first, second


def parse_text(text: str) -> tuple[str, dict[str, Any]]:
    """The operator and the settings that a layer's text says.

    Raises InputError for what the word does not know.

    >>> parse_text("conv 20 5x5 /2 pad 1")
    ('conv', {'channels': 20, 'kernel': (5, 5), 'stride': (2,), 'pad': (1,)})
    """
    op, *tokens = text.split()
    word = WORDS.get(op)
    if word is None:
        if tokens:
            raise InputError(
                f"'{op}' is no word of the layer language, so nothing can stand behind it",
                hint=did_you_mean(op, WORDS) or f"{{op: {op}, ATTRIBUTE: VALUE}} sets attributes",
            )
        return op, {}
    return op, _settings(op, word, tokens)


def _settings(op: str, word: Word, tokens: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    open_positions = list(word.positional)
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        negated = token.removeprefix("no_")
        if token.startswith("/") and "stride" in word.settings:
            name, value = "stride", convert(SIZES, token[1:])
        elif _SIZES.fullmatch(token) and "kernel" in word.settings:
            name, value = "kernel", convert(SIZES, token)
        elif open_positions and (_NUMBER.fullmatch(token) or "," in token):
            name = open_positions.pop(0)
            value = convert(word.settings[name], token)
        elif word.settings.get(negated) == FLAG:
            name, value = negated, token == negated
        elif token in word.settings and position < len(tokens):
            name, value = token, convert(word.settings[token], tokens[position])
            position += 1
        else:
            hint = did_you_mean(token, word.settings) or _known(word)
            raise InputError(f"{op} does not know what to do with '{token}'", hint=hint)
        if value is None:
            raise InputError(f"{name} of {op} must be a {word.settings[name]}", hint=_known(word))
        if name in found:
            raise InputError(f"{op} is given {name} twice")
        found[name] = value
    return found


def convert(kind: str, text: str) -> Any:
    """A setting from text, None when it is not of its kind."""
    if kind == INTEGER:
        return int(text) if _INTEGER.fullmatch(text) else None
    if kind == NUMBER:
        return float(text) if _NUMBER.fullmatch(text) else None
    separator = "x" if kind == SIZES else ","
    parts = text.split(separator)
    if kind == FLAG or not all(map(_INTEGER.fullmatch, parts)) or len(parts) > 64:
        return None
    if kind == SIZES and (len(parts) > 2 or any(part.startswith("-") for part in parts)):
        return None
    return tuple(map(int, parts))


def completed(op: str, word: Word, settings: Settings) -> dict[str, Any]:
    """The settings with defaults; raises InputError naming those that are missing."""
    known = {**word.defaults, **settings}
    missing = [name for name in word.settings if name not in known]
    if missing:
        raise InputError(f"{op} needs {' and '.join(missing)}", hint=_known(word))
    return known


def _known(word: Word) -> str:
    return f"it takes {', '.join(word.settings)}" if word.settings else "it takes no settings"


def unknown(op: str, near: Mapping[str, Any]) -> UnsupportedError:
    hint = did_you_mean(op, [*near, *WORDS])
    return UnsupportedError(f"unknown operator '{op}'", hint=hint)
