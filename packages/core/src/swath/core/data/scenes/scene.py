"""One scene with every kind of label: `render`."""

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from swath.core.data.scenes.domains import CLASSES, DOMAINS, KINDS, OBJECT_CLASSES, Domain
from swath.core.data.scenes.language import Expression, SceneObject, describe, expressions
from swath.core.data.scenes.paint import LARGEST, Painter, Sensor, Window
from swath.core.data.scenes.plan import Dice, Plan, Thing
from swath.core.data.scenes.world import lay_out
from swath.core.errors import DataError, suggest

VERSION = "scenes-v1"
"""What a seed looks like never changes within a version."""

MIN_PIXELS = 6
"""An object is an instance if it shows this many pixels ..."""

MIN_SHARE = 0.3
"""... and this share of its box's area that a whole one of its class would show."""


# share of its oriented box that an object of each class fills, for judging how much of it shows
_FILL = {
    "building": 0.75,
    "court": 1.0,
    "tank": 0.78,
    "vehicle": 0.9,
    "ship": 0.75,
    "aircraft": 0.2,
}


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and all that is known about it; what is said of objects is made when asked for.

    Attributes:
        planes: ``(3, H, W)`` uint8, RGB.
        mask: ``(H, W)`` uint8, indices in `CLASSES`.
        things: What there may be to see, whether or not it shows.
        shown: ``(H, W)``, which part a pixel shows.
        owner: ``(parts,)``, the thing that a part belongs to, from 1, or 0.
        kind: Scene class, an index in `KINDS`.
        gsd_m: Metres a pixel.
        domain: Name of the domain.
        seed: What it was made from.
    """

    planes: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    things: tuple[Thing, ...]
    shown: npt.NDArray[np.intp]
    owner: npt.NDArray[np.int32]
    kind: int
    gsd_m: float
    domain: str
    seed: int

    @cached_property
    def image(self) -> npt.NDArray[np.uint8]:
        """``(H, W, 3)`` uint8, RGB."""
        return np.ascontiguousarray(cv2.merge(tuple(self.planes)))

    @cached_property
    def _seen(self) -> tuple[npt.NDArray[np.int32], tuple[SceneObject, ...]]:
        """Number the things that can be seen well enough; the others are no instances."""
        parts = np.bincount(self.shown.ravel(), minlength=len(self.owner))
        pixels = np.bincount(self.owner, parts, len(self.things) + 1).astype(int).tolist()
        number = np.zeros(len(pixels), np.int32)
        objects: list[SceneObject] = []
        for i, thing in enumerate(self.things, start=1):
            if pixels[i] < MIN_PIXELS:
                continue
            name = CLASSES[thing.label]
            _, _, w, h, _ = thing.box
            if pixels[i] < MIN_SHARE * _FILL[name] * w * h:
                continue
            number[i] = len(objects) + 1
            label = OBJECT_CLASSES.index(name)
            objects.append(
                SceneObject(len(objects) + 1, label, thing.noun, thing.colour, thing.box, pixels[i])
            )
        return number, tuple(objects)

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        """The objects, in order of their ids."""
        return self._seen[1]

    @cached_property
    def instances(self) -> npt.NDArray[np.int32]:
        """``(H, W)`` int32, `SceneObject.id`, 0 where there is no object."""
        return self._seen[0].take(self.owner).take(self.shown, mode="clip")

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """`SceneObject.box` of all objects, ``(N, 5)`` float32."""
        return np.array([o.box for o in self.objects], np.float32).reshape(-1, 5)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Index in `OBJECT_CLASSES` per box, ``(N,)`` int64."""
        return np.array([o.label for o in self.objects], np.int64)

    @cached_property
    def _words(self) -> tuple[str, tuple[Expression, ...]]:
        dice = Dice(2, self.seed)
        season = DOMAINS[self.domain].season
        caption = describe(KINDS[self.kind], season, self.mask, self.objects, dice)
        return caption, expressions(self.objects, len(self.mask), dice)

    @property
    def caption(self) -> str:
        """One sentence about the whole."""
        return self._words[0]

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Sentences that single out one object each."""
        return self._words[1]


def find_domain(name: str) -> Domain:
    """A domain by name.

    Raises:
        DataError: If there is none of that name.
    """
    if name not in DOMAINS:
        raise DataError(f"scenes have no domain '{name}'{suggest(name, list(DOMAINS))}")
    return DOMAINS[name]


def render(
    seed: int,
    size: int = 256,
    domain: str = "temperate",
    kind: str | None = None,
    spread: float | None = None,
) -> Scene:
    """Render one scene.

    Args:
        seed: Non-negative; the scene is a function of the arguments and nothing else.
        size: Side in pixels, from 32.
        domain: A name out of `DOMAINS`.
        kind: A scene class out of `KINDS`, or None to draw one by the domain's frequencies.
        spread: Strength of the photometric jitter between scenes, 0 or more, or None for the
            domain's; everything else about a scene stays.

    Raises:
        DataError: If a name is unknown, the size too small, or the seed or the spread negative.

    Examples:
        >>> scene = render(7, size=128)
        >>> scene.image.shape, scene.mask.shape
        ((128, 128, 3), (128, 128))
    """
    place = find_domain(domain)
    if size < 32 or seed < 0:
        raise DataError(f"scenes need size >= 32 and seed >= 0; got size={size}, seed={seed}")
    if spread is not None:
        if spread < 0:
            raise DataError(f"the spread of scenes must be 0 or more; got {spread}")
        place = replace(place, spread=spread)
    if kind is not None and kind not in KINDS:
        raise DataError(f"scenes have no kind '{kind}'{suggest(kind, KINDS)}")
    choice = Dice(0, seed)
    chosen = choice.weighted(dict(place.kinds))
    plan = Plan(size, size, choice.pick(place.gsd_m), place, seed)
    sensor = Sensor(plan)
    chosen = kind or chosen
    lay_out(plan, chosen)
    window = _paint(Painter(plan, sensor), size)
    return Scene(
        planes=window.planes,
        mask=window.mask,
        things=tuple(plan.things),
        shown=window.shown,
        owner=window.owner,
        kind=KINDS.index(chosen),
        gsd_m=plan.gsd_m,
        domain=domain,
        seed=seed,
    )


def _paint(painter: Painter, size: int) -> Window:
    if size <= LARGEST:
        return painter.window(0, 0, size, size)
    things = len(painter.plan.things)
    whole = Window(
        np.empty((3, size, size), np.uint8),
        np.empty((size, size), np.uint8),
        np.empty((size, size), np.intp),
        np.arange(things + 1, dtype=np.int32),
    )
    for row in range(0, size, LARGEST):
        for col in range(0, size, LARGEST):
            height, width = min(LARGEST, size - row), min(LARGEST, size - col)
            part = painter.window(row, col, height, width)
            place = (slice(row, row + height), slice(col, col + width))
            whole.planes[:, *place], whole.mask[place] = part.planes, part.mask
            whole.shown[place] = part.owner.take(part.shown)
    return whole
