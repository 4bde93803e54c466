"""Greedy non-maximum suppression of rotated boxes, all labels in one pass."""

import torch
from torch import Tensor

from swath.kernels import checks
from swath.kernels.backend import implementation
from swath.kernels.ops.rotated_iou.reference import valid_boxes


def rotated_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    labels: Tensor | None = None,
    max_keep: int = -1,
    *,
    min_size: float = 0.0,
) -> Tensor:
    """Keep the best of the boxes that overlap.

    Boxes are taken by falling score, of equal scores the first in the input; each that is still
    there removes every later one of the same label with an IoU strictly greater than the threshold.
    Boxes with a number that isn't finite, a side that isn't positive or a score that isn't finite
    are never kept and remove none.

    Args:
        boxes: ``(N, 5)``: centre x, y, sides w, h in pixels and theta in radians, clockwise
            positive on screen.
        scores: ``(N,)``, floating.
        iou_threshold: Any number: below 0 only the best box of each label stays, from 1 on all
            valid boxes do.
        labels: ``(N,)`` integers; None if all boxes compete. Coordinates aren't shifted by labels.
        max_keep: Return this many at most; -1 for all.
        min_size: Boxes with a side shorter than this many pixels count as invalid.

    Returns:
        ``(K,)`` int64 indices into ``boxes``, by falling score. Not differentiable.

    Raises:
        ValueError: If a shape, the threshold, ``max_keep`` or the devices don't fit.
        TypeError: If boxes or scores aren't floating-point or labels aren't integers.

    Warns:
        UserWarning: If an angle exceeds 4 pi, as degrees do.

    Source:
        mmcv ``ops/nms.py:nms_rotated`` and detectron2 ``layers/nms.py``, whose CPU versions remove
        at IoU >= threshold and whose classes are told apart by shifted coordinates.

    Examples:
        >>> boxes = torch.tensor([[9.0, 9, 8, 4, 0], [9.0, 9, 8, 4, 0.1], [50.0, 9, 8, 4, 0]])
        >>> rotated_nms(boxes, torch.tensor([0.6, 0.9, 0.7]), 0.5)
        tensor([1, 2])
    """
    checks.check_boxes(boxes, "boxes")
    checks.check_floating(scores, "scores")
    _check(boxes, scores, iou_threshold, labels, max_keep)
    boxes = boxes.detach() if boxes.dtype == torch.float64 else boxes.detach().float()
    keep: Tensor = torch.ops.swath.rotated_nms(
        boxes, scores.detach(), labels, float(iou_threshold), max_keep, float(min_size)
    )
    return keep


def _check(
    boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None, max_keep: int
) -> None:
    if boxes.ndim != 2:
        raise ValueError(f"boxes must have shape (N, 5); got {tuple(boxes.shape)}")
    named = {"boxes": boxes, "scores": scores}
    if labels is not None:
        named["labels"] = labels
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(
                f"labels must be integers; got {labels.dtype} of shape {tuple(labels.shape)}"
            )
    for name, tensor in named.items():
        if name != "boxes" and tensor.shape != boxes.shape[:1]:
            raise ValueError(
                f"{name} must have shape ({boxes.shape[0]},), one for each of the boxes; "
                f"got {tuple(tensor.shape)}"
            )
    checks.check_same_device(**named)
    if threshold != threshold:
        raise ValueError("iou_threshold must be a number; got NaN")
    if max_keep < -1:
        raise ValueError(f"max_keep must be -1 for all or at least 0; got {max_keep}")


@torch.library.custom_op("swath::rotated_nms", mutates_args=())
def _rotated_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    max_keep: int,
    min_size: float,
) -> Tensor:
    run = implementation("rotated_nms", "suppress", boxes.device, boxes.dtype)
    valid = valid_boxes(boxes, min_size) & scores.isfinite()
    by_score = torch.where(valid, scores, -torch.inf).argsort(descending=True, stable=True)
    if labels is None:
        labels = torch.zeros_like(by_score)
    order = by_score[labels[by_score].argsort(stable=True)]  # by label, then by score
    labels, alive = labels[order], valid[order]
    if iou_threshold < 0:
        kept = torch.ones_like(alive)
        kept[1:] = labels[1:] != labels[:-1]
    elif iou_threshold >= 1:
        kept = torch.ones_like(alive)
    else:
        kept = run(torch.where(alive[:, None], boxes[order], 0), labels, iou_threshold)
    chosen = torch.empty_like(kept).index_copy_(0, order, kept & alive)
    keep = by_score[chosen[by_score]]
    return keep if max_keep < 0 else keep[:max_keep].clone()


@_rotated_nms.register_fake
def _(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    max_keep: int,
    min_size: float,
) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
