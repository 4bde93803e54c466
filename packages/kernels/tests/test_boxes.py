"""Box conversions: hand-computed values, an independent geometry library, and properties."""

import math
import subprocess
import sys

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from swath.kernels import (
    VERSIONS,
    box_areas,
    boxes_to_detectron2,
    boxes_to_hbb,
    boxes_to_quads,
    boxes_to_s5,
    convert_boxes,
    detectron2_to_boxes,
    hbb_to_boxes,
    normalise_boxes,
    quad_areas,
    quads_to_boxes,
    quads_to_hbb,
    s5_to_boxes,
)

CONVENTIONS = ("swath", *VERSIONS, "s5", "mmcv_ccw", "detectron2", "quads", "polygons")
RANGES = {
    "le90": (-math.pi / 2, math.pi / 2),
    "le135": (-math.pi / 4, 3 * math.pi / 4),
    "s5": (-math.pi / 2, math.pi / 2),
}


def random_boxes(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Boxes of all kinds inside a 1024 px image, a fifth of them degenerate."""
    rng = np.random.default_rng(seed)
    boxes = np.column_stack(
        (
            rng.uniform(0, 1024, (count, 2)),
            np.exp(rng.uniform(-3, 6, (count, 2))),
            rng.uniform(-2 * np.pi, 2 * np.pi, count),
        )
    )
    fifth = count // 20
    boxes[:fifth, 2] = 0
    boxes[fifth : 2 * fifth, 3] = 0
    boxes[2 * fifth : 3 * fifth, 2:4] = 0
    boxes[3 * fifth : 4 * fifth, 4] = rng.integers(-8, 9, fifth) * np.pi / 4
    boxes[4 * fifth : 5 * fifth, 3] = boxes[4 * fifth : 5 * fifth, 2]
    return torch.tensor(boxes, dtype=dtype)


def corner_distance(first: Tensor, second: Tensor) -> float:
    """Largest distance between the corners of two lists of boxes, whatever corner comes first."""
    a, b = (boxes_to_quads(boxes.double()) for boxes in (first, second))
    turns = torch.stack([(a - b.roll(k, -2)).abs().amax((-1, -2)) for k in range(4)])
    return turns.amin(0).max().item()


coordinates = st.floats(-2000, 2000, allow_nan=False, width=64)
sides = st.one_of(st.just(0.0), st.floats(1e-3, 1000))
angles = st.one_of(st.floats(-20, 20), st.integers(-16, 16).map(lambda k: k * math.pi / 4))
box = st.tuples(coordinates, coordinates, sides, sides, angles)
corner_arrays = arrays(np.float64, (4, 2), elements=st.one_of(coordinates, st.integers(-2, 2)))


def test_corners_turn_clockwise_on_screen_from_the_upper_left_one() -> None:
    upright = boxes_to_quads(torch.tensor([10.0, 20.0, 6.0, 2.0, 0.0]))
    assert upright.tolist() == [[7, 19], [13, 19], [13, 21], [7, 21]]
    # a quarter turn clockwise brings the upper left corner to the upper right
    turned = boxes_to_quads(torch.tensor([10.0, 20.0, 6.0, 2.0, math.pi / 2]))
    torch.testing.assert_close(turned, torch.tensor([[11.0, 17], [11, 23], [9, 23], [9, 17]]))


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        # 30 degrees clockwise, 2 wide and 4 high: the long side points 120 degrees clockwise
        ("le90", [5.0, 6.0, 4.0, 2.0, math.radians(-60)]),
        ("le135", [5.0, 6.0, 4.0, 2.0, math.radians(120)]),
        ("oc", [5.0, 6.0, 2.0, 4.0, math.radians(30)]),
        ("s5", [5.0, 6.0, 4.0, 2.0, math.radians(60)]),
        ("mmcv_ccw", [5.0, 6.0, 2.0, 4.0, -math.radians(30)]),
        ("detectron2", [5.0, 6.0, 2.0, 4.0, -30.0]),
    ],
)
def test_every_convention_matches_values_computed_by_hand(
    convention: str, expected: list[float]
) -> None:
    boxes = torch.tensor([5.0, 6.0, 2.0, 4.0, math.radians(30)], dtype=torch.float64)
    torch.testing.assert_close(
        convert_boxes(boxes, "swath", convention), torch.tensor(expected, dtype=torch.float64)
    )


@pytest.mark.parametrize("source", CONVENTIONS)
@pytest.mark.parametrize("target", CONVENTIONS)
def test_ten_thousand_boxes_round_trip_between_any_two_conventions(
    source: str, target: str
) -> None:
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 3e-4)):
        boxes = random_boxes(10_000, dtype=dtype)
        there = convert_boxes(convert_boxes(boxes, "swath", source), source, target)
        back = convert_boxes(convert_boxes(there, target, source), source, "swath")
        assert there.dtype == back.dtype == dtype
        assert torch.isfinite(there).all()
        assert corner_distance(back, boxes) <= tolerance


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_ten_thousand_float32_boxes_come_back_within_a_ten_thousandth_of_a_pixel(
    convention: str,
) -> None:
    boxes = random_boxes(10_000, dtype=torch.float32)
    boxes[:, :2] /= 4  # float32 itself steps by 6e-5 px at 1024, 1.5e-5 px at 256
    boxes[:, 2:4] = boxes[:, 2:4].clamp(max=256)
    back = convert_boxes(convert_boxes(boxes, "swath", convention), convention, "swath")
    assert corner_distance(back, boxes) <= 1e-4


@given(box)
@settings(max_examples=300, deadline=None)
def test_a_version_keeps_the_rectangle_and_honours_its_range(values: tuple[float, ...]) -> None:
    boxes = torch.tensor([values], dtype=torch.float64)
    for name in (*VERSIONS, "s5"):
        out = convert_boxes(boxes, "swath", name)
        w, h, theta = out[0, 2:].tolist()
        if name == "oc":
            assert 0 < theta <= math.pi / 2
        else:
            low, high = RANGES[name]
            assert low <= theta < high
            assert w >= h
        assert corner_distance(convert_boxes(out, name, "swath"), boxes) <= 1e-9
        # once in range, nothing moves any more
        assert torch.equal(convert_boxes(out, name, name), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angles_next_to_a_bound_stay_in_range(dtype: torch.dtype) -> None:
    bounds = torch.arange(-12, 13, dtype=dtype) * (math.pi / 4)
    near = [bounds]
    for _ in range(3):
        near.append(torch.nextafter(near[-1], torch.full_like(bounds, torch.inf)))
    near += [-angle for angle in near]
    theta = torch.cat(near)
    boxes = torch.cat((theta.new_tensor([1, 2, 7, 3]).expand(len(theta), 4), theta[:, None]), 1)
    for name, (low, high) in RANGES.items():
        out = convert_boxes(boxes, "swath", name)[:, 4]
        assert ((out >= low) & (out < high)).all(), name
    out = normalise_boxes(boxes, "oc")[:, 4]
    assert ((out > 0) & (out <= math.pi / 2)).all()


@given(corner_arrays)
@settings(max_examples=300, deadline=None)
def test_the_smallest_rectangle_has_the_area_an_independent_library_finds(
    corners: np.ndarray,
) -> None:
    found = quads_to_boxes(torch.tensor(corners))
    assert torch.isfinite(found).all()
    hull = shapely.MultiPoint(corners).convex_hull
    scale = 1 + np.abs(corners).max()
    # it contains the points ...
    u = torch.stack((found[4].cos(), found[4].sin()))
    v = torch.stack((-u[1], u[0]))
    offset = torch.tensor(corners) - found[:2]
    assert ((offset @ u).abs() <= found[2] / 2 + 1e-9 * scale).all()
    assert ((offset @ v).abs() <= found[3] / 2 + 1e-9 * scale).all()
    # ... and no direction along the hull does better
    ring = np.array(hull.exterior.coords) if hull.geom_type == "Polygon" else corners[:1]
    edges = np.diff(ring, axis=0)
    areas = []
    for edge in edges[np.abs(edges).max(1) > 1e-9 * scale]:
        along = edge / np.linalg.norm(edge)
        across = np.array([-along[1], along[0]])
        areas.append(np.ptp(corners @ along) * np.ptp(corners @ across))
    best = min(areas, default=0.0)  # without edges to speak of it is a point or a line
    assert box_areas(found).item() == pytest.approx(best, abs=1e-9 * scale**2)


def test_concave_and_self_crossing_quads_give_the_rectangle_of_their_hull() -> None:
    square = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    bow_tie = square[[0, 2, 1, 3]]
    assert corner_distance(quads_to_boxes(bow_tie), quads_to_boxes(square)) <= 1e-6
    dart = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.5, 0.5], [0.0, 4.0]])
    assert box_areas(quads_to_boxes(dart)).item() == pytest.approx(16)


@pytest.mark.parametrize(
    ("corners", "sides"),
    [
        ([[3, 3]] * 4, (0, 0)),
        ([[0, 0], [1, 1], [2, 2], [3, 3]], (0, 18**0.5)),
        ([[0, 0], [3, 3], [3, 3], [0, 0]], (0, 18**0.5)),
        ([[0, 0], [4, 0], [4, 0], [0, 3]], (2.4, 5)),
    ],
)
def test_degenerate_quads_give_degenerate_boxes_not_nan(
    corners: list[list[float]], sides: tuple[float, float]
) -> None:
    for dtype in (torch.float32, torch.float64):
        found = quads_to_boxes(torch.tensor(corners, dtype=dtype))
        assert torch.isfinite(found).all()
        assert min(found[2:4]) * max(found[2:4]) == pytest.approx(sides[0] * sides[1], abs=1e-5)
        if 0 in sides:
            assert sorted(found[2:4].tolist()) == pytest.approx(sides, abs=1e-6)


def test_a_rectangle_comes_back_with_its_own_sides_and_heading() -> None:
    boxes = random_boxes(2000)
    boxes = boxes[boxes[:, 2:4].amax(1) > 0]
    back = quads_to_boxes(boxes_to_quads(boxes))
    torch.testing.assert_close(back[:, :4], boxes[:, :4], atol=1e-9, rtol=0)
    turn = (back[:, 4] - boxes[:, 4]) / (2 * math.pi)
    assert (turn - turn.round()).abs().max() <= 1e-9


def test_enclosing_boxes_and_areas_agree_with_the_corners() -> None:
    boxes = random_boxes(500)
    polygons = shapely.polygons(boxes_to_quads(boxes).numpy())
    np.testing.assert_allclose(boxes_to_hbb(boxes), shapely.bounds(polygons), atol=1e-9)
    np.testing.assert_allclose(quads_to_hbb(boxes_to_quads(boxes)), shapely.bounds(polygons))
    np.testing.assert_allclose(box_areas(boxes), shapely.area(polygons), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        quad_areas(convert_boxes(boxes, "swath", "polygons")), shapely.area(polygons), atol=1e-7
    )


def test_horizontal_boxes_pass_through() -> None:
    hbb = torch.tensor([[1.0, 2.0, 5.0, 10.0], [3.0, 3.0, 3.0, 3.0]])
    assert hbb_to_boxes(hbb).tolist() == [[3, 6, 4, 8, 0], [3, 3, 0, 0, 0]]
    assert torch.equal(boxes_to_hbb(hbb_to_boxes(hbb)), hbb)


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_empty_and_batched_inputs_keep_their_shape(shape: tuple[int, ...]) -> None:
    boxes = torch.zeros(*shape, 5, requires_grad=True)
    for name in CONVENTIONS:
        out = convert_boxes(boxes, "swath", name)
        assert out.shape[: len(shape)] == shape
        assert convert_boxes(out, name, "swath").shape == (*shape, 5)
        assert out.requires_grad
    assert box_areas(boxes).shape == quad_areas(boxes_to_quads(boxes)).shape == shape


def test_half_precision_is_computed_in_float32() -> None:
    boxes = torch.tensor([[1000.0, 1000.0, 7.0, 3.0, 0.3]]).half()
    assert boxes_to_quads(boxes).dtype == torch.float32
    torch.testing.assert_close(boxes_to_quads(boxes), boxes_to_quads(boxes.float()))


def test_gradients_are_right_where_smooth() -> None:
    boxes = torch.tensor(
        [[50.0, 40.0, 30.0, 10.0, 0.4], [9.0, 8.0, 5.0, 6.0, -2.0]], dtype=torch.float64
    ).requires_grad_()
    quads = torch.tensor(
        [[0.0, 0.0], [9.0, 1.0], [8.0, 5.0], [-1.0, 3.0]], dtype=torch.float64
    ).requires_grad_()
    assert torch.autograd.gradcheck(boxes_to_quads, boxes)
    assert torch.autograd.gradcheck(boxes_to_hbb, boxes)
    assert torch.autograd.gradcheck(quads_to_boxes, quads)
    assert torch.autograd.gradcheck(quad_areas, quads)
    for name in VERSIONS:
        assert torch.autograd.gradcheck(lambda b, name=name: normalise_boxes(b, name), boxes)


def test_gradients_of_degenerate_boxes_are_finite() -> None:
    boxes = random_boxes(200).requires_grad_()
    quads_to_boxes(boxes_to_quads(boxes)).sum().backward()
    assert boxes.grad is not None
    assert torch.isfinite(boxes.grad).all()
    points = torch.zeros(3, 4, 2, requires_grad=True)
    quads_to_boxes(points).sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()


def test_s5_and_detectron2_turn_the_other_way() -> None:
    boxes = random_boxes(100)
    for there, back in (
        (boxes_to_s5, s5_to_boxes),
        (boxes_to_detectron2, detectron2_to_boxes),
    ):
        assert corner_distance(back(there(boxes)), boxes) <= 1e-9
    # the same numbers read with the wrong sense are other rectangles
    boxes = boxes[(boxes[:, 2] - boxes[:, 3]).abs() > 1]
    assert corner_distance(boxes_to_s5(boxes), boxes) > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: boxes_to_quads(torch.zeros(3, 4)),
            r"boxes must have shape \(\.\.\., 5\); got \(3, 4\)",
        ),
        (lambda: quads_to_boxes(torch.zeros(4, 3)), r"got \(4, 3\)"),
        (lambda: normalise_boxes(torch.zeros(1, 5), "le91"), "oc, le90, le135; got 'le91'"),
        (lambda: convert_boxes(torch.zeros(1, 5), "swath", "obb"), "hbb; got 'obb'"),
    ],
)
def test_refuses_what_it_cannot_mean(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, swath.kernels as k; assert 'torch' not in sys.modules, 'torch'; dir(k)"
    subprocess.run([sys.executable, "-c", code], check=True)
