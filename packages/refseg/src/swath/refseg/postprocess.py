"""From probability maps to boxes, labels and scores: what turns one network into eight tasks.

Official code: https://github.com/1e12Leon/RemoteSAM, `tasks/code/model.py` and `utils/M2B.py`;
dossier section 3. Pure functions of arrays.
"""

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from swath.core.errors import ConfigError

Mask = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
Boxes = NDArray[np.float64]
"""``(N, 5)``: x1, y1, x2, y2 (exclusive on the right and below) and score; ``(N, 9)`` if oriented:
four corners x, y and score."""

MIN_SCORE = 0.01
"""Boxes whose mean probability is below this are dropped."""

MIN_SHARE = 0.2
"""Of the parts that edges cut an object into, those above this share of the largest are kept."""

NMS_IOU = 0.5


def mask_to_boxes(
    mask: Mask,
    probabilities: Probabilities,
    edges: NDArray[np.bool_] | None = None,
    *,
    oriented: bool = False,
    min_score: float = MIN_SCORE,
    min_share: float = MIN_SHARE,
    drop_inner: bool = True,
) -> Boxes:
    """A box around each 8-connected object of a mask.

    Args:
        mask: ``(H, W)``, 0 or 1.
        probabilities: ``(H, W)``; a box's score is their mean over the object.
        edges: ``(H, W)``, True on the boundaries between touching objects, which are cut off
            before boxes are drawn; an object that is all boundary disappears.
        oriented: Rectangles of least area instead of upright boxes, corners truncated to integers.
        min_score: See `MIN_SCORE`.
        min_share: See `MIN_SHARE`.
        drop_inner: Leave out boxes that lie inside another.

    Returns:
        See `Boxes`; in the order of the objects' first pixels.

    Source:
        Dossier 3.1.
    """
    found = []
    for y, x, part in _objects(mask, edges, min_share):
        score = float(probabilities[y : y + part.shape[0], x : x + part.shape[1]][part].mean())
        if score >= min_score:
            found.append([*(_corners(part, x, y) if oriented else _upright(part, x, y)), score])
    boxes = np.array(found, dtype=np.float64).reshape(-1, 9 if oriented else 5)
    if not drop_inner:
        return boxes
    inside = _inside_oriented if oriented else inside_upright
    outer: Boxes = boxes[[inside(box, boxes).sum() == 1 for box in boxes]]  # each is in itself
    return outer


