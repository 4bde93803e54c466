"""Multi-scale deformable attention on a GPU.

One program works for a block of queries, one head and one image, and holds ``(queries, D)`` sums in
registers. Samples are read where they are used: neither sampled values nor, from logits, softmax
and locations are ever stored. In the backward pass every program owns the gradients of its queries;
only that of value is shared, and added atomically in float32, or left to `segment_sum`.

Each kernel has two modes. Without reference points (``NUMBERS`` is 0) ``places`` are locations and
``scores`` weights; with them, of 2 or 4 numbers, they are offsets and logits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from swath.kernels.aot import AotCase
from swath.kernels.ops.ms_deform_attn import reference
from swath.kernels.ops.segment_sum.triton import segment_sum

FULL = 1024 * 32  # pairs of query and head that fill a GPU in blocks of 32
PAIRS = {"encoder": FULL, "decoder": FULL - 1}  # one of each kind, to compile


def config(pairs: int, channels: int, backward: bool) -> tuple[int, int, int]:
    """Block of queries, block of channels and number of warps.

    Blocks of 32 queries read best; where they would be too few to fill a GPU, as in decoders, a
    block is smaller. A thread holds 8 channels of a query, 128 bits in half precision, and 4 in the
    backward pass, where that many are added at once.

    Args:
        pairs: Queries times heads, in the whole batch.
        channels: D.
        backward: For which kernel.
    """
    block_d = max(8, triton.next_power_of_2(channels))
    elements = 1024 if pairs >= FULL else 256
    block_q = min(32, max(1, elements // block_d))
    return block_q, block_d, max(1, min(8, block_q * block_d // (128 if backward else 256)))


def forward(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """As the reference's."""
    return _launch_forward(value, shapes, starts, None, locations, weights)


