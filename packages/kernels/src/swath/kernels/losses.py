"""Differentiable losses between rotated boxes: overlap, and distances of Gaussians.

All of them compare ``pred`` and ``target`` of one shape ``(..., 5)`` pair by pair, in the internal
convention (pixels, radians, clockwise on screen; see `swath.kernels.boxes`). They don't change with
a joint translation or rotation, with ``theta + pi``, or with ``w`` and ``h`` exchanged and a
quarter turn: two descriptions of a rectangle have the same loss.

===================  ======================  ==========  ======================================
loss                 range                   scale-free  gradient where nothing overlaps
===================  ======================  ==========  ======================================
`rotated_iou_loss`   [0, 1]; log: [0, 13.8]  yes         none
`rotated_giou_loss`  [0, 2)                  yes         yes
`gwd_loss`           [1 - 1/tau, 1)          normalised  yes
`kld_loss`           [1 - 1/tau, 1)          yes         yes
`kfiou_loss`         from e^(2/3) - 1        yes         yes
===================  ======================  ==========  ======================================

Numbers: float64 boxes give a float64 loss, all others float32. The ``"mean"`` of no boxes is 0. For
finite boxes neither loss nor gradient is ever NaN, also if boxes are equal, far apart or have no
area. A NaN in what a loss looks at goes through to it, and overlaps of infinite boxes are NaN too,
so that a diverging model is noticed.

The Gaussian losses stand for a box by the normal distribution with its centre as mean and
``R diag(w^2, h^2) R^T / 4`` as covariance. They are written in half sides and the angle between
both boxes instead of matrices: nothing is inverted or decomposed, and nothing cancels for boxes
that are nearly equal, which is where training ends.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from swath.kernels import checks
from swath.kernels.boxes import boxes_to_quads
from swath.kernels.ops.rotated_iou import intersection

MIN_SIDE = 1e-6
"""Sides in pixels below which the Gaussian losses take this value, without gradient."""


def rotated_iou_loss(
    pred: Tensor, target: Tensor, *, mode: str = "log", eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """A decreasing function of the exact IoU of rotated boxes.

    Args:
        pred: ``(..., 5)`` boxes.
        target: Boxes of the same shape.
        mode: ``"linear"``: 1 - IoU; ``"square"``: 1 - IoU^2; ``"log"``: -ln IoU.
        eps: Smaller overlaps count as this much, without gradient; boxes apart have none either.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The loss, ``(...)`` without reduction and a scalar with.

    Raises:
        ValueError: If shapes or devices differ, or a name is unknown.
        TypeError: If the boxes aren't floating-point.

    Source:
        Zhou et al., "IoU Loss for 2D/3D Object Detection", 3DV 2019 (linear); Yu et al., "UnitBox",
        ACM MM 2016 (log). Names and defaults as in mmrotate's ``RotatedIoULoss``
        (``mmrotate/models/losses/rotated_iou_loss.py``), whose IoU needs a CUDA operator.
    """
    _check_choice(mode, "mode", ("linear", "square", "log"))
    pred, target = _pair(pred, target)
    overlap, union = _overlap(pred, target)
    iou = (overlap / union).clamp(min=eps)
    if mode == "log":
        return _reduce(-iou.log(), reduction)
    return _reduce(1 - (iou if mode == "linear" else iou**2), reduction)


def rotated_giou_loss(pred: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """1 - GIoU, which unlike IoU also says how far apart boxes are that don't overlap.

    GIoU is IoU less the share of the enclosing region that neither box covers. The enclosing region
    is the convex hull of both boxes, as the definition has it; implementations that take an
    enclosing rectangle instead depend on its angle.

    Args:
        pred: ``(..., 5)`` boxes.
        target: Boxes of the same shape.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The loss in [0, 2), ``(...)`` without reduction and a scalar with.

    Raises:
        ValueError: If shapes or devices differ, or the reduction is unknown.
        TypeError: If the boxes aren't floating-point.

    Source:
        Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """
    pred, target = _pair(pred, target)
    overlap, union = _overlap(pred, target)
    # relative to one centre, so that large coordinates cost no digits
    near = torch.cat((pred[..., :2] - target[..., :2], pred[..., 2:]), -1)
    here = torch.cat((torch.zeros_like(target[..., :2]), target[..., 2:]), -1)
    hull = hull_area(torch.cat((boxes_to_quads(near), boxes_to_quads(here)), -2))
    hull = torch.maximum(hull, union)
    return _reduce(1 - overlap / union + (hull - union) / hull, reduction)


def gwd_loss(
    pred: Tensor,
    target: Tensor,
    *,
    fun: str = "sqrt",
    tau: float = 2.0,
    normalise: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Gaussian Wasserstein distance.

    ``d^2 = |m_p - m_t|^2 + tr(S_p + S_t - 2 (S_p^(1/2) S_t S_p^(1/2))^(1/2))``, in square pixels,
    and with it ``1 - 1 / (tau + f(d^2))``.

    Args:
        pred: ``(..., 5)`` boxes.
        target: Boxes of the same shape.
        fun: ``f``: ``"sqrt"``, ``"log1p"`` or ``"none"``.
        tau: At least 1; or 0 for ``f`` itself as the loss.
        normalise: Apply ``f`` to ``d / (w_p h_p w_t h_t)^(1/4)``, which doesn't depend on scale.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The loss, ``(...)`` without reduction and a scalar with.

    Raises:
        ValueError: If shapes or devices differ, tau is out of range, or a name is unknown.
        TypeError: If the boxes aren't floating-point.

    Source:
        Yang et al., "Rethinking Rotated Object Detection with Gaussian Wasserstein Distance Loss",
        ICML 2021, section 3 (distance, and the normalised loss with its constants). mmrotate's
        ``GDLoss(loss_type="gwd")`` is ``fun="log1p", tau=0, normalise=True``, its ``GDLoss_v1``
        the default here.
    """
    pred, target = _pair(pred, target)
    pair = _ellipses(pred, target)
    a_p, b_p, a_t, b_t = pair.sides
    # tr((S_p^(1/2) S_t S_p^(1/2))^(1/2)) is the root of a mean of straight^2 and crossed^2;
    # rationalising 2 (straight - root) leaves a sum of terms that are all >= 0
    straight, crossed = a_p * a_t + b_p * b_t, a_p * b_t + b_p * a_t
    root = (pair.cos2 * straight**2 + pair.sin2 * crossed**2).sqrt()
    turn = 2 * pair.sin2 * _longness(a_p, b_p) * _longness(a_t, b_t) / (straight + root)
    squared = pair.x**2 + pair.y**2 + (a_p - a_t) ** 2 + (b_p - b_t) ** 2 + turn
    if not normalise:
        return _reduce(_bounded(squared, fun, tau), reduction)
    size = 2 * (a_p * b_p).sqrt().sqrt() * (a_t * b_t).sqrt().sqrt()
    return _reduce(_bounded(_sqrt(squared) / size, fun, tau), reduction)


