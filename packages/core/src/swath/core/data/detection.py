"""Images with objects: DOTA text, YOLO-OBB text, VOC and DIOR XML, VHR-10 text, COCO JSON."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors

from swath.core.data.readers import find_images, resolve_root
from swath.core.data.segmentation import read_image_tensor
from swath.core.data.spec import Item, Protocol, read_list
from swath.core.errors import DataError, suggest
from swath.core.sample import Sample

_MAX_LABEL_BYTES = 64 << 20
_VHR10_LINE = re.compile(r"\((\d+),(\d+)\),\((\d+),(\d+)\),(\d+)")
_CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


@dataclass
class Objects:
    """The objects of one image, as their file has them.

    Attributes:
        names: Class name of each (or its number from 1, where the file has numbers).
        boxes: ``(N, 8)`` corners x, y in turn; ``(N, 5)`` centre, size, clockwise radians; or
            ``(N, 4)`` x1, y1, x2, y2; in pixels, float64.
        difficult: Whether each is marked as difficult (or a crowd).
        places: Where in the file each stands, for messages: ``"line 3"``, ``"object 2"``.
        polygons: For each, the outlines ``(P, 2)`` of its parts; empty if the file has none.
    """

    names: list[str] = field(default_factory=list)
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    difficult: list[bool] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    polygons: list[Any] = field(default_factory=list)


def read_dota(path: Path) -> Objects:
    """Read DOTA text: eight coordinates, class, and difficulty (0 or 1, may be left out) a line.

    Header lines (``imagesource:``, ``gsd:``) and blank lines are skipped.

    Raises:
        DataError: With the file and line that can't be read.
    """
    objects = Objects(boxes=np.zeros((0, 8)))
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        words = line.split()
        if not words or line.startswith(("imagesource", "gsd")):
            continue
        place = f"line {number}"
        try:
            row = [float(word) for word in words[:8]]
        except ValueError:
            row = []
        if len(row) != 8 or len(words) not in (9, 10) or not np.isfinite(row).all():
            raise DataError(
                f"{path}, {place}: expected 'x1 y1 x2 y2 x3 y3 x4 y4 class difficulty'; "
                f"got '{line.strip()[:60]}'"
            )
        rows.append(row)
        objects.names.append(words[8])
        objects.difficult.append(len(words) == 10 and words[9] not in ("0", "0.0"))
        objects.places.append(place)
    objects.boxes = np.array(rows, dtype=np.float64).reshape(-1, 8)
    return objects


def read_voc(path: Path, *, rotated: bool = False) -> Objects:
    """Read VOC XML: ``bndbox``, or ``robndbox`` of DIOR-R (corners) or roLabelImg (angle).

    Args:
        path: The file.
        rotated: Read ``robndbox``.

    Returns:
        Boxes as stored: no one-pixel shift is applied.

    Raises:
        DataError: With the file and object that can't be read.
    """
    try:
        # no DTD is ever needed; refusing it keeps entity expansion out
        text = _text(path)
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DataError(f"{path}: XML with a document type isn't accepted; remove it")
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: damaged XML: {error}") from error
    tag = "robndbox" if rotated else "bndbox"
    objects, rows = Objects(), []
    for number, element in enumerate(root.iter("object"), start=1):
        place = f"object {number}"
        box, name = element.find(tag), element.findtext("name")
        if box is None or not name:
            raise DataError(f"{path}, {place}: has no <{'name' if box is not None else tag}>")
        rows.append(_voc_row(box, rotated, f"{path}, {place}"))
        objects.names.append(name.strip())
        objects.difficult.append((element.findtext("difficult") or "0").strip() == "1")
        objects.places.append(place)
    if len({len(row) for row in rows}) > 1:
        raise DataError(f"{path}: mixes corners and angles in <robndbox>; use one of them")
    width = len(rows[0]) if rows else (8 if rotated else 4)
    objects.boxes = np.array(rows, dtype=np.float64).reshape(-1, width)
    return objects


def _voc_row(box: ElementTree.Element, rotated: bool, where: str) -> list[float]:
    if not rotated:
        tags = ["xmin", "ymin", "xmax", "ymax"]
    elif box.find("angle") is not None:
        tags = ["cx", "cy", "w", "h", "angle"]
    else:
        tags = [f"{axis}_{corner}" for corner in _CORNERS for axis in "xy"]
    try:
        row = [float(box.findtext(tag) or "") for tag in tags]
    except ValueError:
        row = [math.nan]
    if not np.isfinite(row).all():
        raise DataError(f"{where}: <{box.tag}> needs numbers in {', '.join(tags)}")
    return row


def read_vhr10(path: Path) -> Objects:
    """Read VHR-10 text: ``(x1,y1),(x2,y2),class number`` a line.

    Raises:
        DataError: With the file and line that can't be read.
    """
    objects, rows = Objects(), []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        match = _VHR10_LINE.fullmatch("".join(line.split()))
        if match is None:
            raise DataError(
                f"{path}, line {number}: expected '(x1,y1),(x2,y2),class'; got '{line[:60]}'"
            )
        *row, category = (int(v) for v in match.groups())
        rows.append(row)
        objects.names.append(str(category))
        objects.difficult.append(False)
        objects.places.append(f"line {number}")
    objects.boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return objects


def read_yolo_obb(path: Path) -> Objects:
    """Read YOLO-OBB text: class number from 0 and four corners as shares of the image's size.

    Returns:
        Boxes as stored, ``(N, 8)`` in shares; corners may lie outside of [0, 1].

    Raises:
        DataError: With the file and line that can't be read.
    """
    objects, rows = Objects(), []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            row = [float(word) for word in words[1:]]
        except ValueError:
            row = []
        if len(row) != 8 or not words[0].isdigit() or not np.isfinite(row).all():
            raise DataError(
                f"{path}, line {number}: expected 'class x1 y1 x2 y2 x3 y3 x4 y4', a number and "
                f"shares; got '{line[:60]}'"
            )
        rows.append(row)
        objects.names.append(words[0])
        objects.difficult.append(False)
        objects.places.append(f"line {number}")
    objects.boxes = np.array(rows, dtype=np.float64).reshape(-1, 8)
    return objects


FIRST_NUMBERS = {"vhr10": 1, "yolo-obb": 0}
"""The number of the first class, by the kinds of labels that have numbers for names."""

READERS: dict[str, Callable[[Path], Objects]] = {
    "dota": read_dota,
    "voc": read_voc,
    "voc-rotated": lambda path: read_voc(path, rotated=True),
    "vhr10": read_vhr10,
    "yolo-obb": read_yolo_obb,
}
"""How the label file of one image is read, by `Layout.kind`."""


def read_coco(path: Path) -> dict[str, Objects]:
    """Read COCO JSON: the objects of each image, by the image's file name.

    Raises:
        DataError: If the file isn't COCO JSON or an annotation names what doesn't exist.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        names = {category["id"]: str(category["name"]) for category in data["categories"]}
        files = {image["id"]: str(image["file_name"]) for image in data["images"]}
        annotations = data["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not COCO JSON: {type(error).__name__} {error}") from error
    found = {file: Objects() for file in files.values()}
    rows: dict[str, list[list[float]]] = {file: [] for file in found}
    for number, annotation in enumerate(annotations):
        place = f"annotation {annotation.get('id', number)}"
        try:
            file = files[annotation["image_id"]]
            name = names[annotation["category_id"]]
            x, y, width, height = (float(v) for v in annotation["bbox"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}, {place}: its image, category or bbox is missing or unknown: {error}"
            ) from error
        rows[file].append([x, y, x + width, y + height])
        objects = found[file]
        objects.names.append(name)
        objects.difficult.append(bool(annotation.get("iscrowd", 0)))
        objects.places.append(place)
        objects.polygons.append(annotation.get("segmentation") or [])
    for file, objects in found.items():
        objects.boxes = np.array(rows[file], dtype=np.float64).reshape(-1, 4)
    return found


