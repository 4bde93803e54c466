"""The data set doctor: reads every file of a copy and says exactly what is wrong in which.

Nothing is trusted: pixels are decoded to the end, label values are looked up, boxes are measured,
and contents are compared, within a split and between splits.
"""

import hashlib
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core.data.catalogue import dataset_spec
from swath.core.data.detection import (
    READERS,
    DetectionItems,
    Objects,
    coco_objects,
    read_coco,
)
from swath.core.data.readers import LabelReader, find_images, read_array, resolve_root
from swath.core.data.spec import DatasetSpec, Item, Layout, Protocol, read_list
from swath.core.errors import DataError, EmptySplitError, RasterError, SwathError
from swath.core.plugins import resolve
from swath.core.progress import track

KINDS = {
    "missing": "an image without its label, a label without its image, or a file that isn't there",
    "unreadable": "damaged, truncated or not what its name says",
    "size": "image and mask differ in size",
    "label": "a label value, class or line that the protocol doesn't know",
    "dtype": "number format or band count differs from what the set has",
    "box": "a degenerate or self-crossing box, an angle out of range, a box outside the picture",
    "duplicate": "the same pixels twice in one split",
    "leak": "the same pixels in two splits",
    "note": "worth knowing, not a fault",
}
"""What findings are about."""

