"""What a run saves: weights that anyone can use, and the trainer's state beside them.

``checkpoints/step_00000500.safetensors`` is a checkpoint like any other of ours (the averaged
weights, if the run averages); ``step_00000500.trainer.safetensors`` holds everything else that the
next step depends on: optimiser moments, gradient scale, raw weights, random states, best score.
No file is ever half-written, and nothing of it is a pickle.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from swath.core.checkpoint.store import save_model, save_sealed, verify
from swath.core.config import TrainConfig
from swath.core.engine import distributed
from swath.core.engine.distributed import World
from swath.core.engine.ema import ExponentialMovingAverage
from swath.core.errors import CheckpointError, ConfigError, DataError, TrainingError, WriteError
from swath.core.files import atomic_path, locked, remove_leftovers

FORMAT = 2


@dataclass
class TrainerState:
    """Everything that changes while a run goes on.

    Attributes:
        model: The weights that are optimised.
        optimizer: Their optimiser.
        scaler: Of gradients, for fp16; passes everything through otherwise.
        ema: The averaged weights, if the run has them.
        step: Optimiser steps made.
        best: Highest score so far, and ``best_step`` where it was reached.
        validated: Step of the last validation.
        rng: Random states to go back to before the next step, when the run was resumed.
        world: This process among those of the run.
        batches_per_step: Batches whose gradients make a step, over all processes.
        samples: In the training set, on whose number their order depends.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: ExponentialMovingAverage | None = None
    step: int = 0
    best: float | None = None
    best_step: int | None = None
    validated: int = 0
    rng: dict[str, Any] | None = field(default=None, repr=False)
    world: World = field(default_factory=World)
    batches_per_step: int = 1
    samples: int = 0

    @property
    def judged(self) -> nn.Module:
        """The weights that are validated and handed out."""
        return self.ema.model if self.ema else self.model


class RunFolder:
    """Where a run keeps what it writes.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.log = self.path / "log.jsonl"
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"
        self.validation = self.path / "validation.json"
        self.report = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"

    @contextmanager
    def locked(self, world: World) -> Iterator[None]:
        """Keep other runs out; the system opens the lock when this process ends, however it does.

        What a run that was killed has left half-written is removed.

        Args:
            world: Rank 0 locks for all processes of the run.

        Raises:
            ConfigError: If another process is training here, or nothing can be written here.
        """
        if not world.main:
            yield
            return
        with locked(self.path, "training", "--run-dir"):
            for folder in (self.path, self.checkpoints):
                remove_leftovers(folder)
            yield

    def holds_a_run(self) -> bool:
        """Whether a run has been started here."""
        has_log = self.log.exists() and self.log.stat().st_size > 0
        return has_log or any(self.steps()) or self.best.exists() or self.last.exists()

    def clear(self) -> None:
        """Remove what a run has written, and nothing else."""
        files = self.config, self.log, self.best, self.last, self.validation, self.report
        for file in files:
            file.unlink(missing_ok=True)
        for file in self.checkpoints.glob("step_*.safetensors"):
            file.unlink()
        shutil.rmtree(self.tensorboard, ignore_errors=True)

    def weights(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / f"step_{step:08d}.safetensors"

    def trainer(self, step: int) -> Path:
        """The trainer's state at a step."""
        return self.checkpoints / f"step_{step:08d}.trainer.safetensors"

    def steps(self) -> list[int]:
        """Steps that have a trainer's state, the newest first."""
        names = [f.name for f in self.checkpoints.glob("step_*.trainer.safetensors")]
        return sorted((int(n.split(".")[0].removeprefix("step_")) for n in names), reverse=True)


