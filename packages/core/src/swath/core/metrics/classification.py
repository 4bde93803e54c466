"""Figures of scene classification, by torchmetrics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from swath.core.errors import DataError


class ClassificationMetrics:
    """Accuracy of one class per image, as `Task.metrics` wants it.

    ``compute()`` returns fractions in 0..1 by name: ``top1``; ``top5`` (of as many classes as there
    are, if fewer); ``mACC``, the mean over classes that occur of their accuracy; ``per_class`` with
    ``accuracy`` (None where a class doesn't occur) and ``images``; and ``confusion`` (rows true,
    columns predicted).

    Args:
        classes: Names in index order.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        count = len(self.classes)
        self.confusion = torch.zeros(count, count, dtype=torch.int64)
        self._in_top5 = 0

    def update(self, predictions: Sequence[Tensor], batch: Mapping[str, Any]) -> None:
        """Add one batch.

        Args:
            predictions: Of each image logits or probabilities ``(K,)``.
            batch: Holds ``"label"`` int64 ``(B,)``.

        Raises:
            DataError: If a label or the number of scores isn't that of the classes.
        """
        count, target = len(self.classes), batch["label"].cpu()
        scores = torch.stack(list(predictions)).float().cpu()
        if scores.shape[1] != count or bool(((target < 0) | (target >= count)).any()):
            raise DataError(
                f"{scores.shape[1]} scores and labels {int(target.min())} to {int(target.max())} "
                f"for {count} classes; do data set and model name the same ones?"
            )
        self.confusion += multiclass_confusion_matrix(scores, target, count)
        hits = multiclass_accuracy(scores, target, count, average="micro", top_k=min(5, count))
        self._in_top5 += round(float(hits) * len(target))

    def __add__(self, other: Self) -> Self:
        total = type(self)(self.classes)
        total.confusion = self.confusion + other.confusion
        total._in_top5 = self._in_top5 + other._in_top5
        return total

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        images, hits = self.confusion.sum(1), self.confusion.diag()
        total = int(images.sum())
        accuracy = hits / images.double()
        return {
            "top1": int(hits.sum()) / total if total else math.nan,
            "top5": self._in_top5 / total if total else math.nan,
            "mACC": float(accuracy.nanmean()),
            "per_class": {
                name: {
                    "accuracy": float(accuracy[i]) if images[i] else None,
                    "images": int(images[i]),
                }
                for i, name in enumerate(self.classes)
            },
            "confusion": self.confusion.tolist(),
        }
