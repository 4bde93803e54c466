"""Unlabelled scenes, wherever they are, and the tiles they are cut into."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ContainerIO import ContainerIO
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from swath.core.data.readers import IMAGE_SUFFIXES, decode_image
from swath.core.errors import DataError
from swath.core.geo.raster import RasterInfo, open_member, open_raster
from swath.pretrain.rs4p.duplicates import perceptual_hash
from swath.pretrain.rs4p.lists import Files, read_names
from swath.pretrain.rs4p.shards import SUFFIXES, members, read_at

Pixels = NDArray[np.uint8]

_AS_STORED = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}
_JPEG_QUALITY = 95
_PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_LABELS = tuple(f".{s}" for s, part in SUFFIXES.items() if part in ("mask", "confidence"))
_MODES = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}


@dataclass(frozen=True)
class Scene:
    """One image file, or one image in a shard.

    Attributes:
        name: Its path relative to the folder that all sources have in common, with slashes.
        path: The file, or the shard.
        size: Bytes; 0 for a listed file that isn't there.
        offset: Where in the shard it begins; None for a file of its own.
    """

    name: str
    path: Path
    size: int
    offset: int | None = None


@dataclass(frozen=True)
class Cutting:
    """How scenes become tiles of 8-bit RGB.

    Attributes:
        tile: Largest side of a tile in pixels.
        min_size: Scenes with a shorter side are left out.
        min_valid: Least share of a tile's pixels that must hold data and not be black.
        bands: Red, green and blue, numbered from 1; None takes the first three of three or four, or
            repeats a single one.
        scale: Factor and offset that map the numbers of scenes that aren't 8 bits to 0..1; None
            refuses them.
        image_format: ``"jpg"`` or ``"png"``: how tiles are stored. A scene that is a JPEG or PNG
            no larger than a tile is stored as it is.
    """

    tile: int = 512
    min_size: int = 64
    min_valid: float = 0.5
    bands: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    image_format: str = "jpg"


@dataclass(frozen=True)
class Place:
    """Where a tile is: its scene, and its upper left pixel and size in it."""

    scene: Scene
    row: int
    column: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """The scene's name, and the place in it."""
        return f"{self.scene.name}@{self.row},{self.column}"


@dataclass(frozen=True)
class Tile:
    """A tile as it will be stored.

    Attributes:
        place: Where it is.
        pixels: ``(3, h, w)`` uint8 RGB, 0 where there is no data.
        valid: ``(h, w)`` bool, or None if every pixel holds data.
        hash: See `perceptual_hash`.
        encoded: The image file.
        suffix: ``"jpg"`` or ``"png"``.
        meta: Where it came from, JSON data.
    """

    place: Place
    pixels: Pixels
    valid: NDArray[np.bool_] | None
    hash: int
    encoded: bytes
    suffix: str
    meta: dict[str, Any]


@dataclass(frozen=True)
class Unusable:
    """A tile there is nothing to learn from, or a scene that can't be read.

    Attributes:
        reason: What is wrong with the file; None if there simply is nothing in the tile.
    """

    reason: str | None = None


def find_scenes(sources: Sequence[Path]) -> list[Scene]:
    """All scenes of folders, shards (``.tar``), list files (``.txt``) and single images.

    Folders are searched with all below them, shards and links to folders included; a folder that is
    reached twice counts once. In shards, masks and confidences of ours are left alone. Of a list
    file the first column counts, or a whole line that is the name of a file with spaces, relative
    to the list's folder; what it names needn't exist.

    Returns:
        The scenes ordered by name, each once.

    Raises:
        DataError: If there is no source, one is absent or of no known kind, a shard is damaged, or
            there is no scene at all.
    """
    if not sources:
        raise DataError("there is no source; name folders of scenes, shards, lists or images")
    roots = [source.resolve() if source.is_dir() else source.resolve().parent for source in sources]
    common = Path(os.path.commonpath(roots))
    found: dict[str, Scene] = {}
    for source in sources:
        for path in _files(source.resolve()):
            name = Path(os.path.relpath(path, common)).as_posix()
            if path.suffix.lower() == ".tar":
                found |= {scene.name: scene for scene in _in_shard(name, path)}
            else:
                size = path.stat().st_size if path.is_file() else 0
                found[name] = Scene(name, path, size)
    if not found:
        raise DataError(
            f"{', '.join(map(str, sources))}: no scenes ({', '.join(IMAGE_SUFFIXES)}, or .tar)"
        )
    return [found[name] for name in sorted(found)]


def _files(source: Path) -> Iterator[Path]:
    suffix = source.suffix.lower()
    if source.is_dir():
        yield from _files_below(source)
    elif not source.is_file():
        raise DataError(f"{source}: no such folder, shard or list")
    elif suffix == ".txt":
        folder = source.parent
        yield from (folder / name for name in read_names(source, Files(folder)))
    elif suffix == ".tar" or suffix in IMAGE_SUFFIXES:
        yield source
    else:
        raise DataError(f"{source}: neither a folder, an image, a .tar shard nor a .txt list")


