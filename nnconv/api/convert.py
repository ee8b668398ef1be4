"""From any format to any other, and what two models differ in.

A conversion is written into a folder of its own beside the target, read back, run against the
source on random inputs, and only then moved into place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnconv.api.files import AnyPath, checked_target, load, save
from nnconv.converter import formats
from nnconv.schemas.dims import evaluate_shape, names
from nnconv.schemas.errors import InputError, MismatchError, NnconvError, Report, UnsupportedError
from nnconv.schemas.files import STREAM
from nnconv.schemas.graph import Model, Value

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

TOLERANCE = 1e-4
"""How far outputs may be apart, as a share of their largest element; sums in another order are."""
_SEED = 20240229
# operators whose second input holds class numbers
_LABELLED = frozenset(
    ("nnconv.SoftmaxWithLoss", "nnconv.Accuracy", "SoftmaxCrossEntropyLoss",
     "NegativeLogLikelihoodLoss")
)  # fmt: skip


@dataclass(slots=True)
class Converted:
    """What a conversion gave: the model, the files written, what could not be held (`report`), and
    how far the outputs of both sides are apart (None: not checked)."""

    model: Model
    files: list[Path] = field(default_factory=list)
    report: Report = field(default_factory=Report)
    difference: float | None = None


def convert(
    inputs: AnyPath | Sequence[AnyPath],
    output: AnyPath,
    *,
    check: bool = True,
    report: Report | None = None,
    **options: Any,
) -> Converted:
    """Read a model from one or several files and write it in the format that `output`'s suffix
    says.

    With `check` the result is read back and run against the source on random inputs, weights
    compared bit for bit; where they differ MismatchError is raised and nothing is written.
    `options` are those of `nnconv.load`. Raises what load and save raise.

    >>> import nnconv, tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp(), "lenet.onnx")
    >>> nnconv.convert("zoo:lenet", target).difference < 1e-5
    True
    """
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    target = checked_target(output)
    if os.fspath(output) == STREAM:
        hint = "caffe2ir, onnx2ir and yaml2ir write a .nnir to -o -"
        raise InputError("convert: the suffix of OUT says the format, - has none", hint=hint)
    formats.writable(target)
    found = report if report is not None else Report(", ".join(map(str, paths)))
    model = load(paths, report=found, **options)
    done = Converted(model, report=found)
    with _staging(Path(os.path.realpath(target)).parent) as staging:
        staged = staging / target.name
        save(model, staged, report=found)
        if check:
            done.difference = _checked(model, staged, found)
        done.files = _move(staging, target, paths)
    return done


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, even where an interrupt comes as it is removed."""
    staging = Path(tempfile.mkdtemp(prefix=".nnconv-", dir=parent))
    try:
        yield staging
    finally:
        try:
            shutil.rmtree(staging, ignore_errors=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, target: Path, sources: Sequence[AnyPath]) -> list[Path]:
    """Put the files into place, the one that names the others last; links stay links."""
    inside = sorted(
        (path.name for path in staging.iterdir()), key=lambda name: (name == target.name, name)
    )
    targets = [target.parent / name for name in inside]
    for place in targets:
        for source in sources:
            if place.exists() and os.path.exists(source) and place.samefile(source):  # noqa: PTH110
                raise InputError(f"{place}: this would overwrite the input")
    for name, place in zip(inside, targets, strict=True):
        os.replace(staging / name, os.path.realpath(place))  # noqa: PTH105
    return targets[::-1]


def _checked(model: Model, staged: Path, report: Report) -> float | None:
    """As `_check`, but errors name no file of the staging folder, which is gone by then."""
    try:
        return _check(model, staged, report)
    except MismatchError:
        raise
    except NnconvError as error:
        text = error.problems[0].message
        raise MismatchError(
            f"what was written cannot be read back: {text}", hint="please report it"
        ) from error


def _check(model: Model, written: Path, report: Report) -> float | None:
    """How far the outputs of `model` and of what was written are apart; None where nobody can run
    it. Raises MismatchError where they differ, or weights do."""
    form = formats.identify(written)
    if form.family == "weights":
        _check_weights(model, written)
        return 0.0
    second = written.with_suffix(".caffemodel")
    again = load(written, second if form.name == "prototxt" else None)
    _check_bits(model, again)
    if any(value.data is None for value in model.parameters.values()):
        report.warning("not checked by running: the model has no weights yet")
        return None
    try:
        feeds, results = _run_somehow(model)
        return _compare(results, run(again, feeds))
    except UnsupportedError as error:
        report.warning(f"not checked by running: {error.problems[0].message}")
        return None


