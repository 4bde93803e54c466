"""RoIAlign for rotated boxes on a GPU.

One program works for one box, a block of its bins and a block of channels: a sample's place is
computed once for all channels of the block, and channels lie next to each other in memory. All
levels of a pyramid are read in one launch, through a table of their addresses. Gradients are added
atomically in float32, or left to `segment_sum` where they have to be repeatable.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from swath.kernels.aot import AotCase
from swath.kernels.ops.roi_align_rotated.reference import Grid, find_taps
from swath.kernels.ops.segment_sum.triton import segment_sum

COLUMNS = 4  # of the table of levels: address, N, H, W


def config(bins: int, channels: int, backward: bool) -> tuple[int, int, int]:
    """Block of bins, block of channels and number of warps.

    A thread holds 8 channels of a bin, 128 bits in half precision, and 4 in the backward pass,
    where that many are added at once.

    Args:
        bins: Of a box.
        channels: C.
        backward: For which kernel.
    """
    block_c = min(64, max(8, triton.next_power_of_2(channels)))
    block_b = min(16, triton.next_power_of_2(bins))
    return block_b, block_c, max(1, block_b * block_c // (128 if backward else 256))


def forward(
    features: list[Tensor], rois: Tensor, levels: Tensor, scales: list[float], grid: Grid
) -> Tensor:
    """As the reference's; features with channels last are read in place, others copied."""
    channels = features[0].shape[1]
    out = features[0].new_empty(len(rois), channels, grid.height, grid.width)
    if out.numel() == 0:
        return out
    pixels = [x.permute(0, 2, 3, 1).contiguous() for x in features]
    _launch(_forward, out, pixels, rois, levels, scales, grid)
    return out


def backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    scales: list[float],
    sizes: list[tuple[int, int, int]],
    grid: Grid,
) -> list[Tensor]:
    """As the reference's."""
    shapes = [(*size, grad.shape[1]) for size in sizes]
    if torch.are_deterministic_algorithms_enabled():
        totals = _sum_repeatably(grad, rois, levels, scales, sizes, grid)
    else:
        totals = [grad.new_zeros(shape, dtype=torch.float32) for shape in shapes]
        if grad.numel() > 0:
            _launch(_backward, grad.contiguous(), totals, rois, levels, scales, grid)
    return [
        total.view(shape).to(grad.dtype).permute(0, 3, 1, 2)
        for total, shape in zip(totals, shapes, strict=True)
    ]


