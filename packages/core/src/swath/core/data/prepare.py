"""Cut a data set's large scenes into the tiles that papers train on: `prepare`.

Scenes are read in strips, labels are translated on the way, and what comes out is a copy that the
catalogue knows. ``prepared.jsonl`` in the output says what was made from what, so that an
interrupted run goes on where it stopped and a second run has nothing to do.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from swath.core.data.catalogue import dataset_spec
from swath.core.data.detection import Objects, read_dota
from swath.core.data.readers import LabelReader, resolve_root
from swath.core.data.spec import DatasetSpec, Item, Layout, Protocol
from swath.core.errors import DataError
from swath.core.files import atomic_path
from swath.core.geo.raster import Raster, open_raster
from swath.core.geo.windows import starts
from swath.core.progress import Bar

MANIFEST = "prepared.jsonl"
"""First the recipe, then one line a scene."""

_MAX_PIXELS = 1 << 30
_KEPT_SHARE = 0.7  # of an object's area, for it to belong to a tile
_ENCODERS: dict[str, dict[str, Any]] = {
    ".png": {"compress_level": 4},
    ".tif": {"compression": "tiff_adobe_deflate"},
}
_Pixels = NDArray[Any]
_Tile = tuple[int, int, _Pixels, _Pixels | None]  # row, column, image, mask


@dataclass(frozen=True)
class Recipe:
    """How one data set is cut.

    Attributes:
        source: Where the scenes and labels of a copy as distributed lie.
        images: Template of a tile's path: the source's fields, ``split``, the running number
            ``crop`` and the window ``x``, ``y``, ``x1``, ``y1``.
        labels: Template of its label's path.
        size: Side of the tiles in pixels.
        overlap: Pixels shared by neighbours, in splits to train on.
        overlap_val: The same in all other splits.
        protocol: How the stored labels are read, by name or one of its own; None for DOTA text.
        pad: Colour around scenes smaller than a tile; None leaves those tiles small.
        source_text: Where the figures come from.
    """

    source: Layout
    images: str
    labels: str
    size: int
    overlap: int
    overlap_val: int
    protocol: str | Protocol | None = None
    pad: tuple[int, int, int] | None = None
    source_text: str = field(default="", compare=False)


def _isprs(source: Layout, image: str, label: str) -> Recipe:
    return Recipe(
        source,
        f"img_dir/{{split}}/{image}",
        f"ann_dir/{{split}}/{label}",
        size=512,
        overlap=256,
        overlap_val=0,
        protocol="rgb",
        source_text="S5: 512 px, every 256 px to train on and every 512 px to validate",
    )


RECIPES: Mapping[str, Recipe] = {
    "potsdam": _isprs(
        Layout(
            r"2_Ortho_RGB/top_potsdam_{tile:\d+_\d+}_RGB.tif",
            "5_Labels_all/top_potsdam_{tile}_label.tif",
        ),
        "top_potsdam_{tile}_RGB_crop_{crop}.png",
        "top_potsdam_{tile}_label_crop_{crop}.png",
    ),
    "vaihingen": _isprs(
        Layout(
            r"top/top_mosaic_09cm_area{area:\d+}.tif",
            "gts_for_participants/top_mosaic_09cm_area{area}.tif",
        ),
        "top_mosaic_09cm_area{area}_{crop}.tif",
        "top_mosaic_09cm_area{area}_{crop}.tif",
    ),
    "isaid": Recipe(
        Layout(
            "{split:train|val}/images/{id}.png",
            "{split}/Semantic_masks/images/{id}_instance_color_RGB.png",
        ),
        "img_dir/{split}/{id}_{y}_{y1}_{x}_{x1}.png",
        "ann_dir/{split}/{id}_{y}_{y1}_{x}_{x1}_instance_color_RGB.png",
        size=896,
        overlap=384,
        overlap_val=384,
        protocol="rgb",
        pad=(0, 0, 0),
        source_text="iSAID's development kit and mmsegmentation: 896 px, overlap 384",
    ),
    "dota": Recipe(
        Layout(
            "{split}/images/{id}.{ext:png|jpg|tif|bmp}", "{split}/labelTxt/{id}.txt", kind="dota"
        ),
        "{split}/images/{id}__{size}__{x}___{y}.png",
        "{split}/labelTxt/{id}__{size}__{x}___{y}.txt",
        size=1024,
        overlap=200,
        overlap_val=200,
        pad=(124, 116, 104),
        source_text="S5 and BboxToolkit's img_split: 1024 px, overlap 200, 0.7 of an object",
    ),
}
"""What can be prepared, by the data set's name."""

_AS_THEY_ARE = {
    "loveda": "1024 px tiles of index masks already",
    "openearthmap": "tiles of index masks already, split by train.txt, val.txt and test.txt",
}


