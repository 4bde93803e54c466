"""Average precision of detectors: VOC 2007 and 2012, COCO, and DOTA's for rotated boxes.

All of them walk through a class's detections by falling score, call each a hit or a miss, and
summarise precision over recall. They differ in who is compared with whom, and in the summary:

==========  ====================================================  =============================
protocol    a detection is compared with                          AP
==========  ====================================================  =============================
``voc07``   the object it overlaps most; IoU above the threshold  mean precision at 11 recalls
``voc12``   the same                                              area under the envelope
``coco``    the best object that is still free; IoU from the      mean precision at 101 recalls
            threshold on
==========  ====================================================  =============================

Boxes are horizontal or rotated; DOTA's evaluation is ``voc07`` of rotated boxes at IoU 0.5 (its
server reports the area since version 1.5, ``voc12``), DIOR-R's the same.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swath.core.errors import ConfigError, DataError
from swath.core.structures import Detections
from swath.core.task import labels_of

Protocol = Literal["voc07", "voc12", "coco"]
Floats = NDArray[np.float64]

COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
COCO_AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Ranges of the area of an object in square pixels, both ends included."""

HIT, MISS, IGNORED = 1, 0, -1

SURE, TOUCHING = 0.3, 0.5
"""Score and IoU from which a detection is an answer to an object in the confusion matrix."""


