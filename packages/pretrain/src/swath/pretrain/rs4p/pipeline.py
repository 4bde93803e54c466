"""From an archive of unlabelled scenes to shards with pseudo-labels: `prepare`.

Scenes are cut into tiles; empty tiles and near-duplicates are left out; a segmentation model labels
the rest; what it isn't sure of, and what there is too much of, is left out too; the others become
shards, an index, a manifest and a report.

::

    scenes -> plan -> cut -> unique -> label -> confident -> parts -> balance -> shards

The tiles of all scenes are numbered (`Plan`) and worked off in parts of `PART` tiles. A finished
part is on disk, so that an interrupted run goes on with the next one. Nothing depends on the
number of workers: they read and encode, the main process takes their results in order.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from swath.core.data.radiometry import Radiometry
from swath.core.data.readers import resolve_root
from swath.core.errors import ConfigError, DataError
from swath.core.files import atomic_path
from swath.core.inference.predictor import Predictor
from swath.core.progress import Bar
from swath.core.sample import Sample
from swath.core.task import Task, to_device
from swath.pretrain.rs4p.duplicates import MAX_RADIUS, DuplicateIndex
from swath.pretrain.rs4p.samples import IGNORED, Labelled, encode
from swath.pretrain.rs4p.shards import (
    INDEX,
    PARTS,
    Index,
    index_dtype,
    read_at,
    write_shard,
)
from swath.pretrain.rs4p.sources import (
    Cutting,
    Plan,
    Scene,
    Tile,
    Unusable,
    cut,
    find_scenes,
    measure,
)
from swath.pretrain.rs4p.workers import batched, in_order, worker_pool

MANIFEST = "manifest.json"
SKIPPED = "skipped.tsv"
PART = 256
"""Tiles that are finished together: what an interrupted run loses at most."""

_UNFINISHED = "unfinished"
_TASK = 16  # tiles, or headers, that a worker is given at once
_PRESENT = 0.01  # of a tile's pixels, for a class to count as being in it

STATES = ("kept", "empty", "broken", "duplicate", "doubtful", "surplus")
"""What became of a tile: kept; no data in it or one colour; its file can't be read; looks like an
earlier one; the model isn't sure; there are many like it (`balanced`)."""
_KEPT, _EMPTY, _BROKEN, _DUPLICATE, _DOUBTFUL, _SURPLUS = range(len(STATES))


@dataclass(frozen=True)
class Recipe:
    """What decides which bytes come out, beside the scenes and the model.

    Attributes:
        tile: Largest side of a tile in pixels.
        min_size: Scenes with a shorter side are left out.
        min_valid: Least share of a tile that must hold data and not be black.
        bands: Red, green and blue, numbered from 1; None takes the first three.
        scale: ``"darkest:brightest"`` of scenes that aren't 8 bits, or a factor; None refuses them.
        image_format: ``"jpg"`` (quality 95, full colour resolution) or ``"png"``.
        duplicate_bits: Bits of 64 in which the perceptual hashes of duplicates differ at most; -1
            keeps duplicates.
        confidence: Confidence, 0 to 1, from which a pixel counts as sure: 0.5 means that its class
            is as likely as all others together.
        min_confident: Least share of a tile's pixels that must be sure.
        balance: Share of tiles up to which a class counts as rare, see `balanced`; 1 keeps all.
        shard_mb: Size of a shard in MB.
        batch_size: Tiles that the model labels at once.

    Raises:
        ConfigError: If a value is out of range.
    """

    tile: int = 512
    min_size: int = 64
    min_valid: float = 0.5
    bands: tuple[int, ...] | None = None
    scale: str | None = None
    image_format: str = "jpg"
    duplicate_bits: int = 4
    confidence: float = 0.5
    min_confident: float = 0.5
    balance: float = 1.0
    shard_mb: float = 256.0
    batch_size: int = 8

    def __post_init__(self) -> None:
        self._require("tile", self.tile >= 32, "32 or more")
        self._require("bands", self.bands is None or len(self.bands) == 3, "three band numbers")
        self._require("image_format", self.image_format in ("jpg", "png"), "jpg or png")
        bits = f"-1 (keep all) to {MAX_RADIUS}"
        self._require("duplicate_bits", -1 <= self.duplicate_bits <= MAX_RADIUS, bits)
        for name in ("min_valid", "confidence", "min_confident"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._require("balance", 0 < self.balance <= 1, "above 0, up to 1")
        self._require("shard_mb", self.shard_mb > 0, "above 0")
        self._require("batch_size", self.batch_size >= 1, "1 or more")
        _ = self.cutting  # the scale can be read

    def _require(self, name: str, claim: bool, allowed: str) -> None:
        if not claim:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} {getattr(self, name)} must be {allowed}")

    @property
    def cutting(self) -> Cutting:
        """What the workers need to know."""
        scale = None
        if self.scale is not None:
            radiometry = Radiometry.rgb8().with_scale(self.scale)
            scale = radiometry.scale, radiometry.offset
        return Cutting(
            self.tile, self.min_size, self.min_valid, self.bands, scale, self.image_format
        )


