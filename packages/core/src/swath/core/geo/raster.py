"""Rasters in and out by windows, with CRS, transform, nodata and ground control points kept.

`open_raster` reads anything of `FORMATS` whose size is plausible; `RasterWriter` writes tiled,
compressed GeoTIFF that appears under its final name only when it is complete. Windows are
`rasterio.windows.Window` (columns first, rows second); bands are numbered from 1, as in GIS.
"""

import json
import math
import operator
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from xml.sax.saxutils import escape

import numpy as np
import psutil
import rasterio
from numpy.typing import NDArray
from rasterio import warp
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.transform import Affine, xy
from rasterio.windows import Window

from swath.core.errors import RasterError
from swath.core.files import atomic_path

FORMATS = ("GTiff", "VRT", "JP2OpenJPEG", "HFA", "ENVI", "PNG", "JPEG", "WEBP", "BMP")
"""GDAL drivers that are tried: no driver that fetches from a network or runs code."""

MAX_PIXELS = 50_000_000_000
"""Width x height above which a raster that can be read by windows is refused."""

MAX_WHOLE_PIXELS = 500_000_000
"""The same for formats that must be decoded from the beginning (PNG, JPEG, WEBP, BMP)."""

MAX_BLOCK_BYTES = 1 << 30
"""Largest strip or tile that is decoded at once."""

_WHOLE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MAX_BANDS = 65_535
_GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": 64 << 20,  # bytes; GDAL's own default is 5 % of the machine's memory
    "GDAL_ERROR_ON_LIBJPEG_WARNING": True,  # a truncated JPEG is an error, not grey pixels
    "GDAL_MAX_DATASET_POOL_SIZE": 32,
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}",  # a VRT can't make us fetch anything
}


@dataclass(frozen=True)
class RasterInfo:
    """What is known of a raster without reading a pixel.

    Attributes:
        path: The file, or None for an array that never was one.
        width: Columns.
        height: Rows.
        count: Bands, an alpha band included.
        dtype: numpy name of the widest band type: ``"uint8"``, ``"uint16"``, ``"float32"``, ...
        crs: Coordinate reference system, or None.
        transform: Pixel corner to CRS coordinates; the identity where there is none.
        nodata: Value that marks missing pixels, or None.
        gcps: Ground control points, where the file has them instead of a transform.
        gcp_crs: Their CRS.
        descriptions: Band names as far as the file gives them, one entry a band.
        alpha: Number of the alpha band, or None.
    """

    path: Path | None
    width: int
    height: int
    count: int = 3
    dtype: str = "uint8"
    crs: CRS | None = None
    transform: Affine = Affine.identity()  # noqa: RUF009 (immutable)
    nodata: float | None = None
    gcps: tuple[GroundControlPoint, ...] = ()
    gcp_crs: CRS | None = None
    descriptions: tuple[str | None, ...] = ()
    alpha: int | None = None

    @property
    def has_georeference(self) -> bool:
        """True if pixels have a place on earth through the transform or through GCPs."""
        return self.placed or bool(self.gcps and self.gcp_crs is not None)

    @property
    def placed(self) -> bool:
        """True if CRS and transform say where pixels lie; a CRS alone doesn't."""
        return self.crs is not None and self.transform != Affine.identity()

    @property
    def image_bands(self) -> tuple[int, ...]:
        """Numbers of the bands that hold measurements: all but the alpha band."""
        return tuple(b for b in range(1, self.count + 1) if b != self.alpha)

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path) if self.path is not None else "the array"

    @property
    def gsd_m(self) -> float | None:
        """Ground sampling distance in metres, or None if it can't be known.

        The root of the ground area of the pixel at the centre, on a sphere of radius 6371 km: true
        also in degrees and in web Mercator, whose metres aren't.
        """
        if not self.placed:
            return None
        row, column = self.height / 2, self.width / 2
        rows, columns = [row, row, row + 1], [column, column + 1, column]
        x, y = xy(self.transform, rows, columns, offset="ul")
        try:
            longitude, latitude = warp.transform(self.crs, CRS.from_epsg(4326), x, y)
        except (RasterioError, CRSError):
            return None
        metres = math.pi / 180 * 6_371_000
        east = np.diff(longitude, prepend=longitude[0]) * math.cos(math.radians(latitude[0]))
        north = np.diff(latitude, prepend=latitude[0])
        (ax, bx), (ay, by) = (np.cumsum(v)[1:] * metres for v in (east, north))
        area = abs(ax * by - ay * bx)
        return math.sqrt(area) if 0 < area < math.inf else None

    @property
    def note(self) -> str | None:
        """What a user should know about the georeference, one line, or None if it is complete."""
        if self.placed:
            return None
        if self.gcps:
            return (
                f"{self.name} is placed by {len(self.gcps)} ground control points only: rasters "
                "made from it carry the same points, vectors stay in pixel coordinates; "
                "warp it first (gdalwarp -tps) to get map coordinates"
            )
        if self.crs is None and self.transform != Affine.identity():
            return (
                f"{self.name} doesn't say which CRS its coordinates are in: results have the same, "
                "and no CRS either; assign it (gdal_edit.py -a_srs ...) to have them on a map"
            )
        if self.crs is not None:
            return (
                f"{self.name} has a CRS, but no transform that places its pixels in it: results "
                "are in pixel coordinates; add it (gdal_edit.py -a_ullr ...) to have them on a map"
            )
        return (
            f"{self.name} has no CRS and transform: results are in pixel coordinates; "
            "assign one (gdal_edit.py -a_srs ... -a_ullr ...) to get map coordinates"
        )


