import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from swath.core.data.detection import DotaText
from swath.core.detection import DetectionTask
from swath.core.errors import ConfigError, DataError
from swath.core.geo.raster import GeoImage, RasterInfo
from swath.core.inference.predictor import Predictor
from swath.core.sample import Sample
from swath.core.structures import Detections, RotatedBoxes
from swath.kernels import rotated_iou

CLASSES = ["ship", "plane"]


def sample(boxes: Tensor, labels: list[int], size: int = 64, **targets: object) -> Sample:
    return Sample(
        tv_tensors.Image(torch.zeros(3, size, size, dtype=torch.uint8)),
        {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), **targets},
        meta={"path": "scene.tif"},
    )


def rotated(rows: list[list[float]], size: int = 64) -> RotatedBoxes:
    return RotatedBoxes(
        torch.tensor(rows, dtype=torch.float32).reshape(-1, 5), canvas_size=(size, size)
    )


class Bright(nn.Module):
    """Finds bright pixels' bounding rectangles: one box for each isolated bright block."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, ...]] = []

    def forward(self, image: Tensor, sizes: object) -> list[Detections]:
        import cv2

        self.calls.append(tuple(image.shape))
        found = []
        for plane in (image[:, 0] > 0).numpy().astype(np.uint8):
            contours, _ = cv2.findContours(plane, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            rows = []
            for contour in contours:
                x, y, w, h = cv2.boundingRect(contour)
                rows.append([x + w / 2, y + h / 2, w, h, 0.0])
            boxes = torch.tensor(rows).reshape(-1, 5)
            found.append(
                Detections(
                    boxes, torch.linspace(0.9, 0.5, len(rows)), torch.zeros(len(rows)).long()
                )
            )
        return found


def blocks(size: int, places: list[tuple[int, int, int, int]]) -> np.ndarray:
    image = np.zeros((size, size, 3), np.uint8)
    for x, y, w, h in places:
        image[y : y + h, x : x + w] = 255
    return image


def test_a_batch_holds_the_boxes_of_each_image() -> None:
    task = DetectionTask(CLASSES)
    batch = task.collate(
        [
            sample(rotated([[9, 9, 8, 4, 0.5]]), [1], difficult=torch.tensor([True])),
            sample(rotated([]), [], size=32),
        ]
    )
    assert batch["image"].shape == (2, 3, 64, 64)
    assert [len(b) for b in batch["boxes"]] == [1, 0]
    assert type(batch["boxes"][0]) is Tensor
    assert batch["labels"][0].tolist() == [1]
    assert batch["difficult"][0].tolist() == [True]
    assert batch["sizes"] == [(64, 64), (32, 32)]
    assert "boxes" not in task.collate([Sample(torch.zeros(3, 8, 8, dtype=torch.uint8))])


def test_samples_without_boxes_can_neither_train_nor_judge() -> None:
    task = DetectionTask(CLASSES)
    batch = task.collate([Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), meta={"id": "9"})])
    with pytest.raises(DataError, match=r"9: .* without boxes; take a split whose labels"):
        task.losses(nn.Identity(), batch)
    with pytest.raises(DataError, match="without boxes"):
        task.metrics().update([], batch)


def test_horizontal_and_rotated_boxes_become_what_the_task_wants() -> None:
    corners = tv_tensors.BoundingBoxes(
        torch.tensor([[1, 2, 11, 6]]), format="XYXY", canvas_size=(64, 64)
    )
    turned = DetectionTask(CLASSES).collate([sample(corners, [0])])["boxes"][0]
    assert turned.tolist() == [[6, 4, 10, 4, 0]]
    around = DetectionTask(CLASSES, rotated=False)
    boxes = rotated([[10, 10, 8, 4, math.pi / 2]])
    got = around.collate([sample(boxes, [0])])["boxes"][0]
    torch.testing.assert_close(got, torch.tensor([[8.0, 6, 12, 14]]))


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([[1, 1, math.nan, 4, 0]], [0], r"scene\.tif: box 1 is .*finite numbers"),
        ([[9, 9, 4, 4, 0], [1, 1, -3, 4, 0]], [0, 0], r"scene\.tif: box 2 .*no negative side"),
        ([[9, 9, 4, 4, 0]], [2], r"label 2, but there are 2 classes \(ship, plane\)"),
        ([[9, 9, 4, 4, 0]], [-1], "label -1"),
    ],
)
def test_refuses_boxes_that_mean_nothing(
    boxes: list[list[float]], labels: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        DetectionTask(CLASSES).collate([sample(rotated(boxes), labels)])


def test_boxes_without_extent_are_not_learnt_but_still_judged() -> None:
    seen: list[Tensor] = []

    class Model(nn.Module):
        def forward(
            self, image: Tensor, sizes: object, boxes: list[Tensor], labels: object
        ) -> dict[str, Tensor]:
            seen.extend(boxes)
            return {"loss": image.sum()}

    task = DetectionTask(CLASSES, min_side_px=2)
    batch = task.collate(
        [sample(rotated([[9, 9, 8, 0, 0], [9, 9, 8, 1, 0], [9, 9, 8, 2, 0]]), [0, 0, 1])]
    )
    task.losses(Model(), batch)
    assert seen[0].tolist() == [[9, 9, 8, 2, 0]]
    metrics = task.metrics()
    metrics.update([Detections(batch["boxes"][0], torch.ones(3), batch["labels"][0])], batch)
    assert metrics.num_objects == 3


def test_clockwise_and_self_crossing_polygons_are_read_as_the_rectangle_around_them(
    tmp_path: Path,
) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images/a.png")
    lines = ["10 10 30 10 30 20 10 20 ship 0", "10 10 10 20 30 20 30 10 ship 1",
             "10 10 30 20 30 10 10 20 ship 0"]  # fmt: skip
    (tmp_path / "labels/a.txt").write_text("\n".join(lines))
    dataset = DotaText(tmp_path / "images", tmp_path / "labels", CLASSES)
    batch = DetectionTask(CLASSES).collate([dataset[0]])
    same = rotated_iou(batch["boxes"][0], torch.tensor([[20.0, 15, 20, 10, 0]]))
    torch.testing.assert_close(same, torch.ones(3, 1))
    assert batch["difficult"][0].tolist() == [False, True, False]


def test_refuses_a_model_for_other_classes() -> None:
    model = nn.Module()
    model.num_classes = 3  # type: ignore[assignment]
    task = DetectionTask(CLASSES)
    with pytest.raises(ConfigError, match="scores 3 classes, the task has 2"):
        task.losses(model, task.collate([sample(rotated([]), [])]))
    with pytest.raises(ConfigError, match=r"task\.zoom=0"):
        DetectionTask(CLASSES, zoom=0)


def test_zoomed_images_give_boxes_in_their_own_pixels() -> None:
    image = blocks(64, [(8, 16, 20, 10)])
    model = Bright()
    found = Predictor(model, DetectionTask(CLASSES, zoom=2.0)).predict(image)
    assert model.calls == [(1, 3, 128, 128)]
    overlap = rotated_iou(torch.from_numpy(found.boxes), torch.tensor([[18.0, 21, 20, 10, 0]]))
    assert float(overlap) > 0.85  # bilinear edges


@pytest.mark.parametrize("tile", [None, 128, 160])
def test_objects_of_a_scene_are_found_once_however_it_is_tiled(tile: int | None) -> None:
    places = [
        (5, 5, 20, 10),
        (60, 60, 30, 30),
        (100, 20, 40, 8),
        (90, 120, 12, 60),
        (170, 170, 20, 18),
    ]
    image = blocks(200, places)
    predictor = Predictor(Bright(), DetectionTask(CLASSES))
    found = predictor.predict(image, tile=tile, overlap=64, blend=0)  # as large as any object
    truth = torch.tensor([[x + w / 2, y + h / 2, w, h, 0.0] for x, y, w, h in places])
    overlaps = rotated_iou(truth, torch.from_numpy(found.boxes).float())
    assert len(found) == 5
    assert (overlaps.amax(1) > 0.99).all()
    assert (found.scores[:-1] >= found.scores[1:]).all()


def test_an_object_longer_than_what_tiles_share_is_kept_in_pieces_not_lost() -> None:
    image = blocks(200, [(10, 90, 180, 12)])
    found = Predictor(Bright(), DetectionTask(CLASSES)).predict(image, tile=96, overlap=32, blend=0)
    assert 2 <= len(found) <= 4
    low, high = found.boxes[:, 0] - found.boxes[:, 2] / 2, found.boxes[:, 0] + found.boxes[:, 2] / 2
    assert low.min() == 10
    assert high.max() == 190


def test_a_scene_without_objects_has_an_empty_result() -> None:
    found = Predictor(Bright(), DetectionTask(CLASSES)).predict(np.zeros((40, 40, 3), np.uint8))
    assert len(found) == 0
    assert found.summary() == {"objects": {"ship": 0, "plane": 0}}


class Everywhere(nn.Module):
    """Finds the same boxes in any image."""

    stride = 1

    def __init__(self, boxes: list[list[float]]) -> None:
        super().__init__()
        self.boxes = torch.tensor(boxes)

    def forward(self, image: Tensor, sizes: object) -> list[Detections]:
        count = len(self.boxes)
        one = Detections(self.boxes, torch.full((count,), 0.9), torch.zeros(count).long())
        return [one] * len(image)


@pytest.mark.parametrize("rotated", [True, False])
def test_what_lies_on_nodata_alone_is_no_object(rotated: bool) -> None:
    valid = np.zeros((64, 64), np.bool_)
    valid[:, 40:] = True
    valid[5:15, 45:55] = False  # a white roof where nodata is 255: its surroundings are seen
    seen = [[40.0, 20, 10, 10, 0], [50, 10, 12, 12, 0], [60, 60, 20, 20, 0]]
    hidden = [[20.0, 20, 10, 10, 0], [34, 50, 11, 10, 0], [-5, 70, 8, 8, 0]]
    boxes = seen + hidden
    if not rotated:
        boxes = [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h, _ in boxes]
    image = GeoImage(np.full((3, 64, 64), 9, np.uint8), valid, RasterInfo(None, 64, 64))
    predictor = Predictor(Everywhere(boxes), DetectionTask(CLASSES, rotated=rotated))
    assert predictor.predict(image).boxes.tolist() == boxes[:3]
