"""Top-k mixture of experts on the GPU; the products are `swath.kernels.ops.grouped`'s."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from swath.kernels.aot import AotCase
from swath.kernels.ops.grouped import triton as grouped

ROUTE_BLOCK = 16


def route(
    router_logits: Tensor, top_k: int, renormalise: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See the reference."""
    router_logits = router_logits.contiguous()
    tokens, experts = router_logits.shape
    gates = router_logits.new_empty((tokens, top_k))
    ids = router_logits.new_empty((tokens, top_k), dtype=torch.int64)
    if tokens:
        _route_kernel[(triton.cdiv(tokens, ROUTE_BLOCK),)](
            router_logits, gates, ids, tokens, experts, top_k,
            EXPERTS=triton.next_power_of_2(max(2, experts)), BLOCK=ROUTE_BLOCK,
        )  # fmt: skip
    if renormalise:
        gates /= gates.sum(1, keepdim=True)
    return gates, ids, *grouped.sort_by_expert(ids.flatten(), experts)


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
    """See the reference."""
    x, w1, w2 = x.contiguous(), w1.contiguous(), w2.contiguous()
    b1, b2 = _contiguous(b1), _contiguous(b2)
    routes, activation = _routes(gates, order, offsets), _full_name(activation, w1, w2)
    pre, hidden = grouped.hidden(x, w1, b1, routes, activation, save)
    out = grouped.project(
        hidden, w2[0, :0], None, w2, b2, routes, gates.contiguous(), _slot_dtype(x, routes)
    )
    return _sum_slots(out, routes, x.dtype), pre


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
    grad, x, w1, w2 = (t.contiguous() for t in (grad, x, w1, w2))
    gates = gates.contiguous()
    routes, activation = _routes(gates, order, offsets), _full_name(activation, w1, w2)
    grad_pre, hidden, grad_gates = grouped.hidden_gradient(
        grad, w2[0, :0], w2, _contiguous(b2), pre, routes, activation, gates
    )
    experts = len(w1)
    grad_x = grouped.project(
        grad_pre, w1[0, :, :0].mT, None, w1.mT, None, routes, None, _slot_dtype(x, routes)
    )
    grad_w1, grad_b1 = grouped.weight_gradient(
        grad_pre, x, routes, experts, a_by_token=False, bias=b1 is not None
    )
    grad_w2, grad_b2 = grouped.weight_gradient(
        grad, hidden, routes, experts, a_by_token=True, bias=b2 is not None, gates=gates
    )
    return [
        _sum_slots(grad_x, routes, x.dtype),
        grad_gates.view_as(gates),
        grad_w1,
        grad_b1 if b1 is not None else x.new_empty(0),
        grad_w2,
        grad_b2 if b2 is not None else x.new_empty(0),
    ]


def aot_cases() -> list[AotCase]:
    """Routing, and a layer with and without a gate in every configuration of `grouped.tiles`."""
    cases = [*grouped.aot_sort(), _aot_route()]
    for dtype, means in ((torch.bfloat16, (64, 256, 4096)), (torch.float32, (256,))):
        for mean in means:
            cases += [
                grouped.aot_hidden(dtype, mean, activation, routed=True, bias=True)
                for activation in ("gelu_erf", "gated silu")
            ]
            cases += [
                grouped.aot_hidden_gradient(dtype, mean, activation, bias=True, gated=True)
                for activation in ("gelu_erf", "gated silu")
            ]
            cases += [
                grouped.aot_project(
                    dtype, mean, shared=False, bias=forth, gated=forth, transposed=not forth
                )
                for forth in (True, False)
            ]
        cases += [
            grouped.aot_weight_gradient(dtype, a_by_token=False, bias=True, gated=False),
            grouped.aot_weight_gradient(dtype, a_by_token=True, bias=True, gated=True),
        ]
    return cases


@triton.jit
def _route_kernel(
    logits, gates, ids, tokens, experts, top_k,
    EXPERTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Softmax and the K largest of a block of tokens, one after the other."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token_ok = token < tokens
    token = token.to(tl.int64)
    expert = tl.arange(0, EXPERTS)
    there = (expert < experts)[None, :]
    x = tl.load(
        logits + token[:, None] * experts + expert[None, :],
        mask=token_ok[:, None] & there,
        other=0.0,
    )
    x = tl.where(there, x, float("-inf"))
    exps = tl.exp(x - tl.max(x, 1)[:, None])
    # a NaN must reach all gates of its row, whatever max does with it
    invalid = tl.sum((x != x).to(tl.int32), 1) > 0
    total = tl.where(invalid, float("nan"), tl.sum(exps, 1))
    probabilities = exps / total[:, None]
    rank = tl.where(x != x, float("inf"), x)
    taken = tl.where(there, tl.zeros((BLOCK, EXPERTS), tl.int32), 1)
    for k in range(top_k):
        best = tl.max(tl.where(taken == 0, rank, float("-inf")), 1)
        candidate = (taken == 0) & (rank == best[:, None])
        chosen = tl.min(tl.where(candidate, expert[None, :], EXPERTS), 1)
        hit = expert[None, :] == chosen[:, None]
        gate = tl.sum(tl.where(hit, probabilities, 0.0), 1)
        taken = tl.where(hit, 1, taken)
        tl.store(ids + token * top_k + k, chosen.to(tl.int64), mask=token_ok)
        tl.store(gates + token * top_k + k, gate, mask=token_ok)


def _aot_route() -> AotCase:
    kinds = {"logits": "*fp32", "gates": "*fp32", "ids": "*i64"}
    kinds |= {"tokens": "i32", "experts": "i32", "top_k": "i32"}
    constexprs = {"EXPERTS": 8, "BLOCK": ROUTE_BLOCK}
    return AotCase(
        "route_kernel", _route_kernel, kinds, constexprs, divisible=("logits", "gates", "ids")
    )


def _routes(gates: Tensor, order: Tensor, offsets: Tensor) -> grouped.Routes:
    return grouped.Routes(order, offsets, 1, gates.shape[1], gates.numel())


def _full_name(activation: str, w1: Tensor, w2: Tensor) -> str:
    return activation if w1.shape[1] == w2.shape[2] else f"gated {activation}"


def _slot_dtype(x: Tensor, routes: grouped.Routes) -> torch.dtype:
    """Slots that will be added up stay float32; a token's only one is its output already."""
    return x.dtype if routes.top_k == 1 else torch.float32


def _sum_slots(slots: Tensor, routes: grouped.Routes, dtype: torch.dtype) -> Tensor:
    if routes.top_k == 1:
        return slots
    return slots.view(-1, routes.top_k, slots.shape[1]).sum(1).to(dtype)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
