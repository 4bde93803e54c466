"""Image, sentence and mask from any data set of objects: `swath refseg build`.

In the spirit of RemoteSAM-270K (arXiv:2505.18022, section 4): sentences name an object by its
class, its colour as measured from the pixels, its size and its place, and every sentence is checked
to single out what it is about; others mean all objects of a class, or nothing. The result is a
folder in REFER's layout (``JPEGImages``, ``refs.json``, ``instances.json``), with a report of the
vocabulary and of what is covered, after the idea of RSVocab-1K.
"""

import colorsys
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from swath.core.errors import ConfigError, DataError
from swath.core.files import atomic_path, remove_leftovers, write_json
from swath.core.progress import Bar
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

UNFINISHED = "unfinished.jsonl"
"""While a set is being built: first the request, then one line an image."""

Rewriter = Callable[[str], str]
"""Says a sentence in other words; what it gives is checked again."""


class Samples(Protocol):
    """A map-style set of samples."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> Sample:
        """One of them."""


@dataclass(frozen=True)
class Part:
    """Where an object is: the piece of its mask that holds it.

    Attributes:
        name: Its class.
        mask: ``(h, w)``, bool; empty if no pixel of it is in the image.
        row: Of the image, where the piece begins.
        column: The same.
    """

    name: str
    mask: NDArray[np.bool_]
    row: int = 0
    column: int = 0

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image."""
        height, width = self.mask.shape
        return slice(self.row, self.row + height), slice(self.column, self.column + width)


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


def thing_of(image: NDArray[np.uint8], part: Part, name: str) -> Thing:
    """An object of an image ``(H, W, 3)``, measured; ``name`` is what sentences call its class."""
    height, width = image.shape[:2]
    rows, columns = np.nonzero(part.mask)
    x = ((columns + part.column).mean() + 0.5) / width
    y = ((rows + part.row).mean() + 0.5) / height
    colour = colour_of(image[part.window][part.mask])
    return Thing(name, colour, len(rows), float(x), float(y))


def parts_of(sample: Sample, classes: Sequence[str]) -> list[Part]:
    """A sample's objects.

    Taken from ``"instances"`` and ``"labels"``, those without an outline from ``"boxes"``, filled,
    like all if there are no instances; else from the connected parts of ``"mask"``, without
    `NOTHING`.

    Raises:
        DataError: If the sample has none of these.
    """
    targets = sample.targets
    if "labels" in targets and ("instances" in targets or "boxes" in targets):
        return list(_objects(sample, [classes[int(label)] for label in targets["labels"]]))
    if "mask" not in targets:
        raise DataError("this data set has neither objects nor a class map to build sentences from")
    return list(_connected(np.asarray(targets["mask"]), classes))


def _objects(sample: Sample, names: Sequence[str]) -> Iterator[Part]:
    instances, boxes = (sample.targets.get(key) for key in ("instances", "boxes"))
    size = sample.image.shape[-2:]
    for i, name in enumerate(names):
        part = None if instances is None else _cut(name, np.asarray(instances[i]).astype(bool))
        if boxes is not None and (part is None or not part.mask.size):
            part = _filled(name, np.asarray(boxes[i], dtype=float), size)
        assert part is not None
        yield part


def _connected(mask: NDArray[Any], classes: Sequence[str]) -> Iterator[Part]:
    for label, name in enumerate(classes):
        if name.lower() in NOTHING:
            continue
        count, numbers, boxes, _ = cv2.connectedComponentsWithStats(
            (mask == label).astype(np.uint8), connectivity=8
        )
        for i in range(1, count):
            column, row, width, height = (int(v) for v in boxes[i, :4])
            piece = numbers[row : row + height, column : column + width] == i
            yield Part(name, piece, row, column)


