import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Swath = Callable[..., tuple[int, str, str]]

CONFIG = '''"""Scenes, in no time."""
from swath.core.data.scenes import CLASSES, SceneDataset
from swath.core.engine.pieces import adamw_cosine
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

model = Spec(UNet, in_channels=3, num_classes=len(CLASSES), width=4, depth=2)
task = Spec(SegmentationTask, classes=list(CLASSES))
train = Spec(SceneDataset, size=64, count=8, seed=1)
val = Spec(SceneDataset, size=64, count=2, seed=2)
optimizer = adamw_cosine(lr=1e-3)
iterations = 4
batch_size = 2
num_workers = 0
val_every = 2
checkpoint_every = 2
'''


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def test_train_then_test_as_the_command_says(
    config: Path, swath: Swath, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = swath("train", "tiny.py", "--set", "optimizer.lr=2e-3", "--seed", 5)
    assert code == 0, err
    assert "4 steps, best mIoU" in out
    shown = [line for line in err.splitlines() if line.startswith("training: 4/4")][-1]
    run = Path("runs/tiny")
    assert f"swath test tiny.py {run}/best.safetensors" in out
    assert (run / "report.html").stat().st_size < 5_000_000
    saved = json.loads((run / "config.json").read_text())
    assert (saved["seed"], saved["optimizer"]["lr"]) == (5, 2e-3)

    code, out, err = swath("test", "tiny.py", run, "--json")
    assert code == 0, err
    best = json.loads((run / "validation.json").read_text())
    assert shown.endswith(f"best mIoU {best['mIoU']:.4g}")
    assert json.loads(out)["mIoU"] == best["mIoU"]
    assert "evaluating" not in err
    written = json.loads((run / "evaluation/val/metrics.json").read_text())
    assert written["confusion"] == best["confusion"]
    assert (run / "evaluation/val/report.html").exists()

    monkeypatch.chdir(run)  # a checkpoint beside one has a folder too
    code, out, err = swath("test", config, "best.safetensors", "--out", "again")
    assert code == 0, err
    assert "<h1>tiny/best.safetensors on " in Path("again/report.html").read_text()


def test_a_run_goes_on_from_its_saved_config(config: Path, swath: Swath) -> None:
    assert swath("train", "tiny.py")[0] == 0
    assert swath("train", "tiny.py")[0] == 2
    code, _, err = swath("train", "runs/tiny/config.json", "--resume")
    assert code == 0, err
    assert "resuming at step 4 of 4" in err


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_sigterm_to_the_whole_group_saves_and_stops(config: Path, swath: Swath) -> None:
    command = [sys.executable, "-c", "from swath.core.cli import main; main()", "train", "tiny.py"]
    options = ["iterations=100000", "num_workers=2", "log_every=1", "val_every=100000"]
    running = subprocess.Popen(
        [*command, *(part for option in options for part in ("--set", option))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = Path("runs/tiny/log.jsonl")
    while running.poll() is None and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGTERM)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert "everything is saved; continue with: swath train tiny.py" in out
    assert "Traceback" not in err
    assert Path("runs/tiny/last.safetensors").exists()


def test_smoke_leaves_the_real_run_alone(config: Path, swath: Swath) -> None:
    for _ in range(2):
        code, _, err = swath("train", "tiny.py", "--smoke")
        assert code == 0, err
    assert [p.name for p in Path("runs").iterdir()] == ["tiny-smoke"]


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("train", ["--init-tasks", "a.pth"], "the model of tiny.py can't begin with other tasks"),
        ("train", ["--val-tasks", "cls", "det"], "tiny.py validates no several tasks"),
        ("test", ["--tasks", "cls"], "the val set of tiny.py is for no several tasks"),
    ],
)
def test_options_for_several_tasks_say_that_there_is_one(
    config: Path, swath: Swath, verb: str, options: list[str], message: str
) -> None:
    code, _, err = swath(verb, "tiny.py", *(["runs/none"] if verb == "test" else []), *options)
    assert code == 2
    assert message in err
    assert "leave it out" in err