@dataclass(frozen=True, eq=False)
class GeoImage:
    """A whole image in memory.

    Attributes:
        array: ``(C, H, W)`` in the file's own dtype.
        valid: ``(H, W)`` bool, False where the sensor saw nothing.
        info: Where it is.
    """

    array: NDArray[Any]
    valid: NDArray[np.bool_]
    info: RasterInfo


class Raster:
    """An open raster; made by `open_raster`, used as a context manager.

    It may be handed to another thread, but only one thread may read at a time.

    Attributes:
        info: What is known of it.
    """

    def __init__(self, dataset: Any, info: RasterInfo) -> None:
        self._dataset = dataset
        self.info = info
        flags = dataset.mask_flag_enums[0] if dataset.count else []
        self._internal_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of the strips or tiles the file is stored in."""
        rows, columns = self._dataset.block_shapes[0]
        return int(rows), int(columns)

    @property
    def palette(self) -> list[tuple[int, int, int]] | None:
        """Colours of the values 0, 1, ... if the first band has a colour table, else None."""
        try:
            table = self._dataset.colormap(1)
        except ValueError:
            return None
        return [tuple(table[value][:3]) for value in sorted(table)]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names that `RasterWriter` stored, or None."""
        stored = self._dataset.tags().get("SWATH_CLASSES")
        return tuple(json.loads(stored)) if stored else None

    def read(
        self, window: Window | None = None, bands: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window and say which of its pixels are real.

        A pixel is invalid where the alpha band or the internal mask is 0, where a band isn't
        `plausible` (NaN, infinite), and where bands equal nodata: all of them if nodata is an
        ordinary value too (0, or anything in 8 bits), any of them otherwise (-9999 in one band
        already misleads a model).

        Args:
            window: Part of the raster inside its borders, or None for all of it.
            bands: Band numbers from 1 in the wanted order; None takes all but the alpha band.

        Returns:
            ``(C, h, w)`` in the file's dtype, and ``(h, w)`` bool.

        Raises:
            RasterError: If a band doesn't exist, the data is damaged, or it doesn't fit in memory.
        """
        info = self.info
        chosen = info.image_bands if bands is None else band_numbers(bands)
        _check_bands(info, chosen)
        size = (info.height, info.width) if window is None else (window.height, window.width)
        _check_memory(info, len(chosen), *size)
        with _refusing(info.name, self._dataset.name), rasterio.Env(**_GDAL_OPTIONS):
            array = self._dataset.read(list(chosen), window=window)
            valid = self._valid(array, chosen, window)
        return array, valid

    def _valid(
        self, array: NDArray[Any], bands: tuple[int, ...], window: Window | None
    ) -> NDArray[np.bool_]:
        valid = np.ones(array.shape[1:], dtype=bool)
        if self._internal_mask:
            valid &= self._dataset.read_masks(1, window=window) > 0
        if self.info.alpha is not None and self.info.alpha not in bands:
            valid &= self._dataset.read(self.info.alpha, window=window) > 0
        valid &= plausible(array)
        nodata = [self._dataset.nodatavals[b - 1] for b in bands]
        known = [(plane, value) for plane, value in zip(array, nodata, strict=True)
                 if value is not None and not math.isnan(value)]  # fmt: skip
        if known:
            ordinary = array.dtype == np.uint8 or all(value == 0 for _, value in known)
            missing = np.stack([plane == value for plane, value in known])
            if ordinary and len(known) == len(bands):
                valid &= ~missing.all(axis=0)
            elif not ordinary:
                valid &= ~missing.any(axis=0)
        return valid


def open_raster(path: str | Path, *, max_pixels: int | None = None) -> Raster:
    """Open a raster for windowed reading.

    Args:
        path: A file in one of `FORMATS`.
        max_pixels: Largest width x height accepted. None takes the environment variable
            ``SWATH_MAX_PIXELS`` if it is set, else `MAX_PIXELS`, or `MAX_WHOLE_PIXELS` for formats
            that can't be read by windows.

    Returns:
        The open raster, a context manager.

    Raises:
        RasterError: If the file is missing, damaged, in no known format, or claims a size above
            the limit (found out from the header alone).
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+]+:/|/vsi", str(path)):
        raise RasterError(
            f"{path} isn't a file of this machine; fetch it first and give the path of the copy"
        )
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "doesn't exist"
        raise RasterError(f"{path} {what}; give the path of a raster file")
    return _open(path, str(path), max_pixels)


