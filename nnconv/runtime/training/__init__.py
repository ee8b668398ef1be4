"""Training: loss, gradients and update as one graph, and the loop that runs it."""

from nnconv.runtime.training.schedule import Rate
from nnconv.runtime.training.trainer import Trainer

__all__ = ["Rate", "Trainer"]