@dataclass(frozen=True)
class Prepared:
    """What a run of `prepare` did.

    Attributes:
        scenes: How many scenes the output now holds.
        skipped: How many of them an earlier run had finished.
        tiles: How many tiles that makes.
    """

    scenes: int
    skipped: int
    tiles: int


def prepare(
    name: str,
    root: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    overlap: int | None = None,
    split: str | None = None,
    workers: int | None = None,
    progress: bool = False,
    recipe: Recipe | None = None,
) -> Prepared:
    """Cut a copy of a known data set into tiles.

    Args:
        name: The set's name; one of `RECIPES` unless ``recipe`` is given.
        root: The copy as its authors distribute it, unpacked.
        out: Folder to write to; the catalogue reads it as a copy of the same set.
        size: Side of the tiles in pixels; None takes the papers'.
        overlap: Pixels shared by neighbours in every split; None takes the papers'.
        split: Only this split, in whatever folders the catalogue has it.
        workers: Scenes cut at the same time; None takes one a core, at most eight.
        progress: Show a bar.
        recipe: How to cut it; default: that of `RECIPES`.

    Raises:
        DataError: If the set needs no preparing or isn't known, no scene is there, a label is
            missing or out of range, or ``out`` was made in another way.
    """
    spec = dataset_spec(name)
    recipe = _changed(recipe or _recipe(name), size, overlap)
    folder, target = resolve_root(root), resolve_root(out)
    if target.resolve() == folder.resolve():
        raise DataError(f"{target}: write the tiles to another folder than the scenes are in")
    scenes = list(_scenes(spec, recipe, folder, split))
    manifest = _Manifest(target, name, recipe)
    waiting = [(part, item) for part, item in scenes if not manifest.has(part, item)]
    skipped = len(scenes) - len(waiting)
    cutter = _Cutter(spec, recipe, target)
    workers = workers or min(8, os.cpu_count() or 1)
    with (
        Bar(f"preparing {name}", len(scenes), "scenes", start=skipped, enabled=progress) as bar,
        ThreadPoolExecutor(workers) as pool,  # decoding and encoding release the GIL
    ):
        running = {pool.submit(cutter, part, item): (part, item) for part, item in waiting}
        try:
            for done in as_completed(running):
                manifest.add(*running[done], done.result())
                bar.advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    manifest.close()
    return Prepared(len(manifest.entries), skipped, manifest.tiles)


def cut_scene(name: str, image: Path) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """The tiles of one scene as `prepare` cuts those that are judged on, without writing them.

    Args:
        name: Of the data set.
        image: The scene.

    Yields:
        Row and column where a tile begins, and its pixels ``(H, W, 3)``, padded as the set's are.

    Raises:
        DataError: If the set isn't cut into tiles, or the scene hasn't 8 bits a band.
        RasterError: If the scene can't be read.
    """
    recipe = _recipe(name)
    with open_raster(image, max_pixels=_MAX_PIXELS) as scene:
        for row, column, pixels in _tiles(scene, recipe.size, recipe.size - recipe.overlap_val):
            yield row, column, _padded(_rgb(pixels, image), recipe.size, recipe.pad)


def _recipe(name: str) -> Recipe:
    if name in RECIPES:
        return RECIPES[name]
    raise unprepared(name, RECIPES)


def unprepared(name: str, known: Iterable[str]) -> DataError:
    """The error that says why a set isn't prepared, and which ones are."""
    reason = _AS_THEY_ARE.get(name, "no paper's preparation of it is known here")
    return DataError(
        f"'{name}' is used as it is distributed ({reason}); `prepare` knows {', '.join(known)}"
    )


def _changed(recipe: Recipe, size: int | None, overlap: int | None) -> Recipe:
    if size is not None:
        recipe = replace(recipe, size=size)
    if overlap is not None:
        recipe = replace(recipe, overlap=overlap, overlap_val=overlap)
    if recipe.size < 32 or not 0 <= max(recipe.overlap, recipe.overlap_val) < recipe.size:
        raise DataError(
            f"tiles need a side from 32 px and an overlap below it; got {recipe.size} px and "
            f"{max(recipe.overlap, recipe.overlap_val)} px (--size, --overlap)"
        )
    return recipe


