"""Top-k mixture of experts in plain torch: the specification of `swath.kernels.moe_mlp`.

Softmax over E experts, the K largest, gates g_k; ``out = sum_k g_k expert_k(x)`` with
``expert(x) = activation(x W1^T + b1) W2^T + b2``. Dropless: no capacity. With twice as many rows
in W1 as columns in W2 the hidden layer is ``activation(gate) * up``, the gate's rows first.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def route(
    router_logits: Tensor, top_k: int, renormalise: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gates ``(T, K)``, expert ids ``(T, K)``, slots sorted by expert, offsets ``(E + 1,)``.

    A slot is ``token * K + k``. Logits are ranked instead of probabilities, which is the same but
    for rounding; equal ones by expert. A NaN leads its row, whose gates are all NaN.
    """
    experts = router_logits.shape[1]
    ranked = router_logits.sort(dim=1, descending=True, stable=True)
    ids = ranked.indices[:, :top_k].contiguous()
    gates = router_logits.softmax(1).gather(1, ids)
    if renormalise:
        gates = gates / gates.sum(1, keepdim=True)
    order = ids.flatten().argsort(stable=True)
    counts = torch.bincount(ids.flatten(), minlength=experts)
    return gates, ids, order, F.pad(counts.cumsum(0), (1, 0))


def forward(
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
    """Output ``(T, C)``, and what activations were given by slot, empty unless ``save``."""
    top_k = gates.shape[1]
    pre = x.new_empty((gates.numel(), w1.shape[1]))
    y = gates.new_empty((gates.numel(), x.shape[1]))
    for expert, slots in enumerate(_slots_of(order, offsets)):
        pre[slots] = F.linear(x[slots // top_k], w1[expert], None if b1 is None else b1[expert])
        hidden = activate(pre[slots], activation, w2.shape[2])
        y[slots] = F.linear(hidden, w2[expert], None if b2 is None else b2[expert]).to(y.dtype)
    out = torch.zeros_like(x, dtype=gates.dtype)
    for k in range(top_k):
        out += gates[:, k : k + 1] * y[k::top_k]
    return out.to(x.dtype), pre if save else pre.new_empty((0, pre.shape[1]))


def backward(
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
    """Gradients of x, gates, w1, b1, w2, b2; empty for an absent bias.

    The gate's is ``<grad, expert(x)> = <grad W2, h> + <grad, b2>``.
    """
    top_k = gates.shape[1]
    grad_x = gates.new_empty((gates.numel(), x.shape[1]))
    grad_gates = torch.empty_like(gates).flatten()
    grad_w1, grad_w2 = torch.zeros_like(w1), torch.zeros_like(w2)
    grad_b1, grad_b2 = (w.new_zeros(w.shape[:2]) for w in (w1, w2))
    for expert, slots in enumerate(_slots_of(order, offsets)):
        tokens, gate = slots // top_k, gates.flatten()[slots, None]
        hidden = activate(pre[slots], activation, w2.shape[2])
        grad_hidden = grad[tokens] @ w2[expert]
        share = (grad_hidden * hidden).to(gates.dtype).sum(1)
        if b2 is not None:
            share += (grad[tokens] @ b2[expert]).to(gates.dtype)
        grad_gates[slots] = share
        grad_y = (gate * grad[tokens]).to(x.dtype)
        grad_pre = activate_backward(
            (gate * grad_hidden).to(x.dtype), pre[slots], activation, w2.shape[2]
        )
        grad_x[slots] = (grad_pre @ w1[expert]).to(gates.dtype)
        grad_w1[expert], grad_b1[expert] = grad_pre.mT @ x[tokens], grad_pre.sum(0)
        grad_w2[expert], grad_b2[expert] = grad_y.mT @ hidden, grad_y.sum(0)
    empty = x.new_empty(0)
    return [
        grad_x.view(-1, top_k, x.shape[1]).sum(1).to(x.dtype),
        grad_gates.view_as(gates),
        grad_w1,
        empty if b1 is None else grad_b1,
        grad_w2,
        empty.clone() if b2 is None else grad_b2,
    ]


def activate(pre: Tensor, activation: str, features: int) -> Tensor:
    """``(n, F)`` from ``(n, F)``, or from ``(n, 2 F)`` halves: gate and what it scales."""
    value = _function(pre[:, :features], activation)
    return value if pre.shape[1] == features else value * pre[:, features:]


def activate_backward(grad: Tensor, pre: Tensor, activation: str, features: int) -> Tensor:
    """Gradient of what `activate` was given."""
    gate = pre[:, :features]
    slope = _derivative(gate, activation)
    if pre.shape[1] == features:
        return grad * slope
    scaled = grad * pre[:, features:] * slope
    return torch.cat((scaled, grad * _function(gate, activation)), 1)


def _function(x: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return F.relu(x)
    if activation == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def _derivative(x: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return (x > 0).to(x.dtype)
    if activation == "silu":
        s = x.sigmoid()
        return s * (1 + x * (1 - s))
    if activation == "gelu_tanh":
        scale = math.sqrt(2 / math.pi)
        t = torch.tanh(scale * (x + 0.044715 * x**3))
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * 0.044715 * x.square())
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density


def _slots_of(order: Tensor, offsets: Tensor) -> list[Tensor]:
    """Slots of each expert."""
    bounds = offsets.tolist()
    return [order[start:stop] for start, stop in pairwise(bounds)]
