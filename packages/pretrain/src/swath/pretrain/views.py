"""The weak and the strong view of FixMatch, as S5 draws them, and CutMix between two images.

A weak view moves pixels (scale, crop, flips), a strong one then changes their colours and pastes a
box of another image in. All of it draws from torch's global generator, which
`swath.core.data.loader.Augmented` seeds for every sample.

Source:
    S5 dossier b (`S4_Pretrain/dataset/transform.py`, read); Sohn et al. 2020, arXiv:2001.07685
    (FixMatch); Yun et al. 2019, arXiv:1905.04899 (CutMix).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from swath.core.data.transforms import ColorJitter as AnyBandJitter
from swath.core.data.transforms import GaussianBlur, RandomCropPad, RandomScale
from swath.core.errors import DataError
from swath.core.sample import Sample
from swath.core.segmentation import origin
from swath.pretrain.losses import cutmix

Range = tuple[float, float]
Pixels = NDArray[np.uint8]


class RandomLongSide(RandomScale):
    """Resize so that the long side is a whole number of pixels, every one of them as likely.

    Args:
        scale: Shortest and longest in multiples of the present long side.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the long side; the short one keeps the proportions."""
        height, width = v2.query_size(flat_inputs)
        long = max(height, width)
        low, high = (int(long * factor) for factor in self.scale)
        factor = int(torch.randint(max(low, 1), high + 1, ())) / long
        return {"size": (max(1, round(height * factor)), max(1, round(width * factor)))}


class RandomCropPadCorner(RandomCropPad):
    """A window of fixed size at a random place; what is smaller is padded right and below."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window's corner, inside the image."""
        rows, columns = (
            max(side - size, 0)
            for side, size in zip(v2.query_size(flat_inputs), self.size, strict=True)
        )
        return {
            "top": int(torch.randint(rows + 1, ())),
            "left": int(torch.randint(columns + 1, ())),
        }


def weak_view(size: int, scale: Range = (0.5, 2.0), *, ignore_index: int = 255) -> v2.Compose:
    """Scale, crop, flip; padding is 0 in the image, ``ignore_index`` in a mask, False in `valid`.

    Args:
        size: Side of the result in pixels.
        scale: See `RandomLongSide`.
        ignore_index: What padding is in a semantic mask.
    """
    return v2.Compose(
        [
            RandomLongSide(scale),
            RandomCropPadCorner(size, ignore_index=ignore_index),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomVerticalFlip(0.5),
        ]
    )


class ColorJitter(v2.Transform):  # type: ignore[misc]
    """torchvision's ColorJitter for 8-bit RGB, to a level or two, six times as fast.

    Images of other bands or dtypes get brightness, contrast and saturation from
    `swath.core.data.transforms.ColorJitter`, and no hue, which is a matter of three colours.

    Args:
        brightness: Largest relative change.
        contrast: Largest relative change, about the mean grey.
        saturation: Largest relative change, about each pixel's grey.
        hue: Largest shift, in turns of the colour circle.
        p: Probability of doing anything; the four then come in random order.
    """

    _transformed_types = (tv_tensors.Image, v2.functional.is_pure_tensor)

    def __init__(
        self,
        brightness: float = 0.5,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.25,
        *,
        p: float = 0.8,
    ) -> None:
        super().__init__()
        self.amounts = {
            "brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue
        }  # fmt: skip
        self.p = p
        self.any_band = AnyBandJitter(brightness, contrast, saturation=saturation)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the changes, in the order in which they are made; none at all is an empty dict."""
        if float(torch.rand(())) >= self.p:
            return {}
        drawn = {
            name: (name != "hue") + amount * float(torch.empty(()).uniform_(-1, 1))
            for name, amount in self.amounts.items()
        }
        names = list(drawn)
        return {names[i]: drawn[names[i]] for i in torch.randperm(len(names)).tolist()}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change the image."""
        if not params:
            return inpt
        if inpt.dtype != torch.uint8 or inpt.shape[-3] != 3:
            return self.any_band(inpt)
        pixels = np.ascontiguousarray(inpt.as_subclass(Tensor).numpy().transpose(1, 2, 0))
        for name, value in params.items():
            pixels = _CHANGES[name](pixels, value)
        changed = tv_tensors.Image(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        return changed if isinstance(inpt, tv_tensors.Image) else _plain(changed)


def _brightness(pixels: Pixels, factor: float) -> Pixels:
    return _levels(pixels, factor, 0.0)


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    mean = cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0]
    return _levels(pixels, factor, (1 - factor) * round(mean))


