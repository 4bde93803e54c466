"""What the report of an RSCoTr has beside its figures: a look inside the model."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from swath.core.sample import Sample
from swath.core.task import Batch
from swath.core.viz import page
from swath.core.viz.overlay import display_rgb
from swath.core.viz.page import Section
from swath.core.viz.report import metrics_sections
from swath.mtl.models.rscotr import RSCoTr
from swath.mtl.pictures import attention_figure, attention_points, feature_figure
from swath.mtl.tasks import HeadTask


def figures(metrics: Mapping[str, Any], parts: Mapping[str, HeadTask]) -> list[Section]:
    """Tables and confusion matrices of each data set that was judged."""
    return [
        Section(f"{name}: {section.title.lower()}", section.body)
        for name, part in parts.items()
        if name in metrics
        for section in metrics_sections(metrics[name], part)
    ]


def inside(title: str, model: RSCoTr, task: HeadTask, sample: Sample) -> Section:
    """Feature maps of a sample, and where the shared encoder looks in it for the task's head.

    The encoder is asked at the largest object, where the sample has boxes, else in the middle.
    """
    batch = task.collate([sample])
    image = batch["image"][0].to(next(model.parameters()).device)
    caption = "Stages: three main components as colours, then the strongest channels"
    charts = [page.chart(feature_figure(model, image), caption)]
    points = attention_points(model, image, _place(batch), task.head)
    if points is not None:
        valid = None if sample.valid is None else sample.valid.numpy()
        picture = display_rgb(np.asarray(sample.image), valid)
        caption = f"Where the encoder's last layer looks from the cross, for {task.head}"
        charts.append(page.chart(attention_figure(picture, points), caption))
    return Section(title, "".join(charts))


def _place(batch: Batch) -> tuple[float, float]:
    """Centre x, y of the largest of the boxes ``(N, 4)`` of a batch of one, in 0..1."""
    boxes = batch.get("boxes", [()])[0]
    if not len(boxes):
        return 0.5, 0.5
    height, width = batch["image"].shape[-2:]
    x1, y1, x2, y2 = boxes[(boxes[:, 2:] - boxes[:, :2]).prod(1).argmax()].tolist()
    return (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
