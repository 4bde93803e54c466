"""The contract between a model, what it is trained for, and everything that runs it.

A model is a plain `nn.Module` that knows tensors only. A `Task` says what it means to train and to
judge a model for one kind of target. The engine trains any ``(model, task)`` pair, the tiler runs
one over any scene; neither knows a paradigm.
"""

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample

Batch = dict[str, Any]
"""What `Task.collate` makes: ``"image"`` float32 ``(B, C, H, W)``, targets, and ``"meta"``.

In training the engine adds ``"progress"``, the share of the run's steps already made, in [0, 1),
and ``"averaged"``, the model with the run's averaged weights, if it averages (``config.ema``).
"""


class Metrics(Protocol):
    """Accumulates over batches; the same whatever the batch size and order."""

    def update(self, predictions: Sequence[Any], batch: Batch) -> None:
        """Add the predictions of one batch (what `Task.predict` returned for it)."""

    def compute(self) -> Mapping[str, Any]:
        """All figures so far: floats by name, and nested tables."""

    def reset(self) -> None:
        """Forget everything."""

    def __add__(self, other: Self, /) -> Self:
        """The accumulator of both's batches, e.g. of two processes'."""


class Task(ABC):
    """What it means to train and judge a model for one kind of target.

    What follows is for some tasks only; core looks whether it is there.

    ==============================  ==============================================================
    ``select(model, name)``         The model and the task of one of several tasks in one.
    ``with_classes(classes, ...)``  The same task for another vocabulary; may take ``background``.
    ``with_text(text)``             The same task for a sentence.
    ``with_protocol(protocol)``     The same task for how a data set's labels are read.
    ``data_sets(names)``            The data sets that short names and benchmarks stand for.
    ``check_data(dataset)``         Refuses, where a run begins, a training set that isn't for it.
    ``predictor``                   ``"module:Class"`` of the `Predictor` that it is asked through.
    ``tile``, ``overlap``           Side and overlap of tiles in pixels where none are chosen.
    ``activation``                  ``"sigmoid"`` for classes that don't exclude each other.
    ``radiometry``                  What numbers an image holds, a `Radiometry`.
    ``gsd_m``                       Ground sampling distance that it was made for, in metres.
    ``palette``                     An RGB colour of each class, 0 to 255.
    ``asked_with``                  What `swath predict` needs, such as ``("--task", "urban")``.
    ``ignore_index``                Label of pixels that neither train nor count; else 255.
    ==============================  ==============================================================

    Attributes:
        kind: ``"segmentation"``, ``"detection"``, ...: which result type comes out.
        classes: Class names in index order.
        score: Name of the figure in `Metrics.compute` by which checkpoints are compared; the higher
            it is, the better.
        dense: Whether a prediction holds a number for each class at each pixel, so that many
            classes ask for smaller tiles.
    """

    kind: str
    classes: tuple[str, ...]
    score: str
    dense = True

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples into a batch on the CPU, with the image scaled for the model."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of one training batch; their sum is minimised.

        Scalars without gradient may be among them: figures that are logged with the losses.
        """

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """One raw prediction per image, on the model's device, without gradients."""

    @abstractmethod
    def merge(self, tiles: Iterable[Any], scene: Any) -> Any:
        """Consume the predictions of a scene's tiles in raster order and return one result.

        Streams: a tile is dropped as soon as it has been used, so that memory doesn't grow with
        the scene. See `swath.core.inference.tiler`.
        """

    @abstractmethod
    def metrics(self) -> Metrics:
        """A fresh accumulator for this task."""

    def report(self, model: nn.Module, metrics: Mapping[str, Any], dataset: Any) -> Sequence[Any]:
        """What a run's report has beside what core draws for every task.

        Args:
            model: The trained model.
            metrics: What `metrics` computed on ``dataset``.
            dataset: The samples it was judged on, map-style.

        Returns:
            `swath.core.viz.page.Section` of each further card.
        """
        return ()


def predict_command(task: Task, checkpoint: str | Path, *rest: str) -> str:
    """The command that asks a model with this task, as it can be typed.

    Args:
        task: What the model was trained for; its ``asked_with`` goes in.
        checkpoint: The model's file.
        *rest: The image, and further options.
    """
    asked_with = getattr(task, "asked_with", ())
    return shlex.join(["swath", "predict", str(checkpoint), *rest, *asked_with])


def labels_of(batch: Mapping[str, Any], name: str) -> Any:
    """What a batch's samples are to be judged by, such as ``"mask"`` or ``"boxes"``.

    Raises:
        DataError: If not all of them have it.
    """
    if name not in batch:
        first: Mapping[str, Any] = (batch.get("meta") or [{}])[0]
        where = first.get("path") or first.get("id") or "a batch"
        raise DataError(
            f"{where}: it, or a sample beside it, comes without {name}; take a split whose labels "
            "are public"
        )
    return batch[name]


def pick_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, or the first GPU, or the CPU.

    Raises:
        ConfigError: If there is no such device here.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked).cpu()  # what "meta" holds can't be had back
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ConfigError(
            f"device '{device}' can't be used here ({reason}); `swath doctor` lists the devices"
        ) from error
    return picked


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Move the tensors of a batch, in dicts and lists too, leaving everything else as it is."""
    return {name: _moved(value, device) for name, value in batch.items()}


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if type(value) is dict:
        return {name: _moved(one, device) for name, one in value.items()}
    if type(value) is list:
        return [_moved(one, device) for one in value]
    return value
