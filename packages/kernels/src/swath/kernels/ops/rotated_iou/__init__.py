"""Overlap of rotated boxes: exact, in [0, 1] and differentiable."""

from typing import Any

import torch
from torch import Tensor

from swath.kernels import checks
from swath.kernels.backend import implementation
from swath.kernels.ops.rotated_iou import reference

MODES = ("iou", "iof")


def rotated_iou(
    boxes1: Tensor,
    boxes2: Tensor,
    mode: str = "iou",
    aligned: bool = False,
    *,
    min_size: float = 0.0,
    validate: bool = False,
) -> Tensor:
    """Intersection over union of rotated boxes.

    The result is always in [0, 1]: exactly 1 for identical boxes, at most rounding error for boxes
    that only touch, and 0 where a box has a number that isn't finite, a side that isn't positive
    or an area that underflows. Turning a box by pi or exchanging its sides together with a quarter
    turn changes nothing but rounding. Angles are subtracted in the dtype of the boxes on the GPU
    and in the reference, so that one beyond a few turns costs float32 about 1e-5.

    Args:
        boxes1: ``(N, 5)``, or ``(..., 5)`` if aligned: centre x, y, sides w, h in pixels and theta
            in radians, clockwise positive on screen (`convert_boxes` knows other conventions).
        boxes2: ``(M, 5)``, or of the same shape as ``boxes1`` if aligned.
        mode: ``"iou"``, or ``"iof"``: intersection over the area of ``boxes1``.
        aligned: Compare the boxes one to one instead of each with each. Only then is the result
            differentiable, with respect to both; where boxes don't overlap the gradient is zero,
            and where edges lie on each other it is the mean of its two sides.
        min_size: Boxes with a side shorter than this many pixels overlap nothing.
        validate: Refuse boxes that aren't finite with positive sides, at the cost of waiting for
            the device.

    Returns:
        ``(N, M)``, or ``(...)`` if aligned; float64 if either input is, else float32. Half
        precision is computed in float32.

    Raises:
        ValueError: If a shape, the mode or the devices don't fit, or a box fails validation.
        TypeError: If the boxes aren't floating-point.

    Warns:
        UserWarning: If an angle exceeds 4 pi, as degrees do.

    Source:
        Own derivation, see ``reference.py``. Unlike ``mmcv.ops.box_iou_rotated``,
        ``detectron2.layers.pairwise_iou_rotated`` and torchvision's ``box_iou``, which search for
        vertices with absolute tolerances and err by up to 1 on identical or nearly parallel boxes.

    Examples:
        >>> box = torch.tensor([[50.0, 50.0, 40.0, 20.0, 0.3]])
        >>> rotated_iou(box, box)
        tensor([[1.]])
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
    checks.check_boxes(boxes1, "boxes1")
    checks.check_boxes(boxes2, "boxes2")
    boxes1, boxes2 = _pair(boxes1, boxes2)
    shapes = f"boxes1 {tuple(boxes1.shape)} and boxes2 {tuple(boxes2.shape)}"
    if aligned and boxes1.shape != boxes2.shape:
        raise ValueError(f"aligned boxes must have the same shape; got {shapes}")
    if not aligned and (boxes1.ndim != 2 or boxes2.ndim != 2):
        raise ValueError(f"boxes must be (N, 5) and (M, 5) unless aligned=True; got {shapes}")
    if validate:
        _refuse_invalid(boxes1, "boxes1")
        _refuse_invalid(boxes2, "boxes2")
    if not aligned:
        pairs: Tensor = torch.ops.swath.rotated_iou(
            boxes1.detach(), boxes2.detach(), mode, float(min_size)
        )
        return pairs
    area: Tensor = torch.ops.swath.rotated_intersection(boxes1, boxes2)
    if min_size > 0:
        shortest = torch.minimum(boxes1[..., 2:4], boxes2[..., 2:4]).amin(-1)
        area = torch.where(shortest >= min_size, area, 0)
    # where nothing overlaps the sides may be anything: they must not reach the gradient
    hit = (area > 0)[..., None]
    sides = (torch.where(hit, boxes[..., 2:4], 1) for boxes in (boxes1, boxes2))
    area1, area2 = (pair[..., 0] * pair[..., 1] for pair in sides)
    return reference.ratio(area, area1, area2, mode)


def intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Areas of overlap of rotated boxes, differentiable with respect to both.

    Args:
        boxes1: ``(..., 5)``, internal convention.
        boxes2: ``(..., 5)``; leading dimensions broadcast.

    Returns:
        ``(...)``, float64 if either input is, else float32, between 0 and the smaller of the two
        areas. Invalid boxes and gradients as for `rotated_iou`.

    Raises:
        ValueError: If the last dimension isn't 5 or the devices differ.
        TypeError: If the boxes aren't floating-point.
    """
    checks.check_boxes(boxes1, "boxes1")
    checks.check_boxes(boxes2, "boxes2")
    boxes1, boxes2 = _pair(boxes1, boxes2)
    shape = torch.broadcast_shapes(boxes1.shape, boxes2.shape)
    area: Tensor = torch.ops.swath.rotated_intersection(boxes1.expand(shape), boxes2.expand(shape))
    return area


def _pair(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Both boxes in float64 if one of them is, else in float32."""
    checks.check_same_device(boxes1=boxes1, boxes2=boxes2)
    wide = torch.float64 in (boxes1.dtype, boxes2.dtype)
    dtype = torch.float64 if wide else torch.float32
    return boxes1.to(dtype), boxes2.to(dtype)


def _refuse_invalid(boxes: Tensor, name: str) -> None:
    bad = (~reference.valid_boxes(boxes)).nonzero()
    if len(bad):
        where = tuple(bad[0].tolist())
        raise ValueError(
            f"{name} of shape {tuple(boxes.shape)} has {len(bad)} invalid boxes, the first at "
            f"{where}: {boxes[where].tolist()}; numbers must be finite and sides positive"
        )


@torch.library.custom_op("swath::rotated_iou", mutates_args=())
def _pairwise(boxes1: Tensor, boxes2: Tensor, mode: str, min_size: float) -> Tensor:
    run = implementation("rotated_iou", "pairwise", boxes1.device, boxes1.dtype)
    out: Tensor = run(boxes1.contiguous(), boxes2.contiguous(), mode, min_size)
    return out


@_pairwise.register_fake
def _(boxes1: Tensor, boxes2: Tensor, mode: str, min_size: float) -> Tensor:
    return boxes1.new_empty(boxes1.shape[0], boxes2.shape[0])


@torch.library.custom_op("swath::rotated_intersection", mutates_args=())
def _intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    run = implementation("rotated_iou", "intersection", boxes1.device, boxes1.dtype)
    out: Tensor = run(boxes1.contiguous(), boxes2.contiguous())
    return out


@_intersection.register_fake
def _(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return boxes1.new_empty(boxes1.shape[:-1])


@torch.library.custom_op("swath::rotated_intersection_backward", mutates_args=())
def _intersection_backward(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    run = implementation("rotated_iou", "intersection_backward", boxes1.device, boxes1.dtype)
    grads: tuple[Tensor, Tensor] = run(grad.contiguous(), boxes1.contiguous(), boxes2.contiguous())
    return grads


@_intersection_backward.register_fake
def _(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    return boxes1.new_empty(boxes1.shape), boxes2.new_empty(boxes2.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    grads: tuple[Tensor, Tensor] = torch.ops.swath.rotated_intersection_backward(
        grad, *ctx.saved_tensors
    )
    return grads


_intersection.register_autograd(_backward, setup_context=_save)
