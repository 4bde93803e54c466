"""What happens around a training step: schedule, averaging, logging, guarding, saving."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import torch
from torch import Tensor

from swath.core.config import TrainConfig
from swath.core.engine.checkpointing import (
    RunFolder,
    TrainerState,
    advice,
    save_best,
    save_checkpoint,
    writing,
)
from swath.core.engine.distributed import mean_over_processes
from swath.core.engine.evaluation import as_data
from swath.core.engine.mmengine import Hook
from swath.core.engine.trackers import Tracker
from swath.core.errors import TrainingError
from swath.core.files import atomic_path, write_json
from swath.core.progress import Bar


class ScheduleHook(Hook):  # type: ignore[misc]
    """Set the learning rates of the coming step, which depend on its number alone."""

    def __init__(self, state: TrainerState, factor: Callable[[int], float]) -> None:
        self.state, self.factor = state, factor
        self.highest = [group["lr"] for group in state.optimizer.param_groups]

    def before_train_iter(self, runner: Any, **_: Any) -> None:
        """Scale every group's rate."""
        factor = self.factor(self.state.step)
        for group, highest in zip(self.state.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * factor


class AveragingHook(Hook):  # type: ignore[misc]
    """Let the averaged weights follow after each step."""

    def __init__(self, state: TrainerState) -> None:
        self.state = state

    def after_train_iter(self, runner: Any, **_: Any) -> None:
        """Follow the step just made."""
        if self.state.ema:
            self.state.ema.update(self.state.model, self.state.step + 1)


class GuardHook(Hook):  # type: ignore[misc]
    """Stop a run whose loss isn't finite, before anything of it is saved.

    On a CPU every step is looked at. On a GPU that would wait for each step, so that the losses are
    gathered and looked at every ``every`` steps and before saving.
    """

    def __init__(self, folder: RunFolder, state: TrainerState, every: int) -> None:
        self.folder, self.state, self.every = folder, state, every
        self.total: Tensor | None = None

    def after_train_iter(self, runner: Any, outputs: Mapping[str, Any], **_: Any) -> None:
        """Gather the loss of the step just made."""
        loss = outputs["loss"]
        self.total = loss if self.total is None else self.total + loss
        if loss.device.type == "cpu" or (self.state.step + 1) % self.every == 0:
            self.check(outputs)

    def before_val(self, runner: Any) -> None:
        """Don't judge a run that is lost."""
        self.check({})

    def check(self, outputs: Mapping[str, Any]) -> None:
        """Look at what was gathered.

        Raises:
            TrainingError: If a loss was NaN or infinite.
        """
        total, self.total = self.total, None
        if total is None or math.isfinite(total.item()):
            return
        named = [
            name
            for name, value in outputs.items()
            if isinstance(value, Tensor) and name != "loss" and not torch.isfinite(value).all()
        ]
        raise TrainingError(
            f"{self.folder.path}: the loss {' + '.join(named) + ' ' if named else ''}isn't finite "
            f"in step {self.state.step + 1}; {advice(self.folder)}"
        )


class LogHook(Hook):  # type: ignore[misc]
    """Write ``log.jsonl``, move the progress bar, feed the trackers.

    Args:
        folder: Where the log goes.
        config: Says how often.
        state: The run's state.
        bar: The progress bar.
        score: Name of the figure that counts.
        trackers: Get the same figures.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: TrainConfig,
        state: TrainerState,
        bar: Bar,
        score: str,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.folder, self.config, self.state, self.bar = folder, config, state, bar
        self.score = score
        self.seen: dict[str, list[Any]] = {}
        self.shown: dict[str, float] = {}
        self.trackers = tuple(trackers)
        self.file: BinaryIO | None = None

    def before_train(self, runner: Any) -> None:
        """Open the log; what a broken-off run wrote after its last checkpoint is dropped."""
        if not self.state.world.main:
            return
        with writing(self.folder):
            if self.folder.log.exists():
                lines = self.folder.log.read_bytes().splitlines(keepends=True)
                with atomic_path(self.folder.log) as temporary:
                    temporary.write_bytes(b"".join(line for line in lines if self._is_past(line)))
            # without a buffer, whose rest couldn't be written either when the disk is full
            self.file = self.folder.log.open("ab", buffering=0)

    def after_train_iter(self, runner: Any, outputs: Mapping[str, Any], **_: Any) -> None:
        """Gather, without waiting for a GPU; write the means when a line is due.

        The mean of a loss that only some steps have is over these.
        """
        for name, value in outputs.items():
            self.seen.setdefault(name, []).append(value)
        step = self.state.step + 1
        if step % self.config.log_every and step != self.config.iterations:
            self.bar.advance()
            return
        means = mean_over_processes(
            {name: _sum(values) / len(values) for name, values in self.seen.items()},
            self.state.world,
        )
        self.seen = {}
        rate = max(group["lr"] for group in self.state.optimizer.param_groups)
        times = {name: means.pop(name) for name in ("time_s", "data_s")}
        self._write({"step": step, **means, "lr": rate, **times})
        best = {} if self.state.best is None else {f"best {self.score}": self.state.best}
        self.shown = {"loss": means["loss"], "lr": rate, **best}
        self.bar.advance(**self.shown)
        self._track("train", {**means, "lr": rate})

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, Any]) -> None:
        """Write the figures of a validation."""
        step = self.state.step
        figures = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        self._write({"step": step, "val": figures})
        if self.score in figures:
            is_best = self.state.best is None or figures[self.score] > self.state.best
            remark = "the best so far" if is_best else f"best {self.state.best:.4f}"
            self.bar.note(f"step {step}: {self.score} {figures[self.score]:.4f} ({remark})")
            if is_best:
                self.shown[f"best {self.score}"] = figures[self.score]
                self.bar.advance(0, **self.shown)
        self._track("val", figures)

    def close(self) -> None:
        """Close the file and the trackers."""
        for stream in (self.file, *self.trackers):
            if stream is not None:
                stream.close()

    def _track(self, part: str, figures: Mapping[str, float]) -> None:
        step = self.state.step + (part == "train")  # a training step is counted after its hooks
        for tracker in self.trackers:
            tracker.log(step, {f"{part}/{name}": value for name, value in figures.items()})

    def _is_past(self, line: bytes) -> bool:
        try:
            entry = json.loads(line)
            limit = self.state.validated if "val" in entry else self.state.step
            return bool(entry["step"] <= limit)
        except (ValueError, KeyError, TypeError):
            return False  # a line that a crash cut short

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.file is not None:
            with writing(self.folder):
                self.file.write(json.dumps(as_data(_rounded(line))).encode() + b"\n")


class SaveHook(Hook):  # type: ignore[misc]
    """Keep the best weights and the checkpoints that training can resume from."""

    def __init__(
        self, folder: RunFolder, config: TrainConfig, state: TrainerState, score: str
    ) -> None:
        self.folder, self.config, self.state, self.score = folder, config, state, score

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, Any]) -> None:
        """Save the weights if they have the highest score so far."""
        score = metrics.get(self.score)
        if not isinstance(score, int | float) or math.isnan(score):
            return
        if self.state.best is None or score > self.state.best:
            self.state.best, self.state.best_step = float(score), self.state.step
            save_best(self.folder, self.config, self.state)
            if not self.state.world.main:
                return
            with writing(self.folder):
                content = as_data({"step": self.state.step, **metrics})
                write_json(self.folder.validation, content)

    def after_step(self, runner: Any) -> None:
        """Save a checkpoint when one is due."""
        if self.state.step % self.config.checkpoint_every == 0:
            save_checkpoint(self.folder, self.config, self.state)

    def after_train(self, runner: Any) -> None:
        """Save where the run ended or was stopped; its last validation is on record then."""
        save_checkpoint(self.folder, self.config, self.state)


def _sum(values: Sequence[Any]) -> float:
    if isinstance(values[0], Tensor):
        return float(torch.stack([value.float() for value in values]).sum())
    return float(sum(values))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    return {k: _rounded(v) for k, v in value.items()} if isinstance(value, Mapping) else value
