"""The whole way once, on rendered scenes: train, judge, segment a large scene, report."""

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from swath.core.config import TrainConfig, load_config
from swath.core.data.scenes import SceneDataset, render_large
from swath.core.engine import evaluate, smoke, train
from swath.core.errors import ConfigError
from swath.core.files import write_json
from swath.core.geo.raster import open_raster
from swath.core.geo.vectorise import vectorise
from swath.core.geo.windows import row_blocks
from swath.core.inference.predictor import Predictor, load_model
from swath.core.task import Task
from swath.core.viz.page import number
from swath.core.viz.report import training_report
from swath.core.viz.scene import scene_section


@dataclass(frozen=True)
class DemoFolder:
    """What a demo writes; subclasses name the files.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def made(self) -> tuple[Path, ...]:
        """All but the folder."""
        return tuple(getattr(self, field.name) for field in fields(self)[1:])


@dataclass(frozen=True)
class DemoFiles(DemoFolder):
    """What the demo writes into its folder.

    Attributes:
        folder: The folder.
        scene: The large georeferenced scene.
        truth: The true class of each of its pixels.
        run: The training run: config, log, checkpoints.
        checkpoint: The trained model with everything needed to use it.
        metrics: Figures on unseen scenes.
        mask: Class map of the scene, with its CRS and transform.
        geopackage: The map's polygons in the scene's CRS.
        geojson: The same in longitude and latitude.
        report: One HTML page about all of it.
    """

    scene: Path
    truth: Path
    run: Path
    checkpoint: Path
    metrics: Path
    mask: Path
    geopackage: Path
    geojson: Path
    report: Path

    @classmethod
    def inside(cls, folder: Path) -> "DemoFiles":
        """The names in a folder."""
        return cls(
            folder,
            scene=folder / "scene.tif",
            truth=folder / "scene_truth.tif",
            run=folder / "run",
            checkpoint=folder / "model.safetensors",
            metrics=folder / "metrics.json",
            mask=folder / "mask.tif",
            geopackage=folder / "mask.gpkg",
            geojson=folder / "mask.geojson",
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
    """Run the demo.

    Args:
        out: Folder for everything it makes.
        seed: Of the scenes and of the training.
        quick: A few iterations on tiny scenes: shows that everything works, not what it can do.
        overwrite: Replace what an earlier demo left in the folder; other files stay.
        device: Where to train and predict; a GPU if there is one by default.
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
    config = demo_config(seed, quick=quick)
    assert config.test is not None  # the demo's own config has one
    unseen = config.test.build()

    with step(console, "1/5", "Render a large scene"):
        side = 256 if quick else 3072
        render_large(files.scene, seed=seed, height=side, width=side, progress=True)
        console.print(f"  {files.scene}: {side} × {side} px")

    with step(console, "2/5", f"Train a small U-Net for {config.iterations} iterations"):
        shutil.copyfile(trained(config, files.run, device), files.checkpoint)
        predictor = load_model(files.checkpoint, device=device)

    score = predictor.task.score
    with step(console, "3/5", "Judge it on scenes it has not seen"):
        metrics = dict(
            evaluate(
                predictor.model,
                predictor.task,
                unseen,
                batch_size=config.batch_size,
                num_workers=config.num_workers,
                device=device,
            )
        )
        console.print(f"  {score} {number(metrics[score])} on {len(unseen)} scenes")

    with step(console, "4/5", "Segment the large scene tile by tile"):
        predictor.predict(files.scene, out=files.mask, progress=True)
        for path in (files.geopackage, files.geojson):
            vectorise(files.mask, path, classes=predictor.classes, min_area_px=8)
        metrics["scene"] = _agreement(predictor.task, files)
        write_json(files.metrics, metrics)
        console.print(f"  {files.mask}, {files.geopackage.name}, {files.geojson.name}")
        console.print(f"  {score} {number(metrics['scene'][score])} against the scene's truth")

    with step(console, "5/5", "Write the report"):
        _report(predictor, metrics, unseen, files)

    tell_end(console, started, files.report)
    console.print("Next:")
    for purpose, command in next_commands(files).items():
        console.print(f"  [dim]# {purpose}[/]\n  {command}", soft_wrap=True)
    return files


