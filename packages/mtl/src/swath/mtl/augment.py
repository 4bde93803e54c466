"""How RSCoTr augments its training images, and brings them to size to be judged."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from swath.core.data.transforms import Dihedral, RandomScaledCrop

FILL = (124, 116, 104)
"""The mean of ImageNet, in 8 bits."""


def scene_augment(size: int = 224) -> v2.Compose:
    """For scene classification: random resized crops, flips, RandAugment, erasing.

    Args:
        size: Side of the result in pixels.

    Source:
        RSCoTr dossier 2. There, RandAugment is timm's, whose policies differ in detail.
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(num_ops=2, magnitude=9, fill=list(FILL)),
            NoiseErasing(),
        ]
    )


def scene_resize(size: int = 224) -> v2.Resize:
    """For scene classification, to judge: both sides to a size, bicubic, without a crop."""
    return v2.Resize([size, size], interpolation=InterpolationMode.BICUBIC)


def turned(size: int) -> v2.Compose:
    """For images from above of any task: `scene_resize`, then turned or mirrored, eight ways."""
    return v2.Compose([scene_resize(size), Dihedral()])


def box_augment(short: int = 800, long: int = 1333) -> v2.Compose:
    """For detection: `box_resize` and flips."""
    return v2.Compose([box_resize(short, long), v2.RandomHorizontalFlip()])


def box_resize(short: int = 800, long: int = 1333) -> v2.Resize:
    """For detection: the short side to a size, unless the long one grows too long for it."""
    return v2.Resize(short, max_size=long)


def mask_augment(size: int = 512, padding_label: int = 255) -> v2.Compose:
    """For segmentation: scale, crop, flip, then colours at random.

    Args:
        size: Side of the result in pixels.
        padding_label: What padding is in the mask. Officially Potsdam's clutter, 5, which is then
            trained on.

    Source:
        RSCoTr dossier 2. There, the scale is drawn uniformly, here log-uniformly.
    """
    jitters = ({"brightness": 0.125}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.05})
    return v2.Compose(
        [
            VariedCrop(size, ignore_index=padding_label),
            v2.RandomHorizontalFlip(),
            *(v2.RandomApply([v2.ColorJitter(**jitter)]) for jitter in jitters),
        ]
    )


class VariedCrop(RandomScaledCrop):
    """A `RandomScaledCrop` that is drawn anew, up to ten times, if one class fills it.

    Args:
        size: Side, or height and width, in pixels.
        ignore_index: What padding is in a semantic mask.
        most: Largest share of one class.
    """

    def __init__(self, size: int, *, ignore_index: int = 255, most: float = 0.75) -> None:
        super().__init__(size, scale=(0.5, 2.0), ignore_index=ignore_index)
        self.most = most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor and the window."""
        masks = [x for x in flat_inputs if isinstance(x, tv_tensors.Mask) and x.dtype != torch.bool]
        for _ in range(10):
            params: dict[str, Any] = super().make_params(flat_inputs)
            if not masks or _varied(masks[0].as_subclass(Tensor), params["window"], self.most):
                break
        return params


def _varied(mask: Tensor, window: tuple[int, int, int, int], most: float) -> bool:
    top, left, rows, columns = window
    inside = mask[max(top, 0) : top + rows, max(left, 0) : left + columns]
    counts = inside.unique(return_counts=True)[1]
    return len(counts) > 1 and bool(counts.max() < most * counts.sum())


class NoiseErasing(v2.RandomErasing):  # type: ignore[misc]
    """Fill a random rectangle with noise of ImageNet's mean and deviation; 8-bit images.

    Source:
        Zhong et al. 2020 (random erasing).
    """

    def __init__(self) -> None:
        super().__init__(p=0.25, scale=(0.02, 1 / 3), value=0)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Erase in the image only."""
        if params["v"] is None or not isinstance(inpt, tv_tensors.Image):
            return inpt
        top, left, height, width = (params[name] for name in ("i", "j", "h", "w"))
        mean = torch.tensor(FILL, dtype=torch.float32)[:, None, None]
        noise = (mean + 57.0 * torch.randn(3, height, width)).clamp(0, 255)
        erased = inpt.as_subclass(Tensor).clone()
        erased[:, top : top + height, left : left + width] = noise.to(erased.dtype)
        return tv_tensors.wrap(erased, like=inpt)
