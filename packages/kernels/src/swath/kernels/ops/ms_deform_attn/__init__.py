"""Multi-scale deformable attention: each query reads a few points of every level of a pyramid."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from swath.kernels import checks
from swath.kernels.backend import implementation

Shapes = Tensor | Sequence[Sequence[int]]
Starts = Tensor | Sequence[int] | None


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Shapes,
    level_start: Starts,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum of bilinear samples of a feature pyramid, weighted, for each query and head.

    A location (x, y) in units of its level lies at pixel ``(x * W - 0.5, y * H - 0.5)``: 0 is the
    left or upper border and 1 the right or lower one. Pixels outside of the level are zeros, so a
    sample far away, or at a location that isn't finite, contributes nothing and gets no gradient.
    Right at a pixel's centre the gradient by the location is that of the cell to the right (below).

    Differentiable by value, locations and weights. On a GPU the gradient of value is summed by
    atomic additions in an order that changes from run to run;
    ``torch.use_deterministic_algorithms(True)`` chooses a slower sum in a fixed order.

    Args:
        value: ``(B, S, heads, D)``, float32, float64, float16 or bfloat16: the levels' pixels, row
            by row, level after level.
        spatial_shapes: ``(L, 2)``, (H, W) of each level in pixels: integers in a tensor, or in
            tuples. Shapes on the host are checked, and reach a GPU without waiting for it; shapes
            in a tensor on the GPU are trusted.
        level_start: ``(L,)``, first of the S rows of each level, likewise; None if the levels
            follow one another without gaps.
        sampling_locations: ``(B, Q, heads, L, P, 2)`` as (x, y). Computed with in float32, or in
            float64 if value is.
        attention_weights: ``(B, Q, heads, L, P)``, any numbers; usually a softmax over L and P.

    Returns:
        ``(B, Q, heads * D)`` in the dtype of value, summed in at least float32.

    Raises:
        ValueError: If shapes or devices don't fit, or a level isn't within the S rows.
        TypeError: If a dtype isn't one of the above.

    Source:
        Zhu et al., Deformable DETR, 2021, equations 2 and 3; ``MSDeformAttnFunction`` of the
        official code and mmcv's ``MultiScaleDeformableAttnFunction``, from which we differ in that
        no ``im2col_step`` divides the batch, half precision samples at float32 positions, and
        locations that aren't finite do no harm.
    """
    shapes, starts = _levels(value, spatial_shapes, level_start)
    batch, _, heads, _ = value.shape
    levels = shapes.shape[0]
    _check_samples(sampling_locations, "sampling_locations", batch, heads, levels, (2,))
    _check_samples(attention_weights, "attention_weights", batch, heads, levels, ())
    if sampling_locations.shape[:-1] != attention_weights.shape:
        raise ValueError(
            f"sampling_locations {tuple(sampling_locations.shape)} and attention_weights "
            f"{tuple(attention_weights.shape)} must have the same B, Q, heads, L and P"
        )
    checks.check_same_device(
        value=value, sampling_locations=sampling_locations, attention_weights=attention_weights
    )
    dtype = _geometry(value)
    out: Tensor = torch.ops.swath.ms_deform_attn(
        value, shapes, starts, sampling_locations.to(dtype), attention_weights.to(dtype)
    )
    return out


