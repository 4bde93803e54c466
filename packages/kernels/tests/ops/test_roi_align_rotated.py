"""Rotated RoIAlign: recorded results, pyramids, the border's rules, bad input."""

import importlib
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swath.kernels import multilevel_roi_align_rotated, roi_align_rotated


def inputs(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    boxes: int = 4,
    channels: int = 3,
) -> tuple[Tensor, Tensor]:
    """Features ``(2, channels, 7, 9)`` that want a gradient, and rois within and around them."""
    generator = torch.Generator().manual_seed(boxes)
    x = torch.randn(2, channels, 7, 9, generator=generator)
    uniform = torch.rand(boxes, 6, generator=generator)
    low, high = torch.tensor([[0, 0, 0, 1, 1, -4], [2, 18, 14, 13, 9, 4.0]])
    rois = low + uniform * (high - low)
    rois[:, 0] = rois[:, 0].floor()
    geometry = torch.float64 if dtype == torch.float64 else torch.float32
    return x.to(device, dtype).requires_grad_(), rois.to(device, geometry)


@pytest.mark.parity
def test_matches_all_recorded_cases(backend: str, device: torch.device, parity: Any) -> None:
    cases, tensors = parity("roi_align_rotated")
    unread = set(tensors)
    worst: dict[str, float] = {}
    for dtype in (torch.float32,) if backend == "triton" else (torch.float32, torch.float64):
        for case in cases:

            def read(name: str, case: Any = case, dtype: torch.dtype = dtype) -> Tensor:
                unread.discard(f"{case['name']}.{name}")
                return tensors[f"{case['name']}.{name}"].to(device, dtype)

            x = read("features").requires_grad_()
            assert list(x.shape) == [case[key] for key in "NCHW"]
            options = {
                key: case[key]
                for key in ("spatial_scale", "sampling_ratio", "aligned", "clockwise")
            }
            out = roi_align_rotated(x, read("rois"), tuple(case["output_size"]), **options)
            (grad,) = torch.autograd.grad(out, x, read("grad_out"))
            for name, actual in (("out", out), ("grad_features", grad)):
                expected = tensors[f"{case['name']}.{name}"].to(device)
                read(name)
                assert actual.shape == expected.shape
                scale = expected.abs().max().item() if expected.numel() else 0.0
                error = (actual.double() - expected).abs().max().item() if expected.numel() else 0.0
                limit = 1e-12 if dtype == torch.float64 else {"out": 1e-5}.get(name, 1e-4)
                assert error <= limit * scale, (case["name"], name, dtype, error, scale)
                if scale:
                    key = f"{dtype} {name}"
                    worst[key] = max(worst.get(key, 0.0), error / scale)
    assert not unread, f"nobody read {sorted(unread)}"
    print(backend, {key: f"{value:.1e}" for key, value in worst.items()})


def test_matches_a_hand_computed_bin(backend: str, device: torch.device) -> None:
    x = torch.arange(16.0, device=device).view(1, 1, 4, 4)
    # the box covers the pixels of columns 1 and 2 in rows 0 to 3: means of upper and lower half
    roi = torch.tensor([[0, 2.0, 2.0, 2.0, 4.0, 0.0]], device=device)
    out = roi_align_rotated(x, roi, (2, 1), 1.0, 2)
    torch.testing.assert_close(out.flatten().cpu(), torch.tensor([3.5, 11.5]))


def test_angles_turn_clockwise_unless_told_otherwise(backend: str, device: torch.device) -> None:
    x = torch.arange(64.0, device=device).view(1, 1, 8, 8)  # grows by 1 to the right, 8 down
    roi = torch.tensor([[0, 4.0, 4.0, 4.0, 1e-6, math.pi / 2]], device=device)
    clockwise = roi_align_rotated(x, roi, (1, 2), 1.0, 1).flatten()
    other = roi_align_rotated(x, roi, (1, 2), 1.0, 1, clockwise=False).flatten()
    assert (clockwise[1] - clockwise[0]).item() == pytest.approx(16, rel=1e-4)  # w points down
    torch.testing.assert_close(other, clockwise.flip(0))


