"""RESISC45, shared out among the splits that RSCoTr trains and is judged on."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from swath.core.data.catalogue import load_dataset
from swath.core.data.readers import resolve_root
from swath.core.errors import DataError
from swath.core.files import atomic_path

FIFTHS = ("train", "val", "test", "test", "test")
"""Where each fifth of a class goes."""


def prepare_resisc45(root: str | Path, out: str | Path) -> dict[str, int]:
    """Share the images of each class out among ``train``, ``val`` and ``test``.

    As published, a fifth is trained on: 140 of a class's 700, 6,300 in all. Which ones, and how val
    and test share the rest, is published nowhere: here the draw is always the same, val gets a
    fifth, 6,300, and test what is left, 18,900.

    Args:
        root: The set as distributed, a folder of images for each class.
        out: Gets ``{train,val,test}/<class>/<image>``, which the catalogue reads: links to the
            images, or copies where the file system can't link.

    Returns:
        Numbers of images by split.

    Raises:
        DataError: If ``root`` isn't laid out like that, or ``out`` holds something else.

    Source:
        RSCoTr dossier 3: 394 batches of 16.
    """
    folder, items = resolve_root(out), load_dataset("resisc45", root).items
    if any("split" in item.fields for item in items):
        raise DataError(f"{root} has split folders already; use it as it is")
    by_class: dict[str, list[Path]] = {}
    for item in sorted(items, key=lambda item: item.image):
        by_class.setdefault(item.fields["class"], []).append(item.image)
    random = np.random.default_rng(0)
    planned: dict[Path, Path] = {}
    counts: Counter[str] = Counter()
    for name, images in sorted(by_class.items()):
        for place, number in enumerate(random.permutation(len(images))):
            split = FIFTHS[place * len(FIFTHS) // len(images)]
            planned[folder / split / name / images[number].name] = images[number]
            counts[split] += 1
    _check_empty(folder, planned)
    for target, image in planned.items():
        with atomic_path(target) as temporary:
            try:
                os.link(image, temporary)
            except OSError:
                shutil.copyfile(image, temporary)
    return dict(counts)


def _check_empty(folder: Path, planned: dict[Path, Path]) -> None:
    """What an earlier, broken-off run has left may be there."""
    others = [path for path in folder.rglob("*") if path.is_file() and path not in planned]
    if others:
        raise DataError(f"{others[0]} isn't of this preparation; choose an empty folder")
