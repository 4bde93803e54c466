"""mmengine's Runner, told to keep quiet, with a training loop that can continue exactly.

The Runner owns the run: it calls our loops and hooks at mmengine's stages. What 0.10.7 does wrong
is not used: its checkpoints (no atomic rename, can't be resumed on torch 2.6 and later), its resume
(reads every consumed sample again, forgets the random states), its default hooks, log files,
visualiser, and configs.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from swath.core.config import TrainConfig
from swath.core.engine.checkpointing import (
    TrainerState,
    preserved_random_state,
    restore_random_state,
)
from swath.core.engine.distributed import World, any_process
from swath.core.engine.mmengine import BaseLoop, Hook, OptimWrapper, Runner, get_dist_info
from swath.core.errors import ConfigError
from swath.core.precision import autocast
from swath.core.task import Batch, Task, to_device


class Objective(nn.Module):
    """The losses of a batch as a module's forward pass, which is what DDP can wrap.

    Args:
        model: The model.
        task: Its task.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named losses."""
        return self.task.losses(self.model, batch)


class Trainee(nn.Module):
    """A model with what the Runner needs to take a training step on it.

    Args:
        model: The model, sharded already if it is to be.
        task: Its task.
        device: Where the step runs.
        config: Says how: precision, memory format, strategy.
        world: With more than one process, gradients are averaged over all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        device: torch.device,
        config: TrainConfig,
        world: World,
    ) -> None:
        super().__init__()
        self.device, self.precision = device, config.precision
        self.memory_format = (
            torch.channels_last if config.channels_last else torch.contiguous_format
        )
        self.objective: nn.Module = Objective(model, task)
        self._sharded = model if world.size > 1 and config.strategy == "fsdp" else None
        if world.size > 1 and config.strategy == "ddp":
            self.objective = DistributedDataParallel(
                self.objective, find_unused_parameters=config.find_unused_parameters
            )

    def train_step(
        self, batches: Sequence[Batch], optim_wrapper: "ClippingOptimizer"
    ) -> dict[str, Tensor]:
        """One optimiser step from one or more batches; the mean of their losses, by name.

        A loss that only some of the batches have, since they are of different data sets, is the
        mean over these.
        """
        seen: dict[str, list[Tensor]] = {}
        share = len(batches)
        for number, batch in enumerate(batches, start=1):
            moved = to_device(batch, self.device)
            for name, value in moved.items():
                if isinstance(value, Tensor) and value.ndim == 4:
                    moved[name] = value.contiguous(memory_format=self.memory_format)
            with self._averaging(number == share):
                with autocast(self.device, self.precision):
                    losses = self.objective(moved)
                _check_losses(losses)
                # what carries no gradient is a figure for the log
                total = torch.stack([x.float() for x in losses.values() if x.requires_grad]).sum()
                optim_wrapper.backward(total if share == 1 else total / share)
            for name, loss in {**losses, "loss": total}.items():
                seen.setdefault(name, []).append(loss.detach())
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return {name: torch.stack(values).float().mean() for name, values in seen.items()}

    def _averaging(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged once a step: with its last batch."""
        if self._sharded is not None:
            self._sharded.set_requires_gradient_sync(last)  # type: ignore[operator]
        if isinstance(self.objective, DistributedDataParallel) and not last:
            return self.objective.no_sync()
        return nullcontext()


def _check_losses(losses: Any) -> None:
    if not isinstance(losses, Mapping) or not all(
        isinstance(x, Tensor) and x.ndim == 0 for x in losses.values()
    ):
        raise ConfigError("a task's losses must give scalar tensors by name, {name: tensor}")
    if not any(x.requires_grad for x in losses.values()):
        names = ", ".join(losses) or "none was given"
        raise ConfigError(
            f"no loss ({names}) has a gradient; the model's output must depend on its parameters, "
            "without detach() and no_grad()"
        )


class ClippingOptimizer(OptimWrapper):  # type: ignore[misc]
    """An optimiser with gradient scaling for fp16 and clipping of the true gradient's norm.

    Args:
        optimizer: The optimiser.
        scaler: Scales the loss; passes it through if disabled.
        clip_norm: Largest norm, or None.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        clip_norm: float | None,
    ) -> None:
        super().__init__(optimizer)
        self.scaler, self.clip_norm = scaler, clip_norm

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add a loss's gradients to those that are there."""
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """Clip and step; with fp16, skip the step if a gradient overflowed."""
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()


