"""Rotated IoU in plain torch: the specification.

The area common to two rectangles is computed without finding its vertices. In the frame of one
box, which is then ``[-W, W] x [-H, H]``, let ``q(p)`` be the point of it nearest to ``p``. The map
``q`` leaves inner points where they are and sends outer ones to the border, so the image of the
other box covers the overlap once and nothing else of any area, and by Green's theorem

    area = | integral of q_y dq_x along the boundary of the other box |.

Each of the four edges contributes a closed form. Nothing is sorted, no decision can flip the
result, and no epsilon is needed: rounding costs a few units in the last place of the boxes' size.

The gradient is as short: when a box moves, its overlap changes by the normal velocity of the
part of its boundary that lies inside the other box. Where edges coincide, and the derivative has
two sides, the mean of both is taken, so that a box equal to its target has gradient zero.

Source:
    Own derivation; it replaces the vertex search and hull of detectron2's and mmcv's
    ``box_iou_rotated``.
"""

import torch
from torch import Tensor

CHUNK = 1 << 14  # temporaries of this many numbers stay in a core's cache


def pairwise(boxes1: Tensor, boxes2: Tensor, mode: str, min_size: float) -> Tensor:
    """Overlap of every box with every other one, in bounded memory.

    Args:
        boxes1: ``(N, 5)``, internal convention.
        boxes2: ``(M, 5)``.
        mode: ``"iou"``, or ``"iof"`` which divides by the area of ``boxes1``.
        min_size: Boxes with a shorter side overlap nothing.

    Returns:
        ``(N, M)``.
    """
    out = boxes1.new_zeros(len(boxes1), len(boxes2))
    columns, valid = boxes2.T.contiguous(), valid_boxes(boxes2, min_size)  # (5, M), (M,)
    step = max(1, 8 * CHUNK // max(1, len(boxes2)))
    for block, target in zip(torch.split(boxes1, step), torch.split(out, step), strict=True):
        near = _near(block.T[..., None], columns[:, None, :])
        near &= valid_boxes(block, min_size)[:, None] & valid
        hits = near.flatten().nonzero().squeeze(1)
        for hit in torch.split(hits, CHUNK):
            row = hit // len(boxes2)
            column = hit - row * len(boxes2)
            box1, box2 = block.T.index_select(1, row), columns.index_select(1, column)
            area = _overlap(box1, box2)
            target.view(-1)[hit] = ratio(area, box1[2] * box1[3], box2[2] * box2[3], mode)
    return out


@torch.no_grad()  # division by zero is harmless here, but not to autograd
def intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Areas of overlap; `swath.kernels.ops.rotated_iou.intersection` is the differentiable one.

    Args:
        boxes1: ``(..., 5)``, internal convention.
        boxes2: ``(..., 5)``; leading dimensions broadcast.

    Returns:
        ``(...)``, at most the smaller area of the two; 0 where a box isn't valid.
    """
    first, second, near = _aligned(boxes1, boxes2)
    return torch.where(near, _overlap(first, second), 0)


def intersection_backward(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `intersection`.

    Args:
        grad: ``(...)``, with respect to the areas.
        boxes1: ``(..., 5)``.
        boxes2: ``(..., 5)``, of the same shape.

    Returns:
        Two tensors ``(..., 5)``; zero where the boxes don't overlap or aren't valid.
    """
    first, second, near = _aligned(boxes1, boxes2)
    grad = torch.where(near, grad, 0)[..., None]
    return grad * _overlap_gradient(first, second), grad * _overlap_gradient(second, first)


def ratio(area: Tensor, area1: Tensor, area2: Tensor, mode: str) -> Tensor:
    """IoU or IoF from the areas of overlap and of the boxes; within [0, 1] by the order of sums."""
    if mode == "iof":
        return area / area1
    # large + (small - area) can't round to less than the area, as large + small - area could
    return area / (torch.maximum(area1, area2) + (torch.minimum(area1, area2) - area))


def valid_boxes(boxes: Tensor, min_size: float = 0.0) -> Tensor:
    """Which boxes ``(..., 5)`` have finite numbers, sides >= ``min_size`` and a positive area."""
    w, h = boxes[..., 2], boxes[..., 3]
    area = w * h  # may underflow to zero or overflow
    sides = (w > 0) & (h > 0) & (w >= min_size) & (h >= min_size)
    return boxes.isfinite().all(-1) & sides & (area > 0) & area.isfinite()


# Below, components come first: boxes are (5, ...).


def _aligned(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes broadcast, and which pairs may overlap; the others are replaced by harmless ones."""
    shape = torch.broadcast_shapes(boxes1.shape, boxes2.shape)
    first, second = boxes1.expand(shape).movedim(-1, 0), boxes2.expand(shape).movedim(-1, 0)
    near = _near(first, second) & valid_boxes(boxes1) & valid_boxes(boxes2)
    return torch.where(near, first, 1), torch.where(near, second, 1), near


def _near(box1: Tensor, box2: Tensor) -> Tensor:
    """Whether the circles around the boxes meet."""
    reach = (_radius(box1) + _radius(box2)).square()
    return (box1[0] - box2[0]).square() + (box1[1] - box2[1]).square() <= reach


def _radius(box: Tensor) -> Tensor:
    return torch.hypot(box[2], box[3]) / 2


def _overlap(box1: Tensor, box2: Tensor) -> Tensor:
    """Area common to valid boxes."""
    area1, area2 = box1[2] * box1[3], box2[2] * box2[3]
    # the smaller box gives the frame, so that the widths below are exact however thin it is
    swap = area1 < area2
    box, frame = torch.where(swap, box2, box1), torch.where(swap, box1, box2)
    (x, y), (ux, uy), (vx, vy), (x_low, y_low), (x_high, y_high) = _in_frame(box, frame)

    # the box's edges, from m - t to m + t: first index one side or the other, second along u or v
    mx = torch.stack((x - vx, x + ux, x + vx, x - ux)).view(2, 2, *x.shape)
    my = torch.stack((y - vy, y + uy, y + vy, y - uy)).view(2, 2, *x.shape)
    tx, ty = torch.stack((ux, vx)), torch.stack((uy, vy))

    # the part between x_low and x_high, from height a to height b; on the rest q_x doesn't move
    start, end = _between(mx, tx, x_low, x_high)
    width = (mx + tx).clamp_(x_low, x_high).sub_((mx - tx).clamp_(x_low, x_high))
    a, b = my + start * ty, my + end * ty

    # twice the mean of q_y over it, which is constant, then sloping, then constant again
    qa, qb = a.clamp(y_low, y_high), b.clamp(y_low, y_high)
    excess = (qa - a).add_(qb - b).div_(b - a).mul_(qa - qb)  # 0 / 0 or inf * 0 where qa = qb
    mean = excess.nan_to_num_(0).add_(qa).add_(qb)

    one_side, other_side = width.mul_(mean).sum(1)
    area = (other_side - one_side) / 2
    area = torch.minimum(area, torch.minimum(area1, area2))
    return torch.where(area > 0, area, 0)


def _overlap_gradient(box: Tensor, frame: Tensor) -> Tensor:
    """Derivative of the area of overlap by one of two valid boxes, ``(..., 5)``."""
    (x, y), (ux, uy), (vx, vy), low, high = _in_frame(box, frame)
    w, h, theta = box[2], box[3], box[4]

    def edge(px: Tensor, py: Tensor, qx: Tensor, qy: Tensor) -> tuple[Tensor, Tensor]:
        """Which fraction of the edge from p - q to p + q lies in the frame; where its middle is."""
        weight_x, start_x, end_x = _inside(px, qx, low[0], high[0])
        weight_y, start_y, end_y = _inside(py, qy, low[1], high[1])
        start, end = torch.maximum(start_x, start_y), torch.minimum(end_x, end_y)
        fraction = (end - start).clamp(min=0) / 2 * weight_x * weight_y
        return fraction, (start + end) / 4  # in units of the edge's length, from p

    right, y_right = edge(x + ux, y + uy, vx, vy)
    left, y_left = edge(x - ux, y - uy, vx, vy)
    bottom, x_bottom = edge(x + vx, y + vy, ux, uy)
    top, x_top = edge(x - vx, y - vy, ux, uy)
    along, across = h * (right - left), w * (bottom - top)
    turn = h * h * (left * y_left - right * y_right) + w * w * (bottom * x_bottom - top * x_top)
    cos, sin = theta.cos(), theta.sin()
    return torch.stack(
        (
            cos * along - sin * across,
            sin * along + cos * across,
            h * (right + left) / 2,
            w * (bottom + top) / 2,
            turn,
        ),
        -1,
    )


def _between(p: Tensor, q: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The first and last t in [-1, 1] with ``low <= p + t q <= high``, if q isn't zero."""
    q = torch.where(q == 0, 1, q)
    s, t = (low - p).div_(q), (high - p).div_(q)
    return torch.minimum(s, t).clamp_(-1, 1), torch.maximum(s, t).clamp_(-1, 1)


def _inside(p: Tensor, q: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_between`, also for a q of zero, after a weight: 1 inside, 0 outside, 1/2 on a border."""
    start, end = _between(p, q, low, high)
    weight = (((p - low).sign() + (high - p).sign()) / 2).clamp(min=0)
    still = q == 0
    return torch.where(still, weight, 1), torch.where(still, -1, start), torch.where(still, 1, end)


def _in_frame(box: Tensor, frame: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """A box as seen from another one: centre, half side u, half side v, bounds of the frame.

    The angles are subtracted before the trigonometry, so that equal ones give cos = 1 and sin = 0.
    The origin is the point of the frame that is nearest to the box, so that nothing cancels.
    """
    cx, cy, w, h, theta = box
    frame_cx, frame_cy, frame_w, frame_h, frame_theta = frame
    dx, dy, cos, sin = cx - frame_cx, cy - frame_cy, frame_theta.cos(), frame_theta.sin()
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    x_half, y_half = frame_w / 2, frame_h / 2
    x_origin, y_origin = x.clamp(-x_half, x_half), y.clamp(-y_half, y_half)
    cos, sin = (theta - frame_theta).cos(), (theta - frame_theta).sin()
    return (
        (x - x_origin, y - y_origin),
        (w / 2 * cos, w / 2 * sin),
        (-h / 2 * sin, h / 2 * cos),
        (-x_half - x_origin, -y_half - y_origin),
        (x_half - x_origin, y_half - y_origin),
    )
