"""Greedy suppression of rotated boxes in Triton, without a copy to the host.

The first kernel looks at all pairs of boxes of a label, the later one in each, in tiles of 64 x 64,
and writes a word of 64 bits per box and tile: which boxes it would suppress. The second, a single
program, walks over the boxes in blocks of 64: who of a block survives is settled within registers,
and the words of the survivors are then joined for all blocks that follow.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from swath.kernels.aot import AotCase
from swath.kernels.ops.rotated_iou.triton import area_of, box, circle, near, overlap, table, union

TILE = tl.constexpr(64)  # bits of a word
ROWS = 8  # of a tile at a time: 4 pairs per thread
WORDS = 32  # joined at a time


def suppress(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """See the reference."""
    count, tiles = len(boxes), triton.cdiv(len(boxes), 64)
    kept = labels.new_empty(count, dtype=torch.int8)
    if count:
        words = labels.new_empty(tiles, count, dtype=torch.int64)
        dead = labels.new_zeros(tiles, dtype=torch.int64)
        _mask_kernel[(tiles, tiles)](
            table(boxes), labels, words, count, threshold, ROWS=ROWS, num_warps=4
        )
        _scan_kernel[(1,)](words, labels, dead, kept, count, WORDS=WORDS, num_warps=8)
    return kept.bool()


def aot_cases() -> list[AotCase]:
    """Both kernels as `suppress` calls them."""
    return [
        AotCase(
            "mask",
            _mask_kernel,
            {"a": "*fp32", "labels": "*i64", "words": "*i64", "n": "i32", "threshold": "fp32"},
            {"ROWS": ROWS},
            divisible=("a", "labels", "words"),
        ),
        AotCase(
            "scan",
            _scan_kernel,
            {"words": "*i64", "labels": "*i64", "dead": "*i64", "kept": "*i8", "n": "i32"},
            {"WORDS": WORDS},
            num_warps=8,
            divisible=("words", "labels", "dead", "kept"),
        ),
    ]


@triton.jit
def _mask_kernel(a, labels, words, n, threshold, ROWS: tl.constexpr):
    first_row, first_column = tl.program_id(0) * TILE, tl.program_id(1) * TILE
    last_label = tl.load(labels + tl.minimum(first_row + TILE, n) - 1)
    if (first_column >= first_row) & (tl.load(labels + first_column) <= last_label):
        lane = tl.arange(0, TILE)
        column = first_column + lane[None, :]
        column_label = tl.load(labels + column, column < n, 0)
        target = words + tl.program_id(1).to(tl.int64) * n
        for start in range(first_row, first_row + TILE, ROWS):
            line = start + tl.arange(0, ROWS)
            row = line[:, None]
            later = (row < column) & (column < n)
            rivals = later & (tl.load(labels + row, row < n, 0) == column_label)
            # the overlap is at most the smaller area, the union at least the larger
            area1, area2 = area_of(a, row, n), area_of(a, column, n)
            similar = tl.minimum(area1, area2) > threshold * tl.maximum(area1, area2)
            meet = near(circle(a, row, n), circle(a, column, n)) & rivals & similar
            word = tl.zeros((ROWS,), tl.int64)
            if tl.max(tl.max(meet.to(tl.int32), 1), 0) > 0:
                box1, box2 = box(a, row, n), box(a, column, n)
                common = overlap(box1, box2)
                meet &= tl.div_rn(common, union(common, box1, box2)) > threshold
                word = tl.sum(meet.to(tl.int64) << lane[None, :].to(tl.int64), 1)
            tl.store(target + line, word, line < n)


@triton.jit
def _scan_kernel(words, labels, dead, kept, n, WORDS: tl.constexpr):
    tiles = tl.cdiv(n, TILE)
    lane = tl.arange(0, TILE)
    one = tl.full((TILE,), 1, tl.int64)
    for tile in range(0, tiles):
        row = tile * TILE + lane
        own = tl.load(words + tl.cast(tile, tl.int64) * n + row, row < n, 0)
        bits = tl.sum(tl.where(row < n, one << lane.to(tl.int64), 0), 0)
        candidates = bits & ~tl.load(dead + tile)
        # the first box is right from the start, and every round settles at least one more
        alive = candidates
        before = ~candidates
        while alive != before:
            before = alive
            chosen = (alive >> lane.to(tl.int64)) & 1
            alive = candidates & ~tl.reduce(tl.where(chosen == 1, own, 0), 0, _or)
        chosen = (alive >> lane.to(tl.int64)) & 1
        tl.store(kept + row, chosen.to(tl.int8), row < n)

        last_label = tl.load(labels + tl.minimum(tile * TILE + TILE, n) - 1)
        for first in range(tile + 1, tiles, WORDS):
            later = first + tl.arange(0, WORDS)
            # tiles of other labels only have no words
            live = later < tiles
            live &= tl.load(labels + later * TILE, live, last_label) <= last_label
            source = words + later[:, None].to(tl.int64) * n + row[None, :]
            take = live[:, None] & (row < n)[None, :] & (chosen == 1)[None, :]
            joined = tl.reduce(tl.load(source, take, 0), 1, _or)
            tl.store(dead + later, tl.load(dead + later, live, 0) | joined, live)
        tl.debug_barrier()  # the next tile reads what other threads of this program wrote


@triton.jit
def _or(a, b):
    return a | b
