"""Data sets whose answers are captions or numbers, and detection sets in COCO's form by split.

Dossier section 5. The catalogue knows where the files lie (`swath.refseg.datasets`).
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from swath.core.data.detection import CocoJson
from swath.core.data.readers import resolve_root
from swath.core.data.spec import Layout
from swath.core.errors import DataError
from swath.refseg import sets
from swath.refseg.data.refer import Question, Questions


class CaptionedImages(Questions):
    """Images with several captions each, in Karpathy's JSON: UCM-Captions and others.

    Samples have ``"captions"``, a list of text.

    Args:
        annotations: The JSON file: ``images[{filename, split, sentences[{raw}]}]``.
        images: Folder of the images.
        split: Which of them, or ``"all"``.

    Raises:
        DataError: If the file can't be read, or the split is empty.
    """

    def __init__(self, annotations: str | Path, images: str | Path, split: str = "test") -> None:
        path, folder = resolve_root(annotations), resolve_root(images)
        try:
            questions = [
                Question(row["filename"], folder / row["filename"], "", _raw(row))
                for row in _read_json(path)["images"]
                if split in ("all", row["split"])
            ]
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: can't be read as captions: {error!r}") from error
        super().__init__(questions, path)

    def targets(self, question: Question, size: tuple[int, int]) -> dict[str, Any]:
        """See `Questions.targets`."""
        return {"captions": question.answer}


class CountingQuestions(Questions):
    """Questions after the number of objects, as conversations in JSON.

    Samples have ``"name"``, what is counted, and ``"count"``.

    Args:
        annotations: A list of ``{"images": [name], "conversations": [question, answer]}``; the
            question has "the number of NAME."
        images: Folder of the images.

    Raises:
        DataError: If the file can't be read, or a question isn't one.
    """

    def __init__(self, annotations: str | Path, images: str | Path) -> None:
        path, folder = resolve_root(annotations), resolve_root(images)
        questions = []
        for number, row in enumerate(_read_json(path)):
            try:
                question, answer = (turn["content"] for turn in row["conversations"][:2])
                name = question.split("the number of ")[1].split(".")[0].strip()
                file, count = row["images"][0], int(answer)
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise DataError(f"{path}: entry {number} is no counting question") from error
            questions.append(Question(f"{file}-{number}", folder / file, class_name(name), count))
        super().__init__(questions, path)

    def targets(self, question: Question, size: tuple[int, int]) -> dict[str, Any]:
        """See `Questions.targets`."""
        return {"name": question.sentence, "count": question.answer}


def read_captions(place: Path, layout: Layout, split: str) -> CaptionedImages:
    """A split of captioned images; see `Layout.reader`."""
    return CaptionedImages(place / str(layout.labels), _images(place, layout), split)


def read_counting(place: Path, layout: Layout, split: str) -> CountingQuestions:
    """All counting questions; see `Layout.reader`."""
    return CountingQuestions(place / str(layout.labels), _images(place, layout))


def read_coco_split(place: Path, layout: Layout, split: str) -> CocoJson:
    """The images that a split's JSON file lists; see `Layout.reader`."""
    file = place / str(layout.lists).format(split="test" if split == "all" else split)
    return CocoJson(file, _images(place, layout), sets.DIOR)


def class_name(words: str) -> str:
    """What a class is asked as, of how a question calls it: DIOR's and DOTA's names."""
    return _CALLED.get(
        words, words.replace(" ", "-") if words in _HYPHENATED else words.replace(" ", "")
    )


_CALLED = {"railway station": "trainstation", "crane": "container-crane"}
_HYPHENATED = {
    "expressway service area", "expressway toll station", "soccer ball field", "swimming pool",
    "container crane", "large vehicle", "small vehicle",
}  # fmt: skip


def _raw(row: dict[str, Any]) -> list[str]:
    return [sentence["raw"] for sentence in row["sentences"]]


def _images(place: Path, layout: Layout) -> Path:
    return place / PurePosixPath(layout.images).parent


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read as JSON: {error}") from error
