"""S5's feed-forward network on the CPU: torch's matrix products over runs of rows of one task.

The shared product runs once over all rows, each run's over its slice; both write into the output.
Short runs are first brought together by task.
"""

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

LONG = 64  # rows from which a product of its own costs less than sorting
Run = tuple[int, int, int]  # task, first row, row after the last


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
    """See the reference, but ``pre`` may come sorted by task."""
    order, runs = _runs(task_ids, len(x))
    pre = F.linear(_rows(x, order), w1, b1)
    hidden = F.gelu(pre) if save else torch.ops.aten.gelu_(pre)
    out = x.new_empty(x.shape)
    shared = w_shared.shape[0]
    torch.addmm(b_shared, hidden, w_shared.mT, out=out[:, :shared])
    for task, start, stop in runs:
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
    order, runs = _runs(task_ids, len(x))
    grad, x = _rows(grad, order), _rows(x, order)
    grad_shared, grad_part = grad[:, : len(w_shared)], grad[:, len(w_shared) :]
    hidden = F.gelu(pre)
    grad_pre = grad_shared @ w_shared
    grad_w, grad_b = torch.zeros_like(w_experts), w_experts.new_zeros(w_experts.shape[:2])
    for task, start, stop in runs:
        mine = grad_part[start:stop]
        grad_pre[start:stop].addmm_(mine, w_experts[task])
        grad_w[task].addmm_(mine.mT, hidden[start:stop])
        grad_b[task] += mine.sum(0)
    grad_w_shared = grad_shared.mT @ hidden
    torch.ops.aten.gelu_backward.grad_input(grad_pre, pre, grad_input=grad_pre)
    return [
        _rows_back(grad_pre @ w1, order),
        grad_pre.mT @ x,
        grad_pre.sum(0),
        grad_w_shared,
        grad_shared.sum(0),
        grad_w,
        grad_b,
    ]


def _runs(task_ids: Tensor, rows: int) -> tuple[Tensor | None, list[Run]]:
    """Runs of rows of one task, and the order of the groups in which they are; None: as given."""
    span = rows // max(1, len(task_ids))
    runs = _runs_of(task_ids, span)
    if all(stop - start >= LONG for _, start, stop in runs):
        return None, runs
    order = task_ids.argsort(stable=True)
    return order, _runs_of(task_ids[order], span)


def _runs_of(task_ids: Tensor, span: int) -> list[Run]:
    runs, start = [], 0
    for task, group in groupby(task_ids.tolist()):
        stop = start + span * len(list(group))
        runs.append((task, start, stop))
        start = stop
    return runs


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
