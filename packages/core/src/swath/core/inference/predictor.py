"""`Predictor`: a model with its preprocessing, classes and task, run over images of any size."""

import copy
import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window
from torch import nn

from swath.core.checkpoint.fetch import is_remote, locate
from swath.core.errors import ConfigError, DataError, RasterError, shortened
from swath.core.geo.raster import GeoImage, RasterInfo, band_numbers, open_raster, plausible
from swath.core.inference.results import RASTER_SUFFIXES, check_format
from swath.core.inference.tiler import (
    Plan,
    Scene,
    Tile,
    TilePrediction,
    ahead,
    plan_tiles,
    smallest_tile,
)
from swath.core.plugins import resolve
from swath.core.precision import Precision, autocast
from swath.core.progress import Bar
from swath.core.sample import Sample
from swath.core.task import Batch, Task, pick_device, to_device

TILE = 1024
"""Largest side of a tile where none is chosen, px: larger ones drop out of the processor's caches,
of smaller ones more is overlap (`benchmarks/tiled_prediction.py`)."""

OVERLAP = 64
"""Context that tiles share where none is chosen, px."""

TILE_BYTES = 48 << 20
"""Most that the logits of such a tile may take; many classes make it smaller than `TILE`. The tile
that a task names stays: its model was trained on that size. Not less than 32 MB: below, glibc keeps
what is freed, in pieces, instead of giving it back at once."""


