"""One model for four kinds of scenes with other classes each; and oriented boxes in a large one."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from swath.core.config import TrainConfig, load_config
from swath.core.data.scenes import render_large
from swath.core.demo import DemoFolder, prepare_folder, step, tell_end, trained
from swath.core.engine import evaluate, smoke
from swath.core.engine.evaluation import as_data
from swath.core.files import write_json
from swath.core.inference.objects import DetectionResult
from swath.core.inference.predictor import Predictor, load_model
from swath.core.sample import Sample
from swath.core.task import to_device
from swath.core.viz import page
from swath.core.viz.page import Section, number
from swath.core.viz.report import training_report
from swath.moe.task import MultiDatasetSegmentationTask

CONFIG = "moe_seg_scenes_tiny"
PICTURES = 2

DETECTOR = "oriented_rcnn_scenes_tiny"
DETECTOR_ITERATIONS = 600  # an eighth of the config's: enough to show what it does


@dataclass(frozen=True)
class DemoFiles(DemoFolder):
    """What the demo writes into its folder.

    Attributes:
        folder: The folder.
        run: The training run of the model of several domains.
        detector: The training run of the detector.
        metrics: Figures of both on unseen scenes.
        scene: A georeferenced scene.
        objects: What the detector finds in it: polygons in the scene's CRS.
        report: One HTML page about all of it.
    """

    run: Path
    detector: Path
    metrics: Path
    scene: Path
    objects: Path
    report: Path

    @classmethod
    def inside(cls, folder: Path) -> "DemoFiles":
        """The names in a folder."""
        names = "run", "detector", "metrics.json", "scene.tif", "objects.gpkg", "report.html"
        return cls(folder, *(folder / name for name in names))


def run(
    out: str | Path,
    *,
    seed: int = 0,
    quick: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    console: Console | None = None,
) -> DemoFiles:
    """Train both small models, judge them on unseen scenes, search a large one, write a report.

    Args:
        out: Folder for everything it makes.
        seed: Of weights, order, augmentation and the large scene; the others are the configs'.
        quick: A few iterations only: shows that everything works, not what it can do.
        overwrite: Replace what an earlier demo left in the folder; other files stay.
        device: Where to train; a GPU if there is one by default.
        console: Where to tell about it.

    Returns:
        The paths of what was made.

    Raises:
        ConfigError: If the folder isn't empty and ``overwrite`` is False.
    """
    console = console or Console(highlight=False)
    files = DemoFiles.inside(Path(out))
    prepare_folder(files.folder, files.made(), overwrite)
    started = time.monotonic()
    segmenting = load_config(CONFIG, [f"seed={seed}"])
    detecting = load_config(DETECTOR, [f"seed={seed}", f"iterations={DETECTOR_ITERATIONS}"])
    if quick:
        segmenting, detecting = smoke(segmenting), smoke(detecting)
    domains = ", ".join(segmenting.task["tasks"])
    title = f"Train one model on {domains} for {segmenting.iterations} iterations"
    with step(console, "1/4", title):
        segmenter, maps = _trained_and_judged(segmenting, files.run, device)
        for name, row in maps["per_task"].items():
            console.print(f"  {name:10} mIoU {number(row['mIoU'])}")
    title = f"Train a detector of oriented boxes for {detecting.iterations} iterations"
    with step(console, "2/4", title):
        detector, boxes = _trained_and_judged(detecting, files.detector, device)
        for name, row in boxes["per_class"].items():
            console.print(f"  {name:10} AP50 {number(row['AP50'])}")
    write_json(files.metrics, {"domains": as_data(maps), "boxes": as_data(boxes)})
    with step(console, "3/4", "Find objects in a large scene"):
        side = 192 if quick else 1024
        render_large(files.scene, seed=seed, height=side, width=side, domain="urban")
        found = detector.predict(files.scene, out=files.objects)
        console.print(f"  {files.objects}: {len(found)} objects")
    with step(console, "4/4", "Ask the first about scenes as each domain, write the report"):
        assert segmenting.test is not None  # the demo's own config has one
        _report(files, segmenter, maps, segmenting.test.build(), _objects(boxes, found))

    tell_end(console, started, files.report)
    return files


def _trained_and_judged(
    config: TrainConfig, folder: Path, device: str | None
) -> tuple[Predictor, Mapping[str, Any]]:
    """The best checkpoint of a run, and its figures on the config's unseen scenes."""
    assert config.test is not None  # the demo's own configs have one
    predictor = load_model(trained(config, folder, device), device=device)
    figures = evaluate(
        predictor.model,
        predictor.task,
        config.test.build(),
        batch_size=config.batch_size,
        device=device,
    )
    return predictor, figures


