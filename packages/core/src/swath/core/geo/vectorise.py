"""Class maps to polygons, strip by strip.

Within a strip of rows `rasterio.features.shapes` traces the outlines of every class (pixels are
neighbours along edges, not corners). Pieces that reach the strip below wait until their last one is
known and are then joined; everything else is written at once. So memory grows with the width of the
map and with what crosses a seam, not with its height.
"""

import errno
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio import features
from rasterio.transform import Affine
from rasterio.windows import Window
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.polygon import orient

from swath.core.errors import ConfigError, RasterError, shortened, suggest
from swath.core.files import atomic_path
from swath.core.geo.globe import (
    cut_at_date_line,
    pixel_areas,
    polygon_area,
    polygons_of,
    to_degrees,
)
from swath.core.geo.raster import RasterInfo, open_raster
from swath.core.geo.windows import row_blocks
from swath.core.progress import track

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

FORMATS = (".gpkg", ".geojson")
"""Suffixes of the vector formats."""

_STRIP_PIXELS = 8_000_000
# longer edges get points in between before they are bent into degrees
_STRAIGHT_PX, _STRAIGHT_M, _STRAIGHT_DEGREES = 256, 100_000, 2


def vectorise(
    mask: str | Path | NDArray[Any],
    out: str | Path,
    *,
    info: RasterInfo | None = None,
    classes: Sequence[str] | None = None,
    skip: Sequence[int | str] | None = None,
    min_area_px: float = 0,
    simplify_px: float = 0.0,
    progress: bool = False,
) -> int:
    """Write the regions of a class map as polygons.

    Attributes of a polygon: ``class`` (name), ``class_id``, ``area_m2`` (on the WGS 84 ellipsoid,
    whatever the projection does to areas; empty without a CRS on earth) and ``area_px``.

    Args:
        mask: A raster of class indices, or an array ``(H, W)`` of integers.
        out: ``.gpkg`` (in the raster's CRS) or ``.geojson`` (EPSG:4326, cut at the date line; of
            a local CRS, with a warning, its own coordinates). Without a CRS both are in the
            raster's own coordinates; if it has no transform either,
            those of its pixels, x to the right and y down.
        info: Georeference and nodata of an array; a file brings its own.
        classes: Names of the values; None takes those stored in the file, else the numbers.
            Values without a name are left out.
        skip: Indices or names to leave out. None leaves out a class called "background".
        min_area_px: Regions with fewer pixels are left out.
        simplify_px: Tolerance of Douglas-Peucker in pixels; 0 keeps every corner. Neighbours are
            simplified apart, so gaps and overlaps up to the tolerance appear between them.
        progress: Show a bar.

    Returns:
        Number of polygons written.

    Raises:
        ConfigError: If the format or a class to skip is unknown, or a tolerance negative.
        RasterError: If the mask can't be read or holds no class indices.
    """
    out = Path(out)
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"{out}: polygons are written as {' or '.join(FORMATS)}; change the suffix"
        )
    count = 0
    if min(min_area_px, simplify_px) < 0:
        raise ConfigError(f"{min_area_px=} and {simplify_px=} must be 0 or more")
    with ExitStack() as stack:
        source = _open(mask, info, stack)
        names = _names(source, classes)
        degrees = out.suffix.lower() == ".geojson"
        place = _Place(source.info, degrees=degrees)
        write = stack.enter_context(_geojson(out) if degrees else _gpkg(out, place))
        for regions in _regions(source, names, skip, progress):
            found = place.features(regions, names, min_area_px, simplify_px)
            count += len(found.geometry)
            if len(found.geometry):
                write(found)
    return count


def to_geodataframe(
    mask: str | Path | NDArray[Any],
    *,
    info: RasterInfo | None = None,
    classes: Sequence[str] | None = None,
    skip: Sequence[int | str] | None = None,
    min_area_px: float = 0,
    simplify_px: float = 0.0,
) -> "GeoDataFrame":
    """The polygons of `vectorise` in memory, in the raster's CRS (arguments as there)."""
    import pandas as pd

    with ExitStack() as stack:
        source = _open(mask, info, stack)
        names = _names(source, classes)
        place = _Place(source.info, degrees=False)
        parts = [
            place.frame(place.features(regions, names, min_area_px, simplify_px))
            for regions in _regions(source, names, skip, progress=False)
        ]
    return pd.concat(parts, ignore_index=True)