def demo_config(seed: int = 0, *, quick: bool = False) -> TrainConfig:
    """The config ``scenes_tiny``, with a seed, and a few steps of it only if ``quick``."""
    config = load_config("scenes_tiny", [f"seed={seed}"])
    return smoke(config) if quick else config


def next_commands(files: DemoFiles) -> dict[str, str]:
    """Commands that work after the demo, by what they do."""
    return {
        "segment an image: this scene again, or any RGB GeoTIFF of yours": (
            f"swath predict {files.checkpoint} {files.scene} --out {files.folder / 'again.tif'}"
        ),
        "how does it do in a landscape it was not trained on?": (
            f"swath test scenes_tiny {files.checkpoint} --set test.domain=arid"
        ),
        "train for longer": (
            f"swath train scenes_tiny --run-dir {files.folder / 'longer'} --set iterations=3000"
        ),
    }


def prepare_folder(folder: Path, made: Iterable[Path], overwrite: bool) -> None:
    """An empty folder for a demo, or one where an earlier demo's files are out of the way.

    Args:
        folder: Is created if needed.
        made: What the demo will write there; removed if it exists. Other files stay.
        overwrite: Whether the folder may hold anything.

    Raises:
        ConfigError: If it may not and does, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give the demo a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ConfigError(
            f"{folder} isn't empty; choose another folder with --out, or replace an earlier demo "
            "with --overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in made:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def trained(config: TrainConfig, run: Path, device: str | None) -> Path:
    """Train to the end; the best checkpoint.

    Raises:
        KeyboardInterrupt: If the training was stopped, which ends the demo too.
    """
    summary = train(config, run, device=device)
    if summary.interrupted:
        raise KeyboardInterrupt
    return summary.best_checkpoint


@contextmanager
def step(console: Console, number: str, title: str) -> Iterator[None]:
    """Say what comes now (``number`` is ``"2/5"``), and afterwards how long it took."""
    console.print(f"\n[bold cyan]{number}[/] [bold]{title}[/]")
    started = time.monotonic()
    yield
    console.print(f"  [dim]{time.monotonic() - started:.1f} s[/]")


def tell_end(console: Console, started: float, report: Path) -> None:
    """Say how long it took since ``started`` (`time.monotonic`), and where the report is."""
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    console.print(f"\n[bold green]Done[/] in {minutes} min {seconds:02d} s. The report:")
    console.print(f"  [bold]{report.resolve()}[/]\n", soft_wrap=True)


def _agreement(task: Task, files: DemoFiles) -> dict[str, float]:
    """The scalar figures of the scene's mask against its truth."""
    metrics = task.metrics()
    with open_raster(files.mask) as mask, open_raster(files.truth) as truth:
        for window in row_blocks(mask.info.height, mask.info.width, 512):
            guess, true = (torch.from_numpy(r.read(window)[0]) for r in (mask, truth))
            metrics.update([guess[0]], {"mask": true})
    return {k: v for k, v in metrics.compute().items() if isinstance(v, float)}


def _report(
    predictor: Predictor, metrics: dict[str, Any], unseen: SceneDataset, files: DemoFiles
) -> None:
    task = predictor.task
    palette = task.palette  # type: ignore[attr-defined]  # a segmentation task has one
    score = number(metrics["scene"][task.score])
    training_report(
        files.run,
        metrics,
        predictor.model,
        task,
        unseen,
        path=files.report,
        title="From nothing to a map",
        lead="A small U-Net, trained from scratch on rendered scenes, judged on scenes it has not "
        "seen, and run over one large georeferenced scene. No download, no real imagery.",
        extra=[
            scene_section(
                files.scene,
                files.mask,
                task.classes,
                palette,
                note=f"Against the scene's truth, the class map reaches {task.score} {score}.",
            )
        ],
        next_commands=next_commands(files),
    )
