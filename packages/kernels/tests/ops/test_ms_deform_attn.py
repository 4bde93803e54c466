"""Deformable attention: recorded results, gradients, samples that touch nothing, bad input."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swath.kernels import ms_deform_attn, ms_deform_attn_from_logits
from swath.kernels.ops.ms_deform_attn.triton import _program

INPUTS = ("value", "sampling_locations", "attention_weights")
LEVELS = ((3, 4), (2, 2))


def inputs(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    queries: int = 5,
    levels: tuple[tuple[int, int], ...] = LEVELS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, locations and weights of 2 images, 2 heads of 6 channels, 3 points; all want grads."""
    generator = torch.Generator().manual_seed(queries)
    size = sum(h * w for h, w in levels)
    value = torch.randn(2, size, 2, 6, generator=generator)
    locations = torch.rand(2, queries, 2, len(levels), 3, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(2, queries, 2, len(levels), 3, generator=generator)
    geometry = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = (
        value.to(device, dtype),
        locations.to(device, geometry),
        weights.to(device, geometry),
    )
    for tensor in tensors:
        tensor.requires_grad_()
    return tensors


def from_grid_sample(
    value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
) -> Tensor:
    """The formulation by ``F.grid_sample``, as PyTorch fallbacks have it."""
    batch, _, heads, channels = value.shape
    levels = value.split([h * w for h, w in shapes], 1)
    total = torch.zeros((), dtype=value.dtype, device=value.device)
    for level, (height, width) in enumerate(shapes):
        pixels = levels[level].permute(0, 2, 3, 1).reshape(-1, channels, height, width)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        sampled = F.grid_sample(pixels, grid, align_corners=False)
        total = total + (
            sampled * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        ).sum(-1)
    return total.view(batch, heads * channels, -1).transpose(1, 2)


def encoder_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large blocks for few queries too, which spares the interpreter programs."""
    module = importlib.import_module("swath.kernels.ops.ms_deform_attn.triton")
    monkeypatch.setattr(module, "FULL", 0)


@pytest.mark.parity
def test_matches_all_recorded_cases(
    backend: str, device: torch.device, parity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "triton":
        encoder_blocks(monkeypatch)
    cases, tensors = parity("msda")
    unread = set(tensors)
    worst: dict[str, float] = {}
    for dtype in (torch.float32,) if backend == "triton" else (torch.float32, torch.float64):
        for case in cases:

            def read(name: str, case: Any = case, dtype: torch.dtype = dtype) -> Tensor:
                unread.discard(f"{case['name']}.{name}")
                return tensors[f"{case['name']}.{name}"].to(device, dtype)

            given = [read(name).requires_grad_() for name in INPUTS]
            shapes = case["spatial_shapes"]
            assert given[1].shape[:-1] == (
                case["B"], case["queries"], case["heads"], len(shapes), case["points"]
            )  # fmt: skip
            assert given[0].shape[-1] == case["head_dim"]
            out = ms_deform_attn(given[0], shapes, None, *given[1:])
            grads = torch.autograd.grad(out, given, read("grad_out"))
            for name, actual in zip(
                ("out", *(f"grad_{n}" for n in INPUTS)), (out, *grads), strict=True
            ):
                expected = read(name).double()
                assert actual.shape == expected.shape
                scale = expected.abs().max().item() if expected.numel() else 0.0
                error = (actual.double() - expected).abs().max().item() if expected.numel() else 0.0
                # the recorded gradients are rounded to float32
                wide = dtype == torch.float64
                limit = (1e-12 if wide else 1e-5) if name == "out" else (1e-6 if wide else 1e-4)
                assert error <= limit * scale, (case["name"], name, dtype, error, scale)
                if scale:
                    key = f"{dtype} {name}"
                    worst[key] = max(worst.get(key, 0.0), error / scale)
    assert not unread, f"nobody read {sorted(unread)}"
    print(backend, {key: f"{value:.1e}" for key, value in worst.items()})


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_equals_grid_sample(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWATH_KERNELS", name)
    given = inputs(dtype=torch.float64)
    expected = from_grid_sample(given[0], LEVELS, *given[1:])
    out = ms_deform_attn(given[0], LEVELS, None, *given[1:])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)
    for grads in zip(
        torch.autograd.grad(out.sum(), given),
        torch.autograd.grad(expected.sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(*grads, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("numbers", [0, 2, 4])
def test_gradients_are_those_of_finite_differences(
    name: str, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWATH_KERNELS", name)
    value, locations, weights = inputs(dtype=torch.float64, queries=2)
    if not numbers:
        arguments = (value, locations, weights)
        assert torch.autograd.gradcheck(
            lambda v, *a: ms_deform_attn(v, LEVELS, None, *a), arguments
        )
        return
    generator = torch.Generator().manual_seed(numbers)  # none near the borders between pixels
    points = torch.rand(2, 2, 2, numbers, generator=generator, dtype=torch.float64)
    points.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, *a: ms_deform_attn_from_logits(v, LEVELS, None, *a),
        (value, points, locations, weights),
    )


@pytest.mark.parametrize("numbers", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_give_what_softmax_and_locations_give(
    backend: str, device: torch.device, numbers: int, dtype: torch.dtype
) -> None:
    value, offsets, logits = inputs(device, dtype, queries=3)
    points = torch.rand(2, 3, 2, numbers, generator=torch.Generator().manual_seed(1))
    given = (value, points.to(device).requires_grad_(), offsets, logits)
    out = ms_deform_attn_from_logits(value, LEVELS, None, *given[1:])

    wide = [t.detach().double().cpu().requires_grad_() for t in given]
    sizes = torch.tensor(LEVELS).flip(-1)[:, None]
    centre = wide[1][:, :, None, :, None, :2]
    side = wide[1][:, :, None, :, None, 2:] / 2 / 3 if numbers == 4 else 1 / sizes
    weights = wide[3].flatten(-2).softmax(-1).view(logits.shape)
    expected = from_grid_sample(wide[0], LEVELS, centre + wide[2] * side, weights)

    unit = torch.finfo(dtype).eps
    tolerance = 4e-6 if dtype == torch.float32 else 2 * unit * expected.abs().max().item()
    torch.testing.assert_close(out.double().cpu(), expected, rtol=0, atol=tolerance)
    assert out.dtype == dtype
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    upstream = upstream.to(dtype)
    grads = torch.autograd.grad(out, given, upstream.to(device))
    for actual, right in zip(
        grads, torch.autograd.grad(expected, wide, upstream.double()), strict=True
    ):
        tolerance = max(1e-5, 4 * unit) * right.abs().max().item()
        torch.testing.assert_close(actual.double().cpu(), right, rtol=0, atol=tolerance)


def test_a_location_that_is_not_finite_contributes_nothing(
    backend: str, device: torch.device
) -> None:
    value, locations, weights = (t.detach() for t in inputs(device, queries=4))
    for query, bad in enumerate((float("nan"), float("inf"), float("-inf"), 1e6)):
        locations[:, query, :, 0, 1, query % 2] = bad
    without = weights.clone()
    without[:, :, :, 0, 1] = 0
    given = [t.requires_grad_() for t in (value, locations, weights)]
    out = ms_deform_attn(value, LEVELS, None, *given[1:])
    torch.testing.assert_close(out, ms_deform_attn(value, LEVELS, None, locations, without))
    for grad in torch.autograd.grad(out.sum(), given):
        assert grad.isfinite().all()
    grads = torch.autograd.grad(ms_deform_attn(value, LEVELS, None, *given[1:]).sum(), given[1:])
    assert not any(grad[:, :, :, 0, 1].any() for grad in grads)


@pytest.mark.parametrize("numbers", [2, 4])
def test_an_offset_that_is_not_finite_gets_no_gradient(
    backend: str, device: torch.device, numbers: int
) -> None:
    value, offsets, logits = inputs(device, queries=2)
    offsets.detach()[:, 0, :, 1, 2, 0] = float("inf")
    points = torch.full((2, 2, 2, numbers), 0.5, device=device)
    points[0, 1, 0, numbers - 1] = float("nan")
    points.requires_grad_()
    given = (value, points, offsets, logits)
    out = ms_deform_attn_from_logits(value, LEVELS, None, *given[1:])
    grads = torch.autograd.grad(out.sum(), given)
    assert out.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)
    assert not grads[2][:, 0, :, 1, 2].any()
    assert not grads[1][0, 1, 0].any()


def test_a_nan_pixel_stays_in_the_queries_that_read_it(backend: str, device: torch.device) -> None:
    value, locations, weights = (t.detach() for t in inputs(device))
    value[0, 0, 0] = float("nan")
    locations[:] = 0.9  # right and lower parts of the levels
    locations[0, 1, 0] = 0.1
    out = ms_deform_attn(value, LEVELS, None, locations, weights).view(2, -1, 2, 6)
    bad = torch.zeros(2, 5, 2, 6, dtype=torch.bool)
    bad[0, 1, 0] = True
    assert torch.equal(out.isnan().cpu(), bad)


def test_pixel_centres_belong_to_the_cell_on_the_right(backend: str, device: torch.device) -> None:
    value = torch.tensor([0.0, 1.0, 5.0, 6.0], device=device).view(1, 4, 1, 1)
    locations = torch.tensor([1.5 / 4, 0.5], device=device).view(1, 1, 1, 1, 1, 2).requires_grad_()
    out = ms_deform_attn(value, [(1, 4)], None, locations, torch.ones(1, 1, 1, 1, 1, device=device))
    assert out.item() == 1
    (grad,) = torch.autograd.grad(out.sum(), locations)
    assert grad.flatten().tolist() == [4 * (5 - 1), 1 * (0 - 1)]  # by (x, y); below lie zeros


@pytest.mark.parametrize("queries", [0, 1, 2])
def test_few_queries(backend: str, device: torch.device, queries: int) -> None:
    given = inputs(device, queries=queries)
    out = ms_deform_attn(given[0], LEVELS, None, *given[1:])
    assert out.shape == (2, queries, 12)
    grads = torch.autograd.grad(out.sum(), given)
    assert [g.shape for g in grads] == [t.shape for t in given]
    assert queries or not grads[0].any()


def test_an_empty_batch(backend: str, device: torch.device) -> None:
    given = [t.detach()[:0].requires_grad_() for t in inputs(device)]
    out = ms_deform_attn(given[0], LEVELS, None, *given[1:])
    assert out.shape == (0, 5, 12)
    out.sum().backward()


def test_layouts_and_types_of_the_levels_do_not_matter(backend: str, device: torch.device) -> None:
    value, locations, weights = (t.detach() for t in inputs(device))
    expected = ms_deform_attn(value, LEVELS, None, locations, weights)
    transposed = value.transpose(1, 2).contiguous().transpose(1, 2)
    spaced = torch.stack((value, value), -1)[..., 0]
    shapes, starts = torch.tensor(LEVELS, device=device), torch.tensor([0, 12], device=device)
    for other in (
        ms_deform_attn(transposed, LEVELS, None, locations, weights),
        ms_deform_attn(spaced, LEVELS, [0, 12], locations, weights),
        ms_deform_attn(value, shapes, starts, locations, weights),
        ms_deform_attn(value, shapes.int(), None, locations.flip(0).flip(0), weights),
        ms_deform_attn(
            value, LEVELS, None, locations.transpose(1, 2).contiguous().transpose(1, 2), weights
        ),
    ):
        torch.testing.assert_close(other, expected, rtol=0, atol=0)
    swapped = torch.cat((value[:, 12:], value[:, :12]), 1)  # levels in another order in memory
    other = ms_deform_attn(swapped, LEVELS, (4, 0), locations, weights)
    torch.testing.assert_close(other, expected, rtol=0, atol=0)


def test_triton_writes_nothing_beside_its_outputs(
    monkeypatch: pytest.MonkeyPatch, guarded: Callable[[], None]
) -> None:
    monkeypatch.setenv("SWATH_KERNELS", "triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = inputs(device, queries=3)
    points = torch.rand(2, 3, 2, 4, device=device, requires_grad=True)
    monkeypatch.setattr(Tensor, "new_zeros", lambda *a, **k: Tensor.new_empty(*a, **k).zero_())
    out = ms_deform_attn(given[0], LEVELS, None, *given[1:])
    out = out + ms_deform_attn_from_logits(given[0], LEVELS, None, points, *given[1:])
    out.sum().backward()
    guarded()


@triton.jit
def offset_of_image(out, queries, heads, stride, block: tl.constexpr):
    image, _, _, _ = _program(queries, heads, block)
    tl.store(out + tl.program_id(0), image * stride)


def test_offsets_of_images_pass_two_to_the_31() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = torch.zeros(3, dtype=torch.int64, device=device)
    offset_of_image[(3,)](out, 2, 1, 2**31 - 1, block=2)
    assert out.tolist() == [0, 2**31 - 1, 2**32 - 2]


def test_deterministic_mode_gives_the_same_gradients(backend: str, device: torch.device) -> None:
    given = inputs(device, queries=3)
    grads = torch.autograd.grad(ms_deform_attn(given[0], LEVELS, None, *given[1:]).sum(), given)
    torch.use_deterministic_algorithms(True)
    try:
        repeats = [
            torch.autograd.grad(ms_deform_attn(given[0], LEVELS, None, *given[1:]).sum(), given)
            for _ in range(2)
        ]
        points = torch.rand(2, 3, 2, 2, device=device, requires_grad=True)
        fused = ms_deform_attn_from_logits(given[0], LEVELS, None, points, *given[1:])
        fused.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    for grad, first, second in zip(grads, *repeats, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(grad, first)
    (expected,) = torch.autograd.grad(
        ms_deform_attn_from_logits(given[0], LEVELS, None, points, *given[1:]).sum(), given[0]
    )
    torch.testing.assert_close(given[0].grad, expected)


def test_half_precision_samples_at_float32_positions(backend: str, device: torch.device) -> None:
    value, locations, weights = (t.detach() for t in inputs(device, torch.bfloat16, queries=2))
    expected = ms_deform_attn(value.float(), LEVELS, None, locations, weights)
    out = ms_deform_attn(value, LEVELS, None, locations, weights)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=2**-7, atol=1e-6)


def test_operators_are_registered_well() -> None:
    value, locations, weights = inputs(queries=2)
    shapes, starts = torch.tensor(LEVELS), torch.tensor([0, 12])
    points = torch.rand(2, 2, 2, 4, requires_grad=True)
    torch.library.opcheck(
        torch.ops.swath.ms_deform_attn.default, (value, shapes, starts, locations, weights)
    )
    torch.library.opcheck(
        torch.ops.swath.ms_deform_attn_from_logits.default,
        (value, shapes, starts, points, locations, weights),
    )


def test_compiles_whole_with_dynamic_shapes() -> None:
    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        height = value.shape[1] // 4
        shapes = [(height, 4)]
        points = locations[:, :, 0, :, 0]
        return ms_deform_attn(value, shapes, None, locations, weights) + ms_deform_attn_from_logits(
            value, shapes, None, points, locations, weights
        )

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend="aot_eager")
    for queries, levels in ((3, ((2, 4),)), (6, ((5, 4),))):
        given = inputs(queries=queries, levels=levels)
        out, expected = compiled(*given), attend(*given)
        torch.testing.assert_close(out, expected)
        for pair in zip(
            torch.autograd.grad(out.square().sum(), given),
            torch.autograd.grad(expected.square().sum(), given),
            strict=True,
        ):
            torch.testing.assert_close(*pair)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    levels=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    queries=st.integers(1, 4),
)
def test_weights_that_sum_to_one_keep_constants(
    seed: int, levels: list[tuple[int, int]], queries: int
) -> None:
    rng = np.random.default_rng(seed)
    size = sum(h * w for h, w in levels)
    value = torch.full((1, size, 2, 3), 2.5)
    inside = rng.uniform(0, 1, (1, queries, 2, len(levels), 2, 2))
    sizes = np.array(levels)[:, None, ::-1]
    inside = (0.5 + inside * (sizes - 1)) / sizes  # between the outermost pixel centres
    logits = torch.tensor(rng.normal(size=(1, queries, 2, len(levels) * 2)), dtype=torch.float32)
    weights = logits.softmax(-1).view(1, queries, 2, len(levels), 2)
    out = ms_deform_attn(value, levels, None, torch.tensor(inside, dtype=torch.float32), weights)
    torch.testing.assert_close(out, torch.full_like(out, 2.5), rtol=1e-5, atol=0)


def test_blocks_suit_the_number_of_queries_and_channels() -> None:
    module = importlib.import_module("swath.kernels.ops.ms_deform_attn.triton")
    assert module.config(22223 * 8, 32, backward=False) == (32, 32, 4)
    assert module.config(800 * 8, 32, backward=False) == (8, 32, 1)
    assert module.config(22223 * 8, 32, backward=True) == (32, 32, 8)
    for pairs in (1, 10**6):
        for channels in (1, 20, 64, 500):
            for backward in (False, True):
                block_q, block_d, warps = module.config(pairs, channels, backward)
                assert block_d >= channels
                assert 1 <= warps <= 8
                assert all(n & (n - 1) == 0 for n in (block_q, block_d, warps))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(value=torch.zeros(2, 16, 12)), ValueError, r"value must have .*\(2, 16, 12\)"),
        (dict(value=torch.zeros(2, 16, 2, 6).long()), TypeError, "value must be float32"),
        (dict(value=torch.zeros(2, 15, 2, 6)), ValueError, "2 x 2 pixels at row 12.*15 rows"),
        (dict(spatial_shapes=[(3, 4, 1)]), ValueError, r"spatial_shapes must .*\(1, 3\)"),
        (dict(spatial_shapes=torch.zeros(2, 2)), TypeError, "spatial_shapes must be int64"),
        (dict(spatial_shapes=[(3, 4), (0, 2)]), ValueError, "a level of 0 x 2"),
        (dict(spatial_shapes=[(3, 4)]), ValueError, "sampling_locations must .* L=1"),
        (dict(level_start=[0]), ValueError, r"level_start must have shape \(L,\) = \(2,\)"),
        (dict(level_start=[0, -1]), ValueError, "row -1"),
        (dict(sampling_locations=torch.zeros(2, 5, 2, 2, 3)), ValueError, "sampling_locations"),
        (dict(sampling_locations=torch.zeros(2, 5, 2, 2, 3, 3)), ValueError, "P, 2"),
        (dict(sampling_locations=torch.zeros(2, 4, 2, 2, 3, 2)), ValueError, "same B, Q"),
        (dict(attention_weights=torch.zeros(1, 5, 2, 2, 3)), ValueError, "B=2"),
        (dict(attention_weights=torch.zeros(2, 5, 2, 2, 3).int()), TypeError, "attention_weights"),
        (dict(attention_weights=torch.zeros(2, 5, 2, 2, 3, device="meta")), ValueError, "device"),
    ],
)  # fmt: skip
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    value, locations, weights = inputs()
    arguments: dict[str, Any] = {
        "value": value,
        "spatial_shapes": LEVELS,
        "level_start": None,
        "sampling_locations": locations,
        "attention_weights": weights,
    }
    with pytest.raises(error, match=message):
        ms_deform_attn(**{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(reference_points=torch.zeros(2, 5, 2, 3)), r"or \(B, Q, L, 4\).*\(2, 5, 2, 3\)"),
        (dict(reference_points=torch.zeros(2, 4, 2, 2)), r"\(B, Q, L\) = \(2, 5, 2\)"),
        (dict(offsets=torch.zeros(2, 5, 2, 2, 3)), "offsets must have shape"),
        (dict(logits=torch.zeros(2, 5, 2, 2, 4)), "offsets .* and logits"),
    ],
)  # fmt: skip
def test_refuses_predictions(change: dict[str, Any], message: str) -> None:
    value, offsets, logits = inputs()
    arguments = {"reference_points": torch.zeros(2, 5, 2, 2), "offsets": offsets, "logits": logits}
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_from_logits(value, LEVELS, None, **{**arguments, **change})
