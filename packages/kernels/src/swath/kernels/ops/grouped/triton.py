"""Matrix products whose weights depend on the row, on the GPU.

A *token* is a row of a layer's input and output. A *slot* is one use of an expert by a token, its
number ``token * top_k + k``; hidden activations are stored by slot. A *place* is a slot's position
in the order sorted by expert (stable). Programs take tiles of places of one expert, and find
expert and rows themselves from the experts' offsets: nothing is copied to the host, no rows are
permuted or padded in memory. The grid is an upper bound; surplus programs return.

Nothing here is atomic, so that results repeat bit for bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from swath.kernels.aot import AotCase
from swath.kernels.dots import TYPE_NAMES, dot_options

PROGRAMS = 264  # that fill a GPU: twice the multiprocessors of an H100
SORT_BLOCK = 64


class Tiles(NamedTuple):
    """Block sizes of a product (m, k) x (k, n), and how it is run."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int = 3


class Routes(NamedTuple):
    """Which slots each expert works on.

    Attributes:
        order: Groups of ``span`` consecutive slots, sorted by expert; int64.
        offsets: ``(E + 1,)`` first place of each expert, and their number; int64.
        span: Slots of a group, which share an expert.
        top_k: Slots of a token.
        slots: All of them.
    """

    order: Tensor
    offsets: Tensor
    span: int
    top_k: int
    slots: int


def tiles(rows: int, experts: int, dtype: torch.dtype) -> Tiles:
    """Blocks by the mean number of rows of an expert."""
    if dtype == torch.float32:
        return Tiles(64, 64, 32, 4)
    mean = rows // max(1, experts)
    if mean > 512:
        return Tiles(128, 128, 64, 8)
    return Tiles(64, 128, 64, 8) if mean > 64 else Tiles(32, 128, 64, 4)


def weight_tiles(dtype: torch.dtype) -> Tiles:
    """Blocks of a weight's gradient, whose sum runs over rows."""
    return Tiles(64, 64, 32, 4) if dtype == torch.float32 else Tiles(128, 128, 64, 8)


def sort_by_expert(ids: Tensor, experts: int, span: int = 1) -> tuple[Tensor, Tensor]:
    """Stable counting sort: ``(G,)`` ids of groups to their order and the experts' offsets."""
    groups = ids.shape[0]
    order = ids.new_empty(groups)
    offsets = ids.new_zeros(experts + 1)
    blocks = triton.cdiv(groups, SORT_BLOCK)
    if blocks:
        options = {"EXPERTS": triton.next_power_of_2(max(2, experts)), "BLOCK": SORT_BLOCK}
        counts = ids.new_empty((experts, blocks))
        _count_kernel[(blocks,)](ids, counts, groups, experts, blocks, **options)
        ends = counts.flatten().cumsum(0).view_as(counts)
        starts = ends - counts
        _place_kernel[(blocks,)](ids, starts, order, groups, experts, blocks, **options)
        torch.mul(ends[:, -1], span, out=offsets[1:])
    return order, offsets


def hidden(
    x: Tensor, w: Tensor, b: Tensor | None, routes: Routes | None, activation: str, save: bool
) -> tuple[Tensor, Tensor]:
    """``activation(x w[e]^T + b[e])`` by slot, and what the activation was given if ``save``.

    Args:
        x: ``(tokens, C)``.
        w: ``(E, F, C)``; two rows of it, ``f`` and ``F / 2 + f``, are a gate and what it scales
            where the name of the activation begins with "gated ".
        b: ``(E, F)``.
        routes: None for a dense product with one weight.
        activation: See `_activate`.
        save: Whether to return the first result, which is empty otherwise.
    """
    name, gated = _split(activation)
    experts, wide, channels = w.shape
    features = wide // 2 if gated else wide
    slots = routes.slots if routes else x.shape[0]
    pre = x.new_empty((slots if save else 0, wide))
    out = x.new_empty((slots, features))
    block = tiles(slots, experts, x.dtype)
    block = _narrow(block) if gated else block
    programs = _row_tiles(slots, experts, block, routes) * triton.cdiv(features, block.n)
    if slots and features:
        _hidden_kernel[(programs,)](
            x, w, b, pre, out,
            *_route_arguments(routes, slots, experts, block),
            channels, features,
            ACTIVATION=name, GATED=gated, SAVE=save,
            **_options(block, x.dtype, routes, experts),
        )  # fmt: skip
    return pre, out