def _cut(name: str, mask: NDArray[np.bool_]) -> Part:
    """The piece of a whole mask that holds something."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Part(name, mask[:0, :0])
    row, column = int(rows[0]), int(columns[0])
    return Part(name, mask[row : rows[-1] + 1, column : columns[-1] + 1].copy(), row, column)


def _filled(name: str, box: NDArray[np.float64], size: Sequence[int]) -> Part:
    if len(box) == 5:
        cx, cy, width, height, angle = box
        quad = cv2.boxPoints(((cx, cy), (width, height), float(np.degrees(angle))))
    else:
        x1, y1, x2, y2 = box
        quad = np.array([[x1, y1], [x2 - 1, y1], [x2 - 1, y2 - 1], [x1, y2 - 1]])
    corners = np.round(quad).astype(np.int32)
    first = corners.min(0).clip(0)
    width, height = (corners.max(0) + 1).clip(max=size[::-1]) - first
    if min(width, height) <= 0:
        return Part(name, np.zeros((0, 0), bool))
    drawn = np.zeros((height, width), np.uint8)
    cv2.fillPoly(drawn, [corners - first], 1)
    return _moved(_cut(name, drawn.astype(bool)), int(first[1]), int(first[0]))


def _moved(part: Part, down: int, right: int) -> Part:
    return Part(part.name, part.mask, part.row + down, part.column + right)


def build(
    samples: Samples,
    classes: Sequence[str],
    out: str | Path,
    *,
    split: str = "train",
    per_object: int = 2,
    min_pixels: int = 16,
    rewrite: Rewriter | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Write triplets of image, sentence and mask in REFER's layout.

    Memory holds one image and its objects. Killed at any moment, or stopped by an image that can't
    be read, and run again, it goes on where it stopped and ends with the same bytes; until then
    the folder has `UNFINISHED` and no refs.

    Args:
        samples: Images with objects or class maps; see `parts_of`.
        classes: Names in index order of the labels.
        out: Folder to make, or begun by the same request.
        split: What the refs call their split; with ``"all"`` those of every third image are called
            ``"test"`` and the others ``"train"``.
        per_object: Sentences about an object at most, of different kinds.
        min_pixels: Objects below are not spoken of by themselves, but no sentence forgets them.
        rewrite: Says a sentence in other words. They are kept only if they still single the object
            out: class, colour, size and place as whole words in their order, and no other word
            that sentences are made of.
        seed: Which of several sentences are taken.
        progress: Show a bar.

    Returns:
        The report, also written as ``report.json``: sentences by kind, words and how often they
        occur, and for each class its objects and how many of them a sentence is about.

    Raises:
        ConfigError: If the folder holds something else, or was begun by another request.
        DataError: If an image is neither 8-bit RGB nor grey, or has no objects that can be read.
    """
    folder = Path(out)
    speaker = _Speaker(classes, per_object, min_pixels, rewrite, seed)
    request = {
        "split": split,
        "per_object": per_object,
        "min_pixels": min_pixels,
        "seed": seed,
        "classes": list(classes),
        "images": len(samples),
    }
    done = _begin(folder, request)
    if done:
        _check_image(folder, done - 1, samples[done - 1])
    with (
        (folder / UNFINISHED).open("a", encoding="utf-8") as log,
        Bar("building", len(samples), "img", start=done, enabled=progress) as bar,
    ):
        for number in range(done, len(samples)):
            sample = samples[number]
            image = rgb_array(sample)
            entry = speaker(number, image, parts_of(sample, classes))
            with atomic_path(folder / _file(number)) as temporary:
                Image.fromarray(image).save(temporary)
            log.write(json.dumps(entry) + "\n")
            log.flush()
            bar.advance()
    return _finish(folder, split)


class _Speaker:
    """What is said of an image: call it with its number, its pixels ``(H, W, 3)``, its objects."""

    def __init__(
        self,
        classes: Sequence[str],
        per_object: int,
        min_pixels: int,
        rewrite: Rewriter | None,
        seed: int,
    ) -> None:
        self.known = [_plain(name) for name in classes if name.lower() not in NOTHING]
        self.per_object, self.min_pixels = per_object, min_pixels
        self.rewrite, self.seed = rewrite, seed

    def __call__(
        self, number: int, image: NDArray[np.uint8], parts: Sequence[Part]
    ) -> dict[str, Any]:
        """Sentences, each with its kind and run lengths; and objects, spoken of or not."""
        random = np.random.default_rng([self.seed, number])
        seen = [part for part in parts if part.mask.size]
        things = [thing_of(image, part, _plain(part.name)) for part in seen]
        size = image.shape[0], image.shape[1]
        sentences: list[dict[str, Any]] = []
        objects: list[tuple[str, bool]] = []

        def say(sentence: str, kind: str, meant: Sequence[Part]) -> None:
            runs = [run_lengths(_united(meant), size)] if meant else []
            sentences.append({"sentence": sentence, "kind": kind, "parts": runs})

        for index, (thing, part) in enumerate(zip(things, seen, strict=True)):
            claims = claims_about(index, things) if thing.area >= self.min_pixels else []
            chosen = _varied(claims, self.per_object, random)
            for claim in chosen:
                say(_said(claim, self.rewrite, self.known), claim.kind(), [part])
            objects.append((thing.name, bool(chosen)))
        for name in sorted({t.name for t in things if t.area >= self.min_pixels}):
            same = [part for part, t in zip(seen, things, strict=True) if t.name == name]
            say(PROMPT.format(name), "all of a class", same)
        absent = sorted(set(self.known) - {_plain(part.name) for part in parts})
        if absent:
            name = absent[int(random.integers(len(absent)))]
            say(PROMPT.format(name), "nothing", [])
        return {"sentences": sentences, "objects": objects}


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _file(number: int) -> str:
    return f"JPEGImages/{number:06d}.png"


