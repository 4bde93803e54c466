"""Tiny copies laid out as their authors distribute them, cut into tiles and read again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from swath.core.data import prepare as module
from swath.core.data.catalogue import load_dataset
from swath.core.data.check import check_known
from swath.core.data.detection import read_dota
from swath.core.data.prepare import MANIFEST, cut_scene, prepare
from swath.core.errors import DataError
from swath.core.geo.windows import starts

# impervious, building, low vegetation, tree, car, clutter, and the boundary of noBoundary labels
ISPRS = np.array(
    [
        (255, 255, 255),
        (0, 0, 255),
        (0, 255, 255),
        (0, 255, 0),
        (255, 255, 0),
        (255, 0, 0),
        (0, 0, 0),
    ],
    np.uint8,
)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def classes(height: int, width: int, count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, (height, width))


def potsdam(root: Path, tiles: tuple[str, ...] = ("2_10", "7_13")) -> None:
    for number, tile in enumerate(tiles):
        index = classes(200, 160, len(ISPRS), number)
        save(root / f"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif", noise(200, 160, number))
        save(root / f"5_Labels_all/top_potsdam_{tile}_label.tif", ISPRS[index])


def dota(root: Path) -> None:
    """Two scenes: one with objects around a tile's border, one small and empty."""
    for split in ("train", "val"):
        save(root / split / "images/P0001.png", noise(150, 180))
        save(root / split / "images/P0002.png", noise(40, 50))
        labels = root / split / "labelTxt"
        labels.mkdir(parents=True)
        (labels / "P0001.txt").write_text(
            "imagesource:GoogleEarth\ngsd:0.15\n"
            "10 10 30 10 30 20 10 20 plane 0\n"  # wholly in the first tile
            "86 40 106 40 106 50 86 50 ship 1\n"  # 70 % of it in the first tile
            "87.5 60 107.5 60 107.5 70 87.5 70 harbor 0\n"  # 62.5 % of it in the first tile
        )
        (labels / "P0002.txt").write_text("")


def isaid(root: Path) -> None:
    colours = np.array([(0, 0, 0), (0, 0, 63), (0, 100, 155)], np.uint8)  # nothing, ship, harbor
    for seed, (split, name) in enumerate((("train", "P0003"), ("val", "P0004"))):
        save(root / split / f"images/{name}.png", noise(70, 120, seed))
        save(
            root / split / f"Semantic_masks/images/{name}_instance_color_RGB.png",
            colours[classes(70, 120, 3)],
        )


def test_potsdam_gives_the_papers_numbers_of_crops() -> None:
    recipe = module.RECIPES["potsdam"]
    for overlap, side in ((recipe.overlap, 23), (recipe.overlap_val, 12)):
        assert len(starts(6000, recipe.size, recipe.size - overlap)) == side


def test_potsdam_tiles_hold_the_scene_and_its_classes(tmp_path: Path) -> None:
    potsdam(tmp_path / "raw")
    done = prepare("potsdam", tmp_path / "raw", tmp_path / "out", size=64, overlap=32)
    assert (done.scenes, done.tiles) == (2, 2 * 6 * 4)  # 200 and 160 px, a tile every 32
    out = tmp_path / "out"
    for split, tile, number in (("train", "2_10", 0), ("val", "7_13", 1)):
        scene, index = noise(200, 160, number), classes(200, 160, len(ISPRS), number)
        crop = 9  # third row, second column
        name = f"{split}/top_potsdam_{tile}"
        pixels = np.array(Image.open(out / f"img_dir/{name}_RGB_crop_{crop}.png"))
        mask = np.array(Image.open(out / f"ann_dir/{name}_label_crop_{crop}.png"))
        assert np.array_equal(pixels, scene[64:128, 32:96])
        stored = np.where(index == 6, 255, index)[64:128, 32:96]
        assert np.array_equal(mask, stored)
        data = load_dataset("potsdam", out, split)
        assert len(data) == 24
        # S5's five classes: clutter is ignored
        read = data[crop].targets["mask"].numpy()
        assert np.array_equal(read, np.where(stored == 5, 255, stored))
    assert not check_known("potsdam", out).faults


def test_vaihingen_tiles_are_read_by_the_catalogue(tmp_path: Path) -> None:
    for area in ("1", "38"):
        save(tmp_path / f"raw/top/top_mosaic_09cm_area{area}.tif", noise(70, 64))
        save(
            tmp_path / f"raw/gts_for_participants/top_mosaic_09cm_area{area}.tif",
            ISPRS[classes(70, 64, 6)],
        )
    prepare("vaihingen", tmp_path / "raw", tmp_path / "out", size=64, overlap=0)
    data = load_dataset("vaihingen", tmp_path / "out", "val")
    assert [data[i].image.shape for i in range(len(data))] == [(3, 64, 64)] * 2
    assert np.array_equal(data[1].image.numpy(), np.moveaxis(noise(70, 64)[6:], -1, 0))


