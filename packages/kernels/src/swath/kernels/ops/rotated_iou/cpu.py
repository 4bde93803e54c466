"""Rotated IoU on the CPU: scalar loops in double precision, compiled by numba.

The formulas are those of the reference, but for the angle between two boxes: products of sines and
cosines are exact enough in double precision, and only equal angles want care. Tables of boxes are
(9, N) float64; one box of a table is a tuple.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from swath.kernels.ops.rotated_iou.reference import valid_boxes
from swath.kernels.threads import split

Array = np.ndarray[Any, Any]
compiled = numba.njit(cache=True, nogil=True, error_model="numpy")


def table(boxes: Tensor, min_size: float = 0.0) -> Array:
    """What the loops read of boxes ``(N, 5)``: x, y, halves of w and h, angle, radius.

    The radius of an invalid box is NaN, which makes it near to none.
    """
    valid = valid_boxes(boxes, min_size)
    x, y, w, h, theta = boxes.detach().double().unbind(1)
    radius = torch.where(valid, torch.hypot(w, h) / 2, math.nan)
    rows = (x, y, radius, w / 2, h / 2, w * h, theta, theta.cos(), theta.sin())
    return torch.stack(rows).numpy()


def pairwise(boxes1: Tensor, boxes2: Tensor, mode: str, min_size: float) -> Tensor:
    """See the reference."""
    out = boxes1.new_empty(len(boxes1), len(boxes2))
    rows, columns, target = table(boxes1, min_size), table(boxes2, min_size), out.numpy()
    split(lambda a, b: _pairwise(rows, columns, mode == "iof", target, a, b), len(boxes1))
    return out


def intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """See the reference."""
    out = boxes1.new_empty(boxes1.shape[:-1])
    first, second = table(boxes1.reshape(-1, 5)), table(boxes2.reshape(-1, 5))
    target = out.view(-1).numpy()
    split(lambda a, b: _aligned(first, second, target, a, b), len(target))
    return out


def intersection_backward(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """See the reference."""
    grads = boxes1.new_empty(boxes1.shape), boxes2.new_empty(boxes2.shape)
    first, second = table(boxes1.reshape(-1, 5)), table(boxes2.reshape(-1, 5))
    weights = grad.detach().reshape(-1).numpy()
    to_first, to_second = (out.view(-1, 5).numpy() for out in grads)

    def run(a: int, b: int) -> None:
        _aligned_backward(first, second, weights, to_first, a, b)
        _aligned_backward(second, first, weights, to_second, a, b)

    split(run, len(weights))
    return grads


@compiled
def take(a, i):
    """Box ``i`` of a table."""
    return (a[0, i], a[1, i], a[2, i], a[3, i], a[4, i], a[5, i], a[6, i], a[7, i], a[8, i])


@compiled
def near(box, b, first, last, out):
    """Write which boxes of table ``b``, in a range, may touch ``box``; return how many."""
    xs, ys, radii = b[0, first:last], b[1, first:last], b[2, first:last]
    x, y, radius, count = box[0], box[1], box[2], 0
    for j in range(len(xs)):
        dx, dy, reach = x - xs[j], y - ys[j], radius + radii[j]
        if dx * dx + dy * dy <= reach * reach:
            out[count] = first + j
            count += 1
    return count


@compiled
def overlap(box1, box2):
    """Area common to two boxes."""
    smaller = min(box1[5], box2[5])
    if box1[5] < box2[5]:
        box1, box2 = box2, box1
    x, y, ux, uy, vx, vy, x_low, y_low, x_high, y_high = _in_frame(box1, box2)
    bounds = (x_low, y_low, x_high, y_high)
    per_ux, per_vx = 1 / ux, 1 / vx
    area = (
        _edge(x + vx, y + vy, ux, uy, per_ux, bounds)
        + _edge(x - ux, y - uy, vx, vy, per_vx, bounds)
        - _edge(x - vx, y - vy, ux, uy, per_ux, bounds)
        - _edge(x + ux, y + uy, vx, vy, per_vx, bounds)
    ) / 2
    return min(area, smaller) if area > 0 else 0.0


@compiled
def iou(box1, box2):
    """IoU of two boxes."""
    area = overlap(box1, box2)
    return area / (max(box1[5], box2[5]) + (min(box1[5], box2[5]) - area))


@compiled
def _pairwise(a, b, iof, out, first, last):
    candidates = np.empty(b.shape[1], np.int64)
    for i in range(first, last):
        out[i] = 0
        box = take(a, i)
        for j in candidates[: near(box, b, 0, b.shape[1], candidates)]:
            other = take(b, j)
            out[i, j] = overlap(box, other) / box[5] if iof else iou(box, other)


@compiled
def _meet(box1, box2):
    dx, dy, reach = box1[0] - box2[0], box1[1] - box2[1], box1[2] + box2[2]
    return dx * dx + dy * dy <= reach * reach


@compiled
def _aligned(a, b, out, first, last):
    for i in range(first, last):
        box1, box2 = take(a, i), take(b, i)
        out[i] = overlap(box1, box2) if _meet(box1, box2) else 0


@compiled
def _aligned_backward(a, b, grad, out, first, last):
    for i in range(first, last):
        box, frame = take(a, i), take(b, i)
        if not _meet(box, frame):
            out[i] = 0
            continue
        x, y, ux, uy, vx, vy, x_low, y_low, x_high, y_high = _in_frame(box, frame)
        bounds = (x_low, y_low, x_high, y_high)
        right, y_right = _edge_inside(x + ux, y + uy, vx, vy, bounds)
        left, y_left = _edge_inside(x - ux, y - uy, vx, vy, bounds)
        bottom, x_bottom = _edge_inside(x + vx, y + vy, ux, uy, bounds)
        top, x_top = _edge_inside(x - vx, y - vy, ux, uy, bounds)
        w, h, cos, sin = 2 * box[3], 2 * box[4], box[7], box[8]
        along, across = h * (right - left), w * (bottom - top)
        out[i, 0] = grad[i] * (cos * along - sin * across)
        out[i, 1] = grad[i] * (sin * along + cos * across)
        out[i, 2] = grad[i] * h * (right + left) / 2
        out[i, 3] = grad[i] * w * (bottom + top) / 2
        out[i, 4] = grad[i] * (
            h * h * (left * y_left - right * y_right) + w * w * (bottom * x_bottom - top * x_top)
        )


@compiled
def _edge(mx, my, tx, ty, per_tx, bounds):
    """Twice the integral of q_y dq_x along the edge from m - t to m + t."""
    x_low, y_low, x_high, y_high = bounds
    width = min(max(mx + tx, x_low), x_high) - min(max(mx - tx, x_low), x_high)
    if width == 0 or math.isinf(per_tx):
        return 0.0
    s, t = (x_low - mx) * per_tx, (x_high - mx) * per_tx
    start, end = max(min(s, t), -1.0), min(max(s, t), 1.0)
    a, b = my + start * ty, my + end * ty
    qa, qb = min(max(a, y_low), y_high), min(max(b, y_low), y_high)
    mean = qa + qb
    if qa != qb:
        mean += ((qa - a) + (qb - b)) / (b - a) * (qa - qb)
    return width * mean


@compiled
def _edge_inside(px, py, qx, qy, bounds):
    """Which fraction of the edge from p - q to p + q is inside, and where its middle is."""
    x_low, y_low, x_high, y_high = bounds
    weight_x, start_x, end_x = _inside(px, qx, x_low, x_high)
    weight_y, start_y, end_y = _inside(py, qy, y_low, y_high)
    start, end = max(start_x, start_y), min(end_x, end_y)
    return max(end - start, 0.0) / 2 * weight_x * weight_y, (start + end) / 4


@compiled
def _inside(p, q, low, high):
    if q == 0:
        weight = 1.0 if low < p < high else 0.5 if low <= p <= high else 0.0
        return weight, -1.0, 1.0
    s, t = (low - p) / q, (high - p) / q
    return 1.0, max(min(s, t), -1.0), min(max(s, t), 1.0)


@compiled
def _in_frame(box, frame):
    dx, dy = box[0] - frame[0], box[1] - frame[1]
    w, h, cos, sin = frame[3], frame[4], frame[7], frame[8]
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    x_origin, y_origin = min(max(x, -w), w), min(max(y, -h), h)
    cos, sin = cos * box[7] + sin * box[8], cos * box[8] - sin * box[7]
    if box[6] == frame[6]:
        cos, sin = 1.0, 0.0
    return (
        x - x_origin,
        y - y_origin,
        box[3] * cos,
        box[3] * sin,
        -box[4] * sin,
        box[4] * cos,
        -w - x_origin,
        -h - y_origin,
        w - x_origin,
        h - y_origin,
    )