def _run_somehow(model: Model) -> tuple[dict[str, Array], list[Array]]:
    """Feeds and results of a model at the sizes it states; where it states none, at the first of
    some usual ones that it runs at."""
    free = {n for v in model.inputs for dim in v.shape or () for n in names(dim)}
    unknown = free - model.graph.sizes.keys()
    batch = {n for v in model.inputs if v.shape for n in names(v.shape[0])}
    for size in _USUAL if unknown - batch else (1,):
        sizes = {name: 1 if name in batch else size for name in unknown}
        feeds = random_feeds(model, sizes)
        try:
            return feeds, run(model, feeds)
        except InputError:  # this net does not run at that size
            continue
    raise UnsupportedError(
        f"no size is stated for {', '.join(sorted(unknown)) or 'the inputs'}",
        hint="--input-shape NAME:N,C,H,W says it",
    )


_USUAL = (28, 32, 64, 224, 227, 299)


def _check_weights(model: Model, written: Path) -> None:
    arrays = formats.read_weights(written).parameters
    for name, array in model.weights.items():
        if name not in arrays or not same_bits(array, arrays[name]):
            raise MismatchError(f"'{name}' is not in {written.name} as it is in the model")


def _check_bits(model: Model, again: Model) -> None:
    """Weights that both sides have under one name must be equal bit for bit."""
    for name, array in model.weights.items():
        other = again.weights.get(name)
        if other is not None and not same_bits(array, other):
            raise MismatchError(f"the weights '{name}' came out different")


def same_bits(a: Array, b: Array) -> bool:
    import numpy as np

    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    left, right = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return bool((left.reshape(-1).view(np.uint8) == right.reshape(-1).view(np.uint8)).all())


def random_feeds(model: Model, sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """One random array for each input, at the sizes that the model itself states (else `sizes`):
    normal numbers, and 0 or 1 for integers and labels. The same model gives the same arrays."""
    import numpy as np

    random = np.random.default_rng(_SEED)
    feeds: dict[str, Array] = {}
    for value in model.inputs:
        if value.shape is None:
            raise UnsupportedError(f"the rank of input '{value.name}' is not known")
        shape = evaluate_shape(value.shape, {**(sizes or {}), **model.graph.sizes})
        if value.dtype.is_float and not _is_label(value):
            feeds[value.name] = random.standard_normal(shape, np.float32).astype(value.dtype.numpy)
        else:
            feeds[value.name] = random.integers(0, 2, shape).astype(value.dtype.numpy)
    return feeds


def _is_label(value: Value) -> bool:
    return any(node.op in _LABELLED and index == 1 for node, index in value.uses)


def run(model: Model, feeds: dict[str, Array]) -> list[Array]:
    """The outputs of a model, inputs matched by name, or else by position."""
    from nnconv.runtime.executor import compile_model

    arrays = list(feeds.values())
    given = {
        value.name: feeds.get(value.name, arrays[min(index, len(arrays) - 1)])
        for index, value in enumerate(model.inputs)
    }
    results = compile_model(model, mode="test").run(given)
    return [results[value.name] for value in model.outputs]


def _compare(left: list[Array], right: list[Array]) -> float:
    import numpy as np

    if len(left) != len(right):
        raise MismatchError(f"the source has {len(left)} outputs, what was written {len(right)}")
    worst = 0.0
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        if a.shape != b.shape:
            raise MismatchError(f"output {index} is {a.shape} in the source, {b.shape} as written")
        if not a.size:
            continue
        wide, other = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = float(np.nanmax(np.abs(wide - other), initial=0.0))
            scale = float(np.nanmax(np.abs(wide), initial=0.0))
        share = gap / scale if scale else gap
        if share > TOLERANCE or not np.array_equal(np.isfinite(wide), np.isfinite(other)):
            raise MismatchError(
                f"output {index} differs by {gap:.3g} of {scale:.3g}: what was written does not "
                "mean the same",
                hint="please report it; --no-check writes it all the same",
            )
        worst = max(worst, share)
    return worst


def weights_of(path: AnyPath, report: Report | None = None) -> tuple[Model | None, Any]:
    """The model in a file (None for weights alone) and its arrays by name."""
    from nnconv.zoo import is_zoo_name

    if not is_zoo_name(path) and formats.identify(path).family == "weights":
        return None, formats.read_weights(path).parameters
    try:
        model = load(path, report=report)
    except NnconvError:
        # HDF5 and the like have no net of their own
        if is_zoo_name(path) or not formats.identify(path).weights:
            raise
        return None, formats.read_weights(path).parameters
    return model, model.weights