def project(
    a: Tensor,
    w_shared: Tensor,
    b_shared: Tensor | None,
    w_experts: Tensor,
    b_experts: Tensor | None,
    routes: Routes,
    gates: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``[a w_shared^T + b_shared | a w_experts[e]^T + b_experts[e]] * gate`` by slot.

    Args:
        a: ``(slots, K)``.
        w_shared: ``(S, K)``, S may be 0.
        b_shared: ``(S,)``.
        w_experts: ``(E, P, K)``, any strides.
        b_experts: ``(E, P)``.
        routes: Which expert serves which slot.
        gates: ``(slots,)`` float32.
        dtype: Of the result; that of ``a`` by default.
    """
    experts, part, depth = w_experts.shape
    shared = w_shared.shape[0]
    out = a.new_empty((routes.slots, shared + part), dtype=dtype or a.dtype)
    block = tiles(routes.slots, experts, a.dtype)
    columns = triton.cdiv(shared, block.n) + triton.cdiv(part, block.n)
    programs = _row_tiles(routes.slots, experts, block, routes) * columns
    if routes.slots and columns:
        _project_kernel[(programs,)](
            a, w_shared, b_shared, w_experts, b_experts, gates, out,
            *_route_arguments(routes, routes.slots, experts, block),
            depth, shared, part, *w_experts.stride(),
            **_options(block, a.dtype, routes, experts),
        )  # fmt: skip
    return out


def hidden_gradient(
    grad: Tensor,
    w_shared: Tensor,
    w_experts: Tensor,
    b_experts: Tensor | None,
    pre: Tensor,
    routes: Routes,
    activation: str,
    gates: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Back through a projection and the activation before it.

    Args:
        grad: ``(tokens, S + P)``.
        w_shared: ``(S, F)``.
        w_experts: ``(E, P, F)``.
        b_experts: ``(E, P)``, for the gradient of the gates.
        pre: What the activation was given, ``(slots, F)`` or ``(slots, 2 F)``.
        routes: Which expert serves which slot.
        activation: As for `hidden`.
        gates: ``(slots,)`` float32.

    Returns:
        Gradient of ``pre``; ``(slots, F)`` activations, computed again; ``(slots,)`` gradient of
        the gates, empty without them.
    """
    name, gated = _split(activation)
    experts, part, features = w_experts.shape
    block = _narrow(tiles(routes.slots, experts, grad.dtype))
    columns = triton.cdiv(features, block.n)
    grad_pre = pre.new_empty(pre.shape)
    out = pre.new_empty((routes.slots, features))
    # a sum over features: one part for each column of tiles
    grad_gates = pre.new_empty(
        (columns, routes.slots if gates is not None else 0), dtype=torch.float32
    )
    if routes.slots and columns:
        _hidden_gradient_kernel[(_row_tiles(routes.slots, experts, block, routes) * columns,)](
            grad, w_shared, w_experts, b_experts, pre, gates, grad_pre, out, grad_gates,
            *_route_arguments(routes, routes.slots, experts, block),
            w_shared.shape[0], part, features,
            ACTIVATION=name, GATED=gated,
            **_options(block, grad.dtype, routes, experts),
        )  # fmt: skip
    return grad_pre, out, grad_gates.sum(0)


def weight_gradient(
    a: Tensor,
    b: Tensor,
    routes: Routes,
    experts: int,
    *,
    a_by_token: bool,
    bias: bool,
    gates: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``sum over slots of (gate * a)^T b`` for each expert, and of ``gate * a`` for its bias.

    Args:
        a: ``(tokens or slots, P)``; rows may be further apart than P.
        b: ``(slots or tokens, K)``, contiguous.
        routes: Which expert serves which slot.
        experts: E.
        a_by_token: Whether ``a`` has a row for each token and ``b`` for each slot, or the reverse.
        bias: Whether the second result is wanted; it is empty otherwise.
        gates: ``(slots,)`` float32.

    Returns:
        ``(E, P, K)`` and ``(E, P)`` in the dtype of ``a``; zeros for an expert without slots.
    """
    part, depth = a.shape[1], b.shape[1]
    block = weight_tiles(a.dtype)
    grid = triton.cdiv(part, block.m) * triton.cdiv(depth, block.n)
    splits = min(16, triton.cdiv(PROGRAMS, max(1, grid * experts)))
    splits = max(1, min(splits, triton.cdiv(routes.slots, 16 * block.k)))
    grad = a.new_empty((splits, experts, part, depth), dtype=torch.float32)
    grad_bias = a.new_empty((splits, experts, part if bias else 0), dtype=torch.float32)
    if grid and experts:
        options = _options(block, a.dtype, routes, experts)
        del options["EXPERTS"]
        _weight_gradient_kernel[(grid * experts, splits)](
            a, b, gates, grad, grad_bias,
            routes.order, routes.offsets, experts, routes.span, routes.top_k,
            part, depth, a.stride(0),
            A_BY_TOKEN=a_by_token, BIAS=bias, **options,
        )  # fmt: skip
    return grad.sum(0).to(a.dtype), grad_bias.sum(0).to(a.dtype)


@triton.jit
def _count_kernel(
    ids, counts, groups, experts, blocks, EXPERTS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """How many groups of a block choose each expert: ``counts[expert, block]``."""
    chosen = _one_hot(ids, groups, experts, EXPERTS, BLOCK)
    expert = tl.arange(0, EXPERTS)
    target = counts + expert.to(tl.int64) * blocks + tl.program_id(0)
    tl.store(target, tl.sum(chosen, 0).to(tl.int64), mask=expert < experts)


@triton.jit
def _place_kernel(
    ids, starts, order, groups, experts, blocks, EXPERTS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write each group to its place: the start of its expert and block, and its rank in them."""
    chosen = _one_hot(ids, groups, experts, EXPERTS, BLOCK)
    expert = tl.arange(0, EXPERTS)
    start = tl.load(
        starts + expert.to(tl.int64) * blocks + tl.program_id(0), mask=expert < experts, other=0
    )
    place = tl.sum(chosen * (start[None, :] + tl.cumsum(chosen, 0) - 1), 1)
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(order + place, group.to(tl.int64), mask=tl.sum(chosen, 1) == 1)


@triton.jit
def _one_hot(ids, groups, experts, EXPERTS: tl.constexpr, BLOCK: tl.constexpr):
    """``(BLOCK, EXPERTS)`` int32; ids out of range choose no expert, and fail in debug mode."""
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ids = tl.load(ids + group, mask=group < groups, other=0)
    tl.device_assert((ids >= 0) & (ids < experts), "expert id out of range")
    expert = tl.arange(0, EXPERTS)
    ok = (group < groups)[:, None] & (expert < experts)[None, :]
    return ((ids[:, None] == expert[None, :]) & ok).to(tl.int32)


@triton.jit
def _hidden_kernel(
    x, w, b, pre, out,
    order, offsets, experts, span, top_k, slots, row_tiles,
    channels, features,
    ACTIVATION: tl.constexpr, GATED: tl.constexpr, SAVE: tl.constexpr,
    EXPERTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row_tile, column_tile = _swizzled(row_tiles, tl.cdiv(features, BLOCK_N))
    expert, slot, ok = _rows_of(row_tile, order, offsets, experts, span, slots, EXPERTS, BLOCK_M)
    if expert >= experts:
        return
    wide = features * 2 if GATED else features
    column = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    column_ok = column < features
    w += expert.to(tl.int64) * wide * channels
    x_rows = x + (slot // top_k)[:, None] * channels
    w_columns = w + column[None, :].to(tl.int64) * channels
    w_scale = w + (features + column)[None, :].to(tl.int64) * channels
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    scaled = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, channels, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        k_ok = k < channels
        left = tl.load(x_rows + k[None, :], mask=ok[:, None] & k_ok[None, :], other=0.0)
        right_ok = k_ok[:, None] & column_ok[None, :]
        right = tl.load(w_columns + k[:, None], mask=right_ok, other=0.0)
        total = _dot(left, right, total, PRECISION, UPCAST)
        if GATED:
            right = tl.load(w_scale + k[:, None], mask=right_ok, other=0.0)
            scaled = _dot(left, right, scaled, PRECISION, UPCAST)
    mask = ok[:, None] & column_ok[None, :]
    if b is not None:
        b += expert.to(tl.int64) * wide
        total += tl.load(b + column, mask=column_ok, other=0.0).to(tl.float32)[None, :]
        if GATED:
            scale = tl.load(b + features + column, mask=column_ok, other=0.0)
            scaled += scale.to(tl.float32)[None, :]
    if SAVE:
        target = pre + slot[:, None] * wide + column[None, :]
        tl.store(target, total.to(pre.dtype.element_ty), mask=mask)
        if GATED:
            tl.store(target + features, scaled.to(pre.dtype.element_ty), mask=mask)
    value, _ = _activate(total, ACTIVATION)
    if GATED:
        value *= scaled
    tl.store(
        out + slot[:, None] * features + column[None, :], value.to(out.dtype.element_ty), mask=mask
    )


@triton.jit
def _project_kernel(
    a, w_shared, b_shared, w_experts, b_experts, gates, out,
    order, offsets, experts, span, top_k, slots, row_tiles,
    depth, shared, part, stride_e, stride_n, stride_k,
    EXPERTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Columns are tiled for each region, so that no tile straddles shared and expert weights."""
    shared_tiles = tl.cdiv(shared, BLOCK_N)
    row_tile, column_tile = _swizzled(row_tiles, shared_tiles + tl.cdiv(part, BLOCK_N))
    expert, slot, ok = _rows_of(row_tile, order, offsets, experts, span, slots, EXPERTS, BLOCK_M)
    if expert >= experts:
        return
    in_shared = column_tile < shared_tiles
    w = w_experts + expert.to(tl.int64) * stride_e
    if in_shared:
        w = w_shared
    shared_width = tl.where(in_shared, shared, 0)
    width = tl.where(in_shared, shared, part)
    first_column = tl.where(in_shared, 0, shared)
    column_tile = tl.where(in_shared, column_tile, column_tile - shared_tiles)
    column = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    column_ok = column < width
    a_rows = a + slot[:, None] * depth
    w += column_tile.to(tl.int64) * BLOCK_N * stride_n
    down = tl.arange(0, BLOCK_K)[:, None] * stride_k
    w_tile = tl.arange(0, BLOCK_N)[None, :] * stride_n + down
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, depth, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        k_ok = k < depth
        left = tl.load(a_rows + k[None, :], mask=ok[:, None] & k_ok[None, :], other=0.0)
        right_ok = k_ok[:, None] & column_ok[None, :]
        right = tl.load(w + w_tile, mask=right_ok, other=0.0)
        w += BLOCK_K * stride_k
        total = _dot(left, right, total, PRECISION, UPCAST)
    if b_shared is not None:
        total += tl.load(b_shared + column, mask=column < shared_width, other=0.0).to(tl.float32)[
            None, :
        ]
    if b_experts is not None:
        b = b_experts + expert.to(tl.int64) * part
        total += tl.load(b + column, mask=column < width - shared_width, other=0.0).to(tl.float32)[
            None, :
        ]
    if gates is not None:
        total *= tl.load(gates + slot, mask=ok, other=0.0)[:, None]
    target = out + slot[:, None] * (shared + part) + first_column + column[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=ok[:, None] & column_ok[None, :])


@triton.jit
def _hidden_gradient_kernel(
    grad, w_shared, w_experts, b_experts, pre, gates, grad_pre, out, grad_gates,
    order, offsets, experts, span, top_k, slots, row_tiles,
    shared, part, features,
    ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    EXPERTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row_tile, column_tile = _swizzled(row_tiles, tl.cdiv(features, BLOCK_N))
    expert, slot, ok = _rows_of(row_tile, order, offsets, experts, span, slots, EXPERTS, BLOCK_M)
    if expert >= experts:
        return
    column = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    column_ok = column < features
    grad_rows = grad + (slot // top_k)[:, None] * (shared + part)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, shared, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        k_ok = k < shared
        left = tl.load(grad_rows + k[None, :], mask=ok[:, None] & k_ok[None, :], other=0.0)
        right = tl.load(
            w_shared + tl.arange(0, BLOCK_K)[:, None] * features + column[None, :],
            mask=k_ok[:, None] & column_ok[None, :],
            other=0.0,
        )
        w_shared += BLOCK_K * features
        total = _dot(left, right, total, PRECISION, UPCAST)
    grad_rows += shared
    w_experts += expert.to(tl.int64) * part * features
    for start in range(0, part, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        k_ok = k < part
        left = tl.load(grad_rows + k[None, :], mask=ok[:, None] & k_ok[None, :], other=0.0)
        right = tl.load(
            w_experts + tl.arange(0, BLOCK_K)[:, None] * features + column[None, :],
            mask=k_ok[:, None] & column_ok[None, :],
            other=0.0,
        )
        w_experts += BLOCK_K * features
        total = _dot(left, right, total, PRECISION, UPCAST)

    mask = ok[:, None] & column_ok[None, :]
    wide = features * 2 if GATED else features
    at = slot[:, None] * wide + column[None, :]
    value, slope = _activate(tl.load(pre + at, mask=mask, other=0.0).to(tl.float32), ACTIVATION)
    activated = value
    if GATED:
        scaled = tl.load(pre + at + features, mask=mask, other=0.0).to(tl.float32)
        activated = value * scaled
        slope *= scaled
    if gates is not None:
        share = tl.sum(total * activated, 1)
        if b_experts is not None:
            # the bias is nobody's feature: the first tile takes it along
            width = tl.where(column_tile == 0, part, 0)
            for start in range(0, width, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                k_ok = k < part
                left = tl.load(grad_rows + k[None, :], mask=ok[:, None] & k_ok[None, :], other=0.0)
                b = tl.load(b_experts + expert.to(tl.int64) * part + k, mask=k_ok, other=0.0)
                share += tl.sum(left.to(tl.float32) * b.to(tl.float32)[None, :], 1)
        tl.store(grad_gates + column_tile.to(tl.int64) * slots + slot, share, mask=ok)
        total *= tl.load(gates + slot, mask=ok, other=0.0)[:, None]
    tl.store(grad_pre + at, (total * slope).to(grad_pre.dtype.element_ty), mask=mask)
    if GATED:
        tl.store(grad_pre + at + features, (total * value).to(grad_pre.dtype.element_ty), mask=mask)
    tl.store(
        out + slot[:, None] * features + column[None, :],
        activated.to(out.dtype.element_ty),
        mask=mask,
    )


@triton.jit
def _weight_gradient_kernel(
    a, b, gates, grad, grad_bias,
    order, offsets, experts, span, top_k,
    part, depth, a_stride,
    A_BY_TOKEN: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A tile of one expert's gradient over one of the equal parts of its places."""
    tile = tl.program_id(0)
    row_tiles, column_tiles = tl.cdiv(part, BLOCK_M), tl.cdiv(depth, BLOCK_N)
    row = tile // column_tiles % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    expert = (tile // (column_tiles * row_tiles)).to(tl.int64)
    row_ok, column_ok = row < part, column < depth
    first, last = tl.load(offsets + expert), tl.load(offsets + expert + 1)
    length = tl.cdiv(last - first, tl.num_programs(1))
    first += length * tl.program_id(1)
    last = tl.minimum(first + length, last)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    bias = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(first, last, BLOCK_K):
        place = start + tl.arange(0, BLOCK_K)
        ok = place < last
        slot = _slot(place, ok, order, span)
        a_row, b_row = slot // top_k, slot
        if not A_BY_TOKEN:
            a_row, b_row = b_row, a_row
        left = tl.load(
            a + a_row[None, :] * a_stride + row[:, None],
            mask=row_ok[:, None] & ok[None, :],
            other=0.0,
        )
        right = tl.load(
            b + b_row[:, None] * depth + column[None, :],
            mask=ok[:, None] & column_ok[None, :],
            other=0.0,
        )
        if gates is not None:
            gate = tl.load(gates + slot, mask=ok, other=0.0)
            left = (left.to(tl.float32) * gate[None, :]).to(left.dtype)
        total = _dot(left, right, total, PRECISION, UPCAST)
        if BIAS:
            bias += tl.sum(left.to(tl.float32), 1)
    at = tl.program_id(1).to(tl.int64) * experts + expert
    target = grad + (at * part + row[:, None]) * depth + column[None, :]
    tl.store(target, total, mask=row_ok[:, None] & column_ok[None, :])
    if BIAS:
        # the same in all columns of tiles; the first stores it
        mine = tl.where(tile % column_tiles == 0, part, 0)
        tl.store(grad_bias + at * part + row, bias, mask=row < mine)


@triton.jit
def _rows_of(
    tile, order, offsets, experts, span, slots, EXPERTS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Expert and slots of a tile of places; the expert of a surplus tile is out of range."""
    if EXPERTS == 0:  # dense: one expert, slots in their own order
        expert = tl.program_id(0) * 0
        place = tile.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        ok = place < slots
        return expert, tl.where(ok, place, 0), ok
    else:
        e = tl.arange(0, EXPERTS)
        first = tl.load(offsets + e, mask=e < experts, other=0)
        last = tl.load(offsets + e + 1, mask=e < experts, other=0)
        count = (last - first + BLOCK - 1) // BLOCK
        end = tl.cumsum(count, 0)
        expert = tl.sum((end <= tile).to(tl.int32), 0)
        start = tl.sum(tl.where(e == expert, first + (tile - end + count) * BLOCK, 0), 0)
        stop = tl.sum(tl.where(e == expert, last, 0), 0)
        place = start + tl.arange(0, BLOCK)
        ok = place < stop
        return expert, _slot(place, ok, order, span), ok


@triton.jit
def _slot(place, ok, order, span):
    return tl.load(order + place // span, mask=ok, other=0) * span + place % span


@triton.jit
def _swizzled(row_tiles, column_tiles):
    """Tiles in blocks of eight rows, so that programs that run together share operands in L2."""
    program = tl.program_id(0)
    in_block = 8 * column_tiles
    first = program // in_block * 8
    rows = tl.minimum(row_tiles - first, 8)
    return first + program % in_block % rows, program % in_block // rows


@triton.jit
def _dot(left, right, total, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    if UPCAST:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    """Value and derivative, float32."""
    if ACTIVATION == "gelu_erf":
        cdf = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        value = x * cdf
        slope = cdf + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    elif ACTIVATION == "gelu_tanh":
        inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)  # twice the argument of tanh
        gate = 1 / (1 + tl.exp(-inner))
        value = x * gate
        steep = 1.5957691216057308 * (1 + 0.134145 * x * x)
        slope = gate + x * gate * (1 - gate) * steep
    elif ACTIVATION == "silu":
        gate = 1 / (1 + tl.exp(-x))
        value = x * gate
        slope = gate * (1 + x * (1 - gate))
    else:
        tl.static_assert(ACTIVATION == "relu")
        value = tl.where(x <= 0, 0.0, x)  # a NaN stays
        slope = tl.where(x > 0, 1.0, 0.0)
    return value, slope


def _split(activation: str) -> tuple[str, bool]:
    name = activation.removeprefix("gated ")
    return name, name != activation


def _narrow(block: Tiles) -> Tiles:
    """For a kernel with a second accumulator or a long epilogue, which need the registers."""
    return block._replace(n=block.n // 2)


def _row_tiles(slots: int, experts: int, block: Tiles, routes: Routes | None) -> int:
    """An upper bound on the tiles of places: each expert has at most one that isn't full."""
    return slots // block.m + experts if routes else triton.cdiv(slots, block.m)


def _route_arguments(
    routes: Routes | None, slots: int, experts: int, block: Tiles
) -> tuple[Any, ...]:
    row_tiles = _row_tiles(slots, experts, block, routes)
    if routes is None:
        return None, None, 1, 1, 1, slots, row_tiles
    return (
        routes.order, routes.offsets, experts, routes.span, routes.top_k, slots, row_tiles,
    )  # fmt: skip


def _options(
    block: Tiles, dtype: torch.dtype, routes: Routes | None, experts: int
) -> dict[str, Any]:
    return {
        "EXPERTS": triton.next_power_of_2(max(2, experts)) if routes else 0,
        "BLOCK_M": block.m,
        "BLOCK_N": block.n,
        "BLOCK_K": block.k,
        "num_warps": block.num_warps,
        "num_stages": block.num_stages,
        **dot_options(dtype),
    }


def aot_hidden(
    dtype: torch.dtype, rows: int, activation: str, *, routed: bool, bias: bool
) -> AotCase:
    """`hidden` as launched for this mean number of rows of an expert."""
    name, gated = _split(activation)
    block = tiles(rows, 1, dtype)
    block = _narrow(block) if gated else block
    fixed = {"ACTIVATION": name, "GATED": gated, "SAVE": True, "EXPERTS": 8 if routed else 0}
    absent = () if routed else ("order", "offsets")
    return _aot_case(_hidden_kernel, dtype, block, fixed, absent if bias else (*absent, "b"))


def aot_project(
    dtype: torch.dtype,
    rows: int,
    *,
    shared: bool,
    bias: bool,
    gated: bool,
    transposed: bool = False,
) -> AotCase:
    """`project` as launched for this mean number of rows of an expert; w or w^T is contiguous."""
    absent = [name for name, there in (("b_shared", shared), ("b_experts", bias)) if not there]
    absent += [] if gated else ["gates"]
    fixed = {"EXPERTS": 8, "stride_n" if transposed else "stride_k": 1}
    return _aot_case(_project_kernel, dtype, tiles(rows, 1, dtype), fixed, absent)


def aot_hidden_gradient(
    dtype: torch.dtype, rows: int, activation: str, *, bias: bool, gated: bool
) -> AotCase:
    """`hidden_gradient` as launched for this mean number of rows of an expert."""
    name, scaled = _split(activation)
    absent = [name for name, there in (("b_experts", bias), ("gates", gated)) if not there]
    fixed = {"ACTIVATION": name, "GATED": scaled, "EXPERTS": 8}
    return _aot_case(_hidden_gradient_kernel, dtype, _narrow(tiles(rows, 1, dtype)), fixed, absent)


def aot_weight_gradient(
    dtype: torch.dtype, *, a_by_token: bool, bias: bool, gated: bool
) -> AotCase:
    """`weight_gradient` as launched."""
    fixed = {"A_BY_TOKEN": a_by_token, "BIAS": bias}
    absent = () if gated else ("gates",)
    return _aot_case(_weight_gradient_kernel, dtype, weight_tiles(dtype), fixed, absent)


def aot_sort() -> list[AotCase]:
    """The two kernels of `sort_by_expert`."""
    fixed = {"EXPERTS": 8, "BLOCK": SORT_BLOCK}
    return [
        AotCase(
            kernel.__name__.strip("_"),
            kernel,
            {name: _kind(name, "") for name in kernel.arg_names if name not in fixed},
            fixed,
            divisible=tuple(name for name in kernel.arg_names if _kind(name, "")[0] == "*"),
        )
        for kernel in (_count_kernel, _place_kernel)
    ]


def _aot_case(
    kernel: Any, dtype: torch.dtype, block: Tiles, fixed: dict[str, Any], absent: Sequence[str]
) -> AotCase:
    options = _options(block, dtype, None, 0) | fixed | dict.fromkeys(absent)
    constexprs = {name: options[name] for name in kernel.arg_names if name in options}
    signature = {
        name: _kind(name, TYPE_NAMES[dtype]) for name in kernel.arg_names if name not in constexprs
    }
    aligned = (
        "channels",
        "features",
        "depth",
        "shared",
        "part",
        "a_stride",
        "stride_n",
        "stride_k",
    )
    traits = [TYPE_NAMES[dtype], f"{block.m}x{block.n}x{block.k}"]
    traits += [str(v) for k, v in fixed.items() if k == "ACTIVATION"]
    traits += [k.lower() for k, v in fixed.items() if v is True and k != "SAVE"]
    traits += ["transposed"] if "stride_n" in fixed else []
    traits += [f"no {name}" for name in absent]
    return AotCase(
        f"{kernel.__name__.strip('_')}[{','.join(traits)}]",
        kernel,
        signature,
        constexprs,
        block.num_warps,
        block.num_stages,
        tuple(name for name, kind in signature.items() if kind[0] == "*" or name in aligned),
    )


def _kind(name: str, features: str) -> str:
    """Type of a kernel's argument."""
    if name in ("ids", "counts", "starts", "order", "offsets"):
        return "*i64"
    if name in ("gates", "grad_gates", "grad_bias"):
        return "*fp32"
    if name in ("x", "w", "b", "pre", "out", "a", "grad", "grad_pre") or name[:2] in ("w_", "b_"):
        return f"*{features}"
    return "i32"
