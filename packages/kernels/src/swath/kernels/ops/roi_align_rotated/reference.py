"""RoIAlign for rotated boxes in plain torch: a sparse linear map, of which the entries are listed.

Source:
    He et al., Mask R-CNN, 2017, section 3, with a turned grid as in mmcv's ``RoIAlignRotated`` and
    detectron2's ``ROIAlignRotated``.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """What a call asks for, besides features and boxes.

    Attributes:
        height: Bins along the boxes' h.
        width: Bins along the boxes' w.
        sampling_ratio: Samples per bin along each side; where <= 0, enough for one per pixel.
        aligned: Whether pixel centres lie at half-integers; the legacy rule of False also makes
            boxes at least one pixel wide and high.
        clockwise: Sense of the angles on screen.
    """

    height: int
    width: int
    sampling_ratio: int
    aligned: bool
    clockwise: bool

    @property
    def bins(self) -> int:
        """Bins of a box."""
        return self.height * self.width


class Taps(NamedTuple):
    """Which pixels make up which bins; T samples, each within reach of the features.

    Attributes:
        bins: ``(T,)``, index into the R * height * width bins.
        rows: ``(T, 4)``, index into the N * H * W pixels.
        weights: ``(T, 4)``, bilinear weight over the number of samples in the bin.
    """

    bins: Tensor
    rows: Tensor
    weights: Tensor


def find_taps(rois: Tensor, images: int, height: int, width: int, scale: float, grid: Grid) -> Taps:
    """All samples of all boxes; none of a box that isn't finite, or lies in no image.

    Args:
        rois: ``(R, 6)``: batch index, cx, cy, w, h, theta.
        images: N.
        height: H.
        width: W.
        scale: Pixels of the features for one unit of the boxes.
        grid: What is asked for.
    """
    known = rois.isfinite().all(1) & (rois[:, 0] >= 0) & (rois[:, 0] < images)
    image, cx, cy, w, h, theta = rois.where(known[:, None], 0).unbind(1)
    theta = -theta if grid.clockwise else theta
    cx, cy, w, h = cx * scale, cy * scale, w * scale, h * scale
    if grid.aligned:
        cx, cy = cx - 0.5, cy - 0.5
    else:
        w, h = w.clamp(min=1), h.clamp(min=1)
    known &= (w >= 0) & (h >= 0)
    if grid.sampling_ratio > 0:
        samples_y = samples_x = torch.full_like(image, grid.sampling_ratio, dtype=torch.long)
    else:
        samples_y, samples_x = (h / grid.height).ceil().long(), (w / grid.width).ceil().long()

    # a line for each sample: number k of its box, then which bin and which place in the bin
    counts = (grid.bins * samples_y * samples_x).where(known, 0)
    box = torch.arange(len(rois), device=rois.device).repeat_interleave(counts)
    k = torch.arange(len(box), device=rois.device) - (counts.cumsum(0) - counts)[box]
    samples_y, samples_x = samples_y[box], samples_x[box]
    k, sample_x = k // samples_x, k % samples_x
    k, sample_y = k // samples_y, k % samples_y
    i, j = k // grid.width, k % grid.width

    # where it lies, first along the box's own axes from its centre, then in the features
    w, h, cos, sin = w[box], h[box], theta.cos()[box], theta.sin()[box]
    along_h = (i + (sample_y + 0.5) / samples_y) * (h / grid.height) - h / 2
    along_w = (j + (sample_x + 0.5) / samples_x) * (w / grid.width) - w / 2
    y = along_h * cos - along_w * sin + cy[box]
    x = along_h * sin + along_w * cos + cx[box]

    near = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    box, k, y, x = box[near], k[near], y[near], x[near]
    (top, bottom, fy), (left, right, fx) = _neighbours(y, height), _neighbours(x, width)
    first = image[box].long() * height
    lines = (first + top, first + top, first + bottom, first + bottom)
    columns = (left, right, left, right)
    weights = ((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx)
    return Taps(
        bins=box * grid.bins + k,
        rows=torch.stack([a * width + b for a, b in zip(lines, columns, strict=True)], 1),
        weights=torch.stack(weights, 1) / (samples_y * samples_x)[near, None],
    )


def forward(
    features: list[Tensor], rois: Tensor, levels: Tensor, scales: list[float], grid: Grid
) -> Tensor:
    """Means over the samples of each bin; arguments as of the operator."""
    channels, dtype = features[0].shape[1], features[0].dtype
    out = rois.new_zeros(len(rois), grid.bins, channels)
    for level, (x, scale) in enumerate(zip(features, scales, strict=True)):
        chosen = (levels == level).nonzero()[:, 0]
        images, _, height, width = x.shape
        taps = find_taps(rois[chosen], images, height, width, scale, grid)
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels).to(out.dtype)
        part = out.new_zeros(len(chosen) * grid.bins, channels)
        for corner in range(4):
            part.index_add_(
                0, taps.bins, taps.weights[:, corner, None] * pixels[taps.rows[:, corner]]
            )
        out[chosen] = part.view(-1, grid.bins, channels)
    out = out.transpose(1, 2).to(dtype).contiguous()
    return out.view(len(rois), channels, grid.height, grid.width)


def backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    scales: list[float],
    sizes: list[tuple[int, int, int]],
    grid: Grid,
) -> list[Tensor]:
    """Gradients by the features of ``(N, H, W)`` = ``sizes``, channels last in memory."""
    channels = grad.shape[1]
    by_bin = grad.flatten(2).transpose(1, 2).to(rois.dtype)  # (R, bins, C)
    grads = []
    for level, ((images, height, width), scale) in enumerate(zip(sizes, scales, strict=True)):
        chosen = (levels == level).nonzero()[:, 0]
        taps = find_taps(rois[chosen], images, height, width, scale, grid)
        part = by_bin[chosen].reshape(-1, channels)[taps.bins]
        total = by_bin.new_zeros(images * height * width, channels)
        for corner in range(4):
            total.index_add_(0, taps.rows[:, corner], taps.weights[:, corner, None] * part)
        total = total.view(images, height, width, channels).to(grad.dtype)
        grads.append(total.permute(0, 3, 1, 2))
    return grads


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels on both sides and the share of the second; beyond the border, the border twice."""
    position = position.clamp(min=0)
    low = position.floor().long().clamp(max=size - 1)
    share = (position - low).where(low < size - 1, 0)
    return low, (low + 1).clamp(max=size - 1), share