def kld_loss(
    pred: Tensor,
    target: Tensor,
    *,
    kind: str = "forward",
    fun: str = "log1p",
    tau: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Kullback-Leibler divergence of the boxes' Gaussians.

    ``D(p, t) = (|m_p - m_t|^2_t + tr(S_t^-1 S_p) + ln(det S_t / det S_p)) / 2 - 1``, where
    ``|.|_t`` measures in half sides of the target, and with it ``1 - 1 / (tau + f(D))``.

    Args:
        pred: ``(..., 5)`` boxes.
        target: Boxes of the same shape.
        kind: ``"forward"``: D(pred, target); ``"reverse"``: D(target, pred); ``"min"`` or ``"max"``
            of both.
        fun: ``f``: ``"log1p"``, ``"sqrt"`` or ``"none"``.
        tau: At least 1; or 0 for ``f`` itself as the loss.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The loss, ``(...)`` without reduction and a scalar with.

    Raises:
        ValueError: If shapes or devices differ, tau is out of range, or a name is unknown.
        TypeError: If the boxes aren't floating-point.

    Source:
        Yang et al., "Learning High-Precision Bounding Box for Rotated Object Detection via
        Kullback-Leibler Divergence", NeurIPS 2021, section 3 (divergence, its variants, the
        normalised loss). mmrotate's ``GDLoss_v1("kld")`` leaves out the factor 1/2; its ``GDLoss``
        is the reverse kind, by default of sqrt D.
    """
    _check_choice(kind, "kind", ("forward", "reverse", "min", "max"))
    pred, target = _pair(pred, target)
    if kind == "forward":
        divergence = _divergence(pred, target)
    elif kind == "reverse":
        divergence = _divergence(target, pred)
    else:
        choose = torch.minimum if kind == "min" else torch.maximum
        divergence = choose(_divergence(pred, target), _divergence(target, pred))
    return _reduce(_bounded(divergence, fun, tau), reduction)


def kfiou_loss(
    pred: Tensor,
    target: Tensor,
    *,
    fun: str = "exp",
    centre: bool = True,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Overlap of the boxes' Gaussians by the Kalman filter, plus a loss of the centres.

    The product of both Gaussians (moved to one centre) is a Gaussian of covariance S with
    ``det S = det S_p det S_t / det(S_p + S_t)``. Taken back to a box it has the area
    ``4 sqrt(det S)``, the overlap in ``KFIoU = overlap / (w_p h_p + w_t h_t - overlap)``. Equal
    boxes have KFIoU = 1/3, the most there is.

    Args:
        pred: ``(..., 5)`` boxes.
        target: Boxes of the same shape.
        fun: ``"exp"``: e^(1 - KFIoU) - 1; ``"ln"``: -ln(KFIoU + eps); ``"none"``: 1 - KFIoU.
        centre: Add ``ln(1 + |m_p - m_t|^2_t)``, measured in half sides of the target. Without it
            the loss doesn't know where the boxes are.
        eps: For ``"ln"``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The loss, ``(...)`` without reduction and a scalar with.

    Raises:
        ValueError: If shapes or devices differ, or a name is unknown.
        TypeError: If the boxes aren't floating-point.

    Source:
        Yang et al., "The KFIoU Loss for Rotated Object Detection", ICLR 2023, section 3. The centre
        is measured by the target's covariance, so that no prediction gains by growing. mmrotate's
        ``KFLoss`` uses smooth L1 of the encoded centres instead: pass ``centre=False`` and add it.
    """
    _check_choice(fun, "fun", ("exp", "ln", "none"))
    pred, target = _pair(pred, target)
    pair = _ellipses(pred, target)
    a_p, b_p, a_t, b_t = pair.sides
    # ratios of areas, in which the product of four sides can't leave the range of floats
    area_p, area_t = 4 * a_p * b_p, 4 * a_t * b_t
    straight = (a_p / a_t * b_t / b_p) + (b_p / b_t * a_t / a_p)
    crossed = (a_p / b_p * a_t / b_t) + (b_p / a_p * b_t / a_t)
    mixed = pair.cos2 * straight + pair.sin2 * crossed
    # det(S_p + S_t) / (sqrt(det S_p) sqrt(det S_t))
    ratio = area_p / area_t + area_t / area_p + mixed
    overlap = (area_p * area_t / ratio).sqrt()
    kfiou = overlap / (area_p + area_t - overlap)
    if fun == "exp":
        loss = torch.expm1(1 - kfiou)
    else:
        loss = 1 - kfiou if fun == "none" else -(kfiou + eps).log()
    if centre:
        loss = loss + torch.log1p((pair.x / a_t) ** 2 + (pair.y / b_t) ** 2)
    return _reduce(loss, reduction)


