"""Rasters and polygons on the globe: longitudes and latitudes, areas, the date line, the poles."""

import math
import warnings
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from pyproj import Geod, Transformer
from pyproj.exceptions import ProjError
from rasterio.transform import Affine
from shapely.geometry import LinearRing, MultiPolygon, Polygon, box
from shapely.geometry.polygon import orient

from swath.core.geo.raster import RasterInfo

_GEOD = Geod(ellps="WGS84")


def to_degrees(info: RasterInfo, *, needed: bool) -> Transformer | None:
    """From a raster's CRS to longitude and latitude.

    Args:
        info: Of the raster.
        needed: Warn if there is a CRS that doesn't lead there.

    Returns:
        None without a CRS, or with a local one or another planet's.
    """
    if info.crs is None:
        return None
    try:
        return Transformer.from_crs(info.crs.to_wkt(), "EPSG:4326", always_xy=True)
    except ProjError:
        if needed:
            warnings.warn(
                f"{info.name}: nothing says where on earth its CRS lies: GeoJSON gets its own "
                "coordinates instead of longitude and latitude; .gpkg keeps the CRS as well",
                stacklevel=2,
            )
        return None


def pixel_areas(
    transform: Affine, to_globe: Transformer, rows: ArrayLike, columns: ArrayLike
) -> NDArray[np.float64]:
    """Ground areas of single pixels, on the WGS 84 ellipsoid.

    Args:
        transform: From pixels to the raster's CRS.
        to_globe: From there to degrees; see `to_degrees`.
        rows: Of the pixels' upper edges, ``(R,)``; fractions of pixels are allowed.
        columns: Of their left edges, ``(C,)``.

    Returns:
        ``(R, C)`` square metres; 0 where the CRS has no place on earth for a pixel.
    """
    top, left = np.meshgrid(np.asarray(rows, float), np.asarray(columns, float), indexing="ij")
    x = np.stack([left, left + 1, left + 1, left], axis=-1)
    y = np.stack([top, top, top + 1, top + 1], axis=-1)
    t = transform
    longitude, latitude = to_globe.transform(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f)
    areas = [
        abs(_GEOD.polygon_area_perimeter(*quad)[0])
        for quad in zip(longitude.reshape(-1, 4), latitude.reshape(-1, 4), strict=True)
    ]
    return np.nan_to_num(np.reshape(areas, top.shape))


def polygon_area(globe: Polygon) -> float:
    """Area of a polygon on the WGS 84 ellipsoid, in square metres.

    Args:
        globe: In degrees, longitude first, as a transform gives it: it may leap at the date line,
            or go around a pole.
    """
    shell, *holes = (_ring_area(ring) for ring in (globe.exterior, *globe.interiors))
    return shell - sum(holes)


def _ring_area(ring: LinearRing) -> float:
    points = shapely.get_coordinates(ring)
    area = abs(_GEOD.polygon_area_perimeter(*points.T)[0])
    if np.ptp(points[:, 0]) <= 180:
        return area
    # of more than half the earth the geodesic sum tells what is outside: an estimate decides
    estimate = shapely.area(Polygon(_equal_area(_unrolled(ring))))
    return min((area, _earth() - area), key=lambda one: abs(one - estimate))


def _earth() -> float:
    """The ellipsoid's surface, in square metres."""
    return float(360 * 2 * np.abs(_equal_area(np.array([[1.0, 90.0]]))).prod())


def _equal_area(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees to Lambert's cylindrical equal-area projection, in metres and radius metres."""
    x, latitude = np.radians(points).T
    e, sine = math.sqrt(_GEOD.es), np.sin(latitude)
    q = (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)
    return np.stack([_GEOD.a * x, _GEOD.a * q / 2], axis=1)


def cut_at_date_line(globe: Polygon) -> Polygon | MultiPolygon:
    """A polygon as GeoJSON has it: cut where it crosses the date line (RFC 7946, 3.1.9).

    Args:
        globe: In degrees, longitude first, as a transform gives it or beyond 180. Around a pole, it
            holds the pole.

    Returns:
        Its parts between -180 and 180, rounded to 0.1 mm, their shells counterclockwise; ``globe``
        itself if nothing of it is left.
    """
    west, _, east, _ = globe.bounds
    flat: Any = globe
    if not (west >= -180 and east <= 180 and east - west <= 180):
        shell, *holes = (_on_one_turn(ring) for ring in (globe.exterior, *globe.interiors))
        flat = shapely.difference(shell, shapely.union_all(holes))
    parts = [orient(part) for part in polygons_of(_rounded(flat))]
    if not parts:
        return globe
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _on_one_turn(ring: LinearRing) -> Any:
    """What a ring encloses, between -180 and 180."""
    filled = shapely.make_valid(Polygon(_unrolled(ring)))
    west, _, east, _ = filled.bounds
    turns = range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360))
    return shapely.union_all([_between_date_lines(filled, turn) for turn in turns])


def _unrolled(ring: LinearRing) -> NDArray[np.float64]:
    """The points without the leaps of 360 degrees that a transform leaves at the date line.

    A ring around a pole ends a turn from where it began; it is closed along the pole.
    """
    points: NDArray[np.float64] = shapely.get_coordinates(ring)
    points[:, 0] = np.unwrap(points[:, 0], period=360)
    start, end = points[0, 0], points[-1, 0]
    if abs(end - start) < 180:
        return points
    pole = math.copysign(90, points[:, 1].mean())
    return np.concatenate([points, [[end, pole], [start, pole]]])


def _between_date_lines(shape: Any, turn: int) -> Any:
    """What of a shape lies on the given turn around the globe, brought back to the first."""
    part = shapely.intersection(shape, box(360 * turn - 180, -90, 360 * turn + 180, 90))
    return shapely.transform(part, lambda points: points - [360.0 * turn, 0])


def _rounded(shape: Any) -> Any:
    return shapely.transform(shape, lambda points: np.round(points, 9))


def polygons_of(shape: Any) -> list[Polygon]:
    """The valid polygons a geometry consists of."""
    sound = shape if shapely.is_valid(shape) else shapely.make_valid(shape)
    parts = [piece for part in shapely.get_parts(sound) for piece in shapely.get_parts(part)]
    return [p for p in parts if isinstance(p, Polygon) and p.area > 0]
