import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from swath.core.checkpoint import store
from swath.core.config import TrainConfig
from swath.core.engine import checkpointing, train
from swath.core.engine.checkpointing import (
    RunFolder,
    preserved_random_state,
    random_state,
    restore_random_state,
)
from swath.core.errors import CheckpointError, ConfigError, DataError, TrainingError

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

    monkeypatch.setattr(store, "save_file", full)
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


@pytest.mark.parametrize("noted", [True, False])
def test_a_training_set_that_has_lost_a_file_is_not_gone_on_with(
    toy: Toy, tmp_path: Path, squares: Any, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    content = checkpointing.trainer_content

    def older(state: checkpointing.TrainerState) -> Any:
        tensors, numbers = content(state)
        return tensors, {k: v for k, v in numbers.items() if k != "samples"}

    if not noted:
        monkeypatch.setattr(checkpointing, "trainer_content", older)
    train(toy(), tmp_path, until=6, progress=False)
    monkeypatch.setattr(squares, "__len__", lambda self: self.count - 1)
    if noted:
        message = r"step_00000006.trainer.safetensors: the training set had 12 samples and has 11 n"
        with pytest.raises(DataError, match=message):
            train(toy(), tmp_path, resume=True, progress=False)
        monkeypatch.undo()
    assert train(toy(), tmp_path, resume=True, progress=False).step == 12


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit", [100, 500, 20_000, 60_000])
def test_wherever_writing_fails_the_error_says_so_and_nothing_is_lost(
    toy: Toy, tmp_path: Path, limit: int
) -> None:
    import resource

    config = toy(iterations=8, checkpoint_every=4, log_every=1, val=None)
    train(config, tmp_path / "whole", progress=False)
    run = tmp_path / "run"
    train(config, run, until=4, progress=False)
    sizes = [file.stat().st_size for file in run.rglob("*.*")]
    before = {file: file.read_bytes() for file in run.rglob("*.safetensors")}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # as a full disk does, midway
    try:
        with pytest.raises(TrainingError, match=r"can't be written to .* step 4 is kept; make roo"):
            train(config, run, resume=True, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert limit < max(sizes)
    assert {file: file.read_bytes() for file in before} == before
    assert not list(run.rglob("*.part*"))
    assert train(config, run, resume=True, progress=False).step == 8
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "run"))
    assert all(one[name].equal(other[name]) for name in one)


def test_a_folder_that_nobody_may_write_to_is_refused(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for place, reason in (("file", "File exists"), ("file/below", "Not a directory")):
        with pytest.raises(ConfigError, match=f"{place}: can't be written to .{reason}.; choo"):
            train(toy(), tmp_path / place, progress=False)

    def forbidden(*_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied")  # which root doesn't get by chmod

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(ConfigError, match=r"run: can't be written to \(Permission denied\)"):
        train(toy(), tmp_path / "run", progress=False)


def test_what_a_killed_run_left_half_written_is_removed(toy: Toy, tmp_path: Path) -> None:
    mine = tmp_path / ".notes.part.txt"
    half = [tmp_path / ".best.0123abcd.part.safetensors"]
    half.append(tmp_path / "checkpoints" / ".step_00000002.trainer.89abcdef.part.safetensors")
    half[1].parent.mkdir()
    for file in (mine, *half):
        file.write_bytes(b"half")
    train(toy(iterations=2, val=None), tmp_path, progress=False)
    assert mine.exists()
    assert not any(file.exists() for file in half)


def test_a_flipped_byte_in_a_trainer_state_is_noticed(toy: Toy, tmp_path: Path) -> None:
    config = toy(iterations=8, checkpoint_every=4, val=None)
    train(config, tmp_path, until=4, progress=False)
    trainer = RunFolder(tmp_path).trainer(4)
    content = bytearray(trainer.read_bytes())
    content[-5] ^= 1  # of a moment
    trainer.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"nothing to resume from: .* doesn't match its hash"):
        train(config, tmp_path, resume=True, progress=False)
