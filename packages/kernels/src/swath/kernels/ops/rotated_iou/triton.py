"""Rotated IoU in Triton.

A first kernel writes per box what the others read: nine numbers, (9, N) float32. In the second a
tile of pairs takes the way out at once when none of its circles meet; 4 pairs per thread keep it
within 80 registers. The formulas are those of the reference.
"""

import triton
import triton.language as tl
from torch import Tensor

from swath.kernels.aot import AotCase

BLOCK = 128  # boxes per program where a thread has one
TILES = ((16, 64, 8), (8, 32, 2))  # rows, columns, warps: 4 pairs per thread


def pair_tile(rows: int, columns: int) -> tuple[int, int, int]:
    """Tile and warps of the pair kernel: small tiles where large ones would leave a GPU idle."""
    large, small = TILES
    return large if rows * columns >= 1 << 18 else small


def table(boxes: Tensor, min_size: float = 0.0) -> Tensor:
    """What the kernels read of boxes ``(N, 5)``: x, y, radius, halves of w and h, area, angle.

    The radius of an invalid box is NaN, which makes it near to none.
    """
    out = boxes.new_empty(9, len(boxes))
    if len(boxes):
        _table_kernel[(triton.cdiv(len(boxes), BLOCK),)](
            boxes, out, len(boxes), min_size, BLOCK=BLOCK
        )
    return out


def pairwise(boxes1: Tensor, boxes2: Tensor, mode: str, min_size: float) -> Tensor:
    """See the reference."""
    rows, columns = len(boxes1), len(boxes2)
    out = boxes1.new_empty(rows, columns)
    if out.numel():
        block_rows, block_columns, warps = pair_tile(rows, columns)
        # one axis: only the first may have more than 65,535 programs
        grid = (triton.cdiv(rows, block_rows) * triton.cdiv(columns, block_columns),)
        _pair_kernel[grid](
            table(boxes1, min_size),
            table(boxes2, min_size),
            out,
            rows,
            columns,
            IOF=mode == "iof",
            ROWS=block_rows,
            COLUMNS=block_columns,
            num_warps=warps,
        )
    return out


def intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """See the reference."""
    out = boxes1.new_empty(boxes1.shape[:-1])
    if out.numel():
        tables = table(boxes1.view(-1, 5)), table(boxes2.view(-1, 5))
        grid = (triton.cdiv(out.numel(), BLOCK),)
        _aligned_kernel[grid](*tables, out, out.numel(), BLOCK=BLOCK)
    return out


