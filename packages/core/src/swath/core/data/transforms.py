"""Augmentation for imagery of any band count and any dtype that sensors deliver.

Everything here is a torchvision v2 transform: it takes an image (`tv_tensors.Image`) with whatever
belongs to it, moves masks and boxes with the image, and composes with torchvision's own. Apply one
to a `Sample` with ``sample.map(transform)``. What torchvision lacks, or does slowly on one core, is
here: photometric changes for more than three bands and for 16-bit data without overflow, padding
that marks what it invents, and scaling and cropping in one step.

Padding is 0 in the image, ``ignore_index`` in a semantic mask ``(H, W)``, False in a boolean one
(`Sample.valid`), and 0 in instance masks ``(N, H, W)``. Boxes keep reaching over the crop's border;
`DropInvisible` removes those of which too little is left.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from swath.core.structures import RotatedBoxes, keep_visible

Array = NDArray[Any]
Range = tuple[float, float]

_CV2_DTYPES = tuple(np.dtype(name) for name in ("uint8", "uint16", "int16", "float32", "float64"))


class RandomScale(v2.Transform):  # type: ignore[misc]
    """Resize by a random factor, the same along both axes.

    Args:
        scale: Smallest and largest factor; drawn log-uniformly, so that halving is as likely as
            doubling.
    """

    def __init__(self, scale: Range = (0.5, 2.0)) -> None:
        super().__init__()
        self.scale = _checked_range("scale", scale)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor and work out the new size."""
        factor = _log_uniform(self.scale)
        height, width = _size_of(flat_inputs)
        return {"size": (max(1, round(height * factor)), max(1, round(width * factor)))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one input."""
        return _resize(self, inpt, params["size"])


class RandomCropPad(v2.Transform):  # type: ignore[misc]
    """Cut a window of fixed size at a random place; what is smaller lands at random inside it.

    Args:
        size: Side, or height and width, in pixels.
        ignore_index: What padding is in a semantic mask.
        fill: What padding is in the image.
    """

    def __init__(
        self, size: int | Sequence[int], *, ignore_index: int = 255, fill: float = 0.0
    ) -> None:
        super().__init__()
        self.size, self.ignore_index, self.fill = _pair(size), ignore_index, fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window's corner."""
        height, width = _size_of(flat_inputs)
        return {"top": _offset(height - self.size[0]), "left": _offset(width - self.size[1])}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut the window out of one input."""
        window = (params["top"], params["left"], *self.size)
        if isinstance(inpt, tv_tensors.Image | tv_tensors.Mask) or F.is_pure_tensor(inpt):
            return _wrap(_window(inpt, window, _fill_of(inpt, self.ignore_index, self.fill)), inpt)
        return self._call_kernel(F.crop, inpt, *window)


class RandomScaledCrop(v2.Transform):  # type: ignore[misc]
    """`RandomScale` followed by `RandomCropPad`, resampling only what the crop will show.

    The result is what the two give one after the other, up to resampling at fractional offsets, at
    a cost that depends on the crop's size and not on the image's.

    Args:
        size: Side, or height and width, in pixels.
        scale: Smallest and largest factor, drawn log-uniformly.
        ignore_index: What padding is in a semantic mask.
        fill: What padding is in the image.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        *,
        scale: Range = (0.5, 2.0),
        ignore_index: int = 255,
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        self.scale = _checked_range("scale", scale)
        self.crop = RandomCropPad(size, ignore_index=ignore_index, fill=fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor and the window, in whole pixels of the source."""
        factor = _log_uniform(self.scale)
        height, width = _size_of(flat_inputs)
        rows, columns = (max(1, round(side / factor)) for side in self.crop.size)
        top, left = _offset(height - rows), _offset(width - columns)
        return {"window": (top, left, rows, columns)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut the window out of one input and bring it to size."""
        window, size = params["window"], self.crop.size
        if isinstance(inpt, tv_tensors.Image | tv_tensors.Mask) or F.is_pure_tensor(inpt):
            fill = _fill_of(inpt, self.crop.ignore_index, self.crop.fill)
            return _resize(self, _wrap(_window(inpt, window, fill), inpt), size)
        return _resize(self, self._call_kernel(F.crop, inpt, *window), size)


class Dihedral(v2.Transform):  # type: ignore[misc]
    """One of the eight orientations of the square at random: overhead imagery has no upright."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the number of quarter turns and whether to flip."""
        draw = int(torch.randint(8, ()))
        return {"turns": draw % 4, "flip": draw >= 4}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Turn counter-clockwise, then flip left to right."""
        turns, flip = params["turns"], params["flip"]
        if isinstance(inpt, tv_tensors.Image | tv_tensors.Mask) or F.is_pure_tensor(inpt):
            plain = np.rot90(inpt.as_subclass(Tensor).numpy(), turns, (-2, -1))
            plain = plain[..., ::-1] if flip else plain
            return _wrap(torch.from_numpy(np.ascontiguousarray(plain)), inpt)
        if turns:
            inpt = self._call_kernel(F.rotate, inpt, angle=90.0 * turns, expand=True)
        return self._call_kernel(F.horizontal_flip, inpt) if flip else inpt


class RandomRotate(v2.Transform):  # type: ignore[misc]
    """Turn about the centre by any angle; the size stays.

    Args:
        degrees: Angles are drawn uniformly from -degrees to degrees.
        p: Probability of turning at all.
        mode: What shows in the corners: ``"ignore"`` pads, ``"reflect"`` mirrors image and masks
            (and refuses boxes, since mirrored objects would have none).
        ignore_index: What padding is in a semantic mask.
        fill: What padding is in the image.
    """

    def __init__(
        self,
        degrees: float = 180.0,
        *,
        p: float = 1.0,
        mode: str = "ignore",
        ignore_index: int = 255,
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        if mode not in ("ignore", "reflect"):
            raise ValueError(f"mode must be 'ignore' or 'reflect'; got {mode!r}")
        self.degrees, self.p, self.mode = degrees, p, mode
        self.ignore_index, self.fill = ignore_index, fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the angle, in degrees counter-clockwise."""
        if not _happens(self.p):
            return {"angle": 0.0}
        return {"angle": _uniform((-self.degrees, self.degrees))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Turn one input."""
        angle = params["angle"]
        if angle == 0:
            return inpt
        if not (isinstance(inpt, tv_tensors.Image | tv_tensors.Mask) or F.is_pure_tensor(inpt)):
            if self.mode == "reflect":
                raise ValueError("mode 'reflect' repeats objects without their boxes; use 'ignore'")
            return self._call_kernel(F.rotate, inpt, angle=angle)
        fill = _fill_of(inpt, self.ignore_index, self.fill)
        mode = cv2.INTER_NEAREST if isinstance(inpt, tv_tensors.Mask) else cv2.INTER_LINEAR
        border = cv2.BORDER_REFLECT if self.mode == "reflect" else cv2.BORDER_CONSTANT
        height, width = inpt.shape[-2:]
        # pixel centres have whole coordinates in cv2
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)

        def turn(band: Array) -> Array:
            # nearest in float64 carries integers exactly that cv2 has no type for
            known = band if band.dtype in _CV2_DTYPES else band.astype(np.float64)
            turned = cv2.warpAffine(
                known, matrix, (width, height), flags=mode, borderMode=border, borderValue=fill
            )
            result: Array = turned.astype(band.dtype, copy=False)
            return result

        return _by_band(inpt, turn)


class ColorJitter(v2.Transform):  # type: ignore[misc]
    """Brightness, contrast, saturation, gamma and the balance of the bands, for any band count.

    Each is a factor drawn uniformly from ``[1 - amount, 1 + amount]`` (gamma and gain:
    log-uniformly from ``[1 / (1 + amount), 1 + amount]``), and applied in this order: gain of each
    band, gamma, brightness, contrast about each band's mean, saturation about the mean of the
    bands. Integers are computed in float32, rounded and clipped to their dtype, so that nothing
    wraps around; floats aren't clipped.

    Args:
        brightness: Amount; multiplies.
        contrast: Amount; stretches about the mean of each band.
        saturation: Amount; stretches about the mean over bands.
        gamma: Amount; exponent on the position within ``value_range``, below and above which values
            stay.
        gain: Amount; one factor for each band.
        value_range: Darkest and brightest value, for gamma. None: from 0 to the largest value of an
            integer dtype, 0 to 1 for floats.
        p: Probability of doing anything.
    """

    _transformed_types = (tv_tensors.Image, F.is_pure_tensor)

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.2,
        *,
        saturation: float = 0.0,
        gamma: float = 0.0,
        gain: float = 0.0,
        value_range: Range | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__()
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, amount in amounts.items():
            if not 0 <= amount <= 1:
                raise ValueError(f"{name} must be between 0 and 1; got {amount}")
        if gamma < 0 or gain < 0:
            raise ValueError(f"gamma and gain must be >= 0; got {gamma} and {gain}")
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.gamma, self.gain, self.value_range, self.p = gamma, gain, value_range, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factors."""
        if not flat_inputs or not _happens(self.p):
            return {}
        bands = int(flat_inputs[0].shape[-3])
        gain = torch.empty(bands).uniform_(-1, 1) * math.log1p(self.gain)
        return {
            "gain": gain.exp().numpy(),
            "gamma": _log_uniform((1 / (1 + self.gamma), 1 + self.gamma)),
            "brightness": _uniform((1 - self.brightness, 1 + self.brightness)),
            "contrast": _uniform((1 - self.contrast, 1 + self.contrast)),
            "saturation": _uniform((1 - self.saturation, 1 + self.saturation)),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change the image."""
        if not params:
            return inpt
        image: Array = inpt.as_subclass(Tensor).numpy()
        dtype = image.dtype
        if dtype == np.uint8:
            out = self._through_tables(image, params)
        else:
            out = np.empty(image.shape, np.float32)
            for band, values in enumerate(image):
                mean = _mean(values)
                out[band] = self._curve(values.astype(np.float32), dtype, mean, band, params)
        if params["saturation"] != 1:
            values = out.astype(np.float32)
            out = _saturate(values, params["saturation"])
        return _wrap(torch.from_numpy(_cast(out, dtype)), inpt)

    def _through_tables(self, image: Array, params: dict[str, Any]) -> Array:
        """All 256 values of each band once, then a table look-up."""
        levels = np.arange(256, dtype=np.float32)
        out = np.empty(image.shape, image.dtype)
        for band, values in enumerate(image):
            table = self._curve(levels, image.dtype, _mean(values), band, params)
            cv2.LUT(values, _cast(table, image.dtype), dst=out[band])
        return out

    def _curve(
        self, values: Array, dtype: np.dtype[Any], mean: float, band: int, params: dict[str, Any]
    ) -> Array:
        """Gain, gamma, brightness and contrast of one band, in float32; the mean moves along."""
        both = [values, np.asarray([mean], np.float32)]
        low, high = self.value_range or _value_range(dtype)
        for i, x in enumerate(both):
            x = x * params["gain"][band]
            if params["gamma"] != 1:
                position = np.clip((x - low) / (high - low), 0, 1)
                within = low + (high - low) * position ** np.float32(params["gamma"])
                x = np.where((x > low) & (x < high), within, x)
            both[i] = x * np.float32(params["brightness"])
        moved, pivot = both
        contrast = np.float32(params["contrast"])
        result: Array = moved * contrast + pivot * (1 - contrast)
        return result


class GaussianBlur(v2.Transform):  # type: ignore[misc]
    """Blur by a Gaussian of random width, for any band count.

    Args:
        sigma: Smallest and largest standard deviation in pixels, drawn uniformly.
        p: Probability of blurring.
    """

    _transformed_types = (tv_tensors.Image, F.is_pure_tensor)

    def __init__(self, sigma: Range = (0.1, 2.0), *, p: float = 0.5) -> None:
        super().__init__()
        self.sigma, self.p = _checked_range("sigma", sigma), p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the width; zero means no blur."""
        return {"sigma": _uniform(self.sigma) if _happens(self.p) else 0.0}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Blur the image, band by band."""
        if not params["sigma"]:
            return inpt
        return _by_band(inpt, lambda band: cv2.GaussianBlur(band, (0, 0), params["sigma"]))


class GaussianNoise(v2.Transform):  # type: ignore[misc]
    """Add independent noise to every value.

    Args:
        sigma: Smallest and largest standard deviation, as a share of each band's own standard
            deviation, so that it means the same for 8-bit, 16-bit and float data.
        p: Probability of adding noise.
    """

    _transformed_types = (tv_tensors.Image, F.is_pure_tensor)

    def __init__(self, sigma: Range = (0.0, 0.1), *, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= sigma[0] <= sigma[1]:
            raise ValueError(f"sigma must be two values 0 <= low <= high; got {sigma}")
        self.sigma, self.p = sigma, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the strength."""
        return {"sigma": _uniform(self.sigma) if _happens(self.p) else 0.0}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Add noise to the image."""
        if not params["sigma"]:
            return inpt
        image = inpt.as_subclass(Tensor).numpy()
        noise = torch.randn(image.shape).numpy()
        for values, band in zip(noise, image, strict=True):
            values *= np.float32(params["sigma"] * _deviation(band))
        noise += image
        return _wrap(torch.from_numpy(_cast(noise, image.dtype)), inpt)


class DropInvisible(v2.Transform):  # type: ignore[misc]
    """Drop the objects of which a crop left too little: boxes, labels and instance masks alike.

    Works on the targets of a `Sample`: where a dict holds ``"boxes"``, every list or tensor of the
    same length under the given names loses the same entries.

    Args:
        min_side: Least length of a box's shorter side, in pixels.
        min_visible_fraction: Least share of a rotated box's area inside the image. (torchvision
            clips horizontal boxes itself, so for them only the side counts.)
        names: Targets that have one entry for each object.
    """

    def __init__(
        self,
        min_side: float = 1.0,
        min_visible_fraction: float = 0.25,
        names: Sequence[str] = ("boxes", "labels", "difficult", "instances"),
    ) -> None:
        super().__init__()
        self.min_side, self.min_visible_fraction = min_side, min_visible_fraction
        self.names = tuple(names)

    def forward(self, *inputs: Any) -> Any:
        """Filter every dict among the inputs."""
        outputs = tuple(self._filter(i) if isinstance(i, dict) else i for i in inputs)
        return outputs if len(outputs) > 1 else outputs[0]

    def _filter(self, targets: dict[str, Any]) -> dict[str, Any]:
        boxes = targets.get("boxes")
        if isinstance(boxes, RotatedBoxes):
            keep = keep_visible(boxes, self.min_side, self.min_visible_fraction)
        elif isinstance(boxes, tv_tensors.BoundingBoxes):
            clipped = F.convert_bounding_box_format(
                F.clamp_bounding_boxes(boxes), new_format=tv_tensors.BoundingBoxFormat.CXCYWH
            )
            keep = clipped.as_subclass(Tensor)[:, 2:4].amin(1) >= self.min_side
        else:
            return targets
        count = len(keep)
        kept = {}
        for name in self.names:
            value = targets.get(name)
            if isinstance(value, Tensor) and len(value) == count:
                kept[name] = _wrap(value.as_subclass(Tensor)[keep], value)
            elif isinstance(value, list | tuple) and len(value) == count:
                kept[name] = [v for v, keeps in zip(value, keep.tolist(), strict=True) if keeps]
        return targets | kept


def light_augment(
    size: int | Sequence[int], scale: Range = (0.5, 2.0), *, ignore_index: int = 255
) -> v2.Compose:
    """Scale, crop, turn and slightly relight: enough for most supervised training.

    Args:
        size: Side, or height and width, of the result in pixels.
        scale: Range of zoom factors.
        ignore_index: What padding is in a semantic mask.
    """
    return v2.Compose(
        [
            RandomScaledCrop(size, scale=scale, ignore_index=ignore_index),
            Dihedral(),
            ColorJitter(0.2, 0.2, gain=0.05),
            DropInvisible(),
        ]
    )


def strong_augment(
    size: int | Sequence[int], scale: Range = (0.5, 2.0), *, ignore_index: int = 255
) -> v2.Compose:
    """`light_augment` with any rotation, stronger light and colour, blur and noise.

    For small training sets, and where the model must work on sensors and seasons it hasn't seen.

    Args:
        size: Side, or height and width, of the result in pixels.
        scale: Range of zoom factors.
        ignore_index: What padding is in a semantic mask.
    """
    return v2.Compose(
        [
            RandomScaledCrop(size, scale=scale, ignore_index=ignore_index),
            Dihedral(),
            RandomRotate(45.0, p=0.3, ignore_index=ignore_index),
            ColorJitter(0.4, 0.4, saturation=0.4, gamma=0.3, gain=0.15, p=0.9),
            GaussianBlur((0.3, 1.5), p=0.3),
            GaussianNoise((0.0, 0.15), p=0.3),
            DropInvisible(),
        ]
    )


def _resize(transform: v2.Transform, inpt: Any, size: tuple[int, int]) -> Any:
    """Resize an image (linear; area mean beyond half), a mask (nearest) or boxes."""
    if isinstance(inpt, tv_tensors.Mask):
        pixels = inpt.as_subclass(Tensor).numpy()
        rows, columns = (
            _nearest(old, new) for old, new in zip(pixels.shape[-2:], size, strict=True)
        )
        return _wrap(torch.from_numpy(pixels.take(rows, -2).take(columns, -1)), inpt)
    if isinstance(inpt, tv_tensors.Image) or F.is_pure_tensor(inpt):
        height, width = inpt.shape[-2:]
        # down to half the size, linear interpolation still sees every pixel
        sees_all = height <= 2 * size[0] and width <= 2 * size[1]
        mode = cv2.INTER_LINEAR if sees_all else cv2.INTER_AREA
        return _by_band(inpt, lambda band: cv2.resize(band, size[::-1], interpolation=mode))
    return transform._call_kernel(F.resize, inpt, size=list(size))


def _by_band(inpt: Any, change: Callable[[Array], Array]) -> Any:
    """Change each ``(H, W)`` plane of an image or mask."""
    plain = inpt.as_subclass(Tensor)
    if plain.ndim == 2:
        return _wrap(torch.from_numpy(change(plain.numpy())), inpt)
    planes = [change(band) for band in plain.numpy()]
    return _wrap(torch.from_numpy(np.stack(planes)) if planes else plain, inpt)


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """The source index whose pixel holds the centre of each new pixel."""
    return ((np.arange(new) + 0.5) * (old / new)).astype(np.int64).clip(max=old - 1)


def _window(inpt: Tensor, window: tuple[int, int, int, int], fill: float) -> Tensor:
    """Rows and columns of the last two dimensions, padded where they leave the input."""
    top, left, rows, columns = window
    plain: Tensor = inpt.as_subclass(Tensor)
    height, width = plain.shape[-2:]
    first_row, last_row = max(top, 0), min(top + rows, height)
    first_column, last_column = max(left, 0), min(left + columns, width)
    inside = plain[..., first_row:last_row, first_column:last_column]
    if inside.shape[-2:] == (rows, columns):
        return inside.contiguous()
    out = plain.new_full((*plain.shape[:-2], rows, columns), fill)
    out[..., first_row - top : last_row - top, first_column - left : last_column - left] = inside
    return out


def _fill_of(inpt: Any, ignore_index: int, fill: float) -> float:
    """What padding looks like in this input."""
    if not isinstance(inpt, tv_tensors.Mask):
        return fill
    return 0 if inpt.dtype == torch.bool or inpt.ndim > 2 else ignore_index


def _wrap(tensor: Tensor, like: Any) -> Any:
    """The type of ``like``, or a plain tensor where that is one."""
    if isinstance(like, RotatedBoxes):  # torchvision 0.26 would lose their canvas
        return like.wrap(tensor, like)
    return tv_tensors.wrap(tensor, like=like) if isinstance(like, tv_tensors.TVTensor) else tensor


def _size_of(flat_inputs: list[Any]) -> tuple[int, int]:
    height, width = v2.query_size(flat_inputs)
    return height, width


def _value_range(dtype: np.dtype[Any]) -> Range:
    return (0.0, float(np.iinfo(dtype).max)) if np.issubdtype(dtype, np.integer) else (0.0, 1.0)


def _cast(values: Array, dtype: np.dtype[Any]) -> Array:
    """Round and clip to an integer dtype, in place; floats as they are."""
    if np.issubdtype(dtype, np.integer) and np.issubdtype(values.dtype, np.floating):
        limits = np.iinfo(dtype)
        np.clip(values, limits.min, limits.max, out=values)
        np.rint(values, out=values)
    return values.astype(dtype, copy=False)


def _saturate(values: Array, factor: float) -> Array:
    grey = values.mean(0, keepdims=True)
    result: Array = grey + np.float32(factor) * (values - grey)
    return result


def _mean(band: Array) -> float:
    """Mean of the finite values; 0 if there are none."""
    values = _finite(band)
    return float(cv2.mean(values)[0]) if values.size else 0.0


def _deviation(band: Array) -> float:
    """Standard deviation of the finite values; 0 if there are none."""
    values = _finite(band)
    return float(cv2.meanStdDev(values)[1][0, 0]) if values.size else 0.0


def _finite(band: Array) -> Array:
    return band[np.isfinite(band)] if np.issubdtype(band.dtype, np.floating) else band


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be positive; got {size}")
    return int(height), int(width)


def _checked_range(name: str, limits: Range) -> Range:
    low, high = limits
    if not 0 < low <= high:
        raise ValueError(f"{name} must be two values 0 < low <= high; got {limits}")
    return float(low), float(high)


def _offset(slack: int) -> int:
    """Where a window starts if there are ``slack`` pixels to spare, or missing (then negative)."""
    return int(torch.randint(min(slack, 0), max(slack, 0) + 1, ()))


def _uniform(limits: Range) -> float:
    return float(torch.empty(()).uniform_(*limits)) if limits[0] < limits[1] else limits[0]


def _log_uniform(limits: Range) -> float:
    return math.exp(_uniform((math.log(limits[0]), math.log(limits[1]))))


def _happens(p: float) -> bool:
    return float(torch.rand(())) < p
