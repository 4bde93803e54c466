"""Reading small images and label rasters, whatever their file is called.

What a file is follows from its content: tiles named ``.png`` that hold a JPEG are common. Whole
scenes don't belong here; they are read by windows (`swath.core.geo.raster`).
"""

import os
import struct
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from swath.core.data.spec import Protocol
from swath.core.errors import DataError, RasterError, suggest

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".gif")
"""What is taken for an image when a folder is searched."""

Array = NDArray[np.generic]
Valid = NDArray[np.bool_]

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_WHITE_FIRST = [(255, 255, 255), (0, 0, 0)]
_NARROWED = {"bool": "uint8", "int8": "int16", "float16": "float32", "float64": "float32"}


def read_array(path: str | Path) -> tuple[Array, Valid | None]:
    """Read a small image in the sensor's own numbers.

    Args:
        path: Any file that Pillow or rasterio can open, chosen by content, not by extension.

    Returns:
        The image ``(C, H, W)``, uint8, uint16, int16 or float32 (32-bit integers and 64-bit floats
        become float32), and a boolean ``(H, W)`` that is False at nodata or transparent pixels, or
        None if all are valid. Grey images have one band; an alpha band becomes validity.

    Raises:
        DataError: If the file is missing, truncated, not an image, or claims more pixels than
            Pillow's limit.
    """
    file = _existing(path)
    if _needs_rasterio(file):
        return _narrowed(file, *_raster(file, expand_palette=True))
    return _narrowed(file, *_pillow(file, _image_bands))


def decode_image(content: bytes, name: str) -> tuple[Array, Valid | None]:
    """As `read_array`, for an image inside another file.

    Args:
        content: A file that Pillow or rasterio can open.
        name: What messages call it.

    Returns:
        As `read_array`.

    Raises:
        DataError: As `read_array`.
    """
    if _starts_for_rasterio(content):
        return _narrowed(name, *_raster(name, expand_palette=True, content=content))
    return _narrowed(name, *_pillow(name, _image_bands, BytesIO(content)))


def _narrowed(file: str | Path, array: Array, valid: Valid | None) -> tuple[Array, Valid | None]:
    name = str(array.dtype)
    if name in _NARROWED:
        array = array.astype(_NARROWED[name])
    elif array.dtype.kind in "iu" and array.dtype.itemsize > 2:
        array = array.astype(np.float32)
    elif name not in ("uint8", "uint16", "int16", "float32"):
        raise DataError(f"{file}: {name} pixels can't be used as an image; convert the file")
    return array, None if valid is None or valid.all() else valid


def read_labels(path: str | Path, *, coloured: bool = False) -> Array:
    """Read a label raster as it is stored.

    Args:
        path: An index image, a palette PNG, an RGB-coded image, a 1-bit image or a GeoTIFF.
        coloured: Labels are colours: palettes are expanded.

    Returns:
        Integers ``(H, W)``, or uint8 ``(H, W, 3)`` if the labels are colours.

    Raises:
        DataError: If the file can't be read, or isn't of that kind.
    """
    file = _existing(path)
    if _needs_rasterio(file):
        array, _ = _raster(file, expand_palette=coloured)
    else:
        array, _ = _pillow(file, _colour_bands if coloured else _index_bands)
    return _as_labels(file, array, coloured)


def decode_labels(content: bytes, name: str, *, coloured: bool = False) -> Array:
    """As `read_labels`, for a label raster inside another file.

    Args:
        content: A file that Pillow can open.
        name: What messages call it.
        coloured: As for `read_labels`.

    Returns:
        As `read_labels`.

    Raises:
        DataError: As `read_labels`.
    """
    bands = _colour_bands if coloured else _index_bands
    array, _ = _pillow(name, bands, BytesIO(content))
    return _as_labels(name, array, coloured)