def test_isaid_colours_become_indices_and_small_scenes_are_padded(tmp_path: Path) -> None:
    isaid(tmp_path / "raw")
    prepare("isaid", tmp_path / "raw", tmp_path / "out", size=96, overlap=32)
    assert not check_known("isaid", tmp_path / "out").faults
    data = load_dataset("isaid", tmp_path / "out", "val")
    assert data.ids == ["P0004_0_96_0_96", "P0004_0_96_24_120"]
    mask = data[1].targets["mask"].numpy()
    assert np.array_equal(mask[:70], np.array([0, 1, 15])[classes(70, 120, 3)][:, 24:])
    assert (mask[70:] == 255).all()
    assert (data[1].image[:, 70:] == 0).all()


def test_dota_objects_move_with_their_tiles(tmp_path: Path) -> None:
    dota(tmp_path / "raw")
    out = tmp_path / "out"
    done = prepare("dota", tmp_path / "raw", out, size=100, overlap=20)
    tiles = {p.stem for p in (out / "val/images").iterdir()}
    grid = {f"P0001__100__{x}___{y}" for x in (0, 80) for y in (0, 50)}
    assert tiles == grid | {"P0002__100__0___0"}
    first = read_dota(out / "val/labelTxt/P0001__100__0___0.txt")
    assert first.names == ["plane", "ship"]  # the harbor has too little in it
    assert first.difficult == [False, True]
    assert first.boxes[1].tolist() == [86, 40, 106, 40, 106, 50, 86, 50]
    second = read_dota(out / "val/labelTxt/P0001__100__80___0.txt")
    assert second.names == ["ship", "harbor"]
    assert second.boxes[1].tolist() == [7.5, 60, 27.5, 60, 27.5, 70, 7.5, 70]
    small = np.array(Image.open(out / "val/images/P0002__100__0___0.png"))
    assert np.array_equal(small[:40, :50], noise(40, 50))
    assert (small[40:] == (124, 116, 104)).all()
    # tiles without an object are no use in training, and belong to validation
    train = {p.stem for p in (out / "train/images").iterdir()}
    empty = {t for t in tiles if not read_dota(out / f"val/labelTxt/{t}.txt").names}
    assert train == tiles - empty
    assert done.tiles == len(train) + len(tiles)
    samples = load_dataset("dota", out, "train", "v1.0")
    assert len(samples[0].targets["boxes"]) == 2


def test_scenes_whose_labels_are_not_public_are_cut_too(tmp_path: Path) -> None:
    dota(tmp_path / "raw")
    save(tmp_path / "raw/test-dev/images/P0009.png", noise(40, 50))
    prepare("dota", tmp_path / "raw", tmp_path / "out", size=100, overlap=20)
    assert [p.stem for p in (tmp_path / "out/test-dev/images").iterdir()] == ["P0009__100__0___0"]
    everything = load_dataset("dota", tmp_path / "out", "all")
    assert "boxes" not in everything[everything.ids.index("P0009__100__0___0")].targets


@pytest.mark.parametrize("split", ["test", "test-dev"])
def test_dotas_test_split_is_the_folder_test_dev(tmp_path: Path, split: str) -> None:
    dota(tmp_path / "raw")
    save(tmp_path / "raw/test-dev/images/P0009.png", noise(40, 50))
    prepare("dota", tmp_path / "raw", tmp_path / "out", size=100, overlap=20, split=split)
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == ["test-dev"]
    assert load_dataset("dota", tmp_path / "out", "test").ids == ["P0009__100__0___0"]


def test_a_scene_is_cut_in_memory_as_on_disk(tmp_path: Path) -> None:
    save(tmp_path / "raw/val/images/P0007.png", noise(1100, 1300))
    (tmp_path / "raw/val/labelTxt").mkdir()
    (tmp_path / "raw/val/labelTxt/P0007.txt").touch()
    prepare("dota", tmp_path / "raw", tmp_path / "out")
    cut = {
        f"P0007__1024__{column}___{row}": pixels
        for row, column, pixels in cut_scene("dota", tmp_path / "raw/val/images/P0007.png")
    }
    written = {p.stem: np.array(Image.open(p)) for p in (tmp_path / "out/val/images").iterdir()}
    assert cut.keys() == written.keys()
    assert all(np.array_equal(cut[name], written[name]) for name in cut)


def test_grey_and_small_scenes_are_cut_into_padded_rgb(tmp_path: Path) -> None:
    grey = noise(40, 50)[..., 0]
    save(tmp_path / "grey.png", grey)
    ((row, column, pixels),) = cut_scene("dota", tmp_path / "grey.png")
    assert (row, column) == (0, 0)
    assert np.array_equal(pixels[:40, :50], np.repeat(grey[..., None], 3, axis=2))
    assert (pixels[40:] == module.RECIPES["dota"].pad).all()
    with pytest.raises(DataError, match="'loveda' is used as it is distributed"):
        next(cut_scene("loveda", tmp_path / "grey.png"))


