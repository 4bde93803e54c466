"""What it means to train and judge each kind of head.

A head task is a `swath.core.task.Task` that can also work on features which are there already:

* ``labels``: the targets that a sample must bring;
* ``targets(batch)``: what the head's ``losses`` takes;
* ``read(output, batch)``: predictions of the head's output, one for each image.

With these and a head (`swath.mtl.models.heads`) a further kind of task, such as oriented boxes or
heights, is complete: name both in a config. `HeadTask` adds the rest.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image
from torchvision.transforms import v2

from swath.core.data.radiometry import Radiometry
from swath.core.detection.task import DetectionTask
from swath.core.errors import ConfigError, DataError, shortened
from swath.core.inference.answers import ClassificationResult
from swath.core.inference.tiler import Scene, TilePrediction, average_scores
from swath.core.metrics.classification import ClassificationMetrics
from swath.core.metrics.segmentation import SegmentationMetrics
from swath.core.palette import default_palette
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask, collate_images
from swath.core.structures import Detections
from swath.core.task import Batch, Task
from swath.mtl.models.dino import Objects
from swath.mtl.models.encoder import Features
from swath.mtl.models.layers import resized
from swath.mtl.models.mask_decoder import UNLABELLED
from swath.mtl.models.rscotr import RSCoTr


class HeadTask(Task):
    """A task for one head of an `RSCoTr`.

    Attributes:
        head: Its name.
        labels: Names of the targets that its samples bring, to learn from or to be judged by.
        radiometry: How sensor numbers become model input.
    """

    head: str
    labels: tuple[str, ...] = ()
    radiometry: Radiometry

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
                f"({shortened(self.classes)}); make them agree"
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
        mixup: Alpha of mixup in training; 0 leaves it out.
        cutmix: Alpha of CutMix, likewise. Where both are used, each batch gets one at random.

    Source:
        RSCoTr dossier 1.3.
    """

    kind = "classification"
    score = "top1"
    labels = ("label",)
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
        return ClassificationResult(self.classes, average_scores(tiles, scene))

    def metrics(self) -> ClassificationMetrics:
        """A fresh `ClassificationMetrics`."""
        return ClassificationMetrics(self.classes)


class BoxTask(HeadTask, DetectionTask):
    """Objects as horizontal boxes, cut off at the image's border as officially.

    Args:
        classes: Names in index order.
        head: Of the model.
        radiometry: See `DetectionTask`.
        palette: See there.
        gsd_m: See there.
        protocol: See there; here COCO's.
        iou_thresholds: See there; here 0.5 alone.
        merge_iou: See there.
        tile: Side in pixels of the pieces in which larger scenes are searched by default: best
            that of the images trained on, since boxes are learnt as shares of an image. A quarter
            of it is shared with each neighbour.
    """

    labels = ("boxes", "labels")

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
        tile: int | None = None,
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
        if tile is not None:
            self.tile, self.overlap = tile, tile // 4

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples; see `DetectionTask.collate`. Boxes end where their image does."""
        batch = super().collate(samples)
        if "boxes" in batch:  # shares of an image, as which a head learns them, end there, too
            pairs = zip(batch["boxes"], batch["sizes"], strict=True)
            batch["boxes"] = [clip_boxes_to_image(boxes, size) for boxes, size in pairs]
        return batch

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
    labels = ("mask",)

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
                f"(the last is '{self.classes[-1]}')"
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
        """Labels ``(B, H, W)``, `UNLABELLED` where the data set's ``ignore_index`` was."""
        mask: Tensor = batch["mask"]
        return mask.masked_fill(mask == self.ignore_index, UNLABELLED)

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
