"""Mixture of experts with top-k token routing, dropless."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from swath.kernels.autocast import autocast_inputs, no_autocast
from swath.kernels.backend import implementation
from swath.kernels.checks import check_floating, check_same_device

ACTIVATIONS = ("gelu_erf", "gelu_tanh", "relu", "silu")


class MoERouting(NamedTuple):
    """Where the tokens of a `moe_mlp` call went.

    Attributes:
        expert_ids: ``(T, K)`` int64, by falling gate.
        gates: ``(T, K)`` float32, weights of the experts' outputs; differentiable.
        counts: ``(E,)`` int64, slots (uses of an expert by a token) of each expert; sum T * K.
        sorted_expert_ids: ``(T * K,)`` int64, expert of each slot in the order of computation:
            by expert, then token.
        sorted_token_slot: ``(T * K,)`` int64, the slots ``token * K + k`` in that order.
        mean_probability: ``(E,)`` mean over tokens of the softmax; differentiable; zeros for T = 0.
        fraction: ``(E,)`` share of each expert in all slots; zeros for T = 0.
    """

    expert_ids: Tensor
    gates: Tensor
    counts: Tensor
    sorted_expert_ids: Tensor
    sorted_token_slot: Tensor
    mean_probability: Tensor
    fraction: Tensor


def moe_mlp(
    x: Tensor,
    router_logits: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    top_k: int,
    activation: Literal["gelu_erf", "gelu_tanh", "relu", "silu"] = "gelu_erf",
    renormalise: bool = True,
) -> tuple[Tensor, MoERouting]:
    """Send each token through the K experts that its router logits favour, and add them up.

    ``out = sum_k gate_k expert_k(x)`` with ``expert_e(x) = h w2[e]^T + b2[e]`` and
    ``h = activation(x w1[e]^T + b1[e])``; where ``w1`` has 2 F rows, the first F go through the
    activation and multiply the others (SwiGLU and its like). No token is dropped, however uneven
    the load. Sums over k and over channels are in float32, and repeat bit for bit.

    Args:
        x: ``(T, C)``. float32, bfloat16, float16, float64; any strides. T may be 0.
        router_logits: ``(T, E)``. Routing computes in float32 (float64 for float64), also under
            autocast.
        w1: ``(E, F, C)``, or ``(E, 2 F, C)`` for a gated hidden layer.
        b1: ``(E, F)`` or ``(E, 2 F)``; None for none.
        w2: ``(E, C, F)``.
        b2: ``(E, C)``; None for none.
        top_k: K, 1 to E. Equal logits go to the lower expert.
        activation: ``"gelu_erf"``, ``"gelu_tanh"``, ``"relu"`` or ``"silu"``.
        renormalise: Divide the K gates by their sum; otherwise they are softmax probabilities.

    Returns:
        ``(T, C)``, contiguous, in the dtype of ``x`` (under autocast, its dtype), and the routing,
        from which `load_balance_loss` is made. Gradients exist for ``x``, ``router_logits``
        (through the chosen gates), weights and biases; zeros for an expert without tokens. A token
        whose logits hold a NaN or +inf, or are all -inf, has NaN as its output and gates, and
        experts in range; others aren't touched.

    Raises:
        ValueError: If shapes don't fit each other, ``top_k`` is out of range, or the activation is
            unknown.
        TypeError: If dtypes of ``x`` and weights differ, or one isn't floating.

    Source:
        Softmax before top-k as in Switch Transformer (K = 1, not renormalised), GShard and Mixtral
        (K = 2, renormalised); dropless as in MegaBlocks.

    Examples:
        >>> x, logits = torch.randn(10, 8), torch.randn(10, 4)
        >>> w1, w2 = torch.randn(4, 16, 8), torch.randn(4, 8, 16)
        >>> out, routing = moe_mlp(x, logits, w1, None, w2, None, top_k=2)
        >>> out.shape, int(routing.counts.sum())
        (torch.Size([10, 8]), 20)
    """
    _check(x, router_logits, w1, b1, w2, b2, top_k, activation)
    x, w1, w2 = autocast_inputs(x.device, x, w1, w2)
    b1, b2 = autocast_inputs(x.device, b1, b2)
    for name, weight in (("w1", w1), ("b1", b1), ("w2", w2), ("b2", b2)):
        if weight is not None and weight.dtype != x.dtype:
            raise TypeError(
                f"{name} must have the dtype of x, {x.dtype}; got {weight.dtype} of shape "
                f"{tuple(weight.shape)}. torch.autocast would cast both"
            )
    inputs = (x, router_logits, w1, b1, w2, b2)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    with no_autocast(x.device):
        logits = router_logits.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        gates, ids, order, offsets = _moe_route(logits, top_k, renormalise)
        out: Tensor = _moe_mlp(x, gates, order, offsets, w1, b1, w2, b2, activation, save)[0]
        counts = offsets.diff()
        return out, MoERouting(
            expert_ids=ids,
            gates=gates,
            counts=counts,
            sorted_expert_ids=ids.flatten()[order],
            sorted_token_slot=order,
            mean_probability=logits.softmax(1).sum(0) / max(1, x.shape[0]),
            fraction=counts / max(1, x.shape[0] * top_k),
        )


def load_balance_loss(routing: MoERouting) -> Tensor:
    """Auxiliary loss that is smallest when all experts get the same load.

    ``E sum_e fraction_e mean_probability_e``: 1 for a uniform load, up to E when one expert gets
    everything. The gradient flows through the probabilities.

    Args:
        routing: Second result of `moe_mlp`.

    Returns:
        A scalar.

    Source:
        Switch Transformer, equations 4 to 6, without the factor alpha; fractions are of the T * K
        slots.
    """
    experts = routing.fraction.shape[0]
    return experts * (routing.fraction * routing.mean_probability).sum()


def _check(
    x: Tensor,
    router_logits: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    top_k: int,
    activation: str,
) -> None:
    named = {"x": x, "router_logits": router_logits, "w1": w1, "b1": b1, "w2": w2, "b2": b2}
    present = {name: tensor for name, tensor in named.items() if tensor is not None}
    for name, tensor in present.items():
        check_floating(tensor, name)
    check_same_device(**present)
    if x.ndim != 2:
        raise ValueError(f"x must be (T, C), flatten batches first; got {tuple(x.shape)}")
    if w2.ndim != 3 or w2.shape[1] != x.shape[1] or 0 in w2.shape:
        raise ValueError(f"w2 must be (E, {x.shape[1]}, F), not empty; got {tuple(w2.shape)}")
    tokens, channels = x.shape
    experts, _, features = w2.shape
    if router_logits.shape != (tokens, experts):
        raise ValueError(
            f"router_logits must be ({tokens}, {experts}) for x {tuple(x.shape)} and "
            f"w2 {tuple(w2.shape)}; got {tuple(router_logits.shape)}"
        )
    if w1.shape not in ((experts, features, channels), (experts, 2 * features, channels)):
        raise ValueError(
            f"w1 must be ({experts}, {features} or {2 * features}, {channels}) for "
            f"x {tuple(x.shape)} and w2 {tuple(w2.shape)}; got {tuple(w1.shape)}"
        )
    for name, bias, weight in (("b1", b1, w1), ("b2", b2, w2)):
        if bias is not None and bias.shape != weight.shape[:2]:
            raise ValueError(
                f"{name} must be {tuple(weight.shape[:2])} or None; got {tuple(bias.shape)}"
            )
    if not 1 <= top_k <= experts:
        raise ValueError(f"top_k must be in 1 to {experts}, the number of experts; got {top_k}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")


@torch.library.custom_op("swath::moe_route", mutates_args=())
def _moe_route(
    router_logits: Tensor, top_k: int, renormalise: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    route = implementation("moe_mlp", "route", router_logits.device, router_logits.dtype)
    result: tuple[Tensor, Tensor, Tensor, Tensor] = route(router_logits, top_k, renormalise)
    return result


@_moe_route.register_fake
def _(
    router_logits: Tensor, top_k: int, renormalise: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens, experts = router_logits.shape
    ids = router_logits.new_empty((tokens, top_k), dtype=torch.int64)
    gates = router_logits.new_empty((tokens, top_k))
    return gates, ids, ids.new_empty(tokens * top_k), ids.new_empty(experts + 1)


def _setup_route(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    router_logits, _, ctx.renormalise = inputs
    gates, ids, order, offsets = output
    ctx.mark_non_differentiable(ids, order, offsets)
    ctx.save_for_backward(router_logits, gates, ids)


def _backward_route(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
    """Through the softmax: of the chosen logits alone where gates are renormalised."""
    router_logits, gates, ids = ctx.saved_tensors
    centred = grad * gates
    chosen = torch.zeros_like(router_logits).scatter(1, ids, centred)
    mean = centred.sum(1, keepdim=True)
    if ctx.renormalise:
        return chosen.scatter(1, ids, centred - gates * mean), None, None
    return chosen - router_logits.softmax(1) * mean, None, None


_moe_route.register_autograd(_backward_route, setup_context=_setup_route)


@torch.library.custom_op("swath::moe_mlp", mutates_args=())
def _moe_mlp(
    x: Tensor,
    gates: Tensor,
    order: Tensor,
    offsets: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    activation: str,
    save: bool,
) -> tuple[Tensor, Tensor]:
    forward = implementation("moe_mlp", "forward", x.device, x.dtype)
    result: tuple[Tensor, Tensor] = forward(
        x, gates, order, offsets, w1, b1, w2, b2, activation, save
    )
    return result


@_moe_mlp.register_fake
def _(
    x: Tensor,
    gates: Tensor,
    order: Tensor,
    offsets: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    activation: str,
    save: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((order.shape[0] if save else 0, w1.shape[1]))


@torch.library.custom_op("swath::moe_mlp_backward", mutates_args=())
def _moe_mlp_backward(
    grad: Tensor,
    x: Tensor,
    gates: Tensor,
    order: Tensor,
    offsets: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    pre: Tensor,
    activation: str,
) -> list[Tensor]:
    backward = implementation("moe_mlp", "backward", x.device, x.dtype)
    grads: list[Tensor] = backward(grad, x, gates, order, offsets, w1, b1, w2, b2, pre, activation)
    return [grad.contiguous() for grad in grads]


@_moe_mlp_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    gates: Tensor,
    order: Tensor,
    offsets: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    pre: Tensor,
    activation: str,
) -> list[Tensor]:
    return [
        x.new_empty(x.shape),
        gates.new_empty(gates.shape),
        w1.new_empty(w1.shape),
        x.new_empty(w1.shape[:2] if b1 is not None else 0),
        w2.new_empty(w2.shape),
        x.new_empty(w2.shape[:2] if b2 is not None else 0),
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gates, order, offsets, w1, b1, w2, b2, ctx.activation, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, gates, order, offsets, w1, b1, w2, b2, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, pre = ctx.saved_tensors
    x, gates, w1, b1, w2, b2 = _moe_mlp_backward(grad, *tensors, pre, ctx.activation)
    has_b1, has_b2 = tensors[5] is not None, tensors[7] is not None
    bias1, bias2 = b1 if has_b1 else None, b2 if has_b2 else None
    return x, gates, None, None, w1, bias1, w2, bias2, None, None


_moe_mlp.register_autograd(_backward, setup_context=_setup_context)