class DetectionMetrics:
    """Average precision over images, as `Task.metrics` wants it.

    Images are matched as they come; what is kept is the score and the fate of each detection, so
    that memory doesn't grow with images or objects. Detections of equal score count in the order in
    which they came.

    ``compute()`` returns fractions in 0..1 by name: ``mAP``, the mean over classes that have
    objects and over the thresholds; ``AP50`` and ``AP75`` where these are among the thresholds; for
    ``coco`` also ``AP_small``, ``AP_medium``, ``AP_large`` and ``AR``, the mean of the highest
    recalls; and the table ``per_class``: class name -> ``AP``, ``AP50``, ``AP75``, ``recall`` (at
    the first threshold), None where there is no object, ``objects`` (difficult ones left out) and
    ``detections``; and ``confusion`` ``(K + 1, K + 1)``, how many objects of each class (rows) were
    taken for which (columns), where the last stands for nothing: detections of a score of 0.3 or
    more take by falling score the object, of whatever class, that they overlap most and at least
    by half.

    Args:
        classes: Names in index order.
        protocol: See the module.
        iou_thresholds: Default: 0.5, or 0.5, 0.55, ... 0.95 for ``coco``.
        max_detections: Most detections of a class in an image that count, the best ones; default:
            all, or 100 for ``coco``.

    Raises:
        ConfigError: If the protocol is unknown or a threshold isn't in (0, 1].

    Source:
        Everingham et al., The Pascal VOC Challenge, 2010, section 4.2, and the development kits of
        2007 and 2012; DOTA's development kit, ``dota_evaluation_task1.py``; COCO's
        ``pycocotools/cocoeval.py``. VOC's kits add a pixel to the sides of horizontal boxes, which
        belongs to its integer corners and isn't done here.
    """

    def __init__(
        self,
        classes: Sequence[str],
        protocol: Protocol = "voc12",
        iou_thresholds: Sequence[float] | None = None,
        max_detections: int | None = None,
    ) -> None:
        if protocol not in _SUMMARIES:
            raise ConfigError(f"protocol='{protocol}' is unknown; use {', '.join(_SUMMARIES)}")
        coco = protocol == "coco"
        self.classes, self.protocol = tuple(classes), protocol
        self.iou_thresholds = tuple(iou_thresholds or (COCO_THRESHOLDS if coco else (0.5,)))
        if not all(0 < t <= 1 for t in self.iou_thresholds):
            raise ConfigError(f"iou_thresholds={self.iou_thresholds} must be in (0, 1]")
        self.max_detections = max_detections or (100 if coco else None)
        self.areas = COCO_AREAS if coco else {"all": (0.0, math.inf)}
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        shape = len(self.areas), len(self.iou_thresholds)
        self._records = [_Record.empty(*shape) for _ in self.classes]
        self._confusion = np.zeros((len(self.classes) + 1,) * 2, np.int64)

    def update(self, predictions: Sequence[Detections], batch: Mapping[str, Any]) -> None:
        """Add the images of a batch.

        Args:
            predictions: Of each image, boxes of the same kind as the objects', in the same pixels.
            batch: Of each image, ``"boxes"`` ``(G, 4)`` x1, y1, x2, y2 or ``(G, 5)``; ``"labels"``
                int64 ``(G,)``; optionally ``"difficult"`` bool ``(G,)``, objects that need not be
                found (for ``coco``, crowds), and ``"areas"`` ``(G,)`` in square pixels, where they
                are other than those of the boxes.

        Raises:
            DataError: If a label isn't of a class, a box isn't finite, or kinds of boxes differ.
        """
        absent = [None] * len(predictions)
        rows = zip(
            predictions,
            labels_of(batch, "boxes"),
            batch["labels"],
            batch.get("difficult") or absent,
            batch.get("areas") or absent,
            strict=True,
        )
        for found, boxes, labels, difficult, areas in rows:
            self._add_image(found, _Objects.of(boxes, labels, difficult, areas))

    def _add_image(self, found: Detections, objects: "_Objects") -> None:
        boxes, scores = _float64(found.boxes), _float64(found.scores).numpy()
        found_labels = found.labels.cpu().numpy()
        self._check(objects.labels, "objects")
        self._check(found_labels, "detections")
        if not bool(objects.boxes.isfinite().all()):
            raise DataError("a true box isn't finite; run swath data check on the data set")
        if len(boxes) and len(objects.boxes) and boxes.shape[1] != objects.boxes.shape[1]:
            raise DataError(
                f"detections have {boxes.shape[1]} numbers a box and objects "
                f"{objects.boxes.shape[1]}; judge rotated boxes by rotated ones, horizontal by "
                "horizontal ones"
            )
        self._confusion += _confused(boxes, scores, found_labels, objects, len(self.classes))
        for label in np.union1d(found_labels, objects.labels):
            mine = np.flatnonzero(found_labels == label)
            order = mine[np.argsort(-scores[mine], kind="stable")][: self.max_detections]
            self._records[label].add(
                *self._judge(boxes[order], objects.select(objects.labels == label)), scores[order]
            )

    def _check(self, labels: NDArray[np.int64], what: str) -> None:
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise DataError(
                f"{what} have labels {labels.min()} to {labels.max()}, but there are "
                f"{len(self.classes)} classes; do data set and model name the same ones?"
            )

    def _judge(self, boxes: Tensor, objects: "_Objects") -> tuple[NDArray[np.int8], Floats]:
        """The fate ``(areas, thresholds, D)`` of one class's detections, and its objects by area.

        Boxes come by falling score.
        """
        coco = self.protocol == "coco"
        overlaps = _overlaps(boxes, objects.boxes, crowds=objects.difficult if coco else None)
        sizes = _areas(boxes).numpy()
        fates, counts = [], []
        for low, high in self.areas.values():
            outside = (objects.areas < low) | (objects.areas > high)
            counts.append(float((~objects.difficult & ~outside).sum()))
            if coco:
                fate = _match_free(overlaps, objects.difficult, outside, self.iou_thresholds)
                fate[(fate == MISS) & ((sizes < low) | (sizes > high))] = IGNORED
            else:
                fate = _match_nearest(overlaps, objects.difficult, self.iou_thresholds)
            fates.append(fate)
        return np.stack(fates), np.array(counts)

    def __add__(self, other: Self) -> Self:
        total = type(self)(self.classes, self.protocol, self.iou_thresholds, self.max_detections)
        total._records = [a + b for a, b in zip(self._records, other._records, strict=True)]
        total._confusion = self._confusion + other._confusion
        return total

    @property
    def num_objects(self) -> int:
        """Objects so far that had to be found."""
        return int(sum(record.objects[0] for record in self._records))

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        precision, recall = self._curves()
        names = {f"AP{round(100 * t)}": i for i, t in enumerate(self.iou_thresholds)}
        single = {name: names[name] for name in ("AP50", "AP75") if name in names}
        figures: dict[str, Any] = {"mAP": _mean(precision[:, 0])}
        figures |= {name: _mean(precision[:, 0, i]) for name, i in single.items()}
        for area, name in enumerate(self.areas):
            if area:
                figures[f"AP_{name}"] = _mean(precision[:, area])
        if self.protocol == "coco":
            figures["AR"] = _mean(recall[:, 0])
        figures["per_class"] = {
            name: {"AP": _none_if_nan(precision[c, 0].mean())}
            | {title: _none_if_nan(precision[c, 0, i]) for title, i in single.items()}
            | {
                "recall": _none_if_nan(recall[c, 0, 0]),
                "objects": int(self._records[c].objects[0]),
                "detections": self._records[c].detections,
            }
            for c, name in enumerate(self.classes)
        }
        figures["confusion"] = self._confusion.tolist()
        return figures

    def _curves(self) -> tuple[Floats, Floats]:
        """AP and highest recall ``(classes, areas, thresholds)``; NaN without an object."""
        shape = len(self.classes), len(self.areas), len(self.iou_thresholds)
        precision, recall = np.full(shape, math.nan), np.full(shape, math.nan)
        summarise = _SUMMARIES[self.protocol]
        for c, record in enumerate(self._records):
            fates = record.by_score()
            for area in np.flatnonzero(record.objects):
                for i in range(shape[2]):
                    curve = _curve(fates[area, i], record.objects[area])
                    precision[c, area, i] = summarise(*curve)
                    recall[c, area, i] = curve[0].max(initial=0.0)
        return precision, recall


