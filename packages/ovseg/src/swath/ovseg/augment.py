"""The published training augmentation: shortest edge, crop, colour, mirror.

Official code: the mapper "mask_former_semantic" of https://github.com/yecy749/GSNet, the same in
CAT-Seg and RSKT-Seg; detectron2's transforms.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from swath.core.data.transforms import ColorJitter, RandomCropPad

PADDING = 128
"""What images smaller than the crop are padded with."""


class ShortestEdge(v2.Transform):  # type: ignore[misc]
    """Resize so that the shorter side has a length, unless the longer one would pass a limit.

    Args:
        size: Of the shorter side, px.
        max_size: Limit of the longer side, px.
    """

    def __init__(self, size: int, max_size: int) -> None:
        super().__init__()
        self.size, self.max_size = size, max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Work out the new size."""
        height, width = flat_inputs[0].shape[-2:]
        scale = min(self.size / min(height, width), self.max_size / max(height, width))
        return {"size": (max(1, round(height * scale)), max(1, round(width * scale)))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one input; masks by the nearest pixel."""
        return self._call_kernel(F.resize, inpt, list(params["size"]), antialias=True)


class SSDColour(v2.Transform):  # type: ignore[misc]
    """Brightness, contrast, saturation and hue, each changed or not by the toss of a coin.

    Contrast comes either before saturation and hue or after them; every step is rounded and cut to
    8 bits. Images of other bands or dtypes get brightness, contrast and saturation from
    `swath.core.data.transforms.ColorJitter`, and no hue, which is a matter of three colours.

    Source:
        Liu et al. 2016 (SSD), arXiv:1512.02325, as detectron2's `ColorAugSSDTransform` has it:
        brightness by up to 32 of 255, factors of 0.5 to 1.5 on all values (contrast) and on
        saturation, hue by up to 36 degrees.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self) -> None:
        super().__init__()
        self.any_band = ColorJitter(0.125, 0.5, saturation=0.5)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Toss the coins and draw the changes."""
        brightness = {"offset": _between(-32, 32)}
        contrast = {"factor": _between(0.5, 1.5)}
        colour = [{"saturation": _between(0.5, 1.5)}, {"hue": _between(-18, 18)}]
        rest = [contrast, *colour] if _coin() else [*colour, contrast]
        return {"changes": [change for change in (brightness, *rest) if _coin()]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change the image ``(C, H, W)``."""
        if inpt.dtype != torch.uint8 or inpt.shape[-3] != 3:
            return self.any_band(inpt)
        image = np.ascontiguousarray(inpt.permute(1, 2, 0).numpy())
        for change in params["changes"]:
            image = _changed(image, **change)
        return tv_tensors.wrap(torch.from_numpy(image).permute(2, 0, 1), like=inpt)


def _changed(
    image: NDArray[Any],
    factor: float = 1.0,
    offset: float = 0.0,
    saturation: float = 1.0,
    hue: float = 0.0,
) -> NDArray[Any]:
    """One change of an RGB image ``(H, W, 3)`` uint8."""
    if saturation == 1 and hue == 0:
        return _byte(image * np.float32(factor) + np.float32(offset))
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + round(hue)) % 180  # halves of degrees
    hsv[..., 1] = _byte(hsv[..., 1] * np.float32(saturation))
    changed: NDArray[Any] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return changed


def _byte(values: NDArray[Any]) -> NDArray[np.uint8]:
    return values.clip(0, 255).astype(np.uint8)


def _between(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def _coin() -> bool:
    return bool(torch.rand(()) < 0.5)


def published_augment(
    size: int = 384, shortest_edge: Sequence[int] = (384,), ignore_index: int = 255
) -> v2.Compose:
    """Resize, crop, colours, mirror.

    Args:
        size: Side of the crop, px.
        shortest_edge: Lengths of the shorter side, of which one is drawn, px.
        ignore_index: What padding is in the mask.
    """
    edges = [ShortestEdge(edge, 1333) for edge in shortest_edge]
    return v2.Compose(
        [
            v2.RandomChoice(edges) if len(edges) > 1 else edges[0],
            RandomCropPad(size, ignore_index=ignore_index, fill=PADDING),
            SSDColour(),
            v2.RandomHorizontalFlip(),
        ]
    )
