"""The `weights` section: a file beside the model's that holds its arrays."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nnconv.converter.checkpoint.files import SUFFIXES, read_checkpoint
from nnconv.converter.weights import listed, load_weights, shown
from nnconv.converter.yaml.compose import Item
from nnconv.converter.yaml.fields import Fields
from nnconv.schemas.checkpoint import Checkpoint, Header, header
from nnconv.schemas.errors import InputError, NnconvError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Model


def load_section(fields: Fields, model: Model, elsewhere: dict[str, Item]) -> None:
    """Read the file that `weights` names into the model; `elsewhere` are constants it must hold."""
    name, item = fields.text("weights"), fields.at("weights")
    if item is None or fields.document.report.errors:
        if elsewhere and item is None:
            first, place = next(iter(elsewhere.items()))
            fields.error(place, f"constant '{first}' is stored, but no weights file is named")
        return
    if not name:
        return
    try:
        checkpoint = read_checkpoint(side_file(fields.document.file, name))
        constants = {key: key for key in checkpoint.parameters if key in elsewhere}
        _constants(fields, model, elsewhere, checkpoint)
        rest = {key: key for key in checkpoint.parameters if key not in constants}
        _parameters(fields, item, model, checkpoint, rest)
    except NnconvError as error:
        for problem in error.problems:
            inside = problem.span
            where = f"{inside.file}: " if inside and inside.file else ""
            fields.error(item, f"{where}{problem.message}", problem.hint)


def _parameters(
    fields: Fields, item: Item, model: Model, checkpoint: Checkpoint, names: dict[str, str]
) -> None:
    arrays = {name: checkpoint.parameters[name] for name in names if name in model.graph.values}
    foreign = [name for name in names if name not in model.graph.values]
    if foreign:
        fields.document.report.warning(
            f"the model has no parameter for {listed(foreign)}", fields.document.span(item)
        )
    loaded = load_weights(model, Checkpoint(arrays, checkpoint.state))
    for problem in loaded.problems():
        fields.error(item, problem.message, problem.hint)


def _constants(
    fields: Fields, model: Model, elsewhere: dict[str, Item], checkpoint: Checkpoint
) -> None:
    for name, item in elsewhere.items():
        value = model.graph.values[name]
        if name not in checkpoint.parameters:
            fields.error(item, f"the weights file holds no constant '{name}'")
            continue
        got = header(checkpoint.parameters, name)
        wanted = Header(value.dtype, tuple(d for d in value.shape or () if isinstance(d, int)))
        if got != wanted:
            fields.error(item, f"'{name}' is {shown(wanted)} here, {shown(got)} in the file")
            continue
        value.data = checkpoint.parameters[name]


def side_file(model_file: str, name: str) -> Path:
    """The path of a file in the model's folder or below it; raises InputError for names that lead
    elsewhere, links included."""
    steps = re.split(r"[\\/]", name)
    if not name or ".." in steps or "" in steps or ":" in name or "\0" in name:
        raise InputError(
            f"the weights must lie in the model's folder, not in '{name}'",
            hint="name a file beside the model, or give it on the command line",
        )
    if not model_file:
        raise InputError(f"the weights are in '{name}': read the model from its file")
    path = Path(model_file).parent
    for step in steps:
        path = path / step
        if path.is_symlink():
            raise InputError(f"'{name}' is a link, which is not followed",
                             hint="put the file itself there")  # fmt: skip
    if os.path.splitext(name)[1].lower() not in SUFFIXES:  # noqa: PTH122
        raise InputError(f"'{name}' is no weights file", hint=f"weights are {', '.join(SUFFIXES)}")
    return path