_SPLITS = ("train", "val", "valid", "validation", "test")
_LABEL_SUFFIX = {
    "dota": ".txt",
    "vhr10": ".txt",
    "voc": ".xml",
    "voc-rotated": ".xml",
    "yolo-obb": ".txt",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        kind: A key of `KINDS`.
        path: The file.
        message: What is wrong with it, one line.
    """

    kind: str
    path: str
    message: str

    @property
    def is_fault(self) -> bool:
        """False for notes."""
        return self.kind != "note"


@dataclass
class Report:
    """What a check found.

    Attributes:
        name: Of the data set.
        root: The copy.
        protocol: The classes labels were read with.
        images: Number of images in each split.
        sizes: How many images have each ``"width x height"``.
        formats: How many have each ``"dtype x bands"``.
        histogram: For each class, pixels (masks), objects (boxes) or images (class folders).
        ignored: Pixels with the ignore index.
        findings: Everything found, faults first.
    """

    name: str
    root: Path
    protocol: Protocol
    images: dict[str, int]
    sizes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    histogram: dict[str, int] = field(default_factory=dict)
    ignored: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        """The findings that must be mended."""
        return [f for f in self.findings if f.is_fault]

    def to_data(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "name": self.name,
            "root": str(self.root),
            "images": self.images,
            "sizes": dict(self.sizes),
            "formats": dict(self.formats),
            "histogram": self.histogram,
            "ignored": self.ignored,
            "faults": len(self.faults),
            "findings": [vars(f) for f in self.findings],
        }


def check_known(
    name: str,
    root: str | Path,
    *,
    split: str | None = None,
    protocol: str | Protocol | None = None,
    progress: bool = True,
) -> Report:
    """Check a copy of a data set that the catalogue knows.

    Args:
        name: As `swath datasets` lists it.
        root: The copy.
        split: Only this one; None checks all that are there, and compares them.
        protocol: How labels are read; None takes the one of the copy's layout.
        progress: Show a bar.

    Raises:
        DataError: If the name is unknown or the copy has no known layout.
    """
    spec = dataset_spec(name)
    place, layout = spec.locate(resolve_root(root))
    if layout.reader is not None:
        return _check_read(spec, place, layout, split, progress=progress)
    names = [split] if split is not None else _present_splits(spec.splits, layout, place)
    splits = {s: spec.items(place, s)[1] for s in names}
    chosen = spec.protocol(protocol or layout.protocol)
    report = Report(name, place, chosen, {s: len(items) for s, items in splits.items()})
    if split is None and layout.labels is not None and layout.kind != "coco":
        expected = {item.label for items in splits.values() for item in items}
        expected |= {item.label for item in layout.find(place, {})}
        for item in Layout(layout.labels).find(place, {}):
            if item.image not in expected:
                report.findings.append(
                    Finding("missing", str(item.image), "label without an image")
                )
    inspect = _Inspector(chosen, layout.kind, _labels(splits))
    return _check(report, splits, inspect, _stored(spec), progress=progress)


def check_folders(
    images: str | Path,
    labels: str | Path,
    protocol: Protocol,
    *,
    kind: str = "mask",
    lists: Sequence[str | Path] = (),
    progress: bool = True,
) -> Report:
    """Check a folder of images and a folder (or COCO file) of labels.

    Args:
        images: Folder of the images. Subfolders called train, val, test, ... are splits.
        labels: Folder of masks or label files laid out like the images, or a COCO JSON file.
        protocol: How labels are read.
        kind: As `Layout.kind`.
        lists: Text files that name the images of a split each (ids, one a line).
        progress: Show a bar.

    Raises:
        DataError: If a folder is absent or a list names what isn't there.
    """
    image_root, label_root = resolve_root(images), resolve_root(labels)
    found = find_images(image_root)
    if kind == "coco":
        by_id = dict.fromkeys(found, label_root)
    elif kind == "mask":
        by_id = find_images(label_root)
    else:
        by_id = {
            path.relative_to(label_root).with_suffix("").as_posix(): path
            for path in sorted(label_root.rglob(f"*{_LABEL_SUFFIX[kind]}"))
        }
    items = {
        name: Item(name, path, by_id.get(name, label_root / f"{name} (no such label)"))
        for name, path in found.items()
    }
    splits = _split_folders(items, lists)
    report = Report("folders", image_root, protocol, {s: len(v) for s, v in splits.items()})
    report.findings += [
        Finding("missing", str(by_id[name]), "label without an image")
        for name in by_id
        if name not in found
    ]
    inspect = _Inspector(protocol, kind, _labels(splits))
    return _check(report, splits, inspect, None, progress=progress)


def _check_read(
    spec: DatasetSpec, place: Path, layout: Layout, split: str | None, *, progress: bool
) -> Report:
    """Check a copy that a plugin reads, sample by sample."""
    assert layout.reader is not None
    report = Report(spec.name, place, spec.protocol(layout.protocol), {})
    read = resolve(layout.reader)
    sets, empty = {}, []
    for name in [split] if split is not None else [*spec.splits] or ["all"]:
        with warnings.catch_warnings(record=True, action="always") as noted:
            try:
                sets[name] = read(place, layout, name)
            except EmptySplitError:
                empty.append(name)
            except SwathError as error:
                report.findings.append(_finding("missing", place, error))
        report.findings += [Finding("missing", str(place), str(w.message)) for w in noted]
    kind = "note" if sets else "missing"  # sets of one's own may do without a split
    report.findings += [Finding(kind, str(place), f"no sample of split '{n}'") for n in empty]
    report.findings = list(dict.fromkeys(report.findings))  # what concerns all splits, once
    splits = {name: _once(dataset.items) for name, dataset in sets.items()}
    report.images = {name: len(items) for name, items in splits.items()}
    inspect = _SampleInspector(report.protocol, sets.values())
    return _check(report, splits, inspect, _stored(spec), progress=progress)


def _once(items: Sequence[Item]) -> list[Item]:
    """The items' images, each once: several samples may be about one."""
    return list({item.image: item for item in items}.values())


def _stored(spec: DatasetSpec) -> tuple[str, int]:
    return spec.dtype, len(spec.bands)


def _labels(splits: Mapping[str, Sequence[Item]]) -> list[Path]:
    return [item.label for items in splits.values() for item in items if item.label is not None]


def _present_splits(
    known: Mapping[str, Mapping[str, tuple[str, ...]]], layout: Layout, place: Path
) -> list[str]:
    """Splits that this copy has and that should share nothing."""
    names = [
        s for s in known if s not in ("all", "trainval") and set(known[s]) & set(layout.fields())
    ]
    names = [s for s in names if _holds(layout, place, known[s])]
    if layout.lists is not None:
        listed = [s for s in (*_SPLITS, *known) if (place / layout.lists.format(split=s)).is_file()]
        names = [s for s in dict.fromkeys(listed) if s != "trainval"] or names
    return names or ["all"]


def _holds(layout: Layout, place: Path, values: Mapping[str, tuple[str, ...]]) -> bool:
    name = next((k for k in values if k in layout.fields()), None)
    return name is not None and layout.holds(place, {name: values[name]})


def _split_folders(items: dict[str, Item], lists: Sequence[str | Path]) -> dict[str, list[Item]]:
    if lists:
        splits = {}
        for path in map(resolve_root, lists):
            ids = [Path(row[0]).as_posix() for row in read_list(path)]
            absent = [i for i in ids if i not in items]
            if absent:
                raise DataError(f"{path}: '{absent[0]}' isn't an image of the folder")
            splits[path.stem] = [items[i] for i in ids]
        return splits
    splits = {}
    for name, item in items.items():
        first = name.partition("/")[0].lower()
        splits.setdefault(first if first in _SPLITS else "all", []).append(item)
    return splits


@dataclass
class _Seen:
    """What reading one item gave."""

    findings: list[Finding]
    digest: str | None = None
    size: str = ""
    format: tuple[str, int] | None = None
    counts: NDArray[np.int64] | None = None
    ignored: int = 0


def _check(
    report: Report,
    splits: dict[str, list[Item]],
    inspect: Callable[[Item], _Seen],
    wanted: tuple[str, int] | None,
    *,
    progress: bool,
) -> Report:
    by_path = {item.image: item for items in splits.values() for item in items}
    seen: dict[Path, _Seen] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the GIL
        results = zip(by_path, pool.map(inspect, by_path.values()), strict=True)
        for path, result in track(results, "checking", len(by_path), "img", enabled=progress):
            seen[path] = result
            report.findings += result.findings
    counts = np.zeros(len(report.protocol.classes), dtype=np.int64)
    for result in seen.values():
        counts += result.counts if result.counts is not None else 0
        report.ignored += result.ignored
        if result.format is not None:
            report.sizes[result.size] += 1
            report.formats[f"{result.format[0]} x {result.format[1]}"] += 1
    report.histogram = dict(zip(report.protocol.classes, counts.tolist(), strict=True))
    report.findings += _odd_formats(seen, wanted)
    report.findings += _repeated(seen, splits)
    report.findings += [
        Finding("note", str(report.root), f"class '{name}' never occurs")
        for name, count in report.histogram.items()
        if seen and not count
    ]
    order = list(KINDS)
    report.findings.sort(key=lambda f: (order.index(f.kind), f.path))
    return report


class _Inspector:
    """Reads one item to the end."""

    def __init__(self, protocol: Protocol, kind: str, labels: Sequence[Path]) -> None:
        self.protocol, self.kind = protocol, kind
        self._labels = LabelReader(protocol) if kind == "mask" else None
        self._matcher = DetectionItems([], protocol, kind)
        self._coco: dict[str, Objects] = {}
        if kind == "coco":
            for path in set(labels):
                self._coco |= read_coco(path)

    def __call__(self, item: Item) -> _Seen:
        seen = _Seen([])
        shape = _image(item, seen)
        if self.kind == "folders":
            self._class(item, seen)
        elif item.label is not None:
            if not item.label.exists():
                seen.findings.append(
                    Finding("missing", str(item.image), f"has no label ({item.label})")
                )
            elif self._labels is not None:
                self._mask(item.label, shape, seen)
            else:
                self._boxes(item, item.label, shape, seen)
        return seen

    def _class(self, item: Item, seen: _Seen) -> None:
        name = item.fields.get("class", "")
        if name not in self.protocol.classes:
            seen.findings.append(Finding("label", str(item.image), f"'{name}' isn't a class"))
            return
        seen.counts = np.zeros(len(self.protocol.classes), dtype=np.int64)
        seen.counts[self.protocol.classes.index(name)] = 1

    def _mask(self, path: Path, shape: tuple[int, int] | None, seen: _Seen) -> None:
        assert self._labels is not None
        try:
            mask = self._labels(path)
        except DataError as error:
            kind = "unreadable" if isinstance(error, RasterError) else "label"
            seen.findings.append(_finding(kind, path, error))
            return
        if shape is not None and mask.shape != shape:
            seen.findings.append(
                Finding(
                    "size",
                    str(path),
                    f"mask of {mask.shape[1]} x {mask.shape[0]} pixels for an image of "
                    f"{shape[1]} x {shape[0]}",
                )
            )
        ignored = mask == self.protocol.ignore_index
        seen.ignored = int(ignored.sum())
        seen.counts = np.bincount(mask[~ignored], minlength=len(self.protocol.classes))

    def _boxes(self, item: Item, label: Path, shape: tuple[int, int] | None, seen: _Seen) -> None:
        try:
            coco = self.kind == "coco"
            objects = coco_objects(self._coco, item) if coco else READERS[self.kind](label)
            if objects is None:
                found = Finding("missing", str(item.image), f"isn't listed in {label}")
                seen.findings.append(found)
                return
            labels = self._matcher.labels(objects, label)
        except DataError as error:
            seen.findings.append(_finding("label", label, error))
            return
        seen.counts = np.bincount(
            np.array(labels, dtype=np.int64), minlength=len(self.protocol.classes)
        )
        boxes = objects.boxes
        if self.kind == "yolo-obb":
            if shape is None:
                return  # shares of a size that nobody knows
            boxes = boxes * np.tile(shape[::-1], 4)
        seen.findings += [
            Finding("box", str(label), f"{place}: {message}")
            for place, box in zip(objects.places, boxes, strict=True)
            for message in _box_faults(box, shape)
        ]


class _SampleInspector:
    """Reads one image and all samples that are about it."""

    def __init__(self, protocol: Protocol, sets: Iterable[Any]) -> None:
        self.protocol = protocol
        self._about: dict[Path, list[tuple[Any, int]]] = {}
        for dataset in sets:
            for index, item in enumerate(dataset.items):
                self._about.setdefault(item.image, []).append((dataset, index))

    def __call__(self, item: Item) -> _Seen:
        seen = _Seen([])
        if _image(item, seen) is None:
            return seen
        seen.counts = np.zeros(len(self.protocol.classes), dtype=np.int64)
        for dataset, index in self._about[item.image]:
            try:
                seen.counts += self._counted(dataset[index].targets)
            except DataError as error:
                seen.findings.append(_finding("label", item.image, error))
        return seen

    def _counted(self, targets: Mapping[str, Any]) -> NDArray[np.int64]:
        """Pixels of a mask, or objects, by class; zeros if the targets name no class."""
        labels = targets.get("mask", targets.get("labels", ()))
        labels = np.asarray(labels, dtype=np.int64).ravel()
        return np.bincount(labels, minlength=len(self.protocol.classes))


def _image(item: Item, seen: _Seen) -> tuple[int, int] | None:
    """Read an image to the end, note what it is, and return its height and width."""
    if not item.image.is_file():
        seen.findings.append(Finding("missing", str(item.image), "no such image"))
        return None
    try:
        array, valid = read_array(item.image)
    except DataError as error:
        seen.findings.append(_finding("unreadable", item.image, error))
        return None
    seen.size = f"{array.shape[2]} x {array.shape[1]}"
    seen.format = (str(array.dtype), len(array))
    if valid is not None and not valid.any():
        seen.findings.append(Finding("note", str(item.image), "every pixel is nodata"))
    elif (array != array[:, :1, :1]).any():  # blank tiles may well repeat
        header = f"{array.dtype}{array.shape}".encode()
        content = hashlib.blake2b(header, digest_size=16)
        content.update(np.ascontiguousarray(array).data)
        seen.digest = content.hexdigest()
    return array.shape[1], array.shape[2]


def _box_faults(box: NDArray[np.float64], shape: tuple[int, int] | None) -> Iterator[str]:
    if len(box) == 5:
        _, _, width, height, angle = box
        if abs(angle) > 2 * math.pi:
            yield f"angle {angle:g} is out of range; radians are expected, not degrees"
        if min(width, height) <= 0:
            yield f"{width:g} x {height:g} pixels isn't a box"
        points = box[None, :2]
    elif len(box) == 4:
        x1, y1, x2, y2 = box
        if x2 <= x1 or y2 <= y1:
            yield f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) isn't a box; corners swapped or equal"
        points = box.reshape(2, 2)
    else:
        points = box.reshape(4, 2)
        if _crosses(points):
            yield "the corners cross; they must go round the object"
        elif _area(points) < 1:
            yield f"degenerate: {_area(points):.2g} square pixels"
    if shape is not None:
        low, high = points.min(axis=0), points.max(axis=0)
        if (high <= 0).any() or low[0] >= shape[1] or low[1] >= shape[0]:
            yield f"lies outside the picture of {shape[1]} x {shape[0]}"


