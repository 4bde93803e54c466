"""Figures of referring segmentation and visual grounding: one answer to each sentence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

Protocol = Literal["swath", "official"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""IoU from which an answer counts as right, for ``Pr@0.5`` to ``Pr@0.9``."""


class Answer(NamedTuple):
    """What is kept of an answer to a sentence.

    Attributes:
        intersection: Pixels that are meant and found.
        union: Pixels that are meant or found.
        target: Pixels that are meant.
        kind: What kind of sentence it was, or None.
    """

    intersection: int
    union: int
    target: int
    kind: str | None = None

    @property
    def iou(self) -> float:
        """Intersection over union; 0 if neither has a pixel."""
        return self.intersection / self.union if self.union else 0.0


class ReferringMetrics:
    """How well masks agree with what sentences mean.

    ``compute()`` returns fractions in 0..1 by name: ``oIoU`` (all intersections over all unions),
    ``mIoU`` (mean of the sentences' IoU), ``Pr@0.5`` to ``Pr@0.9``; ``sentences``, how many were
    judged; ``empty``, a table for sentences that mean nothing in their image: how many there are,
    for which share nothing was found, and the mean number of pixels found; and, where samples say
    in ``meta["kind"]`` of which kind their sentence is, the table ``per_kind``.

    Args:
        protocol: ``"swath"`` leaves sentences that mean nothing out of all figures but ``empty``.
            ``"official"`` counts them as IoU 0, even where nothing was found, and their pixels in
            oIoU, as the evaluation of RemoteSAM and of its predecessors does.

    Source:
        RemoteSAM dossier 4.1.
    """

    def __init__(self, protocol: Protocol = "swath") -> None:
        self.protocol = protocol
        self.answers: list[Answer] = []

    def reset(self) -> None:
        """Forget everything."""
        self.answers.clear()

    def update(self, predictions: Sequence[Tensor], batch: Mapping[str, Any]) -> None:
        """Add one batch.

        Args:
            predictions: A mask ``(h, w)`` for each sentence, bool or 0 and 1.
            batch: Holds ``"mask"`` ``(B, H, W)``, 1 where the sentence means; what is right of and
                below a prediction is padding. ``"meta"`` may have ``"kind"``.
        """
        metas = batch.get("meta") or [{}] * len(predictions)
        for prediction, mask, meta in zip(predictions, batch["mask"], metas, strict=True):
            height, width = prediction.shape
            found, meant = prediction.bool(), mask[:height, :width].to(prediction.device) == 1
            self.answers.append(
                Answer(
                    int((found & meant).sum()),
                    int((found | meant).sum()),
                    int(meant.sum()),
                    meta.get("kind"),
                )
            )

    def __add__(self, other: Self) -> Self:
        total = type(self)(self.protocol)
        total.answers = self.answers + other.answers
        return total

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        empty = [a for a in self.answers if not a.target]
        judged = (
            self.answers if self.protocol == "official" else [a for a in self.answers if a.target]
        )
        kinds = sorted({a.kind for a in judged if a.kind is not None})
        return {
            **_figures(judged),
            "empty": {
                "sentences": len(empty),
                "nothing found": _mean([float(not a.union) for a in empty]),
                "pixels found": _mean([float(a.union) for a in empty]),
            },
            "per_kind": {kind: _figures([a for a in judged if a.kind == kind]) for kind in kinds},
        }


def _figures(answers: Sequence[Answer]) -> dict[str, float]:
    overlaps = [a.iou for a in answers]
    union = sum(a.union for a in answers)
    return {
        "oIoU": sum(a.intersection for a in answers) / union if union else math.nan,
        "mIoU": _mean(overlaps),
        **_precision(overlaps),
        "sentences": len(answers),
    }


class GroundingMetrics:
    """How well one box agrees with the one that a sentence means.

    ``compute()`` returns ``mIoU``, ``Pr@0.5`` to ``Pr@0.9``, and ``sentences``.

    Args:
        protocol: With ``"official"``, a missing box is judged at each threshold by the IoU of the
            sentence before, as a bug of RemoteSAM's evaluation has it; with ``"swath"`` by 0.

    Source:
        RemoteSAM dossier 4.5. Areas are those of real-valued boxes, without a pixel added.
    """

    def __init__(self, protocol: Protocol = "swath") -> None:
        self.protocol = protocol
        self.overlaps: list[float | None] = []

    def reset(self) -> None:
        """Forget everything."""
        self.overlaps.clear()

    def update(
        self, predictions: Sequence[Sequence[float] | None], batch: Mapping[str, Any]
    ) -> None:
        """Add one batch.

        Args:
            predictions: x1, y1, x2, y2 for each sentence, or None.
            batch: Holds ``"boxes"``, the true ones.
        """
        for prediction, truth in zip(predictions, batch["boxes"], strict=True):
            self.overlaps.append(None if prediction is None else box_iou(prediction, truth))

    def __add__(self, other: Self) -> Self:
        total = type(self)(self.protocol)
        total.overlaps = self.overlaps + other.overlaps
        return total

    def compute(self) -> dict[str, float]:
        """All figures so far; see the class."""
        overlaps = [overlap or 0.0 for overlap in self.overlaps]
        judged, last = [], 0.0
        for overlap in self.overlaps:
            if overlap is not None or self.protocol == "swath":
                last = overlap or 0.0
            judged.append(last)
        return {"mIoU": _mean(overlaps), **_precision(judged), "sentences": len(overlaps)}


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = max(min(float(a[2]), float(b[2])) - max(float(a[0]), float(b[0])), 0.0)
    height = max(min(float(a[3]), float(b[3])) - max(float(a[1]), float(b[1])), 0.0)
    areas = (float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b))
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def _precision(overlaps: Sequence[float]) -> dict[str, float]:
    values = torch.tensor(overlaps, dtype=torch.float64)
    return {
        f"Pr@{threshold}": float((values >= threshold).double().mean()) if overlaps else math.nan
        for threshold in THRESHOLDS
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
