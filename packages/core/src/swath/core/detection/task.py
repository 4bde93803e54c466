"""Detection as a task: what is learnt from boxes, how detectors are judged, how tiles join."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.tv_tensors import BoundingBoxes

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError, DataError, shortened
from swath.core.metrics.detection import DetectionMetrics, Protocol
from swath.core.palette import default_palette
from swath.core.sample import Sample
from swath.core.segmentation import collate_images
from swath.core.structures import Detections, RotatedBoxes
from swath.core.task import Batch, Task, labels_of
from swath.kernels import boxes_to_hbb, hbb_to_boxes


class DetectionTask(Task):
    """Find objects by rotated or horizontal boxes.

    Objects marked as difficult are learnt like all others, and judged as `DetectionMetrics` says.

    The model is called ``model(image, sizes, boxes, labels) -> {name: loss}`` in training and
    ``model(image, sizes) -> list[Detections]`` otherwise: ``image`` ``(B, C, H, W)``, ``sizes`` the
    ``(h, w)`` of each image in it, ``boxes`` and ``labels`` lists of one tensor an image.

    Args:
        classes: Names in index order.
        radiometry: How the sensor's numbers become the model's; default: 8-bit RGB, normalised by
            ImageNet's mean and deviation.
        rotated: Whether boxes have angles; horizontal ones get the angle zero then, and otherwise
            rotated ones are enclosed.
        palette: A colour per class.
        gsd_m: Metres a pixel for which the model is meant.
        zoom: Images are enlarged so much before they are searched, where the model was trained on
            enlarged ones; boxes come back in pixels of the image.
        protocol: How average precision is computed; see `DetectionMetrics`.
        iou_thresholds: See `DetectionMetrics`.
        merge_iou: Of two boxes of a class that overlap more, the worse goes, where tiles are
            joined.
        min_side_px: Objects with a shorter side aren't learnt; one without any extent never is.

    Raises:
        ConfigError: If an argument is out of range.
    """

    kind = "detection"
    score = "mAP"
    dense = False
    overlap = 200  # the published gap of DOTA's tiles: larger than most objects

    def __init__(
        self,
        classes: Sequence[str],
        radiometry: Radiometry | None = None,
        rotated: bool = True,
        palette: Sequence[Sequence[int]] | None = None,
        gsd_m: float | None = None,
        zoom: float = 1.0,
        protocol: Protocol = "voc12",
        iou_thresholds: Sequence[float] | None = None,
        merge_iou: float = 0.1,
        min_side_px: float = 1.0,
    ) -> None:
        if zoom <= 0 or not 0 <= merge_iou <= 1 or min_side_px < 0:
            raise ConfigError(
                f"task.zoom={zoom} must be above 0, task.merge_iou={merge_iou} in 0..1 and "
                f"task.min_side_px={min_side_px} 0 or more"
            )
        self.classes, self.gsd_m = tuple(classes), gsd_m
        self.radiometry = radiometry if radiometry is not None else Radiometry.rgb8()
        self.palette = tuple(
            (int(r), int(g), int(b)) for r, g, b in palette or default_palette(len(self.classes))
        )
        self.rotated, self.zoom, self.merge_iou = rotated, zoom, merge_iou
        self.min_side_px = min_side_px
        self._metric_options: dict[str, Any] = {
            "protocol": protocol,
            "iou_thresholds": iou_thresholds,
        }
        self.metrics()  # refuses options that make no sense

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples, scaled for the model; smaller ones are padded right and below.

        Returns:
            ``"image"`` float32 ``(B, C, H, W)``, ``"sizes"``, ``"meta"``; and where samples have
            boxes ``"boxes"``, ``"labels"`` and ``"difficult"``, lists of one tensor an image.

        Raises:
            DataError: If dtype or band count don't fit, a box isn't finite or has a negative side,
                or a label isn't of a class.
        """
        batch = collate_images(samples, self.radiometry)
        if all("boxes" in s.targets for s in samples):
            objects = [self._objects(s) for s in samples]
            names = ("boxes", "labels", "difficult")
            batch |= {name: [o[i] for o in objects] for i, name in enumerate(names)}
        return batch

    def _objects(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        where = sample.meta.get("label_path") or sample.meta.get("path") or sample.meta.get("id")
        boxes = self._boxes(sample.targets["boxes"])
        labels = sample.targets["labels"].long()
        difficult = sample.targets.get("difficult")
        if difficult is None:
            difficult = torch.zeros(len(boxes), dtype=torch.bool)
        sides = boxes[:, 2:4] if self.rotated else boxes[:, 2:] - boxes[:, :2]
        wrong = ~boxes.isfinite().all(1) | (sides < 0).any(1)
        if wrong.any():
            number = int(wrong.nonzero()[0, 0])
            raise DataError(
                f"{where}: box {number + 1} is {[round(v, 2) for v in boxes[number].tolist()]}; "
                "boxes need finite numbers and no negative side (swath data check finds them all)"
            )
        strange = labels[(labels < 0) | (labels >= len(self.classes))]
        if len(strange):
            raise DataError(
                f"{where}: holds label {int(strange[0])}, but there are {len(self.classes)} "
                f"classes ({shortened(self.classes)}); map the labels with the data set's protocol"
            )
        return boxes, labels, difficult

    def _boxes(self, boxes: Tensor) -> Tensor:
        """Plain float32 boxes of the task's kind."""
        plain = boxes.as_subclass(Tensor).float()
        if isinstance(boxes, RotatedBoxes):
            return plain if self.rotated else boxes_to_hbb(plain)
        assert isinstance(boxes, BoundingBoxes)  # the only other kind there is
        return hbb_to_boxes(plain) if self.rotated else plain

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """What the model says about its boxes and labels.

        Raises:
            ConfigError: If the model knows another number of classes.
        """
        self.check_classes(getattr(model, "num_classes", len(self.classes)))
        learnt = [
            self.large_enough(boxes, labels)
            for boxes, labels in zip(labels_of(batch, "boxes"), batch["labels"], strict=True)
        ]
        boxes, labels = [b for b, _ in learnt], [n for _, n in learnt]
        losses: dict[str, Tensor] = model(batch["image"], batch["sizes"], boxes, labels)
        return losses

    def check_classes(self, known: int) -> None:
        """Refuse a model for another number of classes.

        Raises:
            ConfigError: With both numbers.
        """
        if known != len(self.classes):
            raise ConfigError(
                f"the model scores {known} classes, the task has {len(self.classes)}; make "
                "model.num_classes and task.classes agree"
            )

    def large_enough(self, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The objects of an image that can be learnt: see ``min_side_px``."""
        sides = boxes[:, 2:4] if self.rotated else boxes[:, 2:] - boxes[:, :2]
        keep = (sides > 0).all(1) & (sides >= self.min_side_px).all(1)
        return boxes[keep], labels[keep]

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> list[Detections]:
        """The objects of each image, in its pixels.

        Images of different sizes run one by one, so that a prediction never depends on what else
        is in the batch.
        """
        images: Tensor = batch["image"]
        sizes: list[tuple[int, int]] = batch.get("sizes") or [images.shape[-2:]] * len(images)
        if all((h, w) == tuple(images.shape[-2:]) for h, w in sizes):
            return self._search(model, images)
        return [
            self._search(model, image[None, :, :h, :w])[0]
            for image, (h, w) in zip(images, sizes, strict=True)
        ]

    def _search(self, model: nn.Module, images: Tensor) -> list[Detections]:
        if self.zoom != 1:
            size = [round(side * self.zoom) for side in images.shape[-2:]]
            images = F.interpolate(images, size, mode="bilinear", antialias=self.zoom < 1)
        height, width = images.shape[-2:]
        found: list[Detections] = model(images, [(height, width)] * len(images))
        return [Detections(self._unzoomed(d.boxes), d.scores, d.labels) for d in found]

    def _unzoomed(self, boxes: Tensor) -> Tensor:
        if self.rotated:
            return torch.cat((boxes[:, :4] / self.zoom, boxes[:, 4:]), 1)
        return boxes / self.zoom

    def merge(self, tiles: Iterable[Any], scene: Any) -> Any:
        """Join the objects of a scene's tiles; see `merge_detections`."""
        from swath.core.detection.merge import merge_detections

        return merge_detections(tiles, scene, self.merge_iou)

    def metrics(self) -> DetectionMetrics:
        """A fresh `DetectionMetrics` for these classes."""
        return DetectionMetrics(self.classes, **self._metric_options)
