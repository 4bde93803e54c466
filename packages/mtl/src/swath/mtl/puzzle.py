"""Potsdam's tiles put together again, and its six classes drawn as five."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from swath.core.errors import DataError
from swath.core.files import atomic_path

CLUTTER_RGB, IMPERVIOUS_RGB = (255, 0, 0), (255, 255, 255)

_NAME = re.compile(r"(?P<area>.+)_(?P<left>\d+)_(?P<top>\d+)_(?P<right>\d+)_(?P<bottom>\d+)")


def stitch(tiles: Mapping[str, NDArray[Any]], fill: int = 255) -> dict[str, NDArray[Any]]:
    """Put tiles together by their names, area by area.

    Args:
        tiles: ``(h, w)`` or ``(h, w, C)`` by ``area_left_top_right_bottom``, in pixels; where two
            overlap, the later one shows.
        fill: What places hold that no tile covers.

    Returns:
        Whole images by area, as large as their tiles reach.

    Raises:
        DataError: If a name tells no place, or a tile isn't as large as its name says.

    Source:
        RSCoTr dossier 3, puzzle tool. There, the order of the directory decides about overlaps.
    """
    places: dict[str, list[tuple[tuple[int, int, int, int], NDArray[Any]]]] = {}
    for name, tile in tiles.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise DataError(f"{name}: a tile's name must be area_left_top_right_bottom")
        left, top, right, bottom = (int(match[k]) for k in ("left", "top", "right", "bottom"))
        if tile.shape[:2] != (bottom - top, right - left):
            raise DataError(
                f"{name}: the tile has {tile.shape[1]} x {tile.shape[0]} px, its name says "
                f"{right - left} x {bottom - top}"
            )
        places.setdefault(match["area"], []).append(((left, top, right, bottom), tile))
    whole = {}
    for area, parts in places.items():
        size = max(box[3] for box, _ in parts), max(box[2] for box, _ in parts)
        canvas = np.full((*size, *parts[0][1].shape[2:]), fill, parts[0][1].dtype)
        for (left, top, right, bottom), tile in parts:
            canvas[top:bottom, left:right] = tile
        whole[area] = canvas
    return whole


def six_to_five(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw Potsdam's clutter (red) as impervious surface (white); ``(H, W, 3)``, for pictures."""
    converted = image.copy()
    converted[(image == CLUTTER_RGB).all(-1)] = IMPERVIOUS_RGB
    return converted


def stitch_folder(folder: Path, out: Path, five_classes: bool = False) -> list[Path]:
    """Put the tiles of a folder together and write each area as ``<area>.png``.

    Args:
        folder: Of ``area_left_top_right_bottom.png``, such as ``swath predict --ending .png``
            names them; taken in the order of their names.
        out: Created if needed.
        five_classes: Draw clutter as impervious surface.

    Raises:
        DataError: See `stitch`; or if there is no tile, or five classes are to be drawn of numbers.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} isn't a folder; give the one that holds the tiles")
    files = sorted(folder.glob("*.png"))
    if not files:
        raise DataError(f"{folder} holds no .png tiles; swath predict writes them by --ending .png")
    written = []
    for area, image in stitch({file.stem: _read(file) for file in files}).items():
        if five_classes and image.ndim != 3:
            raise DataError(f"{folder}: tiles of {area} have no colours; leave --five-classes out")
        path = out / f"{area}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(six_to_five(image) if five_classes else image).save(temporary, "PNG")
        written.append(path)
    return written


def _read(path: Path) -> NDArray[Any]:
    try:
        with Image.open(path) as image:
            # predicted maps are numbers of a table of colours
            return np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except OSError as error:
        raise DataError(f"{path}: can't be read as an image: {error}") from error
