"""Models of the zoo, ready to use: fetched when they are not here, converted once, kept as .nnir.

The zoo brings files and the converter reads them; this is where the two meet.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnconv.converter import formats
from nnconv.schemas import container
from nnconv.schemas.errors import InputError, NnconvError, Report
from nnconv.schemas.graph import Model, Preprocessing
from nnconv.zoo import Entry, cache, find, store
from nnconv.zoo.progress import Watch


def load(
    name: str,
    more: Sequence[str | os.PathLike[str]] = (),
    options: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> Model:
    """The model called `name`, with the options of `nnconv.load` and further files of the caller.

    Without either a fetched model is converted once and its .nnir kept. Raises InputError where it
    cannot be fetched, UnsupportedError where nnconv cannot read it.
    """
    entry = find(name)
    given = {key: value for key, value in (options or {}).items() if value not in (None, False)}
    if entry.folder is None and not given and not more:
        return _kept_or_made(entry, report)
    return _imported(entry, [*store.get(entry), *more], report, **given)


def _kept_or_made(entry: Entry, report: Report | None) -> Model:
    paths = store.get(entry)
    target = converted(entry)
    if (model := _kept(target)) is not None:
        return model
    with cache.locked(entry, Watch()):
        if (model := _kept(target)) is not None:  # another process was first
            return model
        model = _imported(entry, paths, report)
        for old in target.parent.glob(f"{entry.name}-*.nnir"):
            old.unlink(missing_ok=True)
        # a full disk takes nothing from the model that is in memory
        try:
            container.save(model, target)
        except InputError as error:
            if report is not None:
                report.warning(
                    f"zoo:{entry.name} is not kept as .nnir: {error.problems[0].message}"
                )
    return model


def _imported(
    entry: Entry,
    paths: Sequence[str | os.PathLike[str]],
    report: Report | None,
    **given: Any,
) -> Model:
    """The model from its source files, with preprocessing and labels as the catalogue says."""
    model = formats.read(paths, report=report, **(entry.options | given))
    model.labels = model.labels or entry.labels
    _prepare(entry, model, report)
    return model


def converted(entry: Entry) -> Path:
    """Where the .nnir of a fetched model lies, or will; other files or nnconv, another name."""
    import nnconv

    facts = (nnconv.__version__, cache.origin(entry), entry.preprocessing, entry.labels)
    key = hashlib.sha256(repr((*facts, sorted(entry.options.items()))).encode()).hexdigest()[:12]
    return cache.folder(entry) / f"{entry.name}-{key}.nnir"


def _kept(path: Path) -> Model | None:
    if not path.exists():
        return None
    try:
        return container.load(path)
    except NnconvError:  # damaged since: made anew
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _prepare(entry: Entry, model: Model, report: Report | None) -> None:
    """Give the first picture of the inputs its preprocessing, where the model does not say more."""
    facts = entry.preprocessing
    if not facts or model.preprocessing:
        return
    divide = facts.get("divide", [1.0])
    if len(divide) > 1:
        if report is not None:
            what = "the catalogue scales each channel by itself, which a picture's input cannot say"
            report.warning(f"zoo:{entry.name}: {what}: prepare pictures yourself")
        return
    picture = next((value for value in model.inputs if value.name in entry.inputs), None)
    picture = picture or (model.inputs[0] if model.inputs else None)
    if picture is not None:
        mean = tuple(map(float, facts.get("mean", ())))
        how = Preprocessing(facts.get("channels", "BGR"), mean, None, 1.0 / divide[0])
        model.preprocessing[picture.name] = how
