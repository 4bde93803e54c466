"""A scene as vectors: parts in drawing order, the objects they belong to, and the dice for both."""

import math
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from swath.core.data.scenes.domains import Colour, Domain

T = TypeVar("T")

SHIFT = 4
"""Coordinates are rounded to ``2 ** -SHIFT`` pixels before anything is drawn."""

GROUND, WATERS, ROADS, MARKS, THINGS, CANOPY = range(6)
"""Drawing layers, bottom to top."""

SMOOTH, GRAIN, PATCH, LEAVES, RIPPLE = range(5)
"""Texture kinds, drawn by `swath.core.data.scenes.paint`."""

FLAT, ROWS, BANDS, TRAMLINES, DASHES, SHEETS, SLABS, STALLS = range(8)
"""Pattern kinds, drawn by `swath.core.data.scenes.paint`."""

NO_SHADOW, OFFSET_SHADOW, SWEPT_SHADOW = range(3)
"""How a part shades what is lower: not, as a floating crown, or as an extruded solid."""

OPEN, TAKEN, AFLOAT = range(3)
"""States of a place on the ground."""

HEIGHT_UNIT_M = 0.25
_CELL = 4  # pixels a cell of the occupancy grid


def _blocks(*entropy: int) -> Iterator[list[float]]:
    stream = np.random.PCG64(np.random.SeedSequence(entropy))
    for count in chain((64,), repeat(512)):  # many dice are thrown only a few times
        yield ((stream.random_raw(count) >> np.uint64(11)) * 2.0**-53).tolist()


class Dice:
    """Random numbers that are the same on every machine.

    They come from the raw 64-bit stream of PCG64, which numpy guarantees, and not from the
    distributions of `numpy.random.Generator`, which it may change.

    Args:
        *entropy: Non-negative integers.
    """

    def __init__(self, *entropy: int) -> None:
        self.unit: Callable[[], float] = chain.from_iterable(_blocks(*entropy)).__next__
        """Uniform in [0, 1)."""

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.unit() * count)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(self.unit() * len(items))]

    def weighted(self, weights: dict[str, float]) -> str:
        """One of the keys, by its weight."""
        left = self.unit() * sum(weights.values())
        for name, weight in weights.items():
            left -= weight
            if left < 0:
                return name
        return name


class Frame(NamedTuple):
    """Local axes: a point ``(u, v)`` in metres lies at pixel ``(x, y) + R (u, v) / gsd``."""

    x: float
    y: float
    c: float
    s: float

    def at(self, u: float, v: float) -> tuple[float, float]:
        """The pixel position of a local point."""
        return self.x + u * self.c - v * self.s, self.y + u * self.s + v * self.c

    def move(self, u: float, v: float) -> "Frame":
        """The same axes with another origin."""
        return Frame(
            self.x + u * self.c - v * self.s, self.y + u * self.s + v * self.c, self.c, self.s
        )

    def turn(self, angle: float) -> "Frame":
        """The same origin with axes turned clockwise on screen by ``angle`` radians."""
        c, s = math.cos(angle), math.sin(angle)
        return Frame(self.x, self.y, self.c * c - self.s * s, self.s * c + self.c * s)

    def rect(self, u0: float, v0: float, u1: float, v1: float) -> list[float]:
        """The corners of a local rectangle, as flat pixel coordinates."""
        x, y, c, s = self
        left, right, top, bottom = x + u0 * c, x + u1 * c, v0 * s, v1 * s
        near, far, over, under = y + u0 * s, y + u1 * s, v0 * c, v1 * c
        return [
            left - top,
            near + over,
            right - top,
            far + over,
            right - bottom,
            far + under,
            left - bottom,
            near + under,
        ]

    def poly(self, points: Sequence[tuple[float, float]]) -> list[float]:
        """A local polygon as flat pixel coordinates."""
        x, y, c, s = self
        flat: list[float] = []
        for u, v in points:
            flat += (x + u * c - v * s, y + u * s + v * c)
        return flat

    @property
    def angle(self) -> float:
        """Clockwise turn of the local u axis on screen, radians."""
        return math.atan2(self.s, self.c)

    @property
    def scale(self) -> float:
        """Pixels per metre."""
        return math.hypot(self.c, self.s)


class Look(NamedTuple):
    """How a part is painted over its colour."""

    texture: int = SMOOTH
    roughness: int = 8
    tint: int = 0
    pattern: int = FLAT
    strength: int = 0
    ux: int = 0
    uy: int = 0


