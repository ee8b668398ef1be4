"""Where adapters register, and how they are applied one after the other."""

from __future__ import annotations

from collections.abc import Callable

from nnconv.converter.onnx import proto
from nnconv.converter.onnx.call import Call
from nnconv.schemas.operators import OPSET

Adapter = Callable[[Call], None]

ADAPTERS: dict[tuple[str, int], Adapter] = {}
"""(operator, the version that it brings a call to) -> what has to change."""


def lifts(to: int, *operators: str) -> Callable[[Adapter], Adapter]:
    """Register the step that brings calls of `operators` from the version before `to` to version
    `to`.
    """

    def register(adapter: Adapter) -> Adapter:
        ADAPTERS.update({(operator, to): adapter for operator in operators})
        return adapter

    return register


def lift(call: Call) -> None:
    """Change `call` until it is one of the pinned opset.

    A step may turn the call into one of another operator, which is then lifted from that step's
    version on.
    """
    while not call.results:
        newer = (v for v in proto.versions(call.op) if call.version < v.since <= OPSET)
        if (step := next(newer, None)) is None:
            return
        if call.version < 6 <= step.since:
            call.take("consumed_inputs")  # a hint for memory reuse that Caffe2 gave
        if (adapter := ADAPTERS.get((call.op, step.since))) is not None:
            adapter(call)
        elif lost := call.attributes.keys() - step.attributes.keys():
            raise call.unsupported(f"uses {', '.join(sorted(lost))}, which newer versions lack")
        call.version = step.since
