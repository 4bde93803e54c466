"""How often a trained open-vocabulary model finds the same class in bfloat16, and what costs it.

Run:  python benchmarks/ovseg_bf16.py [--config gsnet_scenes_tiny] [--checkpoint CHECKPOINT]

Without a checkpoint the config is trained first. Scenes of its test set are scored in float32 and
under autocast to bfloat16: of everything, and with parts kept in float32. ``same`` is the share of
pixels whose best class is the same, ``same if clear`` that among pixels whose best class leads by
0.1 of a logit or more in float32.
"""

import argparse
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from common import record
from torch import Tensor

from swath.core import load_model
from swath.core.config import TrainConfig, load_config
from swath.core.engine import train
from swath.core.inference.predictor import Predictor
from swath.core.precision import in_float32

CLEAR = 0.1


CHANGES: dict[str, tuple[str, Callable[..., Any]] | None] = {
    "bfloat16, cost volume and its embedding in float32, as models are": None,
    "cost volume and its embedding in bfloat16 too": ("_embedded", inspect.unwrap),
    "aggregator in float32": ("forward", in_float32),
}
"""A method of the aggregator, and what is done to it."""


@contextmanager
def half(model: Any, change: tuple[str, Callable[..., Any]] | None) -> Iterator[None]:
    """Autocast to bfloat16, with a method of the aggregator changed."""
    with ExitStack() as stack:
        if change is not None:
            name, how = change
            kind = type(model.aggregator)
            stack.enter_context(patch.object(kind, name, how(getattr(kind, name))))
        stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        yield


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="gsnet_scenes_tiny")
    parser.add_argument("--checkpoint", help="of a run of this config")
    parser.add_argument("--count", type=int, default=60)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    predictor = trained(config, arguments.checkpoint)
    assert config.test is not None
    data = config.test.build()
    model, task = predictor.model, predictor.task
    batches = [task.collate([data[i]]) for i in range(min(arguments.count, len(data)))]
    wanted = [task.predict(model, batch)[0] for batch in batches]
    figures = task.metrics()
    for scores, batch in zip(wanted, batches, strict=True):
        figures.update([scores], batch)
    rows = [row("float32", wanted, wanted, figures.compute()["mIoU"])]
    for title, change in CHANGES.items():
        figures = task.metrics()
        found = []
        for batch in batches:
            with half(model, change):
                found += task.predict(model, batch)
            figures.update(found[-1:], batch)
        rows.append(row(title, found, wanted, figures.compute()["mIoU"]))
        print(rows[-1], flush=True)
    record("ovseg_bf16", rows, config=arguments.config, checkpoint=arguments.checkpoint)


def trained(config: TrainConfig, checkpoint: str | None) -> Predictor:
    """The checkpoint's model, or a run's."""
    if checkpoint is not None:
        return load_model(checkpoint, device="cpu")
    with TemporaryDirectory() as folder, torch.enable_grad():
        run = train(config, folder, device="cpu")
        return load_model(run.last_checkpoint, device="cpu")


def row(
    title: str, found: Sequence[Tensor], wanted: Sequence[Tensor], score: float
) -> dict[str, Any]:
    """Figures over all scenes."""
    same, clear, error = [], [], 0.0
    for ours, reference in zip(found, wanted, strict=True):
        first, second = reference.topk(2, 0).values
        equal = ours.argmax(0) == reference.argmax(0)
        same.append(equal.flatten())
        clear.append(equal[first - second >= CLEAR].flatten())
        error = max(error, float((ours - reference).abs().max()))
    return {
        "arithmetic": title,
        "mIoU": score,
        "same": float(torch.cat(same).float().mean()),
        "same if clear": float(torch.cat(clear).float().mean()),
        "share of clear pixels": sum(map(len, clear)) / sum(map(len, same)),
        "largest difference of a logit": error,
    }


if __name__ == "__main__":
    main()