@dataclass(frozen=True)
class Prepared:
    """What a run of `prepare` made.

    Attributes:
        out: The folder.
        samples: How many were written.
        shards: To how many shards.
        manifest: What ``manifest.json`` says.
        resumed: Tiles that an earlier run had finished.
    """

    out: Path
    samples: int
    shards: int
    manifest: Mapping[str, Any]
    resumed: int


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    model: Predictor,
    recipe: Recipe | None = None,
    *,
    classes: Sequence[str] | None = None,
    workers: int | None = None,
    max_broken: float = 0.01,
    part: int = PART,
    progress: bool = False,
) -> Prepared:
    """Make shards with pseudo-labels of an archive of unlabelled scenes.

    Writes to ``out``: ``rs4p-*.tar``, ``index.npy``, ``manifest.json``, ``skipped.tsv`` with every
    tile that was left out and why, and ``report.html``. Killed at any moment and run again, it
    goes on where it stopped and ends with the same bytes, on the same machine. Until it ends, the
    disk holds the samples twice.

    Args:
        sources: Folders, ``.tar`` shards, ``.txt`` lists of scenes, or images.
        out: Folder to write to: empty, or begun by the same command.
        model: Any segmentation model for 8-bit RGB; it runs where it is.
        recipe: How.
        classes: Vocabulary, for models that take one.
        workers: Processes that read and encode; 0 does it in this one, None takes one a core, at
            most 16.
        max_broken: Share of the scenes that may be unreadable.
        part: See `PART`.
        progress: Show bars.

    Raises:
        ConfigError: If an option is out of range, or the model isn't one for segmentation of RGB.
        DataError: If a source is missing, too many scenes are broken, no tile is left, or ``out``
            holds something else, or lies in a source.
    """
    recipe = recipe or Recipe()
    task = _checked_task(model, classes)
    folder, roots = resolve_root(out), [resolve_root(source) for source in sources]
    for root in roots:
        if folder.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{folder} lies in the source {root}; write the shards elsewhere")
    scenes = find_scenes(roots)
    request = {
        "recipe": asdict(recipe),
        "part": part,
        "classes": list(task.classes),
        "model": {"title": _title(model), "sha256": model_hash(model.model)},
        "scenes": _scenes_hash(scenes),
        "versions": {name: version(name) for name in ("swath-pretrain", "swath-core", "torch")},
    }
    finished = _begin(folder, request)
    if finished is not None:
        return Prepared(folder, finished["samples"], len(finished["shards"]), finished, 0)
    workers = min(16, os.cpu_count() or 1) if workers is None else workers
    with worker_pool(workers) as pool:
        archive = _Archive(folder / _UNFINISHED, scenes, recipe, max_broken, part)
        archive.measure(pool, workers, progress)
        resumed = archive.label(pool, workers, model, task, progress)
        archive.check_broken()
        return _pack(folder, archive, request, model, task, progress, resumed)


