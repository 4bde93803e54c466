"""One set of objects in every label format gives the same targets."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from swath.core.data.catalogue import dataset_spec
from swath.core.data.detection import (
    CatalogueDetection,
    CocoJson,
    DetectionItems,
    DotaText,
    VocXml,
    YoloObb,
    draw_segmentation,
    read_coco,
    read_dota,
    read_vhr10,
    read_voc,
)
from swath.core.data.spec import Item, Protocol
from swath.core.errors import DataError
from swath.core.geo.raster import RasterInfo
from swath.core.inference.objects import DetectionResult
from swath.core.structures import RotatedBoxes
from swath.kernels import rotated_iou

CLASSES = ("ship", "large-vehicle")
HEIGHT, WIDTH = 40, 60
# a rectangle of 20 x 10 turned by atan(3/4), and an upright one
TURNED = [(10.0, 8.0), (26.0, 20.0), (20.0, 28.0), (4.0, 16.0)]
UPRIGHT = [(30.0, 5.0), (50.0, 5.0), (50.0, 15.0), (30.0, 15.0)]
CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(folder / f"{name}.png")
    return folder


def dota_line(quad: list[tuple[float, float]], rest: str) -> str:
    return " ".join(f"{v:g}" for point in quad for v in point) + f" {rest}"


def xml(*objects: str, doctype: str = "") -> str:
    return f"{doctype}<annotation>{''.join(f'<object>{o}</object>' for o in objects)}</annotation>"


def robndbox(quad: list[tuple[float, float]]) -> str:
    tags = zip(CORNERS, quad, strict=True)
    return "".join(f"<x_{c}>{x}</x_{c}><y_{c}>{y}</y_{c}>" for c, (x, y) in tags)


def corner_sets(boxes: RotatedBoxes) -> Iterator[list[tuple[float, ...]]]:
    """Corners of each box in an order that doesn't depend on where the first one is."""
    for quad in boxes.to_quads().tolist():
        yield sorted(tuple(round(v, 3) for v in point) for point in quad)


def test_dota_text_with_headers_becomes_rotated_boxes(tmp_path: Path, images: Path) -> None:
    labels = tmp_path / "labelTxt"
    labels.mkdir()
    lines = ["imagesource:GoogleEarth", "gsd:0.146", dota_line(TURNED, "ship 1"), ""]
    (labels / "a.txt").write_text("\r\n".join([*lines, dota_line(UPRIGHT, "large-vehicle 0")]))
    (labels / "b.txt").write_text("")
    dataset = DotaText(images, labels, CLASSES)
    assert dataset.ids == ["a", "b"]
    targets = dataset[0].targets
    boxes = targets["boxes"]
    assert isinstance(boxes, RotatedBoxes)
    assert (boxes.dtype, boxes.canvas_size) == (torch.float32, (HEIGHT, WIDTH))
    assert list(corner_sets(boxes)) == [sorted(TURNED), sorted(UPRIGHT)]
    assert targets["labels"].tolist() == [0, 1]
    assert targets["difficult"].tolist() == [True, False]
    assert dataset[1].targets["boxes"].shape == (0, 5)
    assert dataset[1].targets["labels"].dtype == torch.int64


def test_voc_xml_gives_boxes_as_stored(tmp_path: Path, images: Path) -> None:
    folder = tmp_path / "Annotations"
    folder.mkdir()
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>10.5</xmax><ymax>20</ymax></bndbox>"
    (folder / "a.xml").write_text(
        xml(f"<name>Large Vehicle</name><difficult>1</difficult>{box}", f"<name>ship</name>{box}")
    )
    (folder / "b.xml").write_text(xml())
    dataset = VocXml(images, folder, CLASSES)
    targets = dataset[0].targets
    assert isinstance(targets["boxes"], tv_tensors.BoundingBoxes)
    assert targets["boxes"].tolist() == [[3, 4, 10.5, 20]] * 2
    assert targets["boxes"].canvas_size == (HEIGHT, WIDTH)
    assert targets["labels"].tolist() == [1, 0]  # names match whatever their case and blanks
    assert targets["difficult"].tolist() == [True, False]
    assert dataset[1].targets["boxes"].shape == (0, 4)