def open_member(
    path: str | Path, offset: int, size: int, name: str, *, max_pixels: int | None = None
) -> Raster:
    """Open a raster that lies in another file as it is, as those in a tar do, without copying it.

    Args:
        path: The file that it lies in.
        offset: Where it begins, in bytes.
        size: Its length in bytes.
        name: What messages call it.
        max_pixels: As for `open_raster`.

    Returns:
        The open raster, a context manager.

    Raises:
        RasterError: As `open_raster`.
    """
    return _open(Path(name), f"/vsisubfile/{offset}_{size},{path}", max_pixels)


@contextmanager
def open_raster_bytes(
    content: bytes, name: str, *, max_pixels: int | None = None
) -> Iterator[Raster]:
    """As `open_raster`, for a raster in memory.

    Args:
        content: The raster's file.
        name: What messages call it.
        max_pixels: As for `open_raster`.

    Yields:
        The open raster, which lasts as long as the block.

    Raises:
        RasterError: As `open_raster`.
    """
    with MemoryFile(content) as file, _open(Path(name), file.name, max_pixels) as raster:
        yield raster


def _open(path: Path, source: str, max_pixels: int | None) -> Raster:
    """Open what GDAL calls ``source``, and users ``path``."""
    with _refusing(str(path), source), rasterio.Env(**_GDAL_OPTIONS):
        dataset = DatasetReader(source, driver=list(FORMATS))
        try:
            info = _info(path, dataset)
            _check_size(info, dataset, max_pixels)
        except BaseException:
            dataset.close()
            raise
        return Raster(dataset, info)


