"""`nnconv tune`: time kernels for a model's shapes, and remember the fastest for later plans."""

from __future__ import annotations

import os
import time

import click

from nnconv.cli import options
from nnconv.cli.files import open_model
from nnconv.cli.options import Shapes, verb


@verb(
    ("nnconv tune zoo:lenet", "time kernels for the model's own sizes"),
    ("nnconv tune net.nnir --batch 8", "then compile(..., tune=True) takes the choices"),
)
@options.MODEL
@options.WEIGHTS
@options.BATCH
@options.SHAPES
@options.JSON
def tune(
    model_file: str,
    weights: str | None,
    batch: int | None,
    shapes: Shapes,
    as_json: bool,
) -> None:
    """Time kernels for a model and remember the fastest.

    Choices are kept in the cache folder, one file a kind of processor; they are used where tuning
    is asked for (`nnconv bench --tune`, nnconv.compile(..., tune=True)).
    """
    from nnconv.api import compile
    from nnconv.cli.bench import random_inputs
    from nnconv.runtime.devices import jit
    from nnconv.runtime.tune import tuning_file

    model = open_model(model_file, weights, shapes=shapes)
    ruled = compile(model, device="cpu")
    inputs = random_inputs(ruled, batch, shapes)
    sizes = {name: array.shape for name, array in inputs.items()}
    started = time.perf_counter()
    tuned = compile(model, device="cpu", tune=True).plan(sizes)
    spent = time.perf_counter() - started
    pairs = zip(ruled.plan(sizes).steps, tuned.steps, strict=True)
    changed = [
        {"result": new.writes[0].name, "rule": old.kernel, "tuned": new.kernel}
        for old, new in pairs
        if old.kernel != new.kernel
    ]
    path = tuning_file(jit.host())
    file = str(path) if path.exists() and os.access(path.parent, os.W_OK) else None
    if as_json:
        from nnconv.cli.output import print_json

        print_json(
            "tune", {"model": model_file, "seconds": spent, "file": file, "changed": changed}
        )
        return
    from nnconv.cli.output import print_table, table

    if changed:
        rows = [(c["result"], c["rule"], c["tuned"]) for c in changed]
        print_table(table(["result", "by rule", "tuned"], rows))
    kept = f"kept in {file}" if file else f"not kept, {path.parent} cannot be written"
    click.echo(f"{len(changed)} of {len(tuned.steps)} steps changed in {spent:.1f} s; {kept}")
