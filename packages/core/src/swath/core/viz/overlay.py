"""Turning bands, masks and features into RGB arrays one can look at."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from swath.core.palette import Colour

Rgb = npt.NDArray[np.uint8]
"""``(H, W, 3)`` uint8."""

_MISSED, _FALSE_ALARM, _WRONG, _UNKNOWN = (0, 114, 178), (230, 120, 0), (204, 51, 102), (90, 90, 90)


def display_rgb(
    image: npt.ArrayLike,
    valid: npt.ArrayLike | None = None,
    *,
    bands: Sequence[int] | None = None,
    percentiles: tuple[float, float] = (2.0, 98.0),
) -> Rgb:
    """An RGB picture of an image with any number of bands and any dtype, for display only.

    Three-band uint8 images are shown as they are. Of anything else, each band is stretched so that
    the given percentiles of its valid, finite pixels become black and white; a constant band
    becomes mid-grey. Models never see these numbers.

    Args:
        image: ``(C, H, W)``, or ``(H, W)`` for one band.
        valid: Boolean ``(H, W)``, False where there is no data; such pixels are painted black and
            don't influence the stretch.
        bands: Which bands, counted from 0, are red, green and blue (one index for grey). Default:
            the first three, or the first alone if there are fewer.
        percentiles: Lower and upper percentile, 0 to 100.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: If the shape isn't that of an image, or a band doesn't exist.
    """
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise ValueError(f"expected an image (C, H, W); got the shape {array.shape}")
    chosen = list(bands) if bands is not None else [0, 1, 2] if len(array) >= 3 else [0]
    if len(chosen) not in (1, 3) or not all(0 <= band < len(array) for band in chosen):
        raise ValueError(f"bands must be one or three of 0..{len(array) - 1}; got {chosen}")
    shown = array[chosen]
    seen = np.isfinite(shown).all(axis=0)
    if valid is not None:
        seen &= np.asarray(valid, dtype=bool)
    if not (array.dtype == np.uint8 and len(array) >= 3):
        shown = np.stack([_stretch(band, seen, percentiles) for band in shown])
    shown = np.where(seen, shown, 0).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, (3, *shown.shape[1:])).transpose(1, 2, 0))


def _stretch(
    band: npt.NDArray[np.generic], seen: npt.NDArray[np.bool_], percentiles: tuple[float, float]
) -> npt.NDArray[np.float64]:
    values = np.where(seen, band, 0).astype(np.float64)
    if not seen.any():
        return values
    low, high = np.percentile(values[seen], percentiles)
    if high <= low:
        return np.full(values.shape, 128.0)
    stretched: npt.NDArray[np.float64] = np.clip((values - low) / (high - low), 0, 1) * 255
    return stretched


def colourise(mask: npt.ArrayLike, palette: Sequence[Colour], *, other: Colour = _UNKNOWN) -> Rgb:
    """Paint a class map in its palette.

    Args:
        mask: ``(H, W)`` integer classes.
        palette: RGB per class.
        other: Colour of every value without a class: the ignore index, nodata.
    """
    classes = np.asarray(mask).astype(np.int64)
    table = np.array([*palette, other], dtype=np.uint8)
    known = (classes >= 0) & (classes < len(palette))
    return table[np.where(known, classes, len(palette))]


def overlay(
    image: Rgb,
    mask: npt.ArrayLike,
    palette: Sequence[Colour],
    alpha: float = 0.5,
    *,
    hide: Collection[int] = (),
) -> Rgb:
    """Lay a class map over a picture.

    Args:
        image: ``(H, W, 3)`` uint8 (see `display_rgb`).
        mask: ``(H, W)`` integer classes; values without a class (ignore, nodata) stay clear.
        palette: RGB per class.
        alpha: Opacity of the classes, 0 to 1.
        hide: Classes that stay clear, such as the background.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: If picture and mask differ in size.
    """
    classes = np.asarray(mask).astype(np.int64)
    picture = np.asarray(image)
    if picture.shape != (*classes.shape, 3):
        raise ValueError(
            f"expected a picture (H, W, 3) of the mask's size {classes.shape}; got {picture.shape}"
        )
    shown = (classes >= 0) & (classes < len(palette)) & ~np.isin(classes, list(hide))
    weight = np.where(shown, alpha, 0.0)[..., None]
    mixed = np.rint(picture * (1 - weight) + colourise(classes, palette) * weight)
    return np.asarray(mixed, dtype=np.uint8)


def difference(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    image: Rgb | None = None,
    *,
    ignore_index: int = 255,
    classes: int | None = None,
) -> Rgb:
    """Where a prediction is wrong: what is right is a pale grey picture, errors are coloured.

    With two classes, missed foreground is blue and a false alarm orange; with more, every wrong
    pixel is crimson. Pixels without truth are dark grey.

    Args:
        truth: ``(H, W)`` integer classes.
        prediction: ``(H, W)`` integer classes.
        image: ``(H, W, 3)`` uint8 behind it; a plain pale grey if None.
        ignore_index: Value of ``truth`` that means unknown.
        classes: Number of classes; 2 tells misses from false alarms.
    """
    true, guess = np.asarray(truth), np.asarray(prediction)
    if image is None:
        grey = np.full(true.shape, 235.0)
    else:
        grey = 110 + 0.55 * np.asarray(image, dtype=np.float64).mean(axis=-1)
    picture = np.repeat(np.clip(grey, 0, 255)[..., None], 3, axis=-1).astype(np.uint8)
    known = true != ignore_index
    wrong = known & (true != guess)
    if classes == 2:
        picture[wrong & (true == 1)] = _MISSED
        picture[wrong & (true == 0)] = _FALSE_ALARM
    else:
        picture[wrong] = _WRONG
    picture[~known] = _UNKNOWN
    return picture


def feature_rgb(features: npt.ArrayLike) -> Rgb:
    """Show a feature map by its three strongest principal components.

    Args:
        features: ``(C, H, W)`` float, ``C >= 1``.

    Returns:
        ``(H, W, 3)`` uint8; red is the first component. Signs are fixed (the largest loading is
        positive), so that equal features give equal pictures.
    """
    maps = np.nan_to_num(np.asarray(features, dtype=np.float64))
    channels, height, width = maps.shape
    pixels = maps.reshape(channels, -1).T  # (H*W, C)
    pixels = pixels - pixels.mean(axis=0)
    _, axes = np.linalg.eigh(pixels.T @ pixels)  # ascending
    axes = axes[:, ::-1][:, :3]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    components = np.zeros((3, height, width))
    components[: axes.shape[1]] = (pixels @ axes).T.reshape(-1, height, width)
    return display_rgb(components)
