"""How well objects are counted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self


class CountingMetrics:
    """Figures of counts against true counts.

    ``compute()`` returns ``accuracy``, the share of counts that are exactly right; ``MAE`` and
    ``RMSE``, the mean absolute and the root mean squared error; ``bias``, the mean error, above 0
    if too many are counted; ``questions``; and where questions have names the table ``per_class``.
    """

    def __init__(self) -> None:
        self.errors: list[tuple[str, int]] = []

    def reset(self) -> None:
        """Forget everything."""
        self.errors.clear()

    def update(self, predictions: Sequence[int], batch: Mapping[str, Any]) -> None:
        """Add one batch.

        Args:
            predictions: A count for each question.
            batch: Holds ``"count"``, the true ones, and may hold ``"name"``, what is counted.
        """
        names = batch.get("name") or [""] * len(predictions)
        for prediction, truth, name in zip(predictions, batch["count"], names, strict=True):
            self.errors.append((str(name), int(prediction) - int(truth)))

    def __add__(self, other: Self) -> Self:
        total = type(self)()
        total.errors = self.errors + other.errors
        return total

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        names = sorted({name for name, _ in self.errors if name})
        table = {name: _figures([e for n, e in self.errors if n == name]) for name in names}
        return {**_figures([error for _, error in self.errors]), "per_class": table}


def _figures(errors: Sequence[int]) -> dict[str, float]:
    count = len(errors)
    if not count:
        return {
            "accuracy": math.nan,
            "MAE": math.nan,
            "RMSE": math.nan,
            "bias": math.nan,
            "questions": 0,
        }
    return {
        "accuracy": sum(error == 0 for error in errors) / count,
        "MAE": sum(abs(error) for error in errors) / count,
        "RMSE": math.sqrt(sum(error**2 for error in errors) / count),
        "bias": sum(errors) / count,
        "questions": count,
    }