def balanced(
    keys: NDArray[Any], counts: NDArray[np.integer[Any]], balance: float
) -> NDArray[np.bool_]:
    """Thin out tiles that show common classes only.

    A class is in a tile if it covers a hundredth of it, and f is the share of tiles that a class is
    in. A tile is kept with the probability ``max over its classes of min(1, sqrt(balance / f))``:
    always if one of its classes is in no more than ``balance`` of the tiles, and the more rarely
    the more common even its rarest class is. The chance is drawn from the tile's key, so that the
    outcome depends on the set of tiles and on nothing else.

    Args:
        keys: ``(N,)`` bytes.
        counts: Pixels of each class, ``(N, K)``.
        balance: Above 0; 1 keeps every tile.

    Returns:
        Which to keep, ``(N,)``.

    Source:
        The repeat factor of Gupta, Dollar, Girshick, "LVIS" (2019), appendix B, used to leave out
        instead of to repeat.
    """
    present = counts >= _PRESENT * np.maximum(counts.sum(axis=1, keepdims=True), 1)
    frequency = np.maximum(present.mean(axis=0), 1e-12)
    factor = np.minimum(1.0, np.sqrt(balance / frequency))
    chance = np.where(present, factor, 0.0).max(axis=1)
    digests = [hashlib.blake2b(key, digest_size=8).digest() for key in keys.tolist()]
    drawn = np.frombuffer(b"".join(digests), "<u8") / 2.0**64
    return np.asarray(drawn < chance)


def _title(model: Predictor) -> str:
    return str(model.card.get("title") or model.card.get("name") or type(model.model).__name__)


