from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swath.core.data.catalogue import load_dataset
from swath.core.errors import DataError
from swath.mtl import sets
from swath.mtl.potsdam import prepare_irrg
from swath.mtl.puzzle import six_to_five, stitch, stitch_folder

COLOURS = np.array(
    [[255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0], [0] * 3],
    np.uint8,
)


def raw(root: Path, area: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene as distributed; its pixels and the classes it was drawn from (6: boundary)."""
    generator = np.random.default_rng(int(area.replace("_", "")))
    pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
    classes = generator.integers(0, 7, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
    for folder, name, array in (
        ("3_Ortho_IRRG", f"top_potsdam_{area}_IRRG.tif", pixels),
        ("5_Labels_all", f"top_potsdam_{area}_label.tif", COLOURS[classes]),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / folder / name)
    return pixels, classes


def test_scenes_become_tiles_that_the_catalogue_reads_and_the_puzzle_puts_together(
    tmp_path: Path,
) -> None:
    pixels, classes = raw(tmp_path / "raw", "2_10", 768, 1024)
    raw(tmp_path / "raw", "7_13", 512, 512)
    done = prepare_irrg(tmp_path / "raw", tmp_path / "tiles", workers=1)
    assert (done.scenes, done.tiles) == (2, 2 * 2 + 1)
    names = {path.name for path in (tmp_path / "tiles/img_IRRG/train").iterdir()}
    # 768 px high: the second row is moved up to the border
    assert names == {
        "2_10_0_0_512_512.png", "2_10_512_0_1024_512.png",
        "2_10_0_256_512_768.png", "2_10_512_256_1024_768.png",
    }  # fmt: skip
    set_name, protocol = sets.PROTOCOLS["seg/potsdam"]
    train = load_dataset(set_name, tmp_path / "tiles", "train", protocol)
    first = next(train[i] for i in range(len(train)) if train.ids[i].endswith("0_0_512_512"))
    want = np.where(classes == 6, 255, classes)[:512, :512]
    np.testing.assert_array_equal(np.asarray(first.targets["mask"]), want)
    assert len(load_dataset(set_name, tmp_path / "tiles", "val", protocol)) == 1

    (path,) = stitch_folder(tmp_path / "tiles/img_IRRG/train", tmp_path / "whole")
    assert path.name == "2_10.png"
    with Image.open(path) as whole:
        np.testing.assert_array_equal(np.asarray(whole), pixels)


def test_what_is_no_tile_is_named(tmp_path: Path) -> None:
    tile = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(DataError, match="area_left_top_right_bottom"):
        stitch({"2_10": tile})
    with pytest.raises(DataError, match="the tile has 4 x 4 px, its name says 5 x 4"):
        stitch({"2_10_0_0_5_4": tile})
    with pytest.raises(DataError, match="nowhere isn't a folder"):
        stitch_folder(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match=r"holds no \.png tiles"):
        stitch_folder(tmp_path, tmp_path / "out")
    (tmp_path / "2_10_0_0_4_4.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="can't be read as an image"):
        stitch_folder(tmp_path, tmp_path / "out")


def test_predicted_maps_are_put_together_in_their_colours(tmp_path: Path) -> None:
    for left in (0, 4):
        tile = Image.fromarray(np.full((4, 4), 5 if left else 1, np.uint8)).convert("P")
        tile.putpalette(COLOURS[:6].ravel().tolist())
        tile.save(tmp_path / f"2_10_{left}_0_{left + 4}_4.png")
    (path,) = stitch_folder(tmp_path, tmp_path / "areas", five_classes=True)
    with Image.open(path) as whole:
        drawn = np.asarray(whole)
    np.testing.assert_array_equal(drawn[:, :4], np.broadcast_to(COLOURS[1], (4, 4, 3)))
    np.testing.assert_array_equal(drawn[:, 4:], np.full((4, 4, 3), 255))  # clutter

    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "2_10_0_0_4_4.png")
    (tmp_path / "2_10_4_0_8_4.png").unlink()
    with pytest.raises(DataError, match="tiles of 2_10 have no colours"):
        stitch_folder(tmp_path, tmp_path / "areas", five_classes=True)


def test_clutter_is_drawn_as_impervious_surface() -> None:
    drawn = six_to_five(COLOURS[None])
    np.testing.assert_array_equal(drawn[0, 5], [255, 255, 255])
    np.testing.assert_array_equal(drawn[0, :5], COLOURS[:5])
