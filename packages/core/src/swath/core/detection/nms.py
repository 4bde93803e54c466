"""Class-wise suppression, the last step of most detectors."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from swath.core.structures import Detections
from swath.kernels import rotated_nms

SMALLEST_SIDE = 1e-3
"""Rotated boxes with a shorter side, in pixels, are dropped, as all official kernels do."""


def class_wise_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.1,
    max_detections: int = 2000,
) -> Detections:
    """Objects out of boxes with a score for each class; a box may be several.

    Args:
        boxes: ``(N, 5)`` rotated or ``(N, 4)`` x1, y1, x2, y2.
        scores: ``(N, K)`` in 0..1, background left out.
        score_threshold: A score must be above.
        iou_threshold: Of two boxes of a class that overlap more, the worse goes.
        max_detections: The best ones that stay.

    Returns:
        Objects by falling score.
    """
    index, labels = (scores > score_threshold).nonzero(as_tuple=True)
    found = Detections(boxes[index], scores[index, labels], labels)
    return found.select(nms(found, iou_threshold)[:max_detections])


def nms(found: Detections, iou_threshold: float) -> Tensor:
    """Indices ``(K,)`` of the objects that stay, each class by itself, by falling score.

    Args:
        found: Rotated or horizontal.
        iou_threshold: As of `class_wise_nms`.
    """
    keep: Tensor
    if found.boxes.shape[1] == 5:
        keep = rotated_nms(
            found.boxes, found.scores, iou_threshold, found.labels, min_size=SMALLEST_SIDE
        )
    else:
        keep = nms_by_group(found.boxes.float(), found.scores, found.labels, iou_threshold)
    return keep


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Indices ``(K,)`` of the horizontal boxes that stay, each group by itself, by falling score.

    Args:
        boxes: ``(N, 4)`` x1, y1, x2, y2, anywhere.
        scores: ``(N,)``.
        groups: int64 ``(N,)``, such as classes or levels of a pyramid.
        iou_threshold: Of two boxes of a group that overlap more, the worse goes.
    """
    # torchvision moves groups apart by the largest coordinate alone, as if none were negative
    low = boxes.amin() if len(boxes) else 0.0
    keep: Tensor = batched_nms(boxes - low, scores, groups, iou_threshold)
    return keep


def join(parts: list[Detections]) -> Detections:
    """Several lists of objects as one."""
    return Detections(
        torch.cat([p.boxes for p in parts]),
        torch.cat([p.scores for p in parts]),
        torch.cat([p.labels for p in parts]),
    )
