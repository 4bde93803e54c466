"""From the pieces of an `Archive` to shards, their index, the manifest and the report: `pack`."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import DataError
from swath.core.files import atomic_path
from swath.core.progress import Bar
from swath.core.segmentation import SegmentationTask
from swath.pretrain.rs4p.archive import BROKEN, KEPT, STATES, SURPLUS, Archive
from swath.pretrain.rs4p.report import write_report
from swath.pretrain.rs4p.samples import IGNORED
from swath.pretrain.rs4p.shards import INDEX, PARTS, Index, index_dtype, read_at, write_shard

MANIFEST = "manifest.json"
SHARD = "rs4p-{}.tar"
SKIPPED = "skipped.tsv"

_PRESENT = 0.01  # of a tile's pixels, for a class to count as being in it


def pack(
    folder: Path,
    archive: Archive,
    request: Mapping[str, Any],
    task: SegmentationTask,
    progress: bool,
) -> dict[str, Any]:
    """Choose among the samples of all parts, shuffle them, and write what is handed out.

    Args:
        folder: To write to.
        archive: All of whose parts are finished; its folder is removed in the end.
        request: What was asked for.
        task: Of the model.
        progress: Show a bar.

    Returns:
        What ``manifest.json`` says.

    Raises:
        DataError: If no tile is left.
    """
    part_of = np.repeat(np.arange(len(archive.samples)), [len(s) for s in archive.samples])
    samples: Index = np.concatenate(archive.samples)
    if not len(samples):
        shutil.rmtree(archive.folder)  # so that the same folder can be used with other options
        raise DataError(
            f"none of {len(archive.plan)} tiles is left ({_counted(archive.state)}); lower "
            "--min-confident, --confidence or --min-valid"
        )
    before = samples["counts"]
    kept = balanced(samples["key"], before, archive.recipe.balance)
    if not kept.any():
        raise DataError(
            f"--balance {archive.recipe.balance:g} leaves none of {len(kept)} tiles; raise it and "
            "run it again: what is labelled is kept"
        )
    archive.state[samples["tile"][~kept]] = SURPLUS
    order = np.flatnonzero(kept)[np.argsort(samples["key"][kept])]
    samples, part_of = samples[order], part_of[order]
    index = _index(samples, archive.recipe.shard_mb)
    names = [SHARD.format(f"{number:06}") for number in range(int(index["shard"][-1]) + 1)]
    with Bar("writing shards", len(names), "shards", enabled=progress) as bar:
        for number, name in enumerate(names):
            rows = np.flatnonzero(index["shard"] == number)
            if not (folder / name).is_file():
                write_shard(folder / name, _pieces(archive, samples[rows], part_of[rows]))
            bar.advance()
    with atomic_path(folder / INDEX) as temporary:
        np.save(temporary, index)
    _write_skipped(folder / SKIPPED, archive)
    manifest = _manifest(archive, request, task, names, before, samples["counts"])
    write_report(folder, manifest)
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(as_text(manifest), encoding="utf-8")
    shutil.rmtree(archive.folder)
    return manifest


def balanced(
    keys: NDArray[Any], counts: NDArray[np.integer[Any]], balance: float
) -> NDArray[np.bool_]:
    """Thin out tiles that show common classes only.

    A class is in a tile if it covers a hundredth of it, or more of it than any other; f is the
    share of tiles that a class is in. A tile is kept with the probability ``max over its classes of
    min(1, sqrt(balance / f))``: always if one of its classes is in no more than ``balance`` of the
    tiles, and the more rarely the more common even its rarest class is. The chance is drawn from
    the tile's key, so that the outcome depends on the set of tiles and on nothing else.

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
    present = _present(counts)
    frequency = np.maximum(present.mean(axis=0), 1e-12)
    factor = np.minimum(1.0, np.sqrt(balance / frequency))
    chance = np.where(present, factor, 0.0).max(axis=1)
    digests = [hashlib.blake2b(key, digest_size=8).digest() for key in keys.tolist()]
    drawn = np.frombuffer(b"".join(digests), "<u8") / 2.0**64
    return np.asarray(drawn < chance)


def _present(counts: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Which classes are in which tiles, ``(N, K)``: at least one in each."""
    present = counts >= _PRESENT * np.maximum(counts.sum(axis=1, keepdims=True), 1)
    present[np.arange(len(counts)), counts.argmax(axis=1)] = True
    return np.asarray(present)


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


def _pieces(archive: Archive, samples: Index, part_of: NDArray[Any]) -> Iterator[bytes]:
    for sample, part in zip(samples, part_of.tolist(), strict=True):
        yield read_at(archive.files(part)[0], int(sample["at"]), int(sample["size"]))


def _write_skipped(path: Path, archive: Archive) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as sink:
        sink.write("tile\treason\tdetail\n")
        sink.writelines(f"{n}\tbroken\t{r}\n" for n, r in sorted(archive.broken.items()))
        for number in np.flatnonzero((archive.state != KEPT) & (archive.state != BROKEN)):
            original = int(archive.original[number])
            like = archive.plan[original].name if original >= 0 else ""
            state = STATES[archive.state[number]]
            sink.write(f"{archive.plan[int(number)].name}\t{state}\t{like}\n")


def _manifest(
    archive: Archive,
    request: Mapping[str, Any],
    task: SegmentationTask,
    shards: Sequence[str],
    before: NDArray[Any],
    counts: NDArray[Any],
) -> dict[str, Any]:
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
        "tiles_with_class": _present(counts).sum(axis=0).tolist(),
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
    return ", ".join(f"{count} {name}" for name, count in found if count)


def as_text(data: Mapping[str, Any]) -> str:
    """JSON as it is stored."""
    return json.dumps(data, indent=1) + "\n"