def _objects(
    mask: Mask, edges: NDArray[np.bool_] | None, min_share: float
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Upper left corner and shape of every object, or of the parts that edges cut it into."""
    for y, x, whole in _components(mask):
        if edges is None:
            yield y, x, whole
            continue
        left = whole & ~edges[y : y + whole.shape[0], x : x + whole.shape[1]]
        parts = list(_components(left.astype(np.uint8)))
        largest = max((int(part.sum()) for _, _, part in parts), default=0)
        for inner_y, inner_x, part in parts:
            if int(part.sum()) > min_share * largest:
                yield y + inner_y, x + inner_x, part


def _components(mask: Mask) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Top, left and shape, cut to its bounds, of each 8-connected component."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask), connectivity=8
    )
    for i in range(1, count):
        x, y, width, height = (int(v) for v in stats[i, :4])
        yield y, x, labels[y : y + height, x : x + width] == i


def _upright(part: NDArray[np.bool_], x: int, y: int) -> list[int]:
    return [x, y, x + part.shape[1], y + part.shape[0]]


def _corners(part: NDArray[np.bool_], x: int, y: int) -> list[int]:
    contours, _ = cv2.findContours(
        part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y)
    )
    return [int(v) for v in cv2.boxPoints(cv2.minAreaRect(contours[0])).ravel()]


def inside_upright(inner: Boxes, outer: Boxes) -> NDArray[np.bool_]:
    """Whether an upright box lies in others, with a pixel of slack on the right and below.

    Args:
        inner: x1, y1, x2, y2, ...
        outer: The others, ``(..., 4 or more)``.

    Returns:
        ``(...)``.
    """
    x1, y1, x2, y2 = inner[:4]
    left, top, right, bottom = np.moveaxis(outer[..., :4], -1, 0)
    within: NDArray[np.bool_] = (x1 >= left) & (y1 >= top) & (x2 <= right + 1) & (y2 <= bottom + 1)
    return within


def _inside_oriented(inner: Boxes, outer: Boxes) -> NDArray[np.bool_]:
    return np.array([inside_oriented(inner, box) for box in outer])


def inside_oriented(inner: Boxes, outer: Boxes) -> bool:
    """Whether the pixels of one oriented box are all covered by another's.

    As officially, what lies beyond the image's left and upper border isn't looked at, nor the last
    row and column of the two, so that a box of one pixel there counts as inside anything.
    """
    quads = [box[:8].reshape(4, 2).astype(np.int32) for box in (inner, outer)]
    width, height = size = np.maximum(*quads).max(axis=0).clip(min=0)
    corners, low, high = quads[0], quads[1].min(axis=0), quads[1].max(axis=0)
    looked_at = ((corners >= 0) & (corners < size)).all(axis=1)
    if (looked_at & ((corners < low) | (corners > high)).any(axis=1)).any():
        return False  # a corner lies beside the other box: nothing need be drawn
    drawn = []
    for quad in quads:
        canvas = np.zeros((height, width), dtype=np.uint8)
        drawn.append(cv2.fillPoly(canvas, [quad], 1) if canvas.size else canvas)
    return bool((drawn[0] <= drawn[1]).all())


def suppress(boxes: Boxes) -> Boxes:
    """Non-maximum suppression at IoU 0.5; the rest by falling score.

    Args:
        boxes: See `Boxes`; oriented ones are compared as the rectangles that they are.
    """
    if not len(boxes):
        return boxes
    scores = torch.from_numpy(boxes[:, -1])
    if boxes.shape[1] == 5:
        kept = nms(torch.from_numpy(boxes[:, :4]), scores, NMS_IOU)
    else:
        from swath.kernels import rotated_nms

        kept = rotated_nms(torch.from_numpy(to_rotated(boxes)), scores, NMS_IOU)
    chosen: Boxes = boxes[kept.numpy()]
    return chosen


def to_rotated(boxes: Boxes) -> Boxes:
    """Oriented boxes ``(N, 9)`` as centre, sides and angle (radians, clockwise): ``(N, 5)``."""
    rotated = [
        (cx, cy, width, height, np.radians(angle))
        for quad in boxes[:, :8].astype(np.float32).reshape(-1, 4, 2)
        for (cx, cy), (width, height), angle in [cv2.minAreaRect(quad)]
    ]
    return np.array(rotated, dtype=np.float64).reshape(-1, 5)


def upright(boxes: Boxes) -> Boxes:
    """The same boxes, oriented ones as the upright rectangles around them: ``(N, 5)``."""
    if boxes.shape[1] == 5:
        return boxes
    corners = boxes[:, :8].reshape(-1, 4, 2)
    around: Boxes = np.column_stack([corners.min(1), corners.max(1), boxes[:, 8]])
    return around


def detect(
    mask: Mask,
    probabilities: Probabilities,
    edges: NDArray[np.bool_] | None = None,
    *,
    oriented: bool = False,
) -> Boxes:
    """Boxes of one class: `mask_to_boxes`, then `suppress`.

    Args:
        mask: See `mask_to_boxes`, like the two that follow.
        probabilities: As there.
        edges: As there.
        oriented: As there.
    """
    return suppress(mask_to_boxes(mask, probabilities, edges, oriented=oriented))


def larger_than(boxes: Boxes, area: float) -> Boxes:
    """The boxes whose area is above a bound in square pixels."""
    upright = boxes.shape[1] < 9
    sides = boxes[:, 2:4] - boxes[:, :2] if upright else to_rotated(boxes)[:, 2:4]
    larger: Boxes = boxes[sides.prod(axis=1) > area]
    return larger


def enclosing(boxes: Boxes) -> list[float] | None:
    """The rectangle around all boxes, x1, y1, x2, y2; None if there are none."""
    if not len(boxes):
        return None
    return [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:4].max(axis=0).tolist()]


def presence(probabilities: Probabilities, balance: float) -> float:
    """How surely an image shows a class, 0..1.

    Args:
        probabilities: Of the class, at each place of the image.
        balance: Weight of the largest probability; the mean has the rest. Officially 0.5 to tell
            whether each of several classes is there, and 1 to choose one.
    """
    largest, mean = float(probabilities.max()), float(probabilities.mean(dtype=np.float64))
    return balance * largest + (1 - balance) * mean


def merge_masks(
    masks: Sequence[Mask], probabilities: Sequence[Probabilities] | None = None
) -> NDArray[np.int64]:
    """One label per pixel from masks that know nothing of each other; 0 is no class.

    Args:
        masks: Of each class, ``(H, W)``.
        probabilities: Of each class; the surest class of a pixel wins. Without them the last class
            wins, as in the official evaluation (dossier 4.2).

    Returns:
        ``(H, W)`` int64: 0, or 1 + the class.
    """
    stacked = np.stack(masks).astype(bool)
    ranks = np.arange(1, len(masks) + 1)[:, None, None]
    scores = ranks if probabilities is None else np.stack(list(probabilities))
    best = np.where(stacked, scores, -1).argmax(axis=0)
    return np.where(stacked.any(axis=0), best + 1, 0)


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Class names without blanks around them.

    Raises:
        ConfigError: If there are none, one is empty, no text or named twice, or it is one text.
    """
    if isinstance(classes, str):
        raise ConfigError(f"classes='{classes}' is one text; give a list, classes=['{classes}']")
    given = tuple(classes) if isinstance(classes, Iterable) else (classes,)
    for name in given:
        if not isinstance(name, str):
            raise ConfigError(
                f"classes: {name!r} is no name; give a list of names, classes=['airplane', 'ship']"
            )
    names = tuple(name.strip() for name in given)
    if not any(names):
        raise ConfigError("no class is named; give at least one, e.g. classes=['airplane']")
    if not all(names):
        raise ConfigError(
            f"a class has no name in '{', '.join(names)}'; is there a comma too many?"
        )
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ConfigError(f"the class '{twice[0]}' is named twice; name each once")
    return names


def as_maps(margins: Tensor, size: tuple[int, int]) -> tuple[Mask, Probabilities]:
    """Masks and probabilities at the size of an image.

    Args:
        margins: Logit of the object less that of the rest, ``(K, h, w)``, at the network's size.
        size: Height and width of the image.

    Returns:
        ``(K, H, W)`` uint8, 0 or 1, and float32; both by nearest neighbour, as officially.
    """
    mask, probability = (
        F.interpolate(values[None], size=size, mode="nearest")[0].numpy()
        for values in ((margins > 0).to(torch.uint8), margins.float().sigmoid())
    )
    return mask, probability