def hull_area(points: Tensor) -> Tensor:
    """Area of the convex hull of a few points, without finding its vertices.

    Above an abscissa the hull ends at the highest, below at the lowest of all chords between two
    points. Both are straight between neighbouring abscissae, so trapezoids give the area. It is
    continuous, exact up to rounding for collinear and equal points too, and costs n^3.

    Args:
        points: ``(..., n, 2)``.

    Returns:
        ``(...)``, differentiable.
    """
    order = points[..., 0].argsort(-1)
    x, y = points.gather(-2, order[..., None].expand(points.shape)).unbind(-1)
    start, end, at = (
        x[..., :, None, None],
        x[..., None, :, None],
        x[..., None, None, :],
    )  # (i, j, k)
    width = end - start
    share = (at - start) / torch.where(width == 0, 1, width)
    height = y[..., :, None, None] * (1 - share) + y[..., None, :, None] * share
    spans = (start <= at) & (at <= end)
    top = torch.where(spans, height, -torch.inf).amax((-3, -2))
    bottom = torch.where(spans, height, torch.inf).amin((-3, -2))
    extent = top - bottom
    return (x.diff(dim=-1) * (extent[..., 1:] + extent[..., :-1])).sum(-1) / 2


class _Ellipses(NamedTuple):
    """A pair of boxes as ellipses, with the sides of both in the same order of length."""

    x: Tensor  # centre of the prediction along the target's sides
    y: Tensor
    sides: tuple[Tensor, Tensor, Tensor, Tensor]  # half sides: a, b of pred, a, b of target
    sin2: Tensor  # squared sine and cosine of the angle between the two a
    cos2: Tensor


