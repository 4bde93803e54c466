"""Multi-scale deformable attention on the CPU: loops over samples, nothing of their size stored.

Positions are computed in float64, so that rounding never moves a sample into another cell.
"""

import math

import numba
import numpy as np
import torch
from torch import Tensor

from swath.kernels.ops.ms_deform_attn import reference
from swath.kernels.threads import split

# sums over channels may be reordered into vectors; NaN and infinity keep their meaning
FAST = {"contract", "reassoc", "nsz"}


def forward(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """As the reference's."""
    batch, _, heads, channels = value.shape
    value, out_dtype = _plain(value, locations), value.dtype
    out = value.new_zeros(batch, locations.shape[1], heads, channels)
    arrays = [_array(t) for t in (value, shapes, starts, locations, weights, out)]
    split(lambda first, last: _forward(*arrays, first, last), batch * heads)
    return out.flatten(2).to(out_dtype)


def backward(
    grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference's; repeatable, since a head's gradient is summed by one thread."""
    batch, _, heads, _ = value.shape
    value, out_dtype = _plain(value, locations), value.dtype
    grads = [t.new_zeros(t.shape) for t in (value, locations, weights)]
    grad = grad.to(value.dtype).reshape(*grad.shape[:2], *value.shape[2:])
    arrays = [_array(t) for t in (grad, value, shapes, starts, locations, weights, *grads)]
    split(lambda first, last: _backward(*arrays, first, last), batch * heads)
    return grads[0].to(out_dtype), grads[1], grads[2]


def forward_from_logits(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """As the reference's."""
    composed = reference.compose(shapes, reference_points, offsets, logits)
    return forward(value, shapes, starts, *composed)


def backward_from_logits(
    grad: Tensor,
    out: Tensor,
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the reference's."""
    locations, weights = reference.compose(shapes, reference_points, offsets, logits)
    grad_value, *grads = backward(grad, value, shapes, starts, locations, weights)
    return grad_value, *reference.compose_backward(
        (grads[0], grads[1]), weights, shapes, reference_points, offsets, logits
    )


def _plain(value: Tensor, locations: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, locations.dtype)).contiguous()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


@numba.njit(cache=True, nogil=True, inline="always")
def _cell(location, size):
    """Pixel to the left, the distance from it, and whether the sample touches the level."""
    position = np.float64(location) * size - 0.5
    if not (position >= -1 and position < size):  # also for NaN
        return 0, 0.0, False
    low = math.floor(position)
    return int(low), position - low, True


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _forward(value, shapes, starts, locations, weights, out, first, last):
    queries, heads, levels, points = weights.shape[1:]
    channels = value.shape[3]
    kind = value.dtype.type
    nothing = np.zeros(channels, value.dtype)
    total = np.empty(channels, value.dtype)
    for pair in range(first, last):
        b, head = pair // heads, pair % heads
        for q in range(queries):
            total[:] = 0
            for level in range(levels):
                height, width = shapes[level]
                for p in range(points):
                    x, fx, near_x = _cell(locations[b, q, head, level, p, 0], width)
                    y, fy, near_y = _cell(locations[b, q, head, level, p, 1], height)
                    if not (near_x and near_y):
                        continue
                    weight = weights[b, q, head, level, p]
                    row = starts[level] + y * width + x
                    left, right = x >= 0, x + 1 < width
                    top, bottom = y >= 0, y + 1 < height
                    # a corner outside of the level reads zeros
                    v00 = value[b, row, head] if top and left else nothing
                    v01 = value[b, row + 1, head] if top and right else nothing
                    v10 = value[b, row + width, head] if bottom and left else nothing
                    v11 = value[b, row + width + 1, head] if bottom and right else nothing
                    w00 = kind(weight * (1 - fy) * (1 - fx))
                    w01 = kind(weight * (1 - fy) * fx)
                    w10 = kind(weight * fy * (1 - fx))
                    w11 = kind(weight * fy * fx)
                    for c in range(channels):
                        total[c] += w00 * v00[c] + w01 * v01[c] + w10 * v10[c] + w11 * v11[c]
            out[b, q, head] = total


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _backward(
    grad,
    value,
    shapes,
    starts,
    locations,
    weights,
    grad_value,
    grad_locations,
    grad_weights,
    first,
    last,
):
    queries, heads, levels, points = weights.shape[1:]
    channels = value.shape[3]
    kind = value.dtype.type
    nothing = np.zeros(channels, value.dtype)
    for pair in range(first, last):
        b, head = pair // heads, pair % heads
        for q in range(queries):
            g = grad[b, q, head]
            for level in range(levels):
                height, width = shapes[level]
                for p in range(points):
                    x, fx, near_x = _cell(locations[b, q, head, level, p, 0], width)
                    y, fy, near_y = _cell(locations[b, q, head, level, p, 1], height)
                    if not (near_x and near_y):
                        continue
                    weight = weights[b, q, head, level, p]
                    row = starts[level] + y * width + x
                    left, right = x >= 0, x + 1 < width
                    top, bottom = y >= 0, y + 1 < height
                    v00 = value[b, row, head] if top and left else nothing
                    v01 = value[b, row + 1, head] if top and right else nothing
                    v10 = value[b, row + width, head] if bottom and left else nothing
                    v11 = value[b, row + width + 1, head] if bottom and right else nothing
                    s00 = s01 = s10 = s11 = kind(0)
                    for c in range(channels):
                        s00 += g[c] * v00[c]
                        s01 += g[c] * v01[c]
                        s10 += g[c] * v10[c]
                        s11 += g[c] * v11[c]
                    upper, lower = s00 + fx * (s01 - s00), s10 + fx * (s11 - s10)
                    leftish, rightish = s00 + fy * (s10 - s00), s01 + fy * (s11 - s01)
                    grad_weights[b, q, head, level, p] = upper + fy * (lower - upper)
                    grad_locations[b, q, head, level, p, 0] = weight * width * (rightish - leftish)
                    grad_locations[b, q, head, level, p, 1] = weight * height * (lower - upper)
                    if top and left:
                        _add(grad_value[b, row, head], kind(weight * (1 - fy) * (1 - fx)), g)
                    if top and right:
                        _add(grad_value[b, row + 1, head], kind(weight * (1 - fy) * fx), g)
                    if bottom and left:
                        _add(grad_value[b, row + width, head], kind(weight * fy * (1 - fx)), g)
                    if bottom and right:
                        _add(grad_value[b, row + width + 1, head], kind(weight * fy * fx), g)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _add(total, factor, vector):
    for c in range(vector.shape[0]):
        total[c] += factor * vector[c]