def test_robndbox_by_corners_and_by_angle_are_the_same_rectangle(
    tmp_path: Path, images: Path
) -> None:
    folder = tmp_path / "obb"
    folder.mkdir()
    name = "<name>ship</name>"
    (folder / "a.xml").write_text(xml(f"{name}<robndbox>{robndbox(TURNED)}</robndbox>"))
    angle = f"<cx>15</cx><cy>18</cy><w>20</w><h>10</h><angle>{math.atan2(3, 4)}</angle>"
    (folder / "b.xml").write_text(xml(f"{name}<robndbox>{angle}</robndbox>"))
    by_corners, by_angle = (
        s.targets["boxes"] for s in VocXml(images, folder, CLASSES, rotated=True)
    )
    assert isinstance(by_corners, RotatedBoxes)
    assert list(corner_sets(by_corners)) == list(corner_sets(by_angle)) == [sorted(TURNED)]


def test_thin_rotated_boxes_are_widened_when_asked(tmp_path: Path, images: Path) -> None:
    folder = tmp_path / "obb"
    folder.mkdir()
    box = "<cx>15</cx><cy>18</cy><w>20</w><h>0.2</h><angle>0</angle>"
    (folder / "a.xml").write_text(xml(f"<name>ship</name><robndbox>{box}</robndbox>"))
    for least, expected in ((0.0, 0.2), (1.0, 1.0)):
        dataset = VocXml(images, folder, CLASSES, ["a"], rotated=True, min_side_px=least)
        assert dataset[0].targets["boxes"][0, 2:4].min().item() == pytest.approx(expected)


def coco(path: Path, *annotations: dict[str, object]) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "categories": [{"id": 5, "name": "large-vehicle"}, {"id": 2, "name": "ship"}],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations)],
    }
    path.write_text(json.dumps(content))
    return path


def test_coco_gives_boxes_and_outlines(tmp_path: Path, images: Path) -> None:
    outline = [v for point in UPRIGHT for v in point]
    path = coco(
        tmp_path / "instances.json",
        {"image_id": 7, "category_id": 5, "bbox": [30, 5, 20, 10], "segmentation": [outline]},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 4, 2], "iscrowd": 1,
         "segmentation": {"size": [HEIGHT, WIDTH], "counts": [3, 2, HEIGHT * WIDTH - 5]}},
    )  # fmt: skip
    dataset = CocoJson(path, images)
    assert dataset.classes == CLASSES  # by rising id
    targets = dataset[0].targets
    assert targets["boxes"].tolist() == [[30, 5, 50, 15], [0, 0, 4, 2]]
    assert targets["labels"].tolist() == [1, 0]
    assert targets["difficult"].tolist() == [False, True]
    polygon, runs = targets["instances"]
    assert (polygon[5:15, 30:50] == 1).all()
    assert abs(int(polygon.sum()) - 200) <= 31  # its border may count, and no more
    assert runs.nonzero().tolist() == [[3, 0], [4, 0]]
    empty = dataset[1].targets
    assert (empty["boxes"].shape, empty["instances"].shape) == ((0, 4), (0, HEIGHT, WIDTH))


def test_coco_tells_images_of_one_name_in_two_folders_apart(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "sub/1.png"}],
        "categories": [{"id": 1, "name": "ship"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [i, 0, 4, 4]} for i in (1, 2)
        ],
    }
    (tmp_path / "sub").mkdir()
    for entry in content["images"]:
        Image.new("RGB", (16, 16)).save(tmp_path / str(entry["file_name"]))
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    dataset = CocoJson(path, tmp_path)
    found = {i: o.targets["boxes"][0].tolist() for i, o in zip(dataset.ids, dataset, strict=True)}
    assert found == {"1": [1, 0, 5, 4], "sub/1": [2, 0, 6, 4]}