def _ellipses(pred: Tensor, target: Tensor) -> _Ellipses:
    (a_p, b_p), (a_t, b_t) = (
        (boxes[..., 2:4].clamp(min=MIN_SIDE) / 2).unbind(-1) for boxes in (pred, target)
    )
    dx, dy = (pred[..., :2] - target[..., :2]).unbind(-1)
    cos, sin = target[..., 4].cos(), target[..., 4].sin()
    turn = pred[..., 4] - target[..., 4]
    sin2, cos2 = turn.sin() ** 2, turn.cos() ** 2
    swap = (a_p >= b_p) != (a_t >= b_t)
    return _Ellipses(
        x=cos * dx + sin * dy,
        y=cos * dy - sin * dx,
        sides=(torch.where(swap, b_p, a_p), torch.where(swap, a_p, b_p), a_t, b_t),
        sin2=torch.where(swap, cos2, sin2),
        cos2=torch.where(swap, sin2, cos2),
    )


def _divergence(pred: Tensor, target: Tensor) -> Tensor:
    """D(pred, target) as a sum of terms that are all >= 0."""
    pair = _ellipses(pred, target)
    a_p, b_p, a_t, b_t = pair.sides
    place = ((pair.x / a_t) ** 2 + (pair.y / b_t) ** 2) / 2
    turn = pair.sin2 / 2 * (_longness(a_p, b_p) / a_t / b_t) * (_longness(a_t, b_t) / a_t / b_t)
    return place + turn + _stretch((a_p - a_t) / a_t) + _stretch((b_p - b_t) / b_t)


def _stretch(change: Tensor) -> Tensor:
    """Divergence of a relative change of one side: (r^2 - 1) / 2 - ln r for r = 1 + change."""
    return (change * (change + 2) / 2 - torch.log1p(change)).clamp(min=0)


def _longness(a: Tensor, b: Tensor) -> Tensor:
    return (a - b) * (a + b)


def _overlap(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of overlap and union; the union of nothing with nothing counts as 1."""
    areas = [boxes[..., 2:4].clamp(min=0).prod(-1) for boxes in (pred, target)]
    finite = pred.isfinite().all(-1) & target.isfinite().all(-1)  # others would overlap nothing
    overlap = torch.where(finite, intersection(pred, target), torch.nan)
    union = areas[0] + areas[1] - overlap
    return overlap, torch.where(union == 0, 1, union)


def _bounded(distance: Tensor, fun: str, tau: float) -> Tensor:
    """``1 - 1 / (tau + fun(distance))``, or ``fun(distance)`` for tau = 0."""
    _check_choice(fun, "fun", ("sqrt", "log1p", "none"))
    if tau != 0 and tau < 1:
        raise ValueError(f"tau must be 0 or at least 1; got {tau}")
    if fun != "none":
        distance = _sqrt(distance) if fun == "sqrt" else torch.log1p(distance)
    return distance if tau == 0 else 1 - 1 / (tau + distance)


def _sqrt(squared: Tensor) -> Tensor:
    """Square root with gradient 0 instead of infinity at 0."""
    zero = squared <= 0
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


def _pair(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both boxes checked, in float64 if one of them is, else in float32."""
    checks.check_boxes(pred, "pred")
    checks.check_boxes(target, "target")
    checks.check_same_device(pred=pred, target=target)
    if pred.shape != target.shape:
        raise ValueError(
            f"pred and target must have one shape; got {tuple(pred.shape)} and "
            f"{tuple(target.shape)}"
        )
    wide = torch.float64 in (pred.dtype, target.dtype)
    dtype = torch.float64 if wide else torch.float32
    return pred.to(dtype), target.to(dtype)


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    _check_choice(reduction, "reduction", ("none", "mean", "sum"))
    if reduction == "none":
        return loss
    return loss.sum() / max(loss.numel(), 1) if reduction == "mean" else loss.sum()


def _check_choice(value: str, name: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
