"""Crops of rendered scenes whose pixels have names, such as ``"red building"`` and ``"water"``.

The same crops teach a CLIP by captions and a segmenter by masks. Names of objects are made of a
colour and a noun, so that a combination can be kept from both and yet be asked for.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from swath.core.data.scenes import CLASSES, render
from swath.core.data.scenes.scene import Scene
from swath.core.errors import DataError, suggest
from swath.core.sample import Sample

GROUND = ("grass", "tree", "water", "road", "pavement")
"""Classes of the scenes that are names by themselves."""

COLOURS = {
    "building": ("red", "brown", "grey", "black", "white", "orange", "blue", "green"),
    "court": ("blue", "red", "green", "orange", "grey"),
    "tank": ("white", "grey", "green", "brown"),
    "ship": ("white", "red", "blue", "black", "grey", "green", "brown"),
}
"""Colours of each noun; whatever else there is has no name."""

NAMES = (
    *GROUND,
    *(f"{colour} {noun}" for noun, colours in COLOURS.items() for colour in colours),
)
"""Everything that has a name."""

UNSEEN = ("white building", "red court", "grey tank", "black ship")
"""One colour of each noun, and each once: what a study keeps from captions and masks."""

UNMASKED = ("blue building", "green court", "white tank", "red ship")
"""Another colour of each noun, which captions name and masks don't."""

SEEN = tuple(name for name in NAMES if name not in UNSEEN)
"""What captions name."""

TAUGHT = tuple(name for name in SEEN if name not in UNMASKED)
"""What masks show too."""

DOMAINS = ("urban", "coastal")
KINDS = (
    "residential", "industrial", "commercial", "sports", "industrial", "harbor", "coast", "lake",
)  # fmt: skip
"""Scenes of each domain are drawn from these in turn: rare objects, tanks above all, occur."""

SCENE_PX = 192
SPREAD = 0.15
"""How much the light differs from scene to scene; more, and a grey roof may look white."""

THING_PX = 44
"""Square root of an object's area in a crop that is made for it, px, give or take a third."""

ZOOM = (0.5, 3.0)
"""Least and greatest enlargement of a crop."""

ATTEMPTS = 64
"""How many scenes are tried for one that shows any of the names."""

THING_WEIGHT = 3.0
"""How much more often a crop is made for an object of a name than for ground of one."""

SHOWN = 0.25
"""Least share of a crop that what its captions speak of covers."""

NAMELESS = 255

Places = dict[int, NDArray[np.int64]]
"""Rows and columns ``(N, 2)`` of the pixels of each name."""


