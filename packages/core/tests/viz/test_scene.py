from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from swath.core.palette import default_palette
from swath.core.viz.scene import class_areas, read_small, scene_section


def write(path: Path, array: np.ndarray, **profile: object) -> Path:
    count, height, width = array.shape
    with rasterio.open(
        path, "w", "GTiff", width, height, count, dtype=array.dtype, **profile
    ) as sink:
        sink.write(array)
    return path


@pytest.fixture
def halves(tmp_path: Path) -> np.ndarray:
    mask = np.zeros((1, 600, 100), dtype=np.uint8)
    mask[:, 300:] = 1
    mask[:, :10] = 255
    return mask


def test_areas_are_those_of_the_ground_in_utm(tmp_path: Path, halves: np.ndarray) -> None:
    # on the central meridian the scale is 0.9996, so a projected metre covers 1 / 0.9996 of one
    placed = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 0.5, 0.5)}
    areas = class_areas(write(tmp_path / "m.tif", halves, nodata=255, **placed), 2)
    assert areas.pixels.tolist() == [29_000, 30_000]
    assert areas.unknown == 1000
    assert areas.square_metres is not None
    np.testing.assert_allclose(areas.square_metres, areas.pixels * 0.25 / 0.9996**2, rtol=1e-5)


def test_web_mercator_metres_are_not_mistaken_for_metres(
    tmp_path: Path, halves: np.ndarray
) -> None:
    # at 60 degrees north web Mercator doubles lengths: a pixel of 1 m covers about a quarter
    placed = {"crs": "EPSG:3857", "transform": from_origin(0, 8_399_738, 1, 1)}
    areas = class_areas(write(tmp_path / "m.tif", halves, **placed), 2)
    assert areas.square_metres is not None
    np.testing.assert_allclose(areas.square_metres / areas.pixels, 0.25, rtol=0.01)


def test_areas_in_degrees_are_those_of_their_latitudes(tmp_path: Path) -> None:
    mask = np.zeros((1, 180, 360), dtype=np.uint8)
    mask[:, 30:] = 1  # all but what lies north of 60 degrees
    placed = {"crs": "EPSG:4326", "transform": from_origin(-180, 90, 1, 1)}
    areas = class_areas(write(tmp_path / "m.tif", mask, **placed), 2)
    assert areas.square_metres is not None
    assert areas.square_metres.sum() == pytest.approx(510_065_621_724_089, rel=1e-4)
    cap = areas.square_metres[0] / areas.square_metres.sum()
    assert cap == pytest.approx((1 - np.sin(np.radians(60))) / 2, rel=0.01)  # of a sphere


def test_a_local_crs_has_no_square_metres(tmp_path: Path, halves: np.ndarray) -> None:
    site = {"crs": 'LOCAL_CS["site",UNIT["metre",1]]', "transform": from_origin(0, 0, 1, 1)}
    assert class_areas(write(tmp_path / "m.tif", halves, **site), 2).square_metres is None


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_a_georeference_only_pixels_are_counted(tmp_path: Path, halves: np.ndarray) -> None:
    areas = class_areas(write(tmp_path / "m.tif", halves), 2)
    assert areas.square_metres is None
    assert areas.pixels.tolist() == [29_000, 30_000]


def test_a_large_raster_is_read_small(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.tif",
        np.full((3, 500, 1000), 9, dtype=np.uint16),
        crs="EPSG:32633",
        transform=from_origin(500_000, 0, 1, 1),
    )
    array, valid = read_small(path, side=100)
    assert array.shape == (3, 50, 100)
    assert array.dtype == np.uint16
    assert valid.all()


def test_the_card_of_a_scene_says_what_and_where(tmp_path: Path) -> None:
    placed = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 0.5, 0.5)}
    image = write(tmp_path / "s.tif", np.full((3, 64, 64), 90, dtype=np.uint8), **placed)
    mask = write(tmp_path / "m.tif", np.ones((1, 64, 64), dtype=np.uint8), **placed)
    card = scene_section(image, mask, ["land", "water"], default_palette(2))
    for expected in ("EPSG:32633", "0.5 m", "land", "water", "4\u2009096", "base64"):
        assert expected in card.body
