"""Cost volume on the CPU: norms, a matrix product and a turn of its result for each direction.

Neither normalised nor turned features exist: dividing by the norm and turning are done on the
T * P channels of the product, which are fewer than the C channels of the features.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from swath.kernels.ops.cost_volume.reference import compute_dtype


def forward(
    feats: list[Tensor], text: Tensor, rotations: list[int], eps: float, images: bool
) -> tuple[Tensor, Tensor]:
    """See the reference."""
    batch, _, *size = feats[0].shape
    height, width = size if rotations[0] % 2 == 0 else reversed(size)
    _, classes, templates, _ = text.shape
    axes = (classes, len(feats), templates) if images else (len(feats), templates, classes)
    corr = feats[0].new_empty((batch, *axes, height, width))
    dtype = compute_dtype(corr.dtype)
    norms = feats[0].new_empty((len(feats), batch, height * width), dtype=dtype)
    rows = text.flatten(1, 2).to(dtype).expand(batch, -1, -1)  # (B, T * P, C)
    for index, (feat, turns) in enumerate(zip(feats, rotations, strict=True)):
        flat = feat.flatten(2).to(dtype)  # (B, C, HW)
        norms[index] = _norms(flat)
        product = torch.bmm(rows, flat).div_(norms[index].clamp_min(eps)[:, None])
        turned = torch.rot90(
            product.view(batch, classes, templates, *feat.shape[2:]), -turns, (3, 4)
        )
        _direction(corr, index, images).copy_(turned)
    return corr, norms


def backward(
    grad: Tensor,
    corr: Tensor,
    norms: Tensor,
    feats: list[Tensor],
    text: Tensor,
    rotations: list[int],
    eps: float,
    images: bool,
    want_text: bool,
) -> list[Tensor]:
    """See the reference."""
    dtype = norms.dtype
    rows = text.flatten(1, 2).to(dtype)  # (1 or B, T * P, C)
    grads, grad_rows = [], torch.zeros_like(rows)
    for index, (feat, turns) in enumerate(zip(feats, rotations, strict=True)):
        batch = feat.shape[0]
        flat = feat.flatten(2).to(dtype)
        inverse = norms[index].clamp_min(eps).reciprocal()  # (B, HW)
        g, c = (_direction(t, index, images).to(dtype) for t in (grad, corr))
        along = torch.rot90((g * c).sum((1, 2)), turns, (1, 2)).flatten(1)
        scaled = torch.rot90(g, turns, (3, 4)).flatten(3).flatten(1, 2)
        scaled = scaled * inverse[:, None]
        radial = torch.where(norms[index] > eps, along * inverse.square(), 0.0)
        grad_flat = torch.bmm(rows.mT.expand(batch, -1, -1), scaled)
        grad_flat.addcmul_(flat, radial[:, None], value=-1)
        grads.append(grad_flat.view(feat.shape).to(feat.dtype))
        for image in range(batch if want_text else 0):
            # one image at a time: (B, T * P, C) would be large with many templates
            grad_rows[image % len(rows)].addmm_(scaled[image], flat[image].mT)
    return [*grads, grad_rows.view(text.shape).to(text.dtype) if want_text else text.new_empty(0)]


def _direction(volume: Tensor, index: int, images: bool) -> Tensor:
    """One direction of a cost volume as a view ``(B, T, P, H, W)``."""
    return volume[:, :, index] if images else volume[:, index].transpose(1, 2)


def _norms(flat: Tensor) -> Tensor:
    """Norms over channels: ``(B, C, HW)`` to ``(B, HW)``."""
    if not flat.is_contiguous():  # channels_last, where torch's reduction is fast
        norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return norms
    squares = flat.new_empty((flat.shape[0], flat.shape[2]))
    _sum_squares(flat.detach().numpy(), squares.numpy())
    return squares.sqrt_()


@numba.njit(cache=True, nogil=True)
def _sum_squares(flat, squares):
    """Sums over the middle axis, in blocks of channels to keep the rounding error small."""
    batch, channels, positions = flat.shape
    block = np.empty(positions, flat.dtype)
    for b in range(batch):
        squares[b] = 0
        for start in range(0, channels, 16):
            block[:] = 0
            for c in range(start, min(start + 16, channels)):
                for p in range(positions):
                    block[p] += flat[b, c, p] * flat[b, c, p]
            for p in range(positions):
                squares[b, p] += block[p]
