"""Several data sets, learnt by one model, as a task.

Paper: S5: Scalable Semi-Supervised Semantic Segmentation in Remote Sensing, Lv et al. 2025,
arXiv:2508.12409, section on MoE-based multi-dataset fine-tuning.
Official code: https://github.com/MiliLab/S5, `RS_Finetune/Semantic_Segmentation/md_finetune.py` and
`RS_Finetune/Object_Detection/mmdet/apis/train.py`; there, one forward pass per data set. The sum of
the segmentation losses is missing from the released file. Here it is their plain (or weighted) sum,
which is what the official logging shows, and what detection does.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from swath.core.errors import ConfigError, DataError, suggest
from swath.core.metrics.segmentation import SegmentationMetrics
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask, padded
from swath.core.task import Batch, Task
from swath.moe.models.many_tasks import ManyTasks
from swath.moe.models.mdf import MDFSegmenter

if TYPE_CHECKING:  # detection brings torchvision along, which maps of classes don't need
    from swath.core.detection.task import DetectionTask
    from swath.core.metrics.detection import DetectionMetrics

S = TypeVar("S", SegmentationTask, "DetectionTask")
R = TypeVar("R", SegmentationMetrics, "DetectionMetrics")
M = TypeVar("M", bound=ManyTasks)


class MultiDatasetTask(Task, Generic[S]):
    """What learning several data sets by one model has alike for every kind of target.

    Samples say of which set they are by ``meta["task"]``; see `swath.moe.data.MultiDataset`.

    Args:
        tasks: What each data set's labels mean and how it is judged, by name.
        weights: Weight of a task's losses; default 1.
        loss_from: Share of the run from which a task's losses count; default 0, from the start.
            Before, its weight is 0: its samples still update its decoder's batch norms, and the
            parameters that are its alone get zero gradients, which weight decay doesn't spare.

    Attributes:
        classes: ``"<task>/<class>"`` of all tasks, one after the other.
        palette: A colour for each of these.
        asked_with: One of the tasks, as an example.

    Raises:
        ConfigError: If ``weights`` or ``loss_from`` name an unknown task or are out of range.
    """

    def __init__(
        self,
        tasks: Mapping[str, S],
        weights: Mapping[str, float] | None = None,
        loss_from: Mapping[str, float] | None = None,
    ) -> None:
        self.tasks: dict[str, S] = dict(tasks)
        self.asked_with = ("--task", next(iter(self.tasks), ""))
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
            What the task of each gives, joined, and ``"tasks"``, the name of each sample's task.

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
        for target in self.targets:
            if all(target in part for part in alone):
                batch[target] = self._joined(target, names, [part[target] for part in alone], shape)
        return batch

    targets: tuple[str, ...]
    """What a batch has besides images."""

    @abstractmethod
    def _joined(
        self, target: str, names: Sequence[str], parts: Sequence[Any], shape: tuple[int, int]
    ) -> Any:
        """One of the targets of several batches of one, as of one batch."""

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

    def weight(self, name: str, progress: float) -> float:
        """The weight of a task's losses when this share of the run is done."""
        return self.weights.get(name, 1.0) if progress >= self.loss_from.get(name, 0.0) else 0.0

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """What the task of each image predicts for it, by its own way of evaluation."""
        found: dict[int, Any] = {}
        for name in dict.fromkeys(batch["tasks"]):
            rows = [i for i, other in enumerate(batch["tasks"]) if other == name]
            sizes = [batch["sizes"][i] for i in rows]
            height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
            part = {"image": batch["image"][rows, :, :height, :width], "sizes": sizes}
            view, task = self.select(model, name)
            found |= dict(zip(rows, task.predict(view, part), strict=True))
        return [found[i] for i in range(len(found))]

    @abstractmethod
    def select(self, model: nn.Module, name: str) -> tuple[nn.Module, S]:
        """The model for one data set as a model of its own, and its task.

        Raises:
            ConfigError: If there is no such task; lists those that there are.
        """

    def _task(self, name: str) -> S:
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


