"""Image, sentence and mask from any data set of objects: `swath refseg build`.

In the spirit of RemoteSAM-270K (arXiv:2505.18022, section 4): sentences name an object by its
class, its colour as measured from the pixels, its size and its place, and every sentence is checked
to single out what it is about; others mean all objects of a class, or nothing. The result is a
folder in REFER's layout (``JPEGImages``, ``refs.json``, ``instances.json``), with a report of the
vocabulary and of what is covered, after the idea of RSVocab-1K.
"""

import colorsys
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from swath.core.errors import ConfigError, DataError
from swath.core.files import write_json
from swath.core.sample import Sample
from swath.refseg.preprocess import rgb_array
from swath.refseg.text import PROMPT

AREA_RATIO = 1.25
"""How much larger than any other the largest must be, and smaller the smallest."""

MARGIN = 0.05
"""How much clearer than any other an object must satisfy a position, in sides of the image."""

COLOUR_SHARE = 0.6
"""Share of an object's pixels that must have a colour for it to be called so."""

NOTHING = ("background", "no-data")
"""Classes of class maps, whatever their case, that are no objects."""

Rewriter = Callable[[str], str]
"""Says a sentence in other words; what it gives is checked again."""


@dataclass(frozen=True)
class Thing:
    """An object of an image.

    Attributes:
        name: Its class, as sentences call it.
        colour: As measured, or None if it has none that is clear.
        area: Pixels.
        x: Centre, 0..1 of the width.
        y: Centre, 0..1 of the height.
    """

    name: str
    colour: str | None
    area: int
    x: float
    y: float


@dataclass(frozen=True)
class Claim:
    """What a sentence says of an object, as data: that which must single it out.

    Attributes:
        name: Class.
        colour: Or None.
        extreme: ``largest``, ``smallest``, ``leftmost``, ``rightmost``, ``topmost``,
            ``bottommost``, or None.
        relation: ``left of``, ``right of``, ``above``, ``below``, or None.
        anchor: Class of the only one of its kind that the relation is to.
    """

    name: str
    colour: str | None = None
    extreme: str | None = None
    relation: str | None = None
    anchor: str | None = None

    def sentence(self) -> str:
        """``"the largest red ship left of the harbor"``."""
        words = ["the", self.extreme, self.colour, self.name]
        if self.relation:
            words += [self.relation, "the", self.anchor]
        return " ".join(word for word in words if word)

    def kind(self) -> str:
        """``relation``, ``size``, ``position``, ``colour`` or ``category``."""
        if self.relation:
            return "relation"
        if self.extreme:
            return "size" if self.extreme in ("largest", "smallest") else "position"
        return "colour" if self.colour else "category"


_EXTREMES: dict[str, tuple[str, int]] = {
    "largest": ("area", -1), "smallest": ("area", 1), "leftmost": ("x", 1),
    "rightmost": ("x", -1), "topmost": ("y", 1), "bottommost": ("y", -1),
}  # fmt: skip
_RELATIONS: dict[str, tuple[str, int]] = {
    "left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1),
}  # fmt: skip

COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "brown")


def meant(claim: Claim, things: Sequence[Thing]) -> list[int]:
    """The objects that a claim may mean: one index if it singles out one, by a margin."""
    fitting = [
        i for i, t in enumerate(things) if t.name == claim.name and claim.colour in (None, t.colour)
    ]
    if claim.relation is not None:
        anchors = [t for t in things if t.name == claim.anchor]
        if len(anchors) != 1:
            return []
        axis, sign = _RELATIONS[claim.relation]
        here = getattr(anchors[0], axis)
        away = {i: sign * (getattr(things[i], axis) - here) for i in fitting}
        if any(0 < abs(d) < MARGIN for d in away.values()):  # too near to say
            return []
        fitting = [i for i, d in away.items() if d >= MARGIN]
    if claim.extreme is None or len(fitting) < 2:
        return fitting if claim.extreme is None else []
    axis, sign = _EXTREMES[claim.extreme]
    first, second = sorted(fitting, key=lambda i: sign * getattr(things[i], axis))[:2]
    a, b = getattr(things[first], axis), getattr(things[second], axis)
    clear = max(a, b) >= AREA_RATIO * min(a, b) if axis == "area" else abs(a - b) >= MARGIN
    return [first] if clear else fitting


def claims_about(index: int, things: Sequence[Thing]) -> list[Claim]:
    """Every claim that singles out one object, the shortest first."""
    thing = things[index]
    colours = (None, thing.colour) if thing.colour else (None,)
    others = sorted({t.name for t in things if t is not thing and t.name != thing.name})
    candidates = [Claim(thing.name, colour) for colour in colours]
    candidates += [Claim(thing.name, c, extreme) for c in colours for extreme in _EXTREMES]
    candidates += [
        Claim(thing.name, c, None, relation, anchor)
        for c in colours
        for relation in _RELATIONS
        for anchor in others
    ]
    return [claim for claim in candidates if meant(claim, things) == [index]]