class Predictor:
    """A model with its preprocessing, classes and task.

    Args:
        model: Maps what the task collates to what it understands.
        task: What the model was trained for.
        card: What is known of it: name, data, licence, ground sampling distance.
        precision: Arithmetic of the forward pass: ``"fp32"``; or ``"bf16"`` or ``"fp16"``, twice as
            fast or more where the device has it (`swath doctor` says so), and a little less exact.

    Attributes:
        model: In evaluation mode.
        task: The task.
        card: Plain data.
        precision: As given.

    Raises:
        ConfigError: If there is no such precision, or ``model`` and ``task`` are something else.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        card: dict[str, Any] | None = None,
        precision: Precision = "fp32",
    ) -> None:
        if precision not in get_args(Precision):
            raise ConfigError(
                f"precision='{precision}' is none of {', '.join(get_args(Precision))}"
            )
        if not isinstance(model, nn.Module) or not isinstance(task, Task):
            raise ConfigError(
                "a Predictor takes a torch Module and a Task, in this order, not a "
                f"{type(model).__name__} and a {type(task).__name__}"
            )
        self.model = _fast(model.eval())
        self.task = task
        self.card = dict(card or {})
        self.precision: Precision = precision

    def __repr__(self) -> str:
        model = type(self.model).__name__
        return f"Predictor({model}, {self.task.kind} of {len(self.classes)} classes, {self.device})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order."""
        return self.task.classes

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameter = next(self.model.parameters(), None)
        return parameter.device if parameter is not None else torch.device("cpu")

    def to(self, device: torch.device | str) -> "Predictor":
        """Move the model, e.g. to ``"cuda"``.

        Raises:
            ConfigError: If there is no such device here.
        """
        self.model.to(pick_device(device))
        return self

    def for_task(self, name: str) -> "Predictor":
        """The same model for one of the tasks that it does.

        Args:
            name: Of the task; the kind of task where there is only one.

        Raises:
            ConfigError: If it does no such task.
        """
        if hasattr(self.task, "select"):
            model, task = self.task.select(self.model, name)
            return Predictor(model, task, self.card, self.precision)
        if name != self.task.kind:
            raise ConfigError(f"this model does {self.task.kind}, not '{name}'; leave task out")
        return self

    def predict(
        self,
        image: Any,
        *,
        tile: int | Literal["auto"] | None = "auto",
        overlap: int | None = None,
        blend: int = 32,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        bands: Sequence[int] | None = None,
        scale: float | str | None = None,
        out: str | Path | None = None,
        probabilities: bool | Literal["float32", "uint8"] = False,
        classes: Sequence[str] | None = None,
        background: float | Sequence[str] | None = None,
        text: str | None = None,
        progress: bool = False,
    ) -> Any:
        """Run the model over an image of any size, tile by tile, in bounded memory.

        Reading, the model and writing each have a thread of their own. Tiles without a valid pixel
        are not run. Interrupted, it leaves no file.

        Args:
            image: A path, a `GeoImage`, an array ``(H, W, C)`` or ``(H, W)``, or a PIL image; see
                `open_image`.
            tile: Largest tile side in pixels; ``"auto"`` is the task's ``tile`` or else `TILE`,
                less of that where there are so many classes that the logits of a tile would pass
                `TILE_BYTES`; None runs the image in one piece.
            overlap: Context that neighbouring tiles share and discard; at least the model's
                receptive field makes the result independent of the tiling. None takes the task's
                ``overlap`` or else `OVERLAP`.
            blend: Width of the band in which neighbours are cross-faded.
            batch_size: Tiles at once; None takes 4 on a GPU and 1 on a CPU, where more only costs
                memory.
            device: Moves the model there first; None leaves it where it is.
            bands: Bands of the file in the model's order, numbered from 1; None takes all but
                alpha.
            scale: How the numbers map to the model's range if their type isn't the model's:
                ``"lo:hi"`` or a factor; see `Radiometry.with_scale`.
            out: Where to write the result: ``.tif`` is streamed; other suffixes go through the
                result's ``save``. Results of several tasks go into a folder.
            probabilities: Of a map, keep class probabilities too: True or ``"float32"``, or
                ``"uint8"`` (0..254 for 0..1, 255 nodata; a quarter of the size). With ``out``, a
                ``.tif``, they go to ``<stem>_probabilities.tif``, one band a class.
            classes: Vocabulary, for models that take one.
            background: With ``classes``: what else there may be, as the task understands it.
            text: A sentence, for models that take one.
            progress: Show a bar.

        Returns:
            The result type of the task's kind, such as `SegmentationResult`.

        Raises:
            RasterError: If the image can't be read, has no valid pixel or is too large.
            DataError: If bands or number type aren't what the model takes.
            ConfigError: If an argument doesn't make sense.
        """
        _check_whole(tile=None if tile == "auto" else tile, overlap=overlap, blend=blend)
        _check_whole(batch_size=batch_size)
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        task = self.adapted_task(scale, classes, background, text)
        target = Path(out) if out is not None else None
        streamed = None
        kept: Literal[False, "float32", "uint8"] = "float32" if probabilities else False
        if probabilities == "uint8":
            kept = "uint8"
        if target is not None:
            check_format(target, task.kind)
            streamed = target if target.suffix.lower() in RASTER_SUFFIXES else None
        if probabilities:
            _check_probabilities(probabilities, task, target)
        if device is not None:
            self.to(device)
        self.model.eval()  # whoever trains it on in between needn't think of it
        with ExitStack() as stack:
            source = stack.enter_context(open_image(image))
            info = source.info
            chosen = info.image_bands if bands is None else band_numbers(bands)
            self._check(task, info, chosen, target)
            align = getattr(task, "align", None) or self._align()
            overlap = getattr(task, "overlap", OVERLAP) if overlap is None else overlap
            if tile == "auto":
                tile = _auto_tile(task, overlap, blend, align)
            plan = plan_tiles(info.height, info.width, tile, overlap, blend, align)
            scene = Scene(
                plan,
                info,
                task,
                image=image if isinstance(image, str | Path) else source,
                bands=chosen,
                out=streamed,
                probabilities=kept,
            )
            count = batch_size or (1 if self.device.type == "cpu" else 4)
            bar = stack.enter_context(Bar("predicting", len(plan), "tiles", enabled=progress))
            read = stack.enter_context(
                closing(ahead(_batches(source, plan, task, chosen, count), 2, "swath-read"))
            )
            predicted = stack.enter_context(closing(ahead(self._run(task, read), 1, "swath-model")))
            result = task.merge(_flat(predicted, bar), scene)
        if target is not None and streamed is None:
            result.save(target)
        return result

    def _run(
        self, task: Task, batches: Iterator["_TileBatch"]
    ) -> Iterator[list[TilePrediction[Any]]]:
        device = self.device
        for item in batches:
            yield self._run_batch(task, item, device)

    def _run_batch(
        self, task: Task, item: "_TileBatch", device: torch.device
    ) -> list[TilePrediction[Any]]:
        predictions: Iterator[Any] = iter(())
        if item.batch is not None:
            with torch.inference_mode(), autocast(device, self.precision):
                predictions = iter(task.predict(self.model, to_device(item.batch, device)))
        return [
            TilePrediction(tile, None if valid is None else next(predictions), valid)
            for tile, valid in item.tiles
        ]

    def adapted_task(
        self,
        scale: float | str | None = None,
        classes: Sequence[str] | None = None,
        background: float | Sequence[str] | None = None,
        text: str | None = None,
    ) -> Task:
        """The task with another scaling of the numbers, another vocabulary, or a sentence.

        Args:
            scale: See `predict`.
            classes: Vocabulary, for models that take one.
            background: See `predict`.
            text: A sentence, for models that take one.

        Raises:
            ConfigError: If the model knows fixed classes only, no background or no sentences,
                ``classes`` is one text, or ``background`` stands alone.
            DataError: If the scale can't be read.
        """
        task = self.task
        if scale is not None:
            task = copy.copy(task)
            task.radiometry = task.radiometry.with_scale(scale)  # type: ignore[attr-defined]
        if classes is not None:
            if isinstance(classes, str):
                raise ConfigError(f"classes='{classes}' is one text; give a list of names")
            if not hasattr(task, "with_classes"):
                raise ConfigError(
                    "this model knows fixed classes and takes no vocabulary: "
                    f"{shortened(task.classes)}; leave classes out"
                )
            options = {} if background is None else {"background": background}
            if options and "background" not in inspect.signature(task.with_classes).parameters:
                raise ConfigError(f"{task.kind} knows no background here; leave it out")
            task = task.with_classes(tuple(classes), **options)
        elif background is not None:
            raise ConfigError("background says what isn't any of the classes; give classes too")
        if text is not None:
            if not hasattr(task, "with_text"):
                raise ConfigError("this model takes no sentence; leave text out")
            task = task.with_text(text)
        return task

    def _align(self) -> int:
        """Tiles begin at multiples of the model's stride, and of 32, which most strides divide."""
        stride = getattr(self.model, "stride", 1)
        return math.lcm(32, stride) if isinstance(stride, int) and 0 < stride <= 512 else 32

    def _check(
        self, task: Task, info: RasterInfo, bands: tuple[int, ...], target: Path | None
    ) -> None:
        if np.dtype(info.dtype).kind == "c":
            raise RasterError(
                f"{info.name} holds complex numbers (SAR); turn them into amplitudes first"
            )
        radiometry = getattr(task, "radiometry", None)
        if radiometry is not None:
            if len(bands) != len(radiometry.bands):
                _check_axes(info)
            radiometry.check(info.dtype, len(bands), where=info.name)
        if target is not None and info.path is not None and _same(target, info.path):
            raise ConfigError(f"{target} is the image itself; give the result another name")
        if info.note is not None and info.path is not None:
            warnings.warn(info.note, stacklevel=3)
        gsd = getattr(task, "gsd_m", None) or self.card.get("gsd_m")
        if gsd and info.gsd_m and not 0.5 <= info.gsd_m / gsd <= 2:
            warnings.warn(
                f"{info.name} has pixels of {info.gsd_m:.3g} m, the model was made for {gsd:.3g} m:"
                " expect a poor result; resample it first (gdalwarp -tr)",
                stacklevel=3,
            )


