"""Judging a model on a data set."""

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swath.core.engine.distributed import World, gather
from swath.core.errors import ConfigError, DataError, differing
from swath.core.precision import Precision, autocast
from swath.core.progress import Bar
from swath.core.task import Metrics, Task, pick_device, to_device


def evaluate(
    model: nn.Module,
    task: Task,
    dataset: Any,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    world: World = World(),  # noqa: B008 - frozen
    progress: bool = True,
    tick: Callable[[int, int], None] | None = None,
) -> Mapping[str, Any]:
    """Run a model over a data set and compute its task's figures.

    Args:
        model: Is put into eval mode for the time being, and moved to ``device``.
        task: Says how to predict and what to measure.
        dataset: Map-style set of samples, each taken once, in order, unaugmented.
        batch_size: Samples in one forward pass; figures don't depend on it.
        num_workers: Processes that load data.
        device: Default: the first GPU, or the CPU.
        precision: ``"fp32"``, or autocast to ``"bf16"`` or ``"fp16"``.
        world: With more than one process each judges its share; all get the figures of the whole.
        progress: Shows a bar.
        tick: Called after each batch with the samples done and in all.

    Returns:
        What the task's `Metrics.compute` gives.

    Raises:
        DataError: If the set is empty, or a sample of it can't be read.
    """
    from swath.core.data.loader import make_loader

    if len(dataset) == 0:
        raise DataError("the data set to evaluate on is empty; check its folder and split")
    if len(dataset) < world.size:  # no share for some: each judges all of it
        world = World()
    device = pick_device(device)
    was_training = model.training
    model.to(device).eval()
    metrics = task.metrics()
    loader = make_loader(
        dataset,
        task,
        batch_size=batch_size,
        num_workers=num_workers,
        shuffle=False,
        drop_last=False,
        rank=world.rank,
        world_size=world.size,
    )
    done = 0
    try:
        with torch.no_grad(), Bar("evaluating", len(dataset), "img", enabled=progress) as bar:
            for batch in loader:
                moved = to_device(batch, device)
                with autocast(device, precision):
                    predictions = task.predict(model, moved)
                metrics.update(predictions, moved)
                done += len(predictions) * world.size
                bar.advance(len(predictions) * world.size)
                if tick:
                    tick(min(done, len(dataset)), len(dataset))
            for _ in range(_rounds(len(dataset), world, batch_size) - len(loader)):
                task.predict(model, moved)  # shards of weights are gathered by all or by none
    finally:
        model.train(was_training)
    total: Metrics = functools.reduce(operator.add, gather(metrics, world))
    return total.compute()


MEAN = "mean"
"""Row of `evaluate_on` with the means over the data sets."""


def evaluate_on(
    model: nn.Module,
    task: Any,
    names: Sequence[str],
    root: str | Path,
    *,
    split: str = "all",
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Judge a model on several data sets of the catalogue, each by its own classes.

    Args:
        model: See `evaluate`.
        task: One whose classes are words has ``with_protocol(protocol)``, which gives the same task
            for another set's classes; any other must have the classes of every set. One that knows
            sets by shorter names, or several by one, has ``data_sets(names)``.
        names: Of the sets; see `swath.core.data.catalogue`.
        root: Folder that holds the sets' own folders.
        split: Of each set.
        **options: Of `evaluate`.

    Returns:
        For each set what `evaluate` gives and ``"images"``; and a row `MEAN` of the figures that
        all have.

    Raises:
        DataError: If a set is unknown, for another kind of task, or isn't there.
        ConfigError: If a set has other classes than a task whose classes are fixed.
    """
    judged = []
    for name in task.data_sets(names) if hasattr(task, "data_sets") else names:
        data = _found(name, task.kind, Path(root), split)
        if hasattr(task, "with_protocol"):
            judged.append((name, data, task.with_protocol(data.protocol)))
        elif tuple(data.classes) == tuple(task.classes):
            judged.append((name, data, task))
        else:
            raise ConfigError(
                f"{name} has other classes than the model, which knows no others: "
                f"{differing(data.classes, task.classes)}; leave it out"
            )
    table = {
        name: {**evaluate(model, adapted, data, **options), "images": len(data)}
        for name, data, adapted in judged
    }
    rows = list(table.values())
    shared = [k for k in rows[0] if all(isinstance(row.get(k), float) for row in rows)]
    table[MEAN] = {k: sum(row[k] for row in rows) / len(rows) for k in shared}
    return table


def _found(name: str, kind: str, root: Path, split: str) -> Any:
    """A data set, in its own folder under the root or there itself."""
    from swath.core.data.catalogue import dataset_spec, load_dataset

    folder = root / dataset_spec(name, task=kind).folder
    return load_dataset(name, folder if folder.is_dir() else root, split)


def _rounds(length: int, world: World, batch_size: int) -> int:
    """Batches of the process that has most of them, the first."""
    return math.ceil(math.ceil(length / world.size) / batch_size)


def as_data(figures: Any) -> Any:
    """Figures as JSON data: arrays and tensors as lists, NaN as null."""
    if isinstance(figures, Mapping):
        return {str(k): as_data(v) for k, v in figures.items()}
    if isinstance(figures, list | tuple):
        return [as_data(v) for v in figures]
    if hasattr(figures, "tolist"):
        return as_data(figures.tolist())
    return None if isinstance(figures, float) and math.isnan(figures) else figures
