"""From a model to something that runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from nnconv.api.files import load
from nnconv.runtime.executor import Executable, compile_model
from nnconv.schemas.graph import Model


def compile(
    model: Model | str | os.PathLike[str],
    device: str | None = None,
    mode: str | None = None,
    precision: str = "f32",
    threads: int | None = None,
    outputs: Sequence[str] | str | None = None,
    winograd: int = 4,
    tune: bool = False,
) -> Executable:
    """Make a model ready to run; a path (or `zoo:NAME`) is loaded first.

    `device` is one of `nnconv devices` (None: cpu where it is there, else reference). `mode` is
    "test" or "train" (None: the model's own). `precision` "f64" makes the reference device
    accumulate in double precision. `outputs` names the values to return, inner ones too, or is
    "all" (None: the model's own). On the cpu device `winograd` is the form of Winograd convolution
    allowed (4, 2, or 0 for none: more exact, slower), and `tune` times kernels and takes the
    fastest.

    Raises InputError for names that do not exist, UnsupportedError for an operator that no device
    knows.

    >>> import nnconv, numpy as np
    >>> executable = nnconv.compile("zoo:lenet", device="reference")
    >>> executable.run({"data": np.zeros((2, 1, 28, 28), np.float32)})["prob"].shape
    (2, 10)
    """
    loaded = model if isinstance(model, Model) else load(model)
    return compile_model(
        loaded, device=device, mode=mode, precision=precision, threads=threads, outputs=outputs,
        winograd=winograd, tune=tune,
    )  # fmt: skip
