"""Near-duplicates by a perceptual hash, found without comparing everything with everything."""

from array import array
from collections.abc import Iterator
from functools import cache
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

_BANDS = 4
_BAND_BITS = 64 // _BANDS
_MASK = (1 << _BAND_BITS) - 1

MAX_RADIUS = 4 * _BANDS - 1
"""Largest radius that is searched for; unrelated images differ in about 32 of the 64 bits."""


def perceptual_hash(image: NDArray[np.uint8]) -> int:
    """64 bits that hardly change under noise, compression, rescaling and changes of brightness.

    One bit for each of the 63 lowest frequencies of the 32 x 32 grey image's cosine transform, in
    8 x 8 without the mean: whether it is above their median.

    Args:
        image: ``(H, W, 3)`` or ``(H, W)``.

    Returns:
        0 to 2**64 - 1; images that look alike are a few bits apart.

    Source:
        Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), 3.2.1.
    """
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[:8, :8].ravel()[1:]
    bits = np.concatenate([[False], lowest > np.median(lowest)])
    return int.from_bytes(np.packbits(bits).tobytes())


class DuplicateIndex:
    """Hashes seen so far, searched by Hamming distance in far less than linear time.

    A hash is cut into four bands of 16 bits. If two hashes differ in at most ``radius`` bits, one
    of their bands differs in at most ``radius // 4``: only what shares such a band is compared.

    Args:
        radius: Most bits in which duplicates differ, 0 to `MAX_RADIUS`.

    Raises:
        ValueError: If the radius is out of range.

    Source:
        Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with Multi-Index Hashing" (2012).
    """

    def __init__(self, radius: int) -> None:
        if not 0 <= radius <= MAX_RADIUS:
            raise ValueError(f"radius {radius} isn't 0 to {MAX_RADIUS}")
        self.radius = radius
        self._hashes = array("Q")
        self._numbers = array("Q")
        self._tables: list[dict[int, array[int]]] = [{} for _ in range(_BANDS)]

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, value: int, number: int) -> None:
        """Remember a hash under a number of the caller's."""
        place = len(self._hashes)
        self._hashes.append(value)
        self._numbers.append(number)
        for table, band in zip(self._tables, _bands(value), strict=True):
            table.setdefault(band, array("I")).append(place)

    def find(self, value: int) -> int | None:
        """The number of the first hash that was added within the radius, or None."""
        candidates = array("I")
        for table, band in zip(self._tables, _bands(value), strict=True):
            for change in _changes(self.radius // _BANDS):
                near = table.get(band ^ change)
                if near is not None:
                    candidates.extend(near)
        if not candidates:
            return None
        places = np.frombuffer(candidates, np.uint32)
        hashes = np.frombuffer(self._hashes, np.uint64)[places]
        close = places[np.bitwise_count(hashes ^ np.uint64(value)) <= self.radius]
        return self._numbers[int(close.min())] if close.size else None


def _bands(value: int) -> Iterator[int]:
    return ((value >> _BAND_BITS * i) & _MASK for i in range(_BANDS))


@cache
def _changes(bits: int) -> tuple[int, ...]:
    """All ways to flip at most so many bits of a band."""
    return tuple(
        sum(1 << bit for bit in flipped)
        for count in range(bits + 1)
        for flipped in combinations(range(_BAND_BITS), count)
    )
