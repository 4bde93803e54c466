"""A small CLIP and a GSNet on it, on synthetic scenes: train, judge, ask for words never taught."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from swath.core.config import load_config
from swath.core.data.scenes import render_large
from swath.core.demo import DemoFolder, prepare_folder, step, tell_end, trained
from swath.core.engine import evaluate, smoke
from swath.core.engine.evaluation import as_data
from swath.core.files import write_json
from swath.core.inference.predictor import Predictor, load_model
from swath.core.viz import page
from swath.core.viz.page import Section, number
from swath.core.viz.report import training_report
from swath.ovseg.costs import cost_maps
from swath.ovseg.metrics import mean_iou
from swath.ovseg.scenes import TAUGHT, UNMASKED, UNSEEN, NamedCrops

DOMAIN = "coastal"
"""Of the large scene; one of the two that the models are trained on."""

CLIP_CONFIG = "clip_scenes_tiny"
CONFIG = "gsnet_scenes_tiny"
CLIP_ITERATIONS, ITERATIONS = 1500, 500  # less than the configs': enough to show what they do
WORDS = ("white building", "red court", "grey building, black building", "water", "tree", "road")
"""What the large scene is asked for: the first two were never taught; a class may have
alternatives."""

BACKGROUND = 0.1
"""Probability below which a pixel is none of the words."""


@dataclass(frozen=True)
class DemoFiles(DemoFolder):
    """What the demo writes into its folder.

    Attributes:
        folder: The folder.
        clip: The training run of CLIP.
        run: That of GSNet.
        metrics: Figures on unseen scenes.
        scene: A large georeferenced scene.
        truth: The true class of each of its pixels.
        map: Its map by `WORDS`, with the scene's CRS and transform.
        costs: Cost maps of one scene, as arrays and as a picture.
        report: One HTML page about all of it.
    """

    clip: Path
    run: Path
    metrics: Path
    scene: Path
    truth: Path
    map: Path
    costs: Path
    report: Path

    @classmethod
    def inside(cls, folder: Path) -> "DemoFiles":
        """The names in a folder."""
        return cls(
            folder,
            clip=folder / "clip",
            run=folder / "run",
            metrics=folder / "metrics.json",
            scene=folder / "scene.tif",
            truth=folder / "scene_truth.tif",
            map=folder / "map.tif",
            costs=folder / "cost_maps",
            report=folder / "report.html",
        )


def run(
    out: str | Path,
    *,
    seed: int = 0,
    quick: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    console: Console | None = None,
) -> DemoFiles:
    """Train both models, judge GSNet, map a scene by words, write a report.

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
    clip = load_config(CLIP_CONFIG, [f"seed={seed}", f"iterations={CLIP_ITERATIONS}"])
    clip = smoke(clip) if quick else clip
    with step(console, "1/4", f"Train a small CLIP on captions for {clip.iterations} iterations"):
        weights = trained(clip, files.clip, device)
    config = load_config(
        CONFIG, [f"seed={seed}", f"iterations={ITERATIONS}", f"model.weights.clip={weights}"]
    )
    config = smoke(config) if quick else config
    with step(console, "2/4", f"Train a small GSNet on masks for {config.iterations} iterations"):
        predictor = load_model(trained(config, files.run, device), device=device)
    with step(console, "3/4", "Judge it on scenes it has not seen"):
        crops = NamedCrops(count=4 if quick else 256, seed=3)
        task = predictor.adapted_task(classes=crops.classes)
        metrics = evaluate(
            predictor.model, task, crops, batch_size=config.batch_size, device=device
        )
        groups = {
            "taught by masks": TAUGHT,
            "of captions alone": UNMASKED,
            "never taught": UNSEEN,
        }
        for what, names in groups.items():
            console.print(f"  mIoU of names {what}: {number(mean_iou(metrics, names))}")
        write_json(files.metrics, as_data(metrics))
    with step(console, "4/4", f"Map a large scene by {len(WORDS)} words, write the report"):
        side = 512 if quick else 1024
        render_large(files.scene, seed=seed + 1, height=side, width=side, domain=DOMAIN)
        result = predictor.predict(files.scene, classes=WORDS, background=BACKGROUND, out=files.map)
        _report(files, Predictor(predictor.model, task), metrics, crops, result)
    tell_end(console, started, files.report)
    return files


def _report(
    files: DemoFiles,
    predictor: Predictor,
    metrics: Mapping[str, Any],
    crops: NamedCrops,
    result: Any,
) -> None:
    image = np.asarray(crops[0].image).transpose(1, 2, 0)
    cost_maps(predictor, image, WORDS).save(files.costs)
    shares = page.facts({name: f"{share:.1%}" for name, share in result.shares().items()})
    training_report(
        files.run,
        metrics,
        predictor.model,
        predictor.task,
        crops,
        path=files.report,
        title="Words as classes",
        lead="A small GSNet scores every pixel against words. What they mean it has from a small "
        "CLIP that read captions of scenes; some, such as white building, neither was ever taught.",
        extra=[
            Section(
                "The large scene, asked for other words",
                page.chart(result.plot(), f"Where no word reaches {BACKGROUND}: background.")
                + shares,
            ),
        ],
        next_commands=_next(files),
    )


def _next(files: DemoFiles) -> dict[str, str]:
    best = files.run / "best.safetensors"
    return {
        "map a scene of your own by your own words": (
            f'swath predict {best} scene.tif --classes "plane, aircraft; ship" --background 0.3'
        ),
        "see its cost maps": (
            f'swath predict {best} a.png --classes "ship, water" --save-cost-maps'
        ),
        "a published model": (
            'swath predict gsnet-vitb scene.tif --weights model_final.pth --classes "road, tree"'
        ),
    }
