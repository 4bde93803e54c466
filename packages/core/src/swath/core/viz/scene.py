"""What a class map says about a place: a small picture of it, and the area of every class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.transform import xy
from rasterio.windows import Window

from swath.core.errors import ConfigError
from swath.core.geo.globe import pixel_areas, to_degrees
from swath.core.geo.raster import GeoImage, RasterInfo, open_raster
from swath.core.palette import Colour
from swath.core.viz.overlay import Rgb, display_rgb
from swath.core.viz.page import Section, class_table, facts, layers, legend_list, number

_STRIP_ROWS = 512
_AREA_ROWS, _AREA_COLUMNS = 256, 16


@dataclass(frozen=True)
class ClassAreas:
    """How much of a map each class covers.

    Attributes:
        pixels: int64 ``(K,)``.
        square_metres: float64 ``(K,)``, on the ellipsoid, or None without a place on earth.
        unknown: Pixels without a class (nodata).
    """

    pixels: npt.NDArray[np.int64]
    square_metres: npt.NDArray[np.float64] | None
    unknown: int


def class_areas(mask: str | Path, count: int) -> ClassAreas:
    """Measure a class map strip by strip, in memory that doesn't grow with it.

    Areas are geodesic (WGS 84), those of a pixel in each of 256 x 16 parts of the map, so that they
    are right in degrees and in projections that stretch areas, web Mercator for one.

    Args:
        mask: Raster of class indices.
        count: Number of classes K; other values count as unknown.
    """
    pixels = np.zeros(count, dtype=np.int64)
    metres = np.zeros(count, dtype=np.float64)
    unknown = 0
    with open_raster(mask) as raster:
        info = raster.info
        to_globe = to_degrees(info, needed=False) if info.placed else None
        areas = np.zeros((1, 1)) if to_globe is None else _areas(info, to_globe)
        lines, across = (
            np.arange(side) * parts // side
            for side, parts in zip((info.height, info.width), areas.shape, strict=True)
        )
        for top in range(0, info.height, _STRIP_ROWS):
            rows = min(_STRIP_ROWS, info.height - top)
            values, valid = raster.read(Window(0, top, info.width, rows), bands=[1])
            known = valid & (values[0] >= 0) & (values[0] < count)
            classes = values[0][known].astype(np.int64)
            pixels += np.bincount(classes, minlength=count)
            unknown += int((~known).sum())
            ground = areas[np.ix_(lines[top : top + rows], across)]
            metres += np.bincount(classes, ground[known], minlength=count)
    return ClassAreas(pixels, None if to_globe is None else metres, unknown)


def _areas(info: RasterInfo, to_globe: Transformer) -> npt.NDArray[np.float64]:
    """Of a pixel in the middle of every part of the map, ``(256, 16)`` square metres or fewer."""
    rows, columns = (
        (np.arange(parts) + 0.5) * side / parts - 0.5
        for side, parts in (
            (info.height, min(_AREA_ROWS, info.height)),
            (info.width, min(_AREA_COLUMNS, info.width)),
        )
    )
    return pixel_areas(info.transform, to_globe, rows, columns)


def read_small(
    path: str | Path, side: int = 1400
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Read a raster at a size that fits a screen, without reading it at full size where possible.

    Args:
        path: The raster.
        side: Longest side of the result, px.

    Returns:
        ``(C, h, w)`` of its measuring bands in its own dtype (nearest neighbour), and validity
        ``(h, w)``.
    """
    with open_raster(path) as raster:
        info = raster.info
    scale = min(1.0, side / max(info.width, info.height))
    shape = max(1, round(info.height * scale)), max(1, round(info.width * scale))
    with rasterio.open(path) as source:
        array = source.read(list(info.image_bands), out_shape=shape, resampling=Resampling.nearest)
        valid = source.dataset_mask(out_shape=shape) > 0
    return array, valid


def picture(image: Any, info: RasterInfo, side: int) -> Rgb:
    """An image as a result remembers it, for display.

    Args:
        image: A path, a `GeoImage`, or None for a grey area.
        info: Size of the image.
        side: Longest side of the picture, px; larger images are thinned out.

    Returns:
        ``(h, w, 3)`` uint8.

    Raises:
        ConfigError: If ``side`` is below 1.
    """
    if side < 1:
        raise ConfigError(f"side={side} must be at least 1")
    step = -(-max(info.width, info.height) // side)
    if image is None:
        return np.full((-(-info.height // step), -(-info.width // step), 3), 160, dtype=np.uint8)
    if isinstance(image, GeoImage):
        return display_rgb(image.array[:, ::step, ::step], image.valid[::step, ::step])
    return display_rgb(*read_small(image, side))


def scene_section(
    image: str | Path,
    mask: str | Path,
    classes: Sequence[str],
    palette: Sequence[Colour],
    *,
    title: str = "The scene",
    bands: Sequence[int] | None = None,
    note: str = "",
) -> Section:
    """The report's card on a segmented scene.

    It has the picture with its class map and a slider, a legend, the area of every class, and
    where on earth it is.

    Args:
        image: The scene.
        mask: Its class map.
        classes: Names in index order.
        palette: RGB per class.
        title: Heading of the card.
        bands: Red, green and blue of the picture, counted from 0, for more than three bands.
        note: A sentence below the picture.
    """
    shown, valid = read_small(image)
    drawn, known = read_small(mask)
    areas = class_areas(mask, len(classes))
    with open_raster(image) as raster:
        info = raster.info
    body = layers(
        display_rgb(shown, valid, bands=bands),
        np.where(known, drawn[0].astype(np.int64), -1),
        palette,
        caption=f"{Path(image).name} and {Path(mask).name}, "
        f"{number(info.width)} × {number(info.height)} px. {note}".strip(),
    )
    body += legend_list(classes, palette)
    body += "<h3>Area of the classes</h3>" + _area_table(areas, classes, palette)
    body += "<h3>Where it is</h3>" + facts(_place(info, areas.unknown))
    return Section(title, body)


def _area_table(areas: ClassAreas, classes: Sequence[str], palette: Sequence[Colour]) -> str:
    total = max(int(areas.pixels.sum()), 1)
    columns: dict[str, Sequence[float | str | None]] = {
        "share": [float(count / total) for count in areas.pixels],
        "pixels": [int(count) for count in areas.pixels],
    }
    if areas.square_metres is not None:
        columns["m²"] = [round(area) for area in areas.square_metres]
        columns["ha"] = [float(area / 10_000) for area in areas.square_metres]
    return class_table(classes, columns, palette=palette, bar="share")


def _place(info: RasterInfo, unknown: int) -> dict[str, object]:
    placed = info.placed
    left, top = xy(info.transform, 0, 0, offset="ul")
    right, bottom = xy(info.transform, info.height, info.width, offset="ul")
    gsd = info.gsd_m
    return {
        "CRS": f"{info.crs.to_string()[:60]}" if info.crs else "none: pixel coordinates",
        "first corner": f"{left:.6g}, {top:.7g}" if placed else None,
        "last corner": f"{right:.6g}, {bottom:.7g}" if placed else None,
        "ground sampling distance": f"{gsd:.3g} m" if gsd else None,
        "bands": f"{info.count} × {info.dtype}",
        "nodata": "none" if info.nodata is None else f"{info.nodata:g}",
        "pixels without a class": number(unknown),
    }