@dataclass
class _Record:
    """What is kept of a class: of each image scores ``(D,)`` and fates ``(areas, thresholds, D)``.

    The first image is none, so that there is always something to join.
    """

    objects: Floats
    scores: list[Floats]
    fates: list[NDArray[np.int8]]

    @classmethod
    def empty(cls, areas: int, thresholds: int) -> "_Record":
        none = np.zeros((areas, thresholds, 0), np.int8)
        return cls(np.zeros(areas), [np.zeros(0)], [none])

    def add(self, fates: NDArray[np.int8], objects: Floats, scores: Floats) -> None:
        self.objects += objects
        self.scores.append(scores)
        self.fates.append(fates)

    def __add__(self, other: "_Record") -> "_Record":
        return _Record(
            self.objects + other.objects, self.scores + other.scores, self.fates + other.fates
        )

    @property
    def detections(self) -> int:
        return sum(map(len, self.scores))

    def by_score(self) -> NDArray[np.int8]:
        order = np.argsort(-np.concatenate(self.scores), kind="stable")
        return np.concatenate(self.fates, axis=-1)[..., order]


@dataclass
class _Objects:
    """True boxes of an image; tensors of boxes, arrays of the rest."""

    boxes: Tensor
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    areas: Floats

    @classmethod
    def of(cls, boxes: Tensor, labels: Tensor, difficult: Any, areas: Any) -> "_Objects":
        boxes = _float64(boxes)
        flags = torch.zeros(len(boxes), dtype=torch.bool) if difficult is None else difficult
        sizes = _areas(boxes) if areas is None else _float64(areas)
        return cls(boxes, labels.cpu().numpy(), flags.cpu().numpy(), sizes.numpy())

    def select(self, chosen: NDArray[np.bool_]) -> "_Objects":
        return _Objects(
            self.boxes[torch.from_numpy(chosen)],
            self.labels[chosen],
            self.difficult[chosen],
            self.areas[chosen],
        )


def _confused(
    boxes: Tensor,
    scores: Floats,
    labels: NDArray[np.int64],
    objects: _Objects,
    nothing: int,
) -> NDArray[np.int64]:
    """What the objects of an image were taken for; see `DetectionMetrics`."""
    sure = np.flatnonzero(scores >= SURE)
    sure = sure[np.argsort(-scores[sure], kind="stable")]
    overlaps = _overlaps(boxes[sure], objects.boxes)
    took = np.full(len(objects.labels), nothing)
    matrix = np.zeros((nothing + 1, nothing + 1), np.int64)
    for label, row in zip(labels[sure], overlaps, strict=True):
        row = np.where(took == nothing, row, 0.0)  # those that are still free
        if row.max(initial=0.0) >= TOUCHING:
            took[row.argmax()] = label
        else:
            matrix[nothing, label] += 1
    np.add.at(matrix, (objects.labels, took), ~objects.difficult)
    return matrix


