"""Processes, compilation and arithmetic: what a long run relies on."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from swath.core.data.scenes import render
from swath.core.inference.predictor import Predictor
from swath.core.inference.tiler import plan_tiles
from swath.ovseg.task import OpenVocabularyTask

RECIPE = """
from swath.ovseg import open_vocabulary_adamw
from swath.ovseg.configs._scenes import crops
from swath.ovseg.configs.gsnet_scenes_tiny import model as _with_clip
from swath.ovseg.configs.gsnet_scenes_tiny import task

model = _with_clip["model"]
model["finetune"] = "everything"
train = crops(seed=1, count=4)
optimizer = open_vocabulary_adamw(lr=1e-3, clip_multiplier=1.0)
iterations = 2
batch_size = 1
num_workers = 0
checkpoint_every = 2
"""


def trained(recipe: Path, run: str, *launcher: str, overrides: tuple[str, ...] = ()) -> Path:
    command = [str(Path(sys.executable).with_name("swath")), "train", str(recipe)]
    command += ["--run-dir", str(recipe.parent / run), *overrides]
    done = subprocess.run(
        [*launcher, *command],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return recipe.parent / run / "last.safetensors"


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_both_images(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    torchrun = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python",
        "--nproc-per-node", "2",
    )  # fmt: skip
    two = load_file(trained(recipe, "two", *torchrun))
    one = load_file(trained(recipe, "one", overrides=("--set", "accumulate=2")))
    assert one.keys() == two.keys()
    worst = max(float((one[k] - two[k]).abs().max()) for k in one)
    print(f"largest difference of a weight: {worst:.1e}")
    assert worst < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["catseg", "gsnet", "rskt_seg", "sed"])
def test_the_image_path_compiles_without_a_break(tiny: Any, name: str) -> None:
    model = tiny.build(name)
    image, text = torch.randn(1, 3, 64, 64), torch.randn(3, 1, 32)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image, text), model(image, text))


def test_tiles_leave_no_seam(model: Any) -> None:
    side, overlap, blend = 320, 64, 32
    task = OpenVocabularyTask(["tree", "ship", "road"], ensemble="name", tile=160)
    found = Predictor(model, task).predict(
        render(3, side, "urban").image, overlap=overlap, blend=blend, probabilities=True
    )
    steps = np.abs(np.diff(found.probabilities, axis=2)).mean((0, 1))
    where_tiles_meet = np.zeros(side - 1, bool)
    for tile in plan_tiles(task.tile, side, task.tile, overlap, blend, 32):
        if tile.x.fade:
            where_tiles_meet[tile.x.begin - 1 : tile.x.begin + tile.x.fade] = True
    ratio = float(steps[where_tiles_meet].mean() / steps[~where_tiles_meet].mean())
    print(f"mean step where tiles meet, over that elsewhere: {ratio:.2f}")
    assert where_tiles_meet.any()
    assert ratio <= 1.1


def test_the_cost_volume_is_embedded_in_float32_in_half_precision(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    image, text = torch.randn(1, 3, 64, 64), torch.randn(3, 1, 32)
    taken, given = [], []
    aggregator = model.aggregator

    def embed(*inputs: Any) -> Any:
        taken.append(inputs)
        given.append(type(aggregator)._embedded(aggregator, *inputs))
        return given[0]

    monkeypatch.setattr(aggregator, "_embedded", embed)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(image, text)
        want = type(aggregator)._embedded(aggregator, *map(_as_float32, taken[0]))
    torch.testing.assert_close(given[0], want, rtol=0, atol=0)


def _as_float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float()
    return None if value is None else [x.float() for x in value]


def test_half_precision_stays_close(model: Any) -> None:
    torch.manual_seed(0)
    image, text = torch.randn(1, 3, 64, 64), torch.randn(3, 1, 32)
    with torch.no_grad():
        want = model(image, text)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = model(image, text)
    error = float((got - want).abs().max())
    print(f"largest difference of a logit in bfloat16: {error:.3f}")
    assert error < 0.05