def _scenes(
    spec: DatasetSpec, recipe: Recipe, root: Path, only: str | None
) -> Iterator[tuple[str, Item]]:
    """The scenes of a copy, each with its split."""
    if not root.is_dir():
        raise DataError(f"{root} isn't a folder; {spec.name} is expected there")
    places = (root, root / spec.folder) if spec.folder else (root,)
    items = next((found for place in places if (found := [*recipe.source.find(place, {})])), [])
    if not items:
        packed = sorted(p.name for p in root.rglob("*") if p.suffix in (".zip", ".tar", ".gz"))
        hint = f"; unpack {packed[0]} first (`swath data unpack`)" if packed else ""
        raise DataError(
            f"{root} holds no scenes of {spec.name}; expected {recipe.source.images} as its "
            f"authors distribute them{hint}"
        )
    empty = True
    # a split may lie in folders of other names: DOTA's test set is test-dev from v2.0 on
    wanted = {only, *spec.splits.get(only or "", {}).get("split", ())}
    for item in items:
        split = item.fields.get("split") or _split_by_list(spec, item)
        if split is None or not (only is None or split in wanted):
            continue
        if item.label is not None and not item.label.is_file():
            if not spec.may_lack_label(item):
                raise DataError(f"{item.image}: its label {item.label} isn't there")
            item = replace(item, label=None)
        empty = False
        yield split, item
    if empty:
        raise DataError(f"{root}: no scene of {spec.name} belongs to split '{only or 'any'}'")


def _split_by_list(spec: DatasetSpec, item: Item) -> str | None:
    for split, allowed in spec.splits.items():
        if any(item.fields.get(key) in values for key, values in allowed.items()):
            return split
    return None


