"""Rotated IoU in plain torch: the specification.

The area common to two rectangles is computed without finding its vertices. In the frame of one
box, which is then ``[-W, W] x [-H, H]``, let ``q(p)`` be the point of it nearest to ``p``. The map
``q`` leaves inner points where they are and sends outer ones to the border, so the image of the
other box covers its overlap once and nothing else of any area, and by Green's theorem

    area = | integral of q_y dq_x along the boundary of the other box |.

Each of the four edges contributes a closed form. Nothing is sorted, no decision can flip the
result, and no epsilon is needed: rounding costs a few units in the last place of the boxes' size.

The gradient is as short: when a box moves, its overlap changes by the normal velocity of the
part of its boundary that lies inside the other box. Where edges coincide, and the derivative has
two sides, the mean of both is taken, so that a box equal to its target has gradient zero.
"""

import torch
from torch import Tensor

PAIRS_PER_CHUNK = 1 << 14  # temporaries of this many numbers stay in a core's cache


def valid_boxes(boxes: Tensor, min_size: float = 0.0) -> Tensor:
    """Which boxes ``(..., 5)`` have finite numbers, sides >= ``min_size`` and a positive area."""
    w, h = boxes[..., 2], boxes[..., 3]
    area = w * h  # may underflow to zero or overflow
    sides = (w > 0) & (h > 0) & (w >= min_size) & (h >= min_size)
    return boxes.isfinite().all(-1) & sides & (area > 0) & area.isfinite()


def intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Areas of overlap.

    Args:
        boxes1: ``(..., 5)``, internal convention.
        boxes2: ``(..., 5)``; leading dimensions broadcast.

    Returns:
        ``(...)``, at most the smaller area of the two; 0 where a box isn't valid.
    """
    boxes1, boxes2, near = _near(boxes1, boxes2)
    area1, area2 = (boxes[..., 2] * boxes[..., 3] for boxes in (boxes1, boxes2))
    # the larger box gives the frame: relative to the smaller one's size the result stays exact
    swap = (area1 > area2)[..., None]
    inner, frame = torch.where(swap, boxes2, boxes1), torch.where(swap, boxes1, boxes2)
    (x, y), (ux, uy), (vx, vy), (x_low, y_low), (x_high, y_high) = _in_frame(inner, frame)

    # edges of the inner box from corner to corner, against the sense of positive area: (4, ...)
    x0 = torch.stack((x - ux - vx, x + ux - vx, x + ux + vx, x - ux + vx))
    y0 = torch.stack((y - uy - vy, y + uy - vy, y + uy + vy, y - uy + vy))
    x1, y1 = x0.roll(-1, 0), y0.roll(-1, 0)

    # the part between the lines x = x_low and x = x_high; outside of it q_x doesn't move
    xa, xb = x0.clamp(x_low, x_high), x1.clamp(x_low, x_high)
    dx, dy = x1 - x0, y1 - y0
    run = torch.where(dx == 0, 1, dx)
    ya, yb = y0 + (xa - x0) / run * dy, y1 - (x1 - xb) / run * dy

    # the mean of q_y over it: of three pieces, constant, sloping and constant again
    ca, cb = ya.clamp(y_low, y_high), yb.clamp(y_low, y_high)
    rise = yb - ya
    rise = torch.where(rise == 0, 1, rise)
    ta, tb = ((ca - ya) / rise).clamp(0, 1), ((yb - cb) / rise).clamp(0, 1)
    mean = ta * ca + tb * cb + (1 - ta - tb) * (ca + cb) / 2

    area = ((xa - xb) * mean).sum(0)
    area = torch.minimum(area.clamp(min=0), torch.minimum(area1, area2))
    return torch.where(near & (area > 0), area, 0)


def intersection_backward(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `intersection`.

    Args:
        grad: ``(...)``, with respect to the areas.
        boxes1: ``(..., 5)``; no broadcasting here.
        boxes2: ``(..., 5)``.

    Returns:
        Two tensors ``(..., 5)``; zero where the boxes don't overlap or aren't valid.
    """
    boxes1, boxes2, near = _near(boxes1, boxes2)
    grad = torch.where(near, grad, 0)[..., None]
    return grad * _area_gradient(boxes1, boxes2), grad * _area_gradient(boxes2, boxes1)


