"""The reference device: every node by its numpy kernel, in order. Slow and obviously right; the
oracle.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.devices.base import Device, DeviceInfo, Program, Settings, reference_step
from nnconv.runtime.ops import has_kernel
from nnconv.runtime.plan import SlotProgram

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node


class ReferenceDevice:
    """Runs a plan one numpy call a node; values are freed after their last use."""

    name = "reference"
    optimises = False

    def supports(self, node: Node) -> bool:
        return has_kernel(node)

    def lower(self, graph: Graph, settings: Settings) -> Program:
        return SlotProgram(graph, [reference_step(node) for node in graph.nodes], settings.shared)


def devices() -> list[DeviceInfo]:
    """What this module offers here: always exactly one."""
    text = f"numpy {np.__version__} on {platform.machine() or 'this machine'}, always available"
    return [DeviceInfo("reference", text)]


def open_device(name: str) -> Device:
    return ReferenceDevice()