def load_model(
    name_or_path: str | Path,
    weights: str | Path | None = None,
    device: torch.device | str | None = None,
    task: str | None = None,
    precision: Precision = "fp32",
) -> Predictor:
    """Load a model with everything needed to use it.

    Args:
        name_or_path: A checkpoint of ours (``.safetensors``, or its ``hf://`` or ``https://``
            address), or the name of a model that ``swath models`` lists.
        weights: Weights for a named model whose card doesn't bring any: a file, official or ours,
            or an address; see `swath.core.checkpoint.fetch`.
        device: Where it goes; None for a GPU if there is one.
        task: Which of its tasks, for models that do several.
        precision: Arithmetic of the forward pass, see `Predictor`.

    Returns:
        A predictor.

    Raises:
        CheckpointError: If a checkpoint is missing or damaged.
        ConfigError: If no model has this name, it does no such task, or there is no such device or
            precision.

    Examples:
        >>> model = load_model("swath-small", device="cpu")  # doctest: +SKIP
        >>> model.predict("scene.tif", out="mask.tif")  # doctest: +SKIP
    """
    place = pick_device(device)
    text = str(name_or_path)
    if is_remote(text) or Path(text).suffix or Path(text).exists():
        from swath.core.checkpoint.store import load_pair

        if weights is not None:
            raise ConfigError(
                f"{text} brings its own weights; leave {weights} out, or name the model it is for"
            )
        model, made_for, metadata = load_pair(locate(text), device=place)
    else:
        from swath.core import zoo

        model, made_for, metadata = zoo.load(text, weights=weights, device=str(place))
    # a task may name the kind of predictor that it is asked through
    kind = resolve(getattr(made_for, "predictor", f"{__name__}:Predictor"))
    predictor: Predictor = kind(model, made_for, metadata.get("card"), precision)
    return predictor if task is None else predictor.for_task(task)


