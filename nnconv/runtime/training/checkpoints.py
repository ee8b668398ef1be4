"""Snapshots of a run as checkpoints: how they are told from other files, and from those of other
runs.

The position in the data is not kept: it follows from the iteration, because the loader is a
function of it. How a checkpoint is written is the converter's business, which the api hands in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnconv.runtime.training.snapshot import Snapshot
from nnconv.schemas.checkpoint import Arrays, Checkpoint, header
from nnconv.schemas.errors import InputError, Problem, SourceSpan

FILE = "checkpoint.pb"
# keys of the metadata; the first says what made the solver's arrays
SOLVER, STEP, PASSES = "solver", "current_step", "passes"
_MAGIC = b"\x0a\x04nnck"

# how files begin, or are called, that people pass instead of a checkpoint
_BY_CONTENT = (
    (b"\x0a\x04nnir", "an nnconv model", "models are what training starts from: give it as MODEL"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "weights are what training starts from: see --weights"),
    (b"PK\x03\x04", "a numpy archive", "a run keeps its state in RUN/checkpoint.pb"),
)
_BY_SUFFIX = {
    ".caffemodel": ("Caffe weights", "weights are what training starts from: see --weights"),
    ".solverstate": ("the state of a Caffe solver", "nnconv resumes from its own run folders"),
    ".onnx": ("an ONNX model", "models are what training starts from: give it as MODEL"),
    ".prototxt": ("a Caffe net", "models are what training starts from: give it as MODEL"),
    ".jsonl": ("the figures of a run", "give the folder it lies in"),
}


def to_checkpoint(snapshot: Snapshot, solver: str) -> Checkpoint:
    """A snapshot as what checkpoint files hold."""
    facts = {SOLVER: solver, STEP: snapshot.current_step, PASSES: snapshot.passes}
    slots = {f"history{index}": held for index, held in enumerate(snapshot.histories)}
    return Checkpoint(
        snapshot.parameters, snapshot.state, slots, snapshot.iteration,
        {key: str(fact) for key, fact in facts.items()},
    )  # fmt: skip


def from_checkpoint(found: Checkpoint, wanted: Checkpoint, file: Path) -> Snapshot:
    """The snapshot in a checkpoint, once it is known to be of the same solver and net; `wanted` is
    a checkpoint of the run that is to go on.

    All differences are told at once. Raises InputError.
    """
    _check_fits(found, wanted, file)
    try:
        step, passes = int(found.metadata[STEP]), int(found.metadata[PASSES])
    except (KeyError, ValueError):
        raise InputError(f"{file}: the checkpoint does not say where its run stood") from None
    histories = tuple(dict(found.optimizer[slot]) for slot in wanted.optimizer)
    parameters, state = dict(found.parameters), dict(found.state)
    return Snapshot(found.iteration, step, passes, parameters, histories, state)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: a file, or the run folder it lies in.

    Raises InputError for anything else, saying what the file is and what to pass instead.
    """
    file = path / FILE if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            head = stream.read(8)
    except FileNotFoundError:
        hint = "nnconv finetune ... -o OUT.nnir keeps its state in the folder OUT.run"
        raise InputError(f"{file}: no such checkpoint", hint=hint) from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from None
    if head.startswith(_MAGIC):
        return file
    kinds = [(what, hint) for magic, what, hint in _BY_CONTENT if head.startswith(magic)]
    kinds += [kind for suffix, kind in _BY_SUFFIX.items() if file.name.lower().endswith(suffix)]
    what, hint = kinds[0] if kinds else ("no file that nnconv knows", "")
    raise InputError(f"{file}: this is {what}, not a checkpoint", hint=hint)


def non_finite(checkpoint: Checkpoint) -> str:
    """The first array of a checkpoint that holds NaN or infinity, "" when there is none."""
    for arrays in _tables(checkpoint).values():
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return name
    return ""


def _check_fits(found: Checkpoint, wanted: Checkpoint, file: Path) -> None:
    span = SourceSpan(str(file))
    theirs, ours = (c.metadata.get(SOLVER, "no solver") for c in (found, wanted))
    if theirs != ours:
        message = f"the checkpoint was made with {theirs}, this run uses {ours}"
        hint = f"resume with {theirs}, or start anew from the weights"
        raise InputError(message, span=span, hint=hint)
    here, there = _tables(wanted), _tables(found)
    problems = [
        Problem(message, span)
        for table in dict.fromkeys([*here, *there])
        for message in _differences(table, there.get(table, {}), here.get(table, {}))
    ]
    if problems:
        raise InputError(problems)


def _tables(checkpoint: Checkpoint) -> dict[str, Arrays]:
    """The arrays of a checkpoint by what they are."""
    slots = {slot: held for slot, held in checkpoint.optimizer.items() if held}
    return {"parameter": checkpoint.parameters, "state": checkpoint.state, **slots}


def _differences(table: str, theirs: Arrays, ours: Arrays) -> list[str]:
    found = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        file, net = _shape(theirs, name), _shape(ours, name)
        if file != net:
            found.append(f"{_where(table, name)}: file {file}, net {net}")
    return found


def _where(table: str, name: str) -> str:
    """A Caffe parameter is LAYER/INDEX; other names are given as they are."""
    layer, _, index = name.rpartition("/")
    if table == "parameter" and layer and index.isdigit():
        return f"layer {layer}, blob {index}"
    return f"{table} {name}"


def _shape(arrays: Arrays, name: str) -> str:
    if name not in arrays:
        return "nothing"
    return "x".join(map(str, header(arrays, name).shape)) or "a scalar"
