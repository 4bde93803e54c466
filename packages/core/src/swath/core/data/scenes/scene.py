"""One scene with every kind of label: `render`."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swath.core.data.scenes.domains import CLASSES, DOMAINS, KINDS, OBJECT_CLASSES, Domain
from swath.core.data.scenes.language import Expression, SceneObject, describe, expressions
from swath.core.data.scenes.paint import LARGEST, Painter, Sensor, Window
from swath.core.data.scenes.plan import Dice, Plan
from swath.core.data.scenes.world import lay_out
from swath.core.errors import DataError, suggest

VERSION = "scenes-v1"
"""What a seed looks like never changes within a version."""

MIN_PIXELS = 6
"""An object is an instance if it shows this many pixels ..."""

MIN_SHARE = 0.3
"""... and this share of its box's area that a whole one of its class would show."""


@dataclass(frozen=True)
class Scene:
    """A picture and all that is known about it.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB.
        mask: ``(H, W)`` uint8, indices in `CLASSES`.
        instances: ``(H, W)`` int32, `SceneObject.id`, 0 where there is no object.
        objects: The objects, in order of their ids.
        kind: Scene class, an index in `KINDS`.
        caption: One sentence about the whole.
        expressions: Sentences that single out one object each.
        gsd_m: Metres a pixel.
        domain: Name of the domain.
        seed: What it was made from.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.int32]
    objects: tuple[SceneObject, ...]
    kind: int
    caption: str
    expressions: tuple[Expression, ...]
    gsd_m: float
    domain: str
    seed: int

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """`SceneObject.box` of all objects, ``(N, 5)`` float32."""
        return np.array([o.box for o in self.objects], np.float32).reshape(-1, 5)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Index in `OBJECT_CLASSES` per box, ``(N,)`` int64."""
        return np.array([o.label for o in self.objects], np.int64)


def find_domain(name: str) -> Domain:
    """A domain by name.

    Raises:
        DataError: If there is none of that name.
    """
    if name not in DOMAINS:
        raise DataError(f"scenes have no domain '{name}'{suggest(name, list(DOMAINS))}")
    return DOMAINS[name]


def render(seed: int, size: int = 256, domain: str = "temperate", kind: str | None = None) -> Scene:
    """Render one scene.

    Args:
        seed: Non-negative; the scene is a function of the arguments and nothing else.
        size: Side in pixels, from 32.
        domain: A name out of `DOMAINS`.
        kind: A scene class out of `KINDS`, or None to draw one by the domain's frequencies.

    Raises:
        DataError: If a name is unknown, the size too small or the seed negative.

    Examples:
        >>> scene = render(7, size=128)
        >>> scene.image.shape, scene.mask.shape
        ((128, 128, 3), (128, 128))
    """
    place = find_domain(domain)
    if size < 32 or seed < 0:
        raise DataError(f"scenes need size >= 32 and seed >= 0; got size={size}, seed={seed}")
    if kind is not None and kind not in KINDS:
        raise DataError(f"scenes have no kind '{kind}'{suggest(kind, KINDS)}")
    choice = Dice(0, seed)
    chosen = choice.weighted(dict(place.kinds))
    plan = Plan(size, size, choice.pick(place.gsd_m), place, seed)
    sensor = Sensor(plan)
    chosen = kind or chosen
    lay_out(plan, chosen)
    window = _paint(Painter(plan, sensor), size)
    instances, objects = _objects(plan, window.things)
    words = Dice(2, seed)
    return Scene(
        image=window.image,
        mask=window.mask,
        instances=instances,
        objects=objects,
        kind=KINDS.index(chosen),
        caption=describe(chosen, place.season, window.mask, objects, words),
        expressions=expressions(objects, size, words),
        gsd_m=plan.gsd_m,
        domain=domain,
        seed=seed,
    )


def _paint(painter: Painter, size: int) -> Window:
    if size <= LARGEST:
        return painter.window(0, 0, size, size)
    whole = Window(
        np.empty((size, size, 3), np.uint8),
        np.empty((size, size), np.uint8),
        np.empty((size, size), np.int32),
    )
    for row in range(0, size, LARGEST):
        for col in range(0, size, LARGEST):
            height, width = min(LARGEST, size - row), min(LARGEST, size - col)
            part = painter.window(row, col, height, width)
            place = (slice(row, row + height), slice(col, col + width))
            whole.image[place], whole.mask[place] = part.image, part.mask
            whole.things[place] = part.things
    return whole


# share of its oriented box that an object of each class fills, for judging how much of it shows
_FILL = {
    "building": 0.75,
    "court": 1.0,
    "tank": 0.78,
    "vehicle": 0.9,
    "ship": 0.75,
    "aircraft": 0.2,
}


def _objects(
    plan: Plan, things: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], tuple[SceneObject, ...]]:
    """Number the things that can be seen well enough; the others are no instances."""
    pixels = np.bincount(things.ravel(), minlength=len(plan.things) + 1).tolist()
    number = np.zeros(len(pixels), np.int32)
    objects: list[SceneObject] = []
    for i, thing in enumerate(plan.things, start=1):
        name = CLASSES[thing.label]
        _, _, w, h, _ = thing.box
        if pixels[i] < max(MIN_PIXELS, MIN_SHARE * _FILL[name] * w * h):
            continue
        number[i] = len(objects) + 1
        label = OBJECT_CLASSES.index(name)
        objects.append(
            SceneObject(len(objects) + 1, label, thing.noun, thing.colour, thing.box, pixels[i])
        )
    return number.take(things), tuple(objects)
