"""What it means to train and judge each kind of head, and several together.

A head task is a `swath.core.task.Task` that can also work on features which are there already:

* ``targets(batch)``: what the head's ``losses`` takes;
* ``read(output, batch)``: predictions of the head's output, one for each image.

With these and a head (`swath.mtl.models.heads`) a further kind of task, such as oriented boxes or
heights, is complete: name both in a config. `HeadTask` adds the rest.
"""

import math
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from swath.core.data.radiometry import Radiometry
from swath.core.detection.task import DetectionTask
from swath.core.errors import ConfigError, DataError, suggest
from swath.core.inference.answers import ClassificationResult
from swath.core.inference.objects import DetectionResult
from swath.core.inference.results import SegmentationResult
from swath.core.inference.tiler import Scene, TilePrediction
from swath.core.metrics.classification import ClassificationMetrics
from swath.core.metrics.segmentation import SegmentationMetrics
from swath.core.palette import default_palette
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask, collate_images
from swath.core.structures import Detections
from swath.core.task import Batch, Task
from swath.mtl.balance import project_conflicts
from swath.mtl.data import TaskMixture, chosen, head_of
from swath.mtl.models.dino import Objects
from swath.mtl.models.encoder import Features
from swath.mtl.models.layers import resized
from swath.mtl.models.rscotr import RSCoTr


class HeadTask(Task):
    """A task for one head of an `RSCoTr`.

    Attributes:
        head: Its name.
    """

    head: str

    def targets(self, batch: Batch) -> Any:
        """What the head's ``losses`` takes."""
        raise NotImplementedError

    def mixed(self, batch: Batch) -> Batch:
        """The batch as it is trained on, where its images are mixed with one another."""
        return batch

    def read(self, output: Any, batch: Batch) -> list[Any]:
        """Predictions of the head's output, one for each image."""
        raise NotImplementedError

    def check_head(self, head: nn.Module) -> None:
        """Refuse a head for other classes.

        Raises:
            ConfigError: If its ``num_classes`` is another.
        """
        known = getattr(head, "num_classes", len(self.classes))
        if known != len(self.classes):
            raise ConfigError(
                f"the head '{self.head}' knows {known} classes, the task has {len(self.classes)} "
                f"({', '.join(self.classes[:8])}); make them agree"
            )

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The head's losses.

        Raises:
            ConfigError: If the model isn't an `RSCoTr`, or the head is for other classes.
        """
        whole, mixed = checked(model), self.mixed(batch)
        return self.head_losses(whole, whole.features(mixed["image"], mixed["sizes"]), mixed)

    def head_losses(self, model: RSCoTr, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The same of features that are there already."""
        head = model.head(self.head)
        self.check_head(head)
        return head.losses(features, self.targets(batch))

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """One prediction per image.

        Images of different sizes run one by one, so that a prediction never depends on what else
        is in the batch.
        """
        whole = checked(model)
        head = whole.head(self.head)
        return [
            prediction
            for part in alike(batch)
            for prediction in self.read(head(whole.features(part["image"], part["sizes"])), part)
        ]

    def report(self, model: nn.Module, metrics: Mapping[str, Any], dataset: Any) -> list[Any]:
        """A look inside the model, at the first sample; see `Task.report`."""
        from swath.mtl.report import inside

        return [inside("Inside the model", checked(model), self, dataset[0])]


