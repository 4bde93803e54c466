"""Which box answers for which object, and which boxes are learnt from."""

import torch
from torch import Tensor

NEGATIVE, NEITHER = -1, -2


def pairwise_iou(boxes: Tensor, objects: Tensor) -> Tensor:
    """IoU ``(N, G)`` of horizontal boxes ``(N, 4)`` with objects ``(G, 4)``, both corners.

    What `torchvision.ops.box_iou` gives, several times faster where boxes are many: it works along
    them, coordinate by coordinate.
    """
    x1, y1, x2, y2 = boxes.T.contiguous()
    left, top, right, bottom = objects.T[:, :, None]  # (G, 1) each
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    shared = width * height  # (G, N)
    areas = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)
    overlaps: Tensor = (shared / (areas - shared)).T
    return overlaps


def assign_by_iou(
    overlaps: Tensor,
    positive: float,
    negative: float,
    low_quality: float | None = None,
) -> Tensor:
    """Give each box the object that it overlaps most, or none.

    Args:
        overlaps: IoU ``(N, G)`` of N boxes with G objects.
        positive: From this IoU on a box answers for its object.
        negative: Below this IoU a box is background; in between it is neither.
        low_quality: From this IoU on the boxes that overlap an object most answer for it, however
            many there are, even if they overlap another one more; None leaves that rule out.

    Returns:
        int64 ``(N,)``: number of the object, `NEGATIVE` or `NEITHER`.

    Source:
        Ren et al. 2015, Faster R-CNN, section 3.1.2, in the form of mmdetection's
        ``MaxIoUAssigner``: of several objects that claim a box by the low-quality rule, the last
        gets it.
    """
    count, objects = overlaps.shape
    if objects == 0:
        return torch.full((count,), NEGATIVE, device=overlaps.device)
    overlaps = overlaps.T.contiguous()  # few long rows reduce faster than many short ones
    best, nearest = overlaps.max(0)
    assigned = torch.full_like(nearest, NEITHER)
    assigned[best < negative] = NEGATIVE
    assigned = torch.where(best >= positive, nearest, assigned)
    if low_quality is not None and count:
        highest = overlaps.amax(1, keepdim=True)
        claims = (overlaps == highest) & (highest >= low_quality)
        numbers = torch.arange(objects, device=claims.device)[:, None]
        last = torch.where(claims, numbers, NEGATIVE).amax(0)
        assigned = torch.where(last >= 0, last, assigned)
    return assigned


def sample_boxes(assigned: Tensor, count: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Draw the boxes that are learnt from.

    Args:
        assigned: As `assign_by_iou` gives it, ``(N,)``.
        count: How many at most.
        positive_share: Most of them that answer for an object; background fills up the rest.

    Returns:
        Indices of those that answer for an object, and of background ones, ascending.
    """
    positive = _draw((assigned >= 0).nonzero()[:, 0], int(count * positive_share))
    negative = _draw((assigned == NEGATIVE).nonzero()[:, 0], count - len(positive))
    return positive, negative


def _draw(indices: Tensor, count: int) -> Tensor:
    if len(indices) <= count:
        return indices
    # drawn on the CPU: the same numbers whatever the device
    chosen = torch.randperm(len(indices))[:count].sort().values
    return indices[chosen.to(indices.device)]
