"""S5's feed-forward network on the GPU.

The GELU is computed where the first product ends; the second writes shared and expert channels in
one launch. Going back, one kernel takes the gradient through both weights and the GELU; cuBLAS does
the products that are plain (the input and dense weights), where there is nothing to fuse.
"""

import torch
from torch import Tensor

from swath.kernels.aot import AotCase
from swath.kernels.ops.grouped import triton as grouped

ACTIVATION = "gelu_erf"


def forward(
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
    """See the reference."""
    x, w1, w_shared = x.contiguous(), w1.contiguous(), w_shared.contiguous()
    pre, hidden = grouped.hidden(x, w1[None], b1.contiguous(), None, ACTIVATION, save)
    routes = _routes(x, w_experts, task_ids)
    out = grouped.project(
        hidden,
        w_shared,
        b_shared.contiguous(),
        w_experts.contiguous(),
        b_experts.contiguous(),
        routes,
    )
    return out, pre


def backward(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    w_shared: Tensor,
    w_experts: Tensor,
    task_ids: Tensor,
    pre: Tensor,
) -> list[Tensor]:
    """See the reference."""
    grad = grad.contiguous()
    routes = _routes(x, w_experts, task_ids)
    grad_pre, hidden, _ = grouped.hidden_gradient(
        grad, w_shared.contiguous(), w_experts.contiguous(), None, pre, routes, ACTIVATION
    )
    grad_shared, grad_part = grad[:, : len(w_shared)], grad[:, len(w_shared) :]
    grad_w, grad_b = grouped.weight_gradient(
        grad_part, hidden, routes, len(w_experts), a_by_token=True, bias=True
    )
    return [
        grad_pre @ w1,
        grad_pre.mT @ x,
        grad_pre.sum(0),
        grad_shared.mT @ hidden,
        grad_shared.sum(0),
        grad_w,
        grad_b,
    ]


def aot_cases() -> list[AotCase]:
    """The kernels of a layer of S5, in every configuration of `grouped.tiles`."""
    return [
        case
        for dtype, rows in ((torch.bfloat16, (64, 256, 4096)), (torch.float32, (256,)))
        for n in rows
        for case in (
            grouped.aot_hidden(dtype, n, ACTIVATION, routed=False, bias=True),
            grouped.aot_project(dtype, n, shared=True, bias=True, gated=False),
            grouped.aot_hidden_gradient(dtype, n, ACTIVATION, bias=False, gated=False),
        )
    ] + [
        grouped.aot_weight_gradient(dtype, a_by_token=True, bias=True, gated=False)
        for dtype in (torch.bfloat16, torch.float32)
    ]


def _routes(x: Tensor, w_experts: Tensor, task_ids: Tensor) -> grouped.Routes:
    span = x.shape[0] // max(1, task_ids.shape[0])
    order, offsets = grouped.sort_by_expert(task_ids.contiguous(), len(w_experts), span)
    return grouped.Routes(order, offsets, span, 1, x.shape[0])
