"""What a data set is: where its files lie, and how its labels are read.

One data set is used in different ways by different papers (Potsdam alone has five encodings), so
the files (`DatasetSpec`, `Layout`) and the meaning of the labels (`Protocol`) are kept apart.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from swath.core.errors import DataError, suggest
from swath.core.palette import default_palette

RGB = tuple[int, int, int]
"""A colour, 0 to 255 each."""

_FIELD = re.compile(r"\{(\w+)(?::([^}]+))?\}")


_NOT_IN_ID = ("split", "class", "ext")


@dataclass(frozen=True)
class Protocol:
    """How one paper (or one way of storing labels) reads a data set.

    Attributes:
        classes: Class names in index order.
        palette: A colour per class; made up if empty.
        ignore_index: Index of pixels that neither train nor count.
        mapping: Pairs of what is stored, an integer or an RGB colour, and the class index it means
            (or `ignore_index`). If empty, the stored integers are the indices. Every stored value
            that isn't listed is an error, never a silent guess.
        tile_px: Side of the crops the paper trains on, in pixels, or None.
        metric: The figure the paper reports.
        source: Where this comes from.
    """

    classes: tuple[str, ...]
    palette: tuple[RGB, ...] = ()
    ignore_index: int = 255
    mapping: tuple[tuple[int | RGB, int], ...] = ()
    tile_px: int | None = None
    metric: str = "mIoU"
    source: str = ""

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "classes", tuple(self.classes))
        colours = self.palette or default_palette(self.classes)
        set_(self, "palette", tuple(tuple(int(v) for v in colour) for colour in colours))
        pairs: Iterable[Any] = self.mapping
        if isinstance(pairs, Mapping):
            pairs = pairs.items()
        listed = tuple((_stored(stored), int(index)) for stored, index in pairs)
        set_(self, "mapping", listed or self._identity())
        if len(self.palette) != len(self.classes):
            raise DataError(
                f"protocol: {len(self.palette)} colours for {len(self.classes)} classes; "
                "give one each, or none"
            )
        if len({isinstance(stored, int) for stored, _ in self.mapping}) > 1:
            raise DataError("protocol: the mapping mixes integers and colours; use one kind")
        for stored, index in self.mapping:
            if index != self.ignore_index and not 0 <= index < len(self.classes):
                raise DataError(
                    f"protocol: {stored} is mapped to {index}, which is neither one of the "
                    f"{len(self.classes)} classes nor the ignore index {self.ignore_index}"
                )

    def _identity(self) -> tuple[tuple[int, int], ...]:
        pairs = {i: i for i in range(len(self.classes))}
        return tuple((pairs | {self.ignore_index: self.ignore_index}).items())

    @property
    def coloured(self) -> bool:
        """True if labels are stored as RGB colours."""
        return not isinstance(self.mapping[0][0], int)


@dataclass(frozen=True)
class Layout:
    """Where the images and labels of a copy lie, relative to its root.

    Paths are templates with named fields: ``"{split}/{area}/images_png/{n}.png"``. A field stands
    for text without a slash, or for what a regular expression after a colon allows:
    ``{ext:png|tif}``, ``{id:.+}`` (slashes too). The label's template is filled with what the
    image's fields held, which is the whole pairing rule. A sample's id is made of all fields but
    ``split``, ``class`` and ``ext``.

    Attributes:
        images: Template of the images.
        labels: Template of the labels; a path without fields is one file for the whole split (COCO
            JSON); None if the class is the field ``{class}`` of the image's own path.
        kind: What the labels are: ``"mask"``, ``"dota"``, ``"voc"`` (horizontal ``bndbox``),
            ``"voc-rotated"`` (``robndbox``), ``"vhr10"``, ``"coco"`` or ``"folders"``; with a
            ``reader``, what people call it.
        lists: Template with ``{split}`` of the text files that name a split's images, one a line,
            if the data set has such; otherwise the split follows from the paths.
        protocol: Name of the protocol that copies of this layout follow, if not the first.
        reader: ``"module:function"`` of a plugin that reads such a copy, where core's readers
            don't: of the copy's root, the layout and a split's name it makes a map-style data set
            with ``classes``, ``palette``, ``ids`` and ``items``, one of each per sample.
    """

    images: str
    labels: str | None = None
    kind: str = "mask"
    lists: str | None = None
    protocol: str | None = None
    reader: str | None = None

    def fields(self) -> tuple[str, ...]:
        """Names of the fields in the images' template."""
        return tuple(dict.fromkeys(name for name, _ in _FIELD.findall(self.images)))

    def find(self, root: Path, allowed: Mapping[str, tuple[str, ...]]) -> Iterator["Item"]:
        """The images of a split that are there, in the order of their ids.

        Args:
            root: The copy's root.
            allowed: For some fields, the values they may have.
        """
        found = [self.item(root, values) for values in self._matches(root, allowed)]
        return iter(sorted(found, key=lambda item: _natural(item.id)))

    def holds(self, root: Path, allowed: Mapping[str, tuple[str, ...]]) -> bool:
        """Whether `find` would find an image; looks no further than the first."""
        return next(self._matches(root, allowed), None) is not None

    def _matches(
        self, root: Path, allowed: Mapping[str, tuple[str, ...]]
    ) -> Iterator[dict[str, str]]:
        """The fields of each image that is there, in no order."""
        pattern = _regex(self.images)
        glob = _FIELD.sub(lambda m: "**/*" if m[2] == ".+" else "*", self.images)
        for path in root.glob(glob):
            match = pattern.fullmatch(path.relative_to(root).as_posix())
            if match and all(match[k] in v for k, v in allowed.items() if k in match.groupdict()):
                yield match.groupdict()

    def item(self, root: Path, values: Mapping[str, str]) -> "Item":
        """The item whose fields have these values (files needn't exist)."""
        name = "/".join(values[k] for k in self.fields() if k not in _NOT_IN_ID)
        label = None if self.labels is None else root / _fill(self.labels, values)
        return Item(name, root / _fill(self.images, values), label, dict(values))

    def match(self, path: str) -> dict[str, str] | None:
        """The fields of an image's path relative to the root, or None if it isn't one."""
        match = _regex(self.images).fullmatch(path)
        return match.groupdict() if match else None