def colour_of(pixels: NDArray[np.uint8]) -> str | None:
    """The colour of an object's pixels ``(N, 3)``; None if no colour has `COLOUR_SHARE` of them."""
    if not len(pixels):
        return None
    sample = pixels[:: max(1, len(pixels) // 400)]
    named = Counter(_name(*(int(v) for v in pixel)) for pixel in sample)
    name, count = named.most_common(1)[0]
    return name if count >= COLOUR_SHARE * len(sample) else None


def _name(red: int, green: int, blue: int) -> str:
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.2:
        return "black"
    if saturation < 0.18:
        return "white" if value > 0.75 else "grey"
    bounds = ((0.045, "red"), (0.11, "orange"), (0.19, "yellow"), (0.45, "green"), (0.72, "blue"),
              (0.92, "purple"), (1.0, "red"))  # fmt: skip
    colour = next(name for limit, name in bounds if hue <= limit)
    return "brown" if colour == "orange" and value < 0.6 else colour


def things_of(
    image: NDArray[np.uint8], masks: NDArray[np.bool_], names: Sequence[str]
) -> list[Thing]:
    """The objects of an image ``(H, W, 3)`` with masks ``(N, H, W)``."""
    height, width = image.shape[:2]
    things = []
    for mask, name in zip(masks, names, strict=True):
        rows, columns = np.nonzero(mask)
        x, y = (columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height
        things.append(Thing(name, colour_of(image[mask]), len(rows), float(x), float(y)))
    return things


def masks_of(sample: Sample, classes: Sequence[str]) -> tuple[NDArray[np.bool_], list[str]]:
    """Masks and class names of a sample's objects.

    Taken from ``"instances"`` and ``"labels"``, those without an outline from ``"boxes"``, filled,
    like all if there are no instances; else from the connected parts of ``"mask"``, without
    `NOTHING`.

    Raises:
        DataError: If the sample has none of these.
    """
    targets = sample.targets
    if "labels" in targets and ("instances" in targets or "boxes" in targets):
        names = [classes[int(label)] for label in targets["labels"]]
        size = sample.image.shape[-2:]
        masks = np.zeros((len(names), *size), dtype=bool)
        if "instances" in targets:
            masks |= np.asarray(targets["instances"]).astype(bool)
        if "boxes" in targets:
            bare = ~masks.any(axis=(1, 2))
            masks[bare] = _filled(np.asarray(targets["boxes"], dtype=float)[bare], size)
        return masks, names
    if "mask" not in targets:
        raise DataError("this data set has neither objects nor a class map to build sentences from")
    mask = np.asarray(targets["mask"])
    found, names = [], []
    for label, name in enumerate(classes):
        if name.lower() in NOTHING:
            continue
        count, parts = cv2.connectedComponents((mask == label).astype(np.uint8), connectivity=8)
        found += [parts == i for i in range(1, count)]
        names += [name] * (count - 1)
    return np.array(found, dtype=bool).reshape(-1, *mask.shape), names


def _filled(boxes: NDArray[np.float64], size: Sequence[int]) -> NDArray[np.bool_]:
    drawn = np.zeros((len(boxes), *size), np.uint8)
    for canvas, box in zip(drawn, boxes, strict=True):
        if len(box) == 5:
            cx, cy, width, height, angle = box
            corners = cv2.boxPoints(((cx, cy), (width, height), float(np.degrees(angle))))
        else:
            x1, y1, x2, y2 = box
            corners = np.array([[x1, y1], [x2 - 1, y1], [x2 - 1, y2 - 1], [x1, y2 - 1]])
        cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], 1)
    return drawn.astype(bool)


def build(
    samples: Iterable[Sample],
    classes: Sequence[str],
    out: str | Path,
    *,
    split: str = "train",
    per_object: int = 2,
    min_pixels: int = 16,
    rewrite: Rewriter | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write triplets of image, sentence and mask in REFER's layout.

    Args:
        samples: Images with objects or class maps; see `masks_of`.
        classes: Names in index order of the labels.
        out: Folder to make.
        split: What the refs call their split; with ``"all"`` those of every third image are called
            ``"test"`` and the others ``"train"``.
        per_object: Sentences about an object at most, of different kinds.
        min_pixels: Objects below are not spoken of by themselves, but no sentence forgets them.
        rewrite: Says a sentence in other words. They are kept only if they still single the object
            out: class, colour, size and place as whole words in their order, and no other word
            that sentences are made of.
        seed: Which of several sentences are taken.

    Returns:
        The report, also written as ``report.json``: sentences by kind, words and how often they
        occur, and for each class its objects and how many of them a sentence is about.

    Raises:
        ConfigError: If the folder exists and isn't empty.
        DataError: If an image is neither 8-bit RGB nor grey, or has no objects that can be read.
            What was made of the images before it is written.
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} isn't empty; choose another folder")
    (folder / "JPEGImages").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    known = [_plain(name) for name in classes if name.lower() not in NOTHING]
    book = _Book()
    try:
        for number, sample in enumerate(samples):
            image, file = rgb_array(sample), f"{number:06d}.png"
            masks, found = masks_of(sample, classes)
            names = [_plain(name) for name in found]
            Image.fromarray(image).save(folder / "JPEGImages" / file)
            book.turn(file, _split_of(number, split))
            seen = np.flatnonzero(masks.any(axis=(1, 2)))
            masks, things = masks[seen], things_of(image, masks[seen], [names[i] for i in seen])
            large = [i for i, thing in enumerate(things) if thing.area >= min_pixels]
            for index, thing in enumerate(things):
                claims = claims_about(index, things) if index in large else []
                chosen = _varied(claims, per_object, random)
                for claim in chosen:
                    book.add(_said(claim, rewrite, known), masks[[index]], claim.kind())
                book.cover(thing.name, bool(chosen))
            for name in sorted({things[i].name for i in large}):
                many = np.logical_or.reduce(masks[[thing.name == name for thing in things]])
                book.add(PROMPT.format(name), many[None], "all of a class")
            absent = sorted(set(known) - set(names))
            if absent:
                name = absent[int(random.integers(len(absent)))]
                book.add(PROMPT.format(name), masks[:0], "nothing")
    finally:  # what is done isn't lost, whatever the next image is
        write_json(folder / "refs.json", book.refs)
        write_json(folder / "instances.json", {"annotations": book.annotations})
        write_json(folder / "report.json", book.report())
    return book.report()


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _split_of(number: int, split: str) -> str:
    if split != "all":
        return split
    return "test" if number % 3 == 2 else "train"


class _Book:
    """Refs, annotations and what is counted about them."""

    def __init__(self) -> None:
        self.file = self.split = ""
        self.refs: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.kinds: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.objects: Counter[str] = Counter()
        self.covered: Counter[str] = Counter()

    def turn(self, file: str, split: str) -> None:
        """To the next image."""
        self.file, self.split = file, split

    def add(self, sentence: str, masks: NDArray[np.bool_], kind: str) -> None:
        number = len(self.refs) + 1
        sentences = [{"sent": sentence, "raw": sentence, "exist": bool(len(masks))}]
        self.refs.append(
            {
                "ref_id": number,
                "ann_id": number,
                "file_name": self.file,
                "split": self.split,
                "kind": kind,
                "sentences": sentences,
            }
        )
        parts = [run_lengths(mask) for mask in masks]
        area = int(masks.sum())
        self.annotations.append({"id": number, "segmentation": parts, "area": area})
        self.kinds[kind] += 1
        self.words.update(sentence.split())

    def cover(self, name: str, spoken_of: bool) -> None:
        self.objects[name] += 1
        self.covered[name] += spoken_of

    def report(self) -> dict[str, Any]:
        return {
            "triplets": len(self.refs),
            "kinds": dict(self.kinds.most_common()),
            "vocabulary": dict(self.words.most_common()),
            "classes": {
                name: {"objects": count, "spoken of": self.covered[name]}
                for name, count in sorted(self.objects.items())
            },
        }


def _varied(claims: Sequence[Claim], limit: int, random: np.random.Generator) -> list[Claim]:
    """At most ``limit`` claims, each of another kind."""
    by_kind: dict[str, list[Claim]] = {}
    for claim in claims:
        by_kind.setdefault(claim.kind(), []).append(claim)
    kinds = list(by_kind)
    order = random.permutation(len(kinds))[:limit]
    groups = [by_kind[kinds[int(i)]] for i in order]
    return [group[int(random.integers(len(group)))] for group in groups]


def _said(claim: Claim, rewrite: Rewriter | None, classes: Sequence[str]) -> str:
    """The sentence, in other words if these still say what it must and nothing else."""
    plain = claim.sentence()
    if rewrite is None:
        return plain
    other = " ".join(rewrite(plain).split())
    return other if still_says(other, claim, classes) else plain


def still_says(sentence: str, claim: Claim, classes: Sequence[str]) -> bool:
    """Whether other words for a claim single out the same object.

    Of the words that sentences are made of it must have those of the claim and no other, whole and
    in this order: extreme, class, relation, the class that it is to; the colour before the
    relation.

    Args:
        sentence: In other words.
        claim: What it must say.
        classes: Every class that sentences speak of.
    """
    words = {*classes, *COLOURS, *_EXTREMES, *_RELATIONS, "left", "right", "not", "no", "without"}
    choice = "|".join(re.escape(w.lower()) for w in sorted(words, key=len, reverse=True))
    said = re.findall(rf"(?<![\w-])(?:{choice})s?(?![\w-])", sentence.lower())
    needed = [claim.extreme, claim.name.lower(), claim.relation]
    needed += [claim.anchor and claim.anchor.lower()]
    if claim.colour is not None:
        before = said[: said.index(claim.relation)] if claim.relation in said else said
        if before.count(claim.colour) != 1:
            return False
        said.remove(claim.colour)
    return said == [word for word in needed if word]


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask as COCO's plain run lengths, column by column, beginning with zeros."""
    flat = mask.T.ravel()
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    counts = np.diff(bounds).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
