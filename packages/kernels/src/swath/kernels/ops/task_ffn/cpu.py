"""S5's feed-forward network on the CPU: torch's matrix products on rows sorted by task.

The shared product runs once over all rows, each task's over its slice; both write into the output.
"""

from itertools import pairwise

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
    """See the reference, but ``pre`` comes sorted by task."""
    order, slices = _sort_by_task(task_ids, len(w_experts), len(x))
    pre = F.linear(_rows(x, order), w1, b1)
    hidden = F.gelu(pre)
    out = x.new_empty(x.shape)
    shared = w_shared.shape[0]
    torch.addmm(b_shared, hidden, w_shared.mT, out=out[:, :shared])
    for task, (start, stop) in enumerate(slices):
        target = out[start:stop, shared:]
        torch.addmm(b_experts[task], hidden[start:stop], w_experts[task].mT, out=target)
    return _rows_back(out, order), pre if save else pre.new_empty((0, pre.shape[1]))


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
    order, slices = _sort_by_task(task_ids, len(w_experts), len(x))
    grad, x = _rows(grad, order), _rows(x, order)
    grad_shared, grad_part = grad[:, : len(w_shared)], grad[:, len(w_shared) :]
    hidden = F.gelu(pre)
    grad_pre = grad_shared @ w_shared
    grad_w, grad_b = torch.empty_like(w_experts), w_experts.new_empty(w_experts.shape[:2])
    for task, (start, stop) in enumerate(slices):
        mine = grad_part[start:stop]
        grad_pre[start:stop].addmm_(mine, w_experts[task])
        torch.mm(mine.mT, hidden[start:stop], out=grad_w[task])
        grad_b[task] = mine.sum(0)
    grad_w_shared = grad_shared.mT @ hidden
    grad_pre = torch.ops.aten.gelu_backward(grad_pre, pre)
    return [
        _rows_back(grad_pre @ w1, order),
        grad_pre.mT @ x,
        grad_pre.sum(0),
        grad_w_shared,
        grad_shared.sum(0),
        grad_w,
        grad_b,
    ]


def _sort_by_task(
    task_ids: Tensor, tasks: int, rows: int
) -> tuple[Tensor | None, list[tuple[int, int]]]:
    """Order of the groups by task, None if they are in it; first and last row of each task."""
    bounds = [0, *torch.bincount(task_ids, minlength=tasks).cumsum(0).tolist()]
    span = rows // max(1, len(task_ids))
    slices = [(span * a, span * b) for a, b in pairwise(bounds)]
    if bool((task_ids[1:] >= task_ids[:-1]).all()):
        return None, slices
    return task_ids.argsort(stable=True), slices


def _rows(x: Tensor, order: Tensor | None) -> Tensor:
    """Rows of x in the order of their groups."""
    if order is None:
        return x.contiguous()
    return x.reshape(len(order), -1, x.shape[1]).index_select(0, order).flatten(0, 1)


def _rows_back(x: Tensor, order: Tensor | None) -> Tensor:
    """Inverse of `_rows`."""
    if order is None:
        return x
    groups = x.view(len(order), -1, x.shape[1])
    return torch.empty_like(groups).index_copy_(0, order, groups).flatten(0, 1)
