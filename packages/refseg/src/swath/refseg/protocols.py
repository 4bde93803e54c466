"""The eight evaluations of RemoteSAM, each over any data set of samples that fits.

Official code: https://github.com/1e12Leon/RemoteSAM, `tasks/code/eval/`; dossier section 4. With
``official=True`` figures are computed as the scripts compute them, their bugs included where these
changed a number; by default as is right. The differences:

=============  ====================================================================================
segmentation   officially the prompt ends in a full stop, images and labels are judged at the
               network's size, and of several classes the last has a pixel, not the surest
grounding      officially a missing box is judged by the overlap of the sentence before
captioning     officially an image without any object is captioned ``"It contains . "``
dota           officially classes are called as they are asked, images as their files, boxes have
               four corners, and objects of patches stay with their patch
referring      officially a sentence that means nothing counts as IoU 0; see `ReferringMetrics`
=============  ====================================================================================
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from swath.core.errors import ConfigError
from swath.core.files import atomic_path
from swath.core.metrics.captioning import CaptionMetrics
from swath.core.metrics.counting import CountingMetrics
from swath.core.metrics.detection import DetectionMetrics
from swath.core.metrics.multilabel import MultiLabelMetrics
from swath.core.metrics.referring import GroundingMetrics, ReferringMetrics
from swath.core.metrics.segmentation import SegmentationMetrics
from swath.core.sample import Sample
from swath.core.structures import Detections
from swath.refseg import postprocess
from swath.refseg.epoc import Epoc
from swath.refseg.predictor import RemoteSAMPredictor
from swath.refseg.preprocess import as_rgb, resized_mask, rgb_array
from swath.refseg.sets import PRIOR_SHARE
from swath.refseg.text import PROMPT

COUNTING_EDGES = 0.15
"""Boundary probability above which the counting evaluation cuts."""

_PATCH = re.compile(r"(?P<scene>.+)__\d+__(?P<x>\d+)___(?P<y>\d+)")
"""How patches of DOTA's scenes are called, after the place of their upper left corner."""


@dataclass(frozen=True)
class Evaluation:
    """How a model is judged.

    Attributes:
        classes: Names that are asked for, in the order of the labels.
        official: See the module.
        epoc: A boundary model for detection and counting, or None.
        priors: When counting, usual least areas of objects in square pixels, by class.
        names: What the set itself calls the classes, for a submission; empty if as they are asked.
    """

    classes: Sequence[str] = ()
    official: bool = False
    epoc: Epoc | None = None
    priors: Mapping[str, float] = field(default_factory=dict)
    names: Sequence[str] = ()


