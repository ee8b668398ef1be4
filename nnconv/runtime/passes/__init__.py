"""Rewrites over a Graph, each small, listed in order here.

Stage "model" runs once an Executable, on the shape-free graph; stage "shapes" once a plan, after
sizes are bound. Those marked `semantic` define what a graph means and run on every device; the
others only make it faster, and run where a device asks for them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnconv.runtime.passes.bind import bind_mode, bind_shapes, widen
from nnconv.runtime.passes.fold import (
    expand_functions,
    fold_constants,
    remove_dead_code,
    remove_identities,
    share_equal_nodes,
)
from nnconv.runtime.passes.fuse import compare_results, fold_affine, fold_pads, merge_transposes
from nnconv.runtime.passes.support import Binding
from nnconv.schemas.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph

_log = logging.getLogger("nnconv.passes")


@dataclass(frozen=True, slots=True)
class Pass:
    """One rewrite: it changes the graph in place and returns how many nodes it changed."""

    function: Callable[[Graph, Binding], int]
    stage: str
    semantic: bool = False

    @property
    def name(self) -> str:
        return self.function.__name__


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass did: nodes before and after, and how many it changed."""

    name: str
    before: int
    after: int
    changed: int

    def __str__(self) -> str:
        return f"{self.name}: {self.before} -> {self.after} nodes, {self.changed} changed"


PASSES: tuple[Pass, ...] = (
    Pass(widen, "model", semantic=True),
    Pass(bind_mode, "model", semantic=True),
    Pass(expand_functions, "model", semantic=True),
    Pass(fold_constants, "model", semantic=True),
    Pass(remove_identities, "model", semantic=True),
    Pass(remove_dead_code, "model", semantic=True),
    Pass(share_equal_nodes, "model"),
    Pass(merge_transposes, "model"),
    Pass(fold_affine, "model"),
    Pass(fold_pads, "model"),
    Pass(remove_dead_code, "model"),
    Pass(bind_shapes, "shapes", semantic=True),
    Pass(expand_functions, "shapes", semantic=True),
    Pass(fold_constants, "shapes", semantic=True),
    Pass(compare_results, "shapes"),
    Pass(merge_transposes, "shapes"),
    Pass(remove_identities, "shapes", semantic=True),
    Pass(share_equal_nodes, "shapes"),
    Pass(fold_affine, "shapes"),
    Pass(fold_pads, "shapes"),
    Pass(remove_dead_code, "shapes", semantic=True),
)


def run_passes(
    graph: Graph, stage: str, binding: Binding, *, optimise: bool, disable: Collection[str] = ()
) -> list[PassResult]:
    """Run the passes of a stage over `graph`, in order, and say what each did.

    `disable` names passes that make a graph faster and should not run; with NNCONV_DEBUG=3 or more
    each pass that changed something is logged. Raises InputError for a name in `disable` that may
    not be there.
    """
    check_names(disable)
    results = []
    for item in PASSES:
        if item.stage != stage or item.name in disable or not (item.semantic or optimise):
            continue
        before = len(graph)
        changed = item.function(graph, binding)
        results.append(PassResult(item.name, before, len(graph), changed))
        if changed and debug_level() >= 3:
            _log.warning("%s", results[-1])
    return results


def check_names(disable: Collection[str]) -> None:
    optional = {item.name for item in PASSES} - {item.name for item in PASSES if item.semantic}
    for name in disable:
        if name not in optional:
            known = ", ".join(sorted(optional))
            hint = did_you_mean(name, optional) or f"these may be disabled: {known}"
            raise InputError(f"there is no pass '{name}' that may be disabled", hint=hint)


def debug_level() -> int:
    """The value of NNCONV_DEBUG, 0 when it is unset; InputError when it is no number."""
    text = os.environ.get("NNCONV_DEBUG") or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < _MOST_DIGITS):
        hint = "it takes 0 (silent), 1 (plans), 2 (also every step), 3 (also what passes change)"
        raise InputError(f"NNCONV_DEBUG={text}: this is no number", hint=hint)
    return int(text)


_MOST_DIGITS = 5


__all__ = ["PASSES", "Binding", "Pass", "PassResult", "check_names", "debug_level", "run_passes"]
