"""Several head tasks together: their batches, losses, figures, and answers from one pass."""

import math
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from swath.core.errors import ConfigError, DataError, suggest
from swath.core.inference.answers import ClassificationResult
from swath.core.inference.objects import DetectionResult
from swath.core.inference.results import SegmentationResult
from swath.core.inference.tiler import Scene, TilePrediction
from swath.core.sample import Sample
from swath.core.segmentation import collate_images
from swath.core.task import Batch, Task
from swath.mtl.balance import project_conflicts, weighed_by_uncertainty
from swath.mtl.data import TaskMixture, chosen, head_of
from swath.mtl.models.encoder import Features
from swath.mtl.models.rscotr import RSCoTr
from swath.mtl.tasks import HeadTask, alike, checked

Balance = Literal["equal", "uncertainty", "pcgrad"]


class MultiTask(Task):
    """Several head tasks, each with its own data sets.

    Samples say which data set they are from by ``meta["dataset"]``; see `swath.mtl.data`. Images
    without are answered by every head, from one pass of the backbone.

    Args:
        parts: The task of each data set, by ``"<head>/<data set>"``.
        weights: Factor of the losses of a head; default 1. With the published clipping and AdamW
            they do little.
        balance: How the losses of a step that holds several data sets are joined (see
            `TaskMixture`'s ``together``). ``"equal"``: their sum. ``"uncertainty"``: weighted by
            learned variances, for a model with ``uncertainty=True``. ``"pcgrad"``: gradients that
            oppose one another lose what does; costs a backward pass for each.
        score_weights: Factor of figures in the score that chooses the best checkpoint, the highest,
            by ``"<part>/<figure>"``; negative for errors. Default: 1 for the score of each part's
            task.

    Attributes:
        parts: ``parts``.
        classes: ``"<part>/<class>"`` of all parts, one after the other.
        radiometry: That of the first part, for images that are of no data set.

    Raises:
        ConfigError: If a name isn't of that form, ``weights`` names no head, or ``balance`` is
            unknown.
    """

    kind = "several tasks"
    score = "score"

    def __init__(
        self,
        parts: Mapping[str, HeadTask],
        weights: Mapping[str, float] | None = None,
        balance: Balance = "equal",
        score_weights: Mapping[str, float] | None = None,
    ) -> None:
        if balance not in ("equal", "uncertainty", "pcgrad"):
            raise ConfigError(
                f"task.balance='{balance}' is unknown; use 'equal', 'uncertainty' or 'pcgrad'"
            )
        if not parts:
            raise ConfigError("task.parts is empty; name at least one data set with its task")
        self.parts = dict(parts)
        for name, part in self.parts.items():
            part.head = head_of(name)
        self.heads = tuple(dict.fromkeys(part.head for part in self.parts.values()))
        self.weights, self.balance = dict(weights or {}), balance
        for name, value in self.weights.items():
            if name not in self.heads or value < 0:
                raise ConfigError(
                    f"task.weights.{name}={value}: name one of the heads {', '.join(self.heads)}, "
                    "with a weight of 0 or more"
                )
        self.score_weights = dict(
            score_weights or {f"{name}/{part.score}": 1.0 for name, part in self.parts.items()}
        )
        for name in self.score_weights:
            if name.rpartition("/")[0] not in self.parts:
                raise ConfigError(
                    f"task.score_weights: '{name}' names no figure of {', '.join(self.parts)}"
                )
        self.classes = tuple(f"{n}/{c}" for n, p in self.parts.items() for c in p.classes)
        self.radiometry = next(iter(self.parts.values())).radiometry
        # tiles suit the part that asks for the smallest, and objects fit into what they share
        if tiles := [p.tile for p in self.parts.values() if hasattr(p, "tile")]:
            self.tile = min(tiles)
        if overlaps := [p.overlap for p in self.parts.values() if hasattr(p, "overlap")]:
            self.overlap = max(overlaps)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """A batch of each data set among the samples.

        Returns:
            ``"parts"``, batches by name, and ``"rows"``, which samples these hold. Without a data
            set in their meta, samples become one batch, ``"image"`` and so on, for every head.

        Raises:
            DataError: If a data set is unknown, or a sample lacks its task's labels or doesn't fit.
        """
        names = [sample.meta.get("dataset") for sample in samples]
        if None in names:
            return collate_images(samples, self.radiometry)
        rows: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            rows.setdefault(str(name), []).append(i)
        return {
            "parts": {
                name: self._collated(name, [samples[i] for i in own]) for name, own in rows.items()
            },
            "rows": rows,
        }

    def _collated(self, name: str, samples: Sequence[Sample]) -> Batch:
        if name not in self.parts:
            raise DataError(
                f"a sample is from '{name}'{suggest(name, list(self.parts))}; this task knows "
                f"{', '.join(self.parts)}"
            )
        part = self.parts[name]
        for sample in samples:
            for label in part.labels:
                if label not in sample.targets:
                    raise DataError(
                        f"{name}: sample {sample.meta.get('path') or sample.meta.get('id')} has no "
                        f"'{label}', which '{part.head}' is trained on and judged by; give it "
                        "labels, or leave the data set out"
                    )
        return part.collate(samples)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``"<head>/<data set>/<term>"`` of every data set in the batch, weighted.

        Images of one size go through the backbone together.

        Raises:
            ConfigError: If the model isn't an `RSCoTr`, or has no such head or other classes.
        """
        whole = checked(model)
        parts = {name: self.parts[name].mixed(own) for name, own in batch["parts"].items()}
        features = shared_features(whole, parts)
        losses: dict[str, Tensor] = {}
        for name, part_batch in parts.items():
            own = self.parts[name].head_losses(whole, features[name], part_batch)
            weight = self.weights.get(head_of(name), 1.0)
            losses |= {
                f"{name}/{term}": weight * loss if loss.requires_grad else loss
                for term, loss in own.items()
            }
        if self.balance == "uncertainty":
            return weighed_by_uncertainty(whole, losses)
        if self.balance == "pcgrad" and len(parts) > 1:
            return project_conflicts(losses, list(parts), whole)
        return losses

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Predictions of each sample by its data set's task.

        For images that are of no data set: of each a dict with the prediction of every head.
        """
        whole = checked(model)
        if "parts" not in batch:
            return self._answer(whole, batch)
        found: dict[int, Any] = {}
        for name, rows in batch["rows"].items():
            found |= dict(
                zip(rows, self.parts[name].predict(whole, batch["parts"][name]), strict=True)
            )
        return [found[i] for i in range(len(found))]

    def _answer(self, model: RSCoTr, batch: Batch) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        for part in alike(batch):
            features = model.features(part["image"], part["sizes"])
            by_head = {
                head: task.read(model.head(head)(features), part)
                for head, task in self.by_head().items()
            }
            count = len(part["image"])
            answers += [{head: own[i] for head, own in by_head.items()} for i in range(count)]
        return answers

    def by_head(self) -> dict[str, HeadTask]:
        """The task by which each head answers: that of its first data set."""
        tasks: dict[str, HeadTask] = {}
        for part in self.parts.values():
            tasks.setdefault(part.head, part)
        return tasks

    def select(self, model: nn.Module, name: str) -> tuple[nn.Module, Task]:
        """The model with the task of one head or data set, or of several.

        Args:
            model: Returned as it is.
            name: A head, a data set, or several of them, comma-separated.

        Raises:
            ConfigError: If there is no such task; lists those that there are.
        """
        names = chosen(self.parts, [n.strip() for n in name.split(",") if n.strip()])
        heads = {head_of(n) for n in names}
        if len(heads) == 1:
            return model, self.parts[names[0]]
        return model, type(self)({n: self.parts[n] for n in names})

    def merge(self, tiles: Iterable[Any], scene: Scene) -> "SeveralResults":
        """The result of every head, from one walk over the tiles."""
        tasks = self.by_head()
        scenes = {
            name: replace(scene, task=task, out=None, probabilities=False)
            for name, task in tasks.items()
        }
        return SeveralResults(
            in_step(tiles, {name: (tasks[name].merge, scenes[name]) for name in tasks})
        )

    def report(self, model: nn.Module, metrics: Mapping[str, Any], dataset: Any) -> list[Any]:
        """Figures of every data set, and a look inside the model for every head."""
        from swath.mtl.report import figures, inside

        starts = dataset.starts if isinstance(dataset, TaskMixture) else {}
        first = {head_of(name): (name, index) for name, index in starts.items()}
        looks = [
            inside(f"Inside the model, for {head}", checked(model), self.parts[name], dataset[i])
            for head, (name, i) in first.items()
        ]
        return [*figures(metrics, self.parts), *looks]

    def metrics(self) -> "MultiTaskMetrics":
        """A fresh accumulator for all data sets."""
        return MultiTaskMetrics(
            {name: part.metrics() for name, part in self.parts.items()}, self.score_weights
        )


