from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swath.core.data.places import MapTile, Place, StitchedPlaces, balanced_folds, places_of
from swath.core.data.segmentation import FolderSegmentation
from swath.core.errors import DataError


def test_a_name_ends_with_column_row_and_zoom() -> None:
    assert MapTile.parse("z21/OAM-1238448-1046528-21") == MapTile(21, 1238448, 1046528)


@pytest.mark.parametrize("name", ["roof", "OAM-4-0-2", "OAM-1-2"])
def test_refuses_a_name_that_is_no_tile(name: str) -> None:
    with pytest.raises(DataError, match=name):
        MapTile.parse(name)


def test_an_ancestor_contains_its_descendant() -> None:
    tile = MapTile(21, 1238450, 1046531)
    assert tile.ancestor(19) == MapTile(19, 309612, 261632)
    west, south, east, north = tile.bounds_m()
    outer_west, outer_south, outer_east, outer_north = tile.ancestor(19).bounds_m()
    assert outer_west < west < east < outer_east
    assert south == pytest.approx(outer_south)  # the last of four rows
    assert outer_south < north < outer_north


def test_refuses_a_descendant_as_ancestor() -> None:
    with pytest.raises(DataError, match="1-1-3 is coarser"):
        MapTile(3, 1, 1).ancestor(5)


def test_the_only_tile_of_zoom_0_is_the_world() -> None:
    bounds = np.array(MapTile(0, 0, 0).bounds_m())
    np.testing.assert_allclose(bounds, np.array([-1, -1, 1, 1]) * np.pi * 6378137.0)


def test_dense_and_sparse_places_share_a_fold() -> None:
    shares = (0.9, 0.5, 0.5, 0.1)
    places = {MapTile(3, i, 0): Place(10, share) for i, share in enumerate(shares)}
    folds = balanced_folds(places, 2)
    assert [[tile.x for tile in fold] for fold in folds] == [[0, 3], [1, 2]]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=3, max_size=7),
    st.integers(2, 3),
)
def test_every_place_is_in_exactly_one_fold(values: list[tuple[int, float]], count: int) -> None:
    places = {MapTile(4, i, 1): Place(*value) for i, value in enumerate(values)}
    folds = balanced_folds(places, count)
    assert sorted(tile for fold in folds for tile in fold) == sorted(places)
    assert all(folds)
    assert folds == balanced_folds(dict(reversed(places.items())), count)


def test_refuses_more_folds_than_places() -> None:
    with pytest.raises(DataError, match="1 places can't be divided into 2 folds"):
        balanced_folds({MapTile(0, 0, 0): Place(1, 0.5)}, 2)


def test_a_place_holds_its_tiles_of_all_zooms() -> None:
    names = ["a-9-4-4", "a-4-2-3", "a-0-0-3"]
    assert places_of(names, 3) == {
        MapTile(3, 0, 0): ["a-0-0-3"],
        MapTile(3, 4, 2): ["a-4-2-3", "a-9-4-4"],
    }


@pytest.fixture
def tiles(tmp_path: Path) -> FolderSegmentation:
    """Place 2-3-4 at zoom 5 without its south-eastern tile, and whole at zoom 4."""
    for name, value in (("4-6-5", 1), ("5-6-5", 2), ("4-7-5", 3), ("2-3-4", 9)):
        for folder, pixels in (
            ("images", np.full((8, 8, 3), value, np.uint8)),
            ("masks", np.full((8, 8), value % 2, np.uint8)),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"T-{name}.png"), pixels)
    return FolderSegmentation(tmp_path / "images", tmp_path / "masks", classes=("odd", "even"))


def test_tiles_are_laid_side_by_side(tiles: FolderSegmentation) -> None:
    places = StitchedPlaces(tiles, zoom=4)
    assert places.ids == ["2-3-4@4", "2-3-4@5"]
    whole, fine = places
    assert whole.image.shape == (3, 8, 8)
    assert whole.valid is None
    expected = torch.tensor([[1, 2], [3, 0]]).repeat_interleave(8, 0).repeat_interleave(8, 1)
    torch.testing.assert_close(fine.image[0].int(), expected.int(), check_dtype=False)


def test_ground_without_a_tile_is_invalid(tiles: FolderSegmentation) -> None:
    fine = StitchedPlaces(tiles, zoom=4)[1]
    assert fine.valid is not None
    assert not fine.valid[8:, 8:].any()
    assert fine.valid.sum() == 3 * 64
    assert (fine.targets["mask"][8:, 8:] == 255).all()


def test_a_sample_occurs_once_per_tile_of_its_width(tiles: FolderSegmentation) -> None:
    places = StitchedPlaces(tiles, zoom=4, oversample=True)
    assert places.ids == ["2-3-4@4", "2-3-4@5", "2-3-4@5"]
    torch.testing.assert_close(places[1].image, places[2].image)