def test_compressed_run_lengths_are_those_of_coco() -> None:
    from_text = draw_segmentation({"size": [5, 4], "counts": "63;"}, (5, 4), "a.json")
    plain = draw_segmentation({"size": [5, 4], "counts": [6, 3, 11]}, (5, 4), "a.json")
    np.testing.assert_array_equal(from_text, plain)
    assert np.argwhere(plain).tolist() == [[1, 1], [2, 1], [3, 1]]


def test_vhr10_text_counts_classes_from_one(tmp_path: Path, images: Path) -> None:
    label = tmp_path / "a.txt"
    label.write_text("(563,478),(630,573),1 \n\n( 10,20),(30,40),2\n")
    assert read_vhr10(label).boxes.tolist() == [[563, 478, 630, 573], [10, 20, 30, 40]]
    items = [Item("a", images / "a.png", label)]
    dataset = DetectionItems(items, Protocol(CLASSES), "vhr10")
    assert dataset[0].targets["labels"].tolist() == [0, 1]
    with pytest.raises(DataError, match="'2' isn't a class"):
        DetectionItems(items, Protocol(("ship",)), "vhr10")[0]


@pytest.mark.parametrize(
    "line",
    [
        "1 2 3 4 5 6 7 ship 0",
        "1 2 3 4 5 6 7 8",
        "1 2 3 4 5 6 7 nan ship 0",
        "a b c d e f g h ship 0",
    ],
)
def test_a_broken_dota_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"gsd:0.1\n{line}\n")
    with pytest.raises(DataError, match=r"a\.txt, line 2: expected 'x1 y1"):
        read_dota(path)


def test_broken_xml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>x</xmax><ymax>20</ymax></bndbox>"
    for content, message in (
        ("<annotation>", "damaged XML"),
        (xml("<name>ship</name>"), "object 1: has no <bndbox>"),
        (xml(f"<name>ship</name>{box}"), "object 1: <bndbox> needs numbers in xmin"),
        (xml(doctype="<!DOCTYPE a [<!ENTITY b 'c'>]>"), "document type"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=rf"a\.xml.*{message}"):
            read_voc(path)


def test_broken_coco_is_named(tmp_path: Path) -> None:
    bad = coco(tmp_path / "a.json", {"image_id": 99, "category_id": 5, "bbox": [0, 0, 1, 1]})
    with pytest.raises(DataError, match=r"a\.json, annotation 0: its image"):
        read_coco(bad)
    bad.write_text("[]")
    with pytest.raises(DataError, match=r"a\.json: not COCO JSON"):
        read_coco(bad)
    with pytest.raises(DataError, match="run lengths add up to 6, not to 20"):
        draw_segmentation({"size": [5, 4], "counts": [3, 3]}, (5, 4), bad)


def test_a_missing_label_and_an_unknown_class_are_named(tmp_path: Path, images: Path) -> None:
    (tmp_path / "a.txt").write_text(dota_line(TURNED, "shp 0"))
    with pytest.raises(DataError, match=r"b\.png: no label file"):
        DotaText(images, tmp_path, CLASSES)
    with pytest.raises(DataError, match=r"a\.txt, line 1: 'shp' isn't a class.*'ship'"):
        DotaText(images, tmp_path, CLASSES, ["a"])[0]


@pytest.mark.parametrize(
    "spelling", ["large-vehicle", "Large_Vehicle", "large vehicle", "largevehicle"]
)
def test_classes_are_known_in_the_spelling_of_every_set(
    tmp_path: Path, images: Path, spelling: str
) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    (tmp_path / "a.xml").write_text(xml(f"<name>{spelling}</name>{box}"))
    assert VocXml(images, tmp_path, CLASSES, ["a"])[0].targets["labels"].tolist() == [1]


def test_real_objects_agree_in_coco_dota_and_xml(samples_dir: Path) -> None:
    root = samples_dir / "detection/nwpu_vhr10"
    outlines = CocoJson(root / "instances.json", root / "images")
    rotated = DotaText(root / "images", root / "labelTxt", outlines.classes)
    upright = VocXml(root / "images", root / "Annotations", outlines.classes)
    places = {name: i for i, name in enumerate(outlines.ids)}
    assert len(outlines) == len(rotated) == len(upright) == 200
    total = 0
    for i, name in enumerate(rotated.ids):
        outlined = outlines.objects(places[name])
        turned, straight = rotated.objects(i), upright.objects(i)
        # each format has an order of its own
        labels = sorted(outlines.labels(outlined, name))
        assert (
            labels == sorted(rotated.labels(turned, name)) == sorted(upright.labels(straight, name))
        )
        assert sorted(outlined.boxes.round().tolist()) == sorted(straight.boxes.round().tolist())
        total += len(labels)
    assert total == 1659
    sample = rotated[3]
    around = sample.targets["boxes"].to_hbb()
    # the smallest rectangle about an outline covers it, so its own bounds cover the outline's
    for box in torch.from_numpy(upright.objects(3).boxes):
        covers = (around[:, :2] <= box[:2] + 1.5).all(1) & (around[:, 2:] >= box[2:] - 1.5).all(1)
        assert covers.any()


def test_yolo_obb_text_is_what_the_result_of_a_detector_writes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (80, 40)).save(tmp_path / "images/a.png")
    boxes = np.array([[20.0, 10, 16, 8, 0.5], [70, 35, 30, 10, -1.2]])
    info = RasterInfo(None, 80, 40, 3, "uint8")
    result = DetectionResult(info, ("ship", "plane"), boxes, np.array([1, 0]), np.array([0.9, 0.8]))
    result.save_yolo(tmp_path / "labels/a.txt")
    targets = YoloObb(tmp_path / "images", tmp_path / "labels", ["ship", "plane"])[0].targets
    assert targets["labels"].tolist() == [1, 0]
    same = torch.from_numpy(boxes).float()
    assert torch.allclose(torch.as_tensor(targets["boxes"]), same, atol=1e-3)
    (tmp_path / "labels/a.txt").write_text("2 0 0 1 0 1 1 0 1\n")
    with pytest.raises(DataError, match="line 1: '2' isn't a class"):
        YoloObb(tmp_path / "images", tmp_path / "labels", ["ship", "plane"])[0]
    (tmp_path / "labels/a.txt").write_text("ship 0 0 1 0 1 1 0 1\n")
    with pytest.raises(DataError, match="line 1: expected 'class x1 y1"):
        YoloObb(tmp_path / "images", tmp_path / "labels", ["ship"])[0]


