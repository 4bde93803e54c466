"""Overlap of rotated boxes: exact, in [0, 1] and differentiable."""

import torch
from torch import Tensor

from swath.kernels import checks
from swath.kernels.backend import implementation

MODES = ("iou", "iof")


def intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Areas of overlap, differentiable with respect to both boxes.

    Args:
        boxes1: ``(..., 5)``, internal convention.
        boxes2: ``(..., 5)``; leading dimensions broadcast.

    Returns:
        ``(...)``, float64 for float64 boxes and float32 for all others, between 0 and the smaller
        of the two areas; 0, with gradient 0, where a box has a number that isn't finite or a side
        that isn't positive. Where two edges lie on each other the gradient is the mean of its two
        sides.

    Raises:
        ValueError: If the last dimension isn't 5 or the devices differ.
        TypeError: If the boxes aren't floating-point.
    """
    boxes1, boxes2 = torch.broadcast_tensors(*_pair(boxes1, boxes2))
    area: Tensor = torch.ops.swath.rotated_intersection(boxes1, boxes2)
    return area


def _pair(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Both boxes checked, in float64 if one of them is, else in float32."""
    checks.check_boxes(boxes1, "boxes1")
    checks.check_boxes(boxes2, "boxes2")
    checks.check_same_device(boxes1=boxes1, boxes2=boxes2)
    wide = torch.float64 in (boxes1.dtype, boxes2.dtype)
    dtype = torch.float64 if wide else torch.float32
    return boxes1.to(dtype), boxes2.to(dtype)


@torch.library.custom_op("swath::rotated_intersection", mutates_args=())
def _intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    run = implementation("rotated_iou", "intersection", boxes1.device, boxes1.dtype)
    area: Tensor = run(boxes1.contiguous(), boxes2.contiguous())
    return area


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


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    return torch.ops.swath.rotated_intersection_backward(grad, *ctx.saved_tensors)


_intersection.register_autograd(_backward, setup_context=_save)
