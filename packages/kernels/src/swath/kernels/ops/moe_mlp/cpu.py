"""Top-k mixture of experts on the CPU: torch's matrix products, one expert's slots at a time."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from swath.kernels.ops.moe_mlp.reference import activate, route

__all__ = ["backward", "forward", "route"]


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
    """See the reference, but ``pre`` comes sorted by expert."""
    top_k = gates.shape[1]
    tokens = order // top_k
    pre = x.new_empty((len(order) if save else 0, w1.shape[1]))
    y = x.new_empty((len(order), x.shape[1]))
    for expert, start, stop in _slices(offsets):
        given = F.linear(x[tokens[start:stop]], w1[expert], _row(b1, expert))
        if save:
            pre[start:stop] = given
        hidden = activate(given, activation, w2.shape[2])
        y[order[start:stop]] = F.linear(hidden, w2[expert], _row(b2, expert))
    return _combine(y, gates), pre


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
    """See the reference."""
    top_k, features = gates.shape[1], w2.shape[2]
    tokens, sorted_gates = order // top_k, gates.flatten()[order]
    grad_x = x.new_empty((len(order), x.shape[1]))
    grad_gates = torch.empty_like(gates).flatten()
    grad_w1, grad_w2 = torch.zeros_like(w1), torch.zeros_like(w2)
    grad_b1, grad_b2 = (w.new_zeros(w.shape[:2]) for w in (w1, w2))
    for expert, start, stop in _slices(offsets):
        slots, mine, gate = (t[start:stop] for t in (order, tokens, sorted_gates))
        given, grad_y = pre[start:stop], grad[mine]
        hidden = activate(given, activation, features)
        grad_hidden = grad_y @ w2[expert]
        share = torch.linalg.vecdot(grad_hidden.to(gates.dtype), hidden.to(gates.dtype))
        if b2 is not None:
            share += (grad_y @ b2[expert]).to(gates.dtype)
        grad_gates[slots] = share
        scale = gate[:, None].to(x.dtype)
        grad_pre = _activate_backward(grad_hidden.mul_(scale), given, activation, features)
        grad_y.mul_(scale)
        grad_x[slots] = grad_pre @ w1[expert]
        torch.mm(grad_pre.mT, x[mine], out=grad_w1[expert])
        torch.mm(grad_y.mT, hidden, out=grad_w2[expert])
        grad_b1[expert], grad_b2[expert] = grad_pre.sum(0), grad_y.sum(0)
    return [
        _combine(grad_x, torch.ones_like(gates)),
        grad_gates.view_as(gates),
        grad_w1,
        x.new_empty(0) if b1 is None else grad_b1,
        grad_w2,
        x.new_empty(0) if b2 is None else grad_b2,
    ]


def _combine(y: Tensor, gates: Tensor) -> Tensor:
    """Sum over the slots of each token, weighted by its gates, in the order of k."""
    top_k = gates.shape[1]
    out = y[::top_k] * gates[:, :1]
    for k in range(1, top_k):
        out.addcmul_(y[k::top_k], gates[:, k : k + 1])
    return out.to(y.dtype)


def _activate_backward(grad: Tensor, pre: Tensor, activation: str, features: int) -> Tensor:
    """As the reference, with torch's fused derivatives."""
    gate = pre[:, :features]
    if pre.shape[1] == features:
        return _slope(grad, gate, activation)
    scaled = _slope(grad * pre[:, features:], gate, activation)
    return torch.cat((scaled, grad * activate(gate, activation, features)), 1)


def _slope(grad: Tensor, pre: Tensor, activation: str) -> Tensor:
    """The gradient times the derivative of the activation."""
    aten = torch.ops.aten
    if activation == "relu":
        result: Tensor = aten.threshold_backward(grad, pre, 0)
    elif activation == "silu":
        result = aten.silu_backward(grad, pre)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        result = aten.gelu_backward(grad, pre, approximate=approximate)
    return result


def _slices(offsets: Tensor) -> list[tuple[int, int, int]]:
    """Experts that have slots, with their first and last place."""
    bounds = enumerate(pairwise(offsets.tolist()))
    return [(expert, start, stop) for expert, (start, stop) in bounds if start < stop]


def _row(bias: Tensor | None, expert: int) -> Tensor | None:
    return None if bias is None else bias[expert]
