"""SIGKILL at random moments of `swath train`, resumed each time, against the uninterrupted run.

    python benchmarks/kill_resume.py --kills 50

Every kill hits a process of its own that runs the command: it trains a small U-Net with dropout,
averaging, augmentation and a loader process, and writes a checkpoint every other step. (The process
is forked from one that has imported everything, which saves most of the time; with ``--cold`` it is
started anew.) One kill in five hits the start, two in five the writing of a file, the others a
random step. After each, all files under their final names must be whole. A run that comes to its
end in spite of its kills must equal the uninterrupted one bit for bit, tensors and log; then the
next one begins. Writes ``results/kill_resume.json``.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from common import record
from safetensors.torch import load_file

import swath.core.data.scenes
import swath.core.data.transforms
import swath.core.engine.runner
import swath.core.models.unet
import swath.core.viz.report  # noqa: F401 - imported before the forks
from swath.core.checkpoint.store import verify
from swath.core.cli import main as swath_command
from swath.core.engine.checkpointing import RunFolder

SWATH = str(Path(sysconfig.get_path("scripts")) / "swath")
AIMS = ("step", "writing", "step", "writing", "starting")
RECIPE = '''"""Scenes, for a little while."""
from swath.core.data.scenes import CLASSES, SceneDataset
from swath.core.data.transforms import light_augment
from swath.core.engine.pieces import adamw_cosine
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

model = Spec(UNet, in_channels=3, num_classes=len(CLASSES), width=16, depth=2, dropout=0.2)
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
    parser.add_argument("--cold", action="store_true", help="start every process anew")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    generator = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "recipe.py").write_text(RECIPE)
        whole = place / "whole"
        finish(place, whole, arguments.cold)
        step_s = statistics.median(line["time_s"] for line in log_of(whole) if "time_s" in line)
        kills: list[dict[str, Any]] = []
        tensors = []
        while len(kills) < arguments.kills:
            run = place / f"run{len(tensors)}"
            while len(kills) < arguments.kills:
                aim = AIMS[len(kills) % len(AIMS)]
                process = live(place, run, arguments.cold)
                wait_for_a_moment(process, run, generator, step_s, aim)
                if process.exitcode is not None:
                    break  # it was faster
                kills.append(kill(process, run, aim))
                print(f"kill {len(kills)}: {kills[-1]}", flush=True)
            finish(place, run, arguments.cold)
            tensors.append(compare(whole, run))
            print(f"a run equals the uninterrupted one in all of its {tensors[-1]} tensors")
    moments = Counter(one["moment"] for one in kills)
    rows = [{"killed": moment, "times": count} for moment, count in moments.most_common()]
    record(
        "kill_resume",
        rows,
        kills=len(kills),
        resumed=len(kills),
        runs_compared=len(tensors),
        tensors_compared=sum(tensors),
        tensors_that_differ=0,
        files_verified_after_kills=sum(one["files"] for one in kills),
        processes="started anew" if arguments.cold else "forked after the imports",
        step_s=step_s,
        seed=arguments.seed,
    )


def live(place: Path, run: Path, cold: bool) -> BaseProcess:
    """One `swath train --resume` in a process of its own."""
    command = ["swath", "train", str(place / "recipe.py"), "--run-dir", str(run), "--resume"]

    def become() -> None:
        with (place / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        if cold:
            os.execv(SWATH, command)
        sys.argv = command
        swath_command()

    process: BaseProcess = multiprocessing.get_context("fork").Process(target=become)
    process.start()
    return process


def finish(place: Path, run: Path, cold: bool) -> None:
    """Let a run come to its end.

    Raises:
        SystemExit: If it can't.
    """
    process = live(place, run, cold)
    process.join()
    if process.exitcode:
        raise SystemExit(f"{run} failed: {(place / 'output.txt').read_text()}")


def wait_for_a_moment(
    process: BaseProcess, run: Path, generator: random.Random, step_s: float, aim: str
) -> None:
    """Wait for a random moment of some kind, or for the end."""
    log = run / "log.jsonl"
    before = log.stat().st_ino if log.exists() else None
    if aim == "starting":
        process.join(generator.uniform(0, 1))
        return

    def steps() -> int:
        """Made by this process, which begins with a new log."""
        if not log.exists() or log.stat().st_ino == before:
            return -1
        return log.read_bytes().count(b"\n") - already

    already, more = 0, generator.randrange(6)
    while process.exitcode is None and steps() < 0:
        time.sleep(0.005)
    already = steps()
    while process.exitcode is None and steps() < more:
        time.sleep(0.005)
    if aim == "writing":
        while process.exitcode is None and not any(run.rglob(".*.part*")):
            time.sleep(0.0005)
        process.join(generator.uniform(0, 0.1 * step_s))
    else:
        process.join(generator.uniform(0, 1.5 * step_s))


def kill(process: BaseProcess, run: Path, aim: str) -> dict[str, Any]:
    """Kill, and look at what is left: half a file, perhaps, but none that has its final name."""
    process.kill()
    process.join()
    half = [file.name.split(".")[1].split("_")[0] for file in run.rglob(".*.part*")]
    finished = [file for file in run.rglob("*.safetensors") if not file.name.startswith(".")]
    for file in finished:
        verify(file)
    moment = "while starting" if aim == "starting" else "between files"
    return {
        "moment": f"while writing {half[0]}" if half else moment,
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
    one, other = (
        [{k: v for k, v in line.items() if k not in ("time_s", "data_s")} for line in log_of(each)]
        for each in (whole, run)
    )
    if one != other:
        raise SystemExit(f"{run / 'log.jsonl'} differs")
    return count


def log_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
