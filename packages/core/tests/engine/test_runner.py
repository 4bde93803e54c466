import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from swath.core.config import TrainConfig
from swath.core.engine import train
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.core.task import Batch

SEEN: list[float] = []
AVERAGED: list[bool] = []


class Watching(SegmentationTask):
    """Remembers how far it was told the run is."""

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        SEEN.append(batch["progress"])
        AVERAGED.append("averaged" in batch)
        return super().losses(model, batch)


def test_every_batch_knows_the_share_of_the_run_that_is_done(
    toy: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    SEEN.clear()
    task = Spec(Watching, classes=["ground", "square"])
    config = toy(task=task, iterations=5, accumulate=2, val=None)
    train(config, tmp_path, until=2, progress=False)
    train(config, tmp_path, resume=True, progress=False)
    assert SEEN == [0.0, 0.0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_every_batch_brings_the_averaged_model_if_the_run_averages(
    toy: Callable[..., TrainConfig], tmp_path: Path, ema: float | None
) -> None:
    AVERAGED.clear()
    task = Spec(Watching, classes=["ground", "square"])
    train(toy(task=task, iterations=2, val=None, ema=ema), tmp_path, progress=False)
    assert [ema is not None] * 2 == AVERAGED


class Alternating(SegmentationTask):
    """Every other batch is of another data set, with terms of its own."""

    count = 0

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (loss,) = super().losses(model, batch).values()
        self.count += 1
        name = "odd" if self.count % 2 else "even"
        return {f"{name}/loss": loss, f"{name}/number": torch.tensor(float(self.count))}


def test_a_term_of_some_of_the_batches_of_a_step_is_logged_as_their_mean(
    toy: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    task = Spec(Alternating, classes=["ground", "square"])
    train(
        toy(task=task, iterations=1, accumulate=3, log_every=1, val=None), tmp_path, progress=False
    )
    (line,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert line["odd/number"] == 2  # of batches 1 and 3
    assert line["even/number"] == 2  # of batch 2
    mean = (2 * line["odd/loss"] + line["even/loss"]) / 3
    assert line["loss"] == pytest.approx(mean, rel=1e-6)
