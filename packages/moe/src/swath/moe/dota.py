"""DOTA's test: objects of whole scenes, the server's archive, and AP where labels are at hand.

Source:
    S5 dossier d, official `dota.py::format_results` and BboxToolkit: tiles of 1024 px that share
    200, class-wise rotated suppression at IoU 0.5 for the server and 0.1 for one's own figures;
    DOTA's development kit for the archive and the figures.
"""

import copy
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from swath.core.data.detection import DotaText
from swath.core.detection.task import DetectionTask
from swath.core.errors import ConfigError
from swath.core.files import atomic_path
from swath.core.inference.objects import DetectionResult
from swath.core.inference.predictor import Predictor
from swath.core.metrics.detection import DetectionMetrics, Protocol
from swath.core.progress import Bar
from swath.core.structures import Detections

TILE, OVERLAP = 1024, 200
SERVER_IOU, OWN_IOU = 0.5, 0.1


def search(
    predictor: Predictor,
    images: Mapping[str, Path],
    merge_iou: float = SERVER_IOU,
    *,
    progress: bool = False,
) -> dict[str, DetectionResult]:
    """Objects of whole scenes, tile by tile, put together.

    Args:
        predictor: A rotated detector, one of its tasks chosen.
        images: The scenes, by name.
        merge_iou: Of two boxes of a class that overlap more, the worse goes.
        progress: Show a bar.

    Raises:
        ConfigError: If the predictor isn't for rotated boxes.
    """
    task = predictor.task
    if not isinstance(task, DetectionTask) or not task.rotated:
        raise ConfigError(f"DOTA needs a detector of rotated boxes, not of {task.kind}")
    merging = copy.copy(task)
    merging.merge_iou = merge_iou
    searching = Predictor(predictor.model, merging, predictor.card)
    found = {}
    with (
        Bar("searching", len(images), "scenes", enabled=progress) as bar,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".*has no CRS")  # no scene of DOTA's has
        for name, path in images.items():
            found[name] = searching.predict(path, tile=TILE, overlap=OVERLAP, blend=0)
            bar.advance()
    return found


def submission(found: Mapping[str, DetectionResult], classes: Sequence[str], path: Path) -> None:
    """Write the archive that DOTA's server takes: ``Task1_<class>.txt``, a line an object.

    Args:
        found: Objects of each scene, by its name.
        classes: All of them; one without objects has an empty file.
        path: The ``.zip`` to write.
    """
    lines: dict[str, list[str]] = {name: [] for name in classes}
    for scene, result in found.items():
        for quad, label, score in zip(result.corners(), result.labels, result.scores, strict=True):
            numbers = " ".join(f"{value:.2f}" for value in quad.ravel())
            lines[result.classes[label]].append(f"{scene} {score:.4f} {numbers}\n")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, rows in lines.items():
            entry = zipfile.ZipInfo(f"Task1_{name}.txt")  # its fixed date makes equal bytes
            archive.writestr(entry, "".join(rows), zipfile.ZIP_DEFLATED)


def judge(
    found: Mapping[str, DetectionResult], truth: DotaText, protocol: Protocol = "voc07"
) -> dict[str, Any]:
    """AP at rotated IoU 0.5 over whole scenes, as the development kit computes it.

    Args:
        found: Objects of each scene, by its name.
        truth: The same scenes with their labels, difficult ones marked.
        protocol: ``"voc12"`` for the area under the curve.
    """
    metrics = DetectionMetrics(truth.classes, protocol)
    for index, name in enumerate(truth.ids):
        targets = truth[index].targets
        result = found[name]
        guess = Detections(
            torch.from_numpy(result.boxes),
            torch.from_numpy(result.scores),
            torch.from_numpy(result.labels),
        )
        metrics.update([guess], {key: [targets[key]] for key in ("boxes", "labels", "difficult")})
    return metrics.compute()
