"""Greedy suppression of rotated boxes on the CPU: a scalar loop, compiled by numba.

A box is only compared with those whose centre, in x, is near enough, found in a sorted list.
"""

import numpy as np
import torch
from torch import Tensor

from swath.kernels.ops.rotated_iou.cpu import compiled, iou, near, table, take


def suppress(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """See the reference."""
    kept = torch.empty_like(labels, dtype=torch.bool)
    _suppress(table(boxes), labels.numpy(), threshold, kept.numpy())
    return kept


@compiled
def _suppress(a, labels, threshold, kept):
    start = 0
    while start < len(labels):
        end = start + 1
        while end < len(labels) and labels[end] == labels[start]:
            end += 1
        _suppress_group(a[:, start:end].copy(), threshold, kept[start:end])
        start = end


@compiled
def _suppress_group(a, threshold, kept):
    kept[:] = True
    by_x = np.argsort(a[0])
    b = a[:, by_x].copy()
    widest = np.nanmax(b[2])
    candidates = np.empty(len(by_x), np.int64)
    for i in range(len(by_x)):
        box = take(a, i)
        if not kept[i] or np.isnan(box[2]):
            continue
        first = np.searchsorted(b[0], box[0] - box[2] - widest)
        last = np.searchsorted(b[0], box[0] + box[2] + widest, side="right")
        for k in candidates[: near(box, b, first, last, candidates)]:
            j = by_x[k]
            if j > i and kept[j]:
                other = take(b, k)
                # the overlap is at most the smaller area, the union at least the larger
                smaller, larger = min(box[5], other[5]), max(box[5], other[5])
                if smaller > threshold * larger and iou(box, other) > threshold:
                    kept[j] = False
