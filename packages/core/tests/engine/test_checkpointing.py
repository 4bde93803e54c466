import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swath.core.config import TrainConfig
from swath.core.engine import checkpointing, train
from swath.core.engine.checkpointing import (
    RunFolder,
    preserved_random_state,
    random_state,
    restore_random_state,
)
from swath.core.errors import CheckpointError, TrainingError

Toy = Callable[..., TrainConfig]


def draws() -> tuple[float, ...]:
    return (
        torch.rand(1).item(),
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),  # noqa: NPY002
        float(np.random.randn()),  # noqa: NPY002
    )


def test_random_states_come_back_exactly() -> None:
    draws()
    state = random_state()
    expected = [draws(), draws()]
    restore_random_state(*state)
    assert [draws(), draws()] == expected


def test_a_block_can_leave_the_random_states_alone() -> None:
    state = random_state()
    expected = draws()
    restore_random_state(*state)
    with preserved_random_state():
        draws()
    assert draws() == expected


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(toy: Toy, tmp_path: Path) -> None:
    config = toy(iterations=8, checkpoint_every=4, val=None)
    train(config, tmp_path, until=6, progress=False)
    folder = RunFolder(tmp_path)
    assert folder.steps() == [6, 4]
    damaged = folder.weights(6)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    summary = train(config, tmp_path, resume=True, progress=False)
    assert summary.step == 8
    for step in folder.steps():
        folder.trainer(step).write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"nothing to resume from: .*trainer.safetensors"):
        train(config, tmp_path, resume=True, progress=False)


def test_weights_without_a_trainer_state_are_not_a_place_to_resume_from(
    toy: Toy, tmp_path: Path
) -> None:
    config = toy(iterations=8, checkpoint_every=4, val=None)
    train(config, tmp_path, until=6, progress=False)
    folder = RunFolder(tmp_path)
    folder.trainer(6).unlink()  # killed between the two files
    assert folder.steps() == [4]
    assert train(config, tmp_path, resume=True, progress=False).step == 8


def test_a_full_disk_is_reported_and_the_old_checkpoint_kept(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy(iterations=8, checkpoint_every=4, val=None)
    train(config, tmp_path, until=4, progress=False)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointing, "save_file", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*step 4 is kept; make room"):
        train(config, tmp_path, resume=True, progress=False)
    monkeypatch.undo()
    assert RunFolder(tmp_path).steps() == [4]
    assert not list(tmp_path.rglob("*.part*"))
    assert train(config, tmp_path, resume=True, progress=False).step == 8


def test_a_checkpoint_of_another_optimiser_is_refused(toy: Toy, tmp_path: Path) -> None:
    train(toy(), tmp_path, until=6, progress=False)
    other = toy(ema=0.9)
    other.save(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="belongs to another model or optimiser"):
        train(other, tmp_path, resume=True, progress=False)