def _split_of(number: int, split: str) -> str:
    if split != "all":
        return split
    return "test" if number % 3 == 2 else "train"


def _begin(folder: Path, request: dict[str, Any]) -> int:
    """How many images an earlier run of the same request has finished; makes the folder."""
    log = folder / UNFINISHED
    if not log.is_file() and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} isn't empty; choose another folder")
    (folder / "JPEGImages").mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    remove_leftovers(folder / "JPEGImages")
    with log.open("a+b") as file:
        file.seek(0)
        head = _whole(file.readline())
        if head is None:
            file.truncate(0)
            file.write(json.dumps(request).encode() + b"\n")
            return 0
        changed = sorted(key for key in head | request if head.get(key) != request.get(key))
        if changed:
            raise ConfigError(
                f"{folder} was begun with other {', '.join(changed)}; choose another folder, or "
                "delete this one"
            )
        done, end = 0, file.tell()
        while _whole(file.readline()) is not None and (folder / _file(done)).is_file():
            done, end = done + 1, file.tell()
        file.truncate(end)  # what was being written when the run was stopped
        return done


def _whole(line: bytes) -> dict[str, Any] | None:
    """What a line says, or None if it isn't all there."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _check_image(folder: Path, number: int, sample: Sample) -> None:
    """The data must be that of the earlier run; its last image stands for all."""
    with Image.open(folder / _file(number)) as stored:
        if np.array_equal(np.asarray(stored), rgb_array(sample)):
            return
    raise ConfigError(
        f"{folder} was begun with other images; choose another folder, or delete this one"
    )


def _finish(folder: Path, split: str) -> dict[str, Any]:
    """Turn the lines into a set, image by image."""
    report, log, key = _Report(), folder / UNFINISHED, 0
    with (
        log.open(encoding="utf-8") as lines,
        _json_list(folder / "instances.json", '{"annotations": [', "]}") as annotate,
        _json_list(folder / "refs.json", "[", "]") as refer,
    ):
        next(lines)
        for number, line in enumerate(lines):
            entry = json.loads(line)
            report.add(entry)
            image = {"file_name": Path(_file(number)).name, "split": _split_of(number, split)}
            for said in entry["sentences"]:
                key, text, runs = key + 1, said["sentence"], said["parts"]
                sentence = {"sent": text, "raw": text, "exist": bool(runs)}
                ref = {"ref_id": key, "ann_id": key, **image, "kind": said["kind"]}
                refer({**ref, "sentences": [sentence]})
                area = sum(sum(run["counts"][1::2]) for run in runs)
                annotate({"id": key, "segmentation": runs, "area": area})
    write_json(folder / "report.json", report.content())
    log.unlink()
    return report.content()


@contextmanager
def _json_list(path: Path, before: str, after: str) -> Iterator[Callable[[Any], object]]:
    """What writes entries one by one to a file, which has its name when all are written."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        marks = chain([f"{before}\n"], repeat(",\n"))
        yield lambda entry: file.write(next(marks) + json.dumps(entry))
        file.write(f"\n{after}\n")


class _Report:
    """What is counted about a set."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.objects: Counter[str] = Counter()
        self.covered: Counter[str] = Counter()

    def add(self, entry: dict[str, Any]) -> None:
        """Count an image."""
        for said in entry["sentences"]:
            self.kinds[said["kind"]] += 1
            self.words.update(said["sentence"].split())
        for name, spoken_of in entry["objects"]:
            self.objects[name] += 1
            self.covered[name] += spoken_of

    def content(self) -> dict[str, Any]:
        return {
            "triplets": self.kinds.total(),
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


def _united(parts: Sequence[Part]) -> Part:
    """The pixels of any of several parts, as one."""
    if len(parts) == 1:
        return parts[0]
    row, column = min(p.row for p in parts), min(p.column for p in parts)
    bottom, right = (max(p.window[axis].stop for p in parts) for axis in (0, 1))
    whole = Part(parts[0].name, np.zeros((bottom - row, right - column), bool), row, column)
    for part in parts:
        rows, columns = _moved(part, -row, -column).window
        whole.mask[rows, columns] |= part.mask
    return whole


def run_lengths(part: Part, size: tuple[int, int]) -> dict[str, Any]:
    """A mask in an image ``(H, W)`` as COCO's plain run lengths, by column, zeros first."""
    height, width = size
    strip = np.zeros((part.mask.shape[1], height), bool)  # only the columns that it spans
    strip[:, part.window[0]] = part.mask.T
    flat = np.concatenate([[False], strip.ravel(), [False]])
    edges = part.column * height + np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    return {"size": [height, width], "counts": counts if counts[-1] else counts[:-1]}
