"""Map tiles on the ground: which place a tile shows, folds of places, and tiles put together.

Tiles cut from a web map are named by column, row and zoom. Tiles of different zooms show the same
ground, so a split by file leaks; here a set is split by *places*, tiles of a coarse zoom, and
everything that a place holds goes with it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torchvision import tv_tensors

from swath.core.data.segmentation import SegmentationItems
from swath.core.errors import DataError
from swath.core.sample import Sample

_HALF_WORLD_M = 20037508.342789244  # half the equator's length in EPSG:3857
_NAME = re.compile(r"(\d+)-(\d+)-(\d+)$")


@dataclass(frozen=True, order=True)
class MapTile:
    """A tile of the web-mercator pyramid; row 0 is the northernmost.

    Attributes:
        zoom: The world is ``2**zoom`` tiles wide and high.
        x: Column, from the west.
        y: Row, from the north.
    """

    zoom: int
    x: int
    y: int

    @classmethod
    def parse(cls, name: str) -> "MapTile":
        """Read the tile number a file name ends with, as in ``OAM-1238448-1046528-21``.

        Raises:
            DataError: If the name doesn't end with ``x-y-zoom``, or there is no such tile.
        """
        match = _NAME.search(name)
        if match is None:
            raise DataError(f"{name}: the name of a map tile must end with x-y-zoom")
        x, y, zoom = (int(number) for number in match.groups())
        if zoom > 40 or max(x, y) >> zoom:
            raise DataError(f"{name}: zoom {zoom} has no tile at column {x}, row {y}")
        return cls(zoom, x, y)

    def __str__(self) -> str:
        return f"{self.x}-{self.y}-{self.zoom}"

    def ancestor(self, zoom: int) -> "MapTile":
        """The tile of a coarser zoom that contains this one.

        Raises:
            DataError: If this tile is coarser than that.
        """
        if zoom > self.zoom:
            raise DataError(f"tile {self} is coarser than a tile of zoom {zoom}")
        return MapTile(zoom, self.x >> (self.zoom - zoom), self.y >> (self.zoom - zoom))

    def bounds_m(self) -> tuple[float, float, float, float]:
        """West, south, east and north in metres of EPSG:3857."""
        side = 2 * _HALF_WORLD_M / 2**self.zoom
        west, north = self.x * side - _HALF_WORLD_M, _HALF_WORLD_M - self.y * side
        return west, north - side, west + side, north


@dataclass(frozen=True)
class Place:
    """What matters for balance: how many tiles a place holds, and its share of the wanted class."""

    tiles: int
    share: float


def balanced_folds(places: Mapping[MapTile, Place], count: int) -> list[list[MapTile]]:
    """Divide places into folds with equal numbers of tiles and equal shares of a class.

    Places are dealt out by falling share, forwards and backwards in turn; then, as long as it
    helps, the one move or exchange of places is made that most reduces first the sum of squared
    tile counts, then the sum of squared differences between a fold's share and that of all. No
    randomness: the same places give the same folds.

    Args:
        places: At least ``count`` of them.
        count: Number of folds, >= 2.

    Returns:
        The places of each fold in order; folds in order of their first place.

    Raises:
        DataError: If there are fewer places than folds.
    """
    if not 2 <= count <= len(places):
        raise DataError(f"{len(places)} places can't be divided into {count} folds")
    ranked = sorted(places, key=lambda tile: (-places[tile].share, tile))
    fold_of = {
        tile: i % count if i // count % 2 == 0 else count - 1 - i % count
        for i, tile in enumerate(ranked)
    }
    best = _imbalance(fold_of, places, count)
    while True:
        trials = [
            (_imbalance(trial, places, count), trial) for trial in _neighbours(fold_of, count)
        ]
        score, trial = min(trials, key=lambda scored: scored[0])
        if score >= best:
            break
        best, fold_of = score, trial
    folds = [sorted(tile for tile in fold_of if fold_of[tile] == i) for i in range(count)]
    return sorted(folds)


def _neighbours(fold_of: Mapping[MapTile, int], count: int) -> Iterable[dict[MapTile, int]]:
    tiles = sorted(fold_of)
    for i, tile in enumerate(tiles):
        if sum(fold == fold_of[tile] for fold in fold_of.values()) > 1:  # no fold becomes empty
            yield from ({**fold_of, tile: fold} for fold in range(count))
        for other in tiles[:i]:
            yield {**fold_of, tile: fold_of[other], other: fold_of[tile]}


def _imbalance(
    fold_of: Mapping[MapTile, int], places: Mapping[MapTile, Place], count: int
) -> tuple[int, float]:
    tiles, wanted = [0] * count, [0.0] * count
    for tile, fold in fold_of.items():
        tiles[fold] += places[tile].tiles
        wanted[fold] += places[tile].tiles * places[tile].share
    overall = sum(wanted) / sum(tiles)
    spread = sum((w / t - overall) ** 2 for w, t in zip(wanted, tiles, strict=True))
    return sum(t * t for t in tiles), round(spread, 12)


class StitchedPlaces:
    """The map tiles of a data set put side by side: one sample per place and zoom.

    Crops can then cross the borders between tiles, and a prediction sees its surroundings. Pixels
    without a tile are invalid and ignored. Samples are kept in memory once read (a copy per
    worker).

    Args:
        tiles: Labelled square map tiles of one size, whose ids end with ``x-y-zoom``.
        zoom: Zoom of the places, no finer than any tile.
        oversample: For training on random windows: a sample occurs as often as it is tiles wide,
            since larger ones have more to show.

    Attributes:
        ids: ``"<x>-<y>-<zoom of the place>@<zoom of the tiles>"``.
    """

    def __init__(self, tiles: SegmentationItems, *, zoom: int, oversample: bool = False) -> None:
        self.tiles = tiles
        self.classes, self.palette = tiles.classes, tiles.palette
        self.ignore_index = tiles.ignore_index
        groups: dict[tuple[MapTile, int], list[tuple[MapTile, int]]] = defaultdict(list)
        for index, name in enumerate(tiles.ids):
            tile = MapTile.parse(name)
            groups[tile.ancestor(zoom), tile.zoom].append((tile, index))
        self._groups = dict(sorted(groups.items()))
        self._keys = [
            (place, fine)
            for place, fine in self._groups
            for _ in range(1 << (fine - zoom) if oversample else 1)
        ]
        self.ids = [f"{place}@{fine}" for place, fine in self._keys]
        self._read: dict[tuple[MapTile, int], Sample] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """One place at one zoom, ``2 ** (zoom of the tiles - zoom of the place)`` tiles a side."""
        key = self._keys[index]
        if key not in self._read:
            self._read[key] = self._stitch(*key)
        return replace(self._read[key], meta=dict(self._read[key].meta))

    def _stitch(self, place: MapTile, zoom: int) -> Sample:
        members = self._groups[place, zoom]
        parts = [self.tiles[member] for _, member in members]
        side = parts[0].image.shape[-1]
        fine = zoom - place.zoom
        canvas = (side << fine, side << fine)
        image = torch.zeros(parts[0].image.shape[0], *canvas, dtype=parts[0].image.dtype)
        mask = torch.full(canvas, self.ignore_index, dtype=torch.uint8)
        valid = torch.zeros(canvas, dtype=torch.bool)
        for (tile, _), part in zip(members, parts, strict=True):
            if part.image.shape[-2:] != (side, side):
                raise DataError(
                    f"{part.meta['path']}: {tuple(part.image.shape[-2:])} pixels, but its "
                    f"neighbours have {side} x {side}"
                )
            top, left = (tile.y - (place.y << fine)) * side, (tile.x - (place.x << fine)) * side
            window = slice(top, top + side), slice(left, left + side)
            image[:, *window] = part.image
            mask[window] = part.targets["mask"]
            valid[window] = True if part.valid is None else part.valid
        return Sample(
            tv_tensors.Image(image),
            {"mask": tv_tensors.Mask(mask)},
            None if valid.all() else tv_tensors.Mask(valid),
            {"id": f"{place}@{zoom}", "path": parts[0].meta["path"]},
        )


def places_of(names: Sequence[str], zoom: int) -> dict[MapTile, list[str]]:
    """The tiles that each place holds, by their names, both in order."""
    groups: dict[MapTile, list[str]] = defaultdict(list)
    for name in sorted(names, key=MapTile.parse):
        groups[MapTile.parse(name).ancestor(zoom)].append(name)
    return dict(sorted(groups.items()))