class _Manifest:
    """What is finished, on disk after every scene."""

    def __init__(self, target: Path, name: str, recipe: Recipe) -> None:
        self._target, self._path = target, target / MANIFEST
        data = asdict(recipe) | {"source": asdict(recipe.source)}
        self._head = json.dumps({"set": name, "recipe": data})
        self.entries: dict[str, dict[str, Any]] = {}
        if self._path.is_file():
            head, *lines = self._path.read_text(encoding="utf-8").splitlines() or [""]
            if head != self._head:
                raise DataError(
                    f"{self._path}: this folder was prepared from another set or with another size "
                    "or overlap; choose an empty folder, or delete this one"
                )
            for line in lines:
                try:
                    entry: dict[str, Any] = json.loads(line)
                except ValueError:  # the line that was being written when the run was stopped
                    continue
                self.entries[entry["scene"]] = entry
        elif target.is_dir() and any(target.iterdir()):
            raise DataError(f"{target} isn't empty and has no {MANIFEST}; choose an empty folder")
        self._write()
        self._log = self._path.open("a", encoding="utf-8")

    @property
    def tiles(self) -> int:
        return sum(entry["tiles"] for entry in self.entries.values())

    def has(self, split: str, item: Item) -> bool:
        """Whether a scene is finished, unchanged since, and its tiles are all there."""
        entry = self.entries.get(_key(split, item))
        return (
            entry is not None
            and entry["bytes"] == _bytes(item)
            and all((self._target / file).is_file() for file in entry["files"])
        )

    def add(self, split: str, item: Item, tiles: list[list[str]]) -> None:
        files = [file for tile in tiles for file in tile]
        entry: dict[str, Any] = {
            "scene": _key(split, item),
            "bytes": _bytes(item),
            "tiles": len(tiles),
            "files": files,
        }
        self.entries[entry["scene"]] = entry
        self._log.write(json.dumps(entry) + "\n")
        self._log.flush()

    def close(self) -> None:
        """Put the lines in order, so that equal inputs give equal files."""
        self._log.close()
        self._write()

    def _write(self) -> None:
        lines = [self._head, *(json.dumps(self.entries[key]) for key in sorted(self.entries))]
        with atomic_path(self._path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _key(split: str, item: Item) -> str:
    return f"{split}/{item.id}"


def _bytes(item: Item) -> list[int]:
    return [path.stat().st_size for path in (item.image, item.label) if path is not None]


class _Cutter:
    """Cuts one scene: call it with a split and an item."""

    def __init__(self, spec: DatasetSpec, recipe: Recipe, target: Path) -> None:
        self._recipe, self._target = recipe, target
        protocol: Protocol | None = spec.protocol(recipe.protocol) if recipe.protocol else None
        self._reader = LabelReader(protocol) if protocol else None
        self._ignored = protocol.ignore_index if protocol else 255

    def __call__(self, split: str, item: Item) -> list[list[str]]:
        """Write the tiles; returns the files of each."""
        recipe, training = self._recipe, split.startswith("train")
        step = recipe.size - (recipe.overlap if training else recipe.overlap_val)
        objects = None
        written: list[list[str]] = []
        with open_raster(item.image, max_pixels=_MAX_PIXELS) as scene:
            size = (scene.info.height, scene.info.width)
            tiles = _tiles(scene, recipe.size, step)
            pairs: Iterator[_Tile] = ((*tile, None) for tile in tiles)
            if self._reader is not None:
                pairs = self._with_masks(item, tiles, size, step)
            elif item.label is not None:
                objects = _Placed(read_dota(item.label))
            for crop, (row, column, pixels, mask) in enumerate(pairs):
                height, width = pixels.shape[1:]
                lines = None if objects is None else objects.inside(row, column, recipe.size)
                if lines == [] and training:
                    continue
                values = dict(item.fields) | {
                    "split": split,
                    "size": recipe.size,
                    "crop": crop,
                    "x": column,
                    "y": row,
                    "x1": column + (recipe.size if recipe.pad else width),
                    "y1": row + (recipe.size if recipe.pad else height),
                }
                image, label = recipe.images.format(**values), recipe.labels.format(**values)
                files = [image]
                self._save(image, _padded(_rgb(pixels, item.image), recipe.size, recipe.pad))
                if mask is not None:
                    ignored = None if recipe.pad is None else self._ignored
                    self._save(label, _padded(mask, recipe.size, ignored))
                    files.append(label)
                elif lines is not None:
                    with atomic_path(self._target / label) as temporary:
                        temporary.write_text("".join(lines), encoding="utf-8")
                    files.append(label)
                written.append(files)
        return written

    def _with_masks(
        self,
        item: Item,
        tiles: Iterator[tuple[int, int, _Pixels]],
        size: tuple[int, int],
        step: int,
    ) -> Iterator[_Tile]:
        assert self._reader is not None
        assert item.label is not None
        with open_raster(item.label, max_pixels=_MAX_PIXELS) as labels:
            found = (labels.info.height, labels.info.width)
            if found != size:
                raise DataError(
                    f"{item.label}: {found[1]} x {found[0]} pixels, but its image {item.image} has "
                    f"{size[1]} x {size[0]}"
                )
            masks = _tiles(labels, self._recipe.size, step)
            for (row, column, pixels), (_, _, stored) in zip(tiles, masks, strict=True):
                codes = np.moveaxis(stored[:3], 0, -1) if len(stored) >= 3 else stored[0]
                where = f"{item.label}, in the tile from row {row}, column {column}"
                yield row, column, pixels, self._reader.apply(codes, where=where)

    def _save(self, name: str, array: _Pixels) -> None:
        path = self._target / name
        with atomic_path(path) as temporary:
            Image.fromarray(array).save(temporary, **_ENCODERS[path.suffix])


def _tiles(raster: Raster, size: int, step: int) -> Iterator[tuple[int, int, _Pixels]]:
    """Row, column and pixels ``(C, h, w)`` of every window; each row of the file is read once."""
    info = raster.info
    held: _Pixels | None = None
    top = 0
    for row in starts(info.height, size, step):
        end = min(row + size, info.height)
        if held is not None and row < top + held.shape[1]:
            held = held[:, row - top :]
            fresh, _ = raster.read(
                Window(0, row + held.shape[1], info.width, end - row - held.shape[1])
            )
            held = np.concatenate([held, fresh], axis=1)
        else:
            held, _ = raster.read(Window(0, row, info.width, end - row))
        top = row
        for column in starts(info.width, size, step):
            yield row, column, held[:, :, column : column + size]


def _rgb(pixels: _Pixels, path: Path) -> _Pixels:
    """``(H, W, 3)`` of the first three bands; grey scenes become grey RGB."""
    if pixels.dtype != np.uint8:
        raise DataError(f"{path}: {pixels.dtype} pixels; the set's scenes have 8 bits a band")
    chosen = pixels[:3] if len(pixels) >= 3 else np.repeat(pixels[:1], 3, axis=0)
    return np.ascontiguousarray(np.moveaxis(chosen, 0, -1))


def _padded(array: _Pixels, size: int, value: Any) -> _Pixels:
    """A tile of full size, the array in its upper left corner; as it is if value is None."""
    if value is None or array.shape[:2] == (size, size):
        return array
    full = np.empty((size, size, *array.shape[2:]), array.dtype)
    full[...] = value
    full[: array.shape[0], : array.shape[1]] = array
    return full


class _Placed:
    """The objects of one scene, to be divided among its tiles."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._quads = objects.boxes.reshape(-1, 4, 2)
        self._shapes = shapely.make_valid(shapely.polygons(self._quads))
        self._areas = shapely.area(self._shapes)

    def inside(self, row: int, column: int, size: int) -> list[str]:
        """DOTA lines of the objects of which enough lies in a window, in its coordinates.

        They keep their corners, also those outside of the window, and their difficulty.
        """
        window = shapely.box(column, row, column + size, row + size)
        seen = shapely.area(shapely.intersection(self._shapes, window))
        kept = np.flatnonzero((self._areas > 0) & (seen >= _KEPT_SHARE * self._areas))
        lines = []
        for i in kept.tolist():
            corners = (self._quads[i] - (column, row)).ravel().tolist()
            numbers = " ".join(f"{value:.2f}".removesuffix(".00") for value in corners)
            difficult = int(self._objects.difficult[i])
            lines.append(f"{numbers} {self._objects.names[i]} {difficult}\n")
        return lines