def read_image(
    path: str | Path, bands: Sequence[int] | None = None, *, max_pixels: int | None = None
) -> GeoImage:
    """Read a whole raster into memory.

    Args:
        path: A file in one of `FORMATS`.
        bands: Band numbers from 1 in the wanted order; None takes all but the alpha band.
        max_pixels: As for `open_raster`.

    Returns:
        Array, validity and georeference.

    Raises:
        RasterError: As `open_raster` and `Raster.read`.
    """
    with open_raster(path, max_pixels=max_pixels) as raster:
        array, valid = raster.read(bands=bands)
        return GeoImage(array, valid, raster.info)


class RasterWriter:
    """Writes a GeoTIFF by windows; it appears under its name only when the block succeeds.

    Tiled, compressed with a predictor, BigTIFF where it may pass 4 GB. What wasn't written reads as
    nodata (0 without one). A palette becomes the colour table and class names are
    stored as metadata and, for GIS programs, in the ``.aux.xml`` beside the file.

    Args:
        path: Final name, ``.tif`` or ``.tiff``.
        info: Size, CRS, transform or ground control points of the result, copied bit for bit; a
            CRS without a transform is left out.
        count: Bands to write.
        dtype: numpy name of the type to write.
        nodata: Value that marks missing pixels, or None.
        palette: ``(R, G, B)`` 0..255 of the values 0, 1, ..., for one band of uint8 or uint16.
        classes: Names of the values 0, 1, ...
        descriptions: Band names.
        compress: ``"deflate"`` (read everywhere) or ``"zstd"`` (faster, needs libtiff >= 4.0.10).
        overviews: Also build reduced copies for fast display.
        tags: Further metadata, text by name.

    Raises:
        RasterError: If the name isn't a GeoTIFF's or the disk refuses.
    """

    def __init__(
        self,
        path: str | Path,
        info: RasterInfo,
        *,
        count: int = 1,
        dtype: str = "uint8",
        nodata: float | None = None,
        palette: Sequence[tuple[int, int, int]] | None = None,
        classes: Sequence[str] | None = None,
        descriptions: Sequence[str] | None = None,
        compress: str = "deflate",
        overviews: bool = False,
        tags: dict[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in (".tif", ".tiff"):
            raise RasterError(f"{self.path} must end in .tif: rasters are written as GeoTIFF")
        self.info = replace(
            info, path=self.path, count=count, dtype=dtype, nodata=nodata, alpha=None
        )
        self._palette, self._classes = palette, classes
        self._descriptions, self._tags = descriptions, dict(tags or {})
        self._overviews = overviews
        kind = np.dtype(dtype).kind
        self._profile: dict[str, Any] = {
            "driver": "GTiff",
            "width": info.width,
            "height": info.height,
            "count": count,
            "dtype": dtype,
            "nodata": nodata,
            "tiled": True,
            "blockxsize": 256,
            "blockysize": 256,
            "interleave": "band",
            "compress": compress,
            "bigtiff": "IF_SAFER",
        } | ({} if kind == "c" else {"predictor": 3 if kind == "f" else 2})
        if info.gcps and info.transform == Affine.identity():
            self._profile |= {"gcps": list(info.gcps), "crs": info.gcp_crs}
        else:
            # a CRS alone would place the pixels at its origin
            placed = info.crs if info.placed else None
            self._profile |= {"transform": info.transform, "crs": placed}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._temporary = stack.enter_context(atomic_path(self.path))
            with _refusing(str(self.path), doing="written"), rasterio.Env(**_GDAL_OPTIONS):
                self._dataset = rasterio.open(self._temporary, "w", **self._profile)
                stack.callback(self._abandon)
                self._describe()
            self._stack = stack.pop_all()
        return self

    def _abandon(self) -> None:
        with suppress(RasterioError):  # what went wrong first is what is reported
            self._dataset.close()

    def _describe(self) -> None:
        if self._palette is not None and self.info.count == 1:
            table = {v: (*map(int, colour), 255) for v, colour in enumerate(self._palette)}
            if self.info.nodata is not None:
                table[int(self.info.nodata)] = (0, 0, 0, 0)
            self._dataset.write_colormap(1, table)
        if self._classes is not None:
            self._tags["SWATH_CLASSES"] = json.dumps(list(self._classes))
        if self._tags:
            self._dataset.update_tags(**self._tags)
        for band, name in enumerate(self._descriptions or (), start=1):
            self._dataset.set_band_description(band, name)

    def write(self, window: Window, array: NDArray[Any]) -> None:
        """Write a window.

        Args:
            window: Part of the raster inside its borders.
            array: ``(h, w)`` or ``(C, h, w)`` of the writer's dtype.

        Raises:
            RasterError: If the disk refuses.
        """
        planes = array[None] if array.ndim == 2 else array
        with _refusing(str(self.path), doing="written"), rasterio.Env(**_GDAL_OPTIONS):
            self._dataset.write(planes, window=window)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)  # removes the temporary file
            return
        with self._stack, _refusing(str(self.path), doing="written"), rasterio.Env(**_GDAL_OPTIONS):
            if self._overviews:
                longest = max(self.info.width, self.info.height)
                self._dataset.build_overviews(
                    [2**i for i in range(1, 12) if longest >> (i - 1) > 256]
                )
            self._dataset.close()
            self._check_complete()
        self._write_names()

    def _check_complete(self) -> None:
        """GDAL is silent about a disk that fills up while a file is closed; blocks are missing."""
        size = self._temporary.stat().st_size
        with rasterio.open(self._temporary) as written:
            for band in range(1, self.info.count + 1):
                rows, columns = written.block_shapes[band - 1]
                for y in range(-(-self.info.height // rows)):
                    for x in range(-(-self.info.width // columns)):
                        start, length = (
                            int(written.get_tag_item(f"BLOCK_{item}_{x}_{y}", "TIFF", band) or -1)
                            for item in ("OFFSET", "SIZE")
                        )
                        if start < 0 or start + length > size:
                            raise RasterError(
                                f"{self.path} can't be written: the disk took only part of it; "
                                "free some space or choose another folder"
                            )

    def _write_names(self) -> None:
        """Class names where GIS programs look; stale side files would describe another raster."""
        remove_side_files(self.path)
        if self._classes is None or self.info.count != 1:
            return
        beside = self.path.with_name(f"{self.path.name}.aux.xml")
        names = "".join(f"<Category>{escape(name)}</Category>" for name in self._classes)
        with atomic_path(beside) as temporary:
            temporary.write_text(
                f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>'
                "</PAMRasterBand></PAMDataset>\n",
                encoding="utf-8",
            )


def remove_side_files(path: Path) -> None:
    """Remove what lies beside a raster and is shown in its place: names, overviews and a mask."""
    for end in (".aux.xml", ".ovr", ".msk"):
        path.with_name(f"{path.name}{end}").unlink(missing_ok=True)


def band_numbers(bands: Sequence[int]) -> tuple[int, ...]:
    """Band numbers as a user gives them, as plain integers.

    Raises:
        RasterError: If they are anything but whole numbers in a sequence.
    """
    try:
        return tuple(operator.index(b) for b in bands)
    except TypeError:
        raise RasterError(
            f"bands={bands!r} must be band numbers, counted from 1, in a list, such as [3, 2, 1]"
        ) from None


def plausible(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Where all bands hold a number a sensor could have measured.

    NaN and infinity are not, nor is anything beyond 1e30: what GIS programs write for missing data
    in float rasters (-3.4e38) isn't always declared.

    Args:
        array: ``(C, h, w)``, any dtype.

    Returns:
        ``(h, w)`` bool.
    """
    if array.dtype.kind not in "fc":
        return np.ones(array.shape[1:], dtype=bool)
    if array.dtype == np.float16:  # 1e30 is beyond it
        return np.asarray(np.isfinite(array).all(axis=0))
    return np.asarray((np.abs(array) < 1e30).all(axis=0))


@contextmanager
def _refusing(name: str, source: str = "", *, doing: str = "read") -> Iterator[None]:
    """Turn what GDAL and rasterio raise about ``source`` into one line that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except RasterError:
        raise
    except MemoryError as error:
        raise RasterError(f"{name} doesn't fit in memory; read it by windows") from error
    except (RasterioError, CRSError, OSError, ValueError, OverflowError, UnicodeError) as error:
        cause = error.__cause__ or error
        source = source or name
        said = str(cause).replace(f"'{source}' not recognized", "not recognised")
        said = said.replace(source, "it")
        reason = " ".join(said.split()) or type(cause).__name__
        advice = (
            "it is damaged, incomplete or in no known format: copy or export it again"
            if doing == "read"
            else "check the folder, the free space and the permissions"
        )
        raise RasterError(f"{name} can't be {doing} ({reason}); {advice}") from error


def _info(path: Path, dataset: Any) -> RasterInfo:
    gcps, gcp_crs = dataset.gcps
    alpha = [i for i, c in enumerate(dataset.colorinterp, start=1) if c == ColorInterp.alpha]
    return RasterInfo(
        path=path,
        width=dataset.width,
        height=dataset.height,
        count=dataset.count,
        dtype=str(np.result_type(*dataset.dtypes)) if dataset.count else "uint8",
        crs=dataset.crs,
        transform=dataset.transform,
        nodata=dataset.nodata,
        gcps=tuple(gcps),
        gcp_crs=gcp_crs if gcps else None,
        descriptions=dataset.descriptions,
        alpha=alpha[-1] if alpha and dataset.count > 1 else None,
    )


def _check_size(info: RasterInfo, dataset: Any, max_pixels: int | None) -> None:
    if not info.count:
        inside = len(dataset.subdatasets)
        raise RasterError(
            f"{info.name} holds {inside} images but no bands of its own; "
            "extract the one you want (gdal_translate)"
        )
    whole = dataset.driver in _WHOLE_FORMATS
    limit = max_pixels
    if limit is None:
        set_by_user = os.environ.get("SWATH_MAX_PIXELS")
        if set_by_user and not set_by_user.isdecimal():
            raise RasterError(f"SWATH_MAX_PIXELS={set_by_user} must be a whole number of pixels")
        limit = int(set_by_user) if set_by_user else MAX_WHOLE_PIXELS if whole else MAX_PIXELS
    pixels = info.width * info.height
    if pixels > limit:
        advice = "; convert it to a tiled GeoTIFF" if whole else ""
        raise RasterError(
            f"{info.name} claims {info.width} x {info.height} pixels, more than the limit of "
            f"{limit:,}{advice}, or raise the limit (SWATH_MAX_PIXELS={pixels}) if it is genuine"
        )
    rows, columns = dataset.block_shapes[0]
    planes = info.count if dataset.interleaving and dataset.interleaving.value == "PIXEL" else 1
    block = rows * columns * planes * np.dtype(info.dtype).itemsize
    if block > MAX_BLOCK_BYTES:
        raise RasterError(
            f"{info.name} is stored in blocks of {columns} x {rows} pixels ({block / 2**30:.1f} GB "
            "each), too large to read by windows; rewrite it tiled (gdal_translate -co TILED=YES)"
        )


def _check_bands(info: RasterInfo, bands: tuple[int, ...]) -> None:
    absent = [b for b in bands if not 1 <= b <= info.count]
    if absent or not bands:
        raise RasterError(
            f"{info.name} has bands 1 to {info.count}, but band "
            f"{absent[0] if absent else 'none'} was asked for; give existing band numbers"
        )


def _check_memory(info: RasterInfo, count: int, height: int, width: int) -> None:
    needed = count * height * width * np.dtype(info.dtype).itemsize
    free = psutil.virtual_memory().available
    if needed > free // 2:
        raise RasterError(
            f"{info.name}: {count} x {height} x {width} values need {needed / 2**30:.1f} GB and "
            f"{free / 2**30:.1f} GB are free; read it by windows or choose fewer bands"
        )
