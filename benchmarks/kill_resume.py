"""SIGKILL at random moments of `swath train`, resumed each time, against the uninterrupted run.

    python benchmarks/kill_resume.py --kills 50

Every kill hits a real command, which trains a small U-Net with dropout, averaging, augmentation and
a loader process and writes a checkpoint every other step; one kill in five hits its start. After
each kill, all files under their final names must be whole. A run that comes to its end in spite of
its kills must equal the uninterrupted one bit for bit, tensors and log, and the next one begins.
Writes ``results/kill_resume.json``.
"""

import argparse
import json
import os
import random
import subprocess
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import record
from safetensors.torch import load_file

from swath.core.checkpoint.store import verify
from swath.core.engine.checkpointing import RunFolder

SWATH = str(Path(sysconfig.get_path("scripts")) / "swath")
RECIPE = '''"""Scenes, for a little while."""
from swath.core.data.scenes import CLASSES, SceneDataset
from swath.core.data.transforms import light_augment
from swath.core.engine.pieces import adamw_cosine
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

model = Spec(UNet, in_channels=3, num_classes=len(CLASSES), width=24, depth=3, dropout=0.2)
task = Spec(SegmentationTask, classes=list(CLASSES))
train = Spec(SceneDataset, size=64, count=64, seed=1)
val = Spec(SceneDataset, size=64, count=4, seed=2)
augment = Spec(light_augment, size=48)
optimizer = adamw_cosine(lr=1e-3, warmup=5)
iterations = 60
batch_size = 4
num_workers = 1
ema = 0.9
clip_norm = 1.0
val_every = 10
checkpoint_every = 2
log_every = 1
'''


def main() -> None:
    """Kill, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "recipe.py").write_text(RECIPE)
        started = time.monotonic()
        whole = place / "whole"
        live(place, whole).wait()
        whole_s = time.monotonic() - started
        kills: list[dict[str, Any]] = []
        tensors = []
        while len(kills) < arguments.kills:
            run = place / f"run{len(tensors)}"
            while len(kills) < arguments.kills:
                kill = kill_once(place, run, generator, start=len(kills) % 5 == 4)
                if kill is None:
                    break
                kills.append(kill)
                print(f"kill {len(kills)}: {kill}", flush=True)
            if live(place, run).wait():
                raise SystemExit(f"{run} can't be resumed after kill {len(kills)}")
            tensors.append(compare(whole, run))
            print(f"a run equals the uninterrupted one in all of its {tensors[-1]} tensors")
    moments = Counter(kill["moment"] for kill in kills)
    rows = [{"killed": moment, "times": count} for moment, count in moments.most_common()]
    record(
        "kill_resume",
        rows,
        kills=len(kills),
        resumed=len(kills),
        runs_compared=len(tensors),
        tensors_compared=sum(tensors),
        tensors_that_differ=0,
        files_verified_after_kills=sum(kill["files"] for kill in kills),
        uninterrupted_run_s=round(whole_s, 1),
        seed=arguments.seed,
    )


def live(place: Path, run: Path) -> "subprocess.Popen[bytes]":
    """One `swath train --resume` in a process of its own."""
    command = [SWATH, "train", str(place / "recipe.py"), "--run-dir", str(run), "--resume"]
    with (place / "output.txt").open("w") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


def kill_once(
    place: Path, run: Path, generator: random.Random, start: bool
) -> dict[str, Any] | None:
    """Let a life begin, kill it at a random moment, look at what it left; None if it finished."""
    log = run / "log.jsonl"
    before = log.stat().st_ino if log.exists() else None
    process = live(place, run)
    if start:
        time.sleep(generator.uniform(0, 6))
    else:  # once it has reopened its log, a step is about to be made
        while process.poll() is None and (not log.exists() or log.stat().st_ino == before):
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 2))
    if process.poll() is not None:
        if process.returncode:
            raise SystemExit((place / "output.txt").read_text())
        return None
    process.kill()
    process.wait()
    half = [file.name.split(".")[1] for file in run.rglob(".*.part*")]
    finished = [file for file in run.rglob("*.safetensors") if not file.name.startswith(".")]
    for file in finished:
        verify(file)
    opened = log.exists() and log.stat().st_ino != before
    moment = "between files" if opened else "while starting"
    return {
        "moment": f"while writing {half[0].split('_')[0]}" if half else moment,
        "newest_checkpoint": next(iter(RunFolder(run).steps()), 0),
        "files": len(finished),
    }


def compare(whole: Path, run: Path) -> int:
    """The number of tensors of a run, all of which equal the uninterrupted run's, as does its log.

    Raises:
        SystemExit: If anything differs.
    """
    files = sorted(file.relative_to(whole) for file in whole.rglob("*.safetensors"))
    if files != sorted(file.relative_to(run) for file in run.rglob("*.safetensors")):
        raise SystemExit(f"{run} holds other files than the uninterrupted run")
    count = 0
    for file in files:
        one, other = load_file(whole / file), load_file(run / file)
        differing = [name for name in one if not one[name].equal(other[name])]
        if differing or one.keys() != other.keys():
            raise SystemExit(f"{run / file}: {differing} differ")
        count += len(one)
    if figures(whole) != figures(run):
        raise SystemExit(f"{run / 'log.jsonl'} differs")
    return count


def figures(run: Path) -> list[dict[str, Any]]:
    """The lines of a log without what a clock told."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("time_s", "data_s")} for line in lines]


if __name__ == "__main__":
    main()