def patterned(
    frame: Frame, pattern: int, period_m: float, strength: int, base: Look, turn: float = 0.0
) -> Look:
    """A look whose pattern repeats every ``period_m`` along the frame's u axis, if not turned."""
    angle = frame.angle + turn
    # phase is in 1/64 periods and 8 fractional bits
    step = 64 * 256 / max(period_m * frame.scale, 2.2)
    return base._replace(
        pattern=pattern,
        strength=strength,
        ux=round(step * math.cos(angle)),
        uy=round(step * math.sin(angle)),
    )


@dataclass
class Thing:
    """An object of a plan: where it is whether or not a window shows it.

    Attributes:
        label: Index in `CLASSES`.
        noun: What sentences call it.
        colour: The name of its paint, or "" where it has no nameable one.
        box: ``(cx, cy, w, h, angle)`` in pixels and radians, clockwise positive on screen.
    """

    label: int
    noun: str
    colour: str
    box: tuple[float, float, float, float, float]


class Plan:
    """What is where: polygons in drawing order with what they are and how they look.

    Args:
        height: Rows of the world.
        width: Columns of the world.
        gsd_m: Metres a pixel.
        domain: Where and when.
        seed: Everything follows from it.
    """

    def __init__(self, height: int, width: int, gsd_m: float, domain: Domain, seed: int) -> None:
        self.height, self.width, self.gsd_m, self.domain = height, width, gsd_m, domain
        self.dice = Dice(1, seed, zlib.crc32(domain.name.encode()))
        self.things: list[Thing] = []
        self._xy: list[float] = []
        self._ends: list[int] = []
        self._rows: list[int] = []
        grid = ((height + _CELL - 1) // _CELL, (width + _CELL - 1) // _CELL)
        self._taken = np.zeros(grid, np.uint8)
        # the same memory, quicker to look up
        self._ground = (*self._taken.shape, self._taken.reshape(-1).data)

        azimuth = self.dice.uniform(0, 2 * math.pi)
        elevation = math.radians(self.dice.uniform(*domain.sun))
        self.sun = (-math.cos(azimuth), -math.sin(azimuth))
        reach = min(1 / math.tan(elevation), 2.0) / gsd_m
        self.shadow = (math.cos(azimuth) * reach, math.sin(azimuth) * reach)
        self._base = {name: self.dice.pick(choices) for name, choices in domain.ground.items()}

    def colour(self, material: str, jitter: float = 7, fresh: float = 0.25) -> Colour:
        """A colour of a ground material: mostly the scene's own, sometimes another of its kind."""
        dice = self.dice
        base = self._base[material]
        if dice.unit() < fresh:
            base = dice.pick(self.domain.ground[material])
        return self.vary(base, jitter)

    def vary(self, colour: Colour, jitter: float = 7) -> Colour:
        """A colour near another; it may leave 0..255, which `finish` mends."""
        unit = self.dice.unit
        common = (2 * unit() - 1) * jitter
        hue = (2 * unit() - 1) * jitter * 0.4
        r, g, b = colour
        return round(r + common + hue), round(g + common), round(b + common - hue)

    def near(self, x: float, y: float, radius: float) -> bool:
        """Whether a disc in pixels can be seen in the world at all."""
        return -radius <= x <= self.width + radius and -radius <= y <= self.height + radius

    def free(self, *points: tuple[float, float], want: int = OPEN) -> bool:
        """Whether all of these pixel positions (those inside the world) are in one state.

        Args:
            *points: Pixel positions.
            want: ``OPEN`` for unclaimed land, ``AFLOAT`` for open water.
        """
        rows, cols, state = self._ground
        for x, y in points:
            i, j = int(y) >> 2, int(x) >> 2
            if 0 <= i < rows and 0 <= j < cols and state[i * cols + j] != want:
                return False
        return True

    def free_rect(self, frame: Frame, length: float, width: float, want: int = OPEN) -> bool:
        """`free` for a rectangle of metres centred on a frame."""
        x, y, c, s = frame
        u, v = length / 2, width / 2
        uc, us, vc, vs = u * c, u * s, v * c, v * s
        return self.free(
            (x, y),
            (x - uc + vs, y - us - vc),
            (x + uc + vs, y + us - vc),
            (x + uc - vs, y + us + vc),
            (x - uc - vs, y - us + vc),
            (x + uc, y + us),
            (x - uc, y - us),
            (x - vs, y + vc),
            (x + vs, y - vc),
            want=want,
        )

    def claim(self, xy: Sequence[float], state: int = TAKEN) -> None:
        """Keep a polygon of pixels free of things placed later (or ``AFLOAT``: open to ships)."""
        points = (np.array(xy).reshape(-1, 2) / _CELL).round().astype(np.int32)
        cv2.fillPoly(self._taken, [points], state)

    def thing(
        self, label: int, noun: str, colour: str, frame: Frame, length: float, width: float
    ) -> int:
        """Register an object of metres centred on a frame; returns its number for `part`."""
        scale = frame.scale
        box = (frame.x, frame.y, length * scale, width * scale, frame.angle)
        self.things.append(Thing(label, noun, colour, box))
        return len(self.things)

    def part(
        self,
        xy: list[float],
        layer: int,
        label: int,
        colour: Colour,
        look: Look,
        thing: int = 0,
        height_m: float = 0.0,
        shades: int = NO_SHADOW,
    ) -> None:
        """Add a polygon.

        Args:
            xy: Flat pixel coordinates ``x0, y0, x1, y1, ...``.
            layer: ``GROUND`` to ``CANOPY``; within a layer later parts cover earlier ones.
            label: Index in `CLASSES`.
            colour: RGB.
            look: Texture and pattern.
            thing: Number of the object it belongs to, 0 for none.
            height_m: Height of its top above the ground.
            shades: ``NO_SHADOW``, ``OFFSET_SHADOW`` or ``SWEPT_SHADOW``.
        """
        self._xy += xy
        self._ends.append(len(self._xy))
        level = min(255, int(height_m / HEIGHT_UNIT_M)) if height_m else 0
        self._rows += [layer, label, thing, level, shades, *colour, *look]

    def blob(
        self, x: float, y: float, radius: float, points: int = 9, wobble: float = 0.18
    ) -> list[float]:
        """A roundish polygon in pixels."""
        across, down = self.dice.pick(_blobs(points, wobble))
        flat = [0.0] * (2 * points)
        flat[::2] = [x + radius * value for value in across]
        flat[1::2] = [y + radius * value for value in down]
        return flat

    def finish(self) -> "Parts":
        """All parts as arrays, in drawing order."""
        rows = np.frombuffer(array("i", self._rows), np.int32).reshape(len(self._ends), -1).copy()
        rows[:, 5:8] = rows[:, 5:8].clip(0, 255)
        order = np.argsort(rows[:, 0], kind="stable")
        points = np.frombuffer(array("d", self._xy)).reshape(-1, 2)
        # a polygon is given by pixel edges, the rasteriser wants pixel centres
        fixed = np.floor((points - 0.5) * (1 << SHIFT) + 0.5).astype(np.int32)
        ends = [end // 2 for end in self._ends]
        starts = [0, *ends[:-1]]
        low, high = np.minimum.reduceat(fixed, starts), np.maximum.reduceat(fixed, starts)
        polygons = [fixed[starts[i] : ends[i]] for i in order.tolist()]
        return Parts(polygons, rows[order], low[order], high[order])


@cache
def _blobs(points: int, wobble: float) -> list[tuple[list[float], list[float]]]:
    """Roundish polygons of about unit radius to choose from, as x and y."""
    dice = Dice(3, points, round(1000 * wobble))
    shapes = []
    for _ in range(24):
        phase = dice.uniform(0, 2 * math.pi)
        angles = [phase + 2 * math.pi * i / points for i in range(points)]
        radii = [1 + dice.uniform(-wobble, wobble) for _ in angles]
        polar = list(zip(radii, angles, strict=True))
        shapes.append(([r * math.cos(a) for r, a in polar], [r * math.sin(a) for r, a in polar]))
    return shapes


class Parts(NamedTuple):
    """Polygons in drawing order.

    Attributes:
        polygons: ``(K, 2)`` int32 each, pixel centres times ``2 ** SHIFT``.
        rows: ``(N, 15)`` int32: layer, class, thing, height level, shading, RGB, `Look`.
        low: ``(N, 2)`` int32, the lowest coordinates of each polygon.
        high: ``(N, 2)`` int32, the highest ones.
    """

    polygons: list[np.ndarray]
    rows: np.ndarray
    low: np.ndarray
    high: np.ndarray
