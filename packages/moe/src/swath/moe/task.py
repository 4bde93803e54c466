"""Segmentation of several data sets by one model, as a task.

Paper: S5: Scalable Semi-Supervised Semantic Segmentation in Remote Sensing, Lv et al. 2025,
arXiv:2508.12409, section on MoE-based multi-dataset fine-tuning.
Official code: https://github.com/MiliLab/S5, `RS_Finetune/Semantic_Segmentation/md_finetune.py`;
there, one forward pass per data set, whose losses' sum is missing from the released file. Here it
is their plain (or weighted) sum, which is what the official logging shows.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from swath.core.errors import ConfigError, DataError, suggest
from swath.core.metrics.segmentation import SegmentationMetrics
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask, padded
from swath.core.task import Batch, Task
from swath.moe.models.mdf import MDFSegmenter


class MultiDatasetSegmentationTask(Task):
    """Train and judge an `MDFSegmenter`, each sample by the classes of its own data set.

    Samples say which that is by ``meta["task"]``; see `swath.moe.data.MultiDataset`.

    Args:
        tasks: What each data set's labels mean and how it is judged, by name.
        weights: Weight of a task's losses; default 1.
        loss_from: Share of the run from which a task's losses count; default 0, from the start.
            Before, its weight is 0: its samples still move its decoder's batch norms, and what is
            its alone gets zero gradients, but weight decay.

    Attributes:
        classes: ``"<task>/<class>"`` of all tasks, one after the other.
        palette: A colour for each of these.

    Raises:
        ConfigError: If ``weights`` or ``loss_from`` name an unknown task or are out of range.
    """

    kind = "segmentation of several data sets"
    score = "mIoU"

    def __init__(
        self,
        tasks: Mapping[str, SegmentationTask],
        weights: Mapping[str, float] | None = None,
        loss_from: Mapping[str, float] | None = None,
    ) -> None:
        self.tasks = dict(tasks)
        self.weights, self.loss_from = dict(weights or {}), dict(loss_from or {})
        self.classes = tuple(f"{name}/{c}" for name, task in tasks.items() for c in task.classes)
        self.palette = tuple(colour for task in tasks.values() for colour in task.palette)
        for option, values, highest in (
            ("weights", self.weights, math.inf),
            ("loss_from", self.loss_from, 1),
        ):
            for name, value in values.items():
                self._task(name)
                if not 0 <= value <= highest:
                    raise ConfigError(f"task.{option}.{name}={value} must be in 0..{highest}")

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples of any data sets; smaller ones are padded right and below.

        Returns:
            What `SegmentationTask.collate` gives, and ``"tasks"``, the name of each sample's task.

        Raises:
            ConfigError: If a sample doesn't say which data set it is from.
            DataError: If it is from an unknown one, or doesn't fit its task.
        """
        names = [self._name(sample) for sample in samples]
        alone = [self.tasks[n].collate([s]) for n, s in zip(names, samples, strict=True)]
        sizes = [size for part in alone for size in part["sizes"]]
        shape = max(h for h, _ in sizes), max(w for _, w in sizes)
        batch: Batch = {
            "image": torch.cat([padded(part["image"], shape, 0.0) for part in alone]),
            "tasks": names,
            "sizes": sizes,
            "meta": [sample.meta for sample in samples],
        }
        if all("mask" in part for part in alone):
            batch["mask"] = torch.cat(
                [
                    padded(part["mask"], shape, self.tasks[name].ignore_index)
                    for name, part in zip(names, alone, strict=True)
                ]
            )
        return batch

    def _name(self, sample: Sample) -> str:
        if "task" not in sample.meta:
            raise self._unchosen()
        name = str(sample.meta["task"])
        if name not in self.tasks:
            raise DataError(
                f"{sample.meta.get('path', 'a sample')} is from '{name}'"
                f"{suggest(name, list(self.tasks))}; known data sets: {', '.join(self.tasks)}"
            )
        return name

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``"<task>_ce"`` (and ``"<task>_dice"``) of every task, weighted.

        One forward pass for all. A task without samples, or without weight as yet, has loss 0.

        Raises:
            ConfigError: If the model isn't an `MDFSegmenter`, or knows other tasks or classes.
        """
        segmenter = _checked(model)
        ids = torch.tensor([segmenter.task_id(name) for name in batch["tasks"]])
        logits = model(batch["image"], ids)
        losses: dict[str, Tensor] = {}
        for name, rows in logits.rows.items():
            weight = self.weight(name, batch.get("progress", 1.0))
            mask = batch["mask"][rows.to(batch["mask"].device)]
            parts = self._task(name).losses_of(logits.by_task[name].float(), mask)
            losses |= {f"{name}_{kind}": weight * loss for kind, loss in parts.items()}
        return losses

    def weight(self, name: str, progress: float) -> float:
        """The weight of a task's losses when this share of the run is done."""
        return self.weights.get(name, 1.0) if progress >= self.loss_from.get(name, 0.0) else 0.0

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Logits ``(K, h, w)`` of each image by its task's classes and way of evaluation."""
        found: dict[int, Tensor] = {}
        for name in dict.fromkeys(batch["tasks"]):
            rows = [i for i, other in enumerate(batch["tasks"]) if other == name]
            sizes = [batch["sizes"][i] for i in rows]
            height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
            part = {"image": batch["image"][rows, :, :height, :width], "sizes": sizes}
            view, task = self.select(model, name)
            found |= dict(zip(rows, task.predict(view, part), strict=True))
        return [found[i] for i in range(len(found))]

    def select(self, model: nn.Module, name: str) -> "tuple[OneTask, SegmentationTask]":
        """The model for one data set, from images to logits, and its task.

        Raises:
            ConfigError: If there is no such task; lists those that there are.
        """
        return OneTask(_checked(model), name), self._task(name)

    def _task(self, name: str) -> SegmentationTask:
        if name not in self.tasks:
            raise ConfigError(
                f"unknown task '{name}'{suggest(name, list(self.tasks))}; there are "
                f"{', '.join(self.tasks)}"
            )
        return self.tasks[name]

    def merge(self, tiles: Iterable[Any], scene: Any) -> Any:
        """Not for several data sets at once; `select` one.

        Raises:
            ConfigError: Always.
        """
        raise self._unchosen()

    def _unchosen(self) -> ConfigError:
        return ConfigError(
            "this model knows several data sets; choose by which to go, one of "
            f"{', '.join(self.tasks)} (load_model(..., task=NAME), swath predict --task NAME)"
        )

    def metrics(self) -> "MultiDatasetMetrics":
        """A fresh accumulator for all data sets."""
        return MultiDatasetMetrics({name: task.metrics() for name, task in self.tasks.items()})