class MultiDatasetSegmentationTask(MultiDatasetTask[SegmentationTask]):
    """Train and judge an `MDFSegmenter`; for the arguments see `MultiDatasetTask`."""

    kind = "segmentation of several data sets"
    score = "mIoU"
    targets = ("mask",)

    def _joined(
        self, target: str, names: Sequence[str], parts: Sequence[Any], shape: tuple[int, int]
    ) -> Tensor:
        ignored = [self.tasks[name].ignore_index for name in names]
        masks = zip(parts, ignored, strict=True)
        return torch.cat([padded(mask, shape, value) for mask, value in masks])

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``"<task>_ce"`` (and ``"<task>_dice"``) of every task, weighted; and the backbone's own.

        One forward pass for all. A task without samples, or without weight as yet, has loss 0.

        Raises:
            ConfigError: If the model isn't an `MDFSegmenter`, or knows other tasks or classes.
        """
        segmenter = checked(model, MDFSegmenter)
        ids = torch.tensor([segmenter.task_id(name) for name in batch["tasks"]])
        logits = model(batch["image"], ids)
        losses: dict[str, Tensor] = segmenter.backbone.losses()
        for name, rows in logits.rows.items():
            weight = self.weight(name, batch.get("progress", 1.0))
            mask = batch["mask"][rows.to(batch["mask"].device)]
            parts = self._task(name).losses_of(logits.by_task[name].float(), mask)
            losses |= {f"{name}_{kind}": weight * loss for kind, loss in parts.items()}
        return losses

    def select(self, model: nn.Module, name: str) -> "tuple[OneTask, SegmentationTask]":
        """The model for one data set, from images to logits, and its task.

        Raises:
            ConfigError: If there is no such task; lists those that there are.
        """
        return OneTask(checked(model, MDFSegmenter), name), self._task(name)

    def metrics(self) -> "MultiDatasetMetrics[SegmentationMetrics]":
        """A fresh accumulator for all data sets."""
        parts = {name: task.metrics() for name, task in self.tasks.items()}
        return MultiDatasetMetrics(parts, self.targets, ("mIoU", "mF1", "OA"), _labelled_pixels)


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


class MultiDatasetMetrics(Generic[R]):
    """Figures of several data sets, each by itself, and their means.

    ``compute()`` returns the chosen figures' means over the data sets of which anything was judged,
    each with equal weight; ``"<task>_<figure>"`` for each; the table ``per_task``; and
    ``per_class`` with rows ``"<task>/<class>"``.

    Args:
        parts: Accumulators by the name of their task.
        targets: What of a batch they judge by.
        means: Names of the figures; those that no data set has are left out.
        judged: How much there was to be right or wrong about, of one accumulator.
    """

    def __init__(
        self,
        parts: Mapping[str, R],
        targets: Sequence[str],
        means: Sequence[str],
        judged: Callable[[R], int],
    ) -> None:
        self.parts: dict[str, R] = dict(parts)
        self.targets, self.means = tuple(targets), tuple(means)
        self.judged: Callable[[R], int] = judged

    def reset(self) -> None:
        """Forget everything."""
        for part in self.parts.values():
            part.reset()

    def update(self, predictions: Sequence[Any], batch: Batch) -> None:
        """Add the predictions of one batch, each to its own data set."""
        for i, (prediction, name) in enumerate(zip(predictions, batch["tasks"], strict=True)):
            own = {target: batch[target][i : i + 1] for target in self.targets}
            self.parts[name].update([prediction], own)

    def __add__(self, other: Self) -> Self:
        parts = {name: part + other.parts[name] for name, part in self.parts.items()}
        return type(self)(parts, self.targets, self.means, self.judged)

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        judged = {name: part.compute() for name, part in self.parts.items() if self.judged(part)}
        table = {
            name: {k: v for k, v in figures.items() if isinstance(v, float)}
            for name, figures in judged.items()
        }
        means = {
            figure: sum(row[figure] for row in table.values()) / len(table) if table else math.nan
            for figure in self.means
            if all(figure in row for row in table.values())
        }
        single = {f"{name}_{k}": row[k] for name, row in table.items() for k in means}
        rows = {
            f"{name}/{label}": row
            for name, figures in judged.items()
            for label, row in figures["per_class"].items()
        }
        return {**means, **single, "per_task": table, "per_class": rows}


def _labelled_pixels(part: SegmentationMetrics) -> int:
    return int(part.confusion.target.sum())


def checked(model: nn.Module, wanted: type[M]) -> M:
    """The model, if it is of the wanted class.

    Raises:
        ConfigError: If it isn't.
    """
    if not isinstance(model, wanted):
        raise ConfigError(
            f"this task trains an {wanted.__name__}, not a {type(model).__name__}; make "
            "config.model one"
        )
    return model
