"""Scenes as a map-style data set of `Sample`s."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torchvision import tv_tensors

from swath.core.data.scenes.domains import CLASS_SETS, CLASSES, KINDS, OBJECT_CLASSES, Colour
from swath.core.data.scenes.scene import Scene, find_domain, render
from swath.core.errors import DataError, suggest
from swath.core.sample import Sample
from swath.core.structures import RotatedBoxes, visible_fraction

LABELS: tuple[str, ...] = ("mask", "boxes", "instances", "label", "caption", "expressions")
"""What a `SceneDataset` can give as targets; ``"boxes"`` brings ``"labels"`` with it."""


class SceneDataset:
    """A data set of rendered scenes, made on the fly.

    Data sets of different ``seed`` share no scene, so that a seed can be a split: 0 to train on,
    1 to validate, 2 to test.

    Args:
        size: Side of the scenes in pixels.
        count: How many there are.
        seed: Which ones.
        domain: Where, when and by which sensor; a name out of `DOMAINS`.
        labels: Which targets to give, out of `LABELS`.
        class_set: How the mask's classes are grouped; a name out of `CLASS_SETS`.
        kind: Only scenes of this class; or of several classes in turn, so that what only one of
            them shows isn't rare; or None for the domain's mixture.
        spread: Strength of the photometric jitter between scenes, or None for the domain's; 1 is
            the full one.

    Attributes:
        classes: Class names of the mask, in index order.
        palette: RGB of each class.
        object_classes: Class names of the boxes.
        ignore_index: Value of mask pixels that the class set has no class for.
        ids: A name for every scene.

    Raises:
        DataError: If a name is unknown.

    Examples:
        >>> sample = SceneDataset(size=64, count=10)[3]
        >>> sample.image.shape, sample.targets["mask"].shape
        (torch.Size([3, 64, 64]), torch.Size([64, 64]))
    """

    def __init__(
        self,
        size: int = 256,
        count: int = 1000,
        seed: int = 0,
        domain: str = "temperate",
        *,
        labels: Sequence[str] = ("mask",),
        class_set: str = "full",
        kind: str | Sequence[str] | None = None,
        spread: float | None = None,
    ) -> None:
        find_domain(domain)
        kinds = (kind,) if kind is None or isinstance(kind, str) else tuple(kind)
        if not kinds:
            raise DataError("kind=[] leaves no scenes; name some, or None for the domain's mixture")
        for name in kinds:
            if name is not None and name not in KINDS:
                raise DataError(f"scenes have no kind '{name}'{suggest(name, KINDS)}")
        for name in labels:
            if name not in LABELS:
                raise DataError(f"scenes have no label '{name}'{suggest(name, LABELS)}")
        if class_set not in CLASS_SETS:
            raise DataError(
                f"scenes have no class set '{class_set}'{suggest(class_set, list(CLASS_SETS))}"
            )
        self.size, self.count, self.seed, self.domain = size, count, seed, domain
        self.labels, self.class_set = tuple(labels), class_set
        self.kinds: tuple[str | None, ...] = kinds
        self.spread = spread
        chosen = CLASS_SETS[class_set]
        self.classes: tuple[str, ...] = chosen.classes
        self.palette: tuple[Colour, ...] = chosen.palette
        self.object_classes = OBJECT_CLASSES
        self.ignore_index = 255
        self.ids = [f"{domain}-{seed}-{i:06d}" for i in range(count)]
        self._lookup = np.full(256, 255, np.uint8)
        self._lookup[: len(CLASSES)] = chosen.lookup()

    def __len__(self) -> int:
        """Number of scenes."""
        return self.count

    def scene(self, index: int) -> Scene:
        """The whole scene behind a sample."""
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        number = index % self.count
        kind = self.kinds[number % len(self.kinds)]
        return render((self.seed << 32) + number, self.size, self.domain, kind, self.spread)

    def __getitem__(self, index: int) -> Sample:
        """One scene with the chosen targets.

        ``"mask"`` ``(H, W)`` uint8; ``"boxes"`` `RotatedBoxes` ``(N, 5)`` float32 and
        ``"labels"`` ``(N,)`` int64, indices in `OBJECT_CLASSES`; ``"instances"`` ``(N, H, W)``
        bool, in the boxes' order; ``"label"`` an index in `KINDS`; ``"caption"`` a sentence;
        ``"expressions"`` a list of dicts with ``"text"``, ``"object"`` (the row of its box) and
        ``"form"``.
        """
        scene = self.scene(index)
        targets: dict[str, Any] = {}
        if "mask" in self.labels:
            targets["mask"] = tv_tensors.Mask(torch.from_numpy(cv2.LUT(scene.mask, self._lookup)))
        if "boxes" in self.labels:
            boxes = torch.from_numpy(scene.boxes)
            targets["boxes"] = RotatedBoxes(boxes, canvas_size=scene.mask.shape)
            targets["labels"] = torch.from_numpy(scene.labels)
        if "instances" in self.labels:
            targets["instances"] = tv_tensors.Mask(_planes(scene))
        if "label" in self.labels:
            targets["label"] = scene.kind
        if "caption" in self.labels:
            targets["caption"] = scene.caption
        if "expressions" in self.labels:
            targets["expressions"] = [
                {"text": e.text, "object": e.object - 1, "form": e.form} for e in scene.expressions
            ]
        image = torch.from_numpy(scene.planes)
        meta = {"id": self.ids[index], "gsd_m": scene.gsd_m, "domain": scene.domain}
        return Sample(tv_tensors.Image(image), targets, None, meta)


class SceneObjects(SceneDataset):
    """Rendered scenes with the boxes of some kinds of objects, as a detection set labels them.

    Boxes go on beyond the border where the objects do; how far, nobody can see.

    Args:
        classes: Names out of `OBJECT_CLASSES`; a label is the place in this list.
        whole: Objects of which a smaller share lies inside the image are marked as difficult: to
            find them neither helps nor hurts. DOTA's tiles take 0.7. None marks none.
        **scenes: See `SceneDataset`.

    Raises:
        DataError: If there are no such objects in scenes.
    """

    def __init__(
        self,
        classes: Sequence[str] = OBJECT_CLASSES,
        whole: float | None = None,
        **scenes: Any,
    ) -> None:
        super().__init__(labels=("boxes",), **scenes)
        self.whole = whole
        for name in classes:
            if name not in OBJECT_CLASSES:
                raise DataError(f"scenes have no '{name}'{suggest(name, list(OBJECT_CLASSES))}")
        places = {OBJECT_CLASSES.index(name): i for i, name in enumerate(classes)}
        self._places = torch.tensor([places.get(i, -1) for i in range(len(OBJECT_CLASSES))])

    def __getitem__(self, index: int) -> Sample:
        """One scene with ``"boxes"`` `RotatedBoxes` ``(N, 5)`` and ``"labels"`` ``(N,)``.

        With ``whole`` also ``"difficult"`` ``(N,)``, bool.
        """
        sample = super().__getitem__(index)
        labels = self._places[sample.targets["labels"]]
        kept = labels >= 0
        boxes = sample.targets["boxes"].select(kept)
        targets = {"boxes": boxes, "labels": labels[kept]}
        if self.whole is not None:
            targets["difficult"] = visible_fraction(boxes) < self.whole
        return replace(sample, targets=targets)


def _planes(scene: Scene) -> torch.Tensor:
    """``(N, H, W)`` bool, one plane an object; memory is touched only where there is one."""
    numbers = scene.instances.ravel()
    planes = np.zeros((len(scene.objects), numbers.size), bool)
    at = np.flatnonzero(numbers)
    planes[numbers[at] - 1, at] = True
    return torch.from_numpy(planes.reshape(-1, *scene.mask.shape))