def _objects(figures: Mapping[str, Any], found: DetectionResult) -> Section:
    """How well each class is found, and what was found in the large scene."""
    table = figures["per_class"]
    columns = {k: [row[k] for row in table.values()] for k in ("AP50", "AP75", "recall", "objects")}
    note = page.paragraph(
        "Another small model: Oriented R-CNN on a convolutional backbone. The scene was searched "
        "in tiles; what is drawn has a score of at least 0.5, objects.gpkg holds everything.",
        note=True,
    )
    picture = page.chart(found.plot(min_score=0.5), "Oriented boxes in the large scene")
    return Section(
        "Oriented boxes", page.class_table(list(table), columns, bar="AP50") + note + picture
    )


def _report(
    files: DemoFiles,
    predictor: Predictor,
    metrics: Mapping[str, Any],
    unseen: Any,
    objects: Section,
) -> None:
    table = metrics["per_task"]
    columns = {k: [row[k] for row in table.values()] for k in ("mIoU", "mF1", "OA")}
    training_report(
        files.run,
        metrics,
        predictor.model,
        predictor.task,
        unseen,
        path=files.report,
        title="One model, several data sets",
        lead="A small vision transformer learns four kinds of scenes, whose labels tell other "
        "classes apart, in mixed batches. Attention and most channels are shared; an expert in "
        "each block, a decoder and a head belong to one kind each.",
        extra=[
            Section("Domains", page.class_table(list(table), columns, bar="mIoU", of="domain")),
            Section("One scene, answered as each domain", _pictures(predictor, unseen)),
            objects,
        ],
        next_commands=_next(files),
    )


@torch.no_grad()
def _pictures(predictor: Predictor, unseen: Any) -> str:
    """Scenes of each domain: image, truth, and the answer of every task."""
    whole = predictor.task
    assert isinstance(whole, MultiDatasetSegmentationTask)
    rows = []
    for name, part in unseen.parts.items():
        own = whole.tasks[name]
        for sample in _richest(part):
            pictures = [
                page.picture(np.asarray(sample.image).transpose(1, 2, 0), alt="image"),
                _classes(sample.targets["mask"].numpy(), own.palette, "truth"),
            ]
            for other in whole.tasks:
                model, task = whole.select(predictor.model, other)
                batch = to_device(task.collate([replace(sample, targets={})]), predictor.device)
                guess = task.predict(model, batch)[0].argmax(0).cpu().numpy()
                pictures.append(_classes(guess, task.palette, f"as {other}"))
            rows.append((name, str(sample.meta["id"]), pictures))
    note = page.paragraph(
        "The column of a scene's own domain is what it is judged by; the others show the same "
        "shared features through other experts, in classes of their own.",
        note=True,
    )
    columns = ("image", "truth", *(f"as {name}" for name in whole.tasks))
    legends = "".join(
        page.paragraph(f"Classes of {name}:") + page.legend_list(task.classes, task.palette)
        for name, task in whole.tasks.items()
    )
    return note + page.examples(rows, columns) + legends


def _richest(part: Any) -> list[Sample]:
    """Of a domain's first scenes those with the most classes."""
    first = [part[i] for i in range(min(12, len(part)))]
    return sorted(first, key=lambda s: -len(s.targets["mask"].unique()))[:PICTURES]


def _classes(mask: Any, palette: Any, name: str) -> str:
    return page.mask_picture(mask.astype(np.uint8), palette, alt=name, side=128)


def _next(files: DemoFiles) -> dict[str, str]:
    best = files.run / "best.safetensors"
    return {
        "map a scene of your own by one of the domains": (
            f"swath predict {best} scene.tif --task urban --out mask.tif"
        ),
        "find objects in a scene of your own": (
            f"swath predict {files.detector / 'best.safetensors'} scene.tif --out objects.gpkg"
        ),
        "one more task for this model": (
            f"swath moe add-expert {best} roads --classes ground,road --like urban"
        ),
        "the published recipes": "swath configs moe_seg_vitb; swath configs moe_det_vitb",
    }
