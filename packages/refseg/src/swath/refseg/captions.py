"""A caption from boxes, by rules.

Official code: https://github.com/1e12Leon/RemoteSAM, `RuleBasedCaptioning.py`; dossier 3.3.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swath.core.errors import ConfigError

Chooser = Callable[[int], int]
"""Picks one of n templates: an index below n."""

EXISTENCE = (
    "It contains {things}.",
    "The image includes {things}.",
    "There are {things} in the image.",
    "This image features {things}.",
    "This picture shows {things}.",
)
"""Templates of the first sentence."""

PLACE = (
    "The {region} region contains {things}.",
    "{things} {verb} distributed in the {region}.",
    "There {verb} {things} in the {region}.",
    "The {region} region has {things}.",
    "{things} {verb} observed in the {region}.",
    "In the {region}, {things} {verb} present.",
)
"""Templates of the sentences about regions."""

REGIONS: Mapping[int, tuple[str, ...]] = {
    4: ("upper left", "upper right", "lower left", "lower right"),
    9: (
        "upper left", "upper center", "upper right",
        "middle left", "center", "middle right",
        "lower left", "lower center", "lower right",
    ),
}  # fmt: skip
"""Names of the parts of an image, row by row, by their number."""

MANY = 5
"""From this number on, things are many."""


def check_regions(regions: int) -> None:
    """Refuse another number of regions than captions can name.

    Raises:
        ConfigError: If it is another.
    """
    if regions not in REGIONS:
        raise ConfigError(f"region_split={regions} must be one of {', '.join(map(str, REGIONS))}")


def caption(
    boxes: Mapping[str, Sequence[Sequence[float]]],
    height: int,
    width: int,
    regions: int = 9,
    choose: Chooser = lambda count: 0,
    *,
    official_when_empty: bool = False,
) -> str:
    """Say what there is, and where.

    Args:
        boxes: x1, y1, x2, y2, ... of each object, in pixels, by class.
        height: Of the image, px.
        width: Of the image, px.
        regions: 4 or 9.
        choose: Picks the templates, first that of the first sentence, then one per region.
        official_when_empty: Whether a caption of nothing is the official ``"It contains . "``;
            by default it is one that reads.

    Raises:
        ConfigError: If ``regions`` is another number.
    """
    check_regions(regions)
    present = {name: rows for name, rows in boxes.items() if len(rows)}
    if not present and not official_when_empty:
        return "It contains nothing that was looked for."
    listed = ", ".join(_counted(name, len(rows)) for name, rows in present.items())
    first = EXISTENCE[choose(len(EXISTENCE))].format(things=listed)
    return f"{first} {' '.join(_places(present, height, width, regions, choose))}"


def _places(
    boxes: Mapping[str, Sequence[Sequence[float]]],
    height: int,
    width: int,
    regions: int,
    choose: Chooser,
) -> list[str]:
    """A sentence about each region that holds the centre of an object."""
    side = int(regions**0.5)
    found: list[Counter[str]] = [Counter() for _ in range(regions)]
    for name, rows in boxes.items():
        for x1, y1, x2, y2, *_ in rows:
            # clamped: the centre of a box on the border may be the border itself
            row = min(int((y1 + y2) / 2 // (height / side)), side - 1)
            column = min(int((x1 + x2) / 2 // (width / side)), side - 1)
            found[row * side + column][name] += 1
    return [
        PLACE[choose(len(PLACE))].format(
            region=region,
            things=", ".join(name + "s" * (count > 1) for name, count in things.items()),
            verb="are" if things.total() > 1 else "is",
        )
        for region, things in zip(REGIONS[regions], found, strict=True)
        if things
    ]


def _counted(name: str, count: int) -> str:
    if count == 1:
        return name
    return f"many {name}s" if count >= MANY else f"{count} {name}s"


def chooser(generator: Any) -> Chooser:
    """A chooser from a `random.Random`: the official code's order of calls, with a seed."""
    return lambda count: generator.choice(range(count))
