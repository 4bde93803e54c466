"""Every kind of fault, seeded into a clean set, is found in the file that has it and no other."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swath.core.data.check import KINDS, Report, check_folders, check_known
from swath.core.data.spec import Protocol
from swath.core.errors import DataError

SIDE = 16
TWO = Protocol(("ground", "roof"))


def noise(seed: int, side: int = SIDE) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3))
    return Image.fromarray(values.astype(np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training and two validation tiles without a fault."""
    for number, name in enumerate(("train/0", "train/1", "train/2", "val/3", "val/4")):
        for folder in ("images", "masks"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(tmp_path / "images" / f"{name}.png")
        mask = np.random.default_rng(number).integers(0, 2, (SIDE, SIDE)).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def check(root: Path) -> Report:
    return check_folders(root / "images", root / "masks", TWO, progress=False)


def drop_mask(root: Path) -> None:
    (root / "masks/train/1.png").unlink()


def shrink_mask(root: Path) -> None:
    Image.new("L", (SIDE - 1, SIDE)).save(root / "masks/train/1.png")


def mislabel(root: Path) -> None:
    mask = np.array(Image.open(root / "masks/train/1.png"))
    mask[4, 9] = 7
    Image.fromarray(mask).save(root / "masks/train/1.png")


def truncate(root: Path) -> None:
    path = root / "images/train/1.png"
    path.write_bytes(path.read_bytes()[:300])


def lose_colour(root: Path) -> None:
    noise(1).convert("L").save(root / "images/train/1.png")


def repeat(root: Path) -> None:
    # the same pixels in another format, so that only decoding can tell
    (root / "images/train/1.png").unlink()
    Image.open(root / "images/train/0.png").save(root / "images/train/1.tif")


def leak(root: Path) -> None:
    shutil.copy(root / "images/train/1.png", root / "images/val/3.png")


SEEDED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "missing": (drop_mask, "images/train/1.png", "has no label"),
    "size": (shrink_mask, "masks/train/1.png", "15 x 16 pixels for an image of 16 x 16"),
    "label": (
        mislabel,
        "masks/train/1.png",
        "label value 7 in 1 pixel(s), first at row 4, col",
    ),
    "unreadable": (truncate, "images/train/1.png", "truncated"),
    "dtype": (lose_colour, "images/train/1.png", "1 band(s) of uint8; the set has 3 of uint8"),
    "duplicate": (repeat, "images/train/1.tif", "the same picture as"),
    "leak": (leak, "images/val/3.png", "in val, but the same picture is in train"),
}


def test_a_clean_set_has_no_fault(root: Path) -> None:
    report = check(root)
    assert report.findings == []
    assert report.images == {"train": 3, "val": 2}
    assert report.sizes == {"16 x 16": 5}
    assert report.formats == {"uint8 x 3": 5}
    assert sum(report.histogram.values()) == 5 * SIDE**2


@pytest.mark.parametrize("kind", SEEDED)
def test_a_seeded_fault_is_found_where_it_is(root: Path, kind: str) -> None:
    seed, place, message = SEEDED[kind]
    seed(root)
    (fault,) = check(root).faults
    assert (fault.kind, fault.path) == (kind, str(root / place))
    assert message in fault.message
    assert "\n" not in fault.message


def test_a_folder_called_damaged_does_not_make_its_labels_unreadable(root: Path) -> None:
    mislabel(root)
    (fault,) = check(root.rename(root.with_name("damaged"))).faults
    assert fault.kind == "label"


def test_a_truncated_mask_is_unreadable(root: Path) -> None:
    path = root / "masks/train/1.png"
    path.write_bytes(path.read_bytes()[:60])
    (fault,) = check(root).faults
    assert (fault.kind, fault.path) == ("unreadable", str(path))


