import numpy as np
import pytest
import shapely
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.transform import from_origin

from swath.core.geo.globe import cut_at_date_line, pixel_areas, polygon_area, to_degrees
from swath.core.geo.raster import RasterInfo

EARTH = 510_065_621_724_089  # square metres of the WGS 84 ellipsoid


def test_longitudes_beyond_the_date_line_come_back() -> None:
    square = shapely.box(179, -1, 182, 1)
    parts = sorted(cut_at_date_line(square).geoms, key=lambda part: part.bounds)
    assert [part.bounds for part in parts] == [(-180, -1, -178, 1), (179, -1, 180, 1)]
    assert cut_at_date_line(shapely.box(181, -1, 182, 1)).bounds == (-179, -1, -178, 1)
    ring = [(179, 0), (-178, 0), (-178, 3), (179, 3)]  # as a transform gives it, with a hole
    hole = [(-179.5, 1), (-179, 1), (-179, 2), (-179.5, 2)]
    assert cut_at_date_line(shapely.Polygon(ring, [hole])).area == pytest.approx(3 * 3 - 0.5)


def test_a_hole_around_the_pole_stays_one_wherever_its_ring_begins() -> None:
    angles = np.radians(np.arange(0, 360, 10))
    shell = np.stack([np.degrees(angles) - 170, np.full(36, 80.0)], axis=1)
    hole = np.roll(np.stack([np.degrees(angles) - 170, np.full(36, 85.0)], axis=1), 13, axis=0)
    hole[:, 0] = (hole[:, 0] + 180) % 360 - 180
    ring = cut_at_date_line(shapely.Polygon(shell, [hole]))
    assert ring.area == pytest.approx(360 * 5)
    assert ring.bounds == (-180, 80, 180, 85)
    assert cut_at_date_line(shapely.Polygon(hole)).area == pytest.approx(360 * 5)


def test_the_area_of_a_polygon_across_the_date_line_leaves_its_hole_out() -> None:
    ring = [(179, 0), (-178, 0), (-178, 3), (179, 3)]
    hole = [(-179.5, 1), (-179, 1), (-179, 2), (-179.5, 2)]
    geod = Geod(ellps="WGS84")
    whole, left_out = (
        abs(geod.polygon_area_perimeter(*zip(*p, strict=True))[0]) for p in (ring, hole)
    )
    assert polygon_area(shapely.Polygon(ring, [hole])) == pytest.approx(whole - left_out)


def test_areas_of_more_than_half_the_earth() -> None:
    globe = shapely.box(-180, -90, 180, 90).segmentize(1)
    north = shapely.box(-180, 0, 180, 90).segmentize(1)
    assert polygon_area(globe) == pytest.approx(EARTH)
    assert polygon_area(north) == pytest.approx(EARTH / 2)
    sea = shapely.Polygon(globe.exterior, [shapely.box(0, 0, 90, 90).segmentize(1).exterior])
    assert polygon_area(sea) == pytest.approx(EARTH * 7 / 8)


def test_pixels_get_smaller_towards_the_poles() -> None:
    info = RasterInfo(None, 360, 180, 1, "uint8", CRS.from_epsg(4326), from_origin(-180, 90, 1, 1))
    to_globe = to_degrees(info, needed=True)
    assert to_globe is not None
    areas = pixel_areas(info.transform, to_globe, np.arange(180), [0, 200])
    assert areas.shape == (180, 2)
    assert areas[:, 0].sum() * 360 == pytest.approx(EARTH, rel=1e-4)
    assert areas[90, 0] > 100 * areas[0, 0]
