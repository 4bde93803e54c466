"""Cost maps to look at: what each stream says of each name, before and after aggregation.

What the official `visualize_corr` and its vis scripts are meant to give.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import nn

from swath.core.errors import ConfigError, RasterError
from swath.core.files import atomic_path
from swath.core.inference.predictor import Predictor, Source, open_image
from swath.core.progress import track
from swath.core.sample import Sample
from swath.core.viz import page
from swath.core.viz.overlay import display_rgb
from swath.core.viz.page import Section
from swath.ovseg.clip import resized
from swath.ovseg.models.base import OpenVocabularySegmenter
from swath.ovseg.task import OpenVocabularyTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 768
"""Side in px beyond which an image is shrunk: maps are looked at as a whole."""

STRIP = 256
"""Rows of an image that are read at once, about."""

PICTURED = 40
"""Most names that one picture of cost maps has rows for."""

REPORTED = 6
"""Most names in a run's report."""


@dataclass(frozen=True)
class CostMaps:
    """Maps of one image.

    Attributes:
        names: What was looked for: classes, alternatives and names of the background, in order.
        maps: ``(T, h, w)`` float32 by stream: cosines of ``"clip"`` (in RSKT-Seg one for each
            direction, ``"clip 90"``, turned back) and ``"specialist"``; and ``"aggregated"``, the
            probabilities that come out.
        image: ``(H, W, 3)`` uint8, as it was shrunk.
    """

    names: tuple[str, ...]
    maps: dict[str, NDArray[np.float32]]
    image: NDArray[np.uint8]

    def plot(self, start: int = 0) -> "Figure":
        """The image and every stream in columns, each scaled by itself; a row for each name.

        Args:
            start: Index of the first name that has a row; `PICTURED` at the most have one.
        """
        from swath.core.viz.figures import panels

        pictures = {}
        for row, name in [*enumerate(self.names)][start : start + PICTURED]:
            pictures[name] = self.image
            for stream, values in self.maps.items():
                low, high = float(values[row].min()), float(values[row].max())
                pictures[f"{name}: {stream}\n{low:.2f} to {high:.2f}"] = _heat(values[row])
        return panels(pictures, columns=1 + len(self.maps), side=2.4)

    def save(self, folder: str | Path, *, progress: bool = False) -> list[Path]:
        """Write ``cost_maps.npz``, the arrays by stream, and ``cost_maps.png``.

        Of more names than `PICTURED` there are as many pictures as it takes: ``cost_maps_1.png``
        and so on.

        Args:
            folder: Where to; pictures that it holds from before are removed.
            progress: Show a bar.

        Returns:
            What was written.
        """
        folder = Path(folder)
        for old in folder.glob("cost_maps*.png"):
            if re.fullmatch(r"cost_maps(_\d+)?\.png", old.name):
                old.unlink()
        arrays, starts = folder / "cost_maps.npz", range(0, len(self.names), PICTURED)
        names = [f"_{i}" for i in range(1, len(starts) + 1)] if len(starts) > 1 else [""]
        pictures = [folder / f"cost_maps{name}.png" for name in names]
        contents: dict[str, Any] = {"names": np.array(self.names), **self.maps}
        with atomic_path(arrays) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **contents)
        pages = list(zip(pictures, starts, strict=True))
        for picture, start in track(pages, "drawing cost maps", unit="pages", enabled=progress):
            with atomic_path(picture) as temporary:
                self.plot(start).savefig(temporary, format="png", dpi=110)
        return [arrays, *pictures]


class OpenVocabularyPredictor(Predictor):
    """A `Predictor` whose words stand in any sentences, and that shows its cost maps."""

    def with_ensemble(self, ensemble: str | Sequence[str]) -> "OpenVocabularyPredictor":
        """The same model with its words in other sentences; ``swath predict --templates``.

        Args:
            ensemble: See `OpenVocabularyTask`.

        Raises:
            ConfigError: See there.
        """
        task = self.task.with_ensemble(ensemble)  # type: ignore[attr-defined]
        return OpenVocabularyPredictor(self.model, task, self.card, self.precision)

    def predict(
        self, image: Any, *, ensemble: str | Sequence[str] | None = None, **options: Any
    ) -> Any:
        """Run the model over an image of any size.

        Args:
            image: See `Predictor.predict`.
            ensemble: The sentences that words stand in, see `OpenVocabularyTask`; None takes the
                task's.
            **options: Further arguments of `Predictor.predict`: ``classes``, ``out``, ...

        Raises:
            ConfigError: See both.
        """
        if ensemble is not None:
            return self.with_ensemble(ensemble).predict(image, **options)
        return super().predict(image, **options)

    def cost_maps(
        self, image: Any, classes: Sequence[str] | None = None, **options: Any
    ) -> CostMaps:
        """See `swath.ovseg.costs.cost_maps`, as for the options."""
        return cost_maps(self, image, classes, **options)


