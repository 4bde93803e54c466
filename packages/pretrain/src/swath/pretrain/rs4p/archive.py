"""The tiles of an archive on their way from the files to pieces of shards: `Archive`.

::

    scenes -> plan -> cut -> unique -> label -> confident -> parts

The tiles of all scenes are numbered (`Plan`) and worked off in parts of some hundred. A finished
part is on disk, so that an interrupted run goes on with the next one. Nothing depends on the
number of workers: they read and encode, the main process takes their results in order.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swath.core.errors import DataError
from swath.core.files import atomic_path
from swath.core.inference.predictor import Predictor
from swath.core.precision import autocast
from swath.core.progress import Bar
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask
from swath.core.task import to_device
from swath.pretrain.rs4p.duplicates import DuplicateIndex
from swath.pretrain.rs4p.recipe import Recipe
from swath.pretrain.rs4p.samples import IGNORED, Labelled, encode
from swath.pretrain.rs4p.shards import PARTS, Index
from swath.pretrain.rs4p.sources import Plan, Scene, Tile, Unusable, cut, measure
from swath.pretrain.rs4p.workers import batched, in_order

_TASK = 16  # tiles, or headers, that a worker is given at once

STATES = ("kept", "empty", "broken", "duplicate", "doubtful", "surplus")
"""What became of a tile: kept; no data in it or one colour; its file can't be read; looks like an
earlier one; the model isn't sure; there are many like it (see `packing.balanced`)."""
KEPT, EMPTY, BROKEN, DUPLICATE, DOUBTFUL, SURPLUS = range(len(STATES))