class DetectionItems:
    """Items on disk, read as samples with ``"boxes"``, ``"labels"`` and ``"difficult"``.

    Boxes are `tv_tensors.BoundingBoxes` ``(N, 4)`` x1, y1, x2, y2 where the files have horizontal
    ones, `RotatedBoxes` ``(N, 5)`` where they have corners or angles (corners become the rectangle
    of smallest area), float32, in pixels. COCO outlines also give ``"instances"`` ``(N, H, W)``.

    Args:
        items: Images with label paths.
        protocol: The classes; names match whatever their case, and ``-``, ``_`` and blank are one.
        kind: What the label files are: a key of `READERS`, or ``"coco"``.
        meta: Put into the meta of every sample.
        min_side_px: Shorter sides of rotated boxes are widened to this (DIOR-R in S5: 1).

    Attributes:
        ids: One per sample.
        classes: Class names in index order.
        palette: A colour per class.
        ignore_index: Of the protocol; no object has it.
    """

    def __init__(
        self,
        items: Sequence[Item],
        protocol: Protocol,
        kind: str,
        meta: dict[str, Any] | None = None,
        *,
        min_side_px: float = 0.0,
    ) -> None:
        self.items = list(items)
        self.protocol, self.kind = protocol, kind
        self.classes, self.palette = protocol.classes, protocol.palette
        self.ignore_index = protocol.ignore_index
        self.ids = [item.id for item in self.items]
        self._meta = meta or {}
        self._min_side_px = min_side_px
        self._index = {_key(name): i for i, name in enumerate(protocol.classes)}
        self._coco = {
            path: read_coco(path)
            for path in {item.label for item in self.items if item.label is not None}
            if kind == "coco"
        }

    def __len__(self) -> int:
        return len(self.items)

    def objects(self, index: int) -> Objects:
        """The objects of one image as stored, without reading the image.

        Raises:
            DataError: If its label file is missing or damaged.
        """
        item = self.items[index]
        if item.label is None:
            return Objects()
        if self.kind != "coco":
            return READERS[self.kind](item.label)
        found = coco_objects(self._coco[item.label], item)
        if found is None:
            raise DataError(f"{item.label}: has no image called {item.image.name}")
        return found

    def labels(self, objects: Objects, where: object) -> list[int]:
        """Class index of each object.

        Raises:
            DataError: If a class isn't in the protocol.
        """
        first = FIRST_NUMBERS.get(self.kind)
        labels = []
        for name, place in zip(objects.names, objects.places, strict=True):
            index = self._index.get(_key(name))
            if first is not None:
                index = int(name) - first if 0 <= int(name) - first < len(self.classes) else None
            if index is None:
                raise DataError(
                    f"{where}, {place}: '{name}' isn't a class{suggest(name, list(self.classes))}"
                )
            labels.append(index)
        return labels

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: If a file is unreadable or a class isn't in the protocol.
        """
        item = self.items[index]
        image, valid = read_image_tensor(item.image)
        meta = {**self._meta, "id": item.id, "path": str(item.image)}
        if item.label is None:
            return Sample(image, valid=valid, meta=meta)
        meta["label_path"] = str(item.label)
        objects = self.objects(index)
        size = (image.shape[1], image.shape[2])
        if self.kind == "yolo-obb":
            objects.boxes = objects.boxes * np.tile([size[1], size[0]], 4)
        targets: dict[str, Any] = {
            "boxes": _as_boxes(objects.boxes, size, self._min_side_px),
            "labels": torch.tensor(self.labels(objects, item.label), dtype=torch.int64),
            "difficult": torch.tensor(objects.difficult, dtype=torch.bool),
        }
        if self.kind == "coco":
            masks = [draw_segmentation(s, size, item.label) for s in objects.polygons]
            stacked = np.stack(masks) if masks else np.zeros((0, *size), dtype=np.uint8)
            targets["instances"] = tv_tensors.Mask(torch.from_numpy(stacked))
        return Sample(image, targets, valid, meta)


class CatalogueDetection(DetectionItems):
    """A split of a detection set that the catalogue knows.

    Args:
        name: The set's name; `swath datasets` lists them.
        root: The copy's root; ``~`` and ``$VARIABLES`` are filled in.
        split: A split's name, ``"all"``, or a list file.
        protocol: Name of one of the set's protocols, or one of your own; None takes the one that
            the copy's layout follows.
        min_side_px: Shorter sides of rotated boxes are widened to this.

    Raises:
        DataError: If the name, the split or the protocol is unknown, or the copy has another
            layout.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        split: str,
        protocol: str | Protocol | None = None,
        min_side_px: float = 0.0,
    ) -> None:
        from swath.core.data.catalogue import dataset_spec

        spec = dataset_spec(name, task="detection")
        layout, items = spec.items(resolve_root(root), split)
        meta = {"dataset": name} | ({"gsd_m": spec.gsd_m} if spec.gsd_m else {})
        chosen = spec.protocol(protocol or layout.protocol)
        super().__init__(items, chosen, layout.kind, meta, min_side_px=min_side_px)


