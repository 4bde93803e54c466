"""What mmcv's compiled module ``mmcv._ext`` offers, without compiling anything.

mmcv's Python wrappers (``mmcv.ops``) are in every wheel, also in that of ``mmcv-lite``; only the
compiled module behind them is missing there. This module has its functions, with their names,
arguments and habit of writing into tensors that they are given. They stand on our kernels, and on
torchvision for what isn't rotated. A function of ``mmcv._ext`` that isn't here can be imported, so
that the wrappers load, and raises when it is called.

::

    python -m swath.kernels.compat.mmcv

writes ``mmcv/_ext.py`` into the installed mmcv; a file, since worker processes import it on their
own. Python prefers a compiled ``_ext`` to it, and so does the command.

Rotated boxes are in radians, clockwise positive: the wrappers negate the angles of those that
aren't. Gradients are those of a second forward pass, which costs its time and no accuracy.

Source:
    The wrappers and ``csrc/pytorch/pybind.cpp`` of https://github.com/open-mmlab/mmcv (Apache-2.0),
    v2.0.1; we differ where `swath.kernels.rotated_iou` and `swath.kernels.rotated_nms` say so.
"""

import collections
import collections.abc
import importlib.util
import os
from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision.ops
from torch import Tensor
from torch.nn import functional as F

from swath.kernels import ms_deform_attn, roi_align_rotated, rotated_iou, rotated_nms

# OpenMMLab's last releases look for it here, which Python 3.10 has ended; mmcv is imported before
collections.Sequence = collections.abc.Sequence  # type: ignore[attr-defined]

MODES = ("iou", "iof")
AVERAGE = 1
"""``pool_mode`` of RoIAlign: 0 would be the maximum."""

STUB = '''"""mmcv's operators by swath.kernels; written by `python -m swath.kernels.compat.mmcv`."""

from swath.kernels.compat import mmcv as operators


def __getattr__(name):
    return getattr(operators, name)
'''


def install() -> Path:
    """Make ``mmcv.ops`` work in the installed mmcv.

    Returns:
        The module that ``mmcv._ext`` now is: the compiled one where there is one, which is left
        alone; else ours.

    Raises:
        ModuleNotFoundError: If there is no mmcv.
    """
    found = importlib.util.find_spec("mmcv")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "mmcv isn't installed: pip install 'swath-moe[mmrotate]', or mmcv-lite alone"
        )
    folder = Path(found.submodule_search_locations[0])
    for suffix in EXTENSION_SUFFIXES:
        if (compiled := folder / f"_ext{suffix}").exists():
            return compiled
    target = folder / "_ext.py"
    unfinished = target.with_suffix(".new")
    unfinished.write_text(STUB)
    os.replace(unfinished, target)
    return target