def _area(points: NDArray[np.float64]) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _crosses(quad: NDArray[np.float64]) -> bool:
    """True if two opposite sides of a quadrilateral cut each other."""

    def side(a: Any, b: Any, c: Any) -> float:
        return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    def cut(a: Any, b: Any, c: Any, d: Any) -> bool:
        return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0

    a, b, c, d = quad
    return cut(a, b, c, d) or cut(b, c, d, a)


def _odd_formats(seen: Mapping[Path, _Seen], wanted: tuple[str, int] | None) -> Iterator[Finding]:
    formats = {path: s.format for path, s in seen.items() if s.format is not None}
    if not formats:
        return
    usual = wanted or Counter(formats.values()).most_common(1)[0][0]
    for path, (dtype, bands) in formats.items():
        if (dtype, bands) != usual:
            yield Finding(
                "dtype",
                str(path),
                f"{bands} band(s) of {dtype}; the set has {usual[1]} of {usual[0]}",
            )


def _repeated(
    seen: Mapping[Path, _Seen], splits: Mapping[str, Sequence[Item]]
) -> Iterator[Finding]:
    first: dict[str, tuple[str, Path]] = {}
    for split, items in splits.items():
        for item in items:
            digest = seen[item.image].digest
            if digest is None:
                continue
            if digest not in first:
                first[digest] = (split, item.image)
                continue
            other_split, other = first[digest]
            if other_split != split:
                message = f"in {split}, but the same picture is in {other_split}: {other}"
                yield Finding("leak", str(item.image), message)
            else:
                yield Finding("duplicate", str(item.image), f"the same picture as {other}")


def _finding(kind: str, path: Path, error: SwathError) -> Finding:
    return Finding(kind, str(path), str(error).removeprefix(f"{path}").lstrip(":, "))
