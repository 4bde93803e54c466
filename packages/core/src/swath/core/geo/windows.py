"""Cutting a raster into windows."""

import math
from collections.abc import Iterator

from rasterio.windows import Window


def split(length: int, size: int) -> list[tuple[int, int]]:
    """Cut ``length`` samples into runs of ``size``; the last may be shorter.

    Args:
        length: Samples, at least 1.
        size: Samples a run, at least 1.

    Returns:
        Start and stop of each run, in order.
    """
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def row_blocks(height: int, width: int, rows: int) -> Iterator[Window]:
    """Windows of full width that cover a raster from top to bottom.

    Args:
        height: Rows of the raster.
        width: Columns of the raster.
        rows: Rows a window; the last may have fewer.
    """
    for top, bottom in split(height, rows):
        yield Window(0, top, width, bottom - top)


def grid(height: int, width: int, size: int) -> Iterator[Window]:
    """Windows of ``size`` x ``size`` pixels, row by row; those at the far borders are smaller.

    Args:
        height: Rows of the raster.
        width: Columns of the raster.
        size: Side of a window in pixels.
    """
    for top, bottom in split(height, size):
        for left, right in split(width, size):
            yield Window(left, top, right - left, bottom - top)


def starts(length: int, size: int, step: int) -> list[int]:
    """Where windows begin along one axis: every ``step`` pixels, the last one at the border."""
    count = 1 if length <= size else math.ceil((length - size) / step) + 1
    return [min(i * step, max(0, length - size)) for i in range(count)]