def test_the_border_reaches_one_pixel_further(backend: str, device: torch.device) -> None:
    x = torch.full((1, 1, 3, 4), 5.0, device=device)
    centres = torch.tensor([-0.51, -0.5, 0.0, 4.0, 4.5, 4.51], device=device)
    rois = torch.zeros(6, 6, device=device)
    rois[:, 1], rois[:, 2] = centres, 1.5
    out = roi_align_rotated(x, rois, 1, 1.0, 1)
    assert out.flatten().tolist() == [0, 5, 5, 5, 5, 0]


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_gradients_are_those_of_finite_differences(
    name: str, ratio: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWATH_KERNELS", name)
    x, rois = inputs(dtype=torch.float64, boxes=2, channels=2)
    small = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b: multilevel_roi_align_rotated(
            [a, b], rois, (2, 3), (2, 4), ratio, finest_scale=5
        ),
        (x, small),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("aligned", [True, False])
def test_back_ends_agree(
    backend: str, device: torch.device, dtype: torch.dtype, aligned: bool
) -> None:
    x, rois = inputs(device, dtype)
    out = roi_align_rotated(x, rois, 3, 0.5, 0, aligned=aligned)
    assert (out.dtype, out.is_contiguous()) == (dtype, True)
    wide = x.detach().double().cpu().requires_grad_()
    reference = importlib.import_module("swath.kernels.ops.roi_align_rotated.reference")
    grid = reference.Grid(3, 3, 0, aligned, True)
    levels, boxes = torch.zeros(len(rois), dtype=torch.int64), rois.double().cpu()
    expected = reference.forward([wide], boxes, levels, [0.5], grid)
    unit = torch.finfo(dtype).eps
    tolerance = max(1e-5, 2 * unit) * expected.abs().max().item()
    torch.testing.assert_close(out.double().cpu(), expected, rtol=0, atol=tolerance)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    (grad,) = torch.autograd.grad(out, x, upstream.to(device))
    (right,) = reference.backward(upstream.double(), boxes, levels, [0.5], [(2, 7, 9)], grid)
    tolerance = max(1e-5, 2 * unit) * right.abs().max().item()
    torch.testing.assert_close(grad.double().cpu(), right, rtol=0, atol=tolerance)


def test_each_box_is_read_from_the_level_of_its_size(backend: str, device: torch.device) -> None:
    features = [
        torch.full((1, 2, 32 >> level, 32 >> level), float(level), device=device)
        for level in range(4)
    ]
    sides = torch.tensor([1.0, 111, 112.1, 223, 225, 449, 5000, 0], device=device)
    rois = torch.zeros(8, 6, device=device)
    rois[:, 1:3], rois[:, 3], rois[:, 4] = 64, sides * 2, sides / 2
    out = multilevel_roi_align_rotated(features, rois, 1, (4, 8, 16, 32), 1)
    assert out[:, 0].flatten().tolist() == [0, 0, 1, 1, 2, 3, 3, 0]
    levels = torch.tensor([3, 2, 1, 0, 3, 2, 1, 0], device=device)
    out = multilevel_roi_align_rotated(features, rois, 1, (4, 8, 16, 32), 1, levels=levels)
    assert out[:, 1].flatten().tolist() == levels.tolist()


def test_a_pyramid_gives_what_its_levels_give(backend: str, device: torch.device) -> None:
    x, rois = inputs(device)
    other = torch.randn(2, 3, 4, 5, device=device, requires_grad=True)
    levels = torch.tensor([0, 1, 1, 0], device=device)
    options = dict(output_size=(2, 3), sampling_ratio=1)
    out = multilevel_roi_align_rotated([x, other], rois, strides=(2, 4), levels=levels, **options)
    grads = torch.autograd.grad(out.square().sum(), (x, other))
    for level, (feature, stride) in enumerate(((x, 2), (other, 4))):
        chosen = levels == level
        alone = roi_align_rotated(feature, rois[chosen], spatial_scale=1 / stride, **options)
        torch.testing.assert_close(alone, out[chosen])
        (grad,) = torch.autograd.grad(alone.square().sum(), feature)
        torch.testing.assert_close(grad, grads[level])


@pytest.mark.parametrize("channels", [1, 3, 20])
def test_layouts_do_not_matter(backend: str, device: torch.device, channels: int) -> None:
    x, rois = inputs(device, boxes=2, channels=channels)
    expected = roi_align_rotated(x, rois, 2, 0.5, 1)
    layouts = (
        x.contiguous(memory_format=torch.channels_last),
        torch.cat((x, x), 1)[:, :channels],
        x.transpose(2, 3).contiguous().transpose(2, 3),
    )
    for layout in layouts:
        out = roi_align_rotated(layout, rois, 2, 0.5, 1)
        assert torch.equal(out, expected)
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert grad.shape == x.shape


@pytest.mark.parametrize(("images", "boxes"), [(2, 0), (0, 0), (2, 1)])
def test_few_boxes(backend: str, device: torch.device, images: int, boxes: int) -> None:
    x, rois = inputs(device, boxes=boxes)
    x = x.detach()[:images].requires_grad_()
    out = roi_align_rotated(x, rois, (3, 1), 0.5, 2)
    assert out.shape == (boxes, 3, 3, 1)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert grad.shape == x.shape
    assert boxes or not grad.any()


def test_boxes_that_are_not_finite_give_zeros(backend: str, device: torch.device) -> None:
    x, rois = inputs(device, boxes=5)
    clean = roi_align_rotated(x, rois, 2, 0.5, 0)
    for column, bad in ((1, math.nan), (2, math.inf), (3, math.inf), (5, math.nan)):
        changed = rois.clone()
        changed[1, column] = bad
        out = roi_align_rotated(x, changed, 2, 0.5, 0)
        assert not out[1].any()
        assert torch.equal(out[2:], clean[2:])
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert grad.isfinite().all()


def test_triton_writes_nothing_beside_its_outputs(
    monkeypatch: pytest.MonkeyPatch, guarded: Any
) -> None:
    monkeypatch.setenv("SWATH_KERNELS", "triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, rois = inputs(device, boxes=2)
    roi_align_rotated(x.detach(), rois, 3, 0.5, 1)
    guarded()


def test_deterministic_mode_gives_the_same_gradient(backend: str, device: torch.device) -> None:
    x, rois = inputs(device, boxes=3)
    grads = []
    try:
        for deterministic in (False, True, True):
            torch.use_deterministic_algorithms(deterministic)
            out = roi_align_rotated(x, rois, 2, 0.5, 0)
            grads += torch.autograd.grad(out.square().sum(), x)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(grads[0], grads[1])
    assert torch.equal(grads[1], grads[2])


def test_the_operator_is_registered_well() -> None:
    x, rois = inputs(boxes=2)
    levels = torch.tensor([0, 1])
    torch.library.opcheck(
        torch.ops.swath.roi_align_rotated.default,
        ([x, x.detach()[:, :, :3]], rois, levels, [0.5, 0.25], 2, 3, 2, True, True),
    )


def test_compiles_whole_with_dynamic_shapes() -> None:
    def pool(x: Tensor, rois: Tensor) -> Tensor:
        other = x[:, :, ::2, ::2]
        single = roi_align_rotated(x, rois, (2, 3), 0.5, 2)
        return single + multilevel_roi_align_rotated(
            [x, other], rois, (2, 3), (2, 4), 2, finest_scale=4
        )

    compiled = torch.compile(pool, fullgraph=True, dynamic=True, backend="aot_eager")
    for boxes in (3, 5):
        x, rois = inputs(boxes=boxes)
        out, expected = compiled(x, rois), pool(x, rois)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(
            torch.autograd.grad(out.square().sum(), x),
            torch.autograd.grad(expected.square().sum(), x),
        )


@settings(max_examples=25, deadline=None)
@given(
    theta=st.floats(-7, 7),
    w=st.floats(0, 8),
    h=st.floats(0, 8),
    ratio=st.integers(0, 3),
    clockwise=st.booleans(),
)
def test_a_plane_is_averaged_to_its_value_at_the_bins_centre(
    theta: float, w: float, h: float, ratio: int, clockwise: bool
) -> None:
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    x = (2 * column + 3 * row + 1)[None, None].double()
    rois = torch.tensor([[0, 16.5, 15.0, w, h, theta]], dtype=torch.float64)
    out = roi_align_rotated(x, rois, (3, 2), 1.0, ratio, clockwise=clockwise)[0, 0]
    if ratio == 0 and min(w, h) == 0:
        assert not out.any()  # no pixel is covered, so there is no sample
        return
    angle = theta if clockwise else -theta
    along_w = (torch.arange(2, dtype=torch.float64) + 0.5) * w / 2 - w / 2
    along_h = ((torch.arange(3, dtype=torch.float64) + 0.5) * h / 3 - h / 2)[:, None]
    right = 16.0 + along_w * math.cos(angle) - along_h * math.sin(angle)
    down = 14.5 + along_w * math.sin(angle) + along_h * math.cos(angle)
    torch.testing.assert_close(out, 2 * right + 3 * down + 1, rtol=0, atol=1e-10)


def test_blocks_suit_the_number_of_bins_and_channels() -> None:
    module = importlib.import_module("swath.kernels.ops.roi_align_rotated.triton")
    assert module.config(49, 256, backward=False) == (16, 64, 4)
    assert module.config(49, 256, backward=True) == (16, 64, 8)
    assert module.config(1, 3, backward=False) == (1, 8, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=torch.zeros(3, 7, 9)), ValueError, r"x must have .*\(3, 7, 9\)"),
        (dict(x=torch.zeros(2, 3, 0, 9)), ValueError, "at least 1"),
        (dict(x=torch.zeros(2, 3, 7, 9).long()), TypeError, "x must be float32"),
        (dict(x=torch.zeros(2, 3, 7, 9, device="meta")), ValueError, "one device"),
        (dict(rois=torch.zeros(4, 5)), ValueError, r"rois must have .*\(4, 5\)"),
        (dict(rois=torch.zeros(1, 4, 6)), ValueError, r"rois must have shape \(R, 6\)"),
        (dict(rois=torch.zeros(4, 6).long()), TypeError, "rois must be float32"),
        (dict(rois=torch.full((4, 6), 2.0)), ValueError, r"batch indices in \[0, 2\); got 2 to 2"),
        (dict(rois=torch.full((4, 6), -1.0)), ValueError, "batch indices"),
        (dict(rois=torch.full((4, 6), 0.5)), ValueError, "batch indices"),
        (dict(rois=torch.tensor([[0, 1, 1, -1.0, 1, 0]])), ValueError, "not be negative; got -1"),
        (dict(output_size=(0, 2)), ValueError, r"output_size must be at least 1; got \(0, 2\)"),
        (dict(spatial_scale=0.0), ValueError, "spatial_scale must be positive"),
    ],
)  # fmt: skip
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    x, rois = inputs()
    arguments: dict[str, Any] = {
        "x": x,
        "rois": rois,
        "output_size": 2,
        "spatial_scale": 0.5,
        "sampling_ratio": 2,
    }
    with pytest.raises(error, match=message):
        roi_align_rotated(**{**arguments, **change})