class MultiTaskMetrics:
    """Figures of several data sets, each by itself, and their weighted score.

    ``compute()`` returns ``"score"``, the weighted figures' sum over their number (those of data
    sets that weren't judged are left out); ``"<part>/<figure>"`` for each; and for each part's name
    the table of its own figures.

    Args:
        parts: Accumulators by the name of their data set.
        score_weights: See `MultiTask`.
    """

    def __init__(self, parts: Mapping[str, Any], score_weights: Mapping[str, float]) -> None:
        self.parts, self.score_weights = dict(parts), dict(score_weights)
        self.judged: set[str] = set()

    def reset(self) -> None:
        """Forget everything."""
        self.judged = set()
        for part in self.parts.values():
            part.reset()

    def update(self, predictions: Sequence[Any], batch: Batch) -> None:
        """Add the predictions of one batch, each to its own data set."""
        for name, rows in batch["rows"].items():
            self.parts[name].update([predictions[i] for i in rows], batch["parts"][name])
            self.judged.add(name)

    def __add__(self, other: Self) -> Self:
        total = type(self)(
            {name: part + other.parts[name] for name, part in self.parts.items()},
            self.score_weights,
        )
        total.judged = self.judged | other.judged
        return total

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        tables = {n: part.compute() for n, part in self.parts.items() if n in self.judged}
        flat = {
            f"{name}/{figure}": value
            for name, table in tables.items()
            for figure, value in table.items()
            if isinstance(value, float)
        }
        return {
            "score": weighted_score(flat, self.score_weights),
            **flat,
            **tables,
        }