def test_all_faults_are_reported_in_one_run(root: Path) -> None:
    drop_mask(root)
    Image.fromarray(np.full((SIDE, SIDE), 9, np.uint8)).save(root / "masks/train/0.png")
    leak(root)
    (root / "images/val/4.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    noise(99).save(root / "masks/val/99.png")
    kinds = [f.kind for f in check(root).faults]
    assert sorted(kinds) == ["label", "leak", "missing", "missing", "unreadable"]
    assert kinds == sorted(kinds, key=list(KINDS).index)


@pytest.mark.parametrize(
    ("quad", "message"),
    [
        ("2 2 12 2 12 2 2 2", "degenerate"),
        ("2 2 12 12 12 2 2 12", "cross"),
        ("40 40 50 40 50 50 40 50", "outside the picture"),
    ],
)
def test_a_bad_quad_is_found_by_its_line(tmp_path: Path, quad: str, message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    noise(0).save(tmp_path / "images/a.png")
    lines = ["gsd:0.5", "1 1 9 1 9 9 1 9 ship 0", f"{quad} ship 0"]
    (tmp_path / "labelTxt/a.txt").write_text("\n".join(lines))
    report = check_folders(
        tmp_path / "images", tmp_path / "labelTxt", Protocol(("ship",)), kind="dota", progress=False
    )
    (fault,) = report.faults
    assert (fault.kind, fault.path) == ("box", str(tmp_path / "labelTxt/a.txt"))
    assert fault.message.startswith("line 3: ")
    assert message in fault.message
    assert report.histogram == {"ship": 2}


def test_yolo_quads_are_measured_in_pixels(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    noise(0).save(tmp_path / "images/a.png")
    lines = [
        "0 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6",
        "0 3 3 4 3 4 4 3 4",
        "1 0 0 0.01 0 0.01 0.01 0 0.01",
    ]
    (tmp_path / "labels/a.txt").write_text("\n".join(lines))
    report = check_folders(
        tmp_path / "images", tmp_path / "labels", TWO, kind="yolo-obb", progress=False
    )
    outside, degenerate = (fault.message for fault in report.faults)
    assert outside == "line 2: lies outside the picture of 16 x 16"
    assert degenerate.startswith("line 3: degenerate")
    assert report.histogram == {"ground": 2, "roof": 1}


@pytest.mark.parametrize(("angle", "faults"), [(math.pi / 3, 0), (60.0, 1)])
def test_an_angle_in_degrees_is_found(tmp_path: Path, angle: float, faults: int) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "xml").mkdir()
    noise(0).save(tmp_path / "images/a.png")
    box = f"<cx>8</cx><cy>8</cy><w>9</w><h>3</h><angle>{angle}</angle>"
    (tmp_path / "xml/a.xml").write_text(
        f"<a><object><name>ship</name><robndbox>{box}</robndbox></object></a>"
    )
    report = check_folders(
        tmp_path / "images",
        tmp_path / "xml",
        Protocol(("ship",)),
        kind="voc-rotated",
        progress=False,
    )
    assert [f.kind for f in report.faults] == ["box"] * faults
    assert all("radians" in f.message for f in report.faults)


def test_an_unknown_object_class_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    noise(0).save(tmp_path / "images/a.png")
    (tmp_path / "labelTxt/a.txt").write_text("1 1 9 1 9 9 1 9 shop 0\n")
    report = check_folders(
        tmp_path / "images", tmp_path / "labelTxt", Protocol(("ship",)), kind="dota", progress=False
    )
    (fault,) = report.faults
    assert fault.kind == "label"
    assert "line 1" in fault.message
    assert "'ship'" in fault.message


def test_lists_make_the_splits(root: Path) -> None:
    (root / "a.txt").write_text("train/0\ntrain/1\n")
    (root / "b.txt").write_text("train/1\nval/3\n")
    lists = [root / "a.txt", root / "b.txt"]
    report = check_folders(root / "images", root / "masks", TWO, lists=lists, progress=False)
    assert report.images == {"a": 2, "b": 2}
    assert [f.kind for f in report.faults] == ["leak"]
    (root / "b.txt").write_text("train/77\n")
    with pytest.raises(DataError, match=r"b\.txt: 'train/77' isn't an image"):
        check_folders(root / "images", root / "masks", TWO, lists=lists, progress=False)


def test_blank_tiles_may_repeat_and_absent_classes_are_only_noted(root: Path) -> None:
    for name in ("train/0", "val/3"):
        Image.new("RGB", (SIDE, SIDE)).save(root / f"images/{name}.png")
    three = Protocol(("ground", "roof", "pool"))
    report = check_folders(root / "images", root / "masks", three, progress=False)
    assert report.faults == []
    (note,) = report.findings
    assert "'pool' never occurs" in note.message


def test_a_known_set_is_checked_by_its_own_rules(tmp_path: Path) -> None:
    for number, split in enumerate(("Train", "Val")):
        folder = tmp_path / split / "Rural"
        (folder / "images_png").mkdir(parents=True)
        (folder / "masks_png").mkdir()
        noise(number).save(folder / f"images_png/{number}.png")
        mask = np.resize(np.arange(8, dtype=np.uint8), (SIDE, SIDE))
        Image.fromarray(mask).save(folder / f"masks_png/{number}.png")
    report = check_known("loveda", tmp_path, progress=False)
    assert report.faults == []
    assert report.images == {"train": 1, "val": 1}
    assert report.ignored == 2 * SIDE**2 // 8
    shutil.copy(tmp_path / "Train/Rural/images_png/0.png", tmp_path / "Val/Rural/images_png/1.png")
    Image.new("L", (SIDE, SIDE), 8).save(tmp_path / "Val/Rural/masks_png/1.png")
    noise(7).save(tmp_path / "Val/Rural/masks_png/7.png")
    kinds = [f.kind for f in check_known("loveda", tmp_path, progress=False).faults]
    assert kinds == ["missing", "label", "leak"]


def test_a_report_is_json(root: Path) -> None:
    mislabel(root)
    data = json.loads(json.dumps(check(root).to_data()))
    assert data["faults"] == 1
    assert data["images"] == {"train": 3, "val": 2}
    assert data["histogram"].keys() == {"ground", "roof"}
    (finding,) = data["findings"]
    assert finding.keys() == {"kind", "path", "message"}


def test_real_buildings_have_no_fault(samples_dir: Path) -> None:
    report = check_known("whu-building", samples_dir / "segmentation/whu_building", progress=False)
    assert report.faults == []
    assert report.images == {"all": 3}
    assert report.histogram["building"] > 9
