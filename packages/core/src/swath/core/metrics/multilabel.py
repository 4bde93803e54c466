"""Figures of multi-label classification: any number of classes in an image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor


class MultiLabelMetrics:
    """How well it is told which classes an image shows.

    ``compute()`` returns fractions in 0..1 by name: ``accuracy`` (of all decisions), ``precision``,
    ``recall``, ``F1`` and ``IoU`` over all decisions, the same with ``_macro`` as means over
    classes, ``mAP`` (the mean over classes of average precision, of those that occur); and the
    table ``per_class``.

    Args:
        classes: Names in index order.
        threshold: Score above which a class counts as present.
    """

    def __init__(self, classes: Sequence[str], threshold: float = 0.5) -> None:
        self.classes, self.threshold = tuple(classes), threshold
        self.scores: list[Tensor] = []
        self.truths: list[Tensor] = []

    def reset(self) -> None:
        """Forget everything."""
        self.scores.clear()
        self.truths.clear()

    def update(self, predictions: Sequence[Any], batch: Mapping[str, Any]) -> None:
        """Add one batch.

        Args:
            predictions: For each image a score per class, ``(K,)``, 0..1.
            batch: Holds ``"labels"`` ``(B, K)``, 0 or 1.
        """
        for prediction, truth in zip(predictions, batch["labels"], strict=True):
            self.scores.append(torch.as_tensor(prediction, dtype=torch.float64).cpu())
            self.truths.append(torch.as_tensor(truth).cpu().bool())

    def __add__(self, other: Self) -> Self:
        total = type(self)(self.classes, self.threshold)
        total.scores, total.truths = self.scores + other.scores, self.truths + other.truths
        return total

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        if not self.scores:
            return {"accuracy": math.nan, "mAP": math.nan, "per_class": {}}
        scores, truth = torch.stack(self.scores), torch.stack(self.truths)
        found = scores > self.threshold
        counts = [x.sum(0) for x in (found & truth, found & ~truth, ~found & truth)]
        right = found == truth
        table = {
            name: {
                "accuracy": float(right[:, i].double().mean()),
                **_rates(*(int(c[i]) for c in counts)),
                "AP": average_precision(scores[:, i], truth[:, i]),
                "images": int(truth[:, i].sum()),
            }
            for i, name in enumerate(self.classes)
        }
        figures = ("precision", "recall", "F1", "IoU")
        known = [row["AP"] for row in table.values() if not math.isnan(row["AP"])]
        return {
            "accuracy": float(right.double().mean()),
            **_rates(*(int(c.sum()) for c in counts)),
            **{f"{k}_macro": sum(row[k] for row in table.values()) / len(table) for k in figures},
            "mAP": sum(known) / len(known) if known else math.nan,
            "per_class": table,
        }


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Precision averaged over the images that show a class, by falling score; NaN if none does.

    Images of equal score share the precision of the last of them.

    Args:
        scores: ``(N,)``.
        truth: Bool ``(N,)``.
    """
    if not bool(truth.any()):
        return math.nan
    order = scores.argsort(descending=True, stable=True)
    ranked, hits = scores[order], truth[order].double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, dtype=torch.float64)
    last_of_equals = torch.searchsorted(-ranked, -ranked, right=True) - 1
    return float((precision[last_of_equals] * hits).sum() / hits.sum())


def _rates(hits: int, false: int, missed: int) -> dict[str, float]:
    """Precision, recall, F1 and IoU from counts; 0 where undefined."""
    return {
        "precision": hits / max(hits + false, 1),
        "recall": hits / max(hits + missed, 1),
        "F1": 2 * hits / max(2 * hits + false + missed, 1),
        "IoU": hits / max(hits + false + missed, 1),
    }