def intersection_backward(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """See the reference."""
    to_first, to_second = boxes1.new_empty(boxes1.shape), boxes2.new_empty(boxes2.shape)
    if grad.numel():
        first, second = table(boxes1.view(-1, 5)), table(boxes2.view(-1, 5))
        grid = (triton.cdiv(grad.numel(), BLOCK),)
        for out, box, frame in ((to_first, first, second), (to_second, second, first)):
            _aligned_backward_kernel[grid](box, frame, grad, out, grad.numel(), BLOCK=BLOCK)
    return to_first, to_second


def aot_cases() -> list[AotCase]:
    """Every kernel as its launcher calls it."""
    block = {"BLOCK": BLOCK}
    cases = [
        AotCase(
            "table",
            _table_kernel,
            {"boxes": "*fp32", "out": "*fp32", "n": "i32", "min_size": "fp32"},
            block,
            divisible=("boxes", "out"),
        ),
        AotCase(
            "aligned",
            _aligned_kernel,
            {"a": "*fp32", "b": "*fp32", "out": "*fp32", "n": "i32"},
            block,
            divisible=("a", "b", "out"),
        ),
        AotCase(
            "aligned backward",
            _aligned_backward_kernel,
            {"a": "*fp32", "b": "*fp32", "grad": "*fp32", "out": "*fp32", "n": "i32"},
            block,
            divisible=("a", "b", "grad", "out"),
        ),
    ]
    cases += [
        AotCase(
            f"{'iof' if iof else 'iou'} {rows}x{columns}",
            _pair_kernel,
            {"a": "*fp32", "b": "*fp32", "out": "*fp32", "n": "i32", "m": "i32"},
            {"IOF": iof, "ROWS": rows, "COLUMNS": columns},
            num_warps=warps,
            divisible=("a", "b", "out"),
        )
        for rows, columns, warps in TILES
        for iof in (False, True)
    ]
    return cases


@triton.jit
def _table_kernel(boxes, out, n, min_size, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = index < n
    source = boxes + index.to(tl.int64) * 5
    x = tl.load(source, live, 0.0)
    y = tl.load(source + 1, live, 0.0)
    w = tl.load(source + 2, live, 0.0)
    h = tl.load(source + 3, live, 0.0)
    theta = tl.load(source + 4, live, 0.0)
    area = w * h
    inf = float("inf")
    # comparisons with NaN are false
    valid = (tl.abs(x) < inf) & (tl.abs(y) < inf) & (tl.abs(theta) < inf) & (w < inf) & (h < inf)
    valid &= (w > 0) & (h > 0) & (w >= min_size) & (h >= min_size) & (area > 0) & (area < inf)
    larger = tl.maximum(w, h)
    slope = tl.minimum(w, h) / larger  # neither underflows nor overflows where w * w would
    radius = tl.where(valid, larger * tl.sqrt(1 + slope * slope) / 2, float("nan"))
    theta = tl.where(valid, theta, 0.0)
    target = out + index
    row = tl.cast(n, tl.int64)
    tl.store(target, x, live)
    tl.store(target + row, y, live)
    tl.store(target + 2 * row, radius, live)
    tl.store(target + 3 * row, w / 2, live)
    tl.store(target + 4 * row, h / 2, live)
    tl.store(target + 5 * row, area, live)
    tl.store(target + 6 * row, theta, live)
    tl.store(target + 7 * row, tl.cos(theta), live)
    tl.store(target + 8 * row, tl.sin(theta), live)


@triton.jit
def _pair_kernel(
    a, b, out, n, m,
    IOF: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(m, COLUMNS)
    pid = tl.program_id(0)
    row = (pid // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (pid % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    live = (row < n) & (column < m)
    target = out + offset(row, column, m)
    meet = near(circle(a, row, n), circle(b, column, m)) & live
    if tl.max(tl.max(meet.to(tl.int32), 1), 0) == 0:
        tl.store(target, tl.zeros((ROWS, COLUMNS), tl.float32), live)
    else:
        box1, box2 = box(a, row, n), box(b, column, m)
        area = overlap(box1, box2)
        if IOF:
            result = tl.div_rn(area, tl.broadcast_to(box1[5], (ROWS, COLUMNS)))
        else:
            result = tl.div_rn(area, union(area, box1, box2))
        tl.store(target, tl.where(meet & (result > 0), result, 0.0), live)


@triton.jit
def offset(row, column, columns):
    """Place in a matrix that may have more than 2^31 entries."""
    return tl.cast(row, tl.int64) * columns + column


@triton.jit
def _aligned_kernel(a, b, out, n, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    meet = near(circle(a, index, n), circle(b, index, n))
    area = overlap(box(a, index, n), box(b, index, n))
    tl.store(out + index, tl.where(meet & (area > 0), area, 0.0), index < n)


@triton.jit
def _aligned_backward_kernel(a, b, grad, out, n, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = index < n
    meet = near(circle(a, index, n), circle(b, index, n))
    moved = box(a, index, n)
    x, y, ux, uy, vx, vy, bounds = _in_frame(moved, box(b, index, n))
    right, y_right = _edge_inside(x + ux, y + uy, vx, vy, bounds)
    left, y_left = _edge_inside(x - ux, y - uy, vx, vy, bounds)
    bottom, x_bottom = _edge_inside(x + vx, y + vy, ux, uy, bounds)
    top, x_top = _edge_inside(x - vx, y - vy, ux, uy, bounds)
    w, h, cos, sin = 2 * moved[3], 2 * moved[4], moved[7], moved[8]
    along, across = h * (right - left), w * (bottom - top)
    turn = h * h * (left * y_left - right * y_right) + w * w * (bottom * x_bottom - top * x_top)
    weight = tl.load(grad + index, live, 0.0)
    target = out + index.to(tl.int64) * 5
    tl.store(target, tl.where(meet, weight * (cos * along - sin * across), 0.0), live)
    tl.store(target + 1, tl.where(meet, weight * (sin * along + cos * across), 0.0), live)
    tl.store(target + 2, tl.where(meet, weight * h * (right + left) / 2, 0.0), live)
    tl.store(target + 3, tl.where(meet, weight * w * (bottom + top) / 2, 0.0), live)
    tl.store(target + 4, tl.where(meet, weight * turn, 0.0), live)


@triton.jit
def circle(a, index, n):
    """Centre and radius of boxes of table ``a``; a NaN radius beyond its end."""
    return (
        _entry(a, 0, index, n, 0.0),
        _entry(a, 1, index, n, 0.0),
        _entry(a, 2, index, n, float("nan")),
    )


@triton.jit
def near(circle1, circle2):
    """Whether circles meet."""
    dx, dy = circle1[0] - circle2[0], circle1[1] - circle2[1]
    reach = circle1[2] + circle2[2]
    return dx * dx + dy * dy <= reach * reach


@triton.jit
def box(a, index, n):
    """All entries of boxes of table ``a``; a unit square beyond its end."""
    x, y, radius = circle(a, index, n)
    return (
        x, y, radius,
        _entry(a, 3, index, n, 0.5),
        _entry(a, 4, index, n, 0.5),
        _entry(a, 5, index, n, 1.0),
        _entry(a, 6, index, n, 0.0),
        _entry(a, 7, index, n, 1.0),
        _entry(a, 8, index, n, 0.0),
    )  # fmt: skip


@triton.jit
def area_of(a, index, n):
    """Areas of boxes of table ``a``."""
    return _entry(a, 5, index, n, 1.0)


@triton.jit
def union(area, box1, box2):
    """In an order of sums that can't round to less than the overlap."""
    return tl.maximum(box1[5], box2[5]) + (tl.minimum(box1[5], box2[5]) - area)


@triton.jit
def overlap(box1, box2):
    """Area common to two boxes; not above the smaller one's, but rounding may leave it below 0."""
    swap = box1[5] < box2[5]
    x, y, ux, uy, vx, vy, bounds = _in_frame(_select(swap, box2, box1), _select(swap, box1, box2))
    area = (
        _edge(x + vx, y + vy, ux, uy, bounds)
        + _edge(x - ux, y - uy, vx, vy, bounds)
        - _edge(x - vx, y - vy, ux, uy, bounds)
        - _edge(x + ux, y + uy, vx, vy, bounds)
    ) / 2
    return tl.minimum(area, tl.minimum(box1[5], box2[5]))


@triton.jit
def _entry(a, row, index, n, other):
    return tl.load(a + tl.cast(n, tl.int64) * row + index, index < n, other)


@triton.jit
def _select(condition, p, q):
    return (
        tl.where(condition, p[0], q[0]),
        tl.where(condition, p[1], q[1]),
        tl.where(condition, p[2], q[2]),
        tl.where(condition, p[3], q[3]),
        tl.where(condition, p[4], q[4]),
        tl.where(condition, p[5], q[5]),
        tl.where(condition, p[6], q[6]),
        tl.where(condition, p[7], q[7]),
        tl.where(condition, p[8], q[8]),
    )


@triton.jit
def _in_frame(moved, frame):
    dx, dy = moved[0] - frame[0], moved[1] - frame[1]
    w, h = frame[3], frame[4]
    x = frame[7] * dx + frame[8] * dy
    y = frame[7] * dy - frame[8] * dx
    x_origin, y_origin = _clamp(x, -w, w), _clamp(y, -h, h)
    cos, sin = _cos_sin(moved[6] - frame[6])
    bounds = (-w - x_origin, -h - y_origin, w - x_origin, h - y_origin)
    return (
        x - x_origin,
        y - y_origin,
        moved[3] * cos,
        moved[3] * sin,
        -moved[4] * sin,
        moved[4] * cos,
        bounds,
    )


@triton.jit
def _cos_sin(angle):
    """To the last place for angles up to 1e5, and exact at 0.

    The library's functions have a branch and a table in local memory for angles beyond. Range
    reduction by pi / 2 in three parts and the polynomials are those of Cephes' ``sinf.c``.
    """
    quarter = tl.floor(angle * 0.6366197723675814 + 0.5)
    r = angle - quarter * 1.5703125
    r = r - quarter * 4.837512969970703e-4
    r = r - quarter * 7.549789954891882e-8
    z = r * r
    s = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4))
    c = 4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5)
    c = 1 - z / 2 + z * z * c
    turn = quarter.to(tl.int32) & 3
    odd = (turn & 1) == 1
    cos, sin = tl.where(odd, s, c), tl.where(odd, c, s)
    return tl.where((turn == 1) | (turn == 2), -cos, cos), tl.where(turn >= 2, -sin, sin)


@triton.jit
def _edge(mx, my, tx, ty, bounds):
    """Twice the integral of q_y dq_x along the edge from m - t to m + t."""
    x_low, y_low, x_high, y_high = bounds
    width = _clamp(mx + tx, x_low, x_high) - _clamp(mx - tx, x_low, x_high)
    start, end = _between(mx, tx, x_low, x_high)
    height_a = my + start * ty
    height_b = my + end * ty
    qa = _clamp(height_a, y_low, y_high)
    qb = _clamp(height_b, y_low, y_high)
    rise = tl.where(qa == qb, 1.0, height_b - height_a)
    excess = ((qa - height_a) + (qb - height_b)) / rise * (qa - qb)
    return width * (qa + qb + excess)


@triton.jit
def _edge_inside(px, py, qx, qy, bounds):
    """Which fraction of the edge from p - q to p + q is inside, and where its middle is."""
    x_low, y_low, x_high, y_high = bounds
    weight_x, start_x, end_x = _inside(px, qx, x_low, x_high)
    weight_y, start_y, end_y = _inside(py, qy, y_low, y_high)
    start = tl.maximum(start_x, start_y)
    end = tl.minimum(end_x, end_y)
    return tl.maximum(end - start, 0.0) / 2 * weight_x * weight_y, (start + end) / 4


@triton.jit
def _between(p, q, low, high):
    q = tl.where(q == 0, 1.0, q)
    s = (low - p) / q
    t = (high - p) / q
    return _clamp(tl.minimum(s, t), -1.0, 1.0), _clamp(tl.maximum(s, t), -1.0, 1.0)


@triton.jit
def _inside(p, q, low, high):
    start, end = _between(p, q, low, high)
    weight = tl.where((p >= low) & (p <= high), tl.where((p > low) & (p < high), 1.0, 0.5), 0.0)
    still = q == 0
    return tl.where(still, weight, 1.0), tl.where(still, -1.0, start), tl.where(still, 1.0, end)


@triton.jit
def _clamp(value, low, high):
    return tl.minimum(tl.maximum(value, low), high)
