from collections import Counter
from pathlib import Path

import pytest
import rasterio
import torch

from swath.core.data.kampala import kampala_buildings, load_folds, make_folds
from swath.core.data.places import MapTile
from swath.core.errors import DataError


def place(name: str) -> MapTile:
    return MapTile.parse(name).ancestor(19)


@pytest.fixture(scope="module")
def root(samples_dir: Path) -> Path:
    return samples_dir / "segmentation" / "oam_kampala_buildings"


def test_no_place_appears_in_two_folds() -> None:
    folds = load_folds()["folds"]
    seen = Counter(p for fold in folds for p in {place(name) for name in fold})
    assert len(folds) == 4
    assert sum(len(fold) for fold in folds) == 105
    assert set(seen.values()) == {1}


def test_the_committed_folds_are_what_the_rule_gives(root: Path) -> None:
    assert make_folds(root) == load_folds()


def test_the_mosaic_fold_covers_exactly_the_mosaic(samples_dir: Path) -> None:
    tiles = [MapTile.parse(name) for name in load_folds()["mosaic"]]
    bounds = torch.tensor([place(str(tile)).bounds_m() for tile in tiles], dtype=torch.float64)
    with rasterio.open(samples_dir / "geotiff" / "oam_kampala_mosaic_rgb.tif") as mosaic:
        expected = torch.tensor(tuple(mosaic.bounds), dtype=torch.float64)
    covered = torch.cat([bounds[:, :2].amin(0), bounds[:, 2:].amax(0)])
    torch.testing.assert_close(covered, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("fold", [0, 1, 2, 3, "mosaic"])
def test_training_and_test_tiles_show_different_places(root: Path, fold: int | str) -> None:
    train, test = (kampala_buildings(root, fold, part) for part in ("train", "test"))
    assert not {place(i) for i in train.ids} & {place(i) for i in test.ids}
    assert len(train) + len(test) == 105


def test_stitched_places_hold_the_pixels_of_their_tiles(root: Path) -> None:
    tiles = kampala_buildings(root, 1, "test")
    whole = kampala_buildings(root, 1, "test", stitched=True)
    sizes = [sample.image.shape[-1] for sample in whole]
    assert sizes == [256, 512, 1024]
    buildings = sum(int((sample.targets["mask"] == 1).sum()) for sample in tiles)
    assert sum(int((sample.targets["mask"] == 1).sum()) for sample in whole) == buildings


@pytest.mark.parametrize(("fold", "part", "message"), [(4, "test", "fold '4'"), (0, "val", "val")])
def test_refuses_what_it_does_not_know(fold: int, part: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        kampala_buildings("nowhere", fold, part)
