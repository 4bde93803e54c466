"""A small model that learns what sentences mean, on rendered scenes, and what it answers."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from swath.core.config import load_config
from swath.core.demo import DemoFolder, prepare_folder, step, tell_end, trained
from swath.core.engine import evaluate, smoke
from swath.core.engine.evaluation import as_data
from swath.core.files import write_json
from swath.core.inference.predictor import load_model
from swath.core.sample import Sample
from swath.core.task import to_device
from swath.core.viz import page
from swath.core.viz.overlay import overlay
from swath.core.viz.page import Section, number
from swath.core.viz.report import training_report
from swath.refseg.predictor import RemoteSAMPredictor

CONFIG = "remotesam_scenes_tiny"
ITERATIONS = 1200  # a third of the config's: enough to show what it does
PICTURES = 12
TRUE, FOUND = (90, 200, 90), (250, 80, 60)


@dataclass(frozen=True)
class DemoFiles(DemoFolder):
    """What the demo writes into its folder.

    Attributes:
        folder: The folder.
        run: The training run.
        metrics: Figures on unseen scenes, by kind of sentence.
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
    """Train the small model, judge it on unseen scenes, show what it answers.

    Args:
        out: Folder for everything it makes.
        seed: Of weights and order; the scenes are the config's.
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
    config = load_config(CONFIG, [f"seed={seed}", f"iterations={ITERATIONS}"])
    config = smoke(config) if quick else config
    with step(console, "1/3", f"Train on sentences about scenes, {config.iterations} iterations"):
        predictor = load_model(trained(config, files.run, device), device=device)
    with step(console, "2/3", "Judge it on scenes it has not seen"):
        assert config.test is not None  # the demo's own config has one
        unseen = config.test.build()
        metrics = evaluate(
            predictor.model, predictor.task, unseen, batch_size=config.batch_size, device=device
        )
        for kind, row in metrics["per_kind"].items():
            console.print(f"  {kind:10} oIoU {number(row['oIoU'])}")
        write_json(files.metrics, as_data(metrics))
    with step(console, "3/3", "Ask it about scenes, write the report"):
        assert isinstance(predictor, RemoteSAMPredictor)
        _report(files, predictor, metrics, unseen)
    tell_end(console, started, files.report)
    return files


def _report(
    files: DemoFiles, predictor: RemoteSAMPredictor, metrics: Mapping[str, Any], unseen: Any
) -> None:
    table = metrics["per_kind"]
    columns = {k: [row[k] for row in table.values()] for k in ("oIoU", "mIoU", "Pr@0.5")}
    training_report(
        files.run,
        metrics,
        predictor.model,
        predictor.task,
        unseen,
        path=files.report,
        title="What a sentence means",
        lead="A small RemoteSAM, trained from scratch on sentences about rendered scenes, finds "
        "what a sentence means in scenes it has not seen. No download, no real imagery.",
        extra=[
            Section(
                "Kinds of sentences",
                page.class_table(list(table), columns, bar="oIoU", of="kind"),
            ),
            Section("Answers", _answers(predictor, unseen)),
        ],
        next_commands={
            "ask about a scene of your own": (
                f"swath predict {files.run / 'best.safetensors'} scene.tif --task referring "
                '--text "the largest building"'
            ),
            "the published recipe": "swath configs remotesam_swinb_270k",
        },
    )


@torch.no_grad()
def _answers(predictor: RemoteSAMPredictor, unseen: Any) -> str:
    """Scenes with the truth and what was found."""
    rows = []
    for i in range(min(PICTURES, len(unseen))):
        sample: Sample = unseen[i]
        batch = to_device(predictor.task.collate([sample]), predictor.device)
        found = predictor.task.predict(predictor.model, batch)[0].cpu().numpy()
        image = np.ascontiguousarray(np.asarray(sample.image).transpose(1, 2, 0))
        truth = np.asarray(sample.targets["mask"])
        pictures = [
            page.picture(image, alt="image"),
            page.picture(_marked(image, truth, TRUE), alt="truth"),
            page.picture(_marked(image, found, FOUND), alt="found"),
        ]
        rows.append((str(sample.targets["sentence"]), str(sample.meta["kind"]), pictures))
    return page.examples(rows, ("image", "truth", "found"))


def _marked(image: Any, mask: Any, colour: tuple[int, int, int]) -> Any:
    """The image with what a mask says painted over."""
    painted = overlay(image, np.asarray(mask).astype(np.uint8), ((0, 0, 0), colour), 0.6)
    return np.where(np.asarray(mask)[..., None] > 0, painted, image)