def _overlaps(boxes: Tensor, objects: Tensor, crowds: NDArray[np.bool_] | None = None) -> Floats:
    """IoU ``(D, G)``; with crowds the share of the detection that lies inside."""
    if not len(boxes) or not len(objects):
        return np.zeros((len(boxes), len(objects)))
    crowd = torch.zeros(len(objects), dtype=torch.bool)
    if crowds is not None:
        crowd = torch.from_numpy(crowds)
    if boxes.shape[1] == 5:
        from swath.kernels import rotated_iou

        shares: Tensor = rotated_iou(boxes, objects)
        if crowd.any():
            shares[:, crowd] = rotated_iou(boxes, objects[crowd], mode="iof")
        return shares.numpy()
    low = torch.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    inside = (high - low).clamp_min(0).prod(-1)
    own = _areas(boxes)[:, None]
    union = torch.where(crowd, own, own + _areas(objects) - inside)
    return torch.where(union > 0, inside / union, 0.0).numpy()


def _match_nearest(
    overlaps: Floats, difficult: NDArray[np.bool_], thresholds: Sequence[float]
) -> NDArray[np.int8]:
    """VOC: a detection is judged by the object it overlaps most, whether that is taken or not."""
    count, objects = overlaps.shape
    fate = np.full((len(thresholds), count), MISS, np.int8)
    if objects == 0:
        return fate
    nearest = overlaps.argmax(1)
    overlap = overlaps[np.arange(count), nearest]
    for row, threshold in zip(fate, thresholds, strict=True):
        over = overlap > threshold
        row[over & difficult[nearest]] = IGNORED
        candidates = np.flatnonzero(over & ~difficult[nearest])
        _, first = np.unique(nearest[candidates], return_index=True)
        row[candidates[first]] = HIT
    return fate


def _match_free(
    overlaps: Floats,
    crowd: NDArray[np.bool_],
    outside: NDArray[np.bool_],
    thresholds: Sequence[float],
) -> NDArray[np.int8]:
    """COCO: a detection takes the best object that is free; a crowd is always free.

    Objects that don't count (crowds, and those outside the range of areas) are taken only if no
    other will do; a detection that takes one doesn't count either.
    """
    count, objects = overlaps.shape
    fate = np.full((len(thresholds), count), MISS, np.int8)
    if objects == 0:
        return fate
    least = np.minimum(thresholds, 1 - 1e-10)
    uncounted = crowd | outside
    free = np.ones((len(thresholds), objects), np.bool_)
    rows = np.arange(len(thresholds))
    for d in np.flatnonzero(overlaps.max(1) >= least.min()):  # the others can't take any
        taken = np.zeros(len(thresholds), np.bool_)
        for kind, meaning in ((~uncounted, HIT), (uncounted, IGNORED)):
            usable = np.where(free & kind, overlaps[d], -1.0)
            best = objects - 1 - usable[:, ::-1].argmax(1)  # of equals the last
            match = ~taken & (usable[rows, best] >= least)
            fate[match, d] = meaning
            free[rows[match], best[match]] = crowd[best[match]]
            taken |= match
    return fate


def _curve(fate: NDArray[np.int8], objects: float) -> tuple[Floats, Floats]:
    """Recall and precision after each detection."""
    hits, misses = np.cumsum(fate == HIT), np.cumsum(fate == MISS)
    return hits / objects, hits / np.maximum(hits + misses, 1)


def _eleven_points(recall: Floats, precision: Floats) -> float:
    # the development kits' own points: 0.1 * 3 is a little more than 0.3, and there it matters
    points = np.arange(0.0, 1.1, 0.1)
    return float(np.mean([precision[recall >= t].max(initial=0.0) for t in points]))


def _area_under_envelope(recall: Floats, precision: Floats) -> float:
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _101_points(recall: Floats, precision: Floats) -> float:
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, np.linspace(0, 1, 101), side="left")].mean())


_SUMMARIES: dict[str, Callable[[Floats, Floats], float]] = {
    "voc07": _eleven_points,
    "voc12": _area_under_envelope,
    "coco": _101_points,
}


def _areas(boxes: Tensor) -> Tensor:
    sides = boxes[:, 2:4] if boxes.shape[1] == 5 else boxes[:, 2:] - boxes[:, :2]
    return sides.prod(1)


def _float64(values: Tensor) -> Tensor:
    return values.detach().as_subclass(Tensor).cpu().double()


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