def _check_whole(**values: Any) -> None:
    for name, value in values.items():
        if value is not None and not isinstance(value, int | np.integer):
            raise ConfigError(f"{name}={value!r} must be a whole number")


def _check_probabilities(probabilities: bool | str, task: Task, target: Path | None) -> None:
    if probabilities not in (True, "float32", "uint8"):
        raise ConfigError(
            f"probabilities={probabilities!r} must be True, False, 'float32' or 'uint8'"
        )
    if task.kind != "segmentation":
        raise ConfigError(
            f"probabilities are kept of class maps, not of {task.kind} results; leave them out"
        )
    if target is not None and target.suffix.lower() not in RASTER_SUFFIXES:
        raise ConfigError(
            f"{target}: probabilities are written beside a .tif only; name the result *.tif"
        )


def _check_axes(info: RasterInfo) -> None:
    """Refuse an array whose bands come first: with more bands than rows it is hardly an image."""
    if info.path is None and info.height < info.count:
        shape = info.height, info.width, info.count
        raise DataError(
            f"the array has shape {shape}; (H, W, C) is expected, which makes this {shape[2]} "
            "bands: if its bands come first, give array.transpose(1, 2, 0)"
        )


def _fast(model: nn.Module) -> nn.Module:
    """Store the weights of a convolutional network channels last: half as fast again on a CPU.

    A model with linear layers is left alone: it reshapes features, to which their order in memory
    matters.
    """
    layers = list(model.modules())
    if not any(isinstance(layer, nn.Linear | nn.MultiheadAttention) for layer in layers):
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)
    return model