def _saturation(pixels: Pixels, factor: float) -> Pixels:
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(pixels, factor, grey, 1 - factor, 0), np.uint8)


def _hue(pixels: Pixels, turns: float) -> Pixels:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turns * 255) % 256)  # wraps around, as the circle does
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)


_CHANGES = {
    "brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue
}  # fmt: skip


def _levels(pixels: Pixels, factor: float, offset: float) -> Pixels:
    table = np.clip(np.arange(256) * factor + offset, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


class RandomGrayscale(v2.RandomGrayscale):  # type: ignore[misc]
    """Grey at random; images of other than three bands get the mean of their bands everywhere."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Take the colours away."""
        if not isinstance(inpt, tv_tensors.Image) or inpt.shape[-3] == 3:
            return super().transform(inpt, params)
        grey = inpt.float().mean(-3, keepdim=True).to(inpt.dtype).expand_as(inpt)
        return tv_tensors.wrap(grey.as_subclass(Tensor).contiguous(), like=inpt)


def strong_view(strength: float = 1.0) -> v2.Compose:
    """What is done to the colours of a weak view; nothing in it moves.

    Args:
        strength: Multiplies how far colours go, how often they vanish and how far the blur reaches;
            1 officially, less where the colour says what a thing is or things are a few pixels.
    """
    jitter = (strength * amount for amount in (0.5, 0.5, 0.5, 0.25))
    return v2.Compose(
        [
            ColorJitter(*jitter, p=0.8),
            RandomGrayscale(p=0.2 * strength),
            GaussianBlur((0.1, 0.1 + 1.9 * strength), p=0.5),
        ]
    )


def cutmix_box(
    height: int, width: int, area: Range = (0.02, 0.4), aspect: Range = (0.3, 1 / 0.3)
) -> Tensor:
    """A random rectangle inside an image.

    Args:
        height: Of the image, px.
        width: Of the image, px.
        area: Smallest and largest share of the image, drawn uniformly; drawing goes on until the
            box fits, which favours small and square ones within what was drawn.
        aspect: Smallest and largest height by width, drawn uniformly.

    Returns:
        bool ``(height, width)``, True inside.
    """
    size = float(torch.empty(()).uniform_(*area)) * height * width
    while True:
        ratio = float(torch.empty(()).uniform_(*aspect))
        columns, rows = int(math.sqrt(size / ratio)), int(math.sqrt(size * ratio))
        left, top = int(torch.randint(width, ())), int(torch.randint(height, ()))
        if left + columns <= width and top + rows <= height:
            box = torch.zeros(height, width, dtype=torch.bool)
            box[top : top + rows, left : left + columns] = True
            return box


@dataclass(frozen=True)
class UnlabelledViews:
    """The views of one unlabelled image.

    Attributes:
        weak: Image ``(C, S, S)`` that the network labels.
        strong: Image ``(C, S, S)`` that it learns from, the partner pasted in already.
        ignore: bool ``(S, S)``: pixels of ``strong`` that nobody saw (padding, nodata).
        weak_mix: The partner's weak view, or None without one.
        box: bool ``(S, S)``: where ``strong`` shows the partner; nowhere without one.
        targets: Stored ``"mask"`` of ``strong`` and its ``"confidence"``, float32 in [0, 1], the
            partner's pasted in already; empty unless both have a mask.
        origin: The image's file, and the partner's, for messages.
    """

    weak: Tensor
    strong: Tensor
    ignore: Tensor
    weak_mix: Tensor | None
    box: Tensor
    targets: dict[str, Tensor]
    origin: str


class S4PViews:
    """Turns a sample of `SemiSupervised` into the views that one training step needs.

    The labelled image gets the weak view. The unlabelled one gets both, and where it has a partner
    a box of the partner's strong view is pasted into it. Labelling needs the partner's weak view
    for that; an image without partner costs none.

    Args:
        size: Side of all views in pixels.
        scale: See `RandomLongSide`.
        strength: See `strong_view`.
        ignore_index: What padding is in a semantic mask.
    """

    def __init__(
        self,
        size: int = 512,
        scale: Range = (0.5, 2.0),
        strength: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        self.weak = weak_view(size, scale, ignore_index=ignore_index)
        self.strong = strong_view(strength)

    def __call__(
        self, image: Any, targets: dict[str, Any], valid: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        """What `Sample.map` calls; ``targets["unlabelled"]`` becomes `UnlabelledViews`.

        Raises:
            DataError: If the partner has other bands or another dtype.
        """
        own = {k: v for k, v in targets.items() if k not in ("unlabelled", "mix")}
        image, own, valid = self.weak(image, own, valid)
        return image, own | {"unlabelled": self._views(targets)}, valid

    def _views(self, targets: dict[str, Any]) -> UnlabelledViews:
        one, strong = self._both(targets["unlabelled"])
        ignore, labels, name = _nobody_saw(one), _labels(one), origin(one)
        if "mix" not in targets:
            none = torch.zeros_like(ignore)
            return UnlabelledViews(_plain(one.image), strong, ignore, None, none, labels, name)
        _require_alike(targets["unlabelled"], targets["mix"])
        other, strong_mix = self._both(targets["mix"])
        theirs = _labels(other)
        box = cutmix_box(*ignore.shape)
        return UnlabelledViews(
            weak=_plain(one.image),
            strong=cutmix(strong, strong_mix, box),
            ignore=cutmix(ignore, _nobody_saw(other), box),
            weak_mix=_plain(other.image),
            box=box,
            targets={k: cutmix(labels[k], theirs[k], box) for k in labels if k in theirs},
            origin=f"{name} with a box of {origin(other)}",
        )

    def _both(self, sample: Sample) -> tuple[Sample, Tensor]:
        """The weak view with what moves along, and the strong image made from it."""
        image, valid = sample.image, sample.valid
        if valid is None:
            valid = tv_tensors.Mask(torch.ones(image.shape[-2:], dtype=torch.bool))
        else:
            # nodata looks like padding; masked_fill doesn't know uint16
            image = torch.where(_plain(valid), _plain(image), 0)
        weak = replace(sample, image=image, valid=valid).map(self.weak)
        return weak, _plain(self.strong(weak.image))


def _plain(image: Tensor) -> Tensor:
    return image.as_subclass(Tensor)


def _require_alike(one: Sample, other: Sample) -> None:
    (bands, dtype), (their_bands, their_dtype) = (
        (len(s.image), str(s.image.dtype).removeprefix("torch.")) for s in (one, other)
    )
    if (bands, dtype) != (their_bands, their_dtype):
        raise DataError(
            f"{origin(other)}: {their_bands} band(s) of {their_dtype}, but {origin(one)}, which a "
            f"box of it is for, has {bands} of {dtype}; make the unlabelled images alike"
        )


def _nobody_saw(sample: Sample) -> Tensor:
    assert sample.valid is not None  # `S4PViews._both` has seen to it
    return ~_plain(sample.valid)


def _labels(sample: Sample) -> dict[str, Tensor]:
    """The stored mask and its confidence, 1 where none is stored; or nothing."""
    if "mask" not in sample.targets:
        return {}
    mask = _plain(sample.targets["mask"])
    sure = sample.targets.get("confidence")
    return {"mask": mask, "confidence": torch.ones(mask.shape) if sure is None else _share(sure)}


def _share(confidence: Tensor) -> Tensor:
    """Stored in 8 bits, or as it is, in [0, 1]."""
    values = _plain(confidence)
    return values / 255 if values.dtype == torch.uint8 else values.float()
