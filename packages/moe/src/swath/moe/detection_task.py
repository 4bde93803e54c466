"""Oriented detection of several data sets by one model, as a task; see `swath.moe.task`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swath.core.detection.task import DetectionTask
from swath.core.metrics.detection import DetectionMetrics
from swath.core.structures import Detections
from swath.core.task import Batch
from swath.moe.models.mdf_detector import MDFDetector
from swath.moe.task import MultiDatasetMetrics, MultiDatasetTask, checked


class MultiDatasetDetectionTask(MultiDatasetTask[DetectionTask]):
    """Train and judge an `MDFDetector`; for the arguments see `MultiDatasetTask`."""

    kind = "detection of several data sets"
    score = "mAP"
    targets = ("boxes", "labels", "difficult")

    def _joined(
        self, target: str, names: Sequence[str], parts: Sequence[Any], shape: tuple[int, int]
    ) -> list[Tensor]:
        return [tensor for part in parts for tensor in part]

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``"<task>_rpn_cls"``, ``"<task>_rpn_box"``, ``"<task>_roi_cls"``, ``"<task>_roi_box"``.

        One forward pass for all, each weighted; ``"<task>_roi_accuracy"``, a figure; and the
        backbone's own.

        Raises:
            ConfigError: If the model isn't an `MDFDetector`, or knows other tasks or classes.
        """
        detector = checked(model, MDFDetector)
        for name, task in self.tasks.items():
            task.check_classes(detector.tasks.get(name, len(task.classes)))
        ids = torch.tensor([detector.task_id(name) for name in batch["tasks"]])
        learnt = [
            self.tasks[name].large_enough(boxes, labels)
            for name, boxes, labels in zip(
                batch["tasks"], batch["boxes"], batch["labels"], strict=True
            )
        ]
        boxes, labels = [b for b, _ in learnt], [n for _, n in learnt]
        by_task = model(batch["image"], ids, batch["sizes"], boxes, labels)
        losses: dict[str, Tensor] = detector.backbone.losses()
        for name, parts in by_task.items():
            weight = self.weight(name, batch.get("progress", 1.0))
            losses |= {
                f"{name}_{kind}": weight * loss if loss.requires_grad else loss
                for kind, loss in parts.items()
            }
        return losses

    def select(self, model: nn.Module, name: str) -> "tuple[OneDetector, DetectionTask]":
        """The model for one data set, from images to objects, and its task.

        Raises:
            ConfigError: If there is no such task; lists those that there are.
        """
        return OneDetector(checked(model, MDFDetector), name), self._task(name)

    def metrics(self) -> MultiDatasetMetrics[DetectionMetrics]:
        """A fresh accumulator for all data sets."""
        parts = {name: task.metrics() for name, task in self.tasks.items()}
        return MultiDatasetMetrics(parts, self.targets, ("mAP", "AP50", "AP75"), _objects)


class OneDetector(nn.Module):
    """One task of a detector as a model of its own; see `DetectionTask` for its calls.

    Args:
        model: The whole; shared, not copied.
        name: Of the task.

    Attributes:
        num_classes: Classes of the task.
        stride: Images are padded to its multiples.

    Raises:
        ConfigError: If the model knows no such task.
    """

    def __init__(self, model: MDFDetector, name: str) -> None:
        super().__init__()
        self.model, self.name, self.number = model, name, model.task_id(name)
        self.num_classes, self.stride = model.tasks[name], model.stride

    def forward(self, image: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """The objects of each image."""
        found: list[Detections] = self.model(image, self.number, sizes)
        return found


def _objects(part: DetectionMetrics) -> int:
    return part.num_objects
