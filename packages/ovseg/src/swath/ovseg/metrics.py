"""Figures as detectron2's `SemSegEvaluator` computes them, by which these models are published."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from swath.core.errors import DataError


class SemSegMetrics:
    """Segmentation figures over the classes that occur in the truth.

    Unlike `swath.core.metrics.segmentation.SegmentationMetrics`, a class that is predicted but
    never there isn't part of a mean, and a prediction may be a class that is ignored in the truth:
    it then is simply wrong.

    ``compute()`` returns fractions in 0..1: ``mIoU``, ``mACC``, ``fwIoU``, ``pACC``, and
    ``per_class`` with ``IoU`` and ``recall`` (None where the class isn't in the truth) and
    ``pixels``.

    Args:
        classes: Names in index order.
        ignore_index: True label that is left out; may be one of the classes.

    Attributes:
        matrix: int64 ``(K + 1, K + 1)``, rows predicted and columns true classes; the last column
            is what is ignored.
    """

    def __init__(self, classes: Sequence[str], ignore_index: int = 255) -> None:
        self.classes, self.ignore_index = tuple(classes), ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        size = len(self.classes) + 1
        self.matrix = torch.zeros(size, size, dtype=torch.int64)

    def update(self, predictions: Sequence[Tensor], batch: Mapping[str, Any]) -> None:
        """Add one batch.

        Args:
            predictions: Per image scores ``(K', h, w)`` with K' <= K, or class indices ``(h, w)``.
            batch: Holds ``"mask"`` ``(B, H, W)``; the part right of and below ``(h, w)`` is left
                out.

        Raises:
            DataError: If the truth holds a label that is neither a class nor ignored.
        """
        size = len(self.matrix)
        for prediction, mask in zip(predictions, batch["mask"], strict=True):
            found = prediction.argmax(0) if prediction.ndim == 3 else prediction
            truth = mask[: found.shape[0], : found.shape[1]].to(found.device).long()
            ignored = truth == self.ignore_index
            wrong = ((truth < 0) | (truth >= size - 1)) & ~ignored
            if wrong.any():
                raise DataError(
                    f"the mask holds class {int(truth[wrong][0])}, but there are {size - 1} "
                    "classes; map the labels with the data set's protocol"
                )
            truth = truth.masked_fill(ignored, size - 1)
            pairs = torch.bincount((size * found.long() + truth).flatten(), minlength=size**2)
            self.matrix += pairs.view(size, size).cpu()

    def __add__(self, other: Self) -> Self:
        total = type(self)(self.classes, self.ignore_index)
        total.matrix = self.matrix + other.matrix
        return total

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        counted = self.matrix[:-1, :-1].double()
        hits, truth, predicted = counted.diag(), counted.sum(0), counted.sum(1)
        there = truth > 0
        recall = torch.where(there, hits / truth, math.nan)
        iou = torch.where(there, hits / (truth + predicted - hits), math.nan)
        share = truth / truth.sum()
        return {
            "mIoU": float(iou.nanmean()),
            "mACC": float(recall.nanmean()),
            "fwIoU": float((iou * share).nansum()),
            "pACC": float(hits.sum() / truth.sum()),
            "per_class": {
                name: {
                    "IoU": float(iou[i]) if there[i] else None,
                    "recall": float(recall[i]) if there[i] else None,
                    "pixels": int(truth[i]),
                }
                for i, name in enumerate(self.classes)
            },
        }


def mean_iou(figures: Mapping[str, Any], names: Sequence[str]) -> float:
    """Mean IoU of some of the classes.

    Args:
        figures: What `SemSegMetrics.compute` returned.
        names: Of the classes; those that aren't in the truth are left out.

    Returns:
        0..1; NaN if none is there.
    """
    rows = (figures["per_class"][name]["IoU"] for name in names)
    known: list[float] = [iou for iou in rows if iou is not None]
    return sum(known) / len(known) if known else math.nan
