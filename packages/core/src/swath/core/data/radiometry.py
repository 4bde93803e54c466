"""`Radiometry`: how the numbers of a sensor become the numbers a model was trained on."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swath.core.errors import DataError
from swath.core.progress import track
from swath.core.sample import Sample
from swath.core.spec import Spec

_DTYPES = ("uint8", "uint16", "int16", "float32")
_ANY = "any"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Radiometry:
    """The bands and the number format a model expects, and the scaling it was trained with.

    A call gives ``(image * scale + offset - mean) / std`` in float32, band by band. Nothing is
    clipped and nothing is squeezed through 8 bits on the way.

    Attributes:
        bands: Band names in the model's order; their number is the number of channels.
        dtype: ``"uint8"``, ``"uint16"``, ``"int16"`` or ``"float32"``: what the sensor's numbers
            are stored as. ``"any"`` after `with_scale`, which makes the scaling the user's choice.
        scale: Factor on the stored numbers.
        mean: Mean of each band after scaling.
        std: Standard deviation of each band after scaling, above 0.
        offset: Added after the factor.
    """

    bands: tuple[str, ...]
    dtype: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    offset: float = 0.0

    def __post_init__(self) -> None:
        for name in ("bands", "mean", "std"):  # lists, when they come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.dtype not in (*_DTYPES, _ANY):
            raise DataError(f"radiometry: dtype '{self.dtype}' isn't one of {', '.join(_DTYPES)}")
        if not len(self.bands) == len(self.mean) == len(self.std) > 0:
            raise DataError(
                f"radiometry: {len(self.bands)} bands, {len(self.mean)} means and "
                f"{len(self.std)} standard deviations must be the same number, at least one"
            )
        if min(self.std) <= 0:
            raise DataError(f"radiometry: standard deviations must be above 0; got {self.std}")

    @classmethod
    def rgb8(cls) -> "Radiometry":
        """Red, green, blue in 8 bits with the ImageNet statistics."""
        return cls(("red", "green", "blue"), "uint8", 1 / 255, _IMAGENET_MEAN, _IMAGENET_STD)

    @classmethod
    def fit(
        cls,
        images: Iterable[Any],
        *,
        bands: tuple[str, ...] | None = None,
        scale: float | None = None,
        limit: int | None = None,
        progress: bool = False,
    ) -> "Radiometry":
        """Measure mean and standard deviation over the valid pixels, in one pass.

        Args:
            images: A data set of `Sample`, or arrays ``(C, H, W)``, or pairs of such an array and a
                boolean ``(H, W)`` that is False where nothing was seen. NaN and infinity are never
                counted.
            bands: Their names; ``band1``, ``band2``, ... if None.
            scale: Factor on the stored numbers; ``1 / 255`` for uint8 and 1 for all others if None.
            limit: Look at no more than this many images (at least 1), spread over a data set.
            progress: Show a bar.

        Raises:
            DataError: If the images differ in dtype or band count, or hold no valid pixel.
        """
        moments = _Moments()
        source: Any = images
        chosen = source
        if limit is not None and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
            count = min(limit, len(source))
            chosen = (source[i * len(source) // count] for i in range(count))
        elif limit is not None:
            chosen = itertools.islice(source, limit)
        for image in track(chosen, "statistics", limit, "img", enabled=progress):
            moments.add(*_array_and_valid(image))
        dtype, mean, std = moments.result()
        factor = scale if scale is not None else (1 / 255 if dtype == "uint8" else 1.0)
        names = bands if bands is not None else tuple(f"band{i + 1}" for i in range(len(mean)))
        return cls(
            names,
            dtype,
            factor,
            tuple(float(m * factor) for m in mean),
            # a constant band carries nothing; 1 keeps it at 0 instead of dividing by 0
            tuple(float(s * factor) if s > 0 else 1.0 for s in std),
        )

    def __call__(self, image: Tensor) -> Tensor:
        """Scale an image or a batch.

        Args:
            image: ``(C, H, W)`` or ``(B, C, H, W)``, any dtype.

        Returns:
            Same shape, float32; 0 (the mean) where the input is NaN or infinite.
        """
        mean, std = (
            torch.tensor(v, dtype=torch.float32, device=image.device)[:, None, None]
            for v in (self.mean, self.std)
        )
        # one buffer: a scene's tiles pass here, and what is freed in between splits the heap
        scaled = image.as_subclass(Tensor).to(torch.float32, copy=True)
        scaled.mul_(self.scale / std).add_((self.offset - mean) / std)
        if image.is_floating_point():
            scaled.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        return scaled

    def check(self, dtype: Any, count: int, *, where: str) -> None:
        """Refuse an image that the model was not made for.

        Args:
            dtype: Of the image: a torch or numpy dtype, or its name.
            count: Its number of bands.
            where: The file's name, for the message.

        Raises:
            DataError: With the fix.
        """
        if count != len(self.bands):
            # a file with too few has to repeat one: the last, so that grey becomes 1,1,1
            numbers = ",".join(str(min(i + 1, count)) for i in range(len(self.bands)))
            what = "choose them" if count > len(self.bands) else "repeat what is there"
            raise DataError(
                f"{where}: {count} band(s), but the model takes {len(self.bands)} "
                f"({', '.join(self.bands)}); {what} with bands, e.g. --bands {numbers}"
            )
        name = str(dtype).removeprefix("torch.")
        if self.dtype not in (name, _ANY):
            raise DataError(
                f"{where}: stored as {name}, but the model takes {self.dtype}; say how the numbers "
                f"map to its range, e.g. --scale 0:{_typical_top(name)} (darkest:brightest)"
            )

    def with_scale(self, scale: float | str) -> "Radiometry":
        """The same model input, fed by numbers of another range.

        Args:
            scale: ``"lo:hi"`` maps lo to 0 and hi to 1, beyond which values go on linearly; a
                number is a plain factor, above 0.

        Returns:
            A radiometry that accepts any dtype.

        Raises:
            DataError: If it is none of these, or hi isn't above lo.
        """
        factor, offset = _parse_scale(scale)
        return replace(self, dtype=_ANY, scale=factor, offset=offset)

    def spec(self) -> Spec:
        """This radiometry as data, for configs and checkpoints."""
        return Spec(
            Radiometry,
            bands=self.bands,
            dtype=self.dtype,
            scale=self.scale,
            mean=self.mean,
            std=self.std,
            offset=self.offset,
        )


def _parse_scale(scale: float | str) -> tuple[float, float]:
    low, colon, high = str(scale).partition(":")
    try:
        bottom, top = (float(low), float(high)) if colon else (0.0, 1 / float(low))
    except (ValueError, ZeroDivisionError):
        bottom, top = 0.0, 0.0
    if not (-math.inf < bottom < top < math.inf):
        raise DataError(
            f"scale={scale!r} isn't a factor above 0 or 'lo:hi' with hi above lo, e.g. '0:10000'"
        )
    return (1 / (top - bottom), -bottom / (top - bottom)) if colon else (float(low), 0.0)


def _typical_top(dtype: str) -> str:
    return {"uint8": "255", "float32": "1", "float64": "1"}.get(dtype, "10000")


def _array_and_valid(image: Any) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(image, Sample):
        valid = None if image.valid is None else image.valid.numpy()
        return image.image.numpy(), valid
    array, valid = image if isinstance(image, tuple) else (image, None)
    return np.asarray(array), None if valid is None else np.asarray(valid)


class _Moments:
    """Count, mean and sum of squared deviations of each band, merged image by image.

    Source:
        Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances" (1979): exact where the plain sum of squares would cancel.
    """

    def __init__(self) -> None:
        self.dtype = ""
        self.count = np.zeros(0)
        self.mean = np.zeros(0)
        self.squares = np.zeros(0)

    def add(self, image: np.ndarray, valid: np.ndarray | None) -> None:
        bands = len(image)
        if not self.dtype:
            self.dtype = str(image.dtype)
            self.count, self.mean, self.squares = (np.zeros(bands) for _ in range(3))
        if (str(image.dtype), bands) != (self.dtype, len(self.count)):
            raise DataError(
                f"statistics: an image has {bands} bands of {image.dtype}, those before it "
                f"{len(self.count)} of {self.dtype}; measure them apart"
            )
        for band, values in enumerate(image):
            kept = values[valid] if valid is not None else values.ravel()
            if kept.dtype.kind == "f":
                kept = kept[np.isfinite(kept)]
            if not kept.size:
                continue
            kept = kept.astype(np.float64)
            mean = kept.mean()
            kept -= mean
            total = self.count[band] + kept.size
            delta = mean - self.mean[band]
            self.squares[band] += kept @ kept
            self.squares[band] += delta**2 * self.count[band] * kept.size / total
            self.mean[band] += delta * kept.size / total
            self.count[band] = total

    def result(self) -> tuple[str, np.ndarray, np.ndarray]:
        if not self.count.size or not self.count.all():
            raise DataError("statistics: no valid pixel in at least one band of all the images")
        return self.dtype, self.mean, np.sqrt(self.squares / self.count)