def save_checkpoint(folder: RunFolder, config: TrainConfig, state: TrainerState) -> None:
    """Write the checkpoint of the present step, make it the last, and drop the oldest ones.

    All processes of a run call this; rank 0 writes.

    Raises:
        TrainingError: If a weight isn't finite, or the files can't be written; older checkpoints
            are then still there.
    """
    judged = distributed.model_state(state.judged)
    tensors, content = trainer_content(state)
    if not state.world.main:
        return
    _require_finite(folder, state.step, judged)
    weights = folder.weights(state.step)
    with writing(folder):
        save_weights(weights, config, state, judged)
        save_trainer(folder.trainer(state.step), tensors, content)
        _publish(weights, folder.last)
    for step in folder.steps()[config.keep_last :]:
        folder.trainer(step).unlink(missing_ok=True)
        folder.weights(step).unlink(missing_ok=True)


def save_best(folder: RunFolder, config: TrainConfig, state: TrainerState) -> None:
    """Write the present weights as the best so far; raises as `save_checkpoint` does."""
    judged = distributed.model_state(state.judged)
    if not state.world.main:
        return
    _require_finite(folder, state.step, judged)
    with writing(folder):
        save_weights(folder.best, config, state, judged)


def save_weights(
    path: Path, config: TrainConfig, state: TrainerState, judged: Mapping[str, Tensor]
) -> None:
    """Write the weights that are handed out, with all that is needed to use them."""
    training = {"step": state.step, "config": config.hash, "seed": config.seed}
    if state.validated == state.step and state.best_step == state.step:
        training["score"] = state.best
    save_model(path, judged, config.model, config.task, config.card, training)


