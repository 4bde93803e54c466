"""A run that is killed at any moment ends where it would have ended: SIGKILL, which asks nobody."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from swath.core.checkpoint.store import verify
from swath.core.config import TrainConfig
from swath.core.engine import train
from swath.core.engine.checkpointing import RunFolder
from swath.core.errors import ConfigError

Toy = Callable[..., TrainConfig]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


def life(config: TrainConfig, run: Path, before: Callable[[], None] | None = None) -> BaseProcess:
    """A process that trains in a run's folder, resuming if it can; ``before`` runs in it first."""

    def live() -> None:
        if before is not None:
            before()
        train(config, run, resume=True, progress=False)

    process: BaseProcess = multiprocessing.get_context("fork").Process(target=live)
    process.start()
    return process


def dies_at_rename(number: int, after: bool) -> Callable[[], None]:
    """Kills its process before or after the so-manieth file gets its final name."""

    def prepare() -> None:
        replace, renamed = os.replace, 0

        def deadly(source: Any, target: Any) -> None:
            nonlocal renamed
            renamed += 1
            if after and renamed <= number:
                replace(source, target)
            if renamed == number:
                os.kill(os.getpid(), signal.SIGKILL)
            if not after:
                replace(source, target)

        os.replace = deadly  # type: ignore[assignment]

    return prepare


def assert_whole(run: Path) -> None:
    """Every file that has its final name is complete."""
    for file in run.rglob("*.safetensors"):
        if not file.name.startswith("."):
            verify(file)


def assert_ends_like(whole: Path, run: Path) -> None:
    files = {file.relative_to(whole) for file in whole.rglob("*.safetensors")}
    assert {file.relative_to(run) for file in run.rglob("*.safetensors")} == files
    for file in files:
        one, other = load_file(whole / file), load_file(run / file)
        assert one.keys() == other.keys()
        assert [name for name in one if not one[name].equal(other[name])] == []
    assert not list(run.rglob("*.part*"))


@pytest.fixture
def config(toy: Toy) -> TrainConfig:
    return toy(iterations=8, val_every=4, checkpoint_every=2, log_every=1, ema=0.9)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_file_of_a_checkpoint_a_run_ends_as_if_it_had_not_been(
    config: TrainConfig, tmp_path: Path, after: bool
) -> None:
    train(config, tmp_path / "whole", progress=False)
    run = tmp_path / "run"
    # config, log, and then a checkpoint's weights, trainer state and last; from the second life
    # on a step or two are made again before that
    for number in range(1, 8):
        process = life(config, run, dies_at_rename(number, after))
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert_whole(run)
    assert RunFolder(run).steps(), "no checkpoint was ever whole"
    assert train(config, run, resume=True, progress=False).step == 8
    assert_ends_like(tmp_path / "whole", run)


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(
    config: TrainConfig, tmp_path: Path
) -> None:
    config.iterations, config.num_workers = 20, 1
    train(config, tmp_path / "whole", progress=False)
    run, generator = tmp_path / "run", random.Random(0)
    for _ in range(4):
        process = life(config, run)
        process.join(0.5 + generator.random())
        process.kill()
        process.join()
        assert_whole(run)
    train(config, run, resume=True, progress=False)  # at once, though a loader may still be there
    assert_ends_like(tmp_path / "whole", run)


def test_a_folder_in_which_another_process_trains_is_refused_until_that_one_is_gone(
    toy: Toy, tmp_path: Path
) -> None:
    config = toy(iterations=100_000, log_every=1, val=None, num_workers=1)
    process = life(config, tmp_path)
    while process.is_alive() and not (tmp_path / "log.jsonl").exists():
        time.sleep(0.02)
    try:
        for options in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(ConfigError, match=rf"process {process.pid} on \S+ is training her"):
                train(config, tmp_path, progress=False, **options)  # type: ignore[arg-type]
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    config.iterations = 2
    assert train(config, tmp_path, overwrite=True, progress=False).step == 2
