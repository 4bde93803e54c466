"""Running a model over a scene of any size: tiles out, one seamless map in.

Along each axis neighbouring tiles share ``overlap + blend`` pixels::

    tile i    ........................|~~~~|......
    tile i+1                    ......|~~~~|........................
                                 half  blend half     (half = overlap / 2)

The outer half overlap of a tile is context only and discarded, and in the band between the two
predictions are cross-faded linearly. A network whose receptive field is no wider than ``overlap``
has seen all it needs where its output is used, so the map is that of the whole scene at once.
Nothing is ever padded at the image's border, and tiles begin at multiples of ``align``, so that a
strided network sees the grid it would see untiled.

Tiles are worked off in raster order. Only the bands that wait for a neighbour stay in memory: one
``(K, blend, width)`` strip and one ``(K, tile, blend)`` strip, whatever the scene's height.
"""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from swath.core.errors import ConfigError, RasterError
from swath.core.geo.raster import RasterInfo

if TYPE_CHECKING:
    from swath.core.inference.results import SegmentationResult

T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the scene.

    Attributes:
        start: First pixel the model sees.
        stop: One after the last.
        begin: First pixel of the map that this tile has a say in (the band before it included).
        fade: Length of the band at ``begin`` shared with the tile before; 0 for the first.
        hold: Where the band shared with the next tile begins; ``stop`` for the last. The tile
            settles ``begin..hold`` and holds back ``hold..hold + blend``.
    """

    start: int
    stop: int
    begin: int
    fade: int
    hold: int


@dataclass(frozen=True)
class Tile:
    """One tile of a `Plan`: where it lies and which neighbours it fades into."""

    row: int
    column: int
    y: Span
    x: Span

    @property
    def window(self) -> Window:
        """What the model sees."""
        return Window(
            self.x.start, self.y.start, self.x.stop - self.x.start, self.y.stop - self.y.start
        )

    @property
    def settled(self) -> Window:
        """The part of the map that is final once this tile is done."""
        return Window(
            self.x.begin, self.y.begin, self.x.hold - self.x.begin, self.y.hold - self.y.begin
        )


@dataclass(frozen=True)
class Plan:
    """Tiles of a scene in raster order; made by `plan_tiles`."""

    height: int
    width: int
    blend: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        for row, y in enumerate(self.rows):
            for column, x in enumerate(self.columns):
                yield Tile(row, column, y, x)


def plan_tiles(
    height: int, width: int, tile: int | None, overlap: int, blend: int, align: int = 32
) -> Plan:
    """Cover a scene with tiles of nearly equal size.

    The smallest number of tiles that fits is spread evenly, so that no sliver is left at the far
    border, where a network would see little.

    Args:
        height: Rows of the scene, at least 1.
        width: Columns of the scene, at least 1.
        tile: Largest tile side in pixels, rounded down to a multiple of ``align``; None for one
            tile that is the whole scene.
        overlap: Context shared by neighbours, at least the network's receptive field for an exact
            result.
        blend: Width of the cross-faded band; 0 switches from one tile to the next.
        align: Tiles begin at multiples of this: the network's stride.

    Returns:
        The plan.

    Raises:
        ConfigError: If the tile is too small for its overlaps.
    """
    if min(overlap, blend) < 0 or align < 1:
        raise ConfigError(f"overlap={overlap} and blend={blend} must be 0 or more, align={align} 1")
    if tile is None:
        tile = max(height, width)
    else:
        least = smallest_tile(overlap, blend, align)
        if tile < least:
            raise ConfigError(
                f"tile={tile} is too small for overlap={overlap} and blend={blend}; "
                f"use a tile of {least} or more, or smaller overlaps"
            )
        tile = tile // align * align
    rows, columns = (_spans(n, tile, overlap, blend, align) for n in (height, width))
    return Plan(height, width, blend, rows, columns)


def smallest_tile(overlap: int, blend: int, align: int = 32) -> int:
    """Least side of a tile, px: what it shares, and a step in which two bands have room."""
    return align * (-(-(overlap + blend) // align) + max(1, -(-2 * blend // align)))


def _spans(length: int, tile: int, overlap: int, blend: int, align: int) -> tuple[Span, ...]:
    if length <= tile:
        return (Span(0, length, 0, 0, length),)
    shared, half = overlap + blend, overlap // 2
    # in units of `align`: how far tiles may advance, and how far they have to come together
    step = tile // align - -(-shared // align)
    way = -(-(length - shared) // align)
    count = -(-way // step)
    starts = [align * (i * way // count) for i in range(count)]
    spans = []
    for i, start in enumerate(starts):
        last = i == count - 1
        following = length if last else starts[i + 1]
        stop = length if last else min(length, -(-(following + shared) // align) * align)
        spans.append(
            Span(
                start=start,
                stop=stop,
                begin=start + half if i else 0,
                fade=blend if i else 0,
                hold=length if last else following + half,
            )
        )
    return tuple(spans)


@dataclass(frozen=True)
class TilePrediction(Generic[P]):
    """What a model said about a tile.

    Attributes:
        tile: Where.
        prediction: What `Task.predict` returned for it, or None if it holds no valid pixel (the
            model didn't run).
        valid: ``(h, w)`` bool: pixels the sensor saw; None if there are none.
    """

    tile: Tile
    prediction: P | None
    valid: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Scene:
    """What `Task.merge` needs to know of a scene besides its tiles.

    Attributes:
        plan: Where the tiles lie.
        info: Size and georeference.
        task: Whose classes and palette the result has.
        image: What was given to the predictor, for pictures.
        bands: Which of its bands the model saw, numbered from 1; None for all.
        out: Where to stream the map to, ``.tif``; None keeps it in memory.
        probabilities: Whether to keep them: False, ``"float32"`` or ``"uint8"``.
    """

    plan: Plan
    info: RasterInfo
    task: Any
    image: Any = None
    bands: tuple[int, ...] | None = None
    out: Path | None = None
    probabilities: Literal[False, "float32", "uint8"] = False


def label_dtype(num_classes: int) -> type[np.uint8 | np.uint16]:
    """Smallest type that holds K classes and a nodata value (the largest of the type).

    Raises:
        ConfigError: If there are more than 65,535 classes.
    """
    if num_classes > 65_535:
        raise ConfigError(f"{num_classes} classes don't fit a class map; 65535 is the most")
    return np.uint8 if num_classes <= 255 else np.uint16


def blend_logits(
    tiles: Iterable[TilePrediction[Tensor]], plan: Plan
) -> Iterator[tuple[Tile, Tensor | None, NDArray[np.bool_] | None]]:
    """Cross-fade the logits of neighbouring tiles, part by part.

    Where both tiles agree the result is exactly what they say (the fade is
    ``a + w * (b - a)``). A tile without valid pixels gives None; what it shares with others is
    invalid there too.

    Args:
        tiles: Logits ``(K, h, w)`` of every tile of the plan in raster order; they are overwritten.
        plan: The plan.

    Yields:
        The tile, logits ``(K, h', w')`` of its `Tile.settled` window or None, and validity
        ``(h', w')`` or None.
    """
    above: Tensor | None = None  # one buffer for the whole scene: no holes between large tiles
    known = [False] * len(plan.columns)  # whether a column's part of it means anything
    left: Tensor | None = None
    for item in tiles:
        tile, y, x = item.tile, item.tile.y, item.tile.x
        if tile.column == 0:
            left = None
        if item.prediction is None:
            known[tile.column], left = False, None
            yield tile, None, None
            continue
        if above is None:
            above = item.prediction.new_empty(len(item.prediction), plan.blend, plan.width)
        strip = above[:, :, x.begin : x.hold]
        settled, left = _fade(
            item.prediction, tile, plan.blend, left, strip, upper=known[tile.column]
        )
        known[tile.column] = True
        valid = item.valid
        if valid is not None:
            valid = valid[
                y.begin - y.start : y.hold - y.start, x.begin - x.start : x.hold - x.start
            ]
        del item
        yield tile, settled, valid
        del settled


@torch.inference_mode()
def _fade(
    logits: Tensor, tile: Tile, blend: int, left: Tensor | None, strip: Tensor, *, upper: bool
) -> tuple[Tensor, Tensor | None]:
    """Fade a tile into its left and upper neighbours; hold back its right and lower bands.

    Args:
        logits: ``(K, h, w)``, overwritten.
        tile: Where.
        blend: Width of the bands.
        left: What the left neighbour held back.
        strip: ``(K, blend, w')``, over the tile's settled columns: what the upper neighbour held
            back; replaced by what this tile holds back for the lower one.
        upper: Whether the strip holds anything yet.

    Returns:
        Logits of the tile's settled window, and what it holds back for the right neighbour.
    """
    y, x = tile.y, tile.x
    top, bottom = y.begin - y.start, y.hold - y.start
    first, last = x.begin - x.start, x.hold - x.start
    weight = torch.arange(1, blend + 1, dtype=logits.dtype, device=logits.device) / (blend + 1)
    if left is not None and x.fade:
        band = logits[:, :, first : first + x.fade]
        torch.lerp(left, band, weight, out=band)
    right = logits[:, :, last : last + blend].clone() if x.hold < x.stop and blend else None
    if upper and y.fade:
        band = logits[:, top : top + y.fade, first:last]
        torch.lerp(strip, band, weight[:, None], out=band)
    if y.hold < y.stop:
        strip.copy_(logits[:, bottom : bottom + blend, first:last])
    return logits[:, top:bottom, first:last], right


def average_scores(tiles: Iterable[TilePrediction[Tensor]], scene: Scene) -> tuple[float, ...]:
    """Average the class probabilities of a scene's tiles, by how many valid pixels each has.

    Args:
        tiles: Probabilities ``(K,)`` of every tile.
        scene: Of which they are.

    Returns:
        K probabilities.

    Raises:
        RasterError: If no pixel of the scene is valid.
    """
    total, weight = torch.zeros((), dtype=torch.float64), 0
    for item in tiles:
        if item.prediction is not None and item.valid is not None:
            seen = int(item.valid.sum())
            total = total + item.prediction.double().cpu() * seen
            weight += seen
    if not weight:
        raise RasterError(f"{scene.info.name} holds no valid pixel; check its nodata value")
    return tuple((total / weight).tolist())


def blend_segmentation(
    tiles: Iterable[TilePrediction[Tensor]], scene: Scene
) -> "SegmentationResult":
    """Turn the logits of a scene's tiles into its class map, streaming.

    Args:
        tiles: Logits ``(K, h, w)`` of every tile of the plan in raster order.
        scene: The plan, and where finished parts go.

    Returns:
        The map; pixels without data hold the largest value of its type.

    Raises:
        RasterError: If no pixel of the scene is valid.
        ConfigError: If scores of valid pixels aren't numbers.
    """
    from swath.core.inference.results import segmentation_sink

    num_classes = len(scene.task.classes)
    dtype = label_dtype(num_classes)
    counts = np.zeros(num_classes, dtype=np.int64)
    with segmentation_sink(scene) as sink:
        for tile, logits, valid in blend_logits(tiles, scene.plan):
            if logits is None or valid is None or not valid.any():
                continue  # the sink starts out as nodata
            labels, probabilities, sound = _labels(
                logits, dtype, bool(scene.probabilities), getattr(scene.task, "activation", None)
            )
            if not sound[valid].all():
                raise ConfigError(
                    f"{scene.info.name}: the model's scores aren't numbers (NaN); take a wider "
                    "precision ('bf16' or 'fp32' for 'fp16'), or other weights"
                )
            if not valid.all():
                labels[~valid] = np.iinfo(dtype).max
                if probabilities is not None:
                    probabilities[:, ~valid] = np.nan
            counts += np.bincount(labels[valid], minlength=num_classes)
            sink.write(tile.settled, labels, probabilities)
            del logits, labels, probabilities
        if not counts.any():
            raise RasterError(
                f"{scene.info.name} holds no valid pixel (all nodata, transparent or NaN); "
                "check its nodata value and the bands you chose"
            )
    return sink.result(counts)


@torch.inference_mode()
def _labels(
    logits: Tensor,
    dtype: type[np.uint8 | np.uint16],
    with_probabilities: bool,
    activation: str | None,
) -> tuple[NDArray[Any], NDArray[np.float32] | None, NDArray[np.bool_]]:
    """Class of each pixel, probabilities if wanted, and where the scores are numbers."""
    # max gives the same indices as argmax and is five times as fast along a strided axis
    best = logits.max(dim=0)
    labels = best.indices.to(torch.uint8 if dtype is np.uint8 else torch.uint16)
    probabilities = None
    if with_probabilities:
        independent = activation == "sigmoid"  # one class's says nothing about the others'
        scores = logits.float()
        probabilities = (scores.sigmoid() if independent else scores.softmax(dim=0)).cpu().numpy()
    return labels.cpu().numpy(), probabilities, (~best.values.isnan()).cpu().numpy()


def ahead(items: Iterable[T], size: int, name: str) -> Generator[T, None, None]:
    """Produce items in a thread of their own, at most ``size`` ahead of the consumer.

    Exceptions of the producer appear at the consumer, in order. If the consumer stops early, by an
    exception or an interrupt, the thread ends after the item it is working on.

    Args:
        items: What to iterate in the thread.
        size: Finished items that may wait.
        name: Of the thread.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(size)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stop.is_set():
            try:
                return waiting.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                del item  # the consumer decides how long it lives
                if stop.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # handed to the consumer, whatever it is
            put(None, error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # an item unless there is an error
            del item  # what isn't needed must not wait for the next one: tiles are large
    finally:
        stop.set()
        thread.join()
