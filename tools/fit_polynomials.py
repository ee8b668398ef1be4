"""Fits the polynomials of nnconv/runtime/kernels/functions.py; run it to see the coefficients.

Each polynomial p makes the largest |known(x) + factor(x) p(variable(x)) - target(x)| / scale(x)
over
an interval small, by Lawson's reweighted least squares (weights grow where the error is large).
`python tools/fit_polynomials.py`
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Function = Callable[[Doubles], Doubles]
_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])


@dataclass(frozen=True)
class Fit:
    """target(x) is about known(x) + factor(x) p(variable(x)) on [low, high]; p has `degree`."""

    target: Function
    known: Function
    factor: Function
    variable: Function
    low: float
    high: float
    degree: int
    scale: Function | None = None  # what errors are relative to, where not the target


FITS = {
    "EXP": Fit(np.exp, lambda x: 1 + x, lambda x: x * x, lambda x: x, -0.3467, 0.3467, 4),
    "LOG": Fit(
        np.log1p, lambda f: f - f * f / 2, lambda f: f**3, lambda f: f, -0.2929, 0.4143, 7
    ),
    "TANH": Fit(np.tanh, lambda x: x, lambda x: x**3, lambda x: x * x, 1e-3, 0.625, 4),
    "ERF": Fit(_erf, np.zeros_like, lambda x: x, lambda x: x * x, 1e-3, 1.0, 6),
    # an error of log(erfc) counts as much as it moves erf = 1 - erfc
    "ERFC": Fit(
        lambda x: np.log(_erfc(x)), np.zeros_like, np.ones_like, lambda x: x - 2.0, 1.0, 4.0, 6,
        scale=lambda x: _erf(x) / _erfc(x),
    ),
}  # fmt: skip


def lawson(fit: Fit, grid: int = 4001, turns: int = 200) -> tuple[Doubles, float]:
    """Coefficients, lowest power first, and the largest relative error."""
    middle, half = (fit.low + fit.high) / 2, (fit.high - fit.low) / 2
    x = middle - half * np.cos(np.linspace(0, np.pi, grid))
    x = x[np.abs(x) > 1e-6]
    scale = np.abs((fit.scale or fit.target)(x))
    basis = (fit.factor(x) / scale)[:, None] * fit.variable(x)[:, None] ** np.arange(fit.degree + 1)
    wanted = (fit.target(x) - fit.known(x)) / scale
    weights = np.full(len(x), 1 / len(x))
    best, worst = np.zeros(fit.degree + 1), np.inf
    for _ in range(turns):
        root = np.sqrt(weights)[:, None]
        found = np.linalg.lstsq(basis * root, wanted * root[:, 0], rcond=None)[0]
        errors = np.abs(basis @ found - wanted)
        if errors.max() < worst:
            best, worst = found, float(errors.max())
        weights *= errors
        weights /= weights.sum()
    return best, worst


def main() -> None:
    for name, fit in FITS.items():
        coefficients, worst = lawson(fit)
        digits = ", ".join(f"{c:.10g}" for c in coefficients[::-1])
        print(f"_{name} = ({digits})  # {worst:.1e}")


if __name__ == "__main__":
    main()
