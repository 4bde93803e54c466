"""EPOC: a model of object boundaries, by which touching objects are told apart.

Papers: Chen et al. 2024, arXiv:2402.14327 (subobject-level tokenisation, which it comes from);
RemoteSAM, arXiv:2505.18022. Official code: https://github.com/1e12Leon/RemoteSAM, `utils/EPOC.py`;
dossier 3.2. The network is a SegFormer with one output, from transformers; its weights are optional
and never fetched unless an address with a revision is given.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from swath.core.errors import CheckpointError, ConfigError

THRESHOLD = 0.25
"""Boundary probability above which a pixel counts as boundary; 0.15 in the counting evaluation."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Epoc:
    """Boundary probabilities of an image.

    Args:
        source: A folder in the layout of transformers (``config.json``, ``model.safetensors``), or
            ``hf://OWNER/REPO@REVISION``; the published one is
            ``chendelong/DirectSAM-EntitySeg-1024px-0501``, of which you choose the revision.
        layers: Levels of crops that are looked at beside the whole image; 0 as RemoteSAM calls it.
        overlap: Pixels that neighbouring crops share.
        side: Each crop is resized to this, px.
        device: Where it runs.

    Raises:
        ConfigError: If an address has no revision.
        CheckpointError: If there is no such model.
    """

    def __init__(
        self,
        source: str | Path,
        layers: int = 0,
        overlap: int = 90,
        side: int = 1024,
        device: torch.device | str = "cpu",
    ) -> None:
        from transformers import SegformerForSemanticSegmentation

        self.layers, self.overlap, self.side = layers, overlap, side
        self.device = torch.device(device)
        folder = _folder(str(source))
        try:
            network: Any = SegformerForSemanticSegmentation.from_pretrained(
                folder, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{source}: no boundary model that can be loaded ({reason})"
            ) from error
        self.network = network.to(self.device).eval()

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probability of a boundary, ``(H, W)``, of an RGB image ``(H, W, 3)``."""
        return boundary_map(self._logits, image, layers=self.layers, overlap=self.overlap)

    @torch.inference_mode()
    def _logits(self, crop: NDArray[np.uint8]) -> Tensor:
        resized = Image.fromarray(crop).resize((self.side, self.side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(resized).astype(np.float32) / 255)
        pixels = (pixels - torch.tensor(_MEAN)) / torch.tensor(_STD)
        logits: Tensor = self.network(pixels.permute(2, 0, 1)[None].to(self.device)).logits
        return logits[0, 0].float().cpu()


def boundary_map(
    logits_of: Callable[[NDArray[np.uint8]], Tensor],
    image: NDArray[np.uint8],
    *,
    layers: int = 0,
    overlap: int = 90,
) -> NDArray[np.float32]:
    """Boundary probabilities of an image from those of itself and of crops of it.

    Args:
        logits_of: The boundary model: ``(h, w, 3)`` to logits of any size.
        image: RGB, ``(H, W, 3)``.
        layers: Level l adds 2 ** l by 2 ** l crops, tapered at their borders.
        overlap: Pixels that neighbouring crops share.

    Returns:
        ``(H, W)``: the sum of all levels, divided by their number. Where crops overlap, they count
        more than once, as officially.
    """
    height, width = image.shape[:2]
    total = _probabilities(logits_of, image)
    for layer in range(1, layers + 1):
        for left, top, right, bottom in crop_boxes(height, width, 2**layer, overlap):
            crop = np.ascontiguousarray(image[top:bottom, left:right])
            taper = border_taper(bottom - top, right - left, overlap)
            total[top:bottom, left:right] += _probabilities(logits_of, crop) * taper
    total /= layers + 1
    return total


def _probabilities(
    logits_of: Callable[[NDArray[np.uint8]], Tensor], image: NDArray[np.uint8]
) -> NDArray[np.float32]:
    logits = logits_of(image)[None, None]
    resized = F.interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)
    probabilities: NDArray[np.float32] = resized[0, 0].sigmoid().numpy()
    return probabilities


def crop_boxes(
    height: int, width: int, count: int, overlap: int
) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of ``count`` by ``count`` crops that cover an image."""

    def spans(length: int) -> list[tuple[int, int]]:
        side = -(-(overlap * (count - 1) + length) // count)
        return [
            (i * (side - overlap), min(i * (side - overlap) + side, length)) for i in range(count)
        ]

    pairs = itertools.product(spans(width), spans(height))
    return [(left, top, right, bottom) for (left, right), (top, bottom) in pairs]


def border_taper(height: int, width: int, overlap: int) -> NDArray[np.float32]:
    """Weights ``(height, width)`` of a crop: 0 at its border, then a half for each side, then 1.

    Overlaps below 3 taper nothing; officially such crops are 0 throughout.
    """
    step = overlap // 3

    def along(length: int) -> NDArray[np.float32]:
        weights = np.ones(length, dtype=np.float32)
        if step:
            weights[step : 2 * step] /= 2
            weights[-2 * step : -step] /= 2
            weights[:step] = weights[-step:] = 0
        return weights

    return along(height)[:, None] * along(width)


def _folder(source: str) -> str:
    if not source.startswith("hf://"):
        return source
    repository, _, revision = source.removeprefix("hf://").partition("@")
    if not revision:
        raise ConfigError(
            f"{source}: say which revision, {source}@REVISION, so that the result stays the same"
        )
    from swath.core.checkpoint.fetch import offline

    try:
        from huggingface_hub import snapshot_download

        return str(snapshot_download(repository, revision=revision, local_files_only=offline()))
    except Exception as error:  # the Hub's package has many kinds, and its HTTP library's beside
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{source}: can't be had from the Hub ({reason})") from error