def trainer_content(state: TrainerState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything but the handed-out weights, as tensors and JSON data; whole on rank 0."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    entries = distributed.optimizer_state(state.model, state.optimizer)
    for name, values in entries.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{key}"] = value.detach()
            else:
                numbers[f"optimizer/{name}/{key}"] = value
    if state.ema:  # the checkpoint beside this file has the averaged weights
        raw = distributed.model_state(state.model)
        tensors |= {f"model/{k}": v for k, v in raw.items()}
    states = distributed.gather(random_state(), state.world)
    for rank, (random_tensors, _) in enumerate(states):
        tensors |= {f"random/{rank}/{k}": v for k, v in random_tensors.items()}
    content = {
        "format": FORMAT,
        "step": state.step,
        "best": state.best,
        "best_step": state.best_step,
        "validated": state.validated,
        "scaler": state.scaler.state_dict(),
        "batches_per_step": state.batches_per_step,
        "samples": state.samples,
        "numbers": numbers,
        "random": [random_numbers for _, random_numbers in states],
    }
    return tensors, content


def save_trainer(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write what `trainer_content` gave, with its hash; atomic."""
    save_sealed(path, tensors, {"swath_trainer": json.dumps(content)})


def load_checkpoint(folder: RunFolder, step: int, state: TrainerState) -> None:
    """Put a run back to where it was; the random states are kept in ``state.rng`` for the loop.

    Raises:
        CheckpointError: If a file is damaged or belongs to another model.
        ConfigError: If the run made its steps of another number of batches.
        DataError: If the training set had another number of samples.
    """
    path = folder.trainer(step)
    weights = folder.weights(step)
    verify(weights)
    verify(path)
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads(file.metadata()["swath_trainer"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with safe_open(weights, framework="pt") as file:
            handed_out = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: unreadable ({error}); remove it and resume") from error
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: written by another version of swath; start a new run")
    if content["batches_per_step"] != state.batches_per_step:
        raise ConfigError(
            f"{path}: its steps are made of {content['batches_per_step']} batches, processes x "
            f"accumulate, not of {state.batches_per_step}; keep the product, e.g. by --set "
            "accumulate=N"
        )
    before = content.get("samples", state.samples)  # older runs don't tell
    if before != state.samples:
        raise DataError(
            f"{path}: the training set had {before} samples and has {state.samples} now, which "
            "would come in another order; put its files back, or begin a new run with "
            f"init_from={weights}"
        )
    try:
        if state.ema:
            distributed.load_model_state(state.ema.model, handed_out)
        raw = _below(tensors, "model/") if state.ema else handed_out
        distributed.load_model_state(state.model, raw)
        _restore_optimizer(state, _below(tensors, "optimizer/"), content["numbers"])
        state.scaler.load_state_dict(content["scaler"])
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: belongs to another model or optimiser: {reason}") from error
    state.step, state.validated = content["step"], content["validated"]
    state.best, state.best_step = content["best"], content["best_step"]
    rank = state.world.rank
    if rank < len(content["random"]):
        states = _below(tensors, f"random/{rank}/")
        state.rng = {"tensors": states, "numbers": content["random"][rank]}


def resume_latest(folder: RunFolder, state: TrainerState) -> list[str]:
    """Go back to the newest checkpoint that is whole.

    Returns:
        One line for each newer checkpoint that had to be passed over.

    Raises:
        CheckpointError: If there are checkpoints but none can be used.
    """
    passed: list[str] = []
    for step in folder.steps():
        try:
            load_checkpoint(folder, step, state)
        except CheckpointError as error:
            passed.append(str(error))
        else:
            return passed
    if passed:
        raise CheckpointError(f"nothing to resume from: {passed[0]}")
    return []


# --- random states -----------------------------------------------------------------------------


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of torch's, numpy's and Python's global generators, as tensors and JSON data."""
    state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    _, keys, position, has_gauss, gauss = state
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(keys.astype(np.int64))}
    if torch.cuda.is_available():
        tensors |= {f"cuda{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    version, internal, gauss_next = random.getstate()
    numbers = {
        "numpy": [int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }
    return tensors, numbers


def restore_random_state(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Put the generators back to what `random_state` returned."""
    torch.set_rng_state(tensors["torch"])
    for i in range(torch.cuda.device_count()):
        if f"cuda{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda{i}"], i)
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *numbers["numpy"]))  # noqa: NPY002
    version, internal, gauss_next = numbers["python"]
    random.setstate((version, tuple(internal), gauss_next))


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Whatever happens inside leaves the global generators as they were."""
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(*before)


# --- helpers -----------------------------------------------------------------------------------


def _restore_optimizer(
    state: TrainerState, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    entries: dict[str, dict[str, Any]] = {}
    values = {**tensors, **{k.removeprefix("optimizer/"): v for k, v in numbers.items()}}
    for key, value in values.items():
        name, _, entry = key.rpartition("/")
        entries.setdefault(name, {})[entry] = value
    # hyperparameters come from the config, learning rates from the schedule: only moments are state
    distributed.load_optimizer_state(state.model, state.optimizer, entries)


def _below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _require_finite(folder: RunFolder, step: int, weights: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrainingError(
                f"{folder.path}: weight '{name}' isn't finite after step {step}; {advice(folder)}"
            )


def advice(folder: RunFolder) -> str:
    """What to do when training diverged: one clause."""
    steps = folder.steps()
    kept = f"the checkpoint of step {steps[0]} is kept" if steps else "nothing was saved yet"
    return f"{kept}; start again with a lower optimizer.lr, a warm-up or clip_norm=1"


@contextmanager
def writing(folder: RunFolder) -> Iterator[None]:
    """Say what is safe, and what to do, where a run's file can't be written.

    Raises:
        TrainingError: In place of the system's error.
    """
    try:
        yield
    # safetensors reports a full disk with an error of its own
    except (OSError, SafetensorError, WriteError) as error:
        steps = folder.steps()
        kept = f"step {steps[0]} is kept" if steps else "nothing is saved"
        raise TrainingError(
            f"{folder.path}: can't be written to ({error}); {kept}; make room or mend it, then "
            "continue with --resume"
        ) from error


def _publish(source: Path, name: Path) -> None:
    """Give a finished file a second name; by a link where the file system can."""
    with atomic_path(name) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
