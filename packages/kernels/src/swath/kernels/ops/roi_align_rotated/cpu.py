"""RoIAlign for rotated boxes on the CPU: loops over samples, vectors over channels.

Positions are computed in float64, so that rounding moves no sample across the features' border.
"""

import math

import numba
import numpy as np
from torch import Tensor

from swath.kernels.ops.roi_align_rotated.reference import Grid
from swath.kernels.threads import split

FAST = {"contract", "reassoc", "nsz"}


def forward(
    features: list[Tensor], rois: Tensor, levels: Tensor, scales: list[float], grid: Grid
) -> Tensor:
    """As the reference's."""
    channels, dtype = features[0].shape[1], features[0].dtype
    out = rois.new_zeros(len(rois), channels, grid.bins)
    for level, (x, scale) in enumerate(zip(features, scales, strict=True)):
        chosen = (levels == level).nonzero()[:, 0]
        if len(chosen) == 0:
            continue
        pixels = x.permute(0, 2, 3, 1).to(out.dtype).contiguous()
        arrays = [t.detach().numpy() for t in (pixels, rois.contiguous(), chosen, out)]
        split(
            lambda first, last, arrays=arrays, scale=scale: _forward(  # type: ignore[misc]
                *arrays, scale, *grid, first, last
            ),
            len(chosen),
        )
    return out.view(len(rois), channels, grid.height, grid.width).to(dtype)


def backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    scales: list[float],
    sizes: list[tuple[int, int, int]],
    grid: Grid,
) -> list[Tensor]:
    """As the reference's; repeatable, since a channel is summed by one thread."""
    channels = grad.shape[1]
    by_bin = grad.flatten(2).to(rois.dtype).contiguous()
    grads = []
    for level, ((images, height, width), scale) in enumerate(zip(sizes, scales, strict=True)):
        chosen = (levels == level).nonzero()[:, 0]
        total = by_bin.new_zeros(images, height, width, channels)
        arrays = [t.detach().numpy() for t in (by_bin, rois.contiguous(), chosen, total)]
        split(
            lambda first, last, arrays=arrays, scale=scale: _backward(  # type: ignore[misc]
                *arrays, scale, *grid, first, last
            ),
            channels,
        )
        grads.append(total.to(grad.dtype).permute(0, 3, 1, 2))
    return grads


@numba.njit(cache=True, nogil=True)
def _place(roi, scale, height, width, sampling_ratio, aligned, clockwise):
    """Centre, sides, cosine and sine in the features' frame, samples per bin along h and w."""
    cx, cy = np.float64(roi[1]) * scale, np.float64(roi[2]) * scale
    w, h = np.float64(roi[3]) * scale, np.float64(roi[4]) * scale
    theta = -np.float64(roi[5]) if clockwise else np.float64(roi[5])
    if aligned:
        cx, cy = cx - 0.5, cy - 0.5
    else:
        w, h = max(w, 1.0), max(h, 1.0)
    samples_y = samples_x = sampling_ratio
    if not np.isfinite(cx + cy + w + h + theta) or w < 0 or h < 0:
        samples_y = samples_x = 0
    elif sampling_ratio <= 0:
        samples_y, samples_x = math.ceil(h / height), math.ceil(w / width)
    return cx, cy, w, h, math.cos(theta), math.sin(theta), samples_y, samples_x


@numba.njit(cache=True, nogil=True)
def _neighbours(position, size):
    """The pixels on both sides and the share of the second; whether they are within reach."""
    if not (position >= -1 and position <= size):
        return 0, 0, 0.0, False
    position = max(position, 0.0)
    low = math.floor(position)
    if low >= size - 1:
        return size - 1, size - 1, 0.0, True
    return low, low + 1, position - low, True


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _forward(
    pixels,
    rois,
    chosen,
    out,
    scale,
    height,
    width,
    sampling_ratio,
    aligned,
    clockwise,
    first,
    last,
):
    images, lines, columns, channels = pixels.shape
    kind = pixels.dtype.type
    total = np.empty((height * width, channels), pixels.dtype)
    for r in chosen[first:last]:
        roi = rois[r]
        if not (roi[0] >= 0 and roi[0] < images):
            continue
        image = pixels[int(roi[0])]
        cx, cy, w, h, cos, sin, samples_y, samples_x = _place(
            roi, scale, height, width, sampling_ratio, aligned, clockwise
        )
        total[:] = 0
        for k in range(height * width * samples_y * samples_x):
            b, s = k // (samples_y * samples_x), k % (samples_y * samples_x)
            along_h = (b // width + (s // samples_x + 0.5) / samples_y) * (h / height) - h / 2
            along_w = (b % width + (s % samples_x + 0.5) / samples_x) * (w / width) - w / 2
            top, bottom, fy, near_y = _neighbours(along_h * cos - along_w * sin + cy, lines)
            left, right, fx, near_x = _neighbours(along_h * sin + along_w * cos + cx, columns)
            if not (near_x and near_y):
                continue
            weight = 1.0 / (samples_y * samples_x)
            w00, w01 = kind(weight * (1 - fy) * (1 - fx)), kind(weight * (1 - fy) * fx)
            w10, w11 = kind(weight * fy * (1 - fx)), kind(weight * fy * fx)
            v00, v01 = image[top, left], image[top, right]
            v10, v11 = image[bottom, left], image[bottom, right]
            sums = total[b]
            for c in range(channels):
                sums[c] += w00 * v00[c] + w01 * v01[c] + w10 * v10[c] + w11 * v11[c]
        for c in range(channels):
            for b in range(height * width):
                out[r, c, b] = total[b, c]


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _backward(
    grad,
    rois,
    chosen,
    total,
    scale,
    height,
    width,
    sampling_ratio,
    aligned,
    clockwise,
    first,
    last,
):
    images, lines, columns, _ = total.shape
    kind = total.dtype.type
    g = np.empty((height * width, last - first), total.dtype)
    for r in chosen:
        roi = rois[r]
        if not (roi[0] >= 0 and roi[0] < images):
            continue
        image = total[int(roi[0])]
        cx, cy, w, h, cos, sin, samples_y, samples_x = _place(
            roi, scale, height, width, sampling_ratio, aligned, clockwise
        )
        for c in range(first, last):
            for b in range(height * width):
                g[b, c - first] = grad[r, c, b]
        for k in range(height * width * samples_y * samples_x):
            b, s = k // (samples_y * samples_x), k % (samples_y * samples_x)
            along_h = (b // width + (s // samples_x + 0.5) / samples_y) * (h / height) - h / 2
            along_w = (b % width + (s % samples_x + 0.5) / samples_x) * (w / width) - w / 2
            top, bottom, fy, near_y = _neighbours(along_h * cos - along_w * sin + cy, lines)
            left, right, fx, near_x = _neighbours(along_h * sin + along_w * cos + cx, columns)
            if not (near_x and near_y):
                continue
            weight = 1.0 / (samples_y * samples_x)
            _add(image[top, left, first:last], kind(weight * (1 - fy) * (1 - fx)), g[b])
            _add(image[top, right, first:last], kind(weight * (1 - fy) * fx), g[b])
            _add(image[bottom, left, first:last], kind(weight * fy * (1 - fx)), g[b])
            _add(image[bottom, right, first:last], kind(weight * fy * fx), g[b])


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _add(total, factor, vector):
    for c in range(vector.shape[0]):
        total[c] += factor * vector[c]
