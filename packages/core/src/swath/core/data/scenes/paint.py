"""From vectors to pixels: one part map, from which colours and every label are looked up.

All arithmetic on pixels is integer arithmetic, so that a seed gives the same picture everywhere.
"""

import math
from functools import cache
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from swath.core.data.scenes.plan import (
    HEIGHT_UNIT_M,
    LEAVES,
    NO_SHADOW,
    SHIFT,
    SLABS,
    SMOOTH,
    SWEPT_SHADOW,
    Plan,
)

T = TypeVar("T", bound=np.generic)

TILE = 512
"""Textures repeat every ``TILE`` pixels."""

LARGEST = TILE - 16
"""Largest side of a window that is painted at once."""

COARSE, NOISE = 5, 6
"""Places in the texture bank beside the texture kinds."""

# pixels drawn around a window and dropped: OpenCV shifts an edge by up to a pixel where it clips;
# edges of at most _EDGE pixels that reach the window are never clipped
_APRON, _EDGE = 64, 48
_MARGIN = 4  # pixels painted around a window so that the point spread sees its neighbours
_UINT8 = npt.NDArray[np.uint8]
_UINT16 = npt.NDArray[np.uint16]
_INT16 = npt.NDArray[np.int16]
_INT64 = npt.NDArray[np.int64]
_INT32 = npt.NDArray[np.int32]
_INTP = npt.NDArray[np.intp]