def ms_deform_attn_from_logits(
    value: Tensor,
    spatial_shapes: Shapes,
    level_start: Starts,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """`ms_deform_attn` from what a layer predicts: softmax and locations are part of the kernel.

    The attention weights are the softmax of the logits over L and P. The locations are
    ``reference + offset / (W, H)`` for reference points of 2 numbers, and
    ``reference_xy + offset / P * reference_wh / 2`` for boxes of 4. On a GPU neither is ever
    stored; other devices compute both first.

    Differentiable by value, reference points, offsets and logits. A NaN among a query's logits
    makes that head of that query NaN, and nothing else.

    Args:
        value: As for `ms_deform_attn`.
        spatial_shapes: As for `ms_deform_attn`.
        level_start: As for `ms_deform_attn`.
        reference_points: ``(B, Q, L, 2)`` as (x, y) or ``(B, Q, L, 4)`` as (cx, cy, w, h), in
            units of the level. Computed with in float32, or in float64 if value is.
        offsets: ``(B, Q, heads, L, P, 2)`` as (x, y), in pixels of the level for points.
        logits: ``(B, Q, heads, L, P)``.

    Returns:
        ``(B, Q, heads * D)`` in the dtype of value.

    Raises:
        ValueError: If shapes or devices don't fit, or a level isn't within the S rows.
        TypeError: If a dtype isn't a floating one.

    Source:
        Deformable DETR ``models/ops/modules/ms_deform_attn.py``, ``MSDeformAttn.forward``.
    """
    shapes, starts = _levels(value, spatial_shapes, level_start)
    batch, _, heads, _ = value.shape
    levels = shapes.shape[0]
    _check_samples(offsets, "offsets", batch, heads, levels, (2,))
    _check_samples(logits, "logits", batch, heads, levels, ())
    if offsets.shape[:-1] != logits.shape:
        raise ValueError(
            f"offsets {tuple(offsets.shape)} and logits {tuple(logits.shape)} must have the same "
            "B, Q, heads, L and P"
        )
    checks.check_floating(reference_points, "reference_points")
    expected = (batch, logits.shape[1], levels)
    if reference_points.shape[:-1] != expected or reference_points.shape[-1] not in (2, 4):
        raise ValueError(
            f"reference_points must have shape (B, Q, L, 2) or (B, Q, L, 4) with "
            f"(B, Q, L) = {tuple(expected)}; got {tuple(reference_points.shape)}"
        )
    checks.check_same_device(
        value=value, reference_points=reference_points, offsets=offsets, logits=logits
    )
    out: Tensor = torch.ops.swath.ms_deform_attn_from_logits(
        value, shapes, starts, reference_points.to(_geometry(value)), offsets, logits
    )
    return out


def _geometry(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _levels(value: Tensor, shapes: Shapes, starts: Starts) -> tuple[Tensor, Tensor]:
    """Check value's shape and bring the levels' into int64 tensors, on whichever device."""
    checks.check_floating(value, "value")
    if value.ndim != 4:
        raise ValueError(f"value must have shape (B, S, heads, D); got {tuple(value.shape)}")
    shapes = _integers(shapes, "spatial_shapes")
    if shapes.ndim != 2 or shapes.shape[1] != 2:
        raise ValueError(
            f"spatial_shapes must have shape (L, 2), each level's (H, W); got {tuple(shapes.shape)}"
        )
    if starts is None:
        areas = shapes.prod(1)
        starts = areas.cumsum(0) - areas
    starts = _integers(starts, "level_start")
    if starts.shape != shapes.shape[:1]:
        raise ValueError(
            f"level_start must have shape (L,) = ({shapes.shape[0]},), one for each of the "
            f"spatial_shapes; got {tuple(starts.shape)}"
        )
    return shapes, starts


def _integers(numbers: Tensor | Sequence[Any], name: str) -> Tensor:
    if not isinstance(numbers, Tensor):
        return torch.tensor(numbers, dtype=torch.int64)
    if numbers.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be int64 or int32; got {numbers.dtype}")
    return numbers.long()


def _check_samples(
    tensor: Tensor, name: str, batch: int, heads: int, levels: int, last: tuple[int, ...]
) -> None:
    checks.check_floating(tensor, name)
    shape = tensor.shape
    fits = tensor.ndim == 5 + len(last) and tuple(shape[5:]) == last
    if not fits or (shape[0], shape[2], shape[3]) != (batch, heads, levels):
        raise ValueError(
            f"{name} must have shape (B, Q, heads, L, P{', 2' if last else ''}) with B={batch}, "
            f"heads={heads} as in value and L={levels} as in spatial_shapes; got {tuple(shape)}"
        )


def _on_device(shapes: Tensor, starts: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Check levels that are known on the host, and move them to where value is."""
    if shapes.device.type == starts.device.type == "cpu":
        for (height, width), start in zip(shapes.tolist(), starts.tolist(), strict=True):
            if height < 1 or width < 1 or start < 0 or start + height * width > value.shape[1]:
                raise ValueError(
                    f"spatial_shapes and level_start put a level of {height} x {width} pixels at "
                    f"row {start}, which must lie within the {value.shape[1]} rows of value "
                    f"{tuple(value.shape)}"
                )
    device = value.device
    return shapes.to(device, non_blocking=True), starts.to(device, non_blocking=True)


def _run(name: str, value: Tensor) -> Any:
    return implementation("ms_deform_attn", name, value.device, value.dtype)


@torch.library.custom_op("swath::ms_deform_attn", mutates_args=())
def _forward(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    shapes, starts = _on_device(shapes, starts, value)
    out: Tensor = _run("forward", value)(value, shapes, starts, locations, weights)
    return out


@_forward.register_fake
def _(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op("swath::ms_deform_attn_backward", mutates_args=())
def _backward(
    grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    shapes, starts = _on_device(shapes, starts, value)
    grads: tuple[Tensor, Tensor, Tensor] = _run("backward", value)(
        grad, value, shapes, starts, locations, weights
    )
    return grads


@_backward.register_fake
def _(
    grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(value), _empty(locations), _empty(weights)


@torch.library.custom_op("swath::ms_deform_attn_from_logits", mutates_args=())
def _forward_from_logits(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    shapes, starts = _on_device(shapes, starts, value)
    out: Tensor = _run("forward_from_logits", value)(
        value, shapes, starts, reference_points, offsets, logits
    )
    return out


@_forward_from_logits.register_fake
def _(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    return value.new_empty(value.shape[0], logits.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op("swath::ms_deform_attn_from_logits_backward", mutates_args=())
def _backward_from_logits(
    grad: Tensor,
    out: Tensor,
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shapes, starts = _on_device(shapes, starts, value)
    grads: tuple[Tensor, Tensor, Tensor, Tensor] = _run("backward_from_logits", value)(
        grad, out, value, shapes, starts, reference_points, offsets, logits
    )
    return grads


@_backward_from_logits.register_fake
def _(
    grad: Tensor,
    out: Tensor,
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty(value), _empty(reference_points), _empty(offsets), _empty(logits)


def _empty(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad):  # type: ignore[no-untyped-def]
    grads = torch.ops.swath.ms_deform_attn_backward(grad, *ctx.saved_tensors)
    return grads[0], None, None, grads[1], grads[2]


def _save_with_output(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output, *inputs)


def _differentiate_from_logits(ctx, grad):  # type: ignore[no-untyped-def]
    grads = torch.ops.swath.ms_deform_attn_from_logits_backward(grad, *ctx.saved_tensors)
    return grads[0], None, None, *grads[1:]


_forward.register_autograd(_differentiate, setup_context=_save)
_forward_from_logits.register_autograd(_differentiate_from_logits, setup_context=_save_with_output)