def _as_labels(file: str | Path, array: Array, coloured: bool) -> Array:
    if coloured:
        if len(array) not in (3, 4):
            raise DataError(
                f"{file}: {len(array)} band(s), but the protocol's labels are RGB colours; "
                "choose the protocol for index masks"
            )
        return np.moveaxis(array[:3], 0, -1)
    if len(array) > 1:
        if any((band != array[0]).any() for band in array[1:3]):
            raise DataError(
                f"{file}: a colour image, but the protocol's labels are integers; "
                "choose a protocol that maps colours"
            )
        array = array[:1]
    labels: Array = array[0]
    if labels.dtype == np.bool_:
        return labels.astype(np.uint8)
    if labels.dtype.kind == "f":
        whole = labels.astype(np.int64) if np.isfinite(labels).all() else None
        if whole is None or (whole != labels).any():
            raise DataError(f"{file}: holds fractions or NaN ({labels.dtype}), not class labels")
        return whole
    return labels


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height from the file's header, without reading the pixels.

    Raises:
        DataError: If the file is missing or not an image.
    """
    file = _existing(path)
    if _needs_rasterio(file):
        from swath.core.geo.raster import open_raster

        with open_raster(file) as raster:
            return raster.info.width, raster.info.height
    size, _ = _pillow(file, lambda image: (np.array(image.size), None))
    return int(size[0]), int(size[1])


class LabelReader:
    """Turns stored labels into class indices by a protocol.

    Args:
        protocol: Which stored value means which class.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        fits = len(protocol.classes) <= 256 and 0 <= protocol.ignore_index <= 255
        self.dtype = np.uint8 if fits else np.int64
        self._codes, order = np.unique(
            [_packed(value) for value, _ in protocol.mapping], return_index=True
        )
        self._index = np.array([index for _, index in protocol.mapping])[order].astype(self.dtype)
        place, listed = self._look_up(np.arange(256))
        self._table = self._index[place]  # of the values of a byte
        self._unlisted = (~listed).astype(np.uint8)
        self._unchanged = self.dtype == np.uint8 and bool(
            (self._table == np.arange(256))[listed].all()
        )

    def __call__(self, path: str | Path) -> Array:
        """Read a label file as class indices ``(H, W)``, uint8 (int64 if a byte is too small)."""
        return self.apply(read_labels(path, coloured=self.protocol.coloured), where=path)

    def apply(self, stored: Array, *, where: object) -> NDArray[Any]:
        """Map stored labels, ``(H, W)`` integers or ``(H, W, 3)`` colours, to class indices.

        Args:
            stored: What the file holds.
            where: Its name, for the message.

        Returns:
            Indices ``(H, W)``; ``stored`` itself where it holds them already.

        Raises:
            DataError: If a value isn't in the protocol: which, how often, and where first.
        """
        index: NDArray[Any]
        if stored.dtype == np.uint8 and stored.ndim == 2:  # the usual case, by table
            unlisted = np.asarray(cv2.LUT(stored, self._unlisted))
            if unlisted.any():
                raise DataError(f"{where}: {self._complaint(stored, unlisted > 0)}")
            if self._unchanged:
                return stored
            index = cv2.LUT(stored, self._table) if self.dtype == np.uint8 else self._table[stored]
            return index
        if stored.dtype == np.uint8 and self.protocol.coloured:
            number = self._number_of_colour.take(_packed_colours(stored))
            if not number.all():
                raise DataError(f"{where}: {self._complaint(stored, number == 0)}")
            index = self._index.take(number - 1)
            return index
        codes = stored.astype(np.int64) if stored.ndim == 2 else _packed_colours(stored)
        place, known = self._look_up(codes)
        if not known.all():
            raise DataError(f"{where}: {self._complaint(stored, ~known)}")
        index = self._index[place]
        return index

    @cached_property
    def _number_of_colour(self) -> NDArray[np.uint16]:
        """For each of the 2**24 colours its number among the codes from 1, or 0 if unlisted."""
        numbers = np.zeros(1 << 24, np.uint16)  # only pages that are touched take memory
        numbers[self._codes] = np.arange(1, len(self._codes) + 1)
        return numbers

    def _look_up(self, codes: Array) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        place = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        return place, self._codes[place] == codes

    def _complaint(self, stored: Array, unlisted: NDArray[np.bool_]) -> str:
        row, column = (int(v) for v in np.argwhere(unlisted)[0])
        values = np.unique(stored[unlisted].reshape(-1, *stored.shape[2:]), axis=0)
        shown = [str(v) if stored.ndim == 2 else str(tuple(v.tolist())) for v in values[:5]]
        more = f" and {len(values) - 5} more" if len(values) > 5 else ""
        return (
            f"label value {', '.join(shown)}{more} in {int(unlisted.sum())} pixel(s), first at row "
            f"{row}, column {column}, isn't in the protocol ({_summary(self.protocol)}); correct "
            "the file or choose the protocol of its encoding"
        )


