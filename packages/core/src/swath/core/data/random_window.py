"""Crop, rotate and rescale in one resampling: the augmentation for scenes seen from above."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from swath.core.data.transforms import ColorJitter, GaussianBlur, GaussianNoise
from swath.core.errors import DataError

Affine = tuple[tuple[float, float, float], tuple[float, float, float]]


class RandomWindow(v2.Transform):  # type: ignore[misc]
    """A square window at a random position, orientation, scale and handedness.

    Scenes seen from above have no preferred orientation and are larger than what a network is fed,
    so the window is drawn from the whole scene and resampled once, bilinearly (masks: nearest
    pixel). Its centre is chosen such that the unrotated window lies inside the scene; what rotation
    brings in from outside is mirrored. Works on images, masks and validity; boxes are refused.

    Args:
        size: Side of the result in pixels.
        scale: Smallest and largest magnification, drawn evenly in the logarithm. A scene too small
            for it is magnified until it fills the window.
        rotate: Any angle if True; the four right angles if False.
    """

    def __init__(
        self, size: int, *, scale: tuple[float, float] = (0.5, 2.0), rotate: bool = True
    ) -> None:
        super().__init__()
        low, high = scale
        if size < 1 or not 0 < low <= high:
            raise DataError(f"RandomWindow: size={size}, scale={scale} must be positive, rising")
        self.size, self.scale, self.rotate = size, (low, high), rotate

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw one window for all inputs: the affine map from its pixels to the scene's."""
        image = next((x for x in flat_inputs if isinstance(x, tv_tensors.Image)), None)
        if image is None or any(isinstance(x, tv_tensors.BoundingBoxes) for x in flat_inputs):
            raise DataError("RandomWindow needs an image, with masks only")
        height, width = image.shape[-2:]
        a, b, c, d, e = torch.rand(5).tolist()
        low, high = (math.log(s) for s in self.scale)
        step = min(math.exp(-(low + (high - low) * a)), min(height, width) / self.size)
        angle_rad = 2 * math.pi * b if self.rotate else math.pi / 2 * int(4 * b)
        mirror = -1.0 if c < 0.5 else 1.0
        margin = step * self.size / 2
        x, y = margin + d * (width - 2 * margin), margin + e * (height - 2 * margin)
        cos, sin = step * math.cos(angle_rad), step * math.sin(angle_rad)
        return {"affine": ((mirror * cos, -sin, x), (mirror * sin, cos, y))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resample an image or a mask; pass anything else."""
        if isinstance(inpt, tv_tensors.Image):
            image = _resample(inpt.as_subclass(Tensor), params["affine"], self.size, "bilinear")
            return tv_tensors.wrap(image, like=inpt)
        if isinstance(inpt, tv_tensors.Mask):
            mask = inpt.as_subclass(Tensor)
            planes = mask.reshape(-1, *mask.shape[-2:])
            picked = _resample(planes, params["affine"], self.size, "nearest")
            return tv_tensors.wrap(
                picked.reshape(*mask.shape[:-2], self.size, self.size), like=inpt
            )
        return inpt


def window_augment(size: int, scale: tuple[float, float] = (0.5, 2.0)) -> v2.Compose:
    """Random windows, colours, blur and noise for small sets of large scenes.

    Args:
        size: Side of the windows in pixels.
        scale: Smallest and largest magnification.
    """
    low, high = scale
    return v2.Compose(
        [
            RandomWindow(size, scale=(low, high)),
            ColorJitter(0.3, 0.3, saturation=0.4, gamma=0.2, gain=0.12),
            GaussianBlur((0.3, 1.5), p=0.2),
            GaussianNoise((0.0, 0.15), p=0.3),
        ]
    )


def _resample(planes: Tensor, affine: Affine, size: int, mode: str) -> Tensor:
    """Sample ``(C, H, W)`` where the centred window's pixels fall, mirroring at the borders."""
    (xx, xy, x0), (yx, yy, y0) = affine
    # cut out what the window touches, so that a large scene costs no more than a small one
    reach = size / 2 * math.hypot(xx, xy) * math.sqrt(2) + 2
    height, width = planes.shape[-2:]
    top, left = max(int(y0 - reach), 0), max(int(x0 - reach), 0)
    if min(x0, y0, width - x0, height - y0) > reach:  # no border in sight: mirroring plays no part
        planes = planes[:, top : int(y0 + reach) + 1, left : int(x0 + reach) + 1]
        x0, y0 = x0 - left, y0 - top
        height, width = planes.shape[-2:]
    theta = torch.tensor(
        [
            [xx * size / width, xy * size / width, 2 * x0 / width - 1],
            [yx * size / height, yy * size / height, 2 * y0 / height - 1],
        ]
    )
    grid = F.affine_grid(theta[None], [1, 1, size, size], align_corners=False)
    sampled = F.grid_sample(
        planes[None].float(), grid, mode=mode, padding_mode="reflection", align_corners=False
    )[0]
    if planes.dtype.is_floating_point:
        return sampled
    return sampled.round().to(planes.dtype)
