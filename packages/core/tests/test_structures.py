"""Rotated boxes through torchvision's transforms, against moving the corners and against pixels."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from swath.core.structures import RotatedBoxes, keep_visible, visible_fraction
from swath.kernels import box_areas, boxes_to_detectron2, boxes_to_quads, quads_to_boxes

HEIGHT, WIDTH = 120, 160
INSIDE = [[80.0, 60.0, 50.0, 16.0, 0.5], [50.0, 40.0, 12.0, 30.0, -0.9], [110, 75, 20, 9, 2.8]]


def make_boxes(values: Any = None, dtype: torch.dtype = torch.float64) -> RotatedBoxes:
    rows = INSIDE if values is None else values
    return RotatedBoxes(rows, canvas_size=(HEIGHT, WIDTH), dtype=dtype)


def corner_distance(first: Tensor, second: Tensor) -> float:
    """Largest distance between the corners of boxes, whatever corner comes first."""
    a, b = boxes_to_quads(first.as_subclass(Tensor)), boxes_to_quads(second.as_subclass(Tensor))
    turns = [(a - b.roll(k, -2)).abs().amax((-1, -2)) for k in range(4)]
    return torch.stack(turns).amin(0).max().item()


def turned(angle_degrees: float) -> Tensor:
    """Counter-clockwise on screen, as `rotate` counts."""
    a = math.radians(angle_degrees)
    return torch.tensor(
        [[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]], dtype=torch.float64
    )


MIDDLE = torch.tensor([WIDTH / 2, HEIGHT / 2], dtype=torch.float64)
RIGID: dict[str, tuple[Callable[..., Any], Callable[[Tensor], Tensor], tuple[int, int]]] = {
    "horizontal_flip": (
        F.horizontal_flip,
        lambda p: torch.stack((WIDTH - p[..., 0], p[..., 1]), -1),
        (HEIGHT, WIDTH),
    ),
    "vertical_flip": (
        F.vertical_flip,
        lambda p: torch.stack((p[..., 0], HEIGHT - p[..., 1]), -1),
        (HEIGHT, WIDTH),
    ),
    "crop": (
        lambda b: F.crop(b, 11, -7, 50, 60),
        lambda p: p - torch.tensor([-7.0, 11.0]),
        (50, 60),
    ),
    "center_crop smaller": (
        lambda b: F.center_crop(b, [41, 50]),
        lambda p: p - torch.tensor([55.0, 40.0]),
        (41, 50),
    ),
    "center_crop larger": (
        lambda b: F.center_crop(b, [201, 180]),
        lambda p: p + torch.tensor([10.0, 40.0]),
        (201, 180),
    ),
    "pad by two": (
        lambda b: F.pad(b, [3, 5]),
        lambda p: p + torch.tensor([3.0, 5.0]),
        (HEIGHT + 10, WIDTH + 6),
    ),
    "pad by four": (
        lambda b: F.pad(b, [3, 5, 7, 9]),
        lambda p: p + torch.tensor([3.0, 5.0]),
        (HEIGHT + 14, WIDTH + 10),
    ),
    "rotate": (
        lambda b: F.rotate(b, 33.0),
        lambda p: (p - MIDDLE) @ turned(33).T + MIDDLE,
        (HEIGHT, WIDTH),
    ),
    "rotate about a point": (
        lambda b: F.rotate(b, -71.0, center=[20, 30]),
        lambda p: (p - torch.tensor([20.0, 30.0])) @ turned(-71).T + torch.tensor([20.0, 30.0]),
        (HEIGHT, WIDTH),
    ),
    "rotate by a quarter": (
        lambda b: F.rotate(b, 90, expand=True),
        lambda p: torch.stack((p[..., 1], WIDTH - p[..., 0]), -1),
        (WIDTH, HEIGHT),
    ),
    "resize uniformly": (lambda b: F.resize(b, [240, 320]), lambda p: p * 2, (240, 320)),
    "resize the shorter side": (lambda b: F.resize(b, [60]), lambda p: p / 2, (60, 80)),
    "resized_crop": (
        lambda b: F.resized_crop(b, 20, 40, 30, 40, size=[60, 80]),
        lambda p: (p - torch.tensor([40.0, 20.0])) * 2,
        (60, 80),
    ),
    "affine without shear": (
        lambda b: F.affine(b, angle=20, translate=[4, -6], scale=1.5, shear=[0, 0]),
        lambda p: 1.5 * (p - MIDDLE) @ turned(-20).T + MIDDLE + torch.tensor([4.0, -6.0]),
        (HEIGHT, WIDTH),
    ),
}


@pytest.mark.parametrize("name", RIGID)
def test_a_rigid_transform_moves_the_box_with_its_corners(name: str) -> None:
    apply, expected, canvas_size = RIGID[name]
    boxes = make_boxes()
    out = apply(boxes)
    assert isinstance(out, RotatedBoxes)
    assert out.canvas_size == canvas_size
    assert out.dtype == boxes.dtype
    quads = expected(boxes.to_quads())
    torch.testing.assert_close(
        torch.sort(out.to_quads().flatten(1)).values, torch.sort(quads.flatten(1)).values
    )
    assert corner_distance(out, quads_to_boxes(quads)) <= 1e-9


@pytest.mark.parametrize("name", ["resize", "shear", "perspective", "elastic"])
def test_a_deforming_transform_gives_the_smallest_rectangle_around_the_moved_corners(
    name: str,
) -> None:
    boxes = make_boxes()
    quads = boxes.to_quads()
    if name == "resize":
        out, moved = F.resize(boxes, [60, 320]), quads * torch.tensor([2.0, 0.5])
    elif name == "shear":
        out = F.affine(boxes, angle=10, translate=[0, 0], scale=1.0, shear=[15, 5])
        x, y = (math.tan(math.radians(s)) for s in (15, 5))
        shear = torch.tensor([[1, 0], [-y, 1]]).double() @ torch.tensor([[1, -x], [0, 1]]).double()
        moved = (quads - MIDDLE) @ (turned(-10) @ shear).T + MIDDLE
    elif name == "perspective":
        start = [[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]]
        end = [[10, 5], [150, 12], [140, 110], [4, 100]]
        out = F.perspective(boxes, start, end)
        matrix = cv2.getPerspectiveTransform(np.float32(start), np.float32(end))
        points = quads.numpy().reshape(-1, 1, 2)
        moved = torch.from_numpy(cv2.perspectiveTransform(points, matrix)).reshape(-1, 4, 2)
    else:
        shift = torch.tensor([3.0, -2.0])
        displacement = (shift / torch.tensor([WIDTH / 2, HEIGHT / 2])).expand(1, HEIGHT, WIDTH, 2)
        out, moved = F.elastic(boxes, displacement), quads - shift
    assert isinstance(out, RotatedBoxes)
    assert corner_distance(out, quads_to_boxes(moved)) <= 1e-3
    assert (out.area() >= 0.99 * box_areas(quads_to_boxes(moved))).all()


PIXELS = {
    "flip": v2.RandomHorizontalFlip(1.0),
    "vertical flip": v2.RandomVerticalFlip(1.0),
    "rotate": v2.RandomRotation((25, 25), interpolation=v2.InterpolationMode.BILINEAR),
    "rotate and expand": v2.RandomRotation((-38, -38), expand=True),
    "quarter turn": v2.RandomRotation((90, 90), expand=True),
    "affine": v2.RandomAffine(
        (12, 12), translate=(0.05, 0.05), scale=(1.1, 1.1), shear=(8, 8, 4, 4)
    ),
    "perspective": v2.RandomPerspective(0.3, p=1.0),
    "resize": v2.Resize([200, 170]),
    "crop": v2.RandomCrop((100, 140)),
    "resized crop": v2.RandomResizedCrop((96, 128), scale=(0.9, 0.9), ratio=(1.2, 1.2)),
    "zoom out": v2.RandomZoomOut(p=1.0, side_range=(1.3, 1.5)),
    "center crop": v2.CenterCrop((130, 150)),
}


@pytest.mark.parametrize("name", PIXELS)
def test_the_drawn_object_stays_in_its_box(name: str) -> None:
    torch.manual_seed(3)
    for index in range(len(INSIDE)):
        boxes = make_boxes(INSIDE[index : index + 1])
        image = np.zeros((HEIGHT, WIDTH), np.uint8)
        # drawing fills pixels whose centres lie inside; centres are half a pixel off the corners
        corners = boxes.to_quads()[0].numpy() - 0.5
        cv2.fillConvexPoly(image, np.round(corners * 16).astype(np.int32), 255, shift=4)
        moved, out = PIXELS[name](tv_tensors.Image(image[None]), boxes)
        assert tuple(moved.shape[-2:]) == out.canvas_size
        rows, columns = np.nonzero(moved[0].numpy() > 127)
        points = torch.tensor(np.stack((columns, rows), 1) + 0.5) - out[0, :2]
        cos, sin = out[0, 4].cos(), out[0, 4].sin()
        along = points @ torch.stack((cos, sin))
        across = points @ torch.stack((-sin, cos))
        # nothing outside (cv2 also fills pixels that the outline touches), and no slack
        half = out[0, 2:4] / 2
        reach = torch.stack((along.abs().max(), across.abs().max()))
        assert (reach <= half + 2).all()
        if name not in ("crop", "resized crop"):
            assert (reach >= half - 2).all()


def test_torchvision_turns_boxes_of_the_same_meaning_to_the_same_place() -> None:
    boxes = make_boxes()
    theirs = tv_tensors.BoundingBoxes(
        boxes_to_detectron2(boxes.as_subclass(Tensor)),
        format="CXCYWHR",
        canvas_size=(HEIGHT, WIDTH),
        clamping_mode=None,
    )
    corners = F.convert_bounding_box_format(theirs, new_format="XYXYXYXY").reshape(-1, 4, 2)
    assert corner_distance(quads_to_boxes(corners), boxes) <= 1e-3


def test_the_smallest_rectangle_agrees_with_opencv() -> None:
    rng = np.random.default_rng(0)
    quads = rng.uniform(0, 200, (300, 4, 2)).astype(np.float32)
    found = RotatedBoxes.from_quads(torch.from_numpy(quads), canvas_size=(200, 200))
    for quad, area, box in zip(quads, found.area(), found.to_version("oc"), strict=True):
        (_, (w, h), degrees) = cv2.minAreaRect(quad)
        assert area.item() == pytest.approx(w * h, rel=1e-3, abs=1e-2)
        assert 0 < box[4] <= math.pi / 2
        if 0 < degrees <= 90 and w * h < 0.99 * min(
            _areas_of_other_edges(quad, w * h), default=1e9
        ):
            assert math.degrees(box[4]) == pytest.approx(degrees, abs=0.05)


def _areas_of_other_edges(quad: np.ndarray, best: float) -> list[float]:
    areas = []
    for i in range(4):
        for j in range(i):
            along = (quad[i] - quad[j]) / np.linalg.norm(quad[i] - quad[j])
            across = np.array([-along[1], along[0]])
            areas.append(float(np.ptp(quad @ along) * np.ptp(quad @ across)))
    areas.remove(min(areas))
    return areas


def test_over_the_horizon_a_box_shrinks_to_nothing() -> None:
    boxes = make_boxes([[150.0, 60.0, 40.0, 10.0, 0.0], [20.0, 60.0, 10.0, 10.0, 0.0]])
    backward = torch.linalg.inv(torch.tensor([[1, 0, 0], [0, 1, 0], [-1 / 150, 0, 1]]).double())
    out = F.perspective(boxes, None, None, coefficients=(backward / backward[2, 2]).flatten()[:8])
    assert torch.isfinite(out).all()
    assert out.area()[0] == 0
    assert out.area()[1] > 0


def test_what_cannot_move_boxes_is_refused() -> None:
    with pytest.raises(ValueError, match="padding mode 'reflect' repeats objects"):
        F.pad(make_boxes(), [1, 1], padding_mode="reflect")
    with pytest.raises(TypeError, match="crop once for each"):
        F.five_crop(make_boxes(), [10, 10])
    with pytest.raises(ValueError, match=r"shape \(N, 5\); got torch.float32 of shape \(2, 4\)"):
        RotatedBoxes(torch.zeros(2, 4), canvas_size=(4, 4))
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        RotatedBoxes(torch.zeros(2, 5, dtype=torch.int64), canvas_size=(4, 4))


@pytest.mark.parametrize("name", RIGID)
def test_an_image_without_objects_keeps_its_canvas_right(name: str) -> None:
    apply, _, canvas_size = RIGID[name]
    out = apply(make_boxes([]))
    assert out.shape == (0, 5)
    assert out.canvas_size == canvas_size


def test_the_type_survives_what_keeps_boxes_and_is_dropped_by_arithmetic() -> None:
    boxes = make_boxes()
    for same in (boxes.clone(), boxes.to(torch.float32), boxes.detach(), copy.deepcopy(boxes)):
        assert isinstance(same, RotatedBoxes)
        assert same.canvas_size == (HEIGHT, WIDTH)
    restored = pickle.loads(pickle.dumps(boxes))
    assert isinstance(restored, RotatedBoxes)
    assert restored.canvas_size == (HEIGHT, WIDTH)
    for plain in (boxes + 1, boxes[0], boxes[:, :2], boxes * 2, boxes[boxes[:, 2] > 0]):
        assert type(plain) is Tensor
    wrapped = tv_tensors.wrap(boxes + 1, like=boxes)
    assert isinstance(wrapped, RotatedBoxes)
    assert RotatedBoxes.wrap(boxes + 1, boxes).canvas_size == (HEIGHT, WIDTH)
    assert RotatedBoxes.wrap(boxes + 1, boxes, canvas_size=(7, 8)).canvas_size == (7, 8)
    with tv_tensors.set_return_type("TVTensor"):
        assert isinstance(boxes + 1, RotatedBoxes)
        assert type(boxes[:, :2]) is Tensor
        assert type(boxes > 0) is Tensor
    picked = boxes.select(boxes[:, 2] > 15)
    assert isinstance(picked, RotatedBoxes)
    assert len(picked) == 2
    assert "canvas_size=(120, 160)" in repr(boxes)


def test_conversions_keep_the_rectangle() -> None:
    boxes = make_boxes()
    assert corner_distance(boxes.to_version("le90"), boxes) <= 1e-9
    again = RotatedBoxes.from_quads(boxes.to_quads(), canvas_size=boxes.canvas_size)
    assert corner_distance(again, boxes) <= 1e-9
    hbb = boxes.to_hbb()
    assert hbb.canvas_size == boxes.canvas_size
    torch.testing.assert_close(hbb[:, 2:].as_subclass(Tensor), boxes.to_quads().amax(1))
    assert boxes.area().tolist() == [800, 360, 180]


def test_boxes_mostly_outside_or_too_small_are_dropped() -> None:
    boxes = make_boxes(
        [
            [0.0, 60.0, 40.0, 10.0, 0.0],  # half inside
            [-18.0, 60.0, 40.0, 10.0, 0.0],  # a twentieth inside
            [80.0, 60.0, 40.0, 0.5, 0.3],  # thinner than a pixel
            [0.0, 0.0, 20.0, 20.0, math.pi / 4],  # on a corner: a quarter inside
            [400.0, 60.0, 40.0, 10.0, 0.0],
            [80.0, 60.0, 0.0, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(
        visible_fraction(boxes), torch.tensor([0.5, 0.05, 1, 0.25, 0, 1]).double()
    )
    assert keep_visible(boxes, 1.0, 0.2).tolist() == [True, False, False, True, False, False]
    assert keep_visible(make_boxes([])).shape == (0,)
