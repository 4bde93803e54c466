"""Feed-forward network of which each task has its own last output channels (S5's MoE-MDF)."""

from typing import Any

import torch
from torch import Tensor

from swath.kernels.autocast import autocast_inputs, no_autocast
from swath.kernels.backend import implementation
from swath.kernels.checks import check_floating, check_same_device


def task_ffn(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w_shared: Tensor,
    b_shared: Tensor,
    w_experts: Tensor,
    b_experts: Tensor,
    task_ids: Tensor | int,
) -> Tensor:
    """Two linear layers with a GELU, the last output channels of which depend on the task.

    ``out = [h w_shared^T + b_shared | h w_experts[t]^T + b_experts[t]]``, where
    ``h = GELU(x w1^T + b1)`` with the exact (erf) GELU. Tasks may be mixed within a batch. Sizes
    C (channels), F (hidden), P (channels of a task, 0 to C), E (tasks) and N are arbitrary.

    Args:
        x: ``(B, N, C)``, or ``(T, C)``. float32, bfloat16, float16, float64; any strides.
        w1: ``(F, C)``.
        b1: ``(F,)``.
        w_shared: ``(C - P, F)``.
        b_shared: ``(C - P,)``.
        w_experts: ``(E, P, F)``.
        b_experts: ``(E, P)``.
        task_ids: In [0, E), int64: ``(B,)``, one for each sample of ``(B, N, C)``; ``(T,)``, one
            for each token of ``(T, C)``; or a Python int for all. On a GPU the values of a tensor
            are only checked when Triton's debug mode is on; out of range they choose no expert,
            and the output's last P channels of the row aren't defined.

    Returns:
        Shape of ``x``, contiguous, in its dtype (under autocast, its dtype). Sums are taken in
        float32 at least. Gradients exist for everything but ``task_ids``; those of an expert that
        no task chose are zeros. Forward and backward repeat bit for bit.

    Raises:
        ValueError: If shapes don't fit each other, or an id is out of range.
        TypeError: If dtypes differ or aren't floating, or the ids aren't int64.

    Source:
        S5 (MoE-MDF), ``FFNMOE`` in ``model/backbone/vit_moe.py``: one task for each call, two
        products and a concatenation. The residual and DropPath around it aren't part of this.

    Examples:
        >>> x, w1, b1 = torch.randn(2, 16, 8), torch.randn(32, 8), torch.zeros(32)
        >>> shared, experts = torch.randn(6, 32), torch.randn(3, 2, 32)
        >>> ids = torch.tensor([2, 0])
        >>> task_ffn(x, w1, b1, shared, torch.zeros(6), experts, torch.zeros(3, 2), ids).shape
        torch.Size([2, 16, 8])
    """
    names = ("x", "w1", "b1", "w_shared", "b_shared", "w_experts", "b_experts")
    tensors = (x, w1, b1, w_shared, b_shared, w_experts, b_experts)
    named = dict(zip(names, tensors, strict=True))
    for name, tensor in named.items():
        check_floating(tensor, name)
    ids = _ids_of_rows(x, task_ids, w_experts)
    check_same_device(**named, task_ids=ids)
    _check_shapes(*tensors)
    x, *weights = autocast_inputs(x.device, *tensors)
    for name, weight in zip(names[1:], weights, strict=True):
        if weight.dtype != x.dtype:
            raise TypeError(
                f"{name} must have the dtype of x, {x.dtype}; got {weight.dtype} of shape "
                f"{tuple(weight.shape)}. torch.autocast would cast both"
            )
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights))
    with no_autocast(x.device):
        out: Tensor = _task_ffn(x.reshape(-1, x.shape[-1]), *weights, ids, save)[0]
    return out.view(x.shape)


