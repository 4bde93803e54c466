"""From vectors to pixels: one part map, from which colours and every label are looked up.

All arithmetic on pixels is integer arithmetic, so that a seed gives the same picture everywhere.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from swath.core.data.scenes.plan import (
    HEIGHT_UNIT_M,
    LEAVES,
    NO_SHADOW,
    SHIFT,
    SLABS,
    SWEPT_SHADOW,
    Plan,
)

TILE = 512
"""Textures repeat every ``TILE`` pixels."""

LARGEST = TILE - 16
"""Largest side of a window that is painted at once."""

COARSE, NOISE = 5, 6
"""Places in the texture bank beside the texture kinds."""

# pixels drawn around a window and dropped: OpenCV shifts an outline by up to a pixel where it clips
_APRON = 64
_MARGIN = 4  # pixels painted around a window so that the point spread sees its neighbours
_UINT8 = npt.NDArray[np.uint8]
_INT16 = npt.NDArray[np.int16]
_INT64 = npt.NDArray[np.int64]
_INT32 = npt.NDArray[np.int32]
_INTP = npt.NDArray[np.intp]


class Window(NamedTuple):
    """A painted part of a world.

    Attributes:
        image: ``(h, w, 3)`` uint8.
        mask: ``(h, w)`` uint8, indices in `CLASSES`.
        things: ``(h, w)`` int32, numbers of the plan's things, 0 for none.
    """

    image: _UINT8
    mask: _UINT8
    things: npt.NDArray[np.int32]


class Sensor:
    """How one world is seen: light, haze, optics, noise.

    Args:
        plan: Whose domain and dice decide.
    """

    def __init__(self, plan: Plan) -> None:
        domain, dice = plan.domain, plan.dice
        self.offsets = [(dice.below(TILE), dice.below(TILE)) for _ in range(7)]
        self.shade = dice.uniform(0.42, 0.58)  # light left in a shadow
        self.sigma = dice.uniform(*domain.blur)
        self.noise = dice.uniform(*domain.noise)
        haze = dice.uniform(*domain.haze)
        gamma = math.exp(dice.uniform(-0.25, 0.25) * domain.spread)
        table = np.empty((256, 3))
        grey = np.arange(256) / 255
        for channel in range(3):
            gain = 1 + dice.uniform(-0.18, 0.18) * domain.spread
            offset = dice.uniform(-14, 14) * domain.spread
            value = 255 * gain * grey**gamma + offset
            table[:, channel] = value * (1 - haze) + domain.airlight[channel] * haze
        self.response = np.clip(np.floor(table + 0.5), 0, 255).astype(np.uint8)[None]
        dx, dy = plan.shadow
        self.light = (int(math.copysign(2, dx)), int(math.copysign(2, dy)))
        self.shadow = plan.shadow


def _smooth(noise: _INT64, radii: tuple[int, int], times: int = 2) -> _INT64:
    """Periodic box blur in integers, scaled by `_unit`."""
    for axis, radius in enumerate(radii):
        for _ in range(times):
            steps = [np.roll(noise, step, axis) for step in range(-radius, radius + 1)]
            noise = np.sum(steps, axis=0)
    return _unit(noise)


def _unit(values: _INT64) -> _INT64:
    """Shifted to mean 0 and scaled to a standard deviation of 32, about."""
    values = values - values.sum() // values.size
    size = math.isqrt(int((values**2).sum()) // values.size) or 1
    return values * 32 // size


@cache
def _textures() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Texture bank ``(6, .., ..)``, canopy relief and sensor noise ``(.., .., 3)``.

    Standard deviation 32 (noise: 16). Each is repeated once along both axes, so that any crop is a
    slice; made once a process from a fixed stream.
    """
    stream = np.random.PCG64(np.random.SeedSequence((20, 26)))

    def layer() -> _INT64:  # sums of eight bytes are nearly normal
        raw = stream.random_raw(TILE * TILE)
        octets: _INT64 = raw.view(np.uint8).reshape(TILE, TILE, 8).astype(np.int64)
        return np.asarray(octets.sum(axis=-1) - 1020)

    fine, medium, coarse = (_smooth(layer(), (r, r), n) for r, n in ((1, 1), (3, 2), (14, 2)))
    smooth = _unit(fine + 2 * coarse)
    grain = _unit(2 * fine + medium + coarse)
    patch = _unit(2 * fine + 3 * medium + 4 * coarse)
    ripple = _unit(_smooth(layer(), (1, 5)) + coarse)
    relief = _domes(stream) * 3 + _smooth(layer(), (1, 1)) // 3
    bank = np.stack([smooth, grain, patch, patch, ripple, coarse])
    noise = np.stack([_unit(layer()) // 2 for _ in range(3)], axis=-1)

    def twice(values: _INT64) -> npt.NDArray[np.int16]:
        values = np.clip(values, -127, 127)
        axes = (0, 1) if values.shape[-1] == 3 else (-2, -1)
        for axis in axes:
            values = np.concatenate([values, values], axis)
        return np.ascontiguousarray(values.astype(np.int16))

    return twice(bank), twice(relief), twice(noise)


def _domes(stream: np.random.PCG64) -> _INT64:
    """Canopy heights: the upper envelope of many round crowns, periodic."""
    height = np.zeros((TILE, TILE), np.int64)
    raw = (stream.random_raw(9000) >> np.uint64(20)).astype(np.int64)
    for i in range(0, 9000, 3):
        x, y, r = int(raw[i] % TILE), int(raw[i + 1] % TILE), 4 + int(raw[i + 2] % 6)
        span = np.arange(-r, r + 1)
        dome = np.maximum(0, r * r - span[:, None] ** 2 - span[None] ** 2) * 40 // (r * r) + r * 2
        dome[span[:, None] ** 2 + span[None] ** 2 > r * r] = 0
        rows, cols = (span + y) % TILE, (span + x) % TILE
        patch = np.ix_(rows, cols)
        height[patch] = np.maximum(height[patch], dome)
    return height


@cache
def _patterns() -> npt.NDArray[np.int16]:
    """Brightness over one period, for each pattern kind in 64 x 64 steps along v, u; flat."""
    step = np.arange(64)
    wave = np.floor(32 * np.sin(2 * np.pi * (step + 0.5) / 64) + 0.5).astype(np.int16)
    table = np.zeros((8, 64, 64), np.int16)  # kind, v, u
    table[1] = wave
    table[2] = np.where(step < 32, 28, -28)
    table[3] = np.where(np.isin(step, (20, 21, 22, 34, 35, 36)), -60, 4)
    table[4] = np.where(step < 28, 64, -64)
    table[5] = np.where(step < 12, -50, 10)
    table[6] = np.where((step < 4) | (step[:, None] < 4), -70, 6)
    table[7] = np.where((step < 5) | (step > 58), 110, 0)
    return table.reshape(-1)


class Painter:
    """Draws windows of one world.

    Args:
        plan: The world.
        sensor: How it is seen.
    """

    def __init__(self, plan: Plan, sensor: Sensor) -> None:
        self.plan, self.sensor = plan, sensor
        self._polygons, rows = plan.finish()
        self._level = rows[:, 3].astype(np.uint8)
        self._label = rows[:, 1].astype(np.uint8)
        self._thing = rows[:, 2]
        self._shades = rows[:, 4]
        # RGB, texture, roughness, tint, pattern, strength in 8 bytes; the two phase steps in 8
        self._paint = np.ascontiguousarray(rows[:, 5:13].astype(np.uint8)).view(np.uint64).ravel()
        self._phase = np.ascontiguousarray(rows[:, 13:15]).view(np.uint64).ravel()
        self._slabs = rows[:, 11] == SLABS
        self._low, self._high = _bounds(self._polygons)
        throw = rows[:, 3:4] * (HEIGHT_UNIT_M * (1 << SHIFT)) * np.array(sensor.shadow)
        self._throw = np.floor(throw + 0.5).astype(np.int32)
        shift = np.where(self._shades[:, None] != NO_SHADOW, self._throw, 0)
        self._reach_low = self._low + np.minimum(shift, 0)
        self._reach_high = self._high + np.maximum(shift, 0)

    def window(self, row: int, col: int, height: int, width: int) -> Window:
        """Paint a window of at most ``LARGEST`` pixels a side.

        Windows of one world fit together: textures, patterns and noise are functions of the
        world's coordinates.
        """
        top, left = row - _MARGIN, col - _MARGIN
        shape = (height + 2 * _MARGIN, width + 2 * _MARGIN)
        corner = np.array((left, top), np.int32) << SHIFT
        chosen, index = self._draw(corner, shape)
        looks = self._paint[chosen].take(index).view(np.uint8).reshape(*shape, 8)
        coarse = self._crop(COARSE, top, left, shape)
        light = self._texture(looks, top, left, shape)
        light += self._pattern(looks, chosen, index, top, left, shape)
        np.clip(light, 30, 230, out=light)
        shaded = self._shadows(corner, shape) > self._level[chosen].take(index)
        dark = (light * np.int16(128 * self.sensor.shade)) >> 7
        lit = np.where(shaded, dark, light).astype(np.uint16)
        tint = (coarse * looks[..., 5].astype(np.int16)) >> 6
        image = np.empty((*shape, 3), np.uint8)
        for channel in range(3):
            colour = looks[..., channel].astype(np.int16)
            if channel == 0:
                colour += tint
            elif channel == 2:
                colour -= tint >> 1
            np.clip(colour, 0, 255, out=colour)
            image[..., channel] = np.minimum((colour.astype(np.uint16) * lit) >> 7, 255)
        inner = (slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN))
        index = index[inner]
        return Window(
            self._sense(image, top, left)[inner],
            self._label[chosen].take(index),
            self._thing[chosen].take(index),
        )

    def _draw(self, corner: _INT32, shape: tuple[int, int]) -> tuple[_INTP, _INTP]:
        """Numbers of the parts that touch a window, and which of them each pixel shows."""
        size = np.array((shape[1], shape[0]), np.int32) << SHIFT
        inside = (self._low < corner + size) & (self._high > corner)
        chosen = np.flatnonzero(inside.all(axis=1))
        canvas, left, top = _canvas(corner, shape, np.uint16)
        offset = (-left, -top)
        for local, part in enumerate(chosen.tolist()):
            cv2.fillPoly(canvas, [self._polygons[part]], local, 8, SHIFT, offset)
        return chosen, canvas[_APRON:-_APRON, _APRON:-_APRON].astype(np.intp)

    def _shadows(self, corner: _INT32, shape: tuple[int, int]) -> _UINT8:
        """Height level of the tallest thing that keeps the sun from each pixel."""
        size = np.array((shape[1], shape[0]), np.int32) << SHIFT
        inside = (self._reach_low < corner + size) & (self._reach_high > corner)
        casting = np.flatnonzero(inside.all(axis=1) & (self._shades != NO_SHADOW))
        casting = casting[np.argsort(self._level[casting], kind="stable")]
        canvas, left, top = _canvas(corner, shape, np.uint8)
        levels, throws = self._level[casting].tolist(), self._throw[casting].tolist()
        swept = (self._shades[casting] == SWEPT_SHADOW).tolist()
        for part, level, (dx, dy), solid in zip(
            casting.tolist(), levels, throws, swept, strict=True
        ):
            polygon, offset = self._polygons[part], (dx - left, dy - top)
            if solid:
                polygon = cv2.convexHull(np.concatenate([polygon, polygon - self._throw[part]]))
            cv2.fillPoly(canvas, [polygon], level, 8, SHIFT, offset)
        return canvas[_APRON:-_APRON, _APRON:-_APRON]

    def _crop(self, kind: int, top: int, left: int, shape: tuple[int, int]) -> _INT16:
        row, col = self._origin(kind, top, left)
        return _textures()[0][kind, row : row + shape[0], col : col + shape[1]]

    def _origin(self, kind: int, top: int, left: int) -> tuple[int, int]:
        row, col = self.sensor.offsets[kind]
        return (row + top) % TILE, (col + left) % TILE

    def _texture(self, looks: _UINT8, top: int, left: int, shape: tuple[int, int]) -> _INT16:
        """Brightness of 128ths from the texture of each pixel's part."""
        stack = np.empty((5, *shape), np.int16)
        for kind in range(5):
            if kind == LEAVES:  # canopy relief, lit from the sun's side
                row, col = self._origin(kind, top, left)
                (dx, dy), relief, (height, width) = self.sensor.light, _textures()[1], shape
                here = relief[row + 2 : row + 2 + height, col + 2 : col + 2 + width]
                row, col = row + 2 - dy, col + 2 - dx
                sunward = relief[row : row + height, col : col + width]
                np.subtract(here, sunward, out=stack[kind])
            else:
                stack[kind] = self._crop(kind, top, left, shape)
        pixels = shape[0] * shape[1]
        place = looks[..., 3].astype(np.intp) * pixels
        place += np.arange(pixels).reshape(shape)
        light = stack.reshape(-1).take(place)
        light *= looks[..., 4]
        light >>= 5
        light += 128
        return light

    def _pattern(
        self,
        looks: _UINT8,
        chosen: _INTP,
        index: _INTP,
        top: int,
        left: int,
        shape: tuple[int, int],
    ) -> _INT16:
        """Brightness of 128ths from rows, dashes, slabs: functions of the rotated coordinates."""
        step = self._phase[chosen].take(index).view(np.int32).reshape(*shape, 2)
        ux, uy = np.ascontiguousarray(step[..., 0]), np.ascontiguousarray(step[..., 1])
        x = np.arange(left, left + shape[1], dtype=np.int32)
        y = np.arange(top, top + shape[0], dtype=np.int32)[:, None]
        u = ((x * ux + y * uy) >> 8) & 63
        place = (looks[..., 6].astype(np.int32) << 12) | u
        if self._slabs[chosen].any():  # the only pattern that also runs across
            place |= (((y * ux - x * uy) >> 8) & 63) << 6
        pattern = _patterns().take(place)
        pattern *= looks[..., 7]
        pattern >>= 5
        return pattern

    def _sense(self, image: _UINT8, top: int, left: int) -> _UINT8:
        """Optics, light and haze, noise."""
        sensor = self.sensor
        image = cv2.GaussianBlur(image, (5, 5), sensor.sigma)
        image = cv2.LUT(image, sensor.response)
        row, col = self._origin(NOISE, top, left)
        noise = _textures()[2][row : row + image.shape[0], col : col + image.shape[1]]
        noise = (noise * np.int16(sensor.noise * 8)) >> 7
        return cv2.add(image, noise, dtype=cv2.CV_8U)  # type: ignore[no-any-return]


def _canvas(
    corner: _INT32, shape: tuple[int, int], dtype: type
) -> tuple[npt.NDArray[Any], int, int]:
    """An empty canvas with an apron, and the fixed-point coordinates of its corner."""
    apron = _APRON << SHIFT
    canvas = np.zeros((shape[0] + 2 * _APRON, shape[1] + 2 * _APRON), dtype)
    return canvas, int(corner[0]) - apron, int(corner[1]) - apron


def _bounds(polygons: list[_INT32]) -> tuple[_INT32, _INT32]:
    """Lowest and highest coordinates of each polygon, ``(N, 2)``, widened by a pixel."""
    starts = np.cumsum([0, *(len(p) for p in polygons[:-1])])
    points = np.concatenate(polygons)
    one = 1 << SHIFT
    return np.minimum.reduceat(points, starts) - one, np.maximum.reduceat(points, starts) + one
