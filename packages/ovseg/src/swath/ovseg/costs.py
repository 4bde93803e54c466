"""Cost maps to look at: what each stream says of each name, before and after aggregation.

What the official `visualize_corr` and its vis scripts are meant to give.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from swath.core.data.readers import read_array
from swath.core.errors import ConfigError
from swath.core.files import atomic_path
from swath.core.inference.predictor import Predictor
from swath.core.sample import Sample
from swath.core.viz.overlay import display_rgb
from swath.ovseg.clip import resized
from swath.ovseg.models.base import OpenVocabularySegmenter
from swath.ovseg.task import OpenVocabularyTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 768
"""Side in px beyond which an image is shrunk: maps are looked at as a whole."""


@dataclass(frozen=True)
class CostMaps:
    """Maps of one image.

    Attributes:
        names: What was looked for: classes, alternatives and names of the background, in order.
        maps: ``(T, h, w)`` float32 by stream: cosines of ``"clip"`` (in RSKT-Seg one for each
            direction, ``"clip 90"``, turned back) and ``"specialist"``; and ``"aggregated"``, the
            probabilities that come out.
        image: ``(H, W, 3)`` uint8.
    """

    names: tuple[str, ...]
    maps: dict[str, NDArray[np.float32]]
    image: NDArray[np.uint8]

    def plot(self) -> "Figure":
        """One row for each name, the image and every stream in columns, each scaled by itself."""
        from swath.core.viz.figures import panels

        pictures = {}
        for row, name in enumerate(self.names):
            pictures[name] = self.image
            for stream, values in self.maps.items():
                low, high = float(values[row].min()), float(values[row].max())
                pictures[f"{name}: {stream}\n{low:.2f} to {high:.2f}"] = _heat(values[row])
        return panels(pictures, columns=1 + len(self.maps), side=2.4)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``cost_maps.npz``, the arrays by stream, and ``cost_maps.png``."""
        folder = Path(folder)
        arrays, picture = folder / "cost_maps.npz", folder / "cost_maps.png"
        contents: dict[str, Any] = {"names": np.array(self.names), **self.maps}
        with atomic_path(arrays) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **contents)
        with atomic_path(picture) as temporary:
            self.plot().savefig(temporary, format="png", dpi=110)
        return [arrays, picture]


class OpenVocabularyPredictor(Predictor):
    """A `Predictor` that also shows its cost maps, as ``swath predict --save-cost-maps`` does."""

    def cost_maps(
        self,
        image: Any,
        classes: Sequence[str] | None = None,
        background: float | Sequence[str] | None = None,
    ) -> CostMaps:
        """See `swath.ovseg.costs.cost_maps`."""
        return cost_maps(self, image, classes, background)


def cost_maps(
    predictor: Predictor,
    image: Any,
    classes: Sequence[str] | None = None,
    background: float | Sequence[str] | None = None,
) -> CostMaps:
    """Look at the cost maps of an image.

    Args:
        predictor: Of an open-vocabulary model.
        image: A path, or an array ``(H, W, 3)`` uint8; shrunk if a side is beyond `LARGEST`.
        classes: Vocabulary; None takes the model's.
        background: See `OpenVocabularyTask`.

    Raises:
        ConfigError: If the model has no cost maps.
        DataError: If the image isn't what the model takes.
    """
    task, model = predictor.adapted_task(classes=classes, background=background), predictor.model
    if not isinstance(model, OpenVocabularySegmenter) or not isinstance(task, OpenVocabularyTask):
        raise ConfigError(
            f"a {type(model).__name__} has no cost maps; use an open-vocabulary model"
        )
    if isinstance(image, str | Path):
        array, _ = read_array(Path(image))
    else:
        array = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    sample = Sample(tv_tensors.Image(torch.from_numpy(array)))
    pixels = task.collate([sample])["image"].to(predictor.device)
    height, width = pixels.shape[-2:]
    scale = min(1.0, LARGEST / max(height, width))
    stride = model.stride
    size = [max(stride, round(n * scale / stride) * stride) for n in (height, width)]
    grid = (size[0] // model.cell, size[1] // model.cell)
    model.eval()
    with torch.no_grad():
        text = task.text(model)
        pixels = resized(pixels, (size[0], size[1]))
        maps = model.cost_maps(pixels, text, grid)
        scores: Any = model.score(pixels, text, grid)  # in evaluation, a tensor
        maps["aggregated"] = scores.sigmoid()
    shown = display_rgb(array)
    return CostMaps(task.names, {k: v[0].float().cpu().numpy() for k, v in maps.items()}, shown)


def _heat(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map from its lowest to its highest value in the colours of matplotlib's magma."""
    from matplotlib import colormaps

    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    coloured: NDArray[np.uint8] = colormaps["magma"](scaled, bytes=True)[..., :3]
    return coloured
