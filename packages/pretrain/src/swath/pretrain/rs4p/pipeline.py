"""From an archive of unlabelled scenes to shards with pseudo-labels: `prepare`.

Scenes are cut into tiles; empty tiles and near-duplicates are left out; a segmentation model labels
the rest; what it isn't sure of (`Archive`), and what there is too much of, is left out too; the
others become shards, an index, a manifest and a report (`pack`).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swath.core.data.readers import resolve_root
from swath.core.errors import ConfigError, DataError, SwathError, WriteError
from swath.core.files import LOCK, atomic_path, locked, remove_leftovers
from swath.core.inference.predictor import Predictor
from swath.core.segmentation import SegmentationTask
from swath.pretrain.rs4p.archive import Archive
from swath.pretrain.rs4p.packing import MANIFEST, SHARD, as_text, pack
from swath.pretrain.rs4p.recipe import Recipe
from swath.pretrain.rs4p.samples import IGNORED
from swath.pretrain.rs4p.sources import Scene, find_scenes
from swath.pretrain.rs4p.workers import worker_pool

PART = 256
"""Tiles that are finished together: what an interrupted run loses at most."""

_UNFINISHED = "unfinished"


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
    sources: str | Path | Sequence[str | Path],
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
    goes on where it stopped and ends with the same bytes, on the same machine; ``balance`` and
    ``shard_mb`` may change until it ends. Until then, the disk holds the samples twice.

    Args:
        sources: Folders, ``.tar`` shards, ``.txt`` lists of scenes, or images; one or several.
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
        ConfigError: If an option is out of range, the model isn't one for segmentation of RGB, or
            another process is preparing in ``out``.
        DataError: If a source is missing, too many scenes are broken, no tile is left, or ``out``
            holds something else, or lies in a source.
        SwathError: If a worker was killed, or the disk is full or fails.
    """
    recipe = recipe or Recipe()
    task = _checked_task(model, classes)
    named = [sources] if isinstance(sources, str | Path) else sources
    folder, roots = resolve_root(out), [resolve_root(source) for source in named]
    for root in roots:
        if folder.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{folder} lies in the source {root}; write the shards elsewhere")
    scenes = find_scenes(roots)
    request = {
        "recipe": asdict(recipe),
        "part": part,
        "classes": list(task.classes),
        "model": {"title": _title(model), "sha256": model_hash(model.model)},
        "precision": model.precision,
        "scenes": _scenes_hash(scenes),
        "versions": {name: version(name) for name in ("swath-pretrain", "swath-core", "torch")},
    }
    workers = min(16, os.cpu_count() or 1) if workers is None else workers
    with locked(folder, "preparing", "--out"), _resumable(folder), worker_pool(workers) as pool:
        finished = _begin(folder, request)
        if finished is not None:
            return _prepared(folder, finished)
        archive = Archive(folder / _UNFINISHED, scenes, recipe, max_broken, part)
        archive.measure(pool, workers, progress)
        resumed = archive.label(pool, workers, model, task, progress)
        archive.check_broken()
        return _prepared(folder, pack(folder, archive, request, task, progress), resumed)


def _prepared(out: Path, manifest: Mapping[str, Any], resumed: int = 0) -> Prepared:
    return Prepared(out, manifest["samples"], len(manifest["shards"]), manifest, resumed)


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say what to do where the disk is full or fails."""
    try:
        yield
    except (OSError, WriteError) as error:
        raise SwathError(
            f"{folder}: the preparation stopped ({error}); make room or mend it, then run the same "
            "command again: it goes on where it stopped"
        ) from error


def model_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights and buffers with their names, lower-case hex."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _title(model: Predictor) -> str:
    return str(model.card.get("title") or model.card.get("name") or type(model.model).__name__)


def _checked_task(model: Predictor, classes: Sequence[str] | None) -> SegmentationTask:
    task = model.adapted_task(classes=classes)
    name = _title(model)
    if not isinstance(task, SegmentationTask):
        raise ConfigError(
            f"{name} is for {task.kind}; pseudo-labels need a model that scores classes pixel by "
            "pixel"
        )
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
        stored = _read(manifest, "request", "samples", "shards")
        _check_same(folder, stored["request"], request)
        shutil.rmtree(unfinished, ignore_errors=True)
        return stored
    if any(unfinished.glob("part-*.npz")):
        _check_same(folder, _labelling(_read(begun, "recipe")), _labelling(request))
        if begun.read_text(encoding="utf-8") != as_text(request):
            for shard in folder.glob(SHARD.format("*")):  # packed in another way
                shard.unlink()
    elif begun.is_file() and begun.read_text(encoding="utf-8") != as_text(request):
        shutil.rmtree(unfinished)  # nothing of worth is there: begin anew
    elif any(path != unfinished and path.name not in LOCK for path in folder.iterdir()):
        raise DataError(f"{folder} isn't empty; choose an empty folder")
    for place in (folder, unfinished):
        remove_leftovers(place)
    with atomic_path(begun) as temporary:
        temporary.write_text(as_text(request), encoding="utf-8")
    return None


def _read(path: Path, *names: str) -> dict[str, Any]:
    """What an earlier run has noted, if it was one of ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not content.keys() >= set(names):
        raise DataError(f"{path} isn't of a preparation, or damaged; choose an empty folder")
    return content


def _check_same(folder: Path, earlier: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    old, new = _flat(earlier), _flat(json.loads(json.dumps(request)))
    changed = sorted(name for name in old | new if old.get(name) != new.get(name))
    if changed:
        raise DataError(
            f"{folder} was prepared with other {', '.join(changed)}; choose an empty folder, or "
            "delete this one"
        )


def _labelling(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the finished parts depend on; tiles are chosen and packed afterwards."""
    recipe = {k: v for k, v in request["recipe"].items() if k not in ("balance", "shard_mb")}
    return {**request, "recipe": recipe}


def _flat(request: Mapping[str, Any]) -> dict[str, Any]:
    """Each option by itself, so that a message can name it."""
    return {**request, **request["recipe"], "recipe": None}
