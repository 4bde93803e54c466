"""What the engine costs: per step, per checkpoint, and until the first step of a resumed run.

    python benchmarks/engine.py

Steps are compared with a bare PyTorch loop over the same model, loader and optimiser; checkpoints
with ``torch.save`` of the same tensors. The resumed run stands at step 10,000 of a set of a million
samples, and is resumed by a new process. Writes ``results/engine.json``.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from common import median_seconds, record
from safetensors import safe_open
from torch import nn
from torchvision import tv_tensors

from swath.core.backbones.vit import vit
from swath.core.config import TrainConfig
from swath.core.data.loader import make_loader
from swath.core.engine import train
from swath.core.engine.checkpointing import (
    RunFolder,
    TrainerState,
    save_checkpoint,
    save_trainer,
)
from swath.core.engine.pieces import adamw_cosine
from swath.core.models.unet import UNet
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

BATCH = 4


class Blank:
    """A million samples of one picture, which notes the CPU time at which each was asked for."""

    marks: ClassVar[list[float]] = []

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randint(0, 255, (3, 64, 64), generator=generator, dtype=torch.uint8)
        self.mask = torch.randint(0, 2, (64, 64), generator=generator, dtype=torch.uint8)
        self.marks.clear()

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Sample:
        self.marks.append(time.process_time())
        return Sample(self.image, {"mask": tv_tensors.Mask(self.mask)}, meta={"id": str(index)})

    @classmethod
    def seconds_a_step(cls) -> float:
        """Median time between the first samples of one batch and the next."""
        begins = cls.marks[::BATCH]
        return statistics.median(b - a for a, b in itertools.pairwise(begins))


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--resume", metavar="RUN", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.resume:
        resume_one_step(arguments.resume)
        return
    rows = [measure_steps(width, arguments.steps, arguments.rounds) for width in (4, 16)]
    checkpoint = measure_checkpoint()
    resume = measure_resume()
    print(json.dumps({"steps": rows, "checkpoint": checkpoint, "resume": resume}, indent=1))
    record("engine", rows, checkpoint=checkpoint, resume=resume)


def config(width: int, steps: int, **changes: Any) -> TrainConfig:
    """A run of a small U-Net without validation, logging every ten steps."""
    fields = {
        "model": Spec(UNet, in_channels=3, num_classes=2, width=width, depth=3),
        "task": Spec(SegmentationTask, classes=["a", "b"]),
        "train": Spec(Blank),
        "optimizer": adamw_cosine(lr=1e-3),
        "iterations": steps,
        "batch_size": BATCH,
        "num_workers": 0,
        "checkpoint_every": 10**6,
    }
    return TrainConfig(**(fields | changes))


def measure_steps(width: int, steps: int, rounds: int) -> dict[str, Any]:
    """CPU time of a step in the bare loop and in the engine: the medians of rounds in turn."""
    bare, engine = [], []
    for _ in range(rounds):
        bare.append(bare_loop(width, steps))
        engine.append(engine_loop(width, steps))
    bare_ms, engine_ms = (1e3 * statistics.median(values) for values in (bare, engine))
    return {
        "unet_width": width,
        "bare_ms": round(bare_ms, 3),
        "engine_ms": round(engine_ms, 3),
        "overhead_ms": round(engine_ms - bare_ms, 3),
        "overhead_share": round(engine_ms / bare_ms - 1, 4),
    }


def bare_loop(width: int, steps: int) -> float:
    """CPU seconds a step of the loop anyone would write."""
    settings = config(width, steps)
    torch.manual_seed(0)
    model: nn.Module = settings.model.build().train()
    task = settings.task.build()
    optimizer = settings.optimizer.build()(model, steps).optimizer
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loader = make_loader(
        settings.train.build(), task, batch_size=BATCH, shuffle=True, drop_last=True
    )
    for _, batch in zip(range(steps), loader, strict=False):
        loss = torch.stack(list(task.losses(model, batch).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        loss.item()
    return Blank.seconds_a_step()


def engine_loop(width: int, steps: int) -> float:
    """CPU seconds a step of `train`, everything included."""
    with tempfile.TemporaryDirectory() as folder:
        train(config(width, steps), Path(folder) / "run", progress=False)
    return Blank.seconds_a_step()


def measure_checkpoint() -> dict[str, Any]:
    """Seconds and bytes of a checkpoint, ours and torch's, of a ViT-B with AdamW's moments."""
    model = vit("b", 224)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    settings = config(4, 1)
    settings.model = Spec(vit, size="b", img_size=224)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainerState(model, optimizer, scaler, step=1)
    with tempfile.TemporaryDirectory() as name:
        folder, file = RunFolder(name), Path(name) / "torch.pth"
        ours = median_seconds(lambda: save_checkpoint(folder, settings, state), repeats=3)
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torchs = median_seconds(lambda: torch.save(content, file), repeats=3)
        size = sum(f.stat().st_size for f in folder.checkpoints.iterdir())
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "ours_s": round(ours, 2),
            "torch_save_s": round(torchs, 2),
            "ours_mb": round(size / 1e6, 1),
            "torch_save_mb": round(file.stat().st_size / 1e6, 1),
        }


RESUMED_AT = 10_000


def measure_resume() -> dict[str, Any]:
    """Seconds from starting Python until a step is made and saved, at step 10,000."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        train(config(4, 2 * RESUMED_AT), run, until=1, progress=False)
        folder = RunFolder(run)
        for kind in (folder.weights, folder.trainer):
            kind(1).rename(kind(RESUMED_AT))
        _set_step(folder.trainer(RESUMED_AT), RESUMED_AT)
        start = time.perf_counter()
        command = [sys.executable, __file__, "--resume", str(run)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return {
            "step": RESUMED_AT,
            "new_process_s": round(time.perf_counter() - start, 2),
            **json.loads(printed.splitlines()[-1]),
        }


def resume_one_step(run: str) -> None:
    """Go on for a step; print how long that took and how many samples were read for it."""
    start = time.perf_counter()
    settings = config(4, 2 * RESUMED_AT)
    summary = train(settings, run, resume=True, until=RESUMED_AT + 1, progress=False)
    if summary.step != RESUMED_AT + 1:
        raise SystemExit(f"stands at step {summary.step}")
    seconds = round(time.perf_counter() - start, 2)
    print(json.dumps({"without_imports_s": seconds, "samples_read": len(Blank.marks)}))


def _set_step(path: Path, step: int) -> None:
    """Make a trainer's state claim another step."""
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["swath_trainer"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_trainer(path, tensors, content | {"step": step})


if __name__ == "__main__":
    main()