def _launch(
    kernel: object,
    bins: Tensor,
    pixels: list[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: list[float],
    grid: Grid,
) -> None:
    """Start a kernel on bins ``(R, C, height, width)`` and each level's pixels ``(N, H, W, C)``."""
    rows = [(x.data_ptr(), *x.shape[:3]) for x in pixels]
    table = torch.tensor(rows, dtype=torch.int64).to(bins.device, non_blocking=True)
    scale = torch.tensor(scales, dtype=torch.float32).to(bins.device, non_blocking=True)
    channels = bins.shape[1]
    block_b, block_c, warps = config(grid.bins, channels, kernel is _backward)
    programs = len(rois) * triton.cdiv(grid.bins, block_b) * triton.cdiv(channels, block_c)
    kernel[(programs,)](  # type: ignore[index]
        bins,
        table,
        scale,
        rois.contiguous(),
        levels.contiguous(),
        channels,
        grid.height,
        grid.width,
        RATIO=max(0, grid.sampling_ratio),
        ALIGNED=grid.aligned,
        CLOCKWISE=grid.clockwise,
        VECTOR=all(x.data_ptr() % 16 == 0 for x in pixels),
        BLOCK_B=block_b,
        BLOCK_C=block_c,
        num_warps=warps,
    )


def _sum_repeatably(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    scales: list[float],
    sizes: list[tuple[int, int, int]],
    grid: Grid,
) -> list[Tensor]:
    """Gradients in a fixed order; takes 60 bytes for each corner of each sample."""
    channels = grad.shape[1]
    totals = []
    for level, ((images, height, width), scale) in enumerate(zip(sizes, scales, strict=True)):
        chosen = (levels == level).nonzero()[:, 0]
        taps = find_taps(rois[chosen], images, height, width, scale, grid)
        source = grad[chosen].flatten(2).transpose(1, 2).reshape(-1, channels)
        totals.append(
            segment_sum(
                source,
                taps.bins[:, None].expand(-1, 4).flatten(),
                taps.weights.flatten(),
                taps.rows.flatten(),
                images * height * width,
            )
        )
    return totals


@triton.jit
def _neighbours(position, size):
    """The pixels on both sides and the share of the second; beyond the border, the border twice."""
    position = tl.maximum(position, 0.0)
    low = tl.minimum(tl.floor(position), size - 1.0)
    share = tl.where(low < size - 1.0, position - low, 0.0)
    return low.to(tl.int64), tl.minimum(low + 1.0, size - 1.0).to(tl.int64), share


@triton.jit
def _program(channels, height, width, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr):
    """Box, bins and channels of this program."""
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    bin_blocks = tl.cdiv(height * width, BLOCK_B)
    block = tl.program_id(0) // channel_blocks
    channel = tl.program_id(0) % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    item = block % bin_blocks * BLOCK_B + tl.arange(0, BLOCK_B)
    return (block // bin_blocks).to(tl.int64), item, channel


@triton.jit
def _box(
    table,
    scales,
    rois,
    levels,
    box,
    height,
    width,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    CLOCKWISE: tl.constexpr,
):
    """Row of the table of levels, image, samples per bin along h and w, and the box's place.

    No samples for a box that isn't finite, has a negative side or lies in no image.
    """
    level = tl.load(levels + box)
    scale = tl.load(scales + level)
    row = table + level * 4
    images = tl.load(row + 1).to(tl.float32)
    image = tl.load(rois + box * 6)
    cx, cy = tl.load(rois + box * 6 + 1) * scale, tl.load(rois + box * 6 + 2) * scale
    w, h = tl.load(rois + box * 6 + 3) * scale, tl.load(rois + box * 6 + 4) * scale
    theta = tl.load(rois + box * 6 + 5)
    theta = -theta if CLOCKWISE else theta
    known = (image >= 0) & (image < images)
    tl.device_assert(known, "batch index of a roi is outside of the features")
    known = known & (tl.abs(cx + cy + w + h + theta) < float("inf"))
    if ALIGNED:
        cx, cy = cx - 0.5, cy - 0.5
        known = known & (w >= 0.0) & (h >= 0.0)
    else:
        w, h = tl.maximum(w, 1.0), tl.maximum(h, 1.0)
    if RATIO > 0:
        samples_y, samples_x = tl.where(known, RATIO, 0), tl.where(known, RATIO, 0)
    else:
        samples_y = tl.ceil(tl.where(known, h / height, 0.0)).to(tl.int32)
        samples_x = tl.ceil(tl.where(known, w / width, 0.0)).to(tl.int32)
    image = tl.where(known, image, 0.0).to(tl.int64)
    return row, image, samples_y, samples_x, (cx, cy, w, h, tl.cos(theta), tl.sin(theta))


@triton.jit
def _sample(item, sample_y, sample_x, samples_y, samples_x, height, width, place):
    """Position of one sample of each bin in the features."""
    cx, cy, w, h, cos, sin = place
    along_h = (item // width + (sample_y + 0.5) / samples_y) * (h / height) - h / 2
    along_w = (item % width + (sample_x + 0.5) / samples_x) * (w / width) - w / 2
    return along_h * cos - along_w * sin + cy, along_h * sin + along_w * cos + cx


@triton.jit
def _forward(
    bins,
    table,
    scales,
    rois,
    levels,
    channels,
    height,
    width,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    CLOCKWISE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    box, item, channel = _program(channels, height, width, BLOCK_B, BLOCK_C)
    row, image, samples_y, samples_x, place = _box(
        table, scales, rois, levels, box, height, width, RATIO, ALIGNED, CLOCKWISE
    )
    pixels = tl.load(row).to(tl.pointer_type(bins.dtype.element_ty))
    if VECTOR:
        pixels = tl.multiple_of(pixels, 16)
    lines, columns = tl.load(row + 2), tl.load(row + 3)
    known = (item < height * width)[:, None] & (channel < channels)[None, :]
    total = tl.zeros((BLOCK_B, BLOCK_C), tl.float32)
    for sample_y in range(samples_y):
        for sample_x in range(samples_x):
            y, x = _sample(item, sample_y, sample_x, samples_y, samples_x, height, width, place)
            near = (y >= -1.0) & (y <= lines) & (x >= -1.0) & (x <= columns)
            top, bottom, fy = _neighbours(y, lines.to(tl.float32))
            left, right, fx = _neighbours(x, columns.to(tl.float32))
            for lower in tl.static_range(2):
                for later in tl.static_range(2):
                    line = image * lines + (bottom if lower else top)
                    pixel = line * columns + (right if later else left)
                    tap = (fy if lower else 1.0 - fy) * (fx if later else 1.0 - fx)
                    values = tl.load(
                        pixels + (pixel * channels)[:, None] + channel[None, :],
                        mask=near[:, None] & known,
                        other=0.0,
                    )
                    total += tap[:, None] * values.to(tl.float32)
    total = total / tl.maximum(samples_y * samples_x, 1)
    first = (box * channels + channel) * (height * width)
    tl.store(bins + first[None, :] + item[:, None], total.to(bins.dtype.element_ty), mask=known)


@triton.jit
def _backward(
    bins,
    table,
    scales,
    rois,
    levels,
    channels,
    height,
    width,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    CLOCKWISE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    box, item, channel = _program(channels, height, width, BLOCK_B, BLOCK_C)
    row, image, samples_y, samples_x, place = _box(
        table, scales, rois, levels, box, height, width, RATIO, ALIGNED, CLOCKWISE
    )
    pixels = tl.load(row).to(tl.pointer_type(tl.float32))
    if VECTOR:
        pixels = tl.multiple_of(pixels, 16)
    lines, columns = tl.load(row + 2), tl.load(row + 3)
    known = (item < height * width)[:, None] & (channel < channels)[None, :]
    first = (box * channels + channel) * (height * width)
    grad = tl.load(bins + first[None, :] + item[:, None], mask=known, other=0.0).to(tl.float32)
    grad = grad / tl.maximum(samples_y * samples_x, 1)
    for sample_y in range(samples_y):
        for sample_x in range(samples_x):
            y, x = _sample(item, sample_y, sample_x, samples_y, samples_x, height, width, place)
            near = (y >= -1.0) & (y <= lines) & (x >= -1.0) & (x <= columns)
            top, bottom, fy = _neighbours(y, lines.to(tl.float32))
            left, right, fx = _neighbours(x, columns.to(tl.float32))
            for lower in tl.static_range(2):
                for later in tl.static_range(2):
                    line = image * lines + (bottom if lower else top)
                    pixel = line * columns + (right if later else left)
                    tap = (fy if lower else 1.0 - fy) * (fx if later else 1.0 - fx)
                    tl.atomic_add(
                        pixels + (pixel * channels)[:, None] + channel[None, :],
                        tap[:, None] * grad,
                        mask=near[:, None] & known,
                        sem="relaxed",
                    )


def aot_cases() -> list[AotCase]:
    """Both kernels for the heads of detectors and for the narrowest blocks."""
    cases = []
    for kernel, what in ((_forward, "forward"), (_backward, "backward")):
        for dtype, bins, channels, ratio in (
            ("fp32", 49, 256, 2),
            ("bf16", 49, 256, 2),
            ("fp16", 49, 256, 2),
            ("bf16", 49, 256, 0),
            ("bf16", 49, 32, 2),
            ("bf16", 1, 8, 2),
        ):
            block_b, block_c, warps = config(bins, channels, kernel is _backward)
            cases.append(
                AotCase(
                    f"{what}-{dtype}-b{block_b}-c{block_c}-{ratio or 'adaptive'}",
                    kernel,
                    {
                        "bins": f"*{dtype}",
                        "table": "*i64",
                        "scales": "*fp32",
                        "rois": "*fp32",
                        "levels": "*i64",
                        "channels": "i32",
                        "height": "i32",
                        "width": "i32",
                    },
                    {
                        "RATIO": ratio,
                        "ALIGNED": True,
                        "CLOCKWISE": True,
                        "VECTOR": True,
                        "BLOCK_B": block_b,
                        "BLOCK_C": block_c,
                    },
                    num_warps=warps,
                    divisible=("bins", "table", "scales", "rois", "levels", "channels"),
                )
            )
    return cases