def test_no_object_of_dota_is_lost_where_overlap_exceeds_its_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    save(tmp_path / "raw/val/images/P1.png", noise(300, 400))
    lines = []
    for _ in range(60):
        x, y, w, h = (*rng.uniform(0, [380, 280]), *rng.uniform(4, 20, 2))
        corners = ((x, y), (x + w, y), (x + w, y + h), (x, y + h))
        lines.append(" ".join(f"{value:.1f}" for corner in corners for value in corner))
    (tmp_path / "raw/val/labelTxt").mkdir()
    (tmp_path / "raw/val/labelTxt/P1.txt").write_text("".join(f"{line} ship 0\n" for line in lines))
    prepare("dota", tmp_path / "raw", tmp_path / "out", size=100, overlap=40)
    found: list[np.ndarray] = []
    for path in (tmp_path / "out/val/labelTxt").iterdir():
        x, y = (int(number) for number in path.stem.split("__", 2)[2].split("___"))
        found += [box.reshape(4, 2) + np.array((x, y)) for box in read_dota(path).boxes]
    again = shapely.polygons(np.array(found))
    for box in read_dota(tmp_path / "raw/val/labelTxt/P1.txt").boxes:
        assert shapely.equals_exact(again, shapely.polygons(box.reshape(4, 2)), 0.02).any()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    potsdam(tmp_path / "raw", ("2_10", "2_11", "7_13"))
    cut = module._Cutter.__call__

    def stopped(self: object, split: str, item: object) -> object:
        if split == "val":
            raise KeyboardInterrupt
        return cut(self, split, item)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module._Cutter, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare("potsdam", tmp_path / "raw", tmp_path / "a", size=64, overlap=0, workers=1)
    manifest = tmp_path / "a" / MANIFEST
    manifest.write_text(manifest.read_text() + '{"scene": "val/7_1')  # cut off while writing
    resumed = prepare("potsdam", tmp_path / "raw", tmp_path / "a", size=64, overlap=0)
    whole = prepare("potsdam", tmp_path / "raw", tmp_path / "b", size=64, overlap=0, workers=3)
    assert (resumed.skipped, whole.skipped) == (2, 0)
    assert resumed.tiles == whole.tiles
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_a_second_run_only_mends_what_is_missing_or_changed(tmp_path: Path) -> None:
    potsdam(tmp_path / "raw")
    arguments = ("potsdam", tmp_path / "raw", tmp_path / "out")
    prepare(*arguments, size=64, overlap=0)
    before = snapshot(tmp_path / "out")
    assert prepare(*arguments, size=64, overlap=0).skipped == 2
    (tmp_path / "out/img_dir/val/top_potsdam_7_13_RGB_crop_3.png").unlink()
    assert prepare(*arguments, size=64, overlap=0).skipped == 1
    assert snapshot(tmp_path / "out") == before
    save(tmp_path / "raw/2_Ortho_RGB/top_potsdam_2_10_RGB.tif", noise(201, 160, 9)[:200] // 2)
    with pytest.raises(DataError, match="another size or overlap"):
        prepare(*arguments, size=32, overlap=0)


def missing_label(root: Path) -> None:
    potsdam(root)
    (root / "5_Labels_all/top_potsdam_7_13_label.tif").unlink()


def wrong_size(root: Path) -> None:
    potsdam(root)
    save(root / "5_Labels_all/top_potsdam_7_13_label.tif", ISPRS[classes(100, 160, 6)])


def wrong_colour(root: Path) -> None:
    potsdam(root)
    save(root / "5_Labels_all/top_potsdam_7_13_label.tif", noise(200, 160))


def packed(root: Path) -> None:
    root.mkdir()
    (root / "2_Ortho_RGB.zip").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing_label, "top_potsdam_7_13_label.tif isn't there"),
        (wrong_size, "160 x 100 pixels, but its image"),
        (wrong_colour, "label.tif, in the tile from row 0, column 0: label value"),
        (packed, "unpack 2_Ortho_RGB.zip first"),
        (lambda root: None, "isn't a folder"),
    ],
)
def test_says_what_is_wrong_with_a_copy(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "raw")
    with pytest.raises(DataError, match=message):
        prepare("potsdam", tmp_path / "raw", tmp_path / "out", size=64, overlap=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("loveda", {}, "index masks already"),
        ("eurosat", {}, "prepare. knows potsdam"),
        ("potsdm", {}, "did you mean 'potsdam'"),
        ("potsdam", {"overlap": 512}, "overlap below it"),
        ("potsdam", {"split": "test"}, "belongs to split 'test'"),
    ],
)
def test_refuses_what_it_cannot_prepare(
    tmp_path: Path, name: str, options: dict[str, object], message: str
) -> None:
    potsdam(tmp_path / "raw")
    with pytest.raises(DataError, match=message):
        prepare(name, tmp_path / "raw", tmp_path / "out", **options)  # type: ignore[arg-type]


def test_leaves_folders_alone_that_it_did_not_make(tmp_path: Path) -> None:
    potsdam(tmp_path / "raw")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("chapter 1")
    with pytest.raises(DataError, match="isn't empty"):
        prepare("potsdam", tmp_path / "raw", tmp_path / "out")
    with pytest.raises(DataError, match="another folder"):
        prepare("potsdam", tmp_path / "raw", tmp_path / "raw")
