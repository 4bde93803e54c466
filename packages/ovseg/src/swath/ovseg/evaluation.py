"""Judging one model on several data sets, each with its own vocabulary, in one table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swath.core.data.catalogue import dataset_spec
from swath.core.data.segmentation import CatalogueSegmentation
from swath.core.engine.evaluation import evaluate
from swath.core.errors import DataError, suggest
from swath.core.inference.predictor import Predictor
from swath.ovseg.datasets import BENCHMARKS, DATASETS
from swath.ovseg.protocols import PublishedProtocol
from swath.ovseg.task import OpenVocabularyTask

MEAN = "mean"
"""Row of the table with the mean over the data sets."""


def data_sets(names: Sequence[str]) -> list[str]:
    """Data sets by name, short name (``"floodnet"``) or benchmark (``"ovrsisbench"``), each once.

    Raises:
        DataError: If nobody knows a name.
    """
    known = {spec.name: spec.name for spec in DATASETS}
    for name in list(known)[::-1]:  # GSNet's come first, and keep their short names
        known[name.split("-", 1)[-1]] = name
    found: dict[str, None] = {}
    for name in names:
        if name in BENCHMARKS:
            found |= dict.fromkeys(BENCHMARKS[name])
        elif name in known:
            found[known[name]] = None
        else:
            choices = [*BENCHMARKS, *known]
            raise DataError(f"no data set is called '{name}'{suggest(name, choices)}")
    return list(found)


def benchmark(
    predictor: Predictor,
    names: Sequence[str],
    root: str | Path,
    *,
    protocol: PublishedProtocol | None = None,
    split: str = "all",
    batch_size: int = 1,
    num_workers: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Figures of a model on several data sets.

    Args:
        predictor: Of an open-vocabulary model.
        names: See `data_sets`.
        root: Folder that holds the data sets' own folders.
        protocol: A published way of evaluation; None scores images at their own scale.
        split: Of each set.
        batch_size: Images at once.
        num_workers: Processes that load data.
        device: Default: the first GPU, or the CPU.
        progress: Show bars.

    Returns:
        For each data set what `SemSegMetrics.compute` gives and ``"images"``; and a row
        ``"mean"`` of mIoU and mACC.

    Raises:
        DataError: If a data set isn't there.
    """
    table: dict[str, dict[str, Any]] = {}
    for name in data_sets(names):
        spec = dataset_spec(name)
        meaning = spec.protocol()
        data = CatalogueSegmentation(name, Path(root) / spec.folder, split)
        task = OpenVocabularyTask(
            meaning.classes,
            ensemble=getattr(predictor.task, "ensemble", "single"),
            ignore_index=meaning.ignore_index,
            palette=meaning.palette,
            evaluation=protocol,
        )
        figures = evaluate(
            predictor.model,
            task,
            data,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
            progress=progress,
        )
        table[name] = {**figures, "images": len(data)}
    table[MEAN] = {
        figure: sum(row[figure] for row in table.values()) / len(table)
        for figure in ("mIoU", "mACC")
    }
    return table


def rows(table: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """The table as text: data set, images, mIoU and mACC in percent."""
    return [
        (name, str(row.get("images", "")), f"{100 * row['mIoU']:.2f}", f"{100 * row['mACC']:.2f}")
        for name, row in table.items()
    ]