class OneTask(nn.Module):
    """One task of a model as a model of its own, ``(B, C, H, W) -> (B, K, H, W)``.

    Args:
        model: The whole; shared, not copied.
        name: Of the task.

    Raises:
        ConfigError: If the model knows no such task.
    """

    def __init__(self, model: MDFSegmenter, name: str) -> None:
        super().__init__()
        self.model, self.name, self.number = model, name, model.task_id(name)

    def forward(self, image: Tensor) -> Tensor:
        """Logits at the size of the image."""
        logits: Tensor = self.model(image, self.number).by_task[self.name]
        return logits


class MultiDatasetMetrics:
    """Figures of several data sets, each by itself, and their means.

    ``compute()`` returns ``mIoU``, ``mF1`` and ``OA``, means over the data sets of which anything
    was judged, each with equal weight; ``"<task>_mIoU"`` and so on for each; the table
    ``per_task``; and ``per_class`` with rows ``"<task>/<class>"``; see `SegmentationMetrics`.

    Args:
        parts: Accumulators by the name of their task.
    """

    def __init__(self, parts: Mapping[str, SegmentationMetrics]) -> None:
        self.parts = dict(parts)

    def reset(self) -> None:
        """Forget everything."""
        for part in self.parts.values():
            part.reset()

    def update(self, predictions: Sequence[Tensor], batch: Batch) -> None:
        """Add the predictions of one batch, each to its own data set."""
        rows = zip(predictions, batch["tasks"], batch["mask"], strict=True)
        for prediction, name, mask in rows:
            self.parts[name].update([prediction], {"mask": mask[None]})

    def __add__(self, other: Self) -> Self:
        return type(self)({name: part + other.parts[name] for name, part in self.parts.items()})

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        judged = {
            name: part.compute()
            for name, part in self.parts.items()
            if int(part.confusion.target.sum())
        }
        table = {
            name: {k: v for k, v in figures.items() if isinstance(v, float)}
            for name, figures in judged.items()
        }
        means = {
            figure: sum(row[figure] for row in table.values()) / len(table) if table else math.nan
            for figure in ("mIoU", "mF1", "OA")
        }
        single = {f"{name}_{k}": row[k] for name, row in table.items() for k in means}
        rows = {
            f"{name}/{label}": row
            for name, figures in judged.items()
            for label, row in figures["per_class"].items()
        }
        return {**means, **single, "per_task": table, "per_class": rows}


def _checked(model: nn.Module) -> MDFSegmenter:
    if not isinstance(model, MDFSegmenter):
        raise ConfigError(
            f"this task trains an MDFSegmenter, not a {type(model).__name__}; make config.model one"
        )
    return model
