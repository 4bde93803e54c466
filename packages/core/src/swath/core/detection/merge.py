"""Objects of a scene's tiles, put together."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from swath.core.detection.nms import join, nms
from swath.core.inference.objects import DetectionResult
from swath.core.inference.tiler import Plan, Scene, Tile, TilePrediction
from swath.core.structures import Detections
from swath.kernels import boxes_to_hbb, hbb_to_boxes, rotated_iou

CUT_PX = 2.0
"""A box that comes this near to a border at which a tile was cut may be part of an object."""

CONTAINED = 0.7
"""Share of a cut box inside another one of its class from which it is part of that object."""


def merge_detections(
    tiles: Iterable[TilePrediction[Detections]], scene: Scene, iou_threshold: float
) -> DetectionResult:
    """Objects of a whole scene.

    What several tiles saw is kept once, by class-wise suppression over the scene, in which a box
    that a tile's border has cut gives way to any whole one; and to one that contains most of it.
    What lies on nodata alone is no object. Only boxes stay in memory.

    Args:
        tiles: Objects of every tile, in pixels of the tile.
        scene: Where the tiles lie, and whose classes these are.
        iou_threshold: Of two boxes of a class that overlap more, the worse goes.
    """
    parts, cuts = [], []
    for item in tiles:
        if item.prediction is not None:
            found = item.prediction
            if item.valid is not None:
                found = found.select(_seen(found.boxes, item.valid))
            placed = shifted(found, item.tile.x.start, item.tile.y.start)
            parts.append(placed)
            cuts.append(_cut(placed.boxes, item.tile, scene.plan))
    classes = tuple(scene.task.classes)
    if not parts:
        none = np.zeros((0, 5)), np.zeros(0, np.int64), np.zeros(0)
        return DetectionResult(scene.info, classes, *none, image=scene.image)
    found, cut = join(parts), torch.cat(cuts)
    # what no border has cut comes first, whatever its score
    ranked = Detections(found.boxes, found.scores + (~cut).to(found.scores), found.labels)
    keep = nms(ranked, iou_threshold)
    found, cut = found.select(keep), cut[keep]
    found = found.select(~_parts_of_others(found, cut))
    found = found.select(found.scores.argsort(descending=True, stable=True))
    return DetectionResult(
        scene.info,
        classes,
        found.boxes.cpu().numpy(),
        found.labels.cpu().numpy(),
        found.scores.cpu().numpy(),
        image=scene.image,
    )


def shifted(found: Detections, x: float, y: float) -> Detections:
    """The objects of a window in the pixels of what it was cut out of.

    Args:
        found: In pixels of the window.
        x: Column of the window's first pixel.
        y: Row of the window's first pixel.
    """
    way = [x, y, 0, 0, 0] if found.boxes.shape[1] == 5 else [x, y, x, y]
    boxes = found.boxes + found.boxes.new_tensor(way)
    return Detections(boxes, found.scores, found.labels)


def _seen(boxes: Tensor, valid: NDArray[np.bool_]) -> Tensor:
    """Which boxes ``(N, ...)`` of a tile reach over a pixel that the sensor saw, of ``(h, w)``."""
    extent = (boxes_to_hbb(boxes) if boxes.shape[1] == 5 else boxes).cpu()
    size = torch.tensor(valid.shape[::-1])
    left, top = extent[:, :2].floor().long().clamp(min=0).minimum(size).T
    right, bottom = extent[:, 2:].ceil().long().clamp(min=0).minimum(size).T
    before = F.pad(torch.from_numpy(valid).long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    inside = before[bottom, right] - before[top, right] - before[bottom, left] + before[top, left]
    return (inside > 0).to(boxes.device)


def _cut(boxes: Tensor, tile: Tile, plan: Plan) -> Tensor:
    """Which boxes ``(N, ...)`` reach a border of the tile behind which the scene goes on."""
    corners = boxes_to_hbb(boxes) if boxes.shape[1] == 5 else boxes
    x, y = tile.x, tile.y
    low = corners[:, :2] < corners.new_tensor([x.start + CUT_PX, y.start + CUT_PX])
    high = corners[:, 2:] > corners.new_tensor([x.stop - CUT_PX, y.stop - CUT_PX])
    goes_on_low = torch.tensor([x.start > 0, y.start > 0], device=boxes.device)
    goes_on_high = torch.tensor([x.stop < plan.width, y.stop < plan.height], device=boxes.device)
    return ((low & goes_on_low) | (high & goes_on_high)).any(1)


def _parts_of_others(found: Detections, cut: Tensor) -> Tensor:
    """Which objects are cut and lie mostly inside a larger one of their class."""
    part = torch.zeros_like(cut)
    boxes = found.boxes if found.boxes.shape[1] == 5 else hbb_to_boxes(found.boxes)
    area = boxes[:, 2] * boxes[:, 3]
    for label in torch.unique(found.labels[cut]):
        own = (found.labels == label).nonzero()[:, 0]
        candidates = own[cut[own]]
        inside = rotated_iou(boxes[candidates], boxes[own], mode="iof")
        larger = area[own] > area[candidates, None]
        part[candidates] = ((inside >= CONTAINED) & larger).any(1)
    return part