class Window(NamedTuple):
    """A painted part of a world.

    Attributes:
        planes: ``(3, h, w)`` uint8, RGB.
        mask: ``(h, w)`` uint8, indices in `CLASSES`.
        shown: ``(h, w)`` intp, which of the window's parts a pixel shows.
        owner: int32 per part, the number of the thing it belongs to, 0 for none.
    """

    planes: _UINT8
    mask: _UINT8
    shown: _INTP
    owner: _INT32


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
        table = np.clip(np.floor(table + 0.5), 0, 255)
        self.response = np.ascontiguousarray(table.astype(np.int16).T)
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
def _bank() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Texture bank ``(6, .., ..)``, canopy relief and sensor noise ``(3, .., ..)``.

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
    noise = np.stack([_unit(layer()) // 2 for _ in range(3)])

    def twice(values: _INT64) -> npt.NDArray[np.int16]:
        values = np.clip(values, -127, 127).astype(np.int16)
        return np.tile(values, (*[1] * (values.ndim - 2), 2, 2))

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
def _periods() -> npt.NDArray[np.int16]:
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
        self._polygons, rows, low, high = plan.finish()
        self._many = max(plan.height, plan.width) > LARGEST  # several windows, which have to fit
        if self._many:
            self._polygons = [_with_short_edges(polygon) for polygon in self._polygons]
        self._level = rows[:, 3].astype(np.uint8)
        self._label = rows[:, 1].astype(np.uint8)
        self._owner = np.ascontiguousarray(rows[:, 2])
        self._shades = rows[:, 4]
        # four bytes a part each: RGB and tint; texture, roughness, pattern, strength
        self._colour = _packed(rows[:, [5, 6, 7, 10]], np.uint8)
        self._look = _packed(rows[:, [8, 9, 11, 12]], np.uint8)
        self._phase = _packed(rows[:, 13:15], np.uint16)  # phases count modulo 64 * 256
        self._texture, self._pattern = rows[:, 8], rows[:, 11]
        one = 1 << SHIFT  # bounds are widened by a pixel
        self._low, self._high = low - one, high + one
        throw = rows[:, 3:4] * (HEIGHT_UNIT_M * one) * np.array(sensor.shadow)
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
        texture, roughness, pattern, strength = _gather(self._look, chosen, index, np.uint8)
        red, green, blue, tint = _gather(self._colour, chosen, index, np.uint8)
        light = self._textures(set(self._texture[chosen].tolist()), texture, top, left)
        light *= roughness
        light >>= 5
        light += 128
        if self._pattern[chosen].any():
            light += self._patterns(chosen, index, pattern, strength, top, left)
        np.clip(light, 30, 230, out=light)
        shaded = self._shadows(corner, shape) > _take(self._level[chosen], index)
        dark = light * np.int16(128 * self.sensor.shade)
        dark >>= 7
        cv2.copyTo(dark, shaded.view(np.uint8), light)
        warm = self._crop(COARSE, top, left, shape) * tint
        warm >>= 6
        inner = (slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN))
        planes = np.empty((3, height, width), np.uint8)
        for channel, colour in enumerate((red, green, blue)):
            value = colour.astype(np.int16)
            if channel == 0:
                value += warm
            elif channel == 2:
                value -= warm >> 1
            np.clip(value, 0, 255, out=value)
            bright = value.view(np.uint16)  # up to 255 * 230
            bright *= light.view(np.uint16)
            bright >>= 7
            np.minimum(bright, 255, out=bright)
            planes[channel] = self._sense(bright.astype(np.uint8), channel, top, left)[inner]
        index = np.ascontiguousarray(index[inner])
        return Window(planes, _take(self._label[chosen], index), index, self._owner[chosen])

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
                if self._many:
                    polygon = _with_short_edges(polygon[:, 0])
            cv2.fillPoly(canvas, [polygon], level, 8, SHIFT, offset)
        return canvas[_APRON:-_APRON, _APRON:-_APRON]

    def _crop(self, kind: int, top: int, left: int, shape: tuple[int, int]) -> _INT16:
        row, col = self._origin(kind, top, left)
        return _bank()[0][kind, row : row + shape[0], col : col + shape[1]]

    def _origin(self, kind: int, top: int, left: int) -> tuple[int, int]:
        row, col = self.sensor.offsets[kind]
        return (row + top) % TILE, (col + left) % TILE

    def _textures(self, kinds: set[int], texture: _UINT8, top: int, left: int) -> _INT16:
        """The texture of each pixel's part, out of the kinds that occur."""
        shape = texture.shape
        light = self._crop(SMOOTH, top, left, shape).copy()
        for kind in kinds - {SMOOTH}:
            if kind == LEAVES:  # canopy relief, lit from the sun's side
                row, col = self._origin(kind, top, left)
                (dx, dy), relief, (height, width) = self.sensor.light, _bank()[1], shape
                here = relief[row + 2 : row + 2 + height, col + 2 : col + 2 + width]
                row, col = row + 2 - dy, col + 2 - dx
                values = here - relief[row : row + height, col : col + width]
            else:
                values = self._crop(kind, top, left, shape)
            cv2.copyTo(values, cv2.compare(texture, kind, cv2.CMP_EQ), light)
        return light

    def _patterns(
        self,
        chosen: _INTP,
        index: _INTP,
        pattern: _UINT8,
        strength: _UINT8,
        top: int,
        left: int,
    ) -> _INT16:
        """Brightness of 128ths from rows, dashes, slabs: functions of the rotated coordinates."""
        ux, uy = _gather(self._phase, chosen, index, np.uint16)
        height, width = index.shape
        x = np.arange(left, left + width).astype(np.uint16)
        y = np.arange(top, top + height).astype(np.uint16)[:, None]
        place = pattern.astype(np.uint16)
        place <<= 12
        place |= _phase(x, ux, y, uy)
        if (self._pattern[chosen] == SLABS).any():  # the only pattern that also runs across
            place |= _phase(y, ux, -x, uy) << 6
        light = _take(_periods(), place)
        light *= strength
        light >>= 5
        return light

    def _sense(self, plane: _UINT8, channel: int, top: int, left: int) -> _INT16:
        """Optics, light and haze, noise."""
        sensor = self.sensor
        plane = cv2.GaussianBlur(plane, (5, 5), sensor.sigma)
        seen: _INT16 = cv2.LUT(plane, sensor.response[channel])
        row, col = self._origin(NOISE, top, left)
        noise = _bank()[2][channel, row : row + plane.shape[0], col : col + plane.shape[1]]
        noise = noise * np.int16(sensor.noise * 8)
        noise >>= 7
        seen += noise
        return np.clip(seen, 0, 255, out=seen)


def _with_short_edges(polygon: _INT32) -> _INT32:
    """The same polygon with corners added, so that no edge is longer than ``_EDGE`` pixels."""
    step = np.roll(polygon, -1, axis=0) - polygon
    pieces = np.abs(step).max(axis=1) // (_EDGE << SHIFT) + 1
    if pieces.max() == 1:
        return polygon
    edge = np.repeat(np.arange(len(polygon)), pieces)
    within = np.arange(len(edge)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.asarray(polygon[edge] + step[edge] * within[:, None] // pieces[edge, None], np.int32)


def _packed(columns: _INT32, dtype: type) -> npt.NDArray[np.uint32]:
    """Columns as the bytes of one number a row."""
    return np.ascontiguousarray(columns.astype(dtype)).view(np.uint32).ravel()


def _take(table: npt.NDArray[T], index: npt.NDArray[Any]) -> npt.NDArray[T]:
    """``table[index]``; numpy is faster where it needn't report an index out of range."""
    return table.take(index, mode="clip")


def _gather(
    packed: npt.NDArray[np.uint32], chosen: _INTP, index: _INTP, dtype: type
) -> tuple[npt.NDArray[Any], ...]:
    """The columns that `_packed` packed, as a plane each."""
    return cv2.split(_take(packed[chosen], index).view(dtype).reshape(*index.shape, -1))  # type: ignore[return-value]


def _phase(x: _UINT16, ux: _UINT16, y: _UINT16, uy: _UINT16) -> _UINT16:
    """64ths of a period; that it overflows is no matter, as periods repeat."""
    phase = x * ux
    phase += y * uy
    phase >>= 8
    phase &= 63
    return phase


def _canvas(
    corner: _INT32, shape: tuple[int, int], dtype: type
) -> tuple[npt.NDArray[Any], int, int]:
    """An empty canvas with an apron, and the fixed-point coordinates of its corner."""
    apron = _APRON << SHIFT
    canvas: npt.NDArray[Any] = np.zeros((shape[0] + 2 * _APRON, shape[1] + 2 * _APRON), dtype)
    return canvas, int(corner[0]) - apron, int(corner[1]) - apron
