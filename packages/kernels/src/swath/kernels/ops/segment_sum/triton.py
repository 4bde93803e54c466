"""Weighted sums of rows by destination on a GPU, in an order that never changes.

The backward passes of sampling operators add to the same pixel from many places. Atomic additions
do that fast, in an order that differs from run to run; here the contributions are sorted by
destination instead, and one program adds up those of one destination.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from swath.kernels.aot import AotCase

STEP = 16  # contributions added at once
CHANNELS = 64


def segment_sum(
    source: Tensor, source_rows: Tensor, weights: Tensor, target_rows: Tensor, targets: int
) -> Tensor:
    """``out[target_rows[i]] += weights[i] * source[source_rows[i]]`` for all i, repeatably.

    Args:
        source: ``(N, D)``.
        source_rows: ``(E,)`` int64, in [0, N).
        weights: ``(E,)`` float32.
        target_rows: ``(E,)`` int64; a contribution to a row outside of [0, targets) is dropped.
        targets: Number of rows of the result.

    Returns:
        ``(targets, D)``, float32.
    """
    channels = source.shape[1]
    out = torch.empty(targets, channels, device=source.device)
    if out.numel() == 0:
        return out
    ordered, order = target_rows.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(targets + 1, device=source.device))
    block = min(CHANNELS, triton.next_power_of_2(channels))
    grid = (targets * triton.cdiv(channels, block),)
    _segment_sum[grid](
        source.contiguous(),
        source_rows,
        weights,
        order,
        bounds,
        out,
        channels,
        BLOCK_D=block,
        STEP=STEP,
    )
    return out


@triton.jit
def _segment_sum(
    source,
    source_rows,
    weights,
    order,
    bounds,
    out,
    channels,
    BLOCK_D: tl.constexpr,
    STEP: tl.constexpr,
):
    """One program: one destination row, one block of channels."""
    blocks = tl.cdiv(channels, BLOCK_D)
    target = (tl.program_id(0) // blocks).to(tl.int64)
    channel = tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    begin, end = tl.load(bounds + target), tl.load(bounds + target + 1)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for first in range(begin, end, STEP):
        entry = first + tl.arange(0, STEP)
        inside = entry < end
        item = tl.load(order + entry, mask=inside, other=0)
        row = tl.load(source_rows + item, mask=inside, other=0)
        weight = tl.load(weights + item, mask=inside, other=0.0)
        values = tl.load(
            source + row[:, None] * channels + channel[None, :],
            mask=inside[:, None] & (channel < channels)[None, :],
            other=0.0,
        )
        total += tl.sum(values.to(tl.float32) * weight[:, None], 0)
    tl.store(out + target * channels + channel, total, mask=channel < channels)


def aot_cases() -> list[AotCase]:
    """The kernel for narrow and wide rows."""
    return [
        AotCase(
            f"segment_sum-{dtype}-d{block}",
            _segment_sum,
            {
                "source": f"*{dtype}",
                "source_rows": "*i64",
                "weights": "*fp32",
                "order": "*i64",
                "bounds": "*i64",
                "out": "*fp32",
                "channels": "i32",
            },
            {"BLOCK_D": block, "STEP": STEP},
            divisible=("source", "source_rows", "weights", "order", "bounds", "out", "channels"),
        )
        for dtype in ("fp32", "bf16")
        for block in (32, CHANNELS)
    ]
