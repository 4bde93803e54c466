"""The report of a run: what was trained, how good it is and where it errs, in one HTML file."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from swath.core.config import TrainConfig, load_config
from swath.core.palette import Colour, default_palette
from swath.core.sample import Sample
from swath.core.task import Task, predict_command, to_device
from swath.core.viz import page
from swath.core.viz.figures import confusion, training_curves
from swath.core.viz.overlay import difference, display_rgb
from swath.core.viz.page import Section, write_report

_JUDGED_AT_MOST = 300


def training_report(
    run_dir: str | Path,
    metrics: Mapping[str, Any],
    model: nn.Module,
    task: Task,
    dataset: Any,
    *,
    path: str | Path | None = None,
    title: str | None = None,
    lead: str = "",
    extra: Sequence[Section] = (),
    next_commands: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of a trained and evaluated model.

    Args:
        run_dir: Folder of the run; its ``config.json`` and ``log.jsonl`` are used where they exist.
        metrics: What the task's metrics computed on ``dataset``.
        model: The model, wherever it is.
        task: Its task.
        dataset: The samples it was judged on, map-style; the best and worst are shown.
        path: Where to write; ``run_dir/report.html`` by default.
        title: Heading.
        lead: A sentence below it.
        extra: Further cards, placed below the facts of the run.
        next_commands: Shell commands by what they do; by default what to do with a checkpoint.

    Returns:
        The path of the report.
    """
    folder = Path(run_dir)
    config = load_config(folder) if (folder / "config.json").is_file() else None
    log = read_log(folder / "log.jsonl")
    sections = [
        Section("The run", page.facts(run_facts(model, task, dataset, config, log))),
        *extra,
        *_curve_section(log, task.score),
        *metrics_sections(metrics, task),
        *task.report(model, metrics, dataset),
        *_example_sections(model, task, dataset),
        Section("Next", page.commands(next_commands or _default_commands(folder, task))),
    ]
    if config is not None:
        text = json.dumps(config.to_data(), indent=2)
        sections.append(Section("Config", page.folded(f"resolved config {config.hash}", text)))
    return write_report(
        folder / "report.html" if path is None else path,
        title=title or f"{type(model).__name__} on {len(task.classes)} classes",
        lead=lead,
        figures=headline(metrics, task.score),
        sections=sections,
    )


def headline(metrics: Mapping[str, Any], score: str) -> dict[str, str]:
    """The scalar figures, the one that checkpoints are compared by first."""
    scalars = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
    ordered = sorted(scalars, key=lambda name: name != score)
    return {name: page.number(scalars[name]) for name in ordered}


def run_facts(
    model: nn.Module,
    task: Task,
    dataset: Any,
    config: TrainConfig | None,
    log: Sequence[Mapping[str, Any]],
) -> dict[str, object]:
    """What was run, on what, for how long and where."""
    parameters = sum(p.numel() for p in model.parameters())
    items: dict[str, object] = {
        "model": f"{type(model).__name__}, {page.number(parameters)} parameters",
        "task": f"{task.kind}, {len(task.classes)} classes",
        "judged on": f"{page.number(len(dataset))} images",
    }
    if config is not None:
        items["iterations"] = f"{page.number(config.iterations)} of {config.batch_size} images"
        items["seed, precision"] = f"{config.seed}, {config.precision}"
        items["config"] = config.hash
    seconds = sum(line.get("time_s", 0.0) for line in log if "loss" in line)
    if seconds and config is not None:
        items["time per iteration"] = f"{_seconds_per_iteration(log):.3f} s"
    return items | machine_facts(next(model.parameters()).device)


def _seconds_per_iteration(log: Sequence[Mapping[str, Any]]) -> float:
    return float(np.median([line["time_s"] for line in log if "time_s" in line]))


