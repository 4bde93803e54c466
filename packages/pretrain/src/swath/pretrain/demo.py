"""What unlabelled scenes bring: S4P beside its supervised twin, with pictures of what it labels."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from swath.core.config import TrainConfig, load_config
from swath.core.data.loader import Augmented
from swath.core.demo import DemoFolder, prepare_folder, step, tell_end, trained
from swath.core.engine import evaluate, smoke
from swath.core.files import write_json
from swath.core.inference.predictor import Predictor, load_model
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.core.task import to_device
from swath.core.viz import curve, page
from swath.core.viz.page import Section, number, write_report
from swath.core.viz.report import machine_facts, read_log
from swath.pretrain.task import S4PTask
from swath.pretrain.views import weak_view

CONFIG = "s4p_scenes_tiny"
PICTURES = 6


@dataclass(frozen=True)
class DemoFiles(DemoFolder):
    """What the demo writes into its folder.

    Attributes:
        folder: The folder.
        supervised: The run on the labelled scenes alone.
        s4p: The run on labelled and unlabelled ones.
        metrics: Figures of both on unseen scenes.
        report: One HTML page about all of it.
    """

    supervised: Path
    s4p: Path
    metrics: Path
    report: Path

    @classmethod
    def inside(cls, folder: Path) -> "DemoFiles":
        """The names in a folder."""
        return cls(
            folder,
            supervised=folder / "supervised",
            s4p=folder / "s4p",
            metrics=folder / "metrics.json",
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
    """Train both, judge both on unseen scenes, write a report.

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
    labelled, unlabelled = (len(config.train[name].build()) for name in ("labelled", "unlabelled"))
    arms = {
        f"Train on {labelled} labelled scenes alone": (supervised_twin(config), files.supervised),
        f"Train on these and {unlabelled} unlabelled ones, by S4P": (config, files.s4p),
    }
    models, metrics = {}, {}
    for i, (title, (recipe, folder)) in enumerate(arms.items(), start=1):
        with step(console, f"{i}/3", title):
            checkpoint = trained(recipe, folder, device)
            models[folder.name] = load_model(checkpoint, device=device)
            figures = _judged(models[folder.name], config, device)
            metrics[folder.name] = figures
            console.print(f"  mIoU {number(figures['mIoU'])} on scenes it has not seen")
    with step(console, "3/3", "Look at its pseudo-labels, write the report"):
        write_json(files.metrics, metrics)
        _report(files, config, models["s4p"], metrics)

    tell_end(console, started, files.report)
    return files


def supervised_twin(config: TrainConfig) -> TrainConfig:
    """The same run without the unlabelled images; losses, weak view, steps and seed stay."""
    assert config.augment is not None  # S4P needs its views
    view = {name: config.augment.kwargs[name] for name in ("size", "scale")}
    task = {name: config.task[name] for name in ("classes", "palette", "class_weights")}
    return replace(
        config,
        task=Spec(SegmentationTask, **task),
        train=config.train["labelled"],
        augment=Spec(weak_view, **view),
    )


def _judged(predictor: Predictor, config: TrainConfig, device: str | None) -> Mapping[str, Any]:
    assert config.test is not None  # the demo's own config has one
    return evaluate(
        predictor.model,
        predictor.task,
        config.test.build(),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        device=device,
    )


# --- the report --------------------------------------------------------------------------------


def _report(
    files: DemoFiles,
    config: TrainConfig,
    predictor: Predictor,
    metrics: Mapping[str, Mapping[str, Any]],
) -> None:
    alone, both = metrics["supervised"], metrics["s4p"]
    task = predictor.task
    assert isinstance(task, S4PTask)
    rows = list(task.classes)
    table = {
        name: [figures["per_class"][row]["IoU"] for row in rows]
        for name, figures in (("labels alone", alone), ("S4P", both))
    }
    gains = [
        None if None in pair else pair[1] - pair[0] for pair in zip(*table.values(), strict=True)
    ]
    device = next(predictor.model.parameters()).device
    write_report(
        files.report,
        title="What unlabelled scenes bring",
        lead="The same small U-Net twice, from scratch, with the same labelled scenes for the same "
        "number of steps; the second also learns from what it says itself about unlabelled ones. "
        "One seed: benchmarks/s4p_label_efficiency.py has more.",
        figures={
            "mIoU, S4P": number(both["mIoU"]),
            "mIoU, labels alone": number(alone["mIoU"]),
            "gain in points": f"{100 * (both['mIoU'] - alone['mIoU']):+.1f}",
        },
        sections=[
            Section("The runs", page.facts(_facts(config) | machine_facts(device))),
            Section("What it says about scenes it has no labels of", _pictures(predictor, config)),
            Section("Training", page.chart(_curves(files))),
            Section(
                "Classes",
                page.class_table(rows, {**table, "gain": gains}, palette=task.palette, bar="S4P"),
            ),
            Section("Next", page.commands(_next(files))),
        ],
    )