class TrainLoop(BaseLoop):  # type: ignore[misc]
    """Iterate from wherever the state is; validate when due; stop between steps when asked.

    Args:
        runner: Whose hooks are called.
        dataloader: Endless; begins with the first sample that hasn't been consumed.
        state: The run's state; its ``step`` counts up.
        iterations: Steps of the whole run.
        until: Stop after this step, as if interrupted.
        val_every: Steps between validations.
        accumulate: Batches per step.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Iterable[Batch],
        *,
        state: TrainerState,
        iterations: int,
        until: int,
        val_every: int,
        accumulate: int,
    ) -> None:
        super().__init__(runner, dataloader)
        self.state, self.max_iters, self.until = state, iterations, until
        self.val_every, self.accumulate = val_every, accumulate
        self.asked_to_stop = self.stopping = False
        self.epoch, self.max_epochs = 0, 1  # mmengine's hooks ask for them

    @property
    def iter(self) -> int:
        """Steps made so far; inside ``after_train_iter`` the one just made isn't counted yet."""
        return self.state.step

    def run(self) -> nn.Module:
        """Train to the end, or until asked to stop."""
        runner = self.runner
        batches = iter(self.dataloader)
        if self.state.rng is not None:
            restore_random_state(self.state.rng["tensors"], self.state.rng["numbers"])
            self.state.rng = None
        runner.model.train()  # once: validation leaves the mode as it was
        runner.call_hook("before_train")
        self._validate_if_due()
        while self.state.step < self.until and not self.stopping:
            self._step(batches)
            self._agree_to_stop()
            self._validate_if_due()
        batches.close()
        runner.call_hook("after_train")
        return runner.model  # type: ignore[no-any-return]

    def _agree_to_stop(self) -> None:
        """A signal reaches the processes of a run in different steps: the first one decides."""
        self.stopping = any_process(self.asked_to_stop, self.state.world)

    def _step(self, batches: Any) -> None:
        runner, step = self.runner, self.state.step
        started = time.perf_counter()
        told: Batch = {"progress": step / self.max_iters}
        if self.state.ema:
            told["averaged"] = self.state.ema.model
        data = [next(batches) | told for _ in range(self.accumulate)]
        waited = time.perf_counter() - started
        runner.call_hook("before_train_iter", batch_idx=step, data_batch=data)
        outputs = runner.model.train_step(data, optim_wrapper=runner.optim_wrapper)
        runner.call_hook(
            "after_train_iter",
            batch_idx=step,
            data_batch=data,
            outputs={**outputs, "time_s": time.perf_counter() - started, "data_s": waited},
        )
        self.state.step += 1
        runner.call_hook("after_step")

    def _validate_if_due(self) -> None:
        step = self.state.step
        due = step > 0 and (step % self.val_every == 0 or step == self.max_iters)
        if self.runner.val_loop and due and self.state.validated < step and not self.stopping:
            self.runner.val_loop.run()
            self._agree_to_stop()


class ValLoop(BaseLoop):  # type: ignore[misc]
    """Judge the weights that would be handed out, leaving no trace in the random states.

    Args:
        runner: Whose hooks are called.
        judge: Gives the figures of a model.
        state: The run's state.
    """

    def __init__(
        self,
        runner: Runner,
        judge: Callable[[nn.Module], Mapping[str, Any]],
        state: TrainerState,
    ) -> None:
        super().__init__(runner, None)
        self.judge, self.state = judge, state

    def run(self) -> Mapping[str, Any]:
        """Validate once."""
        self.runner.call_hook("before_val")
        with preserved_random_state():
            metrics = self.judge(self.state.judged)
        self.state.validated = self.state.step
        self.runner.call_hook("after_val_epoch", metrics=metrics)
        return metrics


class QuietRunner(Runner):  # type: ignore[misc]
    """A Runner that writes nothing of its own: no log files, no visualiser, no config dump.

    Args:
        trainee: Model and task.
        run_dir: The run's folder.
        loader: Endless training batches.
        optimizer: Wrapped optimiser.
        hooks: All hooks, in the order in which they are called.
        train_loop: Arguments of `TrainLoop`.
        judge: Gives the figures of a model; None validates never.
    """

    def __init__(
        self,
        trainee: Trainee,
        run_dir: Path,
        loader: Iterable[Batch],
        optimizer: ClippingOptimizer,
        hooks: Sequence[Hook],
        train_loop: Mapping[str, Any],
        judge: Callable[[nn.Module], Mapping[str, Any]] | None,
    ) -> None:
        self._judge = judge
        self._state: TrainerState = train_loop["state"]
        super().__init__(
            trainee,
            str(run_dir),
            train_dataloader=loader,
            train_cfg=dict(train_loop),
            optim_wrapper=optimizer,
            custom_hooks=list(hooks),
            default_scope=None,
            experiment_name=uuid4().hex,
        )

    def setup_env(self, env_cfg: Mapping[str, Any]) -> None:
        """Leave start methods, thread counts and resource limits alone."""
        self._rank, self._world_size = get_dist_info()
        self._timestamp = ""  # so that no folder of that name is made

    def set_randomness(self, seed: int | None, *args: Any, **kwargs: Any) -> None:
        """The caller has seeded everything before it built the model."""
        self._seed, self._deterministic = seed, False

    def build_logger(self, *args: Any, **kwargs: Any) -> logging.Logger:
        """The package's logger; it writes no file."""
        return logging.getLogger("swath.engine")

    def build_log_processor(self, log_processor: Any) -> None:
        """Our hooks log."""

    def build_visualizer(self, visualizer: Any = None) -> None:
        """Our hooks show."""

    def build_message_hub(self, message_hub: Any = None) -> None:
        """Our hooks know the state."""

    def dump_config(self) -> None:
        """The run's config is saved before it starts."""

    def _log_env(self, env_cfg: Any) -> None:
        """`swath doctor` shows the environment."""

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """The model is where it belongs."""
        return model

    def register_default_hooks(self, hooks: Any = None) -> None:
        """Every hook is ours."""

    def register_hook(self, hook: Hook, priority: Any = None) -> None:
        """Hooks are called in the order in which they were given."""
        self._hooks.append(hook)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call one stage of every hook."""
        for hook in self._hooks:
            if hasattr(hook, fn_name):
                getattr(hook, fn_name)(self, **kwargs)

    def release(self) -> None:
        """Let go of loops and data, so that loader processes end now and not at some later time."""
        for name in ("_train_loop", "_val_loop", "_train_dataloader"):
            setattr(self, name, None)

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Our loop, from its arguments."""
        if isinstance(loop, BaseLoop):
            return loop
        if self._judge is not None:
            self._val_loop = ValLoop(self, self._judge, self._state)
        return TrainLoop(self, self._train_dataloader, **loop)