def model_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights and buffers with their names, lower-case hex."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Archive:
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
        self.state = np.zeros(len(self.plan), np.uint8)
        self.original = np.full(len(self.plan), -1, np.int64)
        self.sure = np.full(len(self.plan), np.nan, np.float32)
        self.levels = np.zeros(256, np.int64)
        self.samples: list[Index] = []

    def label(
        self, pool: Executor, workers: int, model: Predictor, task: Task, progress: bool
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
                work = _Part(self, number, start, stop, duplicates)
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
            if part["state"][place] in (_KEPT, _DOUBTFUL):
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


class _Part:
    """A part of the tiles on its way from the files to a piece of shard."""

    def __init__(
        self, archive: _Archive, number: int, start: int, stop: int, duplicates: DuplicateIndex
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
        task: Task,
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
                self.state[place] = _EMPTY if tile.reason is None else _BROKEN
                if tile.reason is not None:
                    self.reasons[place] = tile.reason
                continue
            self.hash[place] = tile.hash
            if self.recipe.duplicate_bits >= 0:
                original = self.duplicates.find(tile.hash)
                if original is not None:
                    self.state[place], self.original[place] = _DUPLICATE, original
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
                self.state[item.number - self.start] = _DOUBTFUL
                continue
            yield item


def _labelled(
    tiles: Iterable[tuple[int, Tile]], model: Predictor, task: Task, batch_size: int
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
    batch: Sequence[tuple[int, Tile]], model: Predictor, task: Task
) -> Iterator[Labelled]:
    samples = [Sample(torch.from_numpy(tile.pixels), valid=_as_mask(tile)) for _, tile in batch]
    with torch.inference_mode():
        collated = to_device(task.collate(samples), model.device)
        logits: list[Tensor] = task.predict(model.model, collated)
        best = [scores.float().softmax(0).max(0) for scores in logits]
        masks = [found.indices.to(torch.uint8).cpu().numpy() for found in best]
        sure = [(found.values * 255).round().to(torch.uint8).cpu().numpy() for found in best]
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


def _pack(
    folder: Path,
    archive: _Archive,
    request: Mapping[str, Any],
    model: Predictor,
    task: Task,
    progress: bool,
    resumed: int,
) -> Prepared:
    """Choose among the samples of all parts, shuffle them, and write what is handed out."""
    part_of = np.repeat(np.arange(len(archive.samples)), [len(s) for s in archive.samples])
    samples: Index = np.concatenate(archive.samples) if archive.samples else np.empty(0)
    if not len(samples):
        shutil.rmtree(archive.folder)  # so that the same folder can be used with other options
        raise DataError(
            f"none of {len(archive.plan)} tiles is left ({_counted(archive.state)}); lower "
            "--min-confident, --confidence or --min-valid"
        )
    before = samples["counts"]
    kept = balanced(samples["key"], before, archive.recipe.balance)
    if not kept.any():
        shutil.rmtree(archive.folder)
        raise DataError(f"--balance {archive.recipe.balance:g} leaves none of {len(kept)} tiles")
    archive.state[samples["tile"][~kept]] = _SURPLUS
    order = np.flatnonzero(kept)[np.argsort(samples["key"][kept])]
    samples, part_of = samples[order], part_of[order]
    index = _index(samples, archive.recipe.shard_mb)
    names = [f"rs4p-{number:06}.tar" for number in range(int(index["shard"][-1]) + 1)]
    with Bar("writing shards", len(names), "shards", enabled=progress) as bar:
        for number, name in enumerate(names):
            rows = np.flatnonzero(index["shard"] == number)
            if not (folder / name).is_file():
                write_shard(folder / name, _pieces(archive, samples[rows], part_of[rows]))
            bar.advance()
    with atomic_path(folder / INDEX) as temporary:
        np.save(temporary, index)
    _write_skipped(folder / SKIPPED, archive)
    manifest = _manifest(archive, request, model, task, names, before, samples["counts"])
    from swath.pretrain.rs4p.report import write_report

    write_report(folder, manifest)
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(_as_text(manifest), encoding="utf-8")
    shutil.rmtree(archive.folder)
    return Prepared(folder, len(index), len(names), manifest, resumed)


def _index(samples: Index, shard_mb: float) -> Index:
    """Where each sample will lie, known before the first is copied."""
    index = np.zeros(len(samples), index_dtype())
    index["key"], index["whole"] = samples["key"], samples["whole"]
    shard, offset = 0, 0
    for row, size in enumerate(samples["size"].tolist()):
        if offset and offset + size > shard_mb * 1e6:
            shard, offset = shard + 1, 0
        index["shard"][row] = shard
        for part, (inside, length) in zip(PARTS, samples["spans"][row].tolist(), strict=True):
            index[f"{part}_at"][row], index[f"{part}_size"][row] = offset + inside, length
        offset += size
    return index


def _pieces(archive: _Archive, samples: Index, part_of: NDArray[Any]) -> Iterator[bytes]:
    for sample, part in zip(samples, part_of.tolist(), strict=True):
        yield read_at(archive.files(part)[0], int(sample["at"]), int(sample["size"]))


def _write_skipped(path: Path, archive: _Archive) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as sink:
        sink.write("tile\treason\tdetail\n")
        sink.writelines(f"{n}\tbroken\t{r}\n" for n, r in sorted(archive.broken.items()))
        for number in np.flatnonzero((archive.state != _KEPT) & (archive.state != _BROKEN)):
            original = int(archive.original[number])
            like = archive.plan[original].name if original >= 0 else ""
            state = STATES[archive.state[number]]
            sink.write(f"{archive.plan[int(number)].name}\t{state}\t{like}\n")


def _manifest(
    archive: _Archive,
    request: Mapping[str, Any],
    model: Predictor,
    task: Task,
    shards: Sequence[str],
    before: NDArray[Any],
    counts: NDArray[Any],
) -> dict[str, Any]:
    present = counts >= _PRESENT * counts.sum(axis=1, keepdims=True)
    states = np.bincount(archive.state, minlength=len(STATES)).tolist()
    palette = getattr(task, "palette", None)
    return {
        "format": 1,
        "request": dict(request),
        "samples": len(counts),
        "shards": list(shards),
        "classes": list(task.classes),
        "palette": [list(colour) for colour in palette] if palette else None,
        "ignore_index": IGNORED,
        "scenes": {
            "found": len(archive.scenes),
            "too small": archive.plan.too_small,
            "broken": len(archive.broken),
        },
        "tiles": dict(zip(STATES, states, strict=True)),
        "pixels": counts.sum(axis=0).tolist(),
        "pixels_before_balance": before.sum(axis=0).tolist(),
        "tiles_with_class": present.sum(axis=0).tolist(),
        "pixels_by_confidence": archive.levels.tolist(),
        "tiles_by_percent_sure": _percent(archive.sure).tolist(),
        "broken": [{"scene": n, "reason": r} for n, r in sorted(archive.broken.items())],
    }


def _percent(sure: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many tiles are sure of 0, 1, ..., 100 % of their pixels, rounded down."""
    known = sure[~np.isnan(sure)]
    return np.bincount((100 * known + 1e-4).astype(np.int64), minlength=101)


def _counted(state: NDArray[np.uint8]) -> str:
    found = zip(STATES, np.bincount(state, minlength=len(STATES)).tolist(), strict=True)
    return ", ".join(f"{count} {name}" for name, count in found if count) or "there are none"


def _checked_task(model: Predictor, classes: Sequence[str] | None) -> Task:
    task = model.adapted_task(classes=classes)
    name = _title(model)
    if task.kind != "segmentation":
        raise ConfigError(f"{name} is for {task.kind}; pseudo-labels need a segmentation model")
    if len(task.classes) > IGNORED:
        raise ConfigError(f"{name} knows {len(task.classes)} classes; masks hold {IGNORED} at most")
    radiometry = getattr(task, "radiometry", None)
    if radiometry is not None:
        radiometry.check("uint8", 3, where=f"{name} can't label 8-bit RGB tiles")
    return task


def _scenes_hash(scenes: Sequence[Scene]) -> str:
    digest = hashlib.sha256()
    for scene in scenes:
        digest.update(f"{scene.name}\t{scene.size}\n".encode())
    return digest.hexdigest()


def _begin(folder: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest if all is done; else make sure that the folder is ours to write to."""
    manifest, unfinished = folder / MANIFEST, folder / _UNFINISHED
    begun = unfinished / "request.json"
    if manifest.is_file():
        stored: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        _check_same(folder, stored["request"], request)
        shutil.rmtree(unfinished, ignore_errors=True)
        return stored
    if any(unfinished.glob("part-*.npz")):
        _check_same(folder, json.loads(begun.read_text(encoding="utf-8")), request)
    elif begun.is_file() and begun.read_text(encoding="utf-8") != _as_text(request):
        shutil.rmtree(unfinished)  # nothing of worth is there: begin anew
    elif folder.is_dir() and any(path != unfinished for path in folder.iterdir()):
        raise DataError(f"{folder} isn't empty; choose an empty folder")
    for leftover in (*folder.glob(".*.part*"), *unfinished.glob(".*.part*")):
        leftover.unlink()  # what was being written when the process was killed
    with atomic_path(begun) as temporary:
        temporary.write_text(_as_text(request), encoding="utf-8")
    return None


def _as_text(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=1) + "\n"


def _check_same(folder: Path, earlier: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    old, new = _flat(earlier), _flat(json.loads(json.dumps(request)))
    changed = sorted(name for name in old | new if old.get(name) != new.get(name))
    if changed:
        raise DataError(
            f"{folder} was prepared with other {', '.join(changed)}; choose an empty folder, or "
            "delete this one"
        )


def _flat(request: Mapping[str, Any]) -> dict[str, Any]:
    """Each option by itself, so that a message can name it."""
    return {**request, **request["recipe"], "recipe": None}


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
