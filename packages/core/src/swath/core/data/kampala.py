"""Buildings of Kampala on 105 drone tiles, in folds of places.

Data:    OpenAerialMap imagery (CC-BY-4.0) with OpenStreetMap buildings (ODbL-1.0), 256 px tiles of
         zooms 19 to 21 as distributed with hotosm/fAIr-utilities, ``ramp-data/sample_2/input``.
Folds:   the tiles lie in five places (tiles of zoom 19), which `make_folds` divides into four
         folds; the committed ``folds/oam_kampala_buildings.json`` is what it returned. Four of the
         places make up one mosaic, which has a hold-out of its own, ``"mosaic"``.
"""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from swath.core.data.places import Place, StitchedPlaces, balanced_folds, places_of
from swath.core.data.readers import resolve_root
from swath.core.data.segmentation import FolderSegmentation
from swath.core.data.spec import Protocol
from swath.core.errors import DataError, suggest

PLACE_ZOOM = 19
FOLDS = 4
BUILDINGS = Protocol(
    classes=("background", "building"),
    palette=((40, 40, 40), (230, 75, 60)),
    metric="IoU of building",
)

_MOSAIC_WEST_NORTH = (309612, 261632)  # its first place; it is two places wide and high


def kampala_buildings(
    root: str | Path, fold: int | str, part: str, *, stitched: bool = False
) -> FolderSegmentation | StitchedPlaces:
    """The tiles of one part of one fold.

    Args:
        root: Folder with ``images`` and ``masks``; ``~`` and ``$VARIABLES`` are filled in.
        fold: 0 to 3; ``"mosaic"`` holds out every place of the mosaic; ``"none"`` nothing.
        part: ``"train"`` (every place outside the fold) or ``"test"`` (the fold's places).
        stitched: Whole places, tiles put side by side, instead of tiles; for training with the
            larger ones oversampled.

    Raises:
        DataError: If the fold or the part is unknown, or tiles are missing under ``root``.
    """
    held_out = _held_out(fold)
    if part not in ("train", "test"):
        raise DataError(f"part '{part}' is unknown; use 'train' or 'test'")
    every = [name for tiles in load_folds()["folds"] for name in tiles]
    names = sorted(held_out if part == "test" else set(every) - set(held_out))
    ids = [f"z{name.rpartition('-')[2]}/{name}" for name in names]
    base = resolve_root(root)
    tiles = FolderSegmentation(base / "images", base / "masks", ids, BUILDINGS)
    if not stitched:
        return tiles
    return StitchedPlaces(tiles, zoom=PLACE_ZOOM, oversample=part == "train")


def load_folds() -> dict[str, Any]:
    """The committed folds: ``"folds"``, four lists of tile names, and ``"mosaic"``, one list."""
    text = files("swath.core.data").joinpath("folds/oam_kampala_buildings.json").read_text("utf-8")
    folds: dict[str, Any] = json.loads(text)
    return folds


def make_folds(root: str | Path) -> dict[str, Any]:
    """Divide the set's places into folds; what it returns is committed.

    Args:
        root: Folder with ``images`` and ``masks``.

    Returns:
        JSON data; see `load_folds`.
    """
    base = resolve_root(root)
    tiles = FolderSegmentation(base / "images", base / "masks", protocol=BUILDINGS)
    share = {
        name.rpartition("/")[2]: (tiles[i].targets["mask"] == 1).double().mean().item()
        for i, name in enumerate(tiles.ids)
    }
    members = places_of(list(share), PLACE_ZOOM)
    places = {
        place: Place(len(names), float(torch.tensor([share[n] for n in names]).mean()))
        for place, names in members.items()
    }
    folds = balanced_folds(places, FOLDS)
    west, north = _MOSAIC_WEST_NORTH
    mosaic = [p for p in places if p.x - west in (0, 1) and p.y - north in (0, 1)]
    return {
        "rule": f"places are tiles of zoom {PLACE_ZOOM}; a tile belongs with the place it shows; "
        f"{FOLDS} folds by swath.core.data.places.balanced_folds",
        "places": {
            str(place): {"tiles": p.tiles, "building_share": round(p.share, 4)}
            for place, p in places.items()
        },
        "folds": [[name for place in fold for name in members[place]] for fold in folds],
        "mosaic": [name for place in mosaic for name in members[place]],
    }


def _held_out(fold: int | str) -> Sequence[str]:
    committed = load_folds()
    known: dict[str, Sequence[str]] = {str(i): names for i, names in enumerate(committed["folds"])}
    known |= {"mosaic": committed["mosaic"], "none": ()}
    if str(fold) not in known:
        raise DataError(f"fold '{fold}' is unknown{suggest(str(fold), list(known))}")
    return known[str(fold)]