def weighted_score(figures: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Sum of weighted figures over their number; NaN if none of them is there.

    Source:
        RSCoTr dossier 4, best checkpoint.
    """
    terms = [weight * figures[name] for name, weight in weights.items() if name in figures]
    return sum(terms) / len(terms) if terms else math.nan


_SUFFIXES = {SegmentationResult: ".tif", DetectionResult: ".gpkg"}


@dataclass
class SeveralResults:
    """What several tasks say about one image.

    Attributes:
        results: By the name of the head.
    """

    results: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each result into a folder, as ``<head>.tif``, ``.gpkg`` or ``.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return [
            result.save(folder / f"{name}{_SUFFIXES.get(type(result), '.json')}")
            for name, result in self.results.items()
        ]

    def summary(self) -> dict[str, Any]:
        """``"answer"``: of each head the most probable class, numbers of objects, or shares."""
        answer: dict[str, Any] = {}
        for name, result in self.results.items():
            if isinstance(result, ClassificationResult):
                answer[name] = f"{result.label} {max(result.probabilities):.2f}"
                continue
            ((_, rows),) = [(k, v) for k, v in result.summary().items() if isinstance(v, dict)]
            answer[name] = {k: v for k, v in rows.items() if v}
        return {"answer": answer}

    def plot(self, min_score: float = 0.3) -> dict[str, Any]:
        """A figure of each result that can be drawn, by the name of the head.

        Args:
            min_score: Objects below aren't drawn.
        """
        return {
            name: result.plot(min_score) if isinstance(result, DetectionResult) else result.plot()
            for name, result in self.results.items()
            if hasattr(result, "plot")
        }


def shared_features(model: RSCoTr, parts: Mapping[str, Batch]) -> dict[str, Features]:
    """Features of each part; of one pass where all images have one size."""
    shapes = {tuple(batch["image"].shape[1:]) for batch in parts.values()}
    if len(parts) == 1 or len(shapes) > 1:
        return {n: model.features(batch["image"], batch["sizes"]) for n, batch in parts.items()}
    images = torch.cat([batch["image"] for batch in parts.values()])
    sizes = [size for batch in parts.values() for size in batch["sizes"]]
    features, start = model.features(images, sizes), 0
    own = {}
    for name, batch in parts.items():
        own[name] = features.rows(start, start + len(batch["image"]))
        start += len(batch["image"])
    return own


def in_step(
    items: Iterable[TilePrediction[dict[str, Any]]],
    consumers: Mapping[str, tuple[Callable[[Iterator[Any], Scene], Any], Scene]],
) -> dict[str, Any]:
    """Let several consumers of streams walk over one stream together, each taking its own part.

    Each runs in a thread of its own and gets a tile as soon as it has dealt with the one before, so
    that no tile waits for the end.
    """
    queues = {name: queue.Queue[Any](1) for name in consumers}
    done: dict[str, Future[Any]] = {}

    def stream(name: str) -> Iterator[Any]:
        while (item := queues[name].get()) is not None:
            yield item

    def put(name: str, item: Any) -> None:
        while not done[name].done():
            try:
                return queues[name].put(item, timeout=0.1)
            except queue.Full:
                continue

    with ThreadPoolExecutor(len(consumers)) as pool:
        for name, (consume, scene) in consumers.items():
            done[name] = pool.submit(consume, stream(name), scene)
        try:
            for item in items:
                for name in consumers:
                    own = None if item.prediction is None else item.prediction[name]
                    put(name, replace(item, prediction=own))
        finally:
            for name in consumers:
                put(name, None)
        return {name: future.result() for name, future in done.items()}
