"""DOTA's test: objects of whole scenes, the server's archive, and AP where labels are at hand.

Source:
    S5 dossier d, official `dota.py::format_results` and BboxToolkit: the tiles that ``swath data
    prepare dota`` cuts, 1024 px every 824, the last one shifted to the border; of all their objects
    class-wise rotated suppression at IoU 0.5 for the server and 0.1 for one's own figures. DOTA's
    development kit for the archive and the figures.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from swath.core.data.detection import DotaText
from swath.core.data.prepare import cut_scene
from swath.core.detection.merge import shifted
from swath.core.detection.nms import join, nms
from swath.core.detection.task import DetectionTask
from swath.core.errors import ConfigError
from swath.core.files import atomic_path
from swath.core.inference.predictor import Predictor
from swath.core.inference.tiler import ahead
from swath.core.metrics.detection import DetectionMetrics, Protocol
from swath.core.progress import Bar
from swath.core.sample import Sample
from swath.core.structures import Detections
from swath.core.task import Batch, to_device
from swath.kernels import boxes_to_quads, quads_to_boxes

SERVER_IOU, OWN_IOU = 0.5, 0.1


def search(
    predictor: Predictor,
    images: Mapping[str, Path],
    merge_ious: Sequence[float] = (SERVER_IOU,),
    *,
    progress: bool = False,
) -> list[dict[str, Detections]]:
    """Objects of whole scenes, tile by tile, put together.

    Args:
        predictor: A rotated detector, one of its tasks chosen.
        images: The scenes, by name.
        merge_ious: Of two boxes of a class that overlap more, the worse goes; the scenes are
            searched once for all of these.
        progress: Show a bar.

    Returns:
        For each of ``merge_ious`` the objects of every scene by falling score, on the CPU.

    Raises:
        ConfigError: If the predictor isn't for rotated boxes.
        DataError: If a scene hasn't 8 bits a band.
        RasterError: If a scene can't be read.
    """
    task = predictor.task
    if not isinstance(task, DetectionTask) or not task.rotated:
        raise ConfigError(
            f"this model does {task.kind}; DOTA needs a detector of rotated boxes, as moe_det_vitb "
            "and single_det_dota train"
        )
    merged: list[dict[str, Detections]] = [{} for _ in merge_ious]
    with Bar("searching", len(images), "scenes", enabled=progress) as bar:
        for name, path in images.items():
            found = _of_all_tiles(predictor, task, path)
            for own, merge_iou in zip(merged, merge_ious, strict=True):
                kept = found.select(nms(found, merge_iou))
                own[name] = Detections(kept.boxes.cpu(), kept.scores.cpu(), kept.labels.cpu())
            bar.advance()
    return merged


def _of_all_tiles(predictor: Predictor, task: DetectionTask, path: Path) -> Detections:
    """What the detector says of a scene's tiles, in pixels of the scene; nothing is merged."""
    parts = []
    with closing(ahead(_tiles(task, path), 2, "swath-read")) as tiles:
        for row, column, batch in tiles:
            (found,) = task.predict(predictor.model, to_device(batch, predictor.device))
            parts.append(shifted(found, column, row))
    return join(parts)


def _tiles(task: DetectionTask, path: Path) -> Iterator[tuple[int, int, Batch]]:
    for row, column, pixels in cut_scene("dota", path):
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        yield row, column, task.collate([Sample(image, meta={"path": str(path)})])


def submission(found: Mapping[str, Detections], classes: Sequence[str], path: Path) -> None:
    """Write the archive that DOTA's server takes: ``Task1_<class>.txt``, a line an object.

    Args:
        found: Objects of each scene, by its name.
        classes: All of them; one without objects has an empty file.
        path: The ``.zip`` to write.
    """
    lines: dict[str, list[str]] = {name: [] for name in classes}
    for scene, objects in found.items():
        corners = boxes_to_quads(objects.boxes.double()).flatten(1).tolist()
        labels, scores = objects.labels.tolist(), objects.scores.tolist()
        for quad, label, score in zip(corners, labels, scores, strict=True):
            numbers = " ".join(f"{value:.2f}" for value in quad)
            lines[classes[label]].append(f"{scene} {score:.4f} {numbers}\n")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, rows in lines.items():
            entry = zipfile.ZipInfo(f"Task1_{name}.txt")  # its fixed date makes equal bytes
            archive.writestr(entry, "".join(rows), zipfile.ZIP_DEFLATED)


def check_labels(truth: DotaText) -> None:
    """Read the labels of every scene, so that a mistake in one is found before hours of search.

    Raises:
        DataError: If a file can't be read, or names a class that isn't one of the set.
    """
    for index, item in enumerate(truth.items):
        truth.labels(truth.objects(index), item.label)


def judge(
    found: Mapping[str, Detections], truth: DotaText, protocol: Protocol = "voc07"
) -> dict[str, Any]:
    """AP at rotated IoU 0.5 over whole scenes, as the development kit computes it.

    Args:
        found: Objects of each scene, by its name.
        truth: The same scenes with their labels, difficult ones marked.
        protocol: ``"voc12"`` for the area under the curve.
    """
    metrics = DetectionMetrics(truth.classes, protocol)
    for index, item in enumerate(truth.items):
        objects = truth.objects(index)
        targets = {
            "boxes": [quads_to_boxes(torch.from_numpy(objects.boxes).reshape(-1, 4, 2))],
            "labels": [torch.tensor(truth.labels(objects, item.label), dtype=torch.int64)],
            "difficult": [torch.tensor(objects.difficult, dtype=torch.bool)],
        }
        metrics.update([found[item.id]], targets)
    return metrics.compute()
