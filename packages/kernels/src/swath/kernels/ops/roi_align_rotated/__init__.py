"""RoIAlign for rotated boxes, on one feature map or on a pyramid."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from swath.kernels import checks
from swath.kernels.backend import implementation
from swath.kernels.ops.roi_align_rotated.reference import Grid


def roi_align_rotated(
    x: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool = True,
    clockwise: bool = True,
) -> Tensor:
    """Average features in the bins of a grid that is laid over each rotated box.

    The box is cut into ``height x width`` bins along its own axes, ``h`` down and ``w`` across;
    each bin is the mean of bilinear samples. A sample up to one pixel outside of the features takes
    the border's value, one further away is zero. Turning a box by half a turn, or swapping its
    sides and turning it by a quarter, describes the same rectangle but pools another grid.

    Differentiable by ``x``. On a GPU the gradient is summed by atomic additions in an order that
    changes from run to run; ``torch.use_deterministic_algorithms(True)`` chooses a slower sum in a
    fixed order.

    Args:
        x: ``(N, C, H, W)``, float32, float64, float16 or bfloat16. Channels last in memory is the
            layout that is computed in; any other is copied into it.
        rois: ``(R, 6)``: index of the image in the batch, cx, cy, w, h in the units that
            ``spatial_scale`` converts into pixels of ``x``, and theta in radians. Computed with in
            float32, or in float64 if ``x`` is. A roi with a number that isn't finite gives zeros.
        output_size: Bins as (height, width), or one number for both.
        spatial_scale: Pixels of ``x`` for one unit of the boxes: 1 / stride.
        sampling_ratio: Samples per bin along each side; 0 takes one for each pixel of ``x`` that
            the side of a bin covers, rounded up.
        aligned: Whether pixel centres lie at half-integers, as they do in boxes of all current
            detectors. False is the first version's rule, which also makes boxes at least one pixel
            wide and high.
        clockwise: Whether positive angles turn clockwise on screen, as Swath's and mmrotate's do;
            False for those of S5, of detectron2 (in radians) and of mmcv by default.

    Returns:
        ``(R, C, height, width)`` in the dtype of ``x``, contiguous, summed in at least float32.
        The gradient by ``x`` has channels last in memory.

    Raises:
        ValueError: If shapes or devices don't fit, an option is out of range, or, on the CPU, a
            roi's batch index isn't one of the N images or a side is negative (aligned). A GPU,
            which would have to be waited for, gives zeros for such rois.
        TypeError: If a dtype isn't a floating one.

    Warns:
        UserWarning: If an angle exceeds 4 pi, as degrees do (on the CPU, in eager mode).

    Source:
        mmcv ``RoIAlignRotated``, with which detectron2's operator agrees to rounding. We differ in
        the default of ``clockwise`` and in that rois are checked.
    """
    checks.check_boxes(rois, "rois", size=6)
    if spatial_scale <= 0:
        raise ValueError(f"spatial_scale must be positive; got {spatial_scale}")
    levels = torch.zeros(rois.shape[:-1], dtype=torch.int64, device=rois.device)
    return _align(
        ["x"], [x], rois, levels, [spatial_scale], output_size, sampling_ratio, aligned, clockwise
    )


def multilevel_roi_align_rotated(
    features: Sequence[Tensor],
    rois: Tensor,
    output_size: int | tuple[int, int],
    strides: Sequence[float],
    sampling_ratio: int,
    aligned: bool = True,
    clockwise: bool = True,
    finest_scale: float = 56.0,
    levels: Tensor | None = None,
) -> Tensor:
    """`roi_align_rotated` on a feature pyramid: each box is read from the level of its size.

    The level is ``floor(log2(sqrt(w * h) / finest_scale + 1e-6))``, clamped to those there are. All
    levels are read in one launch, and no index lists are built.

    Args:
        features: L tensors ``(N, C, H_l, W_l)`` of one dtype, finest first.
        rois: As for `roi_align_rotated`, in pixels of the image.
        output_size: Bins as (height, width), or one number for both.
        strides: Pixels of the image for one pixel of each level.
        sampling_ratio: As for `roi_align_rotated`.
        aligned: As for `roi_align_rotated`.
        clockwise: As for `roi_align_rotated`.
        finest_scale: Boxes of less than twice this size, in pixels of the image, are read from the
            first level.
        levels: ``(R,)`` int64, to choose otherwise; each in [0, L).

    Returns:
        ``(R, C, height, width)`` as of `roi_align_rotated`.

    Raises:
        ValueError: As for `roi_align_rotated`, or if levels and strides don't fit.
        TypeError: As for `roi_align_rotated`.

    Source:
        Lin et al., Feature Pyramid Networks, 2017, equation 1, in the form of mmdetection's and
        OBBDetection's ``SingleRoIExtractor``; S5 reads 4 levels of strides 4 to 32 after widening
        its boxes.
    """
    checks.check_boxes(rois, "rois", size=6)
    if not features or len(features) != len(strides) or min(strides) <= 0:
        raise ValueError(
            "features and strides must be of one length, at least 1, and strides positive; "
            f"got {len(features)} features and strides {tuple(strides)}"
        )
    if levels is None:
        size = rois.detach()[:, 3:5].float().prod(1).clamp(min=0).sqrt() / finest_scale
        wanted = (size + 1e-6).log2().floor().nan_to_num(0.0)
        levels = wanted.clamp(0, len(features) - 1).long()
    names = [f"features[{level}]" for level in range(len(features))]
    scales = [1.0 / stride for stride in strides]
    return _align(
        names,
        list(features),
        rois,
        levels,
        scales,
        output_size,
        sampling_ratio,
        aligned,
        clockwise,
    )


def _align(
    names: list[str],
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: list[float],
    output_size: int | tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    if rois.ndim != 2:
        raise ValueError(f"rois must have shape (R, 6); got {tuple(rois.shape)}")
    if levels.shape != rois.shape[:1] or levels.dtype != torch.int64:
        raise ValueError(
            f"levels must be int64 of shape (R,), one for each of the rois {tuple(rois.shape)}; "
            f"got {levels.dtype} {tuple(levels.shape)}"
        )
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    if height < 1 or width < 1:
        raise ValueError(f"output_size must be at least 1; got {output_size}")
    first = features[0]
    for name, x in zip(names, features, strict=True):
        checks.check_floating(x, name)
        if x.ndim != 4 or x.shape[2] == 0 or x.shape[3] == 0:
            raise ValueError(
                f"{name} must have shape (N, C, H, W), H and W at least 1; got {tuple(x.shape)}"
            )
        if x.shape[:2] != first.shape[:2] or x.dtype != first.dtype:
            raise ValueError(
                f"all levels must have the N, C and dtype of {names[0]}, {tuple(first.shape)} "
                f"{first.dtype}; {name} is {tuple(x.shape)} {x.dtype}"
            )
    checks.check_same_device(**dict(zip(names, features, strict=True)), rois=rois, levels=levels)
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    out: Tensor = torch.ops.swath.roi_align_rotated(
        features, rois.to(dtype), levels, scales, height, width, sampling_ratio, aligned, clockwise
    )
    return out


def _check_on_host(rois: Tensor, levels: Tensor, images: int, count: int, aligned: bool) -> None:
    """Refuse what can be seen without waiting for a device."""
    index = rois[:, 0]
    if not bool(((index >= 0) & (index < images) & (index == index.floor())).all()):
        raise ValueError(
            f"rois[:, 0] must be batch indices in [0, {images}); got {index.min().item():g} to "
            f"{index.max().item():g} in rois {tuple(rois.shape)}"
        )
    if aligned and bool((rois[:, 3:5] < 0).any()):
        raise ValueError(
            f"rois[:, 3:5] must not be negative; got {rois[:, 3:5].min().item():g} "
            f"in rois {tuple(rois.shape)}"
        )
    if not bool(((levels >= 0) & (levels < count)).all()):
        raise ValueError(
            f"levels must be in [0, {count}); got {levels.min().item()} to {levels.max().item()}"
        )


def _run(name: str, like: Tensor) -> Any:
    return implementation("roi_align_rotated", name, like.device, like.dtype)


@torch.library.custom_op("swath::roi_align_rotated", mutates_args=())
def _forward(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    if rois.device.type == "cpu" and len(rois) > 0:
        _check_on_host(rois, levels, features[0].shape[0], len(features), aligned)
    grid = Grid(height, width, sampling_ratio, aligned, clockwise)
    out: Tensor = _run("forward", features[0])(list(features), rois, levels, list(scales), grid)
    return out


@_forward.register_fake
def _(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    return features[0].new_empty(rois.shape[0], features[0].shape[1], height, width)


@torch.library.custom_op("swath::roi_align_rotated_backward", mutates_args=())
def _backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    sizes: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> list[Tensor]:
    grid = Grid(grad.shape[2], grad.shape[3], sampling_ratio, aligned, clockwise)
    grads: list[Tensor] = _run("backward", grad)(
        grad, rois, levels, list(scales), _by_level(sizes), grid
    )
    return grads


@_backward.register_fake
def _(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    sizes: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> list[Tensor]:
    return [grad.new_empty(*size, grad.shape[1]).permute(0, 3, 1, 2) for size in _by_level(sizes)]


def _by_level(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """N, H and W of each level from one flat list, which is what an operator can take."""
    return list(zip(sizes[::3], sizes[1::3], sizes[2::3], strict=True))


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    features, rois, levels, scales, _, _, *options = inputs
    ctx.save_for_backward(rois, levels)
    ctx.scales, ctx.options = scales, options
    ctx.sizes = [size for x in features for size in (x.shape[0], *x.shape[2:])]


def _differentiate(ctx, grad):  # type: ignore[no-untyped-def]
    grads = torch.ops.swath.roi_align_rotated_backward(
        grad, *ctx.saved_tensors, ctx.scales, ctx.sizes, *ctx.options
    )
    return grads, *[None] * 8


_forward.register_autograd(_differentiate, setup_context=_save)
