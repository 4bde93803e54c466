"""Tiny copies that follow the dossiers' paths, read by name."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torchvision.tv_tensors import Mask

from swath.core.data import catalogue as module
from swath.core.data.catalogue import catalogue, dataset_spec, load_dataset
from swath.core.data.check import check_known
from swath.core.data.preview import contact_sheet
from swath.core.data.segmentation import read_image_tensor
from swath.core.data.spec import DatasetSpec, Layout, Protocol
from swath.core.errors import DataError
from swath.core.plugins import Plugin
from swath.core.sample import Sample


def picture(path: Path, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def labels(path: Path, values: list[int]) -> None:
    """A mask of 8 x 8 whose columns repeat the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.resize(np.array(values, np.uint8), 8)
    Image.fromarray(np.tile(row, (8, 1))).save(path)


def colours(path: Path, values: list[tuple[int, int, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.array([values[i % len(values)] for i in range(8)], np.uint8)
    Image.fromarray(np.tile(row, (8, 1, 1))).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def potsdam_s5(root: Path) -> None:
    for split, tile in (("train", "2_10"), ("val", "2_13")):
        picture(root / f"potsdam/img_dir/{split}/top_potsdam_{tile}_RGB_crop_0.png")
        labels(root / f"potsdam/ann_dir/{split}/top_potsdam_{tile}_label_crop_0.png", [0, 4, 5])


def potsdam_mmseg(root: Path) -> None:
    picture(root / "img_dir/train/2_10_0_0_512_512.png")
    labels(root / "ann_dir/train/2_10_0_0_512_512.png", [0, 1, 5, 6])


def potsdam_irrg(root: Path) -> None:
    picture(root / "img_IRRG/val/2_13_0_0_512_512.png")
    labels(root / "ann_all/val/2_13_0_0_512_512.png", [0, 6])


def potsdam_original(root: Path) -> None:
    for tile in ("2_10", "2_13", "7_13"):
        picture(root / f"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif")
        path = root / f"5_Labels_all/top_potsdam_{tile}_label.tif"
        colours(path, [(255, 255, 255), (255, 255, 0), (255, 0, 0), (0, 0, 0)])


def vaihingen_s5(root: Path) -> None:
    for split, area in (("train", 1), ("val", 2)):
        for folder, write in (("img_dir", picture), ("ann_dir", lambda p: labels(p, [0, 5]))):
            write(root / f"vaihingen/{folder}/{split}/top_mosaic_09cm_area{area}_3.tif")


def vaihingen_flat(root: Path) -> None:
    for area in (1, 2, 38):
        picture(root / f"img_dir/area{area}_0_0_512_512.png")
        labels(root / f"ann_dir/area{area}_0_0_512_512.png", [0, 6])


def loveda(root: Path) -> None:
    for i, (split, area) in enumerate([("Train", "Rural"), ("Train", "Urban"), ("Val", "Rural")]):
        picture(root / f"loveda/{split}/{area}/images_png/{i}.png")
        labels(root / f"loveda/{split}/{area}/masks_png/{i}.png", [0, 1, 7])
    picture(root / "loveda/Test/Urban/images_png/9.png")


def openearthmap(root: Path) -> None:
    for name in ("tokyo_1", "rio_de_janeiro_2"):
        city = name.rpartition("_")[0]
        picture(root / f"{city}/images/{name}.tif")
        labels(root / f"{city}/labels/{name}.tif", [0, 8])
    text(root / "train.txt", "tokyo_1.tif\n")
    text(root / "val.txt", "rio_de_janeiro_2.tif\n")


def isaid(root: Path) -> None:
    picture(root / "labeled/iSAID/train/images/P0000_0000_crop_1.png")
    labels(root / "labeled/iSAID/train/masks/P0000_0000_crop_1.png", [0, 15, 255])


def whu(root: Path) -> None:
    picture(root / "train/image/1.tif")
    labels(root / "train/label/1.tif", [0, 255])


def dubai(root: Path) -> None:
    picture(root / "Tile 1/images/image_part_001.jpg")
    colours(root / "Tile 1/masks/image_part_001.png", [(60, 16, 152), (155, 155, 155)])


def sen1floods11(root: Path) -> None:
    base = root / "v1.1/data/flood_events/HandLabeled"
    for kind, count, dtype in (("S2Hand", 13, "int16"), ("LabelHand", 1, "int16")):
        path = base / f"{kind}/Ghana_1_{kind}.tif"
        path.parent.mkdir(parents=True)
        profile = {"driver": "GTiff", "count": count, "height": 8, "width": 8, "dtype": dtype}
        values = np.tile(np.array([-1, 0, 1, 1] * 2, dtype), (count, 8, 1))
        with rasterio.open(path, "w", **profile) as file:
            file.write(values)


@pytest.mark.parametrize(
    ("name", "make", "below", "counts", "expected"),
    [
        ("potsdam", potsdam_s5, ".", {"train": 1, "val": 1, "all": 2}, {0, 4, 255}),
        ("potsdam", potsdam_mmseg, ".", {"train": 1}, {255, 0, 4, 5}),
        ("potsdam", potsdam_irrg, ".", {"val": 1}, {255, 5}),
        ("potsdam", potsdam_original, ".", {"train": 1, "val": 2, "all": 3}, {0, 4, 5, 255}),
        ("vaihingen", vaihingen_s5, "vaihingen", {"train": 1, "val": 1}, {0, 255}),
        ("vaihingen", vaihingen_flat, ".", {"train": 1, "val": 2}, {255, 5}),
        ("loveda", loveda, ".", {"train": 2, "val": 1, "all": 3, "test": 1}, {255, 0, 6}),
        ("openearthmap", openearthmap, ".", {"train": 1, "val": 1, "all": 2}, {0, 8}),
        ("isaid", isaid, "labeled/iSAID", {"train": 1}, {0, 15, 255}),
        ("whu-building", whu, ".", {"train": 1}, {0, 1}),
        ("dubai", dubai, ".", {"all": 1}, {0, 255}),
        ("sen1floods11", sen1floods11, ".", {"all": 1}, {255, 0, 1}),
    ],
)
def test_reads_the_papers_layout_and_encoding(
    tmp_path: Path,
    name: str,
    make: Callable[[Path], None],
    below: str,
    counts: dict[str, int],
    expected: set[int],
) -> None:
    make(tmp_path)
    for split, count in counts.items():
        data = load_dataset(name, tmp_path / below, split)
        assert len(data) == count, split
        assert len(set(data.ids)) == count
    sample = load_dataset(name, tmp_path / below, next(iter(counts)))[0]
    assert set(sample.targets["mask"].unique().tolist()) == expected
    assert sample.image.shape[0] == len(dataset_spec(name).bands)


def test_the_s5_lists_work_as_splits(tmp_path: Path) -> None:
    loveda(tmp_path)
    lines = [
        f"loveda/{s}/images_png/{i}.png loveda/{s}/masks_png/{i}.png\n"
        for i, s in enumerate(["Train/Rural", "Train/Urban", "Val/Rural"])
    ]
    text(tmp_path / "splits/loveda/all.txt", "".join(lines))
    data = load_dataset("loveda", tmp_path / "loveda", str(tmp_path / "splits/loveda/all.txt"))
    assert len(data) == 3
    assert {int(v) for i in range(3) for v in data[i].targets["mask"].unique()} == {0, 6, 255}


def test_a_wrong_protocol_is_noticed_where_the_labels_allow(tmp_path: Path) -> None:
    potsdam_mmseg(tmp_path)
    with pytest.raises(DataError, match=r"label value 6 .*choose the protocol of its encoding"):
        load_dataset("potsdam", tmp_path, "train", "s5")[0]


def dota(root: Path) -> None:
    picture(root / "train/images/P0001.png", 64)
    text(
        root / "train/labelTxt/P0001.txt",
        "imagesource:GoogleEarth\ngsd:0.1\n10 10 30 10 30 20 10 20 small-vehicle 0\n",
    )


def dior(root: Path) -> None:
    picture(root / "DIOR/JPEGImages-trainval/00001.jpg", 64)
    picture(root / "DIOR/JPEGImages-test/00002.jpg", 64)
    corners = [
        ("left_top", 5, 5),
        ("right_top", 25, 5),
        ("right_bottom", 25, 15),
        ("left_bottom", 5, 15),
    ]
    rotated = "".join(f"<x_{c}>{x}</x_{c}><y_{c}>{y}</y_{c}>" for c, x, y in corners)
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>25</xmax><ymax>15</ymax></bndbox>"
    name = "<name>Expressway-Service-area</name>"
    for stem in ("00001", "00002"):
        for folder, content in (("obb", f"<robndbox>{rotated}</robndbox>"), ("hbb", box)):
            text(
                root / f"DIOR/Annotations/{folder}/{stem}.xml",
                f"<annotation><object>{name}{content}</object></annotation>",
            )
    text(root / "DIOR/ImageSets/Main/trainval.txt", "00001\n")
    text(root / "DIOR/ImageSets/Main/train.txt", "00001\n")


def vhr10(root: Path) -> None:
    picture(root / "positive image set/001.jpg", 64)
    text(root / "ground truth/001.txt", "( 5, 6),(25,16),10 \n\n")


def vhr10_coco(root: Path) -> None:
    picture(root / "images/001.jpg", 64)
    content = {
        "categories": [{"id": 10, "name": "vehicle"}],
        "images": [{"id": 1, "file_name": "001.jpg", "width": 64, "height": 64}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 10,
                "bbox": [5, 6, 20, 10],
                "segmentation": [[5, 6, 25, 6, 25, 16, 5, 16]],
            }
        ],
    }
    text(root / "instances.json", json.dumps(content))


@pytest.mark.parametrize(
    ("name", "make", "split", "box", "class_name"),
    [
        ("dota", dota, "train", [20, 15, 20, 10, 0], "small-vehicle"),
        ("dior-r", dior, "trainval", [15, 10, 20, 10, 0], "expressway-service-area"),
        ("dior", dior, "train", [5, 5, 25, 15], "expressway-service-area"),
        ("dior", dior, "test", [5, 5, 25, 15], "expressway-service-area"),
        ("nwpu-vhr10", vhr10, "all", [5, 6, 25, 16], "vehicle"),
        ("nwpu-vhr10", vhr10_coco, "all", [5, 6, 25, 16], "vehicle"),
    ],
)
def test_reads_the_detection_sets(
    tmp_path: Path,
    name: str,
    make: Callable[[Path], None],
    split: str,
    box: list[float],
    class_name: str,
) -> None:
    make(tmp_path)
    data = load_dataset(name, tmp_path, split)
    assert len(data) == 1
    targets = data[0].targets
    np.testing.assert_allclose(targets["boxes"].numpy(), [box], atol=1e-4)
    assert [data.classes[i] for i in targets["labels"]] == [class_name]
    if "instances" in targets:
        assert targets["instances"].shape == (1, 64, 64)
        assert int(targets["instances"].sum()) == 20 * 10


def test_reads_class_folders(tmp_path: Path) -> None:
    for name in ("River", "Forest"):
        picture(tmp_path / f"2750/{name}/{name}_1.jpg")
    data = load_dataset("eurosat", tmp_path)
    assert data.ids == ["Forest/Forest_1", "River/River_1"]
    assert [data[i].targets["label"] for i in range(2)] == [1, 8]
    for split in ("train", "val"):
        picture(tmp_path / f"resisc/{split}/sea_ice/sea_ice_001.jpg")
    assert len(load_dataset("resisc45", tmp_path / "resisc", "val")) == 1


SAMPLES = {
    "potsdam": ("segmentation/potsdam", 1),
    "vaihingen": ("segmentation/vaihingen", 1),
    "loveda": ("segmentation/loveda", 2),
    "whu-building": ("segmentation/whu_building", 3),
    "dubai": ("segmentation/dubai", 3),
    "oam-kampala": ("segmentation/oam_kampala_buildings", 105),
    "sen1floods11": ("geotiff/sen1floods11", 1),
    "sen1floods11-s1": ("geotiff/sen1floods11", 1),
    "nwpu-vhr10": ("detection/nwpu_vhr10", 200),
    "nwpu-vhr10-rotated": ("detection/nwpu_vhr10", 200),
    "nwpu-vhr10-semantic": ("detection/nwpu_vhr10", 200),
    "dota": ("detection/dota8", 4),
    "neon-trees": ("detection/neon_tree_hbb", 2),
    "eurosat": ("classification/eurosat_rgb", 2000),
    "resisc12": ("classification/resisc12", 72),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_real_samples_are_readable_by_name(samples_dir: Path, name: str) -> None:
    folder, count = SAMPLES[name]
    data = load_dataset(name, samples_dir / folder)
    assert len(data) == count
    sample = data[count - 1]
    assert str(sample.image.dtype).removeprefix("torch.") == dataset_spec(name).dtype
    if "mask" in sample.targets:
        known = {*range(len(data.classes)), data.ignore_index}
        assert set(sample.targets["mask"].unique().tolist()) <= known


def test_every_spec_is_coherent() -> None:
    for name, spec in catalogue().items():
        assert spec.name == name
        known = spec.task in ("segmentation", "detection", "classification")
        assert known or all(layout.reader for layout in spec.layouts)
        for layout in spec.layouts:
            assert layout.protocol is None or layout.protocol in spec.protocols
            assert set(Layout(layout.labels or "").fields()) <= set(layout.fields())


def test_plugins_add_sets_and_broken_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own = DatasetSpec("own", "Own", "segmentation", (), {"a": Protocol(("x",))})
    monkeypatch.setattr(module, "own", own, raising=False)
    declared = SimpleNamespace(
        datasets=("swath.core.data.catalogue:own", "swath.core.data.catalogue:gone")
    )
    monkeypatch.setattr(module, "plugins", lambda: (Plugin("toy", data=declared),))
    with pytest.warns(UserWarning, match="plugin 'toy': data set .*gone"):
        known = catalogue.__wrapped__()
    assert known["own"] is own


class Whispers:
    """What a plugin reads: the picture of a split, with a sentence and the mask it means."""

    classes, palette = ("background", "object"), ((0, 0, 0), (250, 0, 0))

    def __init__(self, place: Path, layout: Layout, split: str) -> None:
        if split == "test":
            raise DataError(f"{place}: no such split")
        self.items = [layout.item(place, {"id": split})] * 2
        self.ids = [f"{split}-{i}" for i in range(2)]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        if index and "damaged" in self.items[0].image.parts[-2]:
            raise DataError(f"{self.items[0].image}: its mask is for another picture")
        image, _ = read_image_tensor(self.items[0].image)
        mask = torch.zeros(image.shape[1:], dtype=torch.uint8)
        mask[0] = 1
        return Sample(image, {"sentence": "the first row", "mask": Mask(mask)})


@pytest.mark.parametrize("folder", ["whole", "damaged"])
def test_a_plugin_may_read_a_set_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    layout = Layout(f"{folder}/{{id}}.png", kind="whispers", reader="plugin_of_a_test:Whispers")
    splits = {"train": {}, "test": {}}
    spec = DatasetSpec("w", "W", "referring", (layout,), {"a": Protocol(Whispers.classes)}, splits)
    monkeypatch.setitem(sys.modules, "plugin_of_a_test", SimpleNamespace(Whispers=Whispers))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "catalogue", lambda: {"w": spec})
    picture(tmp_path / folder / "train.png")
    assert len(load_dataset("w", tmp_path, "train")) == 2
    report = check_known("w", tmp_path, progress=False)
    assert report.images == {"train": 1}
    found = {finding.kind: finding.message for finding in report.faults}
    assert found.pop("missing") == "no such split"
    if folder == "damaged":
        assert found == {"label": "its mask is for another picture"}
        assert report.histogram == {"background": 56, "object": 8}
    else:
        assert found == {}
        assert report.histogram == {"background": 112, "object": 16}
        sheet = contact_sheet(load_dataset("w", tmp_path, "train"), tmp_path / "sheet.png")
        assert Image.open(sheet).width > 600


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(DataError, match="did you mean 'vaihingen'"):
        dataset_spec("vaihinge")
