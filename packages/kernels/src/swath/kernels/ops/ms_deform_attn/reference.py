"""Multi-scale deformable attention in plain torch.

Source:
    Zhu et al., Deformable DETR, 2021, equations 2 and 3. Sampling follows ``F.grid_sample`` with
    ``align_corners=False`` and ``padding_mode="zeros"``.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Corners(NamedTuple):
    """The four pixels around each sample, all ``(B, Q, heads, L, P, 4)``.

    Attributes:
        rows: Index into the S rows of value; 0 where ``valid`` is false.
        valid: Whether the pixel lies in its level.
        weights: Bilinear weight; 0 where invalid.
        slopes_x: Derivative of the weight by the location's x; 0 where invalid.
        slopes_y: Derivative of the weight by the location's y; 0 where invalid.
    """

    rows: Tensor
    valid: Tensor
    weights: Tensor
    slopes_x: Tensor
    slopes_y: Tensor


def find_corners(shapes: Tensor, starts: Tensor, locations: Tensor) -> Corners:
    """Where each sample reads, by the floor rule; nowhere if its location isn't finite.

    Args:
        shapes: ``(L, 2)`` int64, (H, W) of each level.
        starts: ``(L,)`` int64, first row of each level.
        locations: ``(B, Q, heads, L, P, 2)`` as (x, y) in units of the level.
    """
    height, width = shapes[:, :1, None], shapes[:, 1:, None]  # (L, 1, 1), against (L, P, 4)
    x, y = (locations * shapes.flip(-1)[:, None] - 0.5).unsqueeze(-2).unbind(-1)  # (..., L, P, 1)
    near = (x >= -1) & (x < width) & (y >= -1) & (y < height)  # false for NaN
    x, y = x.where(near, 0), y.where(near, 0)

    right = torch.tensor([0, 1, 0, 1], device=locations.device)
    below = torch.tensor([0, 0, 1, 1], device=locations.device)
    column, row = x.floor().long() + right, y.floor().long() + below
    valid = near & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    weights_x = torch.where(right == 1, x - x.floor(), 1 - (x - x.floor()))
    weights_y = torch.where(below == 1, y - y.floor(), 1 - (y - y.floor()))
    return Corners(
        rows=(starts[:, None, None] + row * width + column).where(valid, 0),
        valid=valid,
        weights=(weights_x * weights_y).where(valid, 0),
        slopes_x=((2 * right - 1) * weights_y * width).where(valid, 0),
        slopes_y=((2 * below - 1) * weights_x * height).where(valid, 0),
    )


def forward(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples; arguments as of `swath.kernels.ms_deform_attn`."""
    corners = find_corners(shapes, starts, locations)
    taps = (corners.weights * weights[..., None]).where(corners.valid, 0)
    out = torch.einsum("bqhlpk,bqhlpkd->bqhd", taps, _read(value.to(taps.dtype), corners))
    return out.flatten(2).to(value.dtype)


def backward(
    grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by value, locations and weights, given ``grad`` ``(B, Q, heads * D)``."""
    batch, size, heads, channels = value.shape
    corners = find_corners(shapes, starts, locations)
    grad = grad.reshape(*grad.shape[:2], heads, channels).to(weights.dtype)
    along = torch.einsum("bqhd,bqhlpkd->bqhlpk", grad, _read(value.to(grad.dtype), corners))
    grad_weights = (along * corners.weights).sum(-1)
    slopes = torch.stack((corners.slopes_x, corners.slopes_y), -1) * weights[..., None, None]
    slopes = slopes.where(corners.valid[..., None], 0)
    grad_locations = torch.einsum("bqhlpk,bqhlpkc->bqhlpc", along, slopes)

    taps = (corners.weights * weights[..., None]).where(corners.valid, 0)
    grad_value = grad.new_zeros(batch * size * heads, channels)
    rows = value_rows(corners.rows, size)
    for corner in range(4):
        parts = taps[..., corner, None] * grad[:, :, :, None, None]
        grad_value.index_add_(0, rows[..., corner].flatten(), parts.flatten(0, -2))
    return grad_value.view(value.shape).to(value.dtype), grad_locations, grad_weights


def value_rows(rows: Tensor, size: int) -> Tensor:
    """Rows ``(B, Q, heads, L, P, 4)`` of S as rows of value seen as ``(B * S * heads, D)``."""
    batch, _, heads = rows.shape[:3]
    first = torch.arange(batch, device=rows.device).view(-1, 1, 1, 1, 1, 1) * size
    head = torch.arange(heads, device=rows.device).view(-1, 1, 1, 1)
    return (first + rows) * heads + head


def compose(
    shapes: Tensor, reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Sampling locations and attention weights from what the layers predict.

    Source:
        Deformable DETR's ``MSDeformAttn.forward``: 2 numbers are a point, 4 a box.
    """
    points = offsets.shape[-2]
    centre = reference_points[:, :, None, :, None, :2]  # (B, Q, 1, L, 1, 2)
    dtype = reference_points.dtype
    if reference_points.shape[-1] == 2:
        locations = centre + offsets.to(dtype) / shapes.flip(-1)[:, None]
    else:
        locations = centre + offsets.to(dtype) * reference_points[:, :, None, :, None, 2:] / (
            2 * points
        )
    weights = logits.to(dtype).flatten(-2).softmax(-1).view(logits.shape)
    return locations, weights


def compose_backward(
    grads: tuple[Tensor, Tensor],
    weights: Tensor,
    shapes: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by reference points, offsets and logits from those by locations and weights."""
    grad_locations, grad_weights = grads
    grad_reference = grad_locations.sum((2, 4))
    if reference_points.shape[-1] == 2:
        grad_offsets = grad_locations / shapes.flip(-1)[:, None]
    else:
        share = grad_locations / (2 * offsets.shape[-2])
        grad_offsets = share * _finite(reference_points[:, :, None, :, None, 2:])
        grad_sides = (share * _finite(offsets)).sum((2, 4))
        grad_reference = torch.cat((grad_reference, grad_sides), -1)
    mean = (weights * grad_weights).sum((-2, -1), keepdim=True)
    grad_logits = weights * (grad_weights - mean)
    return grad_reference, grad_offsets.to(offsets.dtype), grad_logits.to(logits.dtype)


def forward_from_logits(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """As `swath.kernels.ms_deform_attn_from_logits`."""
    return forward(value, shapes, starts, *compose(shapes, reference_points, offsets, logits))


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
    """Gradients by value, reference points, offsets and logits; ``out`` is what forward gave."""
    locations, weights = compose(shapes, reference_points, offsets, logits)
    grad_value, *grads = backward(grad, value, shapes, starts, locations, weights)
    return grad_value, *compose_backward(
        (grads[0], grads[1]), weights, shapes, reference_points, offsets, logits
    )


def _finite(tensor: Tensor) -> Tensor:
    """Zeros for NaN and infinity, whose gradient is zero and must not become NaN."""
    return tensor.where(tensor.isfinite(), 0)


def _read(value: Tensor, corners: Corners) -> Tensor:
    """Pixels ``(B, Q, heads, L, P, 4, D)``, zeros outside of the level."""
    batch, _, heads, _ = value.shape
    first = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=value.device).view(-1, 1, 1, 1)
    pixels = value[first, corners.rows, head]
    return pixels.where(corners.valid[..., None], 0)