class SceneClassificationTask(HeadTask):
    """One class for each image.

    Args:
        classes: Names in index order.
        head: Of the model.
        radiometry: How sensor numbers become model input; default 8-bit RGB, ImageNet's statistics.
        mixup: Alpha of mixup and
        cutmix: of CutMix, in training; 0 leaves it out. Of those that are in, each batch gets one.

    Source:
        RSCoTr dossier 1.3.
    """

    kind = "classification"
    score = "top1"
    dense = False

    def __init__(
        self,
        classes: Sequence[str],
        head: str = "cls",
        radiometry: Radiometry | None = None,
        mixup: float = 0.8,
        cutmix: float = 1.0,
    ) -> None:
        self.classes, self.head = tuple(classes), head
        self.palette = default_palette(len(self.classes))
        self.radiometry = radiometry if radiometry is not None else Radiometry.rgb8()
        count = len(self.classes)
        mixes = [v2.MixUp(alpha=mixup, num_classes=count)] if mixup else []
        mixes += [v2.CutMix(alpha=cutmix, num_classes=count)] if cutmix else []
        self.mix = v2.RandomChoice(mixes) if mixes else None

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples; see `collate_images`. ``"label"`` int64 ``(B,)`` if they have labels.

        Raises:
            DataError: If dtype or band count don't fit, or a label isn't of a class.
        """
        batch = collate_images(samples, self.radiometry)
        if all("label" in s.targets for s in samples):
            for sample in samples:
                if not 0 <= int(sample.targets["label"]) < len(self.classes):
                    raise DataError(
                        f"{sample.meta.get('path') or sample.meta.get('id')}: label "
                        f"{sample.targets['label']} is of none of the {len(self.classes)} classes"
                    )
            batch["label"] = torch.tensor([int(s.targets["label"]) for s in samples])
        return batch

    def mixed(self, batch: Batch) -> Batch:
        """The batch with images and labels mixed; a batch of one is left alone."""
        if self.mix is None or len(batch["image"]) < 2:
            return batch
        image, label = self.mix(batch["image"], batch["label"])
        return batch | {"image": image, "label": label}

    def targets(self, batch: Batch) -> Tensor:
        """Classes ``(B,)``, or probabilities ``(B, K)``."""
        label: Tensor = batch["label"]
        return label

    def read(self, output: Tensor, batch: Batch) -> list[Tensor]:
        """Probabilities ``(K,)``."""
        return list(output.float().softmax(1))

    def merge(self, tiles: Iterable[TilePrediction[Tensor]], scene: Scene) -> ClassificationResult:
        """Mean probabilities of a scene's tiles, by their share of valid pixels."""
        total = torch.zeros(len(self.classes), dtype=torch.float64)
        weight = 0
        for item in tiles:
            if item.prediction is not None and item.valid is not None:
                seen = int(item.valid.sum())
                total += item.prediction.double().cpu() * seen
                weight += seen
        if not weight:
            raise DataError(f"{scene.info.name} holds no valid pixel; check its nodata value")
        return ClassificationResult(self.classes, tuple((total / weight).tolist()))

    def metrics(self) -> ClassificationMetrics:
        """A fresh `ClassificationMetrics`."""
        return ClassificationMetrics(self.classes)


class BoxTask(HeadTask, DetectionTask):
    """Objects as horizontal boxes.

    Args:
        classes: Names in index order.
        head: Of the model.
        radiometry: See `DetectionTask`; so are the others. Judged by COCO's AP at IoU 0.5.
        palette: See there.
        gsd_m: See there.
        protocol: See there.
        iou_thresholds: See there.
        merge_iou: See there.
    """

    def __init__(
        self,
        classes: Sequence[str],
        head: str = "det",
        radiometry: Radiometry | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        gsd_m: float | None = None,
        protocol: Literal["voc07", "voc12", "coco"] = "coco",
        iou_thresholds: Sequence[float] = (0.5,),
        merge_iou: float = 0.5,
    ) -> None:
        super().__init__(
            classes,
            radiometry,
            rotated=False,
            palette=palette,
            gsd_m=gsd_m,
            protocol=protocol,
            iou_thresholds=iou_thresholds,
            merge_iou=merge_iou,
        )
        self.head = head

    def targets(self, batch: Batch) -> list[Objects]:
        """Boxes and labels of each image."""
        pairs = zip(batch["boxes"], batch["labels"], strict=True)
        return [Objects(*self.large_enough(boxes, labels)) for boxes, labels in pairs]

    def read(self, output: list[Detections], batch: Batch) -> list[Detections]:
        """As the head gives them."""
        return output


