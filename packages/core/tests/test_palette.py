import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from swath.core.data.spec import Protocol
from swath.core.palette import PALETTE, default_palette
from swath.core.segmentation import SegmentationTask


@given(st.integers(0, 300))
def test_every_class_has_a_colour_of_its_own(count: int) -> None:
    palette = default_palette(count)
    assert len(set(palette)) == len(palette) == count
    assert palette[: len(PALETTE)] == PALETTE[:count]
    assert all(0 <= value <= 255 for colour in palette for value in colour)


def test_only_a_first_class_called_background_is_black() -> None:
    names = ["Background", *map(str, range(40))]
    palette = default_palette(names)
    assert len(set(palette)) == 41
    assert palette == ((0, 0, 0), *default_palette(41)[1:])
    assert default_palette(["ship", "background"]) == PALETTE[:2]
    assert default_palette([]) == ()


def test_the_default_colours_differ_for_the_colour_blind_too() -> None:
    """Through deuteranopia (Vienot 1999) any two of the first eight stay apart."""

    def seen(colour: tuple[int, int, int]) -> tuple[float, ...]:
        red, green, blue = ((value / 255) ** 2.2 for value in colour)
        yellow = 0.29275 * red + 0.70725 * green
        rest = blue - 0.02234 * (red - green)
        return 100 * yellow ** (1 / 2.2), 100 * max(0.0, rest) ** (1 / 2.2)

    colours = [seen(colour) for colour in PALETTE[:8]]
    for i, a in enumerate(colours):
        for b in colours[:i]:
            assert sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 > 8


def test_data_and_tasks_colour_alike() -> None:
    names = ("water", "land", "roof")
    assert Protocol(names).palette == SegmentationTask(names).palette == default_palette(3)


def test_colours_cost_no_import_of_matplotlib_or_torch() -> None:
    heavy = "{'torch', 'matplotlib', 'numpy'}"
    code = f"import sys, swath.core.palette; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