class Archive:
    """The tiles of all scenes, and what has become of them so far; on disk after every part."""

    def __init__(
        self, folder: Path, scenes: Sequence[Scene], recipe: Recipe, max_broken: float, part: int
    ) -> None:
        self.folder, self.scenes, self.recipe = folder, scenes, recipe
        self.max_broken, self.part = max_broken, part
        self.broken: dict[str, str] = {}

    def measure(self, pool: Executor, workers: int, progress: bool) -> None:
        """Read the size of every scene, and plan the tiles."""
        store = self.folder / "scenes.npz"
        if store.is_file():
            with np.load(store) as stored:
                sizes, reasons = stored["sizes"], stored["reasons"].tolist()
        else:
            batches = list(batched(self.scenes, _TASK))
            found: list[tuple[int, int] | str] = []
            look = partial(measure, cutting=self.recipe.cutting)
            with Bar("looking at scenes", len(self.scenes), "scenes", enabled=progress) as bar:
                for measured in in_order(pool, look, batches, 4 * workers):
                    found += measured
                    bar.advance(len(measured))
            sizes = np.array([(0, 0) if isinstance(f, str) else f for f in found], np.int64)
            reasons = [f if isinstance(f, str) else "" for f in found]
            _save(store, sizes=sizes, reasons=np.array(reasons))
        self.broken |= {
            scene.name: reason for scene, reason in zip(self.scenes, reasons, strict=True) if reason
        }
        self.check_broken()
        self.plan = Plan(self.scenes, sizes, self.recipe.cutting)
        if not len(self.plan):
            raise DataError(
                f"none of {len(self.scenes)} scenes has {self.recipe.min_size} pixels along its "
                "shorter side; lower --min-size"
            )
        self.state = np.zeros(len(self.plan), np.uint8)
        self.original = np.full(len(self.plan), -1, np.int64)
        self.sure = np.full(len(self.plan), np.nan, np.float32)
        self.levels = np.zeros(256, np.int64)
        self.samples: list[Index] = []

    def label(
        self, pool: Executor, workers: int, model: Predictor, task: SegmentationTask, progress: bool
    ) -> int:
        """Work off all parts that aren't finished; returns how many tiles were."""
        total = len(self.plan)
        starts = list(range(0, total, self.part))
        duplicates = DuplicateIndex(max(self.recipe.duplicate_bits, 0))
        done = 0
        while done < len(starts) and self._load(done, starts[done], duplicates):
            done += 1
        resumed = min(done * self.part, total)
        ranges = [
            (first, min(first + _TASK, start + self.part, total))
            for start in starts[done:]
            for first in range(start, min(start + self.part, total), _TASK)
        ]
        requests = ([self.plan[i] for i in range(*r)] for r in ranges)
        read = in_order(pool, partial(cut, cutting=self.recipe.cutting), requests, 2 * workers)
        with Bar("preparing", total, "tiles", start=resumed, enabled=progress) as bar:
            for number in range(done, len(starts)):
                start = starts[number]
                stop = min(start + self.part, total)
                tiles = (t for some in islice(read, -(-(stop - start) // _TASK)) for t in some)
                work = Part(self, number, start, stop, duplicates)
                work.run(tiles, pool, workers, model, task, bar)
                self.check_broken()
        return resumed

    def check_broken(self) -> None:
        """Stop if more of the scenes are broken than may be."""
        if len(self.broken) <= self.max_broken * len(self.scenes):
            return
        shown = "; ".join(f"{n} ({r})" for n, r in islice(sorted(self.broken.items()), 3))
        more = f"; and {len(self.broken) - 3} more" if len(self.broken) > 3 else ""
        raise DataError(
            f"{len(self.broken)} of {len(self.scenes)} scenes can't be read, more than "
            f"--max-broken {self.max_broken:g} allows: {shown}{more}; raise --max-broken to go on "
            "without them, or mend them and choose an empty folder"
        )

    def files(self, number: int) -> tuple[Path, Path]:
        """Where a part keeps its samples, and what it says of its tiles."""
        return self.folder / f"part-{number:06}.bin", self.folder / f"part-{number:06}.npz"

    def _load(self, number: int, start: int, duplicates: DuplicateIndex) -> bool:
        """Take over what an earlier run has finished."""
        _, about = self.files(number)
        if not about.is_file():
            return False
        with np.load(about) as stored:
            part = {name: stored[name] for name in stored.files}
        self.take(start, part)
        for place, value in enumerate(part["hash"].tolist()):
            if part["state"][place] in (KEPT, DOUBTFUL):
                duplicates.add(value, start + place)
        return True

    def take(self, start: int, part: Mapping[str, NDArray[Any]]) -> None:
        """Add what a finished part says."""
        stop = start + len(part["state"])
        for name in ("state", "original", "sure"):
            getattr(self, name)[start:stop] = part[name]
        self.levels += part["levels"]
        self.samples.append(part["samples"])
        for place, reason in zip(part["broken"].tolist(), part["reasons"].tolist(), strict=True):
            self.broken.setdefault(self.plan[start + place].scene.name, reason)


class Part:
    """A part of the tiles on its way from the files to a piece of shard."""

    def __init__(
        self, archive: Archive, number: int, start: int, stop: int, duplicates: DuplicateIndex
    ) -> None:
        self.archive, self.start = archive, start
        self.duplicates, self.recipe = duplicates, archive.recipe
        self.pieces, self.about = archive.files(number)
        self.state = np.zeros(stop - start, np.uint8)
        self.hash = np.zeros(stop - start, np.uint64)
        self.original = np.full(stop - start, -1, np.int64)
        self.sure = np.full(stop - start, np.nan, np.float32)
        self.levels = np.zeros(256, np.int64)
        self.reasons: dict[int, str] = {}

    def run(
        self,
        tiles: Iterable[Tile | Unusable],
        pool: Executor,
        workers: int,
        model: Predictor,
        task: SegmentationTask,
        bar: Bar,
    ) -> None:
        """Work it off; it is finished when its ``.npz`` is there."""
        unique = self._unique(tiles, bar)
        labelled = _labelled(unique, model, task, self.recipe.batch_size)
        sure = self._confident(labelled)
        encoded = in_order(pool, encode, sure, 4 * workers)
        samples = []
        with atomic_path(self.pieces) as temporary, temporary.open("wb") as sink:
            for piece in encoded:
                at, size = sink.tell(), len(piece.content)
                samples.append(
                    (piece.number, piece.key, piece.whole, piece.counts, at, size, piece.spans)
                )
                sink.write(piece.content)
            sink.flush()
            os.fsync(sink.fileno())
        part: dict[str, NDArray[Any]] = {
            "state": self.state,
            "hash": self.hash,
            "original": self.original,
            "sure": self.sure,
            "levels": self.levels,
            "samples": np.array(samples, _sample_dtype(len(task.classes))),
            "broken": np.array(list(self.reasons), np.int64),
            "reasons": np.array(list(self.reasons.values()), np.str_),
        }
        _save(self.about, **part)
        self.archive.take(self.start, part)

    def _unique(self, tiles: Iterable[Tile | Unusable], bar: Bar) -> Iterator[tuple[int, Tile]]:
        """Tiles with something in them that doesn't look like what came before."""
        for place, tile in enumerate(tiles):
            bar.advance()
            if isinstance(tile, Unusable):
                self.state[place] = EMPTY if tile.reason is None else BROKEN
                if tile.reason is not None:
                    self.reasons[place] = tile.reason
                continue
            self.hash[place] = tile.hash
            if self.recipe.duplicate_bits >= 0:
                original = self.duplicates.find(tile.hash)
                if original is not None:
                    self.state[place], self.original[place] = DUPLICATE, original
                    continue
                self.duplicates.add(tile.hash, self.start + place)
            yield self.start + place, tile

    def _confident(self, labelled: Iterable[Labelled]) -> Iterator[Labelled]:
        """Tiles of which the model is sure; confidence counts as it is stored, in 255 steps."""
        for item in labelled:
            levels = np.bincount(item.confidence[item.mask != IGNORED], minlength=256)
            sure = levels[math.ceil(self.recipe.confidence * 255 - 1e-6) :].sum() / levels.sum()
            self.levels += levels
            self.sure[item.number - self.start] = sure
            if sure < self.recipe.min_confident:
                self.state[item.number - self.start] = DOUBTFUL
                continue
            yield item


def _labelled(
    tiles: Iterable[tuple[int, Tile]], model: Predictor, task: SegmentationTask, batch_size: int
) -> Iterator[Labelled]:
    """Run the model over batches of consecutive tiles of equal size."""
    batch: list[tuple[int, Tile]] = []
    for number, tile in tiles:
        if batch and (len(batch) == batch_size or batch[0][1].pixels.shape != tile.pixels.shape):
            yield from _label_batch(batch, model, task)
            batch = []
        batch.append((number, tile))
    if batch:
        yield from _label_batch(batch, model, task)


def _label_batch(
    batch: Sequence[tuple[int, Tile]], model: Predictor, task: SegmentationTask
) -> Iterator[Labelled]:
    samples = [Sample(torch.from_numpy(tile.pixels), valid=_as_mask(tile)) for _, tile in batch]
    with torch.inference_mode(), autocast(model.device, model.precision):
        collated = to_device(task.collate(samples), model.device)
        found = [task.labelled(scores) for scores in task.predict(model.model, collated)]
        masks = [label.to(torch.uint8).cpu().numpy() for label, _ in found]
        sure = [(p * 255).round().to(torch.uint8).cpu().numpy() for _, p in found]
    for (number, tile), mask, confidence in zip(batch, masks, sure, strict=True):
        if tile.valid is not None:
            mask[~tile.valid], confidence[~tile.valid] = IGNORED, 0
        yield Labelled(
            number,
            tile.place,
            tile.encoded,
            tile.suffix,
            tile.meta,
            mask,
            confidence,
            len(task.classes),
        )


def _as_mask(tile: Tile) -> Tensor | None:
    return None if tile.valid is None else torch.from_numpy(tile.valid)


def _sample_dtype(num_classes: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("tile", "<i8"), ("key", "S16"), ("whole", "?"), ("counts", "<u4", (num_classes,)),
            ("at", "<u8"), ("size", "<u4"), ("spans", "<u4", (len(PARTS), 2)),
        ]
    )  # fmt: skip


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
