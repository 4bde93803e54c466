"""Cost volume in plain torch: the specification of `swath.kernels.cost_volume`.

RSKT-Seg (rotation-aware cost volume, RS-CMA) and CAT-Seg / GSNet (one direction). ``text`` is
already of unit length here and batched as ``(1 or B, T, P, C)``.
"""

import torch
from torch import Tensor


def forward(
    feats: list[Tensor], text: Tensor, rotations: list[int], eps: float, images: bool
) -> tuple[Tensor, Tensor]:
    """Cosines ``(B, N, P, T, H, W)``, or ``(B, T, N, P, H, W)`` for images; norms ``(N, B, HW)``.

    The norms stay in the orientation of their own map; the backward pass wants them.
    """
    corr, norms = [], []
    for feat, turns in zip(feats, rotations, strict=True):
        wide = feat.to(compute_dtype(feat.dtype))
        norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        unit = torch.rot90(wide / norm.clamp_min(eps), -turns, (2, 3))
        batched = text.to(wide.dtype).expand(feat.shape[0], -1, -1, -1)
        corr.append(torch.einsum("bchw,btpc->btphw", unit, batched))
        norms.append(norm.flatten(1))
    stacked = torch.stack(corr, 2)  # (B, T, N, P, H, W)
    if not images:
        stacked = stacked.permute(0, 2, 3, 1, 4, 5)
    return stacked.to(feats[0].dtype).contiguous(), torch.stack(norms)


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
    """Gradients of each map, and of the text (empty where it isn't wanted).

    With f^ = f / max(|f|, eps) and g its gradient, df = (g - f^ (f^ . g)) / |f| where |f| > eps,
    and g / eps elsewhere. f^ . g is also the sum over classes and templates of grad * corr.
    """
    del corr  # only the fast paths use it
    by_direction = grad.movedim(2, 0) if images else grad.permute(1, 0, 3, 2, 4, 5)
    grads, grad_text = [], torch.zeros_like(text, dtype=compute_dtype(text.dtype))
    for feat, turns, norm, g in zip(feats, rotations, norms, by_direction, strict=True):
        wide = feat.to(grad_text.dtype)
        turned = torch.rot90(g.to(wide.dtype), turns, (3, 4))  # (B, T, P, H_n, W_n)
        norm = norm.view(feat.shape[0], 1, *feat.shape[2:])
        unit = wide / norm.clamp_min(eps)
        batched = text.to(wide.dtype).expand(feat.shape[0], -1, -1, -1)
        grad_unit = torch.einsum("btphw,btpc->bchw", turned, batched)
        along = (unit * grad_unit).sum(1, keepdim=True)
        radial = torch.where(norm > eps, unit * along, 0.0)
        grads.append(((grad_unit - radial) / norm.clamp_min(eps)).to(feat.dtype).contiguous())
        if want_text:
            each = torch.einsum("btphw,bchw->btpc", turned, unit)
            grad_text += each.sum_to_size(text.shape)
    return [*grads, grad_text.to(text.dtype) if want_text else text.new_empty(0)]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precision computes in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