class NamedCrops:
    """Crops that show something that has a name, with captions and mask.

    Sets of different ``seed`` share no scene. A crop is made for a pixel, which lies anywhere in
    it: were it always the middle, CLIP would learn to look nowhere else. Every name that a scene
    shows is as likely as any other, objects three times as likely as ground. Crops are enlarged so
    that an object is about as large as any other: a vehicle of 10 px would hide in a cell.

    Args:
        size: Side of the crops, px; at most 128.
        count: How many.
        seed: Which ones.
        classes: Names that crops are made for and masks tell apart, out of `NAMES`; pixels of
            others are ignored.
        crops: Crops of each scene. They are made together, when the first of them is asked for, and
            kept: 16 KB each at 64 px.

    Attributes:
        classes: The names, in the masks' order.
        ignore_index: Value of mask pixels that have none of these names.

    Raises:
        DataError: If a class is unknown or the size too large.
    """

    ignore_index = NAMELESS

    def __init__(
        self,
        size: int = 64,
        count: int = 1000,
        seed: int = 0,
        classes: Sequence[str] = NAMES,
        crops: int = 16,
    ) -> None:
        for name in classes:
            if name not in NAMES:
                raise DataError(f"nothing in the scenes is called '{name}'{suggest(name, NAMES)}")
        if not 1 <= size <= 128:
            raise DataError(f"crops of scenes have a side of 1 to 128 px, not {size}")
        self.size, self.count, self.seed, self.crops = size, count, seed, crops
        self.classes = tuple(classes)
        self._kept: dict[int, list[Sample]] = {}

    def __len__(self) -> int:
        """Number of crops."""
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """A crop.

        ``"mask"`` ``(H, W)`` uint8, indices in ``classes``; ``"label"``, that of the name it is
        made for; ``"captions"``, this name and all others that cover a quarter of it, and of
        objects noun and colour by themselves.
        """
        if not 0 <= index < self.count:
            raise IndexError(index)
        number, turn = divmod(index, self.crops)
        if number not in self._kept:
            self._kept[number] = self._made(number)
        return self._kept[number][turn]

    def _scene(self, number: int) -> tuple[Scene, NDArray[np.uint8], Places]:
        """A scene that shows something that has a name, its names, and where they are."""
        for attempt in range(ATTEMPTS):  # a soccer field may leave room for nothing else
            turn = number + attempt
            kind, domain = KINDS[turn % len(KINDS)], DOMAINS[turn // len(KINDS) % len(DOMAINS)]
            seed = (self.seed << 32) + number * ATTEMPTS + attempt
            scene = render(seed, SCENE_PX, domain, kind, SPREAD)
            names = named(scene, self.classes)
            if places := places_of(names):
                return scene, names, places
        raise DataError(
            f"{ATTEMPTS} scenes show nothing called {' or '.join(self.classes)}; add other classes"
        )

    def _made(self, number: int) -> list[Sample]:
        scene, names, places = self._scene(number)
        captions = [captions_of(name) for name in self.classes]
        weights = [THING_WEIGHT if len(captions[i]) > 1 else 1.0 for i in places]
        random = np.random.default_rng((self.seed, number))
        samples: list[Sample] = []
        for label in random.choice(list(places), self.crops, p=np.divide(weights, sum(weights))):
            pixel = places[label][random.integers(len(places[label]))]
            window = min(round(self.size / _zoom(scene, pixel, random)), SCENE_PX)
            sample = crop_with(scene.planes, names, pixel, captions, window, random)
            sample = resized(sample, self.size)
            sample.meta.update(
                id=f"{self.seed}-{number}-{len(samples)}",
                gsd_m=scene.gsd_m * window / self.size,
                domain=scene.domain,
            )
            samples.append(sample)
        return samples


def _zoom(scene: Scene, pixel: NDArray[np.int64], random: np.random.Generator) -> float:
    """How much to enlarge a crop that is made for a pixel: objects to a size, ground at random."""
    thing = scene.instances[tuple(pixel)]
    if thing == 0:
        return float(np.exp(random.uniform(np.log(ZOOM[0]), np.log(ZOOM[1]))))
    area = scene.objects[thing - 1].pixels
    return float(np.clip(THING_PX / np.sqrt(area) * np.exp(random.uniform(-0.3, 0.3)), *ZOOM))


def resized(sample: Sample, size: int) -> Sample:
    """A square sample with its sides made so many pixels, image smoothly, mask by nearest."""
    picture = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
    shrunk = size < len(picture)
    picture = cv2.resize(
        picture, (size, size), interpolation=cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR
    )
    mask = cv2.resize(
        sample.targets["mask"].numpy(), (size, size), interpolation=cv2.INTER_NEAREST_EXACT
    )
    image = tv_tensors.Image(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
    targets = {**sample.targets, "mask": tv_tensors.Mask(torch.from_numpy(mask))}
    return Sample(image, targets, sample.valid, sample.meta)


def places_of(names: NDArray[np.uint8]) -> Places:
    """The pixels of each name.

    Args:
        names: Name of each pixel ``(H, W)``, or 255.
    """
    return {int(i): np.argwhere(names == i) for i in np.unique(names) if i != NAMELESS}


def crop_with(
    picture: NDArray[np.uint8],
    names: NDArray[np.uint8],
    pixel: NDArray[np.int64],
    captions: Sequence[Sequence[str]],
    size: int,
    random: np.random.Generator,
) -> Sample:
    """A crop that holds a pixel, with the targets of `NamedCrops`.

    Args:
        picture: ``(3, H, W)``, RGB.
        names: Name of each pixel ``(H, W)``, or 255.
        pixel: Row and column; any place in the crop is as likely.
        captions: Of each name.
        size: Side of the crop, px.
        random: Draws the place.
    """
    ends = zip(pixel, names.shape, strict=True)
    firsts = (random.integers(max(0, i - size + 1), min(i, end - size) + 1) for i, end in ends)
    window = tuple(slice(first, first + size) for first in firsts)
    mask, label = names[window].copy(), int(names[tuple(pixel)])
    shown, counts = np.unique(mask, return_counts=True)
    large = shown[(counts >= SHOWN * mask.size) & (shown != NAMELESS)]
    targets = {
        "mask": tv_tensors.Mask(torch.from_numpy(mask)),
        "label": label,
        "captions": tuple(sorted({c for i in (label, *large) for c in captions[i]})),
    }
    return Sample(tv_tensors.Image(torch.from_numpy(picture[:, *window].copy())), targets)


def captions_of(name: str) -> tuple[str, ...]:
    """What can truly be said of a name: itself and, of an object, its noun and its colour."""
    colour, _, noun = name.partition(" ")
    return (name, noun, colour) if noun in COLOURS else (name,)


def named(scene: Scene, classes: Sequence[str]) -> NDArray[np.uint8]:
    """The name of each pixel ``(H, W)``, an index in ``classes``, or 255."""
    number = {name: i for i, name in enumerate(classes)}
    ground = np.full(256, NAMELESS, np.uint8)
    for i, name in enumerate(CLASSES):
        ground[i] = number.get(name, NAMELESS)
    things = np.full(len(scene.objects) + 1, NAMELESS, np.uint8)
    for thing in scene.objects:
        noun = thing.noun.split()[-1]  # of a tennis court, a storage tank
        things[thing.id] = number.get(f"{thing.colour} {noun}", NAMELESS)
    names: NDArray[np.uint8] = cv2.LUT(scene.mask, ground)
    return np.where(scene.instances > 0, things[scene.instances], names)