@dataclass(frozen=True)
class Item:
    """One image and its label on disk.

    Attributes:
        id: Unique within the split.
        image: The image's path.
        label: The label's path, or None.
        fields: What the layout's fields held.
    """

    id: str
    image: Path
    label: Path | None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: its files on disk, its splits, and the ways its labels are read.

    Attributes:
        name: Short name, as used on the command line.
        title: Full name.
        task: ``"segmentation"``, ``"detection"``, ``"classification"``, or what a plugin adds.
        layouts: Known ways a copy is laid out; the first that fits is used.
        protocols: Ways of reading the labels, by name; the first is the default.
        splits: For each split, the values that fields may have; the first field that the copy's
            layout has decides. ``"all"`` always exists.
        unlabelled: Splits whose labels aren't public: their samples may come without.
        folder: Name of the set's folder in collections that hold several sets: a copy is looked for
            at the root and there.
        gsd_m: Ground sampling distance in metres, or None if it varies or is unknown.
        bands: Band names in stored order.
        dtype: Of the stored images.
        licence: Of the data, or None if unsure.
        where: How a user gets it, or None if unsure.
        notes: What one must know before using it.
    """

    name: str
    title: str
    task: str
    layouts: tuple[Layout, ...]
    protocols: Mapping[str, Protocol]
    splits: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()
    folder: str = ""
    gsd_m: float | None = None
    bands: tuple[str, ...] = ("red", "green", "blue")
    dtype: str = "uint8"
    licence: str | None = None
    where: str | None = None
    notes: str = ""

    def protocol(self, name: "str | Protocol | None" = None) -> Protocol:
        """A protocol by name, or the first one.

        Raises:
            DataError: If there is none of that name.
        """
        if isinstance(name, Protocol):
            return name
        if name is None:
            return next(iter(self.protocols.values()))
        if name not in self.protocols:
            raise DataError(
                f"{self.name} has no protocol '{name}'{suggest(name, list(self.protocols))}"
            )
        return self.protocols[name]

    def locate(self, root: Path) -> tuple[Path, Layout]:
        """The root and layout of a copy: the first layout of which an image is there.

        Raises:
            DataError: If the folder is absent or no layout fits.
        """
        if not root.is_dir():
            raise DataError(f"{root} isn't a folder; {self.name} is expected there")
        roots = (root, root / self.folder) if self.folder else (root,)
        for place in roots:
            for layout in self.layouts:
                if layout.holds(place, {}):
                    return place, layout
        expected = " or ".join(dict.fromkeys(layout.images for layout in self.layouts))
        raise DataError(f"{root} holds no images of {self.name}; expected {expected}")

    def items(self, root: Path, split: str) -> tuple[Layout, list[Item]]:
        """The layout of a copy and the items of one split.

        Args:
            root: The copy's root.
            split: A split's name, ``"all"``, or the path of a list file (absolute, or relative to
                the root): one sample a line, an image or "image label" separated by a space, both
                relative to the root or to its parent; or the bare file name or id of an image.

        Raises:
            DataError: If the split is unknown or empty, or the list names what isn't there.
        """
        place, layout = self.locate(root)
        listed = self._list_file(layout, place, split)
        if listed is not None:
            items = list(_listed_items(layout, place, listed))
        else:
            items = list(layout.find(place, self._allowed(layout, split)))
        if not items:
            raise DataError(
                f"{place}: split '{split}' of {self.name} is empty; expected {layout.images} with "
                f"{dict(self.splits.get(split, {}))}"
            )
        for index, item in enumerate(items):
            public = split not in self.unlabelled and not self.may_lack_label(item)
            if not public and item.label is not None and not item.label.is_file():
                items[index] = replace(item, label=None)
        return layout, items

    def may_lack_label(self, item: Item) -> bool:
        """Whether an item is, by its fields, of one of the ``unlabelled`` splits."""
        for split in self.unlabelled:
            for name, values in self.splits.get(split, {}).items():
                if name in item.fields:  # the first field that is there decides
                    if item.fields[name] in values:
                        return True
                    break
        return False

    def _list_file(self, layout: Layout, root: Path, split: str) -> Path | None:
        if split.endswith(".txt"):
            path = next((p for p in (root / split, Path(split)) if p.is_file()), None)
            if path is None:
                raise DataError(f"{split}: no such list file, neither as it is nor under {root}")
            return path
        if layout.lists is not None and split != "all":
            path = root / layout.lists.format(split=split)
            if path.is_file():
                return path
            if split not in self.splits:
                raise DataError(f"{path}: no such list file; split '{split}' needs it")
        return None

    def _allowed(self, layout: Layout, split: str) -> Mapping[str, tuple[str, ...]]:
        if split not in self.splits:
            if split == "all":
                return {}
            raise DataError(
                f"{self.name} has no split '{split}'{suggest(split, [*self.splits, 'all'])}"
            )
        for name, values in self.splits[split].items():
            if name in layout.fields():
                return {name: values}
        if split == "all":
            return {}
        raise DataError(
            f"{self.name}: this copy ({layout.images}) has no split folders; "
            "use split 'all' or a list file"
        )


def read_list(path: Path) -> list[tuple[str, ...]]:
    """The lines of a list file as columns; blank lines and ``#`` comments are skipped.

    Raises:
        DataError: If it can't be read, is empty, or a line has more than two columns.
    """
    rows = []
    for number, line in list_lines(path):
        columns = tuple(line.split())
        if len(columns) > 2:
            raise DataError(
                f"{path}, line {number}: {len(columns)} columns; expected 'image' or 'image label'"
            )
        rows.append(columns)
    return rows


def list_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list file with their numbers; blank ones and ``#`` comments are skipped.

    Raises:
        DataError: If it can't be read, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as a list file: {error}") from error
    stripped = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    kept = [(number, line) for number, line in stripped if line and not line.startswith("#")]
    if not kept:
        raise DataError(f"{path}: the list file names no sample")
    return kept


def _listed_items(layout: Layout, root: Path, path: Path) -> Iterator[Item]:
    by_name: dict[str, Item] | None = None
    for columns in read_list(path):
        values = layout.match(columns[0])
        if len(columns) == 2:
            name = Path(columns[0]).with_suffix("").as_posix()
            # lists of collections start with the set's own folder
            base = root if (root / columns[0]).is_file() else root.parent
            yield Item(name, base / columns[0], base / columns[1], values or {})
            continue
        if values is not None:
            yield layout.item(root, values)
            continue
        if by_name is None:  # bare names: look at what is there, once
            by_name = {}
            for item in layout.find(root, {}):
                by_name |= {k: item for k in (item.id, item.image.name, item.image.stem)}
        if columns[0] not in by_name:
            raise DataError(f"{path}: '{columns[0]}' isn't an image under {root} ({layout.images})")
        yield by_name[columns[0]]


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda m: values[m[1]], template)


@cache
def _regex(template: str) -> re.Pattern[str]:
    seen: set[str] = set()
    pattern, end = "", 0
    for field_ in _FIELD.finditer(template):
        name, allowed = field_.groups()
        pattern += re.escape(template[end : field_.start()])
        # a field that occurs twice must hold the same text twice
        pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{allowed or '[^/]+?'})"
        seen.add(name)
        end = field_.end()
    return re.compile(pattern + re.escape(template[end:]))


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key by which ``area10`` comes after ``area2``."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(p)) if p.isdecimal() else (0, p) for p in parts]


def _stored(value: Any) -> int | RGB:
    if isinstance(value, str):  # a key of a JSON object
        value = ast.literal_eval(value)
    if isinstance(value, int):
        return value
    red, green, blue = value
    return int(red), int(green), int(blue)