class MaskTask(HeadTask, SegmentationTask):
    """A class for every pixel.

    Args:
        classes: Names in index order.
        head: Of the model.
        unjudged: The last of the classes, if they are learnt but neither judged nor answered with,
            such as Potsdam's clutter.
        official_argmax: Let pixels be unjudged all the same, or even a query that is no class, as
            officially.
        radiometry: See `SegmentationTask`.
        ignore_index: Label of pixels that are neither trained on nor judged.
        palette: One ``(red, green, blue)`` per class.
        gsd_m: See `SegmentationTask`.

    Raises:
        ConfigError: If ``unjudged`` aren't the last classes.

    Source:
        RSCoTr dossier 1.5 and 4.
    """

    score = "mF1"

    def __init__(
        self,
        classes: Sequence[str],
        head: str = "seg",
        unjudged: Sequence[str] = (),
        official_argmax: bool = False,
        radiometry: Radiometry | None = None,
        ignore_index: int = 255,
        palette: Sequence[Sequence[int]] | None = None,
        gsd_m: float | None = None,
    ) -> None:
        super().__init__(
            classes,
            radiometry=radiometry,
            ignore_index=ignore_index,
            palette=palette,
            gsd_m=gsd_m,
        )
        self.head, self.official_argmax = head, official_argmax
        self.judged = len(classes) - len(unjudged)
        if tuple(unjudged) != self.classes[self.judged :]:
            raise ConfigError(
                f"task.unjudged={list(unjudged)} must be the last of the classes "
                f"({', '.join(self.classes)})"
            )

    def check_head(self, head: nn.Module) -> None:
        """Refuse a head for other classes, or with fewer channels than labels.

        Raises:
            ConfigError: If it is.
        """
        known, channels = getattr(head, "num_classes", 0), getattr(head, "out_channels", 0)
        if known != self.judged or channels < len(self.classes):
            raise ConfigError(
                f"the head '{self.head}' knows {known} classes in {channels} channels, the task "
                f"has {self.judged} and {len(self.classes)} labels; give the head "
                f"num_classes={self.judged} and num_queries={len(self.classes)} or more"
            )

    def targets(self, batch: Batch) -> Tensor:
        """Labels ``(B, H, W)``."""
        mask: Tensor = batch["mask"]
        return mask

    def read(self, output: Tensor, batch: Batch) -> list[Tensor]:
        """Logits ``(K, h, w)`` at the images' size."""
        channels = output.shape[1] if self.official_argmax else self.judged
        return list(resized(output[:, :channels].float(), batch["image"].shape[-2:]))

    def merge(self, tiles: Iterable[Any], scene: Scene) -> Any:
        """Blend the logits of a scene's tiles; queries that are no class have no say."""
        return super().merge(_of_classes(tiles, len(self.classes)), scene)

    def metrics(self) -> "MaskMetrics":  # type: ignore[override]  # the same figures, and more
        """A fresh `MaskMetrics`."""
        return MaskMetrics(self.classes, self.judged, self.ignore_index)


def _of_classes(tiles: Iterable[TilePrediction[Tensor]], count: int) -> Iterator[Any]:
    for item in tiles:
        logits = item.prediction
        yield item if logits is None else replace(item, prediction=logits[:count])


class MaskMetrics:
    """Segmentation figures where some classes are learnt, but not judged.

    ``compute()`` returns what `SegmentationMetrics` gives of the judged classes: pixels labelled
    otherwise don't count, pixels predicted otherwise are misses. Where there are unjudged classes,
    ``official`` holds the figures as RSCoTr reports them. There, an unjudged class counts as 0 in
    ``mIoU`` and ``mPrecision`` as soon as one valid pixel is predicted to be it, and what is
    predicted on void pixels counts as wrong.

    Args:
        classes: Names in index order.
        judged: How many of them are judged, the first ones.
        ignore_index: Label that is left out.

    Source:
        RSCoTr dossier 4.
    """

    def __init__(self, classes: Sequence[str], judged: int, ignore_index: int) -> None:
        self.classes, self.judged, self.ignore_index = tuple(classes), judged, ignore_index
        names = (*classes, "none of them")
        self.figures = SegmentationMetrics(names, ignore_index, mean_without=names[judged:])
        self.official = SegmentationMetrics(names, ignore_index, mean_without=names[-1:])

    def reset(self) -> None:
        """Forget everything."""
        self.figures.reset()
        self.official.reset()

    def update(self, predictions: Sequence[Tensor], batch: Batch) -> None:
        """Add one batch; see `SegmentationMetrics.update`."""
        none = len(self.classes)
        indices = [p.argmax(0) if p.ndim == 3 else p.long() for p in predictions]
        indices = [i.clamp(max=none) for i in indices]
        mask = batch["mask"].long()
        void = mask == self.ignore_index
        mask = mask.masked_fill(mask >= self.judged, self.ignore_index)
        self.figures.update(indices, {"mask": mask})
        self.official.update(indices, {"mask": mask.masked_fill(void, none)})

    def __add__(self, other: Self) -> Self:
        total = type(self)(self.classes, self.judged, self.ignore_index)
        total.figures = self.figures + other.figures
        total.official = self.official + other.official
        return total

    def compute(self) -> dict[str, Any]:
        """All figures so far; see the class."""
        figures, names = self.figures.compute(), self.classes[: self.judged]
        if self.judged < len(self.classes):
            figures["official"] = self._official()
        figures["per_class"] = {name: figures["per_class"][name] for name in names}
        if "confusion" in figures:
            rows = figures["confusion"][: self.judged]
            figures["confusion"] = [row[: self.judged] for row in rows]
        return figures

    def _official(self) -> dict[str, float]:
        judged, figures = slice(self.judged), self.official.compute()
        counts = self.official.confusion
        hits, pixels = counts.intersection[judged].sum(), counts.target[judged].sum()
        return {
            "aAcc": float(hits / pixels) if pixels else math.nan,
            "mFscore": float(counts.f1()[judged].nanmean()),
            "mIoU": figures["mIoU"],
            "mPrecision": figures["mPrecision"],
            "mRecall": float(counts.recall()[judged].nanmean()),
        }


