"""Colours for classes that bring none of their own; nothing heavy is imported here."""

import colorsys
from collections.abc import Sequence

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

# Okabe and Ito's eight (blue first) and Paul Tol's muted set: told apart with any colour vision.
PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
    (136, 34, 85),
    (68, 170, 153),
    (51, 34, 136),
    (153, 153, 51),
    (221, 204, 119),
    (136, 204, 238),
    (17, 119, 51),
    (204, 102, 119),
    (170, 68, 153),
)
"""The first of the default colours."""

BACKGROUNDS = ("background", "ground", "other", "unknown", "no-data", "nodata", "unlabelled")
"""Names of a first class that stands for everything else."""


def default_palette(classes: int | Sequence[str]) -> tuple[Colour, ...]:
    """A colour for each class: `PALETTE`, then hues spaced by the golden angle.

    Args:
        classes: How many there are; or their names, and a first one out of `BACKGROUNDS` becomes
            black, which contact sheets leave clear. The others' colours don't depend on it.

    Returns:
        RGB triples, all different for up to several hundred classes.

    Examples:
        >>> default_palette(2)
        ((0, 114, 178), (230, 159, 0))
        >>> default_palette(["background", "ship"])
        ((0, 0, 0), (230, 159, 0))
    """
    count = classes if isinstance(classes, int) else len(classes)
    colours = list(PALETTE[:count])
    for i in range(count - len(colours)):
        hue, lightness = (i * 0.618034) % 1, (0.35, 0.55, 0.72)[i % 3]
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.65)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    if not isinstance(classes, int) and count and classes[0].casefold() in BACKGROUNDS:
        colours[0] = (0, 0, 0)
    return tuple(colours)
