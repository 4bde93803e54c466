"""Whole runs: they learn from every data set, resume exactly, and share work among processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swath.core.config import TrainConfig
from swath.core.engine import train
from swath.core.spec import Spec
from swath.mtl.strategies import (
    Random,
    RepeatedSequence,
    RoundRobin,
    SizeProportional,
    WeightedRandom,
)

STRATEGIES = {
    "round robin": Spec(RoundRobin, start="det/things"),
    "sequence": Spec(RepeatedSequence, sequence=[1, 2, 2, 0, 0, 0]),
    "random": Spec(Random),
    "weighted": Spec(WeightedRandom, p={"cls/kinds": 1, "seg/cover": 3}),
    "by size": Spec(SizeProportional),
}


def losses_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "val" not in line]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_resumed_amid_any_strategy_ends_where_it_would_have(
    tiny: TrainConfig, tmp_path: Path, strategy: str
) -> None:
    train_set = tiny.train
    train_set["strategy"] = STRATEGIES[strategy]
    config = replace(tiny, val=None, train=train_set)
    train(config, tmp_path / "whole", progress=False)
    train(config, tmp_path / "parts", until=3, progress=False)
    train(config, tmp_path / "parts", resume=True, progress=False)
    whole, parts = (load_file(tmp_path / run / "last.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    keys = [[k for k in line if "/" in k] for line in losses_of(tmp_path / "whole")]
    assert keys == [[k for k in line if "/" in k] for line in losses_of(tmp_path / "parts")]


def test_every_data_set_is_logged_validated_and_scored(tiny: TrainConfig, tmp_path: Path) -> None:
    summary = train(tiny, tmp_path, progress=False)
    logged = {name for line in losses_of(tmp_path) for name in line}
    expected = {"cls/kinds/ce", "det/things/dn_loss_iou", "det/things/d0.loss_cls", "seg/cover/ce"}
    assert expected <= logged
    figures = json.loads((tmp_path / "validation.json").read_text())
    scores = [figures[n] for n in ("cls/kinds/top1", "det/things/mAP", "seg/cover/mF1")]
    assert summary.score == "score"
    assert figures["score"] == pytest.approx(sum(scores) / 3)


@pytest.mark.parametrize(("turn", "sets"), [(None, 1), (1, 2)])
def test_a_step_that_accumulates_is_of_one_data_set_unless_turns_are_shorter(
    tiny: TrainConfig, tmp_path: Path, turn: int | None, sets: int
) -> None:
    train_set = tiny.train
    train_set["turn"] = turn
    config = replace(tiny, train=train_set, val=None, accumulate=2, iterations=2)
    train(config, tmp_path, progress=False)
    for line in losses_of(tmp_path):
        assert len({name.rpartition("/")[0] for name in line if "/" in name}) == sets


def test_some_tasks_alone_may_be_validated(tiny: TrainConfig, tmp_path: Path) -> None:
    val = tiny.val
    assert val is not None
    val["only"] = ["cls", "seg/cover"]
    train(replace(tiny, val=val, iterations=2), tmp_path, progress=False)
    figures = json.loads((tmp_path / "validation.json").read_text())
    assert "cls/kinds/top1" in figures
    assert not any(name.startswith("det/") for name in figures)


def test_idle_heads_move_only_where_they_are_asked_to(tiny: TrainConfig, tmp_path: Path) -> None:
    weights = {}
    for idle in ("zero", "none"):
        optimizer = tiny.optimizer
        optimizer["idle"] = idle
        config = replace(tiny, val=None, optimizer=optimizer, checkpoint_every=1, keep_last=9)
        run = tmp_path / idle
        train(replace(config, iterations=3), run, progress=False)
        weights[idle] = [
            load_file(run / f"checkpoints/step_{step:08d}.safetensors")["heads.cls.fc.weight"]
            for step in (1, 2, 3)
        ]
    first, second, third = weights["none"]  # classification has the first step
    assert torch.equal(first, second)
    assert torch.equal(second, third)
    first, second, third = weights["zero"]
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


RUN = """
import sys
from pathlib import Path

sys.path.insert(0, {folder!r})
import conftest
from swath.core.config import TrainConfig

globals().update(
    model=conftest.model_spec(),
    task=conftest.task_spec(),
    train=conftest.data_spec(0),
    optimizer=conftest.Spec(conftest.CoTrainingAdamW, lr=1e-4),
    iterations=3,
    batch_size=2,
    num_workers=0,
    checkpoint_every=3,
    accumulate={accumulate},
    find_unused_parameters=True,
)
"""


@pytest.mark.slow
def test_two_processes_do_what_one_does_that_accumulates(tmp_path: Path) -> None:
    """Augmentation apart (mixup draws from each process's own generator): nothing is mixed."""
    states = {}
    for name, processes, accumulate in (("two", 2, 1), ("one", 1, 2)):
        recipe = tmp_path / f"{name}.py"
        text = RUN.format(folder=str(Path(__file__).parent), accumulate=accumulate)
        recipe.write_text(text)
        command = [str(Path(sys.executable).with_name("swath")), "train", str(recipe)]
        command += ["--run-dir", str(tmp_path / name)]
        command += [
            "--set",
            "task.parts.cls/kinds.mixup=0",
            "--set",
            "task.parts.cls/kinds.cutmix=0",
        ]
        command += ["--set", "model.heads.det.dn_queries=0"]
        if processes > 1:
            command = [
                sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python",
                "--nproc-per-node", str(processes), *command,
            ]  # fmt: skip
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=280,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        states[name] = load_file(tmp_path / name / "last.safetensors")
    worst = max(float((states["one"][k] - v).abs().max()) for k, v in states["two"].items())
    print(f"largest difference of a weight: {worst:.1e}")
    assert worst < 2e-6
