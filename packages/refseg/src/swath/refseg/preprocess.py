"""Images at the size the network is run at, and its answers back at theirs."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as v2

from swath.core.errors import DataError
from swath.core.sample import Sample

Fit = Literal["resize", "pad", "native"]
"""``"resize"`` to a square whatever the shape, as RemoteSAM was trained; ``"pad"``: the longer side
to the square's, the rest empty, so that shapes keep; ``"native"``: as it is, of any size."""


def fitted_size(height: int, width: int, side: int, fit: Fit) -> tuple[int, int]:
    """Height and width that an image is resized to."""
    if fit == "native":
        return height, width
    if fit == "resize":
        return side, side
    scale = side / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def fitted(image: Tensor, side: int, fit: Fit) -> Tensor:
    """Resize ``(C, H, W)`` in its own number type (bilinear, antialiased); no padding yet."""
    height, width = image.shape[-2:]
    size = fitted_size(height, width, side, fit)
    if size == (height, width):
        return image
    resized: Tensor = v2.resize(image.as_subclass(Tensor), list(size), antialias=True)
    return resized


def squared(image: Tensor, side: int, fit: Fit) -> Tensor:
    """Fill a normalised image ``(C, h, w)`` up to the square with 0, right and below, for "pad"."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, side - width, 0, side - height)) if fit == "pad" else image


def as_rgb(sample: Sample) -> Tensor:
    """The image of a sample as uint8 ``(3, H, W)``; one band of grey is repeated.

    Raises:
        DataError: If it is neither 8-bit grey nor 8-bit RGB.
    """
    image = sample.image.as_subclass(Tensor)
    if image.dtype != torch.uint8 or len(image) not in (1, 3):
        where = sample.meta.get("path", "an image")
        dtype = str(image.dtype).removeprefix("torch.")
        raise DataError(
            f"{where}: {dtype} with {len(image)} bands; 8-bit RGB or grey is needed: convert it "
            "first (gdal_translate -ot Byte -scale -b 1 -b 2 -b 3)"
        )
    return image.expand(3, -1, -1)


def rgb_array(sample: Sample) -> NDArray[np.uint8]:
    """The same as ``(H, W, 3)``; see `as_rgb`."""
    return np.ascontiguousarray(as_rgb(sample).permute(1, 2, 0).numpy())


def resized_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(H, W)`` by nearest neighbour."""
    if tuple(mask.shape[-2:]) == size:
        return mask
    resized = F.interpolate(mask[None, None].float(), size=size, mode="nearest")
    return resized[0, 0].to(mask.dtype)