def cost_maps(
    predictor: Predictor,
    image: Any,
    classes: Sequence[str] | None = None,
    background: float | Sequence[str] | None = None,
    bands: Sequence[int] | None = None,
    scale: float | str | None = None,
) -> CostMaps:
    """Look at the cost maps of an image.

    Args:
        predictor: Of an open-vocabulary model.
        image: Whatever `Predictor.predict` takes; shrunk if a side is beyond `LARGEST`.
        classes: Vocabulary; None takes the model's.
        background: See `OpenVocabularyTask`.
        bands: See `Predictor.predict`.
        scale: See there.

    Raises:
        ConfigError: If the model has no cost maps.
        DataError: If the image isn't what the model takes.
        RasterError: If it can't be read, or has no valid pixel.
    """
    task, model = predictor.adapted_task(scale, classes, background), predictor.model
    if not isinstance(model, OpenVocabularySegmenter) or not isinstance(task, OpenVocabularyTask):
        raise ConfigError(
            f"a {type(model).__name__} has no cost maps; use an open-vocabulary model"
        )
    with open_image(image) as source:
        info = source.info
        chosen = info.image_bands if bands is None else bands
        task.radiometry.check(info.dtype, len(chosen), where=info.name)
        array, valid = _shrunk(source, chosen)
    if not valid.any():
        raise RasterError(f"{info.name} holds no valid pixel; check its nodata value")
    sample = Sample(
        torch.from_numpy(array), valid=torch.from_numpy(valid), meta={"path": info.name}
    )
    pixels = task.collate([sample])["image"].to(predictor.device)
    shrink = min(1.0, LARGEST / max(info.height, info.width))
    stride = model.stride
    height, width = (
        max(stride, round(n * shrink / stride) * stride) for n in (info.height, info.width)
    )
    grid = (height // model.cell, width // model.cell)
    model.eval()
    with torch.no_grad():
        text = task.text(model)
        pixels = resized(pixels, (height, width))
        maps = model.cost_maps(pixels, text, grid)
        scores: Any = model.score(pixels, text, grid)  # in evaluation, a tensor
        maps["aggregated"] = scores.sigmoid()
    found = {name: values[0].float().cpu().numpy() for name, values in maps.items()}
    return CostMaps(task.names, found, display_rgb(array, valid))


def report_card(model: nn.Module, task: OpenVocabularyTask, sample: Sample) -> Section:
    """The card of a run's report with a sample's cost maps, of names of classes that it holds.

    Args:
        model: An `OpenVocabularySegmenter`.
        task: Its task.
        sample: With a mask.
    """
    image = np.asarray(sample.image).transpose(1, 2, 0)
    maps = cost_maps(Predictor(model, task), image)
    groups = list(pairwise(task.starts))
    held = [groups[k] for k in sample.targets["mask"].unique().tolist() if k < len(groups)]
    rows = [row for group in held or groups for row in range(*group)][:REPORTED]
    names = tuple(maps.names[row] for row in rows)
    shown = replace(maps, names=names, maps={k: v[rows] for k, v in maps.maps.items()})
    note = "What each stream says of each name before aggregation, and what comes out."
    return Section("Cost maps of the first image", page.chart(shown.plot(), note))


def _shrunk(source: Source, bands: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """An image of which `LARGEST` is enough: each pixel the mean of the valid ones of a square.

    It is read by strips, since it may not fit in memory.
    """
    info = source.info
    step = max(1, max(info.height, info.width) // LARGEST)
    rows = step * max(1, STRIP // step)
    means, valids = [], []
    for top in range(0, info.height, rows):
        strip = Window(0, top, info.width, min(rows, info.height - top))
        array, valid = source.read(strip, bands)
        count = _by_squares(valid, step)
        mean = _by_squares(np.where(valid, array, 0), step) / np.maximum(count, 1)
        means.append((np.rint(mean) if array.dtype.kind in "iu" else mean).astype(array.dtype))
        valids.append(count > 0)
    return np.concatenate(means, axis=-2), np.concatenate(valids)


def _by_squares(values: NDArray[Any], step: int) -> NDArray[np.float64]:
    """Sums over squares ``step`` wide, those at the border less; of ``(..., h, w)``."""
    for axis in (-2, -1):
        starts = np.arange(0, values.shape[axis], step)
        values = np.add.reduceat(values, starts, axis=axis, dtype=np.float64)
    return values


def _heat(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map from its lowest to its highest value in the colours of matplotlib's magma."""
    from matplotlib import colormaps

    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    coloured: NDArray[np.uint8] = colormaps["magma"](scaled, bytes=True)[..., :3]
    return coloured
