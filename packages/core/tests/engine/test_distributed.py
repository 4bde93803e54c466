"""Runs in two processes, started by torchrun as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swath.core.engine.distributed import World, any_process, gather, launched, mean_over_processes
from swath.core.errors import ConfigError

# a model without batch norm and dropout: whole steps can then be compared to rounding
RECIPE = """
import os
import signal

import torch
from torch import nn
from torchvision import tv_tensors

from swath.core.engine.pieces import adamw_cosine
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec


class Stripes:
    def __init__(self, count=16, dies_at=None):
        self.count, self.dies_at, self.reads = count, dies_at, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads += 1
        first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if self.reads == self.dies_at and os.environ.get("RANK") == "1" and first_life:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 255, (3, 8, 8), generator=generator, dtype=torch.uint8)
        mask = (image.float().mean(0) > 120).to(torch.uint8)
        return Sample(image, {"mask": tv_tensors.Mask(mask)}, meta={"id": str(index)})


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, image):
        x = self.stem(image)
        for block in self.blocks:
            x = x + block(x).relu()
        return self.head(x)


model = Spec(Blocks)
task = Spec(SegmentationTask, classes=["dark", "bright"])
train = Spec(Stripes)
val = Spec(Stripes, count=5)
optimizer = adamw_cosine(lr=1e-2, warmup=2)
iterations = 6
batch_size = 2
num_workers = 0
val_every = 3
checkpoint_every = 3
log_every = 1
ema = 0.9
clip_norm = 1.0
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.py"
    file.write_text(RECIPE)
    return file


TWO = ("--nproc-per-node", "2")


def swath_train(
    recipe: Path, run: str, *overrides: str, torchrun: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """`swath train --resume` in a process of its own, or in several."""
    command = [str(Path(sys.executable).with_name("swath")), "train", str(recipe)]
    command += ["--run-dir", str(recipe.parent / run), "--resume"]
    command += [word for override in overrides for word in ("--set", override)]
    if torchrun:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--no-python", *torchrun]
        command = [sys.executable, *launcher, *command]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


def finished(recipe: Path, run: str, *overrides: str, torchrun: tuple[str, ...] = ()) -> Path:
    """The folder of a run that has come to its end."""
    done = swath_train(recipe, run, *overrides, torchrun=torchrun)
    assert done.returncode == 0, done.stderr[-3000:]
    return recipe.parent / run


def assert_equal_runs(one: Path, other: Path) -> None:
    """Weights within 1e-6, logged losses and validation figures alike."""
    first, second = load_file(one / "last.safetensors"), load_file(other / "last.safetensors")
    assert first.keys() == second.keys()
    worst = max(float((first[k] - second[k]).abs().max()) for k in first)
    print(f"largest difference of a weight: {worst:.1e}")
    assert worst <= 1e-6
    logs = [
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (one, other)
    ]
    assert [entry["step"] for entry in logs[0]] == [entry["step"] for entry in logs[1]]
    for left, right in zip(*logs, strict=True):
        if "val" in left:
            assert left["val"] == pytest.approx(right["val"], abs=1e-6)
        else:
            assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_equal_one_that_accumulates_whichever_shares_what(recipe: Path) -> None:
    one = finished(recipe, "one", "accumulate=4")
    assert_equal_runs(one, finished(recipe, "ddp", "accumulate=2", torchrun=TWO))
    fsdp = finished(recipe, "fsdp", "accumulate=2", "strategy=fsdp", torchrun=TWO)
    assert_equal_runs(one, fsdp)
    # what two processes with shards have begun, one can finish
    for file in (fsdp / "checkpoints").glob("step_00000006*"):
        file.unlink()
    assert_equal_runs(one, finished(recipe, "fsdp", "accumulate=4"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_process_that_dies_costs_at_most_the_steps_since_the_last_checkpoint(
    recipe: Path,
) -> None:
    # rank 1 is killed while it loads its batch for step 5, after the checkpoint of step 3
    dying = finished(recipe, "dying", "train.dies_at=9", torchrun=(*TWO, "--max-restarts", "1"))
    assert_equal_runs(finished(recipe, "whole", "accumulate=2"), dying)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_steps_of_another_number_of_batches_are_not_mixed(recipe: Path) -> None:
    finished(recipe, "run", "iterations=3")
    done = swath_train(recipe, "run", torchrun=TWO)
    assert done.returncode != 0
    assert "its steps are made of 1 batches" in done.stderr


def test_one_process_agrees_with_itself() -> None:
    world = World()
    assert any_process(True, world)
    assert not any_process(False, world)
    assert gather("a", world) == ["a"]
    assert mean_over_processes({"loss": 2.0}, world) == {"loss": 2.0}


def test_half_an_environment_of_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="RANK"):
        launched()


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched() == World()
    assert World().main
    assert not torch.distributed.is_initialized()
