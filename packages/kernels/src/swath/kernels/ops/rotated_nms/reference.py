"""Greedy suppression of rotated boxes in plain torch: the specification."""

import torch
from torch import Tensor

from swath.kernels.ops.rotated_iou.reference import pairwise


def suppress(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Which boxes survive.

    Args:
        boxes: ``(N, 5)``, boxes of one label next to each other, in each label the best first.
            Boxes without a size neither suppress nor are suppressed.
        labels: ``(N,)`` integers; only boxes of equal labels suppress each other.
        threshold: In [0, 1): the IoU that a suppressed box exceeds.

    Returns:
        ``(N,)`` bool.
    """
    kept = torch.zeros_like(labels, dtype=torch.bool)
    alive = torch.arange(len(boxes), device=boxes.device)
    while len(alive):
        best, rest = alive[:1], alive[1:]
        kept[best] = True
        iou = pairwise(boxes[best], boxes[rest], "iou", 0.0)[0]
        alive = rest[(iou <= threshold) | (labels[rest] != labels[best])]
    return kept
