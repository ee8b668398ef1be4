"""How good a model is on data whose truth is known: loss, accuracy, top-k, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.api.datasets import open_data
from nnconv.api.feeding import Feed, feed
from nnconv.api.files import AnyPath, load
from nnconv.api.heads import EUCLIDEAN, SIGMOID, SOFTMAX, Head, head_of
from nnconv.runtime.data import Dataset
from nnconv.runtime.executor import Executable, compile_model
from nnconv.runtime.ops.loss import (
    euclidean_loss,
    sigmoid_cross_entropy_loss,
    softmax_with_loss,
)
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from nnconv.schemas.types import Array

MOST_CLASSES = 2048  # of which a table of who was taken for whom is kept
# the loss of a batch, times the samples in it
_LOSSES: dict[str, Callable[[Array, Array], float]] = {
    SOFTMAX: lambda x, t: len(x) * float(
        softmax_with_loss(x, t, normalization="VALID", axis=1, ignore_label=None)
    ),
    SIGMOID: lambda x, t: len(x) * float(
        sigmoid_cross_entropy_loss(x, t, normalization="BATCH_SIZE", ignore_label=None)
    ),
    EUCLIDEAN: lambda x, t: len(x) * float(euclidean_loss(x, t)),
}  # fmt: skip


@dataclass(slots=True)
class Evaluation:
    """What a model did on `samples` samples. `top` maps k to the share of samples whose class is
    among the k best; `confusion[t, p]` counts samples of class t taken for p. Neither is there for
    models that choose no class, the table not beyond MOST_CLASSES either.
    """

    samples: int = 0
    loss: float = 0.0
    top: dict[int, float] = field(default_factory=dict)
    confusion: Array | None = None
    labels: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float | None:
        return self.top.get(1)

    def name(self, number: int) -> str:
        """What a class is called."""
        return self.labels[number] if number < len(self.labels) else str(number)

    def by_class(self) -> list[tuple[str, int, float]]:
        """Name, number of samples and share recognised, of every class that occurs."""
        if self.confusion is None:
            return []
        counts = self.confusion.sum(axis=1)
        return [
            (self.name(i), int(n), float(self.confusion[i, i] / n))
            for i, n in enumerate(counts.tolist())
            if n
        ]

    def to_dict(self) -> dict[str, Any]:
        classes = [
            {"class": name, "samples": count, "accuracy": share}
            for name, count, share in self.by_class()
        ]
        return {
            "samples": self.samples, "loss": self.loss, "accuracy": self.accuracy,
            "top": {str(k): share for k, share in self.top.items()}, "classes": classes,
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }  # fmt: skip


def evaluate(
    model: Model | AnyPath,
    data: Dataset | AnyPath,
    *,
    device: str | None = None,
    batch: int = 100,
    loss: str | None = None,
    scores: str | None = None,
    top: Sequence[int] = (1, 5),
    part: str = "test",
    label: str | None = None,
) -> Evaluation:
    """Run a model over a data set and compare with the truth.

    `data` is a Dataset, what `nnconv.data.open_dataset` opens (`part` and `label` are its options),
    or a data set of nevermind-neu. `loss` names the loss where the model does not say it, `scores`
    the output that is judged (by default the last). Raises InputError where data and model do not
    go together.

    >>> import numpy as np, nnconv
    >>> digits = nnconv.data.arrays(data=np.zeros((3, 1, 28, 28), np.float32), label=[1, 1, 2])
    >>> nnconv.evaluate("zoo:lenet", digits, device="reference").samples
    3
    """
    loaded = model if isinstance(model, Model) else load(model)
    dataset = open_data(data, part, label)
    head = head_of(loaded, loss, scores)
    return judge(loaded, head, feed(loaded, head, dataset), device=device, batch=batch, top=top)


def judge(
    model: Model,
    head: Head,
    data: Feed,
    *,
    dataset: Dataset | None = None,
    device: str | None = None,
    batch: int = 100,
    top: Sequence[int] = (1, 5),
) -> Evaluation:
    """What `evaluate` does once everything is matched; `dataset` stands in for the feed's own."""
    executable = compile_model(model, device, mode="test", outputs=[head.scores.name])
    counted = _Count(head, top)
    for arrays in data.loader(batch, dataset).once():
        truth = arrays.pop(data.truth)
        counted.add(_scores(executable, head, arrays), truth)
    return counted.result(model.labels)


def _scores(executable: Executable, head: Head, arrays: dict[str, Array]) -> Array:
    scores = executable.run(arrays)[head.scores.name]
    if head.loss == SOFTMAX and scores.ndim > 2 and scores[0, 0].size == 1:
        return scores.reshape(scores.shape[:2])
    return scores


class _Count:
    """Sums over batches."""

    def __init__(self, head: Head, top: Sequence[int]) -> None:
        self.head = head
        classes = head.classes
        self.top = sorted({k for k in top if classes is not None and (k == 1 or k < classes)})
        if min(top, default=1) < 1:
            raise InputError(f"top-k needs a k of 1 or more, got {min(top)}")
        self.loss, self.samples = 0.0, 0
        self.right = np.zeros(len(self.top), np.int64)
        self.confusion: Array | None = None
        if classes is not None and classes <= MOST_CLASSES:
            self.confusion = np.zeros((classes, classes), np.int64)

    def add(self, scores: Array, truth: Array) -> None:
        self.loss += _LOSSES[self.head.loss](scores, truth)
        self.samples += len(scores)
        if not self.top:
            return
        numbers = truth.reshape(-1).astype(np.int64)
        mine = np.take_along_axis(scores, numbers[:, None], axis=1)
        # as Caffe counts: equal scores count against the true class; NaN is never right
        ahead = (~(scores < mine)).sum(axis=1) - 1
        self.right += [(ahead < k).sum() for k in self.top]
        if self.confusion is None:
            return
        classes = len(self.confusion)
        pairs = np.bincount(numbers * classes + scores.argmax(axis=1), minlength=classes**2)
        self.confusion += pairs.reshape(classes, classes)

    def result(self, labels: tuple[str, ...]) -> Evaluation:
        shares = (self.right / max(1, self.samples)).tolist()
        top = dict(zip(self.top, shares, strict=True))
        mean = self.loss / max(1, self.samples)
        return Evaluation(self.samples, mean, top, self.confusion, labels)
