"""One model for four kinds of scenes with other classes each, and what it says as each of them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from swath.core.config import TrainConfig, load_config
from swath.core.demo import DemoFolder, prepare_folder, step, tell_end, trained
from swath.core.engine import evaluate, smoke
from swath.core.engine.evaluation import as_data
from swath.core.files import write_json
from swath.core.inference.predictor import Predictor, load_model
from swath.core.sample import Sample
from swath.core.task import to_device
from swath.core.viz import page
from swath.core.viz.page import Section, number
from swath.core.viz.report import training_report
from swath.moe.task import MultiDatasetSegmentationTask

CONFIG = "moe_seg_scenes_tiny"
PICTURES = 2


@dataclass(frozen=True)
class DemoFiles(DemoFolder):
    """What the demo writes into its folder.

    Attributes:
        folder: The folder.
        run: The training run.
        metrics: Figures on unseen scenes, for each domain.
        report: One HTML page about all of it.
    """

    run: Path
    metrics: Path
    report: Path

    @classmethod
    def inside(cls, folder: Path) -> "DemoFiles":
        """The names in a folder."""
        return cls(folder, folder / "run", folder / "metrics.json", folder / "report.html")


def run(
    out: str | Path,
    *,
    seed: int = 0,
    quick: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    console: Console | None = None,
) -> DemoFiles:
    """Train the small model, judge it on unseen scenes of each domain, write a report.

    Args:
        out: Folder for everything it makes.
        seed: Of weights, order and augmentation; the scenes are the config's.
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
    config = load_config(CONFIG, [f"seed={seed}"])
    config = smoke(config) if quick else config
    domains = ", ".join(config.task["tasks"])
    with step(console, "1/3", f"Train one model on {domains} for {config.iterations} iterations"):
        predictor = load_model(trained(config, files.run, device), device=device)
    with step(console, "2/3", "Judge it on scenes it has not seen"):
        assert config.test is not None  # the demo's own config has one
        unseen = config.test.build()
        metrics = evaluate(
            predictor.model, predictor.task, unseen, batch_size=config.batch_size, device=device
        )
        for name, row in metrics["per_task"].items():
            console.print(f"  {name:10} mIoU {number(row['mIoU'])}")
        write_json(files.metrics, as_data(metrics))
    with step(console, "3/3", "Ask it about each scene as each domain, write the report"):
        _report(files, config, predictor, metrics, unseen)

    tell_end(console, started, files.report)
    return files


def _report(
    files: DemoFiles,
    config: TrainConfig,
    predictor: Predictor,
    metrics: Mapping[str, Any],
    unseen: Any,
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
            Section("Domains", page.class_table(list(table), columns, bar="mIoU")),
            Section("One scene, answered as each domain", _pictures(predictor, unseen)),
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
        "one more task for this model": (
            f"swath moe add-expert {best} roads --classes ground,road --like urban"
        ),
        "the published recipe": "swath configs moe_seg_vitb",
    }
