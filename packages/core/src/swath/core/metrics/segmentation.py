"""Segmentation figures from one streaming confusion matrix."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from swath.core.errors import DataError
from swath.core.task import labels_of

MATRIX_LIMIT = 4096
"""Above so many classes only the three margins are kept: they suffice for every figure here."""

REPORTED_MATRIX_LIMIT = 100
"""Up to so many classes `SegmentationMetrics.compute` includes the matrix itself."""


class ConfusionMatrix:
    """Counts of pixels by true and predicted class; exact (int64) and additive.

    Counting happens on the device of the labels; nothing but the counts is kept. Two matrices of
    different batches, tiles or ranks add up with ``+``.

    Args:
        num_classes: K.
        ignore_index: True label that is left out. May equal K.
        count_ignored_as_last_class: Counts every ignored pixel as a correctly predicted pixel of
            class K - 1 if ``ignore_index == K``, as the official NumPy metric of S5 does (its last
            histogram bin is closed), to compare with published Vaihingen and Potsdam figures.

    Attributes:
        matrix: int64 ``(K, K)``, rows are true and columns predicted classes; None above
            `MATRIX_LIMIT` classes.

    Source:
        `RS_Finetune/.../util/utils.py::intersectionAndUnion` for the compatibility option.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        *,
        count_ignored_as_last_class: bool = False,
    ) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.count_ignored_as_last_class = count_ignored_as_last_class
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        k = self.num_classes
        self.matrix = torch.zeros(k, k, dtype=torch.int64) if k <= MATRIX_LIMIT else None
        self._margins = torch.zeros(3, k, dtype=torch.int64)  # intersection, target, prediction

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Class indices, any integer dtype and shape.
            target: True class indices, same shape, any device; ``ignore_index`` is left out.

        Raises:
            DataError: If the shapes differ or a counted label is outside ``0 .. K - 1``.
        """
        if prediction.shape != target.shape:
            raise DataError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in "
                "shape; crop or resize one of them first"
            )
        k = self.num_classes
        target = target.detach().reshape(-1).long()
        prediction = prediction.detach().reshape(-1).to(target.device).long()
        counted = target != self.ignore_index
        ignored = int(target.numel() - counted.sum())
        # ignored pixels pass as hits of class 0, which costs less than leaving them out
        target, prediction = target.where(counted, 0), prediction.where(counted, 0)
        for name, labels in (("target", target), ("prediction", prediction)):
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < k:
                raise DataError(
                    f"{name} holds class {_outside(labels, k)}, allowed are 0..{k - 1} and "
                    f"ignore_index {self.ignore_index} in the target; map the labels first"
                )
        if self.matrix is not None:
            pairs = torch.bincount(target * k + prediction, minlength=k * k).cpu().reshape(k, k)
            pairs[0, 0] -= ignored
            self.matrix += pairs
            margins = torch.stack([pairs.diagonal(), pairs.sum(1), pairs.sum(0)])
        else:
            hits = target[target == prediction]
            counts = [torch.bincount(x, minlength=k) for x in (hits, target, prediction)]
            margins = torch.stack(counts).cpu()
            margins[:, 0] -= ignored
        self._margins += margins
        if self.count_ignored_as_last_class and self.ignore_index == k:
            self._margins[:, -1] += ignored
            if self.matrix is not None:
                self.matrix[-1, -1] += ignored

    def __add__(self, other: Self) -> Self:
        if (self.num_classes, self.ignore_index) != (other.num_classes, other.ignore_index):
            raise ValueError("confusion matrices of different classes can't be added")
        total = type(self)(
            self.num_classes,
            self.ignore_index,
            count_ignored_as_last_class=self.count_ignored_as_last_class,
        )
        total._margins = self._margins + other._margins
        if self.matrix is not None and other.matrix is not None:
            total.matrix = self.matrix + other.matrix
        return total

    @property
    def intersection(self) -> Tensor:
        """Correctly predicted pixels, int64 ``(K,)``."""
        return self._margins[0]

    @property
    def target(self) -> Tensor:
        """True pixels, int64 ``(K,)``."""
        return self._margins[1]

    @property
    def prediction(self) -> Tensor:
        """Predicted pixels, int64 ``(K,)``."""
        return self._margins[2]

    @property
    def union(self) -> Tensor:
        """Pixels that are true or predicted, int64 ``(K,)``."""
        return self.target + self.prediction - self.intersection

    @property
    def present(self) -> Tensor:
        """Classes that occur in truth or prediction, bool ``(K,)``."""
        return self.union > 0

    def iou(self) -> Tensor:
        """Intersection over union, float64 ``(K,)``; NaN where a class doesn't occur at all."""
        return self.intersection / self.union.double()

    def f1(self) -> Tensor:
        """Harmonic mean of precision and recall (Dice), float64 ``(K,)``; NaN where absent."""
        return 2 * self.intersection / (self.target + self.prediction).double()

    def precision(self) -> Tensor:
        """Share of a class's predictions that are right, float64 ``(K,)``.

        NaN where a class doesn't occur at all; 0 where it occurs and is never predicted.
        """
        value = self.intersection / self.prediction.clamp(min=1).double()
        return value.masked_fill(~self.present, math.nan)

    def recall(self) -> Tensor:
        """Share of a class's true pixels that are found, float64 ``(K,)``; NaN without any."""
        return self.intersection / self.target.double()

    def overall_accuracy(self) -> float:
        """Share of all counted pixels that are right (OA); NaN without pixels."""
        return _ratio(float(self.intersection.sum()), float(self.target.sum()))

    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond what the two margins give by chance."""
        total = float(self.target.sum())
        observed = self.overall_accuracy()
        by_chance = _ratio(float(self.target.double() @ self.prediction.double()), total * total)
        return _ratio(observed - by_chance, 1 - by_chance)


class SegmentationMetrics:
    """The figures of a segmentation task, as `Task.metrics` wants them.

    ``compute()`` returns fractions in 0..1 by name: ``mIoU``, ``mF1``, ``mPrecision``, ``mACC``
    (mean recall), ``OA``, ``kappa``; the table ``per_class`` (class name -> ``IoU``, ``F1``,
    ``precision``, ``recall``, None where undefined, and ``pixels``, the true count); and, up to
    `REPORTED_MATRIX_LIMIT` classes, ``confusion`` (rows true, columns predicted).

    Args:
        classes: Names in index order.
        ignore_index: True label that is left out.
        mean_over: ``"present"`` averages over the classes for which a figure is defined;
            ``"all"`` over every configured class, an undefined figure counting as 0, as S5's
            evaluation does (there a class without a hit, present or not, makes mF1 NaN).
        mean_without: Names of classes that no mean counts, such as iSAID's background.
        count_ignored_as_last_class: See `ConfusionMatrix`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        ignore_index: int = 255,
        *,
        mean_over: Literal["present", "all"] = "present",
        mean_without: Sequence[str] = (),
        count_ignored_as_last_class: bool = False,
    ) -> None:
        self.classes, self.mean_over = tuple(classes), mean_over
        self.mean_without = tuple(mean_without)
        self.confusion = ConfusionMatrix(
            len(self.classes),
            ignore_index,
            count_ignored_as_last_class=count_ignored_as_last_class,
        )

    def reset(self) -> None:
        """Forget everything."""
        self.confusion.reset()

    def update(self, predictions: Sequence[Tensor], batch: Mapping[str, Any]) -> None:
        """Add one batch.

        Args:
            predictions: Per image logits ``(K, h, w)`` or class indices ``(h, w)``.
            batch: Holds ``"mask"`` ``(B, H, W)``; the part right of and below ``(h, w)`` is what
                `SegmentationTask.collate` padded and is left out.
        """
        for prediction, mask in zip(predictions, labels_of(batch, "mask"), strict=True):
            indices = prediction.argmax(0) if prediction.ndim == 3 else prediction
            height, width = indices.shape
            self.confusion.update(indices, mask[:height, :width].to(indices.device))

    def __add__(self, other: Self) -> Self:
        total = type(self)(
            self.classes,
            self.confusion.ignore_index,
            mean_over=self.mean_over,
            mean_without=self.mean_without,
        )
        total.confusion = self.confusion + other.confusion
        return total

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        c = self.confusion
        columns = {"IoU": c.iou(), "F1": c.f1(), "precision": c.precision(), "recall": c.recall()}
        figures: dict[str, Any] = {
            "mIoU": self._mean(columns["IoU"]),
            "mF1": self._mean(columns["F1"]),
            "mPrecision": self._mean(columns["precision"]),
            "mACC": self._mean(columns["recall"]),
            "OA": c.overall_accuracy(),
            "kappa": c.kappa(),
        }
        rows = {name: values.tolist() for name, values in columns.items()}
        figures["per_class"] = {
            label: {name: _none_if_nan(values[i]) for name, values in rows.items()}
            | {"pixels": int(c.target[i])}
            for i, label in enumerate(self.classes)
        }
        if c.matrix is not None and len(self.classes) <= REPORTED_MATRIX_LIMIT:
            figures["confusion"] = c.matrix.tolist()
        return figures

    def _mean(self, values: Tensor) -> float:
        values = values[torch.tensor([c not in self.mean_without for c in self.classes])]
        mean: Callable[[Tensor], Tensor] = torch.nanmean
        if self.mean_over == "all":
            values, mean = values.nan_to_num(0.0), torch.mean
        return float(mean(values))


def _outside(labels: Tensor, num_classes: int) -> int:
    return int(labels[(labels < 0) | (labels >= num_classes)][0])


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