def find_images(folder: str | Path) -> dict[str, Path]:
    """Images below a folder by their id: the path relative to it, without extension.

    Raises:
        DataError: If the folder is absent, holds no image, or two images share an id.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} isn't a folder; give the one that holds the images")
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{found[name]} and {path} share the id '{name}'; rename one")
        found[name] = path
    if not found:
        raise DataError(f"{root} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return found


def resolve_root(root: str | Path) -> Path:
    """A path given by the user, with ``~`` and ``$VARIABLES`` filled in.

    Raises:
        DataError: If a variable isn't set.
    """
    text = os.path.expandvars(os.path.expanduser(str(root)))
    if "$" in text:
        raise DataError(f"{text}: set that environment variable or give the path itself")
    return Path(text)


def _packed(value: int | tuple[int, int, int]) -> int:
    if isinstance(value, int):
        return value
    return value[0] << 16 | value[1] << 8 | value[2]


def _packed_colours(stored: Array) -> NDArray[np.int64]:
    """``(H, W, 3)`` colours as one number each, like `_packed`."""
    red, green, blue = np.moveaxis(stored, -1, 0)
    codes: NDArray[np.int64] = red.astype(np.int64)
    for band in (green, blue):
        codes <<= 8
        codes |= band.astype(np.int64, copy=False)
    return codes


def _summary(protocol: Protocol) -> str:
    values = [value for value, _ in protocol.mapping]
    if len(values) > 12:
        return f"{values[0]} to {values[-1]}, {len(values)} values"
    return ", ".join(str(v) for v in values)


def _existing(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        nearby = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        hint = suggest(file.name, nearby)
        raise DataError(f"{file}: no such file{hint if 'did you mean' in hint else ''}")
    return file


def _needs_rasterio(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(32)
    return path.suffix.lower() in (".jp2", ".vrt") or _starts_for_rasterio(start)


def _starts_for_rasterio(start: bytes) -> bool:
    if start.startswith(_TIFF_STARTS):
        return True
    # Pillow reduces colour PNG of 16 bits a channel to 8 without a word
    return start.startswith(_PNG_START) and len(start) > 24 and start[24] == 16


def _pillow(
    path: str | Path,
    bands: Callable[[Image.Image], tuple[Array, Valid | None]],
    content: BytesIO | None = None,
) -> tuple[Array, Valid | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content or path) as image:
                return bands(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RasterError(
            f"{path}: {error}; an image this large is read by windows, as a GeoTIFF"
        ) from error
    except UnidentifiedImageError as error:
        raise RasterError(f"{path}: not an image, or its header is damaged") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise RasterError(f"{path}: damaged or truncated: {error}; copy it again") from error


def _image_bands(image: Image.Image) -> tuple[Array, Valid | None]:
    if image.mode in ("P", "L", "RGB") and "transparency" in image.info:
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    elif image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    array = _planes(image)
    if image.mode in ("RGBA", "LA"):
        return array[:-1], array[-1] > 0
    return array, None


def _index_bands(image: Image.Image) -> tuple[Array, Valid | None]:
    array = _planes(image)
    return (array[:-1] if image.mode in ("RGBA", "LA") else array), None


def _colour_bands(image: Image.Image) -> tuple[Array, Valid | None]:
    return _planes(image.convert("RGB") if image.mode == "P" else image), None


def _planes(image: Image.Image) -> Array:
    array = np.asarray(image)  # read-only; the one copy is made here
    if array.ndim == 2:
        return array[None].copy()
    planes = np.empty((array.shape[2], *array.shape[:2]), array.dtype)
    cv2.split(array, list(planes))  # twice as fast as moving the axis
    return planes


def _raster(
    path: str | Path, *, expand_palette: bool, content: bytes | None = None
) -> tuple[Array, Valid]:
    """All bands but alpha, ``(C, H, W)``, and validity from nodata, alpha, masks and NaN."""
    from swath.core.geo.raster import open_raster, open_raster_bytes

    limit = 2 * (Image.MAX_IMAGE_PIXELS or 2**40)
    opened: AbstractContextManager[Any] = (
        open_raster(path, max_pixels=limit)
        if content is None
        else open_raster_bytes(content, str(path), max_pixels=limit)
    )
    with opened as raster:
        array, valid = raster.read()
        palette = raster.palette
    if len(array) == 1 and palette == _WHITE_FIRST:  # 1 bit, 0 means white: GDAL leaves it as it is
        return 1 - array, valid
    if len(array) == 1 and palette is not None and expand_palette:
        array = np.moveaxis(np.array(palette, dtype=np.uint8)[array[0]], -1, 0)
    return array, valid