def _auto_tile(task: Task, overlap: int, blend: int, align: int) -> int:
    """The largest multiple of ``align`` within the limits that the overlaps allow."""
    side: int | None = getattr(task, "tile", None)
    if side is None:
        side = TILE
        if task.dense:
            side = min(side, math.isqrt(TILE_BYTES // (4 * max(len(task.classes), 1))))
    return max(side // align * align, smallest_tile(overlap, blend, align))


class Source(Protocol):
    """What tiles are read from: a file, or an image in memory."""

    @property
    def info(self) -> RasterInfo:
        """What is known of the image."""

    def read(
        self, window: Window | None = None, bands: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Numbers ``(C, h, w)`` of a window, and ``(h, w)`` where they are valid."""


class _ArraySource(GeoImage):
    """An image in memory, read like a file."""

    def read(
        self, window: Window | None = None, bands: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        chosen = range(len(self.array)) if bands is None else [b - 1 for b in bands]
        if not all(0 <= b < len(self.array) for b in chosen):
            raise RasterError(f"the image has bands 1 to {len(self.array)}, not {bands}")
        rows, columns = window.toslices() if window is not None else (slice(None), slice(None))
        array = self.array[:, rows, columns]
        return (
            array if bands is None else array[list(chosen)],
            self.valid[rows, columns] & plausible(array),
        )


def open_image(image: Any) -> AbstractContextManager[Source]:
    """Open what `Predictor.predict` takes, to be read by windows.

    Args:
        image: A path, a `GeoImage`, an array ``(H, W, C)`` or ``(H, W)``, or a PIL image. Pixels of
            a masked array of which a band is masked, and transparent ones, are invalid.

    Raises:
        RasterError: If the file can't be read or holds a table's numbers instead of colours, or the
            array is no image.
    """
    if isinstance(image, str | Path):
        raster = open_raster(image)
        if raster.palette is not None:
            raster.close()
            raise RasterError(
                f"{image} holds numbers that stand for colours of a table; write the colours "
                "themselves first (gdal_translate -expand rgb)"
            )
        return raster
    if isinstance(image, GeoImage):
        # alpha has become validity and bands may have been chosen: what is left counts from 1
        info = replace(image.info, count=len(image.array), alpha=None)
        return nullcontext(_ArraySource(image.array, image.valid, info))
    try:
        alpha = isinstance(image, Image.Image) and image.has_transparency_data
        array = np.asarray(_in_rgb(image) if isinstance(image, Image.Image) else image)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors of a GPU
        raise RasterError(
            f"the image must be an array (H, W, C) of numbers, in the processor's memory: {error}"
        ) from error
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "uif":
        raise RasterError(
            "the image must be an array (H, W, C) of numbers, a GeoImage, a PIL image or one path; "
            f"got a {type(image).__name__} ({array.dtype} of shape {array.shape})"
        )
    height, width, count = array.shape
    # torch takes neither foreign byte orders nor more than 64 bits
    dtype = np.dtype(np.float64) if array.itemsize > 8 else array.dtype.newbyteorder("=")
    planes = np.ascontiguousarray(array.transpose(2, 0, 1), dtype)
    valid = np.ones((height, width), dtype=bool)
    if isinstance(image, np.ma.MaskedArray):
        valid &= ~np.ma.getmaskarray(image).reshape(height, width, count).any(axis=2)
    if alpha:
        valid &= planes[-1] > 0
    info = RasterInfo(None, width, height, count, str(dtype), alpha=count if alpha else None)
    return nullcontext(_ArraySource(planes, valid, info))


def _in_rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB, from a palette, CMYK and others too, with alpha if it has any.

    Numbers of one band stay what they are.
    """
    one_band = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;")
    mode = ("LA" if one_band else "RGBA") if image.has_transparency_data else "RGB"
    return image if image.mode == mode or (one_band and mode == "RGB") else image.convert(mode)


@dataclass(frozen=True)
class _TileBatch:
    """Tiles in raster order, and one collated batch of those that hold anything valid."""

    tiles: list[tuple[Tile, NDArray[np.bool_] | None]]
    batch: Batch | None


def _batches(
    source: Source, plan: Plan, task: Task, bands: tuple[int, ...], batch_size: int
) -> Iterator[_TileBatch]:
    """Read the tiles of a plan; consecutive ones of equal size share a batch."""
    tiles: list[tuple[Tile, NDArray[np.bool_] | None]] = []
    samples: list[Sample] = []

    def flush() -> _TileBatch:
        done = _TileBatch(list(tiles), task.collate(samples) if samples else None)
        tiles.clear()
        samples.clear()
        return done

    for tile in plan:
        array, valid = source.read(tile.window, bands)
        if not valid.any():
            tiles.append((tile, None))
            if not samples:
                yield flush()
            continue
        if samples and samples[0].image.shape[-2:] != array.shape[-2:]:
            yield flush()
        tiles.append((tile, valid))
        samples.append(
            Sample(
                torch.from_numpy(np.ascontiguousarray(array)),
                valid=None if valid.all() else torch.from_numpy(valid),
                meta={"path": source.info.name},
            )
        )
        if len(samples) == batch_size:
            yield flush()
    if tiles:
        yield flush()


def _flat(groups: Iterator[list[TilePrediction[Any]]], bar: Bar) -> Iterator[TilePrediction[Any]]:
    for group in groups:
        while group:
            yield group.pop(0)
            bar.advance()


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)
