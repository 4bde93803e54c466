"""Cost volume on the GPU.

A program takes a tile of positions, numbered in the orientation of their own map, and one of rows
of the text (class x template). Turning is an index map on the side of the volume, of which there
are fewer channels than of the features. A launch serves up to four directions.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from swath.kernels.aot import AotCase
from swath.kernels.dots import TYPE_NAMES, dot_options

GROUP = 4  # directions of a launch
PROGRAMS = 264  # that fill a GPU: twice the multiprocessors of an H100


class Tiles(NamedTuple):
    """Block sizes of rows (class x template), positions and channels, and how they are run."""

    rows: int
    positions: int
    channels: int
    num_warps: int
    num_stages: int = 3


def tiles(rows: int, dtype: torch.dtype) -> Tiles:
    """Blocks for a number of text rows: few are bound by memory, many by compute."""
    block = min(max(32, triton.next_power_of_2(rows)), 64)
    if dtype == torch.float32:
        return Tiles(block, 32, 32, 8)
    if rows > 1024:
        return Tiles(128, 64, 64, 8)
    return Tiles(block, 64, 64, 8 if block == 64 else 4)


def forward(
    feats: list[Tensor], text: Tensor, rotations: list[int], eps: float, images: bool
) -> tuple[Tensor, Tensor]:
    """See the reference."""
    feats, strides = _flat(feats)
    text = text.contiguous()
    batch, channels, *size = feats[0].shape
    height, width = size if rotations[0] % 2 == 0 else reversed(size)
    _, classes, templates, _ = text.shape
    axes = (classes, len(feats), templates) if images else (len(feats), templates, classes)
    corr = text.new_empty((batch, *axes, height, width))
    norms = text.new_empty((len(feats), batch, height * width), dtype=torch.float32)
    block = tiles(classes * templates, text.dtype)
    # one tile of rows at least: the norms are wanted even if there are no classes
    row_tiles = max(1, triton.cdiv(classes * templates, block.rows))
    programs = batch * row_tiles * triton.cdiv(height * width, block.positions)
    for first, group, turns in _groups(feats, rotations) if programs else ():
        _forward_kernel[programs, len(rotations[first : first + GROUP])](
            *group,
            text,
            corr,
            norms,
            first,
            turns,
            row_tiles,
            channels,
            height,
            width,
            classes,
            templates,
            *strides,
            _batch_stride(text),
            *_volume_strides(corr, images),
            eps,
            **_options(block, text.dtype),
        )
    return corr, norms


def backward(
    grad: Tensor,
    corr: Tensor,
    norms: Tensor,
    feats: list[Tensor],
    text: Tensor,
    rotations: list[int],
    eps: float,
    images: bool,
    want_text: bool,
) -> list[Tensor]:
    """See the reference."""
    grads = [feat.new_empty(feat.shape) for feat in feats]
    feats, strides = _flat(feats)
    text, grad = text.contiguous(), grad.contiguous()
    batch, channels, height, width = grads[0].shape
    if rotations[0] % 2:
        height, width = width, height
    _, classes, templates, _ = text.shape
    block = tiles(classes * templates, text.dtype)
    position_tiles = triton.cdiv(height * width, block.positions)
    channel_tiles = triton.cdiv(channels, block.channels)
    row_tiles = triton.cdiv(classes * templates, block.rows)
    sizes = (channels, height, width, classes, templates)
    volume, options = _volume_strides(grad, images), _options(block, text.dtype)
    along = torch.empty_like(norms)
    # (slices of the batch, T * P, C): each program adds up its slice, torch adds up the slices
    slices = min(batch, triton.cdiv(PROGRAMS, max(1, row_tiles * channel_tiles)))
    slices = batch if text.shape[0] > 1 else slices
    per_slice = triton.cdiv(batch, max(1, slices))
    partial = text.new_zeros((slices, *text.shape[1:]), dtype=torch.float32)
    for first, group, turns in _groups(feats, rotations) if batch * position_tiles else ():
        count = len(rotations[first : first + GROUP])
        _along_kernel[batch * position_tiles, count](
            grad, corr, along, first, turns, batch, *sizes[1:], *volume,
            BLOCK_ROWS=block.rows, BLOCK_POSITIONS=block.positions,
        )  # fmt: skip
        _map_gradient_kernel[batch * channel_tiles * position_tiles, count](
            *group, *_four(grads[first : first + GROUP]), text, grad, norms, along, first, turns,
            *sizes, *strides, _batch_stride(text), *volume, eps, **options,
        )  # fmt: skip
        if want_text and row_tiles * channel_tiles:
            _text_gradient_kernel[row_tiles * channel_tiles, slices](
                *group, grad, norms, partial, first, count, turns, batch, per_slice,
                *sizes, *strides, *volume, eps, **options,
            )  # fmt: skip
    if not want_text:
        return [*grads, text.new_empty(0)]
    return [*grads, partial.sum_to_size(text.shape).to(text.dtype)]


def aot_cases() -> list[AotCase]:
    """Every kernel in every configuration that `tiles` can choose, for both layouts of features."""
    cases = []
    for dtype in (torch.bfloat16, torch.float32):  # float16 is bfloat16's code with another type
        for block in sorted({tiles(rows, dtype) for rows in (32, 64, 2048)}):
            cases.append(_aot_case(_along_kernel, block, dtype, ""))
            cases += [
                _aot_case(kernel, block, dtype, unit_stride)
                for kernel in (_forward_kernel, _map_gradient_kernel, _text_gradient_kernel)
                for unit_stride in ("feat_stride_p", "feat_stride_c")
            ]
    return cases


@triton.jit
def _forward_kernel(
    feat0, feat1, feat2, feat3,
    text, corr, norms,
    first_direction, turns, row_tiles,
    channels, height, width, classes, templates,
    feat_stride_b, feat_stride_c, feat_stride_p, text_stride_b,
    stride_b, stride_n, stride_p, stride_t,
    eps,
    BLOCK_ROWS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Dot products and norms of a tile in one pass over the channels; divides at the end."""
    n = tl.program_id(1)
    feat = _pick(feat0, feat1, feat2, feat3, n)
    positions = height * width
    position_tiles = tl.cdiv(positions, BLOCK_POSITIONS)
    tile = tl.program_id(0)
    position = (tile % position_tiles) * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    row_tile = tile // position_tiles % row_tiles
    row = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    image = (tile // (position_tiles * row_tiles)).to(tl.int64)
    row_ok, position_ok = row < classes * templates, position < positions

    # bases are 64-bit scalars, offsets within a tile 32-bit
    feat += image * feat_stride_b
    text += image * text_stride_b + row_tile.to(tl.int64) * BLOCK_ROWS * channels
    in_text = (row - row_tile * BLOCK_ROWS)[:, None] * channels
    dots = tl.zeros((BLOCK_ROWS, BLOCK_POSITIONS), tl.float32)
    squares = tl.zeros((BLOCK_POSITIONS,), tl.float32)
    for start in range(0, channels, BLOCK_CHANNELS):
        channel = tl.arange(0, BLOCK_CHANNELS)
        channel_ok = channel < channels - start
        t = tl.load(
            text + in_text + channel[None, :],
            mask=row_ok[:, None] & channel_ok[None, :],
            other=0.0,
        )
        f = tl.load(
            feat + channel[:, None] * feat_stride_c + position[None, :] * feat_stride_p,
            mask=channel_ok[:, None] & position_ok[None, :],
            other=0.0,
        )  # fmt: skip
        if UPCAST:
            t, f = t.to(tl.float32), f.to(tl.float32)
        dots = tl.dot(t, f, dots, input_precision=PRECISION)
        wide = f.to(tl.float32)
        squares += tl.sum(wide * wide, 0)
        feat += BLOCK_CHANNELS * feat_stride_c
        text += BLOCK_CHANNELS
    norm = tl.sqrt(squares)
    dots = dots / tl.maximum(norm, eps, propagate_nan=tl.PropagateNan.ALL)[None, :]

    direction = first_direction + n
    turned = _turned_back(position, _turns_of(turns, n), height, width)
    corr += image * stride_b + direction.to(tl.int64) * stride_n
    target = corr + _row_offset(row, templates, stride_t, stride_p)[:, None] + turned[None, :]
    tl.store(target, dots.to(corr.dtype.element_ty), mask=row_ok[:, None] & position_ok[None, :])
    if row_tile == 0:
        batch = tl.num_programs(0) // (position_tiles * row_tiles)
        norms += (direction.to(tl.int64) * batch + image) * positions
        tl.store(norms + position, norm, mask=position_ok)


@triton.jit
def _along_kernel(
    grad, corr, along,
    first_direction, turns, batch,
    height, width, classes, templates,
    stride_b, stride_n, stride_p, stride_t,
    BLOCK_ROWS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr,
):  # fmt: skip
    """The gradient along each unit feature: the sum over rows of grad * corr."""
    n = tl.program_id(1)
    positions = height * width
    position_tiles = tl.cdiv(positions, BLOCK_POSITIONS)
    position = (tl.program_id(0) % position_tiles) * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    position_ok = position < positions
    image = (tl.program_id(0) // position_tiles).to(tl.int64)
    direction = (first_direction + n).to(tl.int64)
    turned = _turned_back(position, _turns_of(turns, n), height, width)
    volume = image * stride_b + direction * stride_n
    total = tl.zeros((BLOCK_POSITIONS,), tl.float32)
    for start in range(0, classes * templates, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        offset = volume + _row_offset(row, templates, stride_t, stride_p)[:, None] + turned[None, :]
        ok = (row < classes * templates)[:, None] & position_ok[None, :]
        g = tl.load(grad + offset, mask=ok, other=0.0).to(tl.float32)
        c = tl.load(corr + offset, mask=ok, other=0.0).to(tl.float32)
        total += tl.sum(g * c, 0)
    tl.store(along + (direction * batch + image) * positions + position, total, mask=position_ok)


@triton.jit
def _map_gradient_kernel(
    feat0, feat1, feat2, feat3,
    out0, out1, out2, out3,
    text, grad, norms, along,
    first_direction, turns,
    channels, height, width, classes, templates,
    feat_stride_b, feat_stride_c, feat_stride_p, text_stride_b,
    stride_b, stride_n, stride_p, stride_t,
    eps,
    BLOCK_ROWS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile (channels, positions) of one map, with that of the norm."""
    n = tl.program_id(1)
    feat = _pick(feat0, feat1, feat2, feat3, n)
    out = _pick(out0, out1, out2, out3, n)
    positions = height * width
    position_tiles = tl.cdiv(positions, BLOCK_POSITIONS)
    channel_tiles = tl.cdiv(channels, BLOCK_CHANNELS)
    tile = tl.program_id(0)
    position = (tile % position_tiles) * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    channel_tile = tile // position_tiles % channel_tiles
    first_channel = (channel_tile * BLOCK_CHANNELS).to(tl.int64)
    channel = tl.arange(0, BLOCK_CHANNELS)
    image = (tile // (position_tiles * channel_tiles)).to(tl.int64)
    channel_ok, position_ok = channel < channels - first_channel, position < positions

    direction = (first_direction + n).to(tl.int64)
    turned = _turned_back(position, _turns_of(turns, n), height, width)
    grad += image * stride_b + direction * stride_n
    text += image * text_stride_b + first_channel
    total = tl.zeros((BLOCK_CHANNELS, BLOCK_POSITIONS), tl.float32)
    for start in range(0, classes * templates, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        row_ok = row < classes * templates
        t = tl.load(
            text + tl.arange(0, BLOCK_ROWS)[None, :] * channels + channel[:, None],
            mask=row_ok[None, :] & channel_ok[:, None],
            other=0.0,
        )  # fmt: skip
        g = tl.load(
            grad + _row_offset(row, templates, stride_t, stride_p)[:, None] + turned[None, :],
            mask=row_ok[:, None] & position_ok[None, :],
            other=0.0,
        )
        if UPCAST:
            t, g = t.to(tl.float32), g.to(tl.float32)
        total = tl.dot(t, g, total, input_precision=PRECISION)
        text += BLOCK_ROWS * channels

    per_position = direction * (tl.num_programs(0) // (position_tiles * channel_tiles)) + image
    per_position = per_position * positions + position
    norm = tl.load(norms + per_position, mask=position_ok, other=1.0)
    radial = tl.load(along + per_position, mask=position_ok, other=0.0)
    inverse = 1 / tl.maximum(norm, eps, propagate_nan=tl.PropagateNan.ALL)
    radial = tl.where(norm > eps, radial * inverse * inverse, 0.0)
    ok = channel_ok[:, None] & position_ok[None, :]
    feat += image * feat_stride_b + first_channel * feat_stride_c
    source = channel[:, None] * feat_stride_c + position[None, :] * feat_stride_p
    f = tl.load(feat + source, mask=ok, other=0.0)
    total = total * inverse[None, :] - f.to(tl.float32) * radial[None, :]
    out += (image * channels + first_channel) * positions
    target = out + channel[:, None] * positions + position[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=ok)


@triton.jit
def _text_gradient_kernel(
    feat0, feat1, feat2, feat3,
    grad, norms, partial,
    first_direction, directions, turns, batch, per_slice,
    channels, height, width, classes, templates,
    feat_stride_b, feat_stride_c, feat_stride_p,
    stride_b, stride_n, stride_p, stride_t,
    eps,
    BLOCK_ROWS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Add a tile (rows, channels) of the text's gradient over a slice of the batch."""
    channel_tiles = tl.cdiv(channels, BLOCK_CHANNELS)
    tile = tl.program_id(0)
    row = (tile // channel_tiles) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first_channel = (tile % channel_tiles * BLOCK_CHANNELS).to(tl.int64)
    channel = tl.arange(0, BLOCK_CHANNELS)
    row_ok, channel_ok = row < classes * templates, channel < channels - first_channel
    positions = height * width
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    first = tl.program_id(1) * per_slice
    for pair in range(first * directions, min(first + per_slice, batch) * directions):
        image, n = (pair // directions).to(tl.int64), pair % directions
        direction = (first_direction + n).to(tl.int64)
        feat = _pick(feat0, feat1, feat2, feat3, n)
        feat += image * feat_stride_b + first_channel * feat_stride_c
        volume = grad + image * stride_b + direction * stride_n
        rows = volume + _row_offset(row, templates, stride_t, stride_p)[:, None]
        for start in range(0, positions, BLOCK_POSITIONS):
            position = start + tl.arange(0, BLOCK_POSITIONS)
            position_ok = position < positions
            turned = _turned_back(position, _turns_of(turns, n), height, width)
            norm = tl.load(
                norms + (direction * batch + image) * positions + position,
                mask=position_ok,
                other=1.0,
            )
            g = tl.load(
                rows + turned[None, :], mask=row_ok[:, None] & position_ok[None, :], other=0.0
            )
            f = tl.load(
                feat + channel[None, :] * feat_stride_c + position[:, None] * feat_stride_p,
                mask=channel_ok[None, :] & position_ok[:, None],
                other=0.0,
            )
            # the feature is divided, not the gradient: 1 / eps would overflow half precision
            inverse = 1 / tl.maximum(norm, eps, propagate_nan=tl.PropagateNan.ALL)
            unit = (f.to(tl.float32) * inverse[:, None]).to(f.dtype)
            if UPCAST:
                g, unit = g.to(tl.float32), unit.to(tl.float32)
            total = tl.dot(g, unit, total, input_precision=PRECISION)
    partial += tl.program_id(1).to(tl.int64) * classes * templates * channels
    partial += first_channel
    target = partial + row[:, None].to(tl.int64) * channels + channel[None, :]
    ok = row_ok[:, None] & channel_ok[None, :]
    # launches of further directions add to the first
    tl.store(target, tl.load(target, mask=ok, other=0.0) + total, mask=ok)


@triton.jit
def _pick(first, second, third, fourth, n):
    chosen = first
    if n == 1:
        chosen = second
    if n == 2:
        chosen = third
    if n == 3:
        chosen = fourth
    return chosen


@triton.jit
def _turns_of(turns, n):
    """Quarter turns of direction n, two bits each."""
    return (turns >> (2 * n)) & 3


@triton.jit
def _turned_back(position, turns, height, width):
    """Where positions of a map that is ``turns`` quarters ahead lie in the upright map."""
    own_width = tl.where(turns % 2 == 1, height, width)
    a, b = position // own_width, position % own_width
    y = tl.where(turns % 2 == 1, b, a)
    x = tl.where(turns % 2 == 1, a, b)
    y = tl.where(turns >= 2, height - 1 - y, y)
    x = tl.where((turns == 1) | (turns == 2), width - 1 - x, x)
    return y * width + x


@triton.jit
def _row_offset(row, templates, stride_t, stride_p):
    return (row // templates).to(tl.int64) * stride_t + (row % templates).to(tl.int64) * stride_p


def _flat(feats: list[Tensor]) -> tuple[list[Tensor], tuple[int, int, int]]:
    """Maps with common strides of (image, channel, position); copied only where they have none."""

    def strides(feat: Tensor) -> tuple[int, int, int] | None:
        over_rows = feat.stride(2) == feat.stride(3) * feat.shape[3]
        return (feat.stride(0), feat.stride(1), feat.stride(3)) if over_rows else None

    if len({strides(feat) for feat in feats}) > 1 or strides(feats[0]) is None:
        feats = [feat.contiguous() for feat in feats]
    image, channel, position = feats[0].stride()[0], feats[0].stride(1), feats[0].stride(3)
    return feats, (image, channel, position)


def _groups(feats: list[Tensor], rotations: list[int]) -> list[tuple[int, tuple[Tensor, ...], int]]:
    """First direction, four maps (the last repeated) and packed quarter turns of each launch."""
    groups = []
    for first in range(0, len(feats), GROUP):
        turns = rotations[first : first + GROUP]
        packed = sum(quarters << (2 * n) for n, quarters in enumerate(turns))
        groups.append((first, _four(feats[first : first + GROUP]), packed))
    return groups


def _four(maps: list[Tensor]) -> tuple[Tensor, ...]:
    return (*maps, *[maps[-1]] * (GROUP - len(maps)))


def _batch_stride(text: Tensor) -> int:
    return text.stride(0) if text.shape[0] > 1 else 0


def _volume_strides(volume: Tensor, images: bool) -> tuple[int, ...]:
    """Strides of (image, direction, template, class) in a contiguous volume."""
    order = (0, 2, 3, 1) if images else (0, 1, 2, 3)
    return tuple(volume.stride(axis) for axis in order)


def _options(block: Tiles, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "BLOCK_ROWS": block.rows,
        "BLOCK_POSITIONS": block.positions,
        "BLOCK_CHANNELS": block.channels,
        "num_warps": block.num_warps,
        "num_stages": block.num_stages,
        **dot_options(dtype),
    }


def _aot_case(kernel: Any, block: Tiles, dtype: torch.dtype, unit_stride: str) -> AotCase:
    options = _options(block, dtype)
    # the launcher makes strides of one constants
    constexprs = {
        name: options.get(name, 1)
        for name in kernel.arg_names
        if name in options or name == unit_stride
    }
    kinds = dict.fromkeys(kernel.arg_names, "i32")
    kinds["eps"] = "fp32"
    for name in kernel.arg_names:
        if name.rstrip("0123") in ("feat", "out", "text", "corr", "grad"):
            kinds[name] = f"*{TYPE_NAMES[dtype]}"
        elif name in ("norms", "along", "partial"):
            kinds[name] = "*fp32"
    signature = {k: v for k, v in kinds.items() if k in kernel.arg_names and k not in constexprs}
    layout = "nchw" if unit_stride == "feat_stride_p" else "nhwc"
    return AotCase(
        name=f"{kernel.__name__.strip('_')}[{TYPE_NAMES[dtype]},{layout},"
        f"{block.rows}x{block.positions}x{block.channels}]",
        kernel=kernel,
        signature=signature,
        constexprs=constexprs,
        num_warps=block.num_warps,
        num_stages=block.num_stages,
        divisible=tuple(
            name
            for name, kind in signature.items()
            if kind.startswith("*") or name == "channels" or name.startswith("feat_stride")
        ),
    )