def forward_from_logits(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """As the reference's."""
    return _launch_forward(value, shapes, starts, reference_points, offsets, logits)


def backward(
    grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference's."""
    grad_value, _, *grads = _launch_backward(
        grad, None, value, shapes, starts, None, locations, weights
    )
    if grad_value is None:
        grad_value = _sum_repeatably(grad, value, shapes, starts, locations, weights)
    return grad_value.to(value.dtype), grads[0], grads[1]


def backward_from_logits(
    grad: Tensor,
    out: Tensor,
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the reference's."""
    grad_value, grad_points, *grads = _launch_backward(
        grad, out, value, shapes, starts, reference_points, offsets, logits
    )
    if grad_value is None:
        composed = reference.compose(shapes, reference_points, offsets, logits)
        grad_value = _sum_repeatably(grad, value, shapes, starts, *composed)
    assert grad_points is not None
    return grad_value.to(value.dtype), grad_points.sum(2), grads[0], grads[1]


def _launch_forward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    points: Tensor | None,
    places: Tensor,
    scores: Tensor,
) -> Tensor:
    batch, _, heads, channels = value.shape
    queries, levels, samples = scores.shape[1], *scores.shape[3:]
    out = value.new_empty(batch, queries, heads * channels)
    if out.numel() == 0:
        return out
    value = value if value.stride(-1) == 1 else value.contiguous()
    block_q, block_d, warps = config(batch * queries * heads, channels, False)
    _forward[(triton.cdiv(queries, block_q) * heads * batch,)](
        value,
        shapes,
        starts,
        None if points is None else points.contiguous(),
        places.contiguous(),
        scores.contiguous(),
        out,
        queries,
        heads,
        *value.stride()[:3],
        LEVELS=levels,
        POINTS=samples,
        SAMPLES=triton.next_power_of_2(levels * samples),
        NUMBERS=0 if points is None else points.shape[-1],
        CHANNELS=channels,
        BLOCK_Q=block_q,
        BLOCK_D=block_d,
        num_warps=warps,
    )
    return out


def _launch_backward(
    grad: Tensor,
    out: Tensor | None,
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    points: Tensor | None,
    places: Tensor,
    scores: Tensor,
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients by value in float32, by points for each head, by places and by scores.

    That by value is None where it has to be repeatable.
    """
    batch, _, heads, channels = value.shape
    queries, levels, samples = scores.shape[1], *scores.shape[3:]
    numbers = 0 if points is None else points.shape[-1]
    repeatable = torch.are_deterministic_algorithms_enabled()
    grad_value = None if repeatable else value.new_zeros(value.shape, dtype=torch.float32)
    grad_points = (
        None if points is None else points.new_empty(batch, queries, heads, levels, numbers)
    )
    grad_places, grad_scores = places.new_zeros(places.shape), scores.new_zeros(scores.shape)
    if grad.numel() == 0:
        return grad_value, grad_points, grad_places, grad_scores
    value = value if value.stride(-1) == 1 else value.contiguous()
    block_q, block_d, warps = config(batch * queries * heads, channels, True)
    _backward[(triton.cdiv(queries, block_q) * heads * batch,)](
        grad.contiguous(),
        out,
        value,
        shapes,
        starts,
        None if points is None else points.contiguous(),
        places.contiguous(),
        scores.contiguous(),
        grad_value,
        grad_points,
        grad_places,
        grad_scores,
        queries,
        heads,
        value.shape[1],
        *value.stride()[:3],
        LEVELS=levels,
        POINTS=samples,
        SAMPLES=triton.next_power_of_2(levels * samples),
        NUMBERS=numbers,
        CHANNELS=channels,
        BLOCK_Q=block_q,
        BLOCK_D=block_d,
        num_warps=warps,
    )
    return grad_value, grad_points, grad_places, grad_scores


def _sum_repeatably(
    grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Gradient by value in a fixed order; takes 60 bytes for each corner of each sample."""
    batch, size, heads, channels = value.shape
    corners = reference.find_corners(shapes, starts, locations)
    taps = (corners.weights * weights[..., None]).where(corners.valid, 0)
    targets = reference.value_rows(corners.rows, size).where(corners.valid, -1)
    pairs = torch.arange(batch * locations.shape[1] * heads, device=value.device)
    sources = pairs.view(*taps.shape[:3], 1, 1, 1).expand_as(taps)
    total = segment_sum(
        grad.reshape(-1, channels),
        sources.flatten(),
        taps.flatten(),
        targets.flatten(),
        batch * size * heads,
    )
    return total.view(value.shape)


@triton.jit
def _program(queries, heads, BLOCK_Q: tl.constexpr):
    """Image, head, queries, and which of these exist."""
    blocks = tl.cdiv(queries, BLOCK_Q)
    pair = tl.program_id(0) // blocks
    query = tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    return (pair // heads).to(tl.int64), pair % heads, query, query < queries


@triton.jit
def _softmax(scores, row, here, COUNT: tl.constexpr, SAMPLES: tl.constexpr):
    """Largest logit of each row, and one over the sum of exponentials."""
    column = tl.arange(0, SAMPLES)[None, :]
    logits = tl.load(
        scores + row[:, None] * COUNT + column,
        mask=here[:, None] & (column < COUNT),
        other=float("-inf"),
    ).to(tl.float32)
    largest = tl.where(here, tl.max(logits, 1), 0.0)
    total = tl.sum(tl.exp(logits - largest[:, None]), 1)
    return largest, 1.0 / tl.where(here, total, 1.0)


@triton.jit
def _reference(points, row, here, AXIS: tl.constexpr, NUMBERS: tl.constexpr):
    """Centre and side of the reference along one axis; 0 where there is none."""
    centre = tl.zeros(row.shape, tl.float32)
    side = tl.zeros(row.shape, tl.float32)
    if NUMBERS > 0:
        centre = tl.load(points + row * NUMBERS + AXIS, mask=here, other=0.0)
    if NUMBERS == 4:
        side = tl.load(points + row * NUMBERS + 2 + AXIS, mask=here, other=0.0)
    return centre, side


@triton.jit
def _cell(place, centre, side, size, POINTS: tl.constexpr, NUMBERS: tl.constexpr):
    """Pixel before the sample, distance from it, and whether that pixel and the next one exist.

    The position ``coordinate * size + shift`` is rounded, perhaps up to the next pixel. The
    distance has one rounding only; it is negative then, which puts the sample back into its cell.
    """
    coordinate = place
    shift = tl.full(place.shape, -0.5, tl.float32)
    if NUMBERS == 2:
        coordinate = centre
        shift = place - 0.5
    if NUMBERS == 4:
        coordinate = centre + place * side * (0.5 / POINTS)
    size = tl.zeros(place.shape, tl.float32) + size
    position = tl.fma(coordinate, size, shift)
    near = (position >= -1.0) & (position < size)  # false for NaN
    low = tl.floor(tl.where(near, position, 0.0))
    distance = tl.where(near, tl.fma(coordinate, size, shift - low), 0.0)
    low = tl.where(distance < 0.0, low - 1.0, low)
    distance = tl.where(distance < 0.0, distance + 1.0, distance)
    return low.to(tl.int32), distance, near & (low >= 0.0), near & (low + 1.0 < size)


@triton.jit
def _slope(side, size, POINTS: tl.constexpr, NUMBERS: tl.constexpr):
    """Derivative of a position in pixels by its place."""
    slope = tl.zeros(side.shape, tl.float32) + size
    if NUMBERS == 2:
        slope = tl.full(side.shape, 1.0, tl.float32)
    if NUMBERS == 4:
        slope = size * side * (0.5 / POINTS)
    return slope


@triton.jit
def _forward(
    value,
    shapes,
    starts,
    points,
    places,
    scores,
    out,
    queries,
    heads,
    stride_b,
    stride_s,
    stride_h,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    SAMPLES: tl.constexpr,
    NUMBERS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    image, head, query, here = _program(queries, heads, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    known = channel < CHANNELS
    row = (image * queries + query) * heads + head
    value += image * stride_b + head.to(tl.int64) * stride_h
    if NUMBERS > 0:
        largest, scale = _softmax(scores, row, here, LEVELS * POINTS, SAMPLES)
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for level in tl.static_range(LEVELS):
        height = tl.load(shapes + 2 * level).to(tl.int32)
        width = tl.load(shapes + 2 * level + 1).to(tl.int32)
        start = tl.load(starts + level)
        point = (image * queries + query) * LEVELS + level
        centre_x, side_x = _reference(points, point, here, 0, NUMBERS)
        centre_y, side_y = _reference(points, point, here, 1, NUMBERS)
        for p in range(POINTS):
            item = (row * LEVELS + level) * POINTS + p
            place_x = tl.load(places + item * 2, mask=here, other=0.0).to(tl.float32)
            place_y = tl.load(places + item * 2 + 1, mask=here, other=0.0).to(tl.float32)
            weight = tl.load(scores + item, mask=here, other=0.0).to(tl.float32)
            if NUMBERS > 0:
                weight = tl.exp(weight - largest) * scale
            x, fx, left, right = _cell(place_x, centre_x, side_x, width, POINTS, NUMBERS)
            y, fy, top, bottom = _cell(place_y, centre_y, side_y, height, POINTS, NUMBERS)
            first = start + y * width + x
            for lower in tl.static_range(2):
                for later in tl.static_range(2):
                    valid = here & (right if later else left) & (bottom if lower else top)
                    pixel = first + (lower * width + later)
                    pixels = tl.load(
                        value + pixel[:, None] * stride_s + channel,
                        mask=valid[:, None] & known,
                        other=0.0,
                    )
                    tap = weight * (fx if later else 1.0 - fx) * (fy if lower else 1.0 - fy)
                    total += tl.where(valid, tap, 0.0)[:, None] * pixels.to(tl.float32)
    tl.store(
        out + row[:, None] * CHANNELS + channel,
        total.to(out.dtype.element_ty),
        mask=here[:, None] & known,
    )


@triton.jit
def _backward(
    grad,
    out,
    value,
    shapes,
    starts,
    points,
    places,
    scores,
    grad_value,
    grad_points,
    grad_places,
    grad_scores,
    queries,
    heads,
    size,
    stride_b,
    stride_s,
    stride_h,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    SAMPLES: tl.constexpr,
    NUMBERS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    image, head, query, here = _program(queries, heads, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    known = channel < CHANNELS
    row = (image * queries + query) * heads + head
    value += image * stride_b + head.to(tl.int64) * stride_h
    inside = here[:, None] & known
    g = tl.load(grad + row[:, None] * CHANNELS + channel, mask=inside, other=0.0).to(tl.float32)
    if NUMBERS > 0:
        largest, scale = _softmax(scores, row, here, LEVELS * POINTS, SAMPLES)
        results = tl.load(out + row[:, None] * CHANNELS + channel, mask=inside, other=0.0)
        mean = tl.sum(g * results.to(tl.float32), 1)  # of the weights' gradients, by the weights
    for level in tl.static_range(LEVELS):
        height = tl.load(shapes + 2 * level).to(tl.int32)
        width = tl.load(shapes + 2 * level + 1).to(tl.int32)
        start = tl.load(starts + level)
        point = (image * queries + query) * LEVELS + level
        centre_x, side_x = _reference(points, point, here, 0, NUMBERS)
        centre_y, side_y = _reference(points, point, here, 1, NUMBERS)
        sum_x = tl.zeros((BLOCK_Q,), tl.float32)
        sum_y = tl.zeros((BLOCK_Q,), tl.float32)
        sum_w = tl.zeros((BLOCK_Q,), tl.float32)
        sum_h = tl.zeros((BLOCK_Q,), tl.float32)
        for p in range(POINTS):
            item = (row * LEVELS + level) * POINTS + p
            place_x = tl.load(places + item * 2, mask=here, other=0.0).to(tl.float32)
            place_y = tl.load(places + item * 2 + 1, mask=here, other=0.0).to(tl.float32)
            weight = tl.load(scores + item, mask=here, other=0.0).to(tl.float32)
            if NUMBERS > 0:
                weight = tl.exp(weight - largest) * scale
            x, fx, left, right = _cell(place_x, centre_x, side_x, width, POINTS, NUMBERS)
            y, fy, top, bottom = _cell(place_y, centre_y, side_y, height, POINTS, NUMBERS)
            first = start + y * width + x
            grad_weight = tl.zeros((BLOCK_Q,), tl.float32)
            grad_x = tl.zeros((BLOCK_Q,), tl.float32)
            grad_y = tl.zeros((BLOCK_Q,), tl.float32)
            for lower in tl.static_range(2):
                for later in tl.static_range(2):
                    valid = here & (right if later else left) & (bottom if lower else top)
                    shown = valid[:, None] & known
                    pixel = first + (lower * width + later)
                    pixels = tl.load(
                        value + pixel[:, None] * stride_s + channel, mask=shown, other=0.0
                    )
                    along = tl.sum(g * pixels.to(tl.float32), 1)
                    weight_x = fx if later else 1.0 - fx
                    weight_y = fy if lower else 1.0 - fy
                    grad_weight += along * weight_x * weight_y
                    grad_x += along * weight_y * (2 * later - 1)
                    grad_y += along * weight_x * (2 * lower - 1)
                    if grad_value is not None:
                        target = ((image * size + pixel) * heads + head) * CHANNELS
                        tl.atomic_add(
                            grad_value + target[:, None] + channel,
                            (weight * weight_x * weight_y)[:, None] * g,
                            mask=shown,
                            sem="relaxed",
                        )
            near = (left | right) & (top | bottom)
            grad_x = tl.where(near, grad_x * weight, 0.0)
            grad_y = tl.where(near, grad_y * weight, 0.0)
            # a sample that touches no pixel may have a side or an offset that isn't finite
            slope_x = tl.where(near, _slope(side_x, width, POINTS, NUMBERS), 0.0)
            slope_y = tl.where(near, _slope(side_y, height, POINTS, NUMBERS), 0.0)
            kind = grad_places.dtype.element_ty
            tl.store(grad_places + item * 2, (grad_x * slope_x).to(kind), mask=here)
            tl.store(grad_places + item * 2 + 1, (grad_y * slope_y).to(kind), mask=here)
            if NUMBERS > 0:
                grad_weight = weight * (grad_weight - mean)
                sum_x += grad_x * width
                sum_y += grad_y * height
            if NUMBERS == 4:
                sum_w += grad_x * width * tl.where(near, place_x, 0.0) * (0.5 / POINTS)
                sum_h += grad_y * height * tl.where(near, place_y, 0.0) * (0.5 / POINTS)
            tl.store(grad_scores + item, grad_weight.to(grad_scores.dtype.element_ty), mask=here)
        if NUMBERS > 0:
            sums = grad_points + (row * LEVELS + level) * NUMBERS
            tl.store(sums, sum_x, mask=here)
            tl.store(sums + 1, sum_y, mask=here)
            if NUMBERS == 4:
                tl.store(sums + 2, sum_w, mask=here)
                tl.store(sums + 3, sum_h, mask=here)


def aot_cases() -> list[AotCase]:
    """Both kernels in both modes, for RSCoTr's heads and for narrow and wide ones."""
    common = [(size, 32, dtype) for size in PAIRS for dtype in ("fp32", "bf16", "fp16")]
    wide = [("encoder", channels, "bf16") for channels in (8, 16, 64, 128, 256)]
    directions = (False, True)
    return [
        *(_case(back, *case, 0) for back in directions for case in (*common, *wide)),
        *(
            _case(back, size, 32, "bf16", numbers)
            for back in directions
            for numbers in (2, 4)
            for size in PAIRS
        ),
        _case(True, "encoder", 32, "bf16", 0, repeatable=True),
    ]


def _case(
    backward: bool,
    size: str,
    channels: int,
    dtype: str,
    numbers: int,
    repeatable: bool = False,
) -> AotCase:
    absent: dict[str, None] = {} if numbers else {"points": None}
    types = {
        "value": f"*{dtype}",
        "shapes": "*i64",
        "starts": "*i64",
        "points": "*fp32",
        "places": "*fp32",
        "scores": "*fp32",
    }
    numbers_type = {"queries": "i32", "heads": "i32"}
    strides = dict.fromkeys(("stride_b", "stride_s", "stride_h"), "i32")
    if backward:
        if not numbers:
            absent |= {"out": None, "grad_points": None}
        if repeatable:
            absent |= {"grad_value": None}
        grads = dict.fromkeys(("grad_value", "grad_points", "grad_places", "grad_scores"), "*fp32")
        types = {"grad": f"*{dtype}", "out": f"*{dtype}", **types, **grads}
        numbers_type |= {"size": "i32"}
    else:
        types["out"] = f"*{dtype}"
    signature = {k: v for k, v in (types | numbers_type | strides).items() if k not in absent}
    block_q, block_d, warps = config(PAIRS[size], channels, backward)
    mode = f"-{numbers}d-logits" if numbers else ""
    name = f"{'backward' if backward else 'forward'}-{size}-{dtype}-d{channels}{mode}"
    return AotCase(
        name + ("-repeatable" if repeatable else ""),
        _backward if backward else _forward,
        signature,
        {
            **absent,
            "LEVELS": 4,
            "POINTS": 4,
            "SAMPLES": 16,
            "NUMBERS": numbers,
            "CHANNELS": channels,
            "BLOCK_Q": block_q,
            "BLOCK_D": block_d,
        },
        num_warps=warps,
        divisible=tuple(k for k in signature if k not in ("queries", "heads", "size")),
    )
