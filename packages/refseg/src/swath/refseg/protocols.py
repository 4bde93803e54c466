"""The eight evaluations of RemoteSAM, each over any data set of samples that fits.

Official code: https://github.com/1e12Leon/RemoteSAM, `tasks/code/eval/`; dossier section 4. With
``official=True`` figures are computed as the scripts compute them, their bugs included where these
changed a number; by default as is right. The differences:

=============  ====================================================================================
segmentation   officially the prompt ends in a full stop, images and labels are judged at the
               network's size, and of several classes the last has a pixel, not the surest
grounding      officially a missing box is judged by the overlap of the sentence before
captioning     officially an image without any object is captioned ``"It contains . "``
referring      officially a sentence that means nothing counts as IoU 0; see `ReferringMetrics`
=============  ====================================================================================
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

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
from swath.refseg.preprocess import resized_mask
from swath.refseg.sets import PRIOR_SHARE
from swath.refseg.text import PROMPT

COUNTING_EDGES = 0.15
"""Boundary probability above which the counting evaluation cuts."""


@dataclass(frozen=True)
class Evaluation:
    """How a model is judged.

    Attributes:
        classes: Names that are asked for, in the order of the labels.
        official: See the module.
        epoc: A boundary model for detection and counting, or None.
        priors: When counting, usual least areas of objects in square pixels, by class.
    """

    classes: Sequence[str] = ()
    official: bool = False
    epoc: Epoc | None = None
    priors: Mapping[str, float] = field(default_factory=dict)


def judge_referring(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """Masks of sentences: ``targets["sentence"]`` and ``["mask"]``, both at the network's size."""
    metrics = ReferringMetrics("official" if how.official else "swath")
    for sample in samples:
        batch = model.task.collate([sample])
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
        image, truth = sample.image, sample.targets["mask"].as_subclass(Tensor)
        prompt = PROMPT
        if how.official:
            image = v2.resize(image.as_subclass(Tensor), [side, side], antialias=True)
            truth, prompt = resized_mask(truth, (side, side)), PROMPT + "."
        found = model.masks(_array(image), how.classes, prompt=prompt)
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
        found = model.detection(_array(sample.image), how.classes, use_epoc=how.epoc)
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
    """A submission of DOTA, ``Task2_CLASS.txt`` with image, score and corners; oriented ``Task1``.

    Officially upright boxes are written as their four corners, without a boundary model.
    """
    lines: dict[str, list[str]] = {name: [] for name in how.classes}
    for sample in samples:
        found = model.detection(_array(sample.image), how.classes, oriented=oriented)
        name = Path(str(sample.meta["path"])).name
        for corners, label, score in zip(found.corners(), found.labels, found.scores, strict=True):
            numbers = " ".join(f"{value:.1f}" for value in corners.ravel())
            lines[how.classes[label]].append(f"{name} {score:.4f} {numbers}")
    written = []
    for name, rows in lines.items():
        path = Path(folder) / f"Task{1 if oriented else 2}_{name}.txt"
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        written.append(path)
    return written


def judge_grounding(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """One box of a sentence: ``targets["sentence"]`` and ``["box"]``."""
    metrics = GroundingMetrics("official" if how.official else "swath")
    for sample in samples:
        found = model.visual_grounding(_array(sample.image), sample.targets["sentence"])
        box = found.boxes[0].tolist() if len(found) else None
        metrics.update([box], {"boxes": [sample.targets["box"]]})
    return dict(metrics.compute())


def judge_multi_label(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """Which classes are there: those that ``targets["labels"]`` names, indices of any number."""
    metrics = MultiLabelMetrics(how.classes)
    for sample in samples:
        answer = model.multi_label_cls(_array(sample.image), how.classes)
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
        answer = model.multi_class_cls(_array(sample.image), how.classes)
        right.append(answer.label == how.classes[int(sample.targets["label"])])
    return {"accuracy": sum(right) / max(len(right), 1), "images": len(right)}


def judge_captions(
    model: RemoteSAMPredictor, samples: Iterable[Sample], how: Evaluation
) -> dict[str, Any]:
    """Captions in four regions against ``targets["captions"]``."""
    metrics = CaptionMetrics()
    for sample in samples:
        answer = model.captioning(
            _array(sample.image), how.classes, region_split=4, official_when_empty=how.official
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
            _array(sample.image),
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


def _array(image: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(image.as_subclass(Tensor).permute(1, 2, 0).numpy())
