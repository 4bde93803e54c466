"""Charts and panels as matplotlib `Figure` objects (Agg; pyplot is never imported)."""

import math
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from swath.core.palette import Colour
from swath.core.viz.overlay import Rgb

INK = "#1f2933"
"""Text and lines; `figure_svg` lets the page choose this colour."""
LINE = "#0b6fb7"
"""The first line of a chart; `figure_svg` gives it the page's accent colour."""

_CELL = (11 / 255, 111 / 255, 184 / 255)

_CELL_FIGURES_UP_TO = 14


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with a canvas that draws without a screen (sizes in inches)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(
    images: Mapping[str, Rgb],
    *,
    columns: int | None = None,
    classes: Sequence[str] = (),
    palette: Sequence[Colour] = (),
    side: float = 3.2,
) -> Figure:
    """Pictures side by side, each under its title, with a class legend below.

    Args:
        images: ``(H, W, 3)`` uint8 by title, for instance image, truth, prediction, errors.
        columns: Pictures in a row; all of them by default.
        classes: Names for the legend; none by default.
        palette: RGB per class.
        side: Width of one picture in inches.
    """
    columns = columns or len(images)
    rows = math.ceil(len(images) / columns)
    entries = _legend_columns(classes, side * columns)
    legend_height = 0.2 * math.ceil(len(classes) / entries) + 0.3 if classes else 0.0
    figure = new_figure(side * columns, side * rows + legend_height)
    for i, (title, picture) in enumerate(images.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(picture)
        axes.set_title(_plain(title), fontsize=10, color=INK)
        axes.set_axis_off()
    if classes:
        figure.legend(
            handles=_patches(classes, palette),
            loc="outside lower center",
            ncols=entries,
            frameon=False,
            fontsize=9,
        )
    return figure


def legend(classes: Sequence[str], palette: Sequence[Colour]) -> Figure:
    """The classes and their colours, one below the other."""
    figure = new_figure(2.4, 0.25 * len(classes) + 0.2)
    figure.legend(handles=_patches(classes, palette), loc="center left", frameon=False, fontsize=9)
    return figure


def _legend_columns(classes: Sequence[str], width: float) -> int:
    """How many entries fit side by side into so many inches, at 9 points."""
    letters = max(map(len, classes), default=0)
    entry = 0.5 + 0.07 * letters  # the patch and its gaps, letters of average width
    return max(1, min(len(classes), int(width / entry)))


def _patches(classes: Sequence[str], palette: Sequence[Colour]) -> list[Patch]:
    return [
        Patch(
            facecolor=tuple(c / 255 for c in colour),
            edgecolor="0.4",
            linewidth=0.5,
            label=_plain(name),
        )
        for name, colour in zip(classes, palette, strict=True)
    ]


def _plain(text: str) -> str:
    """A name whose dollar signs matplotlib doesn't take for a formula's."""
    return text.replace("$", r"\$")


def curve(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str = "iteration",
    y_label: str = "",
    axes: Axes | None = None,
) -> Figure:
    """Lines over iterations.

    More than 40 points are drawn pale, with a smoothed line on top.

    Args:
        series: ``(x, y)`` by name.
        x_label: Label below.
        y_label: Label beside.
        axes: Draw here instead of on a new figure.
    """
    if axes is None:
        axes = new_figure(5.2, 3.0).add_subplot()
    for i, (name, (x, y)) in enumerate(series.items()):
        colour = (LINE, "#d55e00", "#009e73", "#cc79a7")[i % 4]
        if len(y) > 40:
            axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(x, _smooth(y), color=colour, linewidth=1.8, label=_plain(name))
        else:
            marker = "o" if len(y) <= 20 else None
            axes.plot(
                x,
                y,
                color=colour,
                linewidth=1.8,
                marker=marker,
                markersize=4,
                label=_plain(name),
            )
    _quiet(axes)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    return axes.figure.figure


def training_curves(log: Sequence[Mapping[str, Any]], score: str | None = None) -> Figure:
    """Loss, and the validation score where there is one, over the iterations of a run.

    Args:
        log: The lines of a run's ``log.jsonl``: ``{"step", "loss", ...}`` and
            ``{"step", "val": {...}}``.
        score: Name of the validation figure to show.
    """
    losses = [(line["step"], line["loss"]) for line in log if "loss" in line]
    scores = [(line["step"], line["val"][score]) for line in log if score in line.get("val", {})]
    figure = new_figure(9.0 if scores else 5.2, 2.9)
    places = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    curve({"loss": _columns(losses)}, y_label="training loss", axes=places[0])
    places[0].set_ylim(bottom=0)
    if scores:
        curve({"score": _columns(scores)}, y_label=f"validation {score}", axes=places[1])
    return figure


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _smooth(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Moving average over about a twentieth of the curve, over what there is of it at the ends."""
    array = np.asarray(values, dtype=np.float64)
    reach = max(1, len(array) // 40)
    total = np.concatenate([[0.0], np.cumsum(array)])
    index = np.arange(len(array))
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(array))
    return np.asarray((total[last] - total[first]) / (last - first))


def confusion(matrix: npt.ArrayLike, classes: Sequence[str]) -> Figure:
    """A confusion matrix as the share of each true class (rows add up to 100 %).

    Up to fourteen classes show their percentages; with more the colour speaks alone, and the rows'
    recall is printed beside them.

    Args:
        matrix: ``(K, K)`` counts, rows true, columns predicted.
        classes: ``K`` names.

    Raises:
        ValueError: If the matrix doesn't fit the names.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    size = len(classes)
    if counts.shape != (size, size):
        raise ValueError(f"{size} classes need a ({size}, {size}) matrix; got {counts.shape}")
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    cell = 0.62 if size <= _CELL_FIGURES_UP_TO else 0.3
    figure = new_figure(max(size * cell, 1.5) + 2.2, max(size * cell, 1.2) + 1.3)
    axes = figure.add_subplot()
    for row in range(size):
        for column in range(size):
            value = share[row, column]
            square = [column - 0.5, column + 0.5, column + 0.5, column - 0.5]
            heights = [row - 0.5, row - 0.5, row + 0.5, row + 0.5]
            opacity = 0.08 + 0.92 * value if value >= 0.005 else 0.0  # a small leak is visible too
            axes.fill(square, heights, facecolor=(*_CELL, opacity), linewidth=0)
            if size <= _CELL_FIGURES_UP_TO and totals[row, 0] > 0:
                text = f"{100 * value:.0f}" if value >= 0.005 or value == 0 else "<1"
                colour = "#ffffff" if value > 0.55 else INK
                faint = 0.35 if value == 0 else 1.0
                axes.text(
                    column,
                    row,
                    text,
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=colour,
                    alpha=faint,
                )
    small = 9 if size <= _CELL_FIGURES_UP_TO else 7.5
    rows = [
        _plain(name if total else f"{name} (absent)")
        for name, total in zip(classes, totals[:, 0], strict=True)
    ]
    axes.set_xticks(
        range(size), [_plain(c) for c in classes], rotation=45, ha="right", fontsize=small
    )
    axes.set_yticks(range(size), rows, fontsize=small)
    if size > _CELL_FIGURES_UP_TO:
        for row in range(size):
            recall = f"{100 * share[row, row]:.0f} %"
            axes.text(size - 0.3, row, recall, va="center", fontsize=small, color=INK)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("true, % of the row", color=INK)
    axes.tick_params(colors=INK, length=0)
    for spine in axes.spines.values():
        spine.set(color=INK, alpha=0.25)
    return figure


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set(color=INK, alpha=0.4)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)


def figure_svg(figure: Figure) -> str:
    """A figure as an ``<svg>`` element for an HTML page.

    The background is clear, text stays text in the page's font, and everything drawn in `INK` takes
    the page's text colour, so that one chart fits light and dark pages. Equal figures give equal
    strings.
    """
    buffer = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "swath"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text.replace(INK, "currentColor").replace(LINE, f"var(--accent, {LINE})")
    return text[text.index("<svg") :].strip()