def machine_facts(device: torch.device) -> dict[str, object]:
    """Processor, accelerator and versions."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "accelerator": accelerator,
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def metrics_sections(metrics: Mapping[str, Any], task: Task) -> list[Section]:
    """The table per class and the confusion matrix, as far as the metrics have them."""
    sections = []
    table = metrics.get("per_class")
    if table:
        names = list(table)
        columns = {
            column: [table[name].get(column) for name in names] for column in table[names[0]]
        }
        colours = _palette(task) if len(names) == len(task.classes) else None
        body = page.class_table(names, columns, palette=colours, bar=next(iter(columns)))
        sections.append(Section("Classes", body))
    if "confusion" in metrics:
        names = [*task.classes, "nothing"]  # which detectors take objects for, and find them in
        figure = confusion(metrics["confusion"], names[: len(metrics["confusion"])])
        note = "Each row shows what one true class was taken for, in percent of the row."
        sections.append(Section("Confusions", page.chart(figure, note)))
    return sections


@dataclass(frozen=True)
class _Judged:
    index: int
    score: float


def _example_sections(model: nn.Module, task: Task, dataset: Any, each: int = 3) -> list[Section]:
    if task.kind != "segmentation" or not len(dataset):
        return []
    step = math.ceil(len(dataset) / _JUDGED_AT_MOST)
    scored = [_judge(model, task, dataset, i) for i in range(0, len(dataset), step)]
    judged = sorted((j for j in scored if np.isfinite(j.score)), key=lambda j: j.score)
    each = min(each, (len(judged) + 1) // 2)
    note = page.paragraph(
        f"By {task.score} of the single image"
        + (f", one in {step} of which was judged" if step > 1 else "")
        + ". Errors: "
        + (
            "blue is missed, orange is a false alarm."
            if len(task.classes) == 2
            else "crimson pixels have the wrong class."
        )
        + " Dark grey has no truth.",
        note=True,
    )
    legend = page.legend_list(task.classes, _palette(task))
    worst, best = judged[:each], judged[each:][-each:][::-1]
    return [
        Section(title, note + page.examples([_row(model, task, dataset, j) for j in rows]) + legend)
        for title, rows in (("Best examples", best), ("Worst examples", worst))
        if rows
    ]


def _judge(model: nn.Module, task: Task, dataset: Any, index: int) -> _Judged:
    batch, prediction = _predict(model, task, dataset[index])
    figures = task.metrics()
    figures.update([prediction], batch)
    return _Judged(index, float(figures.compute()[task.score]))


def _predict(model: nn.Module, task: Task, sample: Sample) -> tuple[dict[str, Any], Any]:
    training = model.training
    model.eval()
    batch = to_device(task.collate([sample]), next(model.parameters()).device)
    prediction = task.predict(model, batch)[0]
    model.train(training)
    return batch, prediction


def _row(model: nn.Module, task: Task, dataset: Any, judged: _Judged) -> tuple[str, str, list[str]]:
    sample = dataset[judged.index]
    batch, prediction = _predict(model, task, sample)
    guess = prediction.argmax(0).cpu().numpy()
    truth = batch["mask"][0].cpu().numpy()
    valid = None if sample.valid is None else np.asarray(sample.valid)
    picture = display_rgb(np.asarray(sample.image), valid)
    errors = difference(
        truth,
        guess,
        picture,
        ignore_index=getattr(task, "ignore_index", 255),
        classes=len(task.classes),
    )
    palette = _palette(task)
    images = [
        page.picture(picture, alt="image"),
        page.mask_picture(truth, palette, alt="truth", side=256),
        page.mask_picture(guess, palette, alt="prediction", side=256),
        page.picture(errors, alt="errors"),
    ]
    name = str(sample.meta.get("id", judged.index))
    return name, f"{task.score} {page.number(judged.score)}", images


def _curve_section(log: Sequence[Mapping[str, Any]], score: str) -> list[Section]:
    if not any("loss" in line for line in log):
        return []
    return [Section("Training", page.chart(training_curves(log, score)))]


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's ``log.jsonl``, or nothing if there is no such file."""
    file = Path(path)
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def _palette(task: Task) -> Sequence[Colour]:
    return getattr(task, "palette", None) or default_palette(len(task.classes))


def _default_commands(folder: Path, task: Task) -> dict[str, str]:
    best = folder / "best.safetensors"
    if not best.exists():  # a run without validation
        best = folder / "last.safetensors"
    if task.kind != "segmentation":
        return {"Try it on a GeoTIFF of your own": predict_command(task, best, "scene.tif")}
    asked = predict_command(task, best, "scene.tif", "--out", "mask.tif")
    return {
        "Segment a GeoTIFF of your own": asked,
        "Turn the mask into polygons": "swath vectorise mask.tif --out mask.gpkg",
    }