def __getattr__(name: str) -> Any:
    """What `mmcv._ext` has and we don't; the wrappers only look whether it is there."""
    if name.startswith("__"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

    def missing(*arguments: Any, **options: Any) -> None:
        raise NotImplementedError(
            f"mmcv._ext.{name} isn't among the operators of swath.kernels; a compiled mmcv has it"
        )

    return missing


# --- rotated boxes --------------------------------------------------------------------------------


@torch.no_grad()
def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Overlaps of ``(N, 5)`` and ``(M, 5)`` into ``ious``, ``(N * M,)``, or ``(N,)`` if aligned.

    ``mode_flag`` is 0 for intersection over union, 1 for intersection over the first's area. What
    stands behind the five columns is not looked at: mmrotate's metrics leave the score there.
    """
    overlaps = rotated_iou(boxes1[..., :5], boxes2[..., :5], MODES[mode_flag], bool(aligned))
    ious.copy_(overlaps.view_as(ious))


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Indices ``(K,)`` of the boxes ``(N, 5)`` or, with a label behind them, ``(N, 6)`` to keep.

    As in the compiled functions all boxes compete, whatever their labels, and an overlap that
    equals the threshold suppresses on the CPU and doesn't on a GPU.
    """
    boxes = dets[:, :5]
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype)
    if boxes.device.type == "cpu":  # rotated_nms asks for more than the threshold
        threshold = torch.nextafter(threshold, threshold.new_tensor(-torch.inf))
    keep: Tensor = rotated_nms(boxes, scores, threshold.item())
    return keep


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Features ``(N, C, H, W)`` of rois ``(R, 6)`` into ``output``, ``(R, C, height, width)``."""
    size = (pooled_height, pooled_width)
    pooled = roi_align_rotated(
        input, rois, size, spatial_scale, sampling_ratio, bool(aligned), bool(clockwise)
    )
    output.copy_(pooled)


def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """The gradient by the features into ``grad_input``."""

    def pool(x: Tensor) -> Tensor:
        size = (pooled_height, pooled_width)
        pooled: Tensor = roi_align_rotated(
            x, rois, size, spatial_scale, sampling_ratio, bool(aligned), bool(clockwise)
        )
        return pooled

    _pull_back(pool, [torch.zeros_like(grad_input)], grad_output, [grad_input])


# --- boxes and features, not rotated --------------------------------------------------------------


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices ``(K,)`` of the boxes ``(N, 4)`` to keep, whose sides are ``x2 - x1 + offset``."""
    wider = boxes + boxes.new_tensor([0, 0, offset, offset])
    keep: Tensor = torchvision.ops.nms(wider, scores, iou_threshold)
    return keep


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices into ``dets``, ``(N, 5)`` with the score last: a box and what it removes.

    Groups by falling score of their first, which is the one that stays; so are their members.
    """
    order = dets[:, 4].argsort(descending=True)
    boxes = dets[order, :4]
    hit = (torchvision.ops.box_iou(boxes, boxes) >= iou_threshold).triu(diagonal=1)
    left = torch.ones(len(order), dtype=torch.bool)
    groups = []
    for i in range(len(order)):
        if left[i]:
            removed = hit[i] & left
            left &= ~removed
            groups.append([int(order[i]), *order[removed].tolist()])
    return groups


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Features ``(N, C, H, W)`` of rois ``(R, 5)`` into ``output``, ``(R, C, height, width)``.

    Raises:
        NotImplementedError: If the maximum of a bin is asked for.
    """
    _refuse_maximum(pool_mode)
    size = (aligned_height, aligned_width)
    pooled = torchvision.ops.roi_align(
        input, rois, size, spatial_scale, sampling_ratio, bool(aligned)
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient by the features into ``grad_input``."""
    _refuse_maximum(pool_mode)

    def pool(x: Tensor) -> Tensor:
        size = (aligned_height, aligned_width)
        pooled: Tensor = torchvision.ops.roi_align(
            x, rois, size, spatial_scale, sampling_ratio, bool(aligned)
        )
        return pooled

    _pull_back(pool, [torch.zeros_like(grad_input)], grad_output, [grad_input])


def _refuse_maximum(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise NotImplementedError("RoIAlign with pool_mode='max' isn't here; 'avg' is")


@torch.no_grad()
def points_in_polygons_forward(points: Tensor, polygons: Tensor, output: Tensor) -> None:
    """1 into ``output`` ``(B, M)`` where a point ``(B, 2)`` is in a quadrilateral ``(M, 8)``, or 0.

    By the number of edges that a ray to the right crosses; points on an edge may be in or out.
    """
    x, y = points[:, None, None].unbind(-1)
    ax, ay = polygons.view(-1, 4, 2).unbind(-1)
    bx, by = ax.roll(1, 1), ay.roll(1, 1)
    spans = (ay < y) != (by < y)
    crosses = spans & (ax + (y - ay) * (bx - ax) / (by - ay) > x)
    output.copy_(crosses.sum(-1) % 2)


# --- convolutions and attention -------------------------------------------------------------------


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Deformable convolution of ``(N, C, H, W)`` into ``output``; groups follow from the shapes."""
    output.copy_(_deform_conv(geometry, input, offset, weight))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Gradients by input and offsets into ``grad_input`` and ``grad_offset``."""
    _pull_back(
        lambda x, at: _deform_conv(geometry, x, at, weight),
        [input, offset],
        grad_output,
        [grad_input, grad_offset],
    )


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **geometry: int,
) -> None:
    """The gradient by the weight, times ``scale``, into ``grad_weight``."""
    weight = torch.zeros_like(grad_weight)
    _pull_back(
        lambda w: _deform_conv(geometry, input, offset, w), [weight], grad_output, [grad_weight]
    )
    grad_weight *= scale


def _deform_conv(geometry: dict[str, int], x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    stride, padding, dilation = (
        (geometry[f"{name}H"], geometry[f"{name}W"]) for name in ("d", "pad", "dilation")
    )
    out: Tensor = torchvision.ops.deform_conv2d(x, offset, weight, None, stride, padding, dilation)
    return out


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Deformable convolution with a mask into ``output``; ``bias`` is empty without one."""
    used = bias if with_bias else None
    output.copy_(_modulated_deform_conv(geometry, input, offset, mask, weight, used))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Gradients by everything into the tensors ``grad_*``."""
    inputs = [input, offset, mask, weight]
    grads = [grad_input, grad_offset, grad_mask, grad_weight]
    if with_bias:
        inputs, grads = [*inputs, bias], [*grads, grad_bias]
    _pull_back(lambda *x: _modulated_deform_conv(geometry, *x), inputs, grad_output, grads)


def _modulated_deform_conv(
    geometry: dict[str, int],
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    stride, padding, dilation = (
        (geometry[f"{name}_h"], geometry[f"{name}_w"]) for name in ("stride", "pad", "dilation")
    )
    out: Tensor = torchvision.ops.deform_conv2d(
        x, offset, weight, bias, stride, padding, dilation, mask
    )
    return out


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """See `swath.kernels.ms_deform_attn`; ``im2col_step`` has no effect on the result."""
    output: Tensor = ms_deform_attn(
        value,
        value_spatial_shapes,
        value_level_start_index,
        sampling_locations,
        attention_weights,
    )
    return output


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients by value, locations and weights into the tensors ``grad_*``."""
    _pull_back(
        lambda v, at, w: ms_deform_attn(v, value_spatial_shapes, value_level_start_index, at, w),
        [value, sampling_locations, attention_weights],
        grad_output,
        [grad_value, grad_sampling_loc, grad_attn_weight],
    )


# --- losses ---------------------------------------------------------------------------------------


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal losses of logits ``(N, K)`` into ``output``.

    Classes are int64 ``(N,)`` in [0, K], K being the background; the classes' weights are ``(K,)``,
    or empty.
    """
    output.copy_(_focal_losses(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The gradient of the losses' sum into ``grad_input``."""
    _pull_back(
        lambda x: _focal_losses(x, target, weight, gamma, alpha),
        [input],
        torch.ones_like(input),
        [grad_input],
    )


def _focal_losses(
    logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    classes = logits.shape[1]
    truth = F.one_hot(target, classes + 1)[:, :classes].to(logits)
    losses: Tensor = torchvision.ops.sigmoid_focal_loss(logits, truth, alpha, gamma)
    return losses * weight[target][:, None] if len(weight) else losses


# --- what they share ------------------------------------------------------------------------------


def _pull_back(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad_output: Tensor,
    grads: Sequence[Tensor],
) -> None:
    """The gradients of a function by its inputs into tensors that are given."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        found = torch.autograd.grad(function(*leaves), leaves, grad_output)
    for grad, value in zip(grads, found, strict=True):
        grad.copy_(value)


def get_compiler_version() -> str:
    """What ``mmcv.utils.collect_env`` prints for the compiler."""
    return f"none: swath-kernels {version('swath-kernels')}"


def get_compiling_cuda_version() -> str:
    """What ``mmcv.utils.collect_env`` prints for CUDA."""
    return "not available"


if __name__ == "__main__":
    print(f"mmcv's operators are those of {install()}")
