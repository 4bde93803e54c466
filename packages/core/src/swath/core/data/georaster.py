"""Training straight from georeferenced rasters, with vectors or another raster as labels.

Nothing is tiled to disk: a sample is a window of the file, and its labels are drawn into that
window when it is read.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from torchvision import tv_tensors

from swath.core.data.readers import LabelReader, resolve_root
from swath.core.data.spec import Protocol
from swath.core.errors import DataError, suggest
from swath.core.geo.raster import RasterInfo, open_raster
from swath.core.geo.windows import starts
from swath.core.progress import track
from swath.core.sample import Sample

_RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".img", ".jp2", ".png")

Burn = Mapping[Any, int | str]


class GeoRasterSegmentation:
    """Windows of georeferenced rasters with a class for every pixel.

    Vector labels are reprojected to each raster's CRS and drawn in the order of the file (later
    features lie on top); what no feature covers is class 0. A label raster may have another CRS,
    grid or extent: it is matched by coordinates with nearest neighbour, and where it holds nothing
    the index is ``ignore_index``. Windows in which the sensor saw nothing are left out.

    Args:
        raster: One raster or several, of the same bands and dtype.
        labels: A vector file of any format pyogrio reads, or a label raster.
        classes: Class names in index order; ``("background", "foreground")`` if None and no
            protocol is given.
        tile_px: Side of the windows in pixels; smaller where a raster is smaller.
        stride: Pixels from window to window, ``tile_px`` if None. The last row and column are
            moved inwards to end at the border.
        attribute: For vectors, the attribute that says what a feature is; None makes every feature
            class 1.
        burn: Class (index or name) of each value of the attribute, as a mapping or as pairs; None
            takes the values for class names. A value that isn't listed is an error.
        protocol: For label rasters, how their values are read; None takes them for indices.
        bands: Band numbers from 1 to read, in this order; None takes all but alpha.
        rows: Part of each raster's height to use, as fractions from the top: ``(0, 0.8)`` to train
            and ``(0.8, 1)`` to validate share no pixel.
        region: A vector file: pixels outside of its polygons are ignored, and windows wholly
            outside left out. For labels that are complete only there.
        progress: Show a bar while looking for empty windows.

    Attributes:
        ids: One per window: file name, row and column of its upper left pixel.
        classes: Class names in index order.
        palette: A colour per class.
        ignore_index: Index of pixels that don't count.

    Raises:
        DataError: If a raster has no georeference, the labels don't touch any raster, an attribute
            or value is unknown, or no window holds data.

    Examples:
        >>> GeoRasterSegmentation(
        ...     "ortho.tif", "buildings.gpkg", classes=("ground", "building"), tile_px=256
        ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        raster: str | Path | Sequence[str | Path],
        labels: str | Path,
        *,
        classes: Sequence[str] | None = None,
        tile_px: int = 512,
        stride: int | None = None,
        attribute: str | None = None,
        burn: Burn | Sequence[tuple[Any, int | str]] | None = None,
        protocol: Protocol | None = None,
        bands: Sequence[int] | None = None,
        rows: tuple[float, float] = (0.0, 1.0),
        region: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        step = tile_px if stride is None else stride
        if tile_px < 1 or step < 1 or not 0 <= rows[0] < rows[1] <= 1:
            raise DataError(
                f"tile_px={tile_px} and stride={step} must be at least 1, and rows={rows} two "
                "rising fractions between 0 and 1"
            )
        names = classes if classes is not None else ("background", "foreground")
        self.protocol = protocol or Protocol(tuple(names))
        self.classes, self.palette = self.protocol.classes, self.protocol.palette
        self.ignore_index = self.protocol.ignore_index
        self._bands = None if bands is None else tuple(bands)

        several = [raster] if isinstance(raster, str | Path) else raster
        paths = [resolve_root(p) for p in several]
        self._scenes = [_scene(path) for path in paths]
        path = resolve_root(labels)
        self._sources: list[_Vectors | _LabelRaster] = []
        for info in self._scenes:
            if path.suffix.lower() in _RASTER_SUFFIXES:
                self._sources.append(_LabelRaster(path, info, LabelReader(self.protocol)))
            else:
                listed = None if burn is None else dict(burn)
                classify = _Classifier(path, self.classes, attribute, listed)
                self._sources.append(_Vectors.read(path, info, classify))
        if all(isinstance(s, _Vectors) and not len(s) for s in self._sources):
            raise DataError(
                f"{path}: none of its features touches {paths[0]}; is it another place?"
            )
        self._regions = [
            None if region is None else _Vectors.read(resolve_root(region), info, None)
            for info in self._scenes
        ]
        self.windows: list[tuple[int, Window]] = []
        for number, info in enumerate(self._scenes):
            found = _windows(info, tile_px, step, rows)
            area = self._regions[number]
            if area is not None:
                found = [w for w in found if area.touches(info, w)]
            self.windows += [(number, w) for w in _seen(info, found, progress=progress)]
        if not self.windows:
            raise DataError(f"{paths[0]}: no window of {tile_px} px holds data (rows={rows})")
        self.ids = [
            f"{self._name(number)}/{int(w.row_off)}_{int(w.col_off)}" for number, w in self.windows
        ]

    def _name(self, number: int) -> str:
        path = self._scenes[number].path
        return path.stem if path is not None else str(number)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Sample:
        """Read one window and draw its labels.

        Raises:
            DataError: If the raster is damaged or a label value isn't in the protocol.
        """
        number, window = self.windows[index]
        info = self._scenes[number]
        with open_raster(str(info.path)) as raster:
            array, valid = raster.read(window, self._bands)
        mask = self._sources[number].draw(info, window, self.ignore_index)
        area = self._regions[number]
        if area is not None:
            mask[area.draw(info, window, self.ignore_index) == 0] = self.ignore_index
        meta = {
            "id": self.ids[index],
            "path": str(info.path),
            "window": tuple(
                int(v) for v in (window.col_off, window.row_off, window.width, window.height)
            ),
        } | ({"gsd_m": info.gsd_m} if info.gsd_m else {})
        return Sample(
            tv_tensors.Image(torch.from_numpy(array)),
            {"mask": tv_tensors.Mask(torch.from_numpy(mask))},
            None if valid.all() else tv_tensors.Mask(torch.from_numpy(valid)),
            meta,
        )


@dataclass
class _Classifier:
    """Says which class a feature's attribute value means."""

    path: Path
    classes: tuple[str, ...]
    attribute: str | None
    burn: Burn | None

    def __call__(self, frame: Any) -> NDArray[np.int64]:
        if self.attribute is None:
            if self.burn is not None:
                raise DataError(f"{self.path}: burn needs the attribute whose values it maps")
            return np.ones(len(frame), dtype=np.int64)
        if self.attribute not in frame.columns:
            known = [str(c) for c in frame.columns if c != frame.geometry.name]
            raise DataError(
                f"{self.path}: no attribute '{self.attribute}'{suggest(self.attribute, known)}"
            )
        values = frame[self.attribute]
        index = {value: self._index(value) for value in values.unique()}
        return np.array([index[value] for value in values], dtype=np.int64)

    def _index(self, value: Any) -> int:
        target: Any = value
        if self.burn is not None:
            if value not in self.burn:
                known = [str(k) for k in self.burn]
                raise DataError(
                    f"{self.path}: {self.attribute}='{value}' isn't in burn"
                    f"{suggest(str(value), known)}"
                )
            target = self.burn[value]
        if isinstance(target, int) and 0 <= target < len(self.classes):
            return target
        if target not in self.classes:
            raise DataError(
                f"{self.path}: {self.attribute}='{value}' isn't one of the classes"
                f"{suggest(str(target), list(self.classes))}"
            )
        return self.classes.index(target)


class _Vectors:
    """Geometries in a raster's CRS with a class each, found by an STR tree."""

    def __init__(self, geometries: Any, classes: NDArray[np.int64]) -> None:
        from shapely import STRtree

        self._geometries, self._classes = geometries, classes
        self._tree = STRtree(geometries)

    @classmethod
    def read(cls, path: Path, info: RasterInfo, classify: _Classifier | None) -> "_Vectors":
        """Read the features that touch a raster; without a classifier all are 1."""
        import geopandas
        import pyogrio
        import shapely

        if not path.is_file():
            raise DataError(f"{path}: no such label file")
        if info.crs is None or not info.has_georeference or info.gcps:
            raise DataError(
                f"{info.path}: has no CRS and transform, so vectors can't be placed on it; "
                "assign them (gdal_edit.py, or gdalwarp for ground control points)"
            )
        try:
            crs = pyogrio.read_info(path)["crs"]
            if crs is None:
                raise DataError(f"{path}: has no CRS; assign one, e.g. with ogr2ogr -a_srs")
            frame = geopandas.read_file(path, bbox=_bounds_in(info, crs), engine="pyogrio")
            frame = frame.to_crs(info.crs)
        except (ValueError, RuntimeError, OSError) as error:
            raise DataError(f"{path}: can't be read as vectors: {error}") from error
        frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
        geometries = shapely.make_valid(frame.geometry.to_numpy())
        classes = np.ones(len(frame), dtype=np.int64) if classify is None else classify(frame)
        return cls(geometries, classes)

    def __len__(self) -> int:
        return len(self._geometries)

    def _near(self, info: RasterInfo, window: Window) -> NDArray[np.int64]:
        near = self._tree.query(_outline(info, window), predicate="intersects")
        return np.sort(near)  # the file's order, so that later features lie on top

    def touches(self, info: RasterInfo, window: Window) -> bool:
        return bool(len(self._near(info, window)))

    def draw(self, info: RasterInfo, window: Window, ignore_index: int) -> NDArray[Any]:
        from rasterio.features import rasterize
        from rasterio.windows import transform as window_transform

        size = (int(window.height), int(window.width))
        dtype = np.uint8 if 0 <= ignore_index <= 255 else np.int32
        near = self._near(info, window)
        if not len(near):
            return np.zeros(size, dtype=dtype)
        shapes = [(self._geometries[i], int(self._classes[i])) for i in near]
        drawn: NDArray[Any] = rasterize(
            shapes, size, transform=window_transform(window, info.transform), dtype=dtype
        )
        return drawn


class _LabelRaster:
    """A label raster, resampled to another raster's grid window by window."""

    def __init__(self, path: Path, info: RasterInfo, reader: LabelReader) -> None:
        self._path, self._reader = path, reader
        if reader.protocol.coloured:
            raise DataError(
                f"{path}: a label raster's first band is read as numbers, and this protocol lists "
                "colours; give one that lists numbers"
            )
        with open_raster(path) as labels:
            own = labels.info
        self._nodata = own.nodata
        self._same_grid = (own.width, own.height) == (info.width, info.height) and (
            own.crs == info.crs and own.transform.almost_equals(info.transform, 1e-9)
        )
        if not self._same_grid and (own.crs is None or info.crs is None):
            raise DataError(
                f"{path}: {own.width} x {own.height} pixels without a CRS can't be matched to "
                f"{info.path} ({info.width} x {info.height}); georeference both or use one grid"
            )

    def draw(self, info: RasterInfo, window: Window, ignore_index: int) -> NDArray[Any]:
        stored, known = self._stored(info, window)
        if self._nodata is not None and self._nodata not in self._listed:
            known &= stored != self._nodata
        fill = self._reader.protocol.mapping[0][0]
        mask = self._reader.apply(np.where(known, stored, fill), where=self._path)
        mask[~known] = ignore_index
        return mask

    @property
    def _listed(self) -> set[Any]:
        return {value for value, _ in self._reader.protocol.mapping}

    def _stored(self, info: RasterInfo, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        import rasterio
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        if self._same_grid:
            with open_raster(self._path) as labels:
                array, _ = labels.read(window, (1,))
            return array[0], np.ones(array.shape[1:], dtype=bool)
        # an alpha band tells what lies outside, which nodata can't where it is a class too
        with (
            rasterio.open(self._path) as source,
            WarpedVRT(
                source,
                crs=info.crs,
                transform=info.transform,
                width=info.width,
                height=info.height,
                resampling=Resampling.nearest,
                add_alpha=True,
                src_nodata=None,
                nodata=None,
            ) as warped,
        ):
            array = warped.read(window=window)
        return array[0], array[-1] > 0


def _scene(path: Path) -> RasterInfo:
    with open_raster(path) as raster:
        return raster.info


def _windows(
    info: RasterInfo, tile_px: int, stride: int, rows: tuple[float, float]
) -> list[Window]:
    first, last = (round(info.height * fraction) for fraction in rows)
    return [
        Window(left, first + top, min(tile_px, info.width), min(tile_px, last - first))
        for top in starts(last - first, tile_px, stride)
        for left in starts(info.width, tile_px, stride)
    ]


def _seen(info: RasterInfo, windows: list[Window], *, progress: bool) -> list[Window]:
    """The windows with at least one valid pixel; strips are read once, whole."""
    strips: dict[int, list[Window]] = {}
    for window in windows:
        strips.setdefault(int(window.row_off), []).append(window)
    if not _may_be_empty(info):
        return windows
    kept = []
    with open_raster(str(info.path)) as raster:
        for top, row in track(strips.items(), "empty windows", unit="strips", enabled=progress):
            _, valid = raster.read(Window(0, top, info.width, row[0].height))
            columns: NDArray[np.bool_] = valid.max(axis=0)
            kept += [w for w in row if columns[int(w.col_off) : int(w.col_off + w.width)].any()]
    return kept


def _may_be_empty(info: RasterInfo) -> bool:
    """False if no pixel of the file can be invalid, so that nothing need be read to know."""
    import rasterio
    from rasterio.enums import MaskFlags

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(info.path) as source:
            masked = any(MaskFlags.all_valid not in flags for flags in source.mask_flag_enums)
            return masked or any(dtype.startswith("float") for dtype in source.dtypes)


def _outline(info: RasterInfo, window: Window) -> Any:
    from shapely import box
    from shapely.affinity import affine_transform

    left, top = window.col_off, window.row_off
    pixels = box(left, top, left + window.width, top + window.height)
    return affine_transform(pixels, info.transform.to_shapely())


def _bounds_in(info: RasterInfo, crs: str) -> tuple[float, float, float, float]:
    from rasterio.warp import transform_bounds

    whole = _outline(info, Window(0, 0, info.width, info.height))
    bounds: tuple[float, float, float, float] = transform_bounds(info.crs, crs, *whole.bounds)
    return bounds
