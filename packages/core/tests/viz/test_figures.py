import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from swath.core.viz import confusion, curve, default_palette, legend, panels, training_curves
from swath.core.viz.figures import INK, figure_svg


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for axes in figure.axes for t in axes.texts]


def test_confusion_rows_are_shares_of_the_true_class() -> None:
    assert texts(confusion([[3, 1], [0, 0]], ["land", "water"])) == ["75", "25"]


def test_a_class_that_never_occurs_is_called_absent() -> None:
    (axes,) = confusion([[3, 1], [0, 0]], ["land", "water"]).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["land", "water (absent)"]


def test_twenty_classes_show_their_recall_and_no_cell_figures() -> None:
    names = [f"class {i}" for i in range(20)]
    assert texts(confusion(np.eye(20) * 5, names)) == ["100 %"] * 20


def test_a_matrix_that_does_not_fit_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 classes need a \(3, 3\) matrix; got \(2, 2\)"):
        confusion(np.eye(2), ["a", "b", "c"])


def test_training_curves_show_the_score_only_if_there_is_one() -> None:
    log = [{"step": s, "loss": 1 / s} for s in range(1, 100)]
    assert len(training_curves(log, "mIoU").axes) == 1
    assert len(training_curves([*log, {"step": 99, "val": {"mIoU": 0.5}}], "mIoU").axes) == 2


def test_smoothing_keeps_a_constant_curve_constant() -> None:
    figure = curve({"loss": (range(100), [2.0] * 100)})
    smoothed = figure.axes[0].lines[1].get_ydata()
    np.testing.assert_allclose(smoothed, 2.0)


def test_panels_have_one_picture_each_and_a_legend() -> None:
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    figure = panels(
        {"image": picture, "truth": picture}, classes=["a", "b"], palette=default_palette(2)
    )
    assert [axes.get_title() for axes in figure.axes] == ["image", "truth"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize("columns", [2, 6])
def test_a_long_legend_stays_within_the_figure(columns: int) -> None:
    names = [f"{colour} storage tank" for colour in ("orange", "white", "green", "brown") * 7]
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    figure = panels(
        {str(i): picture for i in range(columns)},
        classes=names,
        palette=default_palette(len(names)),
        side=1.7,
    )
    figure.canvas.draw()
    box, page = figure.legends[0].get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert page.y0 <= box.y0 < box.y1 < figure.axes[0].bbox.y0


def test_the_legend_names_every_class() -> None:
    figure = legend(["a", "b", "c"], default_palette(3))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_svg_takes_its_ink_from_the_page_and_is_reproducible() -> None:
    def draw() -> str:
        return figure_svg(curve({"loss": ([1, 2, 3], [3.0, 2.0, 1.0])}))

    svg = draw()
    assert svg.startswith("<svg")
    assert INK not in svg
    assert "currentColor" in svg
    assert svg == draw()


def test_drawing_never_imports_pyplot() -> None:
    code = (
        "import sys, swath.core.viz as v; v.confusion([[1, 0], [0, 1]], ['a', 'b']); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["a price of $5_{ or $10", "US$", r"a\b"])
def test_names_are_text_and_no_formulas(name: str) -> None:
    picture, colours = np.zeros((8, 8, 3), dtype=np.uint8), [(0, 0, 0), (9, 9, 9)]
    figures = [
        panels({name: picture}),
        legend([name, "b"], colours),
        curve({name: ([0, 1], [0, 1]), "b": ([0, 1], [1, 0])}),
        confusion([[1, 0], [0, 0]], [name, name]),
    ]
    for figure in figures:
        assert name in figure_svg(figure)