def test_refuses_a_pyramid_that_does_not_fit() -> None:
    x, rois = inputs()
    with pytest.raises(ValueError, match="1 features and strides"):
        multilevel_roi_align_rotated([x], rois, 2, (4, 8), 2)
    with pytest.raises(ValueError, match=r"features\[1\] is \(2, 2, 7, 9\)"):
        multilevel_roi_align_rotated([x, x[:, :2]], rois, 2, (4, 8), 2)
    with pytest.raises(ValueError, match=r"levels must be in \[0, 1\); got 1 to 1"):
        multilevel_roi_align_rotated([x], rois, 2, (4,), 2, levels=torch.ones(4).long())
    with pytest.raises(ValueError, match="levels must be int64"):
        multilevel_roi_align_rotated([x], rois, 2, (4,), 2, levels=torch.ones(4))


def test_warns_of_degrees() -> None:
    x, rois = inputs()
    rois[:, 5] = 90
    with pytest.warns(UserWarning, match="rois has angles beyond 4 pi"):
        roi_align_rotated(x, rois, 2, 0.5, 2)


def test_legacy_mode_makes_boxes_at_least_one_pixel(backend: str, device: torch.device) -> None:
    x, rois = inputs(device, boxes=2)
    rois[:, 3:5] = -3.0
    unit = rois.clone()
    unit[:, 3:5] = 2.0  # one pixel of the features
    out = roi_align_rotated(x, rois, 2, 0.5, 2, aligned=False)
    torch.testing.assert_close(out, roi_align_rotated(x, unit, 2, 0.5, 2, aligned=False))
