"""Data sets of sentences with masks or boxes: REFER's layout, lists of phrases, DIOR-RSVG.

REFER's layout is that of RRSIS-D and of RemoteSAM-270K: ``refs(unc).p``, a pickle that is read with
builtin containers and numbers only and nothing run, or ``refs.json``, what `convert_refs` makes of
it; and ``instances.json``, masks in COCO's form. RefSegRS and RISBench are lists of phrases.
Dossier section 5. The catalogue knows where the files lie (`swath.refseg.datasets`).
"""

import json
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from swath.core.checkpoint.safe import load_any
from swath.core.data.detection import draw_segmentation, read_coco
from swath.core.data.readers import resolve_root
from swath.core.data.segmentation import read_image_tensor
from swath.core.data.spec import Item, Layout
from swath.core.errors import (
    CheckpointError,
    DataError,
    EmptySplitError,
    UnsafeCheckpointError,
)
from swath.core.files import write_json
from swath.core.palette import Colour, default_palette
from swath.core.sample import Sample
from swath.refseg.datasets import REFSEGRS

PICKLE, JSON = "refs(unc).p", "refs.json"
SPLITS = ("train", "val", "test")

TOLERANCE = 0.05
"""By how much of a side a mask's size may differ from its image's; RRSIS-D has such."""


@dataclass(frozen=True)
class Question:
    """Something that is asked about an image.

    Attributes:
        id: Unique within the set.
        image: Path.
        sentence: What is asked.
        answer: What is right: an annotation of ``instances.json``, the path of a mask, a box, ...
        kind: What kind of sentence it is, or None; figures are broken down by it.
    """

    id: str
    image: Path
    sentence: str
    answer: Any
    kind: str | None = None


class Questions:
    """A map-style set of questions as samples.

    Args:
        questions: At least one.
        where: What an error names.

    Attributes:
        questions: All of them, in order.
        ids: Their ids.
        items: The image of each.
        classes: Of the answers, in index order.
        palette: A colour of each.

    Raises:
        EmptySplitError: If there are none.
    """

    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()

    def __init__(self, questions: Iterable[Question], where: Path) -> None:
        self.questions = list(questions)
        if not self.questions:
            raise EmptySplitError(f"{where}: has no question of this split; choose another split")
        self.ids = [question.id for question in self.questions]
        self.items = [Item(question.id, question.image, None) for question in self.questions]

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.questions)

    def __getitem__(self, index: int) -> Sample:
        """A question's image, uint8 ``(3, H, W)``, with its answer as targets.

        ``meta["kind"]`` is the kind of sentence where the set says it.

        Raises:
            DataError: If a file can't be read, or the two don't belong together.
        """
        question = self.questions[index]
        image, valid = read_image_tensor(question.image)
        targets = self.targets(question, (image.shape[-2], image.shape[-1]))
        meta = {"id": question.id, "path": str(question.image)}
        if question.kind is not None:
            meta["kind"] = question.kind
        return Sample(image, targets, valid, meta)

    def targets(self, question: Question, size: tuple[int, int]) -> dict[str, Any]:
        """The targets of a question about an image of that height and width."""
        raise NotImplementedError


