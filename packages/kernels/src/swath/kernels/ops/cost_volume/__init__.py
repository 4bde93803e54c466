"""Cosine similarities between dense image features of several directions and class texts."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from swath.kernels.autocast import autocast_inputs, no_autocast
from swath.kernels.backend import implementation
from swath.kernels.checks import check_floating, check_same_device

LAYOUTS = ("volume", "images")
REDUCTIONS = ("stack", "mean")


def cost_volume(
    feats: Tensor | Sequence[Tensor],
    text: Tensor,
    rotations: Sequence[int] = (0, 1, 2, 3),
    reduce: Literal["stack", "mean"] = "stack",
    eps: float = 1e-12,
    *,
    layout: Literal["volume", "images"] = "volume",
    average_templates: bool = False,
    unit_text: bool = False,
) -> Tensor:
    """Correlate feature maps of turned images with class texts, in the upright orientation.

    ``feats[n]`` comes from the image turned counter-clockwise by ``rotations[n]`` quarters
    (``torch.rot90(image, rotations[n], (2, 3))``); its correlation is turned back. Both sides are
    divided by ``max(|x|, eps)`` over C, so that the results are cosines, and zero vectors give
    zero. Neither normalised nor turned features are ever stored.

    Args:
        feats: N maps ``(B, C, H, W)``, for an odd number of quarters ``(B, C, W, H)``; or, where
            all have one shape, a tensor ``(B, N, C, H, W)``. Any strides; ``channels_last`` isn't
            copied. float32, bfloat16, float16, float64.
        text: ``(T, P, C)``, or ``(B, T, P, C)`` where it depends on the image: T classes, each
            described by P prompt templates. No gradient is computed where it needs none.
        rotations: N numbers of quarter turns, any integers. One map of an upright image is
            ``rotations=(0,)``.
        reduce: ``"stack"`` keeps the N directions, ``"mean"`` averages their cosines.
        eps: Smallest norm to divide by. Vectors of norm <= eps get the gradient ``g / eps``, as
            `torch.nn.functional.normalize` has it; train in half precision with 1e-6.
        layout: ``"volume"``: classes after channels. ``"images"``: classes join the batch, which
            is what a 2-d convolution over the N * P channels wants.
        average_templates: Average the cosines over P, at the cost of a single template.
        unit_text: ``text`` has unit length already (say, cached) and isn't normalised again.

    Returns:
        Cosines in the dtype of ``feats`` (under autocast, its dtype), in [-1, 1] up to rounding;
        contiguous. ``(B, N * P, T, H, W)`` with channel ``n * P + p``; ``(B, P, T, H, W)`` for
        ``reduce="mean"``; ``(B * T, N * P, H, W)`` or ``(B * T, P, H, W)`` for
        ``layout="images"``. A NaN in the features stays in its pixel, one in a text in its class.

    Raises:
        ValueError: If shapes don't fit each other or an option is unknown.
        TypeError: If dtypes differ between maps or aren't floating.

    Source:
        RSKT-Seg's RS-CMA: directions 0, 90, 180 and 270 degrees, turned back with k = 0, 3, 2, 1.
        There features are normalised, turned, concatenated and then correlated; the result is the
        same. CAT-Seg and GSNet: N = 1.

    Examples:
        >>> feats = [torch.randn(2, 512, 24, 24) for _ in range(4)]
        >>> cost_volume(feats, torch.randn(17, 1, 512)).shape
        torch.Size([2, 4, 17, 24, 24])
    """
    views = list(feats.unbind(1)) if isinstance(feats, Tensor) and feats.ndim == 5 else feats
    rotations = [int(turns) % 4 for turns in rotations]
    maps = _checked_maps(views, rotations)
    _check_text(text, maps[0])
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}; got {reduce!r}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    if not eps > 0:
        raise ValueError(f"eps must be positive; got {eps}")

    images = layout == "images"
    *maps, text = autocast_inputs(text.device, *maps, text)
    with no_autocast(text.device):
        unit = text if text.dtype == torch.float64 else text.float()
        if not unit_text:
            unit = F.normalize(unit, dim=-1, eps=eps)
        if average_templates:
            unit = unit.mean(-2, keepdim=True)
        unit = unit.to(maps[0].dtype)
        if unit.ndim == 3:
            unit = unit[None]
        corr: Tensor = _cost_volume(maps, unit, rotations, eps, images)[0]
        if reduce == "mean":
            direction = 2 if images else 1
            corr = corr.mean(direction, keepdim=True)
    # (B, T, N, P, H, W) or (B, N, P, T, H, W)
    return corr.flatten(2, 3).flatten(0, 1) if images else corr.flatten(1, 2)


def _checked_maps(maps: Tensor | Sequence[Tensor], rotations: list[int]) -> list[Tensor]:
    if isinstance(maps, Tensor):
        raise ValueError(
            "feats must be a list of (B, C, H, W) tensors or one tensor (B, N, C, H, W); "
            f"got a tensor of shape {tuple(maps.shape)}"
        )
    if len(maps) == 0 or len(maps) != len(rotations):
        raise ValueError(
            f"feats must hold one map for each of the {len(rotations)} rotations; got {len(maps)}. "
            "For a single upright map pass rotations=(0,)"
        )
    first = maps[0]
    upright = None
    for index, (feat, turns) in enumerate(zip(maps, rotations, strict=True)):
        if feat.ndim != 4:
            raise ValueError(f"feats[{index}] must be (B, C, H, W); got {tuple(feat.shape)}")
        check_floating(feat, f"feats[{index}]")
        if feat.dtype != first.dtype:
            raise TypeError(
                f"all feats must have one dtype; feats[0] is {first.dtype}, "
                f"feats[{index}] {feat.dtype} of shape {tuple(feat.shape)}"
            )
        size = feat.shape[2:] if turns % 2 == 0 else feat.shape[:1:-1]
        upright = size if upright is None else upright
        if feat.shape[:2] != first.shape[:2] or tuple(size) != tuple(upright):
            raise ValueError(
                f"feats[{index}], turned by {turns} quarters, has shape {tuple(feat.shape)}, which "
                f"doesn't fit feats[0] of shape {tuple(first.shape)}; odd turns swap H and W"
            )
    check_same_device(**{f"feats[{index}]": feat for index, feat in enumerate(maps)})
    return list(maps)


def _check_text(text: Tensor, feat: Tensor) -> None:
    check_floating(text, "text")
    check_same_device(feats=feat, text=text)
    batch, channels = feat.shape[:2]
    fits = text.ndim == 3 or (text.ndim == 4 and text.shape[0] in (1, batch))
    if not fits or text.shape[-1] != channels:
        raise ValueError(
            f"text must be (T, P, {channels}) or ({batch}, T, P, {channels}) for feats of shape "
            f"{tuple(feat.shape)}; got {tuple(text.shape)}"
        )


@torch.library.custom_op("swath::cost_volume", mutates_args=())
def _cost_volume(
    feats: list[Tensor], text: Tensor, rotations: list[int], eps: float, images: bool
) -> tuple[Tensor, Tensor]:
    forward = implementation("cost_volume", "forward", text.device, text.dtype)
    result: tuple[Tensor, Tensor] = forward(feats, text, rotations, eps, images)
    return result


@_cost_volume.register_fake
def _(
    feats: list[Tensor], text: Tensor, rotations: list[int], eps: float, images: bool
) -> tuple[Tensor, Tensor]:
    batch, _, *size = feats[0].shape
    height, width = size if rotations[0] % 2 == 0 else reversed(size)
    _, classes, templates, _ = text.shape
    axes = (classes, len(feats), templates) if images else (len(feats), templates, classes)
    dtype = torch.float64 if text.dtype == torch.float64 else torch.float32
    corr = feats[0].new_empty((batch, *axes, height, width))
    return corr, corr.new_empty((len(feats), batch, height * width), dtype=dtype)


@torch.library.custom_op("swath::cost_volume_backward", mutates_args=())
def _cost_volume_backward(
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
    backward = implementation("cost_volume", "backward", text.device, text.dtype)
    result: list[Tensor] = backward(
        grad, corr, norms, feats, text, rotations, eps, images, want_text
    )
    return result


@_cost_volume_backward.register_fake
def _(
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
    grads = [feat.new_empty(feat.shape) for feat in feats]
    return [*grads, text.new_empty(text.shape if want_text else 0)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    feats, text, ctx.rotations, ctx.eps, ctx.images = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, text, *feats)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    corr, norms, text, *feats = ctx.saved_tensors
    want_text = ctx.needs_input_grad[1]
    *grads, grad_text = _cost_volume_backward(
        grad, corr, norms, feats, text, ctx.rotations, ctx.eps, ctx.images, want_text
    )
    return grads, grad_text if want_text else None, None, None, None


_cost_volume.register_autograd(_backward, setup_context=_setup_context)