# --- several together -----------------------------------------------------------------------------

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
        score_weights: Factor of figures in the score that chooses the best checkpoint, by
            ``"<part>/<figure>"``; default: 1 for the score of each part's task.

    Attributes:
        parts: ``parts``.
        classes: ``"<part>/<class>"`` of all parts, one after the other.
        palette: A colour for each of these.
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
        self.palette = tuple(c for p in self.parts.values() for c in p.palette)  # type: ignore[attr-defined]
        self.radiometry = next(iter(self.parts.values())).radiometry  # type: ignore[attr-defined]
        overlaps = [p.overlap for p in self.parts.values() if hasattr(p, "overlap")]
        if overlaps:  # objects must fit into what tiles share
            self.overlap = max(overlaps)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """A batch of each data set among the samples.

        Returns:
            ``"parts"``, batches by name, and ``"rows"``, which samples these hold. Without a data
            set in their meta, samples become one batch, ``"image"`` and so on, for every head.

        Raises:
            DataError: If a data set is unknown, or a sample doesn't fit its task.
        """
        names = [sample.meta.get("dataset") for sample in samples]
        if None in names:
            return collate_images(samples, self.radiometry)
        rows: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            rows.setdefault(str(name), []).append(i)
        return {
            "parts": {
                name: self._part(name).collate([samples[i] for i in own])
                for name, own in rows.items()
            },
            "rows": rows,
        }

    def _part(self, name: str) -> HeadTask:
        if name not in self.parts:
            raise DataError(
                f"a sample is from '{name}'{suggest(name, list(self.parts))}; this task knows "
                f"{', '.join(self.parts)}"
            )
        return self.parts[name]

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
        """A figure of each result, by the name of the head.

        Args:
            min_score: Objects below aren't drawn.
        """
        return {
            name: result.plot(min_score) if isinstance(result, DetectionResult) else result.plot()
            for name, result in self.results.items()
        }


def checked(model: nn.Module) -> RSCoTr:
    """The model as an `RSCoTr`.

    Raises:
        ConfigError: If it is something else.
    """
    if not isinstance(model, RSCoTr):
        raise ConfigError(f"this task is for RSCoTr models, not for a {type(model).__name__}")
    return model


def alike(batch: Batch) -> list[Batch]:
    """The batch if its images fill it; otherwise each image by itself, without padding."""
    images: Tensor = batch["image"]
    if all((h, w) == tuple(images.shape[-2:]) for h, w in batch["sizes"]):
        return [batch]
    return [
        {"image": image[None, :, :h, :w], "sizes": [(h, w)]}
        for image, (h, w) in zip(images, batch["sizes"], strict=True)
    ]


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


def weighed_by_uncertainty(model: RSCoTr, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each head's losses times exp(-s), and s itself, its learned logarithm of a variance.

    Raises:
        ConfigError: If the model has none to learn.

    Source:
        Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses", equation 10.
    """
    if model.log_variances is None:
        raise ConfigError("task.balance='uncertainty' needs model.uncertainty=True")
    weighed = {}
    for name, loss in losses.items():
        variance = model.log_variances[head_of(name)]
        weighed[name] = loss * (-variance).exp() if loss.requires_grad else loss
    for head in {head_of(name) for name in losses}:
        weighed[f"{head}/log_variance"] = model.log_variances[head]
    return weighed


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
