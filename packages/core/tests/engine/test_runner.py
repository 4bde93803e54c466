from collections.abc import Callable
from pathlib import Path

import pytest
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