class _Source(Protocol):
    @property
    def info(self) -> RasterInfo: ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    def read(
        self, window: Window | None = None, bands: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]: ...


@dataclass(frozen=True)
class _ArraySource:
    array: NDArray[Any]
    info: RasterInfo
    classes: tuple[str, ...] | None = None

    def read(
        self, window: Window | None = None, bands: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        part = self.array if window is None else self.array[window.toslices()]
        return part[None], part != self.info.nodata  # all True without nodata


def _open(mask: str | Path | NDArray[Any], info: RasterInfo | None, stack: ExitStack) -> _Source:
    if isinstance(mask, str | Path):
        source: _Source = stack.enter_context(open_raster(mask))
        if len(source.info.image_bands) != 1:
            raise RasterError(
                f"{mask} has {source.info.count} bands; a class map has one (use swath predict "
                "to make one from an image)"
            )
    else:
        if not isinstance(mask, np.ndarray) or mask.ndim != 2:
            what = f" of shape {mask.shape}" if isinstance(mask, np.ndarray) else ""
            raise RasterError(
                f"a class map is a path or a numpy array (H, W), not a {type(mask).__name__}{what}"
            )
        height, width = mask.shape
        base = info if info is not None else RasterInfo(None, width, height)
        source = _ArraySource(
            mask, replace(base, width=width, height=height, dtype=str(mask.dtype))
        )
    if np.dtype(source.info.dtype).kind not in "ui":
        raise RasterError(
            f"{source.info.name} holds {source.info.dtype} numbers, not class indices; "
            "give a class map"
        )
    return source


def _names(source: _Source, classes: Sequence[str] | None) -> dict[int, str] | None:
    names = classes if classes is not None else source.classes
    return dict(enumerate(names)) if names is not None else None


def _skipped(names: dict[int, str] | None, skip: Sequence[int | str] | None) -> set[int]:
    known = {name: index for index, name in (names or {}).items()}
    if skip is None:
        return {index for name, index in known.items() if name.lower() == "background"}
    if isinstance(skip, str | int):
        raise ConfigError(f"skip={skip!r} must be a list of names or indices")
    for item in skip:
        if isinstance(item, str) and item not in known:
            raise ConfigError(f"no class is called '{item}'{suggest(item, list(known))}")
    return {known[item] if isinstance(item, str) else item for item in skip}


@dataclass
class _Group:
    """Pieces of one region that may go on below."""

    value: int
    pieces: list[Polygon]


_Regions = tuple[list[Polygon], list[int]]


def _regions(
    source: _Source,
    names: dict[int, str] | None,
    skip: Sequence[int | str] | None,
    progress: bool,
) -> Iterator[_Regions]:
    """Finished regions, in pixel coordinates, with their class index; one list per strip."""
    left_out = _skipped(names, skip)
    height, width = source.info.height, source.info.width
    rows = int(np.clip(_STRIP_PIXELS // width, 64, 4096))
    strips = list(row_blocks(height, width, rows))
    waiting = np.full(width, -1)  # the group that reaches the seam, by column
    groups: list[_Group] = []
    nameless: set[int] = set()
    for window in track(strips, "vectorising", unit="strips", enabled=progress):
        values, valid = source.read(window, [1])
        wanted = valid & ~np.isin(values[0], list(left_out))
        if names is not None:
            above = values[0] > max(names, default=-1)
            nameless.update(np.unique(values[0][wanted & above]).tolist())
            wanted &= (values[0] >= 0) & ~above
        pieces = _trace(values[0], wanted, window.row_off)
        bottom = window.row_off + window.height
        done, groups, waiting = _join(
            groups, waiting, pieces, window.row_off, bottom if bottom < height else None
        )
        yield done
    if nameless:
        listed = shortened([str(value) for value in sorted(nameless)])
        warnings.warn(
            f"the values {listed} have no name among the {len(names or ())} classes: what has them "
            "is left out; give a name for each value",
            stacklevel=2,
        )


def _trace(values: NDArray[Any], wanted: NDArray[np.bool_], top: int) -> list[_Group]:
    if values.size and not -(2**31) <= int(values.min()) <= int(values.max()) < 2**31:
        raise RasterError("a class map holds numbers beyond 32 bits; number its classes from 0")
    array = values if values.dtype in (np.uint8, np.uint16, np.int16) else values.astype(np.int32)
    down = Affine.translation(0, top)
    return [
        _Group(int(value), [Polygon(outline["coordinates"][0], outline["coordinates"][1:])])
        for outline, value in features.shapes(array, wanted, connectivity=4, transform=down)
    ]


def _join(
    groups: list[_Group],
    waiting: NDArray[np.int64],
    pieces: list[_Group],
    top: int,
    bottom: int | None,
) -> tuple[_Regions, list[_Group], NDArray[np.int64]]:
    """Connect a strip's pieces with what waits above; split them into finished and waiting.

    Args:
        groups: What waits.
        waiting: ``(width,)`` index into ``groups`` of what reaches the seam in a column, or -1.
        pieces: The strip's own.
        top: First row of the strip.
        bottom: One after its last, or None for the last strip.
    """
    width = len(waiting)
    everything = groups + pieces
    parent = np.arange(len(everything))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    upper = _reached(pieces, top, width, len(groups))
    both = (waiting >= 0) & (upper >= 0)
    for above, below in np.unique(np.stack([waiting[both], upper[both]]), axis=1).T:
        if everything[above].value == everything[below].value:
            parent[root(int(above))] = root(int(below))
    lower = np.full(width, -1) if bottom is None else _reached(pieces, bottom, width, len(groups))
    open_roots = {root(int(i)) for i in np.unique(lower[lower >= 0])}

    members: dict[int, list[Polygon]] = {}
    for i, group in enumerate(everything):
        members.setdefault(root(i), []).extend(group.pieces)
    done: _Regions = ([], [])
    still: list[_Group] = []
    position: dict[int, int] = {}
    for i, parts in members.items():
        if i in open_roots:
            position[i] = len(still)
            still.append(_Group(everything[i].value, parts))
        else:
            done[0].append(parts[0] if len(parts) == 1 else shapely.union_all(parts))
            done[1].append(everything[i].value)
    new_waiting = np.array([position[root(int(i))] if i >= 0 else -1 for i in lower])
    return done, still, new_waiting


def _reached(pieces: list[_Group], row: int, width: int, offset: int) -> NDArray[np.int64]:
    """Which piece has an edge on the seam at ``row``, by column; -1 for none."""
    found = np.full(width, -1)
    for index, piece in enumerate(pieces):
        polygon = piece.pieces[0]
        _, low, _, high = polygon.bounds
        if row not in (low, high):
            continue
        for ring in (polygon.exterior, *polygon.interiors):
            points = shapely.get_coordinates(ring)
            flat = (points[:-1, 1] == row) & (points[1:, 1] == row)
            for a, b in zip(points[:-1][flat, 0], points[1:][flat, 0], strict=True):
                found[int(min(a, b)) : int(max(a, b))] = index + offset
    return found


@dataclass(frozen=True)
class _Features:
    """Finished polygons with their attributes, one entry each."""

    geometry: list[Polygon | MultiPolygon]
    names: list[str]
    ids: list[int]
    area_m2: list[float | None]
    area_px: list[float]


class _Place:
    """Turns pixel coordinates into those of the output."""

    def __init__(self, info: RasterInfo, *, degrees: bool) -> None:
        located = info.placed
        if info.crs is not None and not located:
            warnings.warn(str(info.note), stacklevel=3)
        self._transform = info.transform if located or not info.gcps else Affine.identity()
        self._to_degrees = to_degrees(info, needed=degrees) if located else None
        self._straight: float = _STRAIGHT_PX
        if self._to_degrees is not None:
            middle = [info.height / 2], [info.width / 2]
            area = pixel_areas(self._transform, self._to_degrees, *middle).item()
            self._straight = min(_STRAIGHT_PX, max(_STRAIGHT_M / math.sqrt(area or 1), 1))
        self._degrees = degrees and self._to_degrees is not None
        self.crs: str | None = None
        if located and info.crs is not None:
            self.crs = "EPSG:4326" if self._degrees else info.crs.to_wkt()

    def features(
        self,
        regions: _Regions,
        names: dict[int, str] | None,
        min_area_px: float,
        simplify_px: float,
    ) -> _Features:
        """Filter, simplify, place, measure and mend the regions of a strip."""
        found = _Features([], [], [], [], [])
        for region, value in zip(*regions, strict=True):
            if region.area < min_area_px:
                continue
            shape = region.simplify(simplify_px) if simplify_px else region
            for pixels in polygons_of(shape):
                placed = shapely.transform(pixels, self._to_crs)
                globe = self._on_globe(pixels)
                area = None if globe is None else polygon_area(globe)
                parts = polygons_of(placed)
                if self._degrees and globe is not None:
                    parts = [cut_at_date_line(globe)]
                for part in parts:
                    found.geometry.append(part if self._degrees else orient(part))
                    found.names.append(names[value] if names is not None else str(value))
                    found.ids.append(value)
                    found.area_m2.append(area)
                    found.area_px.append(pixels.area)
        return found

    def _to_crs(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        t, (x, y) = self._transform, points.T
        return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=1)

    def _on_globe(self, pixels: Polygon) -> Polygon | None:
        if self._to_degrees is None:
            return None
        to_degrees = self._to_degrees

        def bend(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.stack(to_degrees.transform(*self._to_crs(points).T), axis=1)

        globe = shapely.transform(shapely.segmentize(pixels, self._straight), bend)
        steps = np.diff(np.unwrap(shapely.get_coordinates(globe.exterior)[:, 0], period=360))
        if np.abs(steps).max() <= _STRAIGHT_DEGREES:
            return globe
        return shapely.transform(shapely.segmentize(pixels, 1), bend)  # near a pole

    def frame(self, found: _Features) -> "GeoDataFrame":
        """The features as a table."""
        import geopandas as gpd

        return gpd.GeoDataFrame(
            {
                "class": np.array(found.names, dtype=object),
                "class_id": np.array(found.ids, dtype=np.int32),
                "area_m2": np.array(found.area_m2, dtype=np.float64),
                "area_px": np.array(found.area_px, dtype=np.float64),
            },
            geometry=found.geometry,
            crs=self.crs,
        )


def write_polygons(table: "GeoDataFrame", path: Path, **options: Any) -> None:
    """Write a table of polygons by pyogrio; that there is no CRS isn't worth a warning here.

    It was said when the image was opened.

    Args:
        table: Polygons with attributes; may be empty.
        path: The file.
        **options: Further arguments of `pyogrio.write_dataframe`.

    Raises:
        OSError: If the disk doesn't take it, as other writers raise it.
    """
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        warnings.filterwarnings("ignore", "GPKG: ", RuntimeWarning)  # the error says it
        try:
            pyogrio.write_dataframe(table, path, **{"geometry_type": "Polygon", **options})
        except (DataSourceError, DataLayerError, FeatureError) as error:
            raise OSError(errno.EIO, str(error)) from error


@contextmanager
def _gpkg(out: Path, place: _Place) -> Iterator[Any]:
    with atomic_path(out) as temporary:
        options = {"driver": "GPKG", "layer": out.stem}
        write_polygons(place.frame(_Features([], [], [], [], [])), temporary, **options)
        yield lambda found: write_polygons(place.frame(found), temporary, append=True, **options)


@contextmanager
def _geojson(out: Path) -> Iterator[Any]:
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        first = True

        def write(found: _Features) -> None:
            nonlocal first
            columns = (found.names, found.ids, found.area_m2, found.area_px)
            for polygon, name, index, metres, pixels in zip(found.geometry, *columns, strict=True):
                properties = {
                    "class": name,
                    "class_id": index,
                    "area_m2": None if metres is None else round(metres, 4),
                    "area_px": pixels,
                }
                file.write("\n" if first else ",\n")
                file.write(
                    f'{{"type": "Feature", "properties": {json.dumps(properties)}, '
                    f'"geometry": {shapely.to_geojson(polygon)}}}'
                )
                first = False

        yield write
        file.write("\n]}\n")