def _area_gradient(box: Tensor, frame: Tensor) -> Tensor:
    """Derivative of the area of overlap by one of the boxes, ``(..., 5)``."""
    (x, y), (ux, uy), (vx, vy), low, high = _in_frame(box, frame)
    w, h, theta = box[..., 2], box[..., 3], box[..., 4]

    def inside(px: Tensor, py: Tensor, qx: Tensor, qy: Tensor) -> tuple[Tensor, Tensor]:
        """Which fraction of the edge from p - q to p + q lies in the frame; where its middle is."""
        weight_x, start_x, end_x = _between(px, qx, low[0], high[0])
        weight_y, start_y, end_y = _between(py, qy, low[1], high[1])
        start, end = torch.maximum(start_x, start_y), torch.minimum(end_x, end_y)
        fraction = (end - start).clamp(min=0) / 2 * weight_x * weight_y
        return fraction, (start + end) / 4  # in units of the edge's length, from p

    right, y_right = inside(x + ux, y + uy, vx, vy)
    left, y_left = inside(x - ux, y - uy, vx, vy)
    bottom, x_bottom = inside(x + vx, y + vy, ux, uy)
    top, x_top = inside(x - vx, y - vy, ux, uy)
    along, across = h * (right - left), w * (bottom - top)
    cos, sin = theta.cos(), theta.sin()
    turn = h * h * (left * y_left - right * y_right) + w * w * (bottom * x_bottom - top * x_top)
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


def _between(p: Tensor, q: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For which t in [-1, 1] one has ``low <= p + t q <= high``: a weight, the first and last t.

    The weight is 1 unless q is zero; then it says whether p is inside, a half on the border.
    """
    safe = torch.where(q == 0, 1, q)
    a, b = (low - p) / safe, (high - p) / safe
    border = (((p - low).sign() + (high - p).sign()) / 2).clamp(min=0)
    start = torch.where(q == 0, -1, torch.minimum(a, b).clamp(-1, 1))
    end = torch.where(q == 0, 1, torch.maximum(a, b).clamp(-1, 1))
    return torch.where(q == 0, border, 1), start, end


def _near(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes broadcast, and which pairs may overlap; the others are replaced by harmless ones."""
    boxes1, boxes2 = torch.broadcast_tensors(boxes1, boxes2)
    apart = (boxes1[..., :2] - boxes2[..., :2]).norm(dim=-1)
    reach = (boxes1[..., 2:4].norm(dim=-1) + boxes2[..., 2:4].norm(dim=-1)) / 2
    near = valid_boxes(boxes1) & valid_boxes(boxes2) & (apart <= reach)
    unit = boxes1.new_tensor([0.0, 0.0, 1.0, 1.0, 0.0])
    return (
        torch.where(near[..., None], boxes1, unit),
        torch.where(near[..., None], boxes2, unit),
        near,
    )


def _in_frame(box: Tensor, frame: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """A box as seen from another one: centre, half side u, half side v, bounds of the frame.

    The angles are subtracted before the trigonometry, so that equal ones give cos = 1 and sin = 0.
    The origin is the point of the frame that is nearest to the box, so that nothing cancels.
    """
    cx, cy, w, h, theta = box.unbind(-1)
    frame_cx, frame_cy, frame_w, frame_h, frame_theta = frame.unbind(-1)
    dx, dy, cos, sin = cx - frame_cx, cy - frame_cy, frame_theta.cos(), frame_theta.sin()
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    origin_x, origin_y = (
        x.clamp(-frame_w / 2, frame_w / 2),
        y.clamp(-frame_h / 2, frame_h / 2),
    )
    cos, sin = (theta - frame_theta).cos(), (theta - frame_theta).sin()
    return (
        (x - origin_x, y - origin_y),
        (w / 2 * cos, w / 2 * sin),
        (-h / 2 * sin, h / 2 * cos),
        (-frame_w / 2 - origin_x, -frame_h / 2 - origin_y),
        (frame_w / 2 - origin_x, frame_h / 2 - origin_y),
    )