def test_yolo_obb_labels_of_real_crops_are_those_of_their_dota_text(samples_dir: Path) -> None:
    root = samples_dir / "detection/dota8"
    classes = dataset_spec("dota").protocol("v1.0").classes
    yolo = YoloObb(root / "images/train", root / "labels/train", classes)
    dota = DotaText(root / "images/train", root / "labelTxt/train", classes)
    for ours, theirs in zip(yolo, dota, strict=True):
        assert ours.targets["labels"].tolist() == theirs.targets["labels"].tolist()
        corners = (torch.as_tensor(s.targets["boxes"]) for s in (ours, theirs))
        overlap = rotated_iou(*corners, aligned=True)
        assert float(overlap.min()) > 0.98


def test_a_split_of_a_known_set_is_read_by_its_protocol(tmp_path: Path) -> None:
    for kind in ("images", "labelTxt"):
        (tmp_path / "val" / kind).mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "val/images/P1.png")
    (tmp_path / "val/labelTxt/P1.txt").write_text("9 9 19 9 19 9.5 9 9.5 small-vehicle 1\n")
    dataset = CatalogueDetection("dota", tmp_path, "val", "s5", min_side_px=2)
    targets = dataset[0].targets
    assert dataset.classes[targets["labels"].item()] == "small-vehicle"
    assert targets["labels"].item() == 9  # the order of S5's patches
    assert targets["boxes"][0, 3].item() == 2
    assert targets["difficult"].tolist() == [True]
    with pytest.raises(DataError):
        CatalogueDetection("dota", tmp_path, "train")
