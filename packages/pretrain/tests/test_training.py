"""S4P through the engine: what core promises of any run holds for this one too."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swath.core.config import load_config
from swath.core.engine import train
from swath.core.errors import CheckpointError

# norms that look at one image at a time: whole steps can then be compared to rounding
RECIPE = """
from torch import nn

from swath.core.data.scenes import CLASS_SETS, SceneDataset
from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.pretrain.semi_supervised import SemiSupervised
from swath.pretrain.task import S4PTask
from swath.pretrain.views import S4PViews


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.ReLU(),
            nn.Conv2d(16, 7, 1),
        )


def scenes(count):
    return Spec(SceneDataset, size=32, count=count, seed=1, class_set="landcover")


model = Spec(Net)
task = Spec(S4PTask, classes=list(CLASS_SETS["landcover"].classes), threshold=0.25)
train = Spec(SemiSupervised, labelled=scenes(4), unlabelled=scenes(24))
augment = Spec(S4PViews, size=24)
optimizer = adamw_cosine(lr=1e-2, warmup=2)
iterations = 6
batch_size = 2
num_workers = 0
checkpoint_every = 3
log_every = 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.py"
    file.write_text(RECIPE)
    return file


def log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time_s", "data_s")} for line in lines]


@pytest.mark.parametrize(("workers", "stop_at"), [(0, 5), (2, 3)])
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_bit_for_bit_the_same(
    tmp_path: Path, workers: int, stop_at: int
) -> None:
    config = load_config(
        "s4p_scenes_tiny",
        ["iterations=8", f"num_workers={workers}", "batch_size=3", "log_every=1", "val=None",
         "checkpoint_every=8", "train.unlabelled.count=20", "train.labelled.count=3",
         "augment.size=32", "train.unlabelled.size=32", "train.labelled.size=32",
         "task.threshold=0.3", "model.width=4", "seed=5"],
    )  # fmt: skip
    train(config, tmp_path / "whole", device="cpu", progress=False)
    train(config, tmp_path / "halves", device="cpu", until=stop_at, progress=False)
    train(config, tmp_path / "halves", device="cpu", resume=True, progress=False)
    assert log(tmp_path / "whole") == log(tmp_path / "halves")
    assert any(0 < line.get("confident", 0) < 1 for line in log(tmp_path / "whole"))
    runs = [load_file(tmp_path / run / "last.safetensors") for run in ("whole", "halves")]
    assert [name for name in runs[0] if not torch.equal(runs[0][name], runs[1][name])] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one_that_accumulates(recipe: Path) -> None:
    two = ["-m", "torch.distributed.run", "--standalone", "--no-python", "--nproc-per-node", "2"]
    runs = [recipe.parent / name for name in ("one", "two")]
    for run, launcher, accumulate in ((runs[0], [], 2), (runs[1], [sys.executable, *two], 1)):
        swath = Path(sys.executable).with_name("swath")
        command = [str(swath), "train", str(recipe), "--run-dir", str(run)]
        command += ["--set", f"accumulate={accumulate}"]
        done = subprocess.run(
            [*launcher, *command],
            capture_output=True,
            text=True,
            timeout=280,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, other = (load_file(run / "last.safetensors") for run in runs)
    worst = max(float((one[name] - other[name]).abs().max()) for name in one)
    print(f"largest difference of a weight after 6 steps: {worst:.1e}")
    assert worst <= 1e-6
    for left, right in zip(log(runs[0]), log(runs[1]), strict=True):
        assert left == pytest.approx(right, rel=1e-5)
    assert any(0 < line["confident"] < 1 for line in log(runs[0]))


def test_weights_of_another_architecture_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    torch.save({"model": {"stem.weight": torch.zeros(3)}}, tmp_path / "resnet.pth")
    config = load_config(
        "s4p_vitb_isaid_rs4p1m",
        [f"model.weights={tmp_path / 'resnet.pth'}", "sync_batchnorm=False"],
    )
    with pytest.raises(CheckpointError, match=r"resnet\.pth doesn't fit ViT: .*stem\.weight"):
        train(config, tmp_path / "run", device="cpu", progress=False)
    written = [path for path in (tmp_path / "run").rglob("*") if path.stat().st_size]
    assert written == []