def _ids_of_rows(x: Tensor, task_ids: Tensor | int, w_experts: Tensor) -> Tensor:
    """Ids of which each belongs to the same number of consecutive rows of x."""
    experts = w_experts.shape[0] if w_experts.ndim else 0
    if x.ndim not in (2, 3):
        raise ValueError(f"x must be (B, N, C) or (T, C); got {tuple(x.shape)}")
    if not isinstance(task_ids, Tensor):
        if not 0 <= task_ids < experts:
            raise ValueError(f"task_ids must be in [0, {experts}); got {task_ids}")
        return torch.full((1,), task_ids, dtype=torch.int64, device=x.device)
    if task_ids.dtype != torch.int64:
        raise TypeError(f"task_ids must be int64; got {task_ids.dtype}")
    if task_ids.shape != x.shape[:1]:
        raise ValueError(
            f"task_ids must be ({x.shape[0]},), one for each "
            f"{'sample' if x.ndim == 3 else 'token'} of x {tuple(x.shape)}; "
            f"got {tuple(task_ids.shape)}"
        )
    return task_ids


def _check_shapes(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w_shared: Tensor,
    b_shared: Tensor,
    w_experts: Tensor,
    b_experts: Tensor,
) -> None:
    channels = x.shape[-1]
    if w1.ndim != 2 or w1.shape[1] != channels:
        raise ValueError(f"w1 must be (F, {channels}); got {tuple(w1.shape)}")
    hidden = w1.shape[0]
    if w_experts.ndim != 3 or w_experts.shape[2] != hidden or w_experts.shape[0] == 0:
        raise ValueError(f"w_experts must be (E, P, {hidden}), E > 0; got {tuple(w_experts.shape)}")
    experts, part, _ = w_experts.shape
    for name, tensor, shape in (
        ("b1", b1, (hidden,)),
        ("w_shared", w_shared, (channels - part, hidden)),
        ("b_shared", b_shared, (channels - part,)),
        ("b_experts", b_experts, (experts, part)),
    ):
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must be {shape} for x {tuple(x.shape)}, w1 {tuple(w1.shape)} and "
                f"w_experts {tuple(w_experts.shape)}; got {tuple(tensor.shape)}"
            )


@torch.library.custom_op("swath::task_ffn", mutates_args=())
def _task_ffn(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w_shared: Tensor,
    b_shared: Tensor,
    w_experts: Tensor,
    b_experts: Tensor,
    task_ids: Tensor,
    save: bool,
) -> tuple[Tensor, Tensor]:
    experts = w_experts.shape[0]
    if task_ids.device.type == "cpu" and bool(((task_ids < 0) | (task_ids >= experts)).any()):
        raise ValueError(
            f"task_ids must be in [0, {experts}); got {sorted(set(task_ids.tolist()))}"
        )
    forward = implementation("task_ffn", "forward", x.device, x.dtype)
    result: tuple[Tensor, Tensor] = forward(
        x, w1, b1, w_shared, b_shared, w_experts, b_experts, task_ids, save
    )
    return result


@_task_ffn.register_fake
def _(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w_shared: Tensor,
    b_shared: Tensor,
    w_experts: Tensor,
    b_experts: Tensor,
    task_ids: Tensor,
    save: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((x.shape[0] if save else 0, w1.shape[0]))


@torch.library.custom_op("swath::task_ffn_backward", mutates_args=())
def _task_ffn_backward(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    w_shared: Tensor,
    w_experts: Tensor,
    task_ids: Tensor,
    pre: Tensor,
) -> list[Tensor]:
    backward = implementation("task_ffn", "backward", x.device, x.dtype)
    grads: list[Tensor] = backward(grad, x, w1, w_shared, w_experts, task_ids, pre)
    return [grad.contiguous() for grad in grads]


@_task_ffn_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    w_shared: Tensor,
    w_experts: Tensor,
    task_ids: Tensor,
    pre: Tensor,
) -> list[Tensor]:
    shapes = [
        x.shape,
        w1.shape,
        w1.shape[:1],
        w_shared.shape,
        w_shared.shape[:1],
        w_experts.shape,
        w_experts.shape[:2],
    ]
    return [x.new_empty(shape) for shape in shapes]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w1, _, w_shared, _, w_experts, _, task_ids, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, w1, w_shared, w_experts, task_ids, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_task_ffn_backward(grad, *ctx.saved_tensors), None, None


_task_ffn.register_autograd(_backward, setup_context=_setup_context)