def judge_referring(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """Masks of sentences: ``targets["sentence"]`` and ``["mask"]``, both at the network's size."""
    metrics = ReferringMetrics("official" if how.official else "swath")
    for sample in samples:
        batch = model.task.collate([replace(sample, image=as_rgb(sample))])
        moved = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        metrics.update(model.task.predict(model.model, moved), moved)
    return metrics.compute()


def judge_segmentation(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """Class maps: ``targets["mask"]``, 0 for none and 1 + the index of a class."""
    metrics = SegmentationMetrics(["background", *how.classes], mean_over="all")
    side = model.task.input_size  # type: ignore[attr-defined]
    for sample in samples:
        truth, prompt = sample.targets["mask"].as_subclass(Tensor), PROMPT
        if how.official:
            resized = v2.resize(as_rgb(sample), [side, side], antialias=True)
            sample = replace(sample, image=resized)
            truth, prompt = resized_mask(truth, (side, side)), PROMPT + "."
        found = model.masks(rgb_array(sample), how.classes, prompt=prompt)
        masks, scores = zip(*found.values(), strict=True)
        merged = postprocess.merge_masks(masks, None if how.official else scores)
        metrics.update([torch.from_numpy(merged)], {"mask": truth[None]})
    return metrics.compute()


def judge_detection(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """Boxes: ``targets["boxes"]`` ``(N, 4)`` and ``["labels"]``; COCO's figures, by class too."""
    metrics = DetectionMetrics(how.classes, protocol="coco")
    for sample in samples:
        found = model.detection(rgb_array(sample), how.classes, use_epoc=how.epoc)
        boxes = found.boxes.astype(int).astype(float) if how.official else found.boxes
        prediction = Detections(
            torch.from_numpy(boxes), torch.from_numpy(found.scores), torch.from_numpy(found.labels)
        )
        truth = sample.targets["boxes"].as_subclass(Tensor)
        metrics.update([prediction], {"boxes": [truth], "labels": [sample.targets["labels"]]})
    return dict(metrics.compute())


def write_dota(
    model: RemoteSAMPredictor,
    samples: Iterable[Sample],
    how: Evaluation,
    folder: str | Path,
    oriented: bool = False,
) -> list[Path]:
    """The files of a submission to DOTA's server, to be zipped; without a boundary model.

    ``Task2_CLASS.txt`` has scene, score, xmin, ymin, xmax and ymax of every object; ``Task1_...``,
    for ``oriented``, four corners instead. Scenes are given whole or as the patches that
    ``swath data prepare dota`` cuts, whose objects are then put together.

    Raises:
        ConfigError: If ``how.names`` are more or fewer than the classes.

    Source:
        https://captain-whu.github.io/DOTA/tasks.html
    """
    names = how.classes if how.official or not how.names else how.names
    if len(names) != len(how.classes):
        raise ConfigError(f"{len(how.classes)} classes are asked for, but the set has {len(names)}")
    found: dict[tuple[int, str], list[postprocess.Boxes]] = defaultdict(list)
    for sample in samples:
        result = model.detection(rgb_array(sample), how.classes, oriented=oriented)
        image, corner = _placed(Path(str(sample.meta["path"])), how.official)
        quads = (result.corners() + corner).reshape(-1, 8)
        boxes = np.column_stack([quads, result.scores])
        for label in range(len(names)):
            found[label, image].append(boxes[result.labels == label])
    columns = slice(0, 8) if oriented or how.official else [0, 1, 4, 5]
    lines: list[list[str]] = [[] for _ in names]
    for (label, image), parts in found.items():
        boxes = parts[0] if len(parts) == 1 else postprocess.suppress(np.concatenate(parts))
        for box in boxes:
            numbers = " ".join(f"{value:.1f}" for value in box[columns])
            lines[label].append(f"{image} {box[8]:.4f} {numbers}\n")
    written = []
    for name, rows in zip(names, lines, strict=True):
        path = Path(folder) / f"Task{1 if oriented else 2}_{name}.txt"
        with atomic_path(path) as temporary:
            temporary.write_text("".join(rows), encoding="utf-8")
        written.append(path)
    return written


def _placed(path: Path, official: bool) -> tuple[str, tuple[int, int]]:
    """What a submission calls an image, and where its upper left corner lies in that."""
    if official:
        return path.name, (0, 0)
    patch = _PATCH.fullmatch(path.stem)
    return (patch["scene"], (int(patch["x"]), int(patch["y"]))) if patch else (path.stem, (0, 0))


def judge_grounding(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """One box of a sentence: ``targets["sentence"]`` and ``["box"]``."""
    metrics = GroundingMetrics("official" if how.official else "swath")
    for sample in samples:
        found = model.visual_grounding(rgb_array(sample), sample.targets["sentence"])
        box = found.boxes[0].tolist() if len(found) else None
        metrics.update([box], {"boxes": [sample.targets["box"]]})
    return dict(metrics.compute())


def judge_multi_label(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """Which classes are there: those that ``targets["labels"]`` names, indices of any number."""
    metrics = MultiLabelMetrics(how.classes)
    for sample in samples:
        answer = model.multi_label_cls(rgb_array(sample), how.classes)
        truth = torch.zeros(len(how.classes), dtype=torch.bool)
        truth[torch.as_tensor(sample.targets["labels"]).long()] = True
        metrics.update([answer.probabilities], {"labels": truth[None]})
    return metrics.compute()


def judge_multi_class(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """The one class of an image, ``targets["label"]``; the highest score counts, however low."""
    right = []
    for sample in samples:
        answer = model.multi_class_cls(rgb_array(sample), how.classes)
        right.append(answer.label == how.classes[int(sample.targets["label"])])
    return {"accuracy": sum(right) / max(len(right), 1), "images": len(right)}


def judge_captions(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """Captions in four regions against ``targets["captions"]``."""
    metrics = CaptionMetrics()
    for sample in samples:
        answer = model.captioning(
            rgb_array(sample), how.classes, region_split=4, official_when_empty=how.official
        )
        metrics.update([answer.text], {"references": [sample.targets["captions"]]})
    return dict(metrics.compute())


def judge_counting(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """Numbers of objects: ``targets["name"]``, of which class, and ``["count"]``."""
    metrics = CountingMetrics()
    for sample in samples:
        name = str(sample.targets["name"])
        least = {name: PRIOR_SHARE * how.priors.get(name, 0.0)}
        found = model.counting(
            rgb_array(sample),
            [name],
            min_areas=least,
            use_epoc=how.epoc,
            epoc_threshold=COUNTING_EDGES,
        )
        truth = {"count": [sample.targets["count"]], "name": [name]}
        metrics.update([len(found)], truth)
    return metrics.compute()


Judge = Callable[[RemoteSAMPredictor, Iterable[Sample], Evaluation], dict[str, Any]]

JUDGES: dict[str, Judge] = {
    "referring": judge_referring,
    "segmentation": judge_segmentation,
    "detection": judge_detection,
    "grounding": judge_grounding,
    "multi-label": judge_multi_label,
    "multi-class": judge_multi_class,
    "captioning": judge_captions,
    "counting": judge_counting,
}
"""The evaluations by name."""
