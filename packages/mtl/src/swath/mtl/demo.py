"""Three tasks learnt by one model from scenes that are labelled for one each."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from swath.mtl.configs import _scenes
from swath.mtl.data import TaskMixture
from swath.mtl.multi_task import MultiTask, SeveralResults

CONFIG = "rscotr_scenes_tiny"


@dataclass(frozen=True)
class DemoFiles(DemoFolder):
    """What the demo writes into its folder.

    Attributes:
        folder: The folder.
        run: The training run.
        metrics: Figures on unseen scenes, for each task.
        scene: A georeferenced scene.
        results: What the model says about it: a class, boxes and a mask.
        report: One HTML page about all of it.
    """

    run: Path
    metrics: Path
    scene: Path
    results: Path
    report: Path

    @classmethod
    def inside(cls, folder: Path) -> "DemoFiles":
        """The names in a folder."""
        names = "run", "metrics.json", "scene.tif", "results", "report.html"
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
    """Train the small model on three tasks, judge it, ask it all three about one scene.

    Args:
        out: Folder for everything it makes.
        seed: Of weights, order and the scene.
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
    if quick:
        few = _scenes.judged(seed=2, count=4)
        config = replace(smoke(config), train=_scenes.training(1, count=16), val=few, test=few)
    assert config.test is not None  # the demo's own config has one
    names = ", ".join(config.train["parts"])
    with step(console, "1/4", f"Train one model on {names} for {config.iterations} iterations"):
        predictor = load_model(trained(config, files.run, device), device=device)
        task = predictor.task
        assert isinstance(task, MultiTask)
    with step(console, "2/4", "Judge it on scenes it has not seen"):
        unseen = config.test.build()
        metrics = evaluate(
            predictor.model, task, unseen, batch_size=config.batch_size, device=device
        )
        for name, part in task.parts.items():
            figure = f"{name}/{part.score}"
            console.print(f"  {figure:22} {number(metrics[figure])}")
        write_json(files.metrics, as_data(metrics))
    with step(console, "3/4", "Ask it for all three about one scene, in one pass"):
        side = 192 if quick else 768
        render_large(files.scene, seed, side, side, domain=_scenes.DOMAIN)
        several = predictor.predict(files.scene, out=files.results)
        console.print(f"  {several.summary()['answer']}")
    with step(console, "4/4", "Write the report"):
        _report(files, predictor, metrics, unseen, several)
    tell_end(console, started, files.report)
    return files


def _report(
    files: DemoFiles,
    predictor: Predictor,
    metrics: Mapping[str, Any],
    unseen: TaskMixture,
    several: SeveralResults,
) -> None:
    charts = [page.chart(figure, name) for name, figure in several.plot().items()]
    training_report(
        files.run,
        metrics,
        predictor.model,
        predictor.task,
        unseen,
        path=files.report,
        title="Three tasks, one model",
        lead="A small Swin Transformer and a shared deformable encoder learn to name scenes, to "
        "find objects and to map land cover, from scenes of which each has labels for one task.",
        extra=[Section("One scene, one pass, three answers", "".join(charts))],
        next_commands={
            "ask a scene of your own": (
                f"swath predict {files.run / 'best.safetensors'} scene.tif -o results/ "
                "--task cls,det,seg"
            ),
            "the published recipe": "swath configs rscotr_swint_resisc_dior_potsdam",
        },
    )