class DotaText(DetectionItems):
    """A folder of images and a folder of DOTA text files of the same names.

    Args:
        images: Folder of the images.
        labels: Folder of the text files; an empty file means no object.
        classes: Class names in index order.
        ids: Which ones: names without extension, or a text file with one a line. None takes all.

    Raises:
        DataError: If a folder is absent or empty, or an image has no label file.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        classes: Sequence[str],
        ids: Sequence[str] | str | Path | None = None,
    ) -> None:
        items = _paired(images, labels, ".txt", ids)
        super().__init__(items, Protocol(tuple(classes)), "dota")


class YoloObb(DetectionItems):
    """A folder of images and a folder of YOLO-OBB text files of the same names.

    Args:
        images: Folder of the images.
        labels: Folder of the text files; an empty file means no object.
        classes: Class names in the order of their numbers.
        ids: As for `DotaText`.

    Raises:
        DataError: If a folder is absent or empty, or an image has no label file.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        classes: Sequence[str],
        ids: Sequence[str] | str | Path | None = None,
    ) -> None:
        items = _paired(images, labels, ".txt", ids)
        super().__init__(items, Protocol(tuple(classes)), "yolo-obb")


class VocXml(DetectionItems):
    """A folder of images and a folder of VOC XML files of the same names.

    Args:
        images: Folder of the images.
        annotations: Folder of the XML files.
        classes: Class names in index order.
        ids: As for `DotaText`.
        rotated: Read ``robndbox`` (DIOR-R) instead of ``bndbox``.
        min_side_px: Shorter sides of rotated boxes are widened to this.

    Raises:
        DataError: If a folder is absent or empty, or an image has no XML file.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        classes: Sequence[str],
        ids: Sequence[str] | str | Path | None = None,
        *,
        rotated: bool = False,
        min_side_px: float = 0.0,
    ) -> None:
        items = _paired(images, annotations, ".xml", ids)
        kind = "voc-rotated" if rotated else "voc"
        super().__init__(items, Protocol(tuple(classes)), kind, min_side_px=min_side_px)


class CocoJson(DetectionItems):
    """Images described by one COCO JSON file, with boxes and outlines.

    Args:
        annotations: The JSON file.
        images: Folder that its file names are relative to.
        classes: Class names in index order; those of the file by rising id if None.

    Raises:
        DataError: If the file isn't COCO JSON or lists no image.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        classes: Sequence[str] | None = None,
    ) -> None:
        path, folder = resolve_root(annotations), resolve_root(images)
        files = sorted(read_coco(path))
        if not files:
            raise DataError(f"{path}: lists no image")
        if classes is None:
            categories = json.loads(path.read_text(encoding="utf-8"))["categories"]
            classes = [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
        items = [Item(Path(name).with_suffix("").as_posix(), folder / name, path) for name in files]
        super().__init__(items, Protocol(tuple(classes)), "coco")


def coco_objects(listed: Mapping[str, Objects], item: Item) -> Objects | None:
    """What a COCO file says of an image; files name images with their folders, or without.

    Args:
        listed: Objects by file name, from `read_coco`.
        item: The image.
    """
    return listed.get(f"{item.id}{item.image.suffix}", listed.get(item.image.name))


def draw_segmentation(segmentation: Any, size: tuple[int, int], where: object) -> NDArray[np.uint8]:
    """Draw a COCO segmentation: polygons, or run lengths (plain or compressed).

    Args:
        segmentation: The annotation's field.
        size: Height and width in pixels.
        where: The file, for messages.

    Returns:
        ``(H, W)`` of 0 and 1. Pixels whose centre lies inside a polygon are 1.

    Raises:
        DataError: If it is none of these.
    """
    from rasterio.features import rasterize

    try:
        if isinstance(segmentation, dict):
            return _runs_to_mask(segmentation["counts"], tuple(segmentation["size"]), size)
        rings = [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in segmentation]
        # COCO's (0, 0) is the corner of the first pixel, as the identity transform has it
        shapes = [{"type": "Polygon", "coordinates": [[*r.tolist(), r[0].tolist()]]} for r in rings]
        drawn = rasterize(shapes, size, dtype=np.uint8) if shapes else np.zeros(size, np.uint8)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: a segmentation can't be read: {error}") from error
    return np.asarray(drawn)


def _runs_to_mask(
    counts: str | list[int], stored: tuple[int, ...], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Column-major runs of 0 and 1 in turn (COCO's RLE) as a mask."""
    if stored != size:
        raise ValueError(f"run lengths for {stored}, but the image is {size}")
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    values = np.arange(len(runs)) % 2
    flat = np.repeat(values.astype(np.uint8), runs)
    if flat.size != size[0] * size[1]:
        raise ValueError(f"run lengths add up to {flat.size}, not to {size[0] * size[1]}")
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def _decompressed(text: str) -> list[int]:
    """Run lengths from COCO's text: 5 bits a character, from the third on as differences."""
    runs: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more characters follow
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _as_boxes(boxes: NDArray[np.float64], size: tuple[int, int], min_side_px: float) -> Tensor:
    tensor = torch.from_numpy(boxes)
    if boxes.shape[1] == 4:
        return tv_tensors.BoundingBoxes(tensor.float(), format="XYXY", canvas_size=size)  # type: ignore[no-any-return]
    from swath.core.structures import RotatedBoxes
    from swath.kernels import quads_to_boxes

    rotated = quads_to_boxes(tensor.reshape(-1, 4, 2)) if boxes.shape[1] == 8 else tensor
    rotated[:, 2:4] = rotated[:, 2:4].clamp_min(min_side_px)
    return RotatedBoxes(rotated.float(), canvas_size=size)


def _paired(
    images: str | Path, labels: str | Path, suffix: str, ids: Sequence[str] | str | Path | None
) -> list[Item]:
    found, folder = find_images(resolve_root(images)), resolve_root(labels)
    if isinstance(ids, str | Path):
        ids = [row[0] for row in read_list(resolve_root(ids))]
    items = []
    for name in found if ids is None else ids:
        if name not in found:
            raise DataError(f"{images}: no image '{name}'{suggest(name, list(found))}")
        label = folder / f"{name}{suffix}"
        if not label.is_file():
            raise DataError(f"{found[name]}: no label file {label}")
        items.append(Item(name, found[name], label))
    return items


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_LABEL_BYTES:
            raise DataError(f"{path}: larger than 64 MB, which no label file of one image is")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such label file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as text: {error}") from error


def _key(name: str) -> str:
    """What spellings of a class have in common: DIOR writes ``storagetank``, DOTA with a hyphen."""
    return re.sub(r"[\s_-]", "", name.casefold())