class ReferringSet(Questions):
    """Sentences with masks.

    Samples have ``"sentence"`` and ``"mask"``, uint8 ``(H, W)``, 1 where it means and 0 elsewhere.
    """

    classes = ("background", "object")
    palette = default_palette(classes)

    def targets(self, question: Question, size: tuple[int, int]) -> dict[str, Any]:
        """See `Questions.targets`."""
        mask = self.mask(question, size)
        if mask.shape != size:
            mask = _fit(mask, size, question)
        mask = np.ascontiguousarray(mask)
        return {"sentence": question.sentence, "mask": tv_tensors.Mask(torch.from_numpy(mask))}

    def mask(self, question: Question, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The mask of a question at any size; ``size`` is that of its image."""
        raise NotImplementedError


class ReferDataset(ReferringSet):
    """RRSIS-D, RemoteSAM-270K and others in REFER's layout.

    Args:
        root: Folder with refs and ``instances.json``.
        split: ``"train"`` or ``"val"``; ``"test"``, which takes every split with "test" in it; or
            ``"all"``.
        images: Folder of the images; default ``JPEGImages`` in the root. ``.jpg`` and ``.png``
            stand for each other.
        sentences: ``"first"`` sentence of each ref, as it is trained on, or ``"all"``, as judged;
            these officially as they were written, ``raw``, the first as cleaned up, ``sent``.
        overlaps: What parts of one object that overlap mean: their ``"union"``, or, as officially,
            ``"none"`` of the pixels that several parts share.

    Raises:
        DataError: If files are missing or can't be read, or refs name what isn't there.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        images: str | Path | None = None,
        sentences: Literal["first", "all"] = "first",
        overlaps: Literal["union", "none"] = "union",
    ) -> None:
        folder = resolve_root(root)
        self.overlaps = overlaps
        pictures = resolve_root(images) if images is not None else folder / "JPEGImages"
        refs = [ref for ref in read_refs(folder) if in_split(str(ref["split"]), split)]
        annotations = _annotations(folder / "instances.json")
        missing = [ref["ann_id"] for ref in refs if ref["ann_id"] not in annotations]
        if missing:
            raise DataError(
                f"{folder / 'instances.json'}: lacks annotation {missing[0]} and "
                f"{len(missing) - 1} more that the refs name; take both files from one release"
            )
        present = {path.name: path for path in pictures.iterdir()} if pictures.is_dir() else {}
        questions, absent = [], []
        for number, ref in enumerate(refs):
            image = _image(present, str(ref["file_name"]))
            if image is None:
                absent.append(str(ref["file_name"]))
                continue
            chosen = ref["sentences"] if sentences == "all" else ref["sentences"][:1]
            spelling = "raw" if sentences == "all" else "sent"
            questions += [
                Question(
                    f"{ref.get('ref_id', number)}-{i}",
                    image,
                    str(s.get(spelling) or s["sent"]),
                    annotations[ref["ann_id"]],
                    ref.get("kind"),
                )
                for i, s in enumerate(chosen)
            ]
        if absent:
            message = f"{pictures}: {len(absent)} images of the refs aren't there, e.g. {absent[0]}"
            if not questions:
                raise DataError(f"{message}; check the folder")
            warnings.warn(f"{message}; these refs are left out", stacklevel=2)
        super().__init__(questions, folder)

    def mask(self, question: Question, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `ReferringSet.mask`."""
        parts = question.answer["segmentation"]
        if isinstance(parts, dict):
            parts = [parts]
        if not parts:  # a sentence that means nothing in its image
            return np.zeros(size, np.uint8)
        if not isinstance(parts[0], dict):  # polygons, all at once
            return draw_segmentation(parts, size, question.id)
        drawn = [_drawn(part, question.id) for part in parts]
        counts = np.sum(drawn, axis=0, dtype=np.int64)
        shown = counts == 1 if self.overlaps == "none" else counts > 0
        return np.asarray(shown).astype(np.uint8)


class PhraseList(ReferringSet):
    """RefSegRS, RISBench and others that list phrases as ``NAME SENTENCE``, one a line.

    Args:
        root: Its folder.
        split: ``"train"``, ``"val"`` or ``"test"``, or ``"all"`` of them.
        layout: Where images, masks and lists lie; NAME, with or without a suffix, is its ``id``.

    Raises:
        DataError: If a list is missing, or names what isn't there.
    """

    def __init__(self, root: str | Path, split: str = "train", layout: Layout = REFSEGRS) -> None:
        folder = resolve_root(root)
        splits = SPLITS if split == "all" else (split,)
        super().__init__((q for s in splits for q in _phrases(folder, s, layout)), folder)

    def mask(self, question: Question, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `ReferringSet.mask`; true where the stored value is above 50."""
        values, _ = read_image_tensor(question.answer)
        return np.asarray(values[0].numpy() > 50).astype(np.uint8)


class SentenceList(ReferringSet):
    """One JSON list of sentences with outlines: the shared VHR-10 sentences, or your own.

    Args:
        path: A list of ``{"image", "sentence", "segmentation"}``, the last polygons or run lengths
            in COCO's form.
        images: Folder of the images.
        split: ``"all"``; or ``"test"``, every third image by name, and ``"train"``, the others.
        objects: COCO file with outlines of everything that images show. Samples then say where
            the words of its class names are true, as `ReferringTask` can learn from.

    Raises:
        DataError: If a file can't be read, or an entry lacks something.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path,
        split: Literal["all", "train", "test"] = "all",
        objects: str | Path | None = None,
    ) -> None:
        file, folder = resolve_root(path), resolve_root(images)
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
            if rows and "sentences" in rows[0]:
                raise DataError(f"{file}: is in REFER's layout; read its folder as a ReferDataset")
            names = sorted({row["image"] for row in rows})
            chosen = {
                n
                for i, n in enumerate(names)
                if split == "all" or (i % 3 == 2) == (split == "test")
            }
            questions = [
                Question(str(i), folder / row["image"], row["sentence"], row["segmentation"])
                for i, row in enumerate(rows)
                if row["image"] in chosen
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: can't be read as a list of sentences: {error!r}") from error
        super().__init__(questions, file)
        self.objects = {} if objects is None else read_coco(resolve_root(objects))
        self.words = tuple(
            sorted({w for o in self.objects.values() for n in o.names for w in _spoken(n)})
        )

    def __getitem__(self, index: int) -> Sample:
        """See `ReferringSet`; with ``objects``, also ``"words"`` and ``meta["words"]``."""
        sample = super().__getitem__(index)
        return replace(sample, meta={**sample.meta, "words": self.words}) if self.words else sample

    def targets(self, question: Question, size: tuple[int, int]) -> dict[str, Any]:
        """See `Questions.targets`."""
        targets = super().targets(question, size)
        if self.words:
            true = self._true_words(question.image, size)
            targets["words"] = tv_tensors.Mask(torch.from_numpy(true))
        return targets

    def mask(self, question: Question, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `ReferringSet.mask`."""
        return draw_segmentation(question.answer, size, question.image)

    def _true_words(self, image: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Where each of `words` is true, ``(K, H, W)``."""
        masks = np.zeros((len(self.words), *size), np.uint8)
        if image.name in self.objects:
            shown = self.objects[image.name]
            for name, polygons in zip(shown.names, shown.polygons, strict=True):
                rows = [self.words.index(word) for word in _spoken(name)]
                masks[rows] |= draw_segmentation(polygons, size, image)
        return masks


class DiorRsvg(Questions):
    """DIOR-RSVG: sentences with boxes.

    Samples have ``"sentence"``; ``"box"``, x1, y1, x2, y2 in pixels; and the same as ``"boxes"``
    and ``"labels"`` of a detection set.

    Args:
        root: Folder with ``Annotations``, ``JPEGImages`` and ``{split}.txt``, whose numbers count
            the objects of all annotation files, sorted by name.
        split: ``"train"``, ``"val"`` or ``"test"``, or ``"all"`` objects.

    Raises:
        DataError: If files are missing or can't be read.
    """

    classes = ("object",)
    palette = default_palette(1)

    def __init__(self, root: str | Path, split: str = "test") -> None:
        folder = resolve_root(root)
        rows = list(_rsvg_objects(folder))
        if split != "all":
            numbers = {int(word) for word in _list(folder / f"{split}.txt").split()}
            rows = [question for i, question in enumerate(rows) if i in numbers]
        super().__init__(rows, folder)

    def targets(self, question: Question, size: tuple[int, int]) -> dict[str, Any]:
        """See `Questions.targets`."""
        boxes = tv_tensors.BoundingBoxes([question.answer], format="XYXY", canvas_size=size)
        labels = torch.zeros(1, dtype=torch.int64)
        answer = {"box": question.answer, "boxes": boxes, "labels": labels}
        return {"sentence": question.sentence, **answer}


def read_refer(place: Path, layout: Layout, split: str) -> ReferDataset:
    """A split in REFER's layout, every sentence of each ref; see `Layout.reader`."""
    refs, images = (place / PurePosixPath(str(t)).parent for t in (layout.labels, layout.images))
    return ReferDataset(refs, split, images, sentences="all")


def read_phrases(place: Path, layout: Layout, split: str) -> PhraseList:
    """A split of a list of phrases; see `Layout.reader`."""
    return PhraseList(place, split, layout)


def read_rsvg(place: Path, layout: Layout, split: str) -> DiorRsvg:
    """A split of DIOR-RSVG; see `Layout.reader`."""
    return DiorRsvg(place, split)


def read_refs(folder: Path) -> list[dict[str, Any]]:
    """The refs of a folder: ``refs.json`` if it is there, else the pickle, safely.

    Raises:
        UnsafeCheckpointError: If the pickle names anything but containers, text and numbers.
        DataError: If neither is there, or what is read isn't a list of refs.
    """
    path = folder / JSON
    if not path.is_file():
        return _read_pickle(folder / PICKLE)
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read as JSON: {error}; make it again") from error


def _read_pickle(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(
            f"{path.parent}: holds neither {JSON} nor {PICKLE}; give the folder that does, or make "
            "the set again"
        )
    try:
        return _checked(load_any(path), path)
    except UnsafeCheckpointError:
        raise
    except CheckpointError as error:
        raise DataError(f"{path}: can't be read as a pickle of refs; fetch it again") from error


def _checked(content: Any, path: Path) -> list[dict[str, Any]]:
    """What was read, if it is a list of refs."""
    needed = ("split", "ann_id", "file_name", "sentences")
    for number, ref in enumerate(content if isinstance(content, list) else [None]):
        lacking = needed if not isinstance(ref, dict) else [k for k in needed if k not in ref]
        if lacking:
            raise DataError(
                f"{path}: ref {number} lacks {', '.join(lacking)}; is this a refs file?"
            )
    refs: list[dict[str, Any]] = content
    return refs


def convert_refs(folder: str | Path) -> Path:
    """Write ``refs.json`` beside ``refs(unc).p``: the same, for good without a pickle.

    Raises:
        UnsafeCheckpointError: See `read_refs`.
        DataError: As there.
    """
    place = resolve_root(folder)
    path = place / JSON
    write_json(path, _plain(_read_pickle(place / PICKLE)))
    return path


def in_split(stored: str, wanted: str) -> bool:
    """Whether a ref is in a split: exactly, or for ``"test"`` any whose name has it."""
    return wanted == "all" or ("test" in stored if wanted == "test" else stored == wanted)


def _plain(value: Any) -> Any:
    """Containers and numbers as JSON knows them."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if hasattr(value, "item") else value


def _annotations(path: Path) -> dict[Any, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {entry["id"]: entry for entry in content["annotations"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: can't be read as COCO annotations: {error}") from error


def _image(present: Mapping[str, Path], name: str) -> Path | None:
    stem = Path(name).stem
    for candidate in (name, f"{stem}.jpg", f"{stem}.png"):
        if candidate in present:
            return present[candidate]
    return None


def _phrases(folder: Path, split: str, layout: Layout) -> Iterator[Question]:
    path = folder / str(layout.lists).format(split=split)
    for number, line in enumerate(_list(path).splitlines(), start=1):
        name, _, sentence = line.strip().partition(" ")
        if not sentence:
            continue
        item = layout.item(folder, {"id": name.removesuffix(PurePosixPath(layout.images).suffix)})
        for needed in (item.image, item.label):
            if needed is None or not needed.is_file():
                raise DataError(f"{path}, line {number}: {needed} isn't there")
        yield Question(f"{item.id}-{split}-{number}", item.image, sentence.strip(), item.label)


def _list(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: no such list; the splits are {', '.join(SPLITS)}") from error


def _drawn(part: Mapping[str, Any], where: str) -> NDArray[np.uint8]:
    height, width = part["size"]
    return draw_segmentation(dict(part), (int(height), int(width)), where)


def _fit(mask: NDArray[np.uint8], size: tuple[int, int], question: Question) -> NDArray[np.uint8]:
    """Resize a mask that differs from its image by a few pixels."""
    if any(abs(a - b) > TOLERANCE * b for a, b in zip(mask.shape, size, strict=True)):
        raise DataError(
            f"{question.image}: is {size[1]} x {size[0]} px, but the mask of '{question.id}' is "
            f"{mask.shape[1]} x {mask.shape[0]}; they don't belong together"
        )
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return np.asarray(mask[np.ix_(rows, columns)])


def _rsvg_objects(folder: Path) -> Iterator[Question]:
    """All objects that have a description, by file and place."""
    for path in sorted((folder / "Annotations").glob("*.xml")):
        text = path.read_text(encoding="utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DataError(f"{path}: XML with a document type isn't accepted; remove it")
        try:
            root = ElementTree.fromstring(text)
            name = root.findtext("filename") or f"{path.stem}.jpg"
            for number, element in enumerate(root.iter("object")):
                box = [float(element.findtext(f"bndbox/{k}", "")) for k in _CORNERS]
                sentence = (element.findtext("description") or "").strip()
                yield Question(f"{path.stem}-{number}", folder / "JPEGImages" / name, sentence, box)
        except (ElementTree.ParseError, ValueError) as error:
            raise DataError(f"{path}: can't be read: {error}") from error


def _spoken(name: str) -> list[str]:
    """The words of a class name."""
    return name.replace("_", " ").replace("-", " ").lower().split()


_CORNERS = ("xmin", "ymin", "xmax", "ymax")
