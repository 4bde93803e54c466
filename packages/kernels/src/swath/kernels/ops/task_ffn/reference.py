"""The feed-forward network of S5's MoE-MDF in plain torch: the specification of `task_ffn`.

S5, MoE-based multi-dataset fine-tuning: ``out = [h Ws^T + bs | h We[t]^T + be[t]]`` with
``h = GELU(x W1^T + b1)``, where the task t chooses the last P output channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Output ``(M, C)``, and what the GELU was given ``(M, F)``, empty unless ``save``.

    Each of the G task ids belongs to M / G consecutive rows of ``x`` ``(M, C)``.
    """
    pre = F.linear(x, w1, b1)
    hidden = F.gelu(pre)
    ids = _row_ids(x, task_ids)
    part = x.new_empty((x.shape[0], w_experts.shape[1]))
    for task, (w, b) in enumerate(zip(w_experts, b_experts, strict=True)):
        part[ids == task] = F.linear(hidden[ids == task], w, b)
    out = torch.cat((F.linear(hidden, w_shared, b_shared), part), -1)
    return out, pre if save else pre.new_empty((0, pre.shape[1]))


def backward(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    w_shared: Tensor,
    w_experts: Tensor,
    task_ids: Tensor,
    pre: Tensor,
) -> list[Tensor]:
    """Gradients of x, w1, b1, w_shared, b_shared, w_experts, b_experts."""
    ids = _row_ids(x, task_ids)
    hidden = F.gelu(pre)
    grad_shared, grad_part = grad[:, : len(w_shared)], grad[:, len(w_shared) :]
    grad_hidden = grad_shared @ w_shared
    grad_w, grad_b = torch.zeros_like(w_experts), w_experts.new_zeros(w_experts.shape[:2])
    for task, w in enumerate(w_experts):
        of_task = ids == task
        grad_hidden[of_task] += grad_part[of_task] @ w
        grad_w[task] = grad_part[of_task].mT @ hidden[of_task]
        grad_b[task] = grad_part[of_task].sum(0)
    cdf = 0.5 * (1 + torch.erf(pre / math.sqrt(2)))
    density = torch.exp(-pre.square() / 2) / math.sqrt(2 * math.pi)
    grad_pre = grad_hidden * (cdf + pre * density)
    return [
        grad_pre @ w1,
        grad_pre.mT @ x,
        grad_pre.sum(0),
        grad_shared.mT @ hidden,
        grad_shared.sum(0),
        grad_w,
        grad_b,
    ]


def _row_ids(x: Tensor, task_ids: Tensor) -> Tensor:
    """The id of each row of x."""
    return task_ids.repeat_interleave(x.shape[0] // max(1, task_ids.shape[0]))