def _files_below(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links can lead round in circles
            below.clear()
            continue
        seen.add(real)
        below.sort()  # which of its names a folder is found by
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if not name.startswith(".") and (suffix == ".tar" or suffix in IMAGE_SUFFIXES):
                yield Path(folder, name)


def _in_shard(name: str, path: Path) -> Iterator[Scene]:
    for member in members(path):
        last = Path(member.name).name.lower()
        if last.endswith(IMAGE_SUFFIXES) and not last.endswith(_LABELS) and last[0] != ".":
            yield Scene(f"{name}/{member.name}", path, member.size, member.offset_data)


def measure(scenes: Sequence[Scene], cutting: Cutting) -> list[tuple[int, int] | str]:
    """Height and width of each scene from its header, or what is wrong with it."""
    found: list[tuple[int, int] | str] = []
    for scene in scenes:
        try:
            with _opened(scene) as raster:
                _check(raster.info, cutting)
                found.append((raster.info.height, raster.info.width))
        except DataError as error:
            found.append(_plain(error, scene))
    return found


class Plan:
    """All tiles of all scenes, numbered from 0 in the order of the scenes and their rows.

    The tiles of a scene stand side by side from its upper left corner; the last one of a row or
    column is moved back to the border if at least half of it would lie inside, and left out
    otherwise. A scene no larger than a tile is one tile.

    Args:
        scenes: In order.
        sizes: Height and width of each, ``(N, 2)``; 0 for what can't be read.
        cutting: How they are cut.
    """

    def __init__(self, scenes: Sequence[Scene], sizes: NDArray[np.int64], cutting: Cutting) -> None:
        self.scenes, self.sizes, self.cutting = scenes, sizes, cutting
        large_enough = sizes.min(axis=1) >= max(cutting.min_size, 1)
        rows, columns = np.maximum(1, np.floor(sizes / cutting.tile + 0.5)).astype(np.int64).T
        self._columns = columns
        self._first = np.concatenate([[0], np.cumsum(np.where(large_enough, rows * columns, 0))])
        self.too_small = int((~large_enough & (sizes.min(axis=1) > 0)).sum())

    def __len__(self) -> int:
        return int(self._first[-1])

    def scene_of(self, number: int) -> int:
        """The number of the scene that a tile is cut from."""
        return int(np.searchsorted(self._first, number, side="right")) - 1

    def __getitem__(self, number: int) -> Place:
        """Where a tile is."""
        scene = self.scene_of(number)
        row, column = divmod(number - int(self._first[scene]), int(self._columns[scene]))
        height, width = (int(v) for v in self.sizes[scene])
        tile = self.cutting.tile
        return Place(
            self.scenes[scene],
            min(row * tile, max(height - tile, 0)),
            min(column * tile, max(width - tile, 0)),
            min(tile, height),
            min(tile, width),
        )


def cut(places: Sequence[Place], cutting: Cutting) -> list[Tile | Unusable]:
    """Read tiles. Those of one scene should stand together: a file is opened once for them."""
    done: list[Tile | Unusable] = []
    start = 0
    while start < len(places):
        scene = places[start].scene
        stop = next((i for i in range(start, len(places)) if places[i].scene != scene), len(places))
        wanted = places[start:stop]
        try:
            with _opened(scene) as raster:
                _check(raster.info, cutting)
                done += [_cut_one(raster, place, cutting) for place in wanted]
        except DataError as error:
            done[start:] = [Unusable(_plain(error, scene))] * len(wanted)
        start = stop
    return done


class _Source(Protocol):
    """What tiles are read from: a `Raster`, or a picture."""

    @property
    def info(self) -> RasterInfo: ...

    @property
    def palette(self) -> list[tuple[int, int, int]] | None: ...

    def read(
        self, window: Window | None = None, bands: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]: ...


@dataclass(frozen=True)
class _Picture:
    """A PNG, JPEG or the like, decoded as a whole and to its end: GDAL overlooks a cut-off PNG."""

    scene: Scene
    info: RasterInfo
    changed: int
    palette: None = None

    def read(
        self, window: Window | None = None, bands: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        array, valid = _decoded(self.scene, self.changed)
        rows, columns = window.toslices() if window is not None else (slice(None), slice(None))
        chosen = [band - 1 for band in bands or range(1, len(array) + 1)]
        if max(chosen) >= len(array):
            raise DataError(f"{self.info.name} has bands 1 to {len(array)}, not {bands}")
        return array[chosen, rows, columns], valid[rows, columns]


@lru_cache(maxsize=1)  # tiles of one scene follow one another
def _decoded(scene: Scene, changed: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Pixels of a picture that was last changed at this time."""
    array, valid = decode_image(_content(scene), scene.name)
    return array, np.ones(array.shape[1:], bool) if valid is None else valid


def _content(scene: Scene) -> bytes:
    return read_at(scene.path, scene.offset or 0, scene.size)


@contextmanager
def _opened(scene: Scene) -> Iterator[_Source]:
    picture = _picture(scene)
    if picture is not None:
        yield picture
    elif scene.offset is None:
        with open_raster(scene.path) as raster:
            yield raster
    else:
        with open_member(scene.path, scene.offset, scene.size, scene.name) as raster:
            yield raster


def _picture(scene: Scene) -> _Picture | None:
    """A picture of 8 bits that fits in memory, from its header; None for anything else."""
    try:
        with warnings.catch_warnings(), scene.path.open("rb") as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            part = ContainerIO(file, scene.offset or 0, scene.size)
            with Image.open(part, formats=_PICTURES) as image:
                bands = _MODES.get(image.mode)
                sixteen = image.format == "PNG" and image.tile and "16" in str(image.tile[0][3])
                if bands is None or sixteen:
                    return None
                info = RasterInfo(Path(scene.name), image.width, image.height, bands)
            return _Picture(scene, info, os.fstat(file.fileno()).st_mtime_ns)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Warning):
        return None  # GDAL says what is wrong with it


def _check(info: RasterInfo, cutting: Cutting) -> None:
    if cutting.bands is None and len(info.image_bands) not in (1, 3, 4):
        raise DataError(
            f"{info.name}: {len(info.image_bands)} bands; say which are red, green and blue with "
            "--bands, e.g. --bands 4,3,2"
        )
    if cutting.scale is None and info.dtype != "uint8":
        raise DataError(
            f"{info.name}: stored as {info.dtype}; say how the numbers map to 8 bits with --scale "
            "darkest:brightest, e.g. --scale 0:3000"
        )


def _cut_one(raster: _Source, place: Place, cutting: Cutting) -> Tile | Unusable:
    window = Window(place.column, place.row, place.width, place.height)
    pixels, valid = _rgb(raster, window, cutting)
    pixels[:, ~valid] = 0
    seen = pixels.any(axis=0)
    if not seen.any() or seen.mean() < cutting.min_valid:
        return Unusable()
    if not np.ptp(pixels[:, seen], axis=1).any():
        return Unusable()
    image = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    whole = bool(valid.all())
    stored = _as_stored(raster, place, cutting) if whole else None
    suffix, encoded = stored or (cutting.image_format, _encode(image, cutting.image_format))
    return Tile(
        place,
        pixels,
        None if whole else valid,
        perceptual_hash(image),
        encoded,
        suffix,
        _meta(raster.info, place, window),
    )


def _rgb(raster: _Source, window: Window, cutting: Cutting) -> tuple[Pixels, NDArray[np.bool_]]:
    """``(3, h, w)`` uint8, and which pixels hold data."""
    bands = cutting.bands or raster.info.image_bands[:3]
    array, valid = raster.read(window, bands)
    palette = raster.palette
    if palette is not None and len(array) == 1:
        array = np.array(palette, np.uint8)[array[0]].transpose(2, 0, 1)
    if array.dtype != np.uint8:
        factor, offset = cutting.scale or (1.0, 0.0)
        scaled = np.where(valid, array, 0).astype(np.float32) * factor + offset
        array = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
    if len(array) == 1:
        array = np.repeat(array, 3, axis=0)
    return array, valid


def _as_stored(raster: _Source, place: Place, cutting: Cutting) -> tuple[str, bytes] | None:
    """Suffix and content of a scene's file, if it can be used as it is: no generation is lost."""
    info = raster.info
    whole = (place.height, place.width) == (info.height, info.width)
    if not whole or not isinstance(raster, _Picture) or info.count != 3 or cutting.bands:
        return None
    content = _content(place.scene)
    for start, suffix in _AS_STORED.items():
        if content.startswith(start):
            return suffix, content
    return None


def _encode(image: Pixels, suffix: str) -> bytes:
    options = {
        # full resolution of the colours: they tell roofs from fields
        "jpg": [
            cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        ],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 4],
    }  # fmt: skip
    _, encoded = cv2.imencode(f".{suffix}", image[..., ::-1], options[suffix])
    return bytes(encoded)


def _meta(info: RasterInfo, place: Place, window: Window) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "source": place.scene.name,
        "window": [place.row, place.column, place.height, place.width],
    }
    if info.has_georeference and info.crs is not None:
        meta["crs"] = info.crs.to_string()
        meta["transform"] = list(window_transform(window, info.transform))[:6]
    if info.gsd_m is not None:
        meta["gsd_m"] = float(f"{info.gsd_m:.6g}")
    return meta


def _plain(error: Exception, scene: Scene) -> str:
    """One line; which scene it is about is said beside it."""
    line = " ".join(str(error).split())
    return line.removeprefix(str(scene.path)).removeprefix(scene.name).lstrip(": ")