def _facts(config: TrainConfig) -> dict[str, object]:
    return {
        "steps": f"{config.iterations} of {config.batch_size} labelled and as many unlabelled",
        "threshold": config.task["threshold"],
        "judged on": f"{len(config.test.build())} scenes" if config.test else None,
        "seed": config.seed,
    }


def _curves(files: DemoFiles) -> Any:
    """The validation scores of both runs, or their losses where there are none yet."""
    series = {}
    for name, folder in (("S4P", files.s4p), ("labels alone", files.supervised)):
        scores = [(r["step"], r["val"]["mIoU"]) for r in read_log(folder / "log.jsonl")
                  if "val" in r]  # fmt: skip
        series[name] = ([s for s, _ in scores], [v for _, v in scores])
    shares = [(r["step"], r["confident"]) for r in read_log(files.s4p / "log.jsonl")
              if "confident" in r]  # fmt: skip
    series["share of confident pixels"] = ([s for s, _ in shares], [v for _, v in shares])
    return curve(series, y_label="validation mIoU, share")


@torch.no_grad()
def _pictures(predictor: Predictor, config: TrainConfig) -> str:
    task = predictor.task
    assert isinstance(task, S4PTask)
    assert config.augment is not None
    pairs = config.train.build(stored_labels=True)  # for the truth's picture; the task looks away
    views = Augmented(pairs, config.augment.build(), config.seed)
    samples = [views[0, len(pairs) - 1 - i] for i in range(PICTURES)]  # these never had labels
    device = next(predictor.model.parameters()).device
    label, confidence = task.pseudo_labels(
        predictor.model, to_device(task.collate(samples), device)
    )
    rows = []
    for i, sample in enumerate(samples):
        found = sample.targets["unlabelled"]
        seen = ~found.ignore
        sure = (confidence[i].cpu() >= task.threshold) & seen
        guess = label[i].cpu().masked_fill(~sure, 255)
        truth = found.targets["mask"].long()
        right = (guess == truth)[sure].float().mean()
        remark = f"{100 * float(right):.0f} % of these right" if sure.any() else ""
        rows.append(
            (
                f"{100 * float(sure.sum() / seen.sum()):.0f} % learnt from",
                remark,
                [
                    _photograph(found.weak, "weak view"),
                    _photograph(found.strong, "strong view"),
                    _classes(guess, task, "pseudo-label"),
                    _photograph((255 * confidence[i].cpu() * seen).expand(3, -1, -1), "confidence"),
                    _classes(truth, task, "truth"),
                ],
            )
        )
    note = page.paragraph(
        f"The network labels the weak view; labels with a confidence of {task.threshold:g} or more "
        "it learns on the strong one, into which a box of another scene may be pasted. White in "
        "the confidence is certain. Clear pixels of the pseudo-label are not learnt from: less "
        "confident, or padding. The truth was never looked at.",
        note=True,
    )
    columns = ("weak view", "strong view", "pseudo-label", "confidence", "truth")
    return note + page.examples(rows, columns) + page.legend_list(task.classes, task.palette)


def _photograph(image: Tensor, name: str) -> str:
    return page.picture(image.to(torch.uint8).permute(1, 2, 0).numpy(), alt=name)


def _classes(mask: Tensor, task: S4PTask, name: str) -> str:
    return page.mask_picture(mask.numpy().astype(np.uint8), task.palette, alt=name, side=256)


def _next(files: DemoFiles) -> dict[str, str]:
    return {
        "train for longer": (
            f"swath train {CONFIG} --run-dir {files.folder / 'longer'} --set iterations=3000"
        ),
        "turn an archive of your own into shards with pseudo-labels": (
            "swath data prepare rs4p ARCHIVE --out shards --model swath-small"
        ),
        "the published recipe": "swath configs s4p_vitb_isaid_rs4p1m",
    }
