"""Training runs: from a config to a folder with checkpoints, and on from there."""

import contextlib
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset

from swath.core.checkpoint.fetch import WEIGHTS, is_remote, locate
from swath.core.checkpoint.safe import load_file
from swath.core.config import TrainConfig
from swath.core.engine import distributed
from swath.core.engine.checkpointing import RunFolder, TrainerState, resume_latest, writing
from swath.core.engine.distributed import World
from swath.core.engine.ema import ExponentialMovingAverage
from swath.core.engine.evaluation import evaluate
from swath.core.engine.trackers import TRACKERS, check_trackers
from swath.core.errors import CheckpointError, ConfigError, DataError, shortened, suggest
from swath.core.progress import Bar
from swath.core.sample import Sample
from swath.core.spec import Spec
from swath.core.task import Task, pick_device

# what may change between the parts of a run without changing what it learns
_CHANGEABLE = {"val_every", "checkpoint_every", "keep_last", "log_every", "num_workers", "card"}
# how the work is shared out; the number of batches in a step is checked where it is resumed
_CHANGEABLE |= {"accumulate", "strategy", "find_unused_parameters", "compile"}
# a run may be made longer; its schedule then follows the new length from where it is
_CHANGEABLE |= {"iterations"}


@dataclass(frozen=True)
class RunSummary:
    """What came out of a run.

    Attributes:
        run_dir: Its folder.
        step: Optimiser steps made so far.
        iterations: Steps of the whole run.
        score: Name of the figure by which checkpoints are compared.
        best: Its highest value, None without validation, reached at ``best_step``.
        best_checkpoint: The weights to use.
        last_checkpoint: The newest weights.
        seconds: Duration of this part of the run.
        interrupted: Whether it was stopped before its end; it can be resumed.
    """

    run_dir: Path
    step: int
    iterations: int
    score: str
    best: float | None
    best_step: int | None
    best_checkpoint: Path
    last_checkpoint: Path
    seconds: float
    interrupted: bool


def train(
    config: TrainConfig,
    run_dir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str | None = None,
    until: int | None = None,
    trackers: Sequence[str] = (),
    profile: bool = False,
    progress: bool = True,
) -> RunSummary:
    """Train a model as a config says.

    Writes to ``run_dir``: ``config.json``; ``log.jsonl`` with a line for each logged step and each
    validation; ``checkpoints/step_*.safetensors``; ``best.safetensors`` and ``last.safetensors``,
    which `swath.core.load_model` opens; ``validation.json`` with all figures of the best one;
    ``.lock``, which keeps a second run out of the folder.

    A run that is stopped and resumed ends bit for bit where it would have ended without the stop,
    on a CPU: data order, augmentation, dropout, optimiser and averages continue where they were,
    and no consumed sample is read again. Ctrl-C saves and stops after the present step; pressed
    again it breaks off at once. What the training set's method ``remarks() -> list[str]`` says at
    the end, if it has one, is shown.

    Args:
        config: What to do.
        run_dir: Created if needed.
        resume: Continue the run in ``run_dir``; without one, begin it.
        overwrite: Remove the run that is there.
        device: Default: the first GPU, or the CPU.
        until: Stop after this step, as Ctrl-C would.
        trackers: Where else figures go, see `swath.core.engine.trackers`: ``"tensorboard"``,
            ``"wandb"``, ``"mlflow"``.
        profile: Measure ten steps and name the three largest costs of one, see
            `swath.core.engine.profiling`.
        progress: Show a bar and messages.

    Raises:
        ConfigError: If ``run_dir`` holds a run already, or one of another config; if another
            process is training there, or nothing can be written there.
        DataError: If a data set is empty or wrong.
        TrainingError: If the loss stops being finite or checkpoints can't be written.
        CheckpointError: If there is nothing whole to resume from.
    """
    if not isinstance(config, TrainConfig):
        raise ConfigError(
            f"train takes a TrainConfig, not a {type(config).__name__}; load_config gives one"
        )
    check_trackers(trackers)
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite removes it; choose one")
    world = distributed.launched()
    if world.size > 1 and device is None and torch.cuda.is_available():
        device = f"cuda:{world.local_rank}"
    picked = pick_device(device)
    folder = RunFolder(run_dir)
    with distributed.process_group(world, picked), folder.locked(world):
        return _train(
            config,
            folder,
            world,
            picked,
            resume=distributed.restarted() or resume,
            overwrite=overwrite and not distributed.restarted(),
            until=until,
            trackers=trackers,
            profile=profile,
            progress=progress and world.main,
        )


def _train(
    config: TrainConfig,
    folder: RunFolder,
    world: World,
    device: torch.device,
    *,
    resume: bool,
    overwrite: bool,
    until: int | None,
    trackers: Sequence[str],
    profile: bool,
    progress: bool,
) -> RunSummary:
    # the runner and its hooks import mmengine, which is slow: a mistake in the config shows first
    if world.main:
        _check_folder(folder, config, resume, overwrite)
        _check_weights(config, resume and bool(folder.steps()))
    distributed.wait_for_all(world)
    resume = resume and bool(folder.steps())  # without a checkpoint the run begins
    seed_everything(config.seed)
    task: Task = _expect(config.task.build(), Task, "task")
    model: nn.Module = _expect(config.model.build(), nn.Module, "model")
    dataset = _data_set(config.train, "train", world)
    validation = _data_set(config.val, "val", world) if config.val else None
    if hasattr(task, "check_data"):
        task.check_data(dataset)
    notes = [_initialise(model, config.init_from)] if config.init_from and not resume else []
    ema = _place(model, config, device, world)
    optimisation = _expect_callable(config.optimizer)(model, config.iterations)
    augment = config.augment.build() if config.augment else None
    if augment is not None and not callable(augment):
        raise ConfigError(f"augment must build a transform, not a {type(augment).__name__}")
    state = TrainerState(
        model,
        optimisation.optimizer,
        torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        ema,
        world=world,
        batches_per_step=config.accumulate * world.size,
        samples=len(dataset),
    )
    if overwrite and world.main:
        folder.clear()  # only now, so that a mistake in the config doesn't cost the old run
    if resume:
        notes += resume_latest(folder, state)
        notes.append(f"resuming at step {state.step} of {config.iterations}")
    if state.rng is None and world.rank:  # the weights are the same everywhere, dropout isn't
        seed_everything(hash((config.seed, state.step, world.rank)) % 2**63)
    if world.main:
        with writing(folder):
            config.save(folder.config)

    from swath.core.data.loader import make_loader
    from swath.core.engine import hooks
    from swath.core.engine.profiling import ProfileHook
    from swath.core.engine.runner import ClippingOptimizer, QuietRunner, Trainee

    loader = make_loader(
        dataset,
        task,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        transform=augment,
        seed=config.seed,
        shuffle=True,
        start=state.step * config.batch_size * config.accumulate,
        drop_last=True,
        rank=world.rank,
        world_size=world.size,
        accumulate=config.accumulate,
    )
    started = time.monotonic()
    with Bar("training", config.iterations, start=state.step, enabled=progress) as bar:
        for note in notes:
            bar.note(note)

        def judge(judged: nn.Module) -> Mapping[str, Any]:
            figures = evaluate(
                judged,
                task,
                validation,
                batch_size=config.batch_size,
                num_workers=config.num_workers,
                device=device,
                precision=config.precision,
                world=world,
                progress=False,
                tick=lambda done, total: bar.status(f"validating {done}/{total}"),
            )
            if task.score not in figures:
                raise ConfigError(
                    f"checkpoints are compared by '{task.score}', which isn't among the figures of "
                    f"{type(task).__name__}.metrics(){suggest(task.score, list(figures))}"
                )
            # figures may be scalars of numpy's or torch's
            return {k: v.item() if getattr(v, "ndim", 1) == 0 else v for k, v in figures.items()}

        followers = [TRACKERS[name](folder, config) for name in trackers] if world.main else []
        log = hooks.LogHook(folder, config, state, bar, task.score, followers)
        profiling = [ProfileHook(folder.path, state, bar, device)] if profile and world.main else []
        runner = QuietRunner(
            Trainee(model, task, device, config, world),
            folder.path,
            loader,
            ClippingOptimizer(optimisation.optimizer, state.scaler, config.clip_norm),
            [
                hooks.ScheduleHook(state, optimisation.factor),
                hooks.AveragingHook(state),
                hooks.GuardHook(folder, state, config.log_every),
                *profiling,
                log,
                hooks.SaveHook(folder, config, state, task.score),
            ],
            {
                "state": state,
                "iterations": config.iterations,
                "until": min(until or config.iterations, config.iterations),
                "val_every": config.val_every,
                "accumulate": config.accumulate,
            },
            judge if validation is not None else None,
        )
        try:
            with contextlib.closing(log), _stop_between_steps(runner, bar):
                runner.train()
        finally:
            runner.release()
        remarks = distributed.gather(getattr(dataset, "remarks", list)(), world)
        for remark in dict.fromkeys(itertools.chain(*remarks)):
            bar.note(remark)
    return RunSummary(
        run_dir=folder.path,
        step=state.step,
        iterations=config.iterations,
        score=task.score,
        best=state.best,
        best_step=state.best_step,
        best_checkpoint=folder.best if folder.best.exists() else folder.last,
        last_checkpoint=folder.last,
        seconds=time.monotonic() - started,
        interrupted=state.step < config.iterations,
    )


def smoke(config: TrainConfig) -> TrainConfig:
    """The same run in miniature: a few steps of everything, to see that it works."""
    few = 4
    return replace(
        config,
        iterations=few,
        val_every=few // 2,
        checkpoint_every=few // 2,
        log_every=1,
        batch_size=min(config.batch_size, 2),
        num_workers=0,
        val=_first(config.val, few) if config.val else None,
        test=_first(config.test, few) if config.test else None,
    )


def seed_everything(seed: int) -> None:
    """Seed torch's, numpy's and Python's global generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - model code may use it


class First:
    """The first samples of a data set.

    Args:
        dataset: Map-style; its other attributes show through.
        count: How many at most.
    """

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset, self.count = dataset, count

    def __len__(self) -> int:
        return min(self.count, len(self.dataset))

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        sample: Sample = self.dataset[index]
        return sample

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet while being unpickled in a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _first(dataset: Spec, count: int) -> Spec:
    return Spec(First, dataset=dataset, count=count)


def _expect(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(
            f"{name} must build a {kind.__module__.split('.')[0]} {kind.__name__}, not a "
            f"{type(value).__name__}"
        )
    return value


def _expect_callable(optimizer: Spec) -> Any:
    piece = optimizer.build()
    if not callable(piece):
        raise ConfigError(
            f"optimizer must build a callable (model, iterations), not a {type(piece).__name__}; "
            "use adamw_cosine or sgd_poly of swath.core.engine.pieces"
        )
    return piece


def _data_set(spec: Spec, name: str, world: World) -> Any:
    from swath.core.data.loader import SampleStream

    dataset = spec.build()
    if isinstance(dataset, IterableDataset) and not isinstance(dataset, SampleStream):
        raise ConfigError(
            f"the {name} set ({spec!r}) is an IterableDataset, which nobody can begin in its "
            "middle; make it map-style or a swath.core.data.loader.SampleStream"
        )
    if isinstance(dataset, SampleStream) and name != "train":
        raise ConfigError(f"the {name} set ({spec!r}) is a stream, to train on; make it map-style")
    if not isinstance(dataset, SampleStream) and not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    ):
        raise ConfigError(
            f"{name} must build a data set, which has __len__ and __getitem__, not a "
            f"{type(dataset).__name__}"
        )
    if len(dataset) == 0:
        raise DataError(f"the {name} set ({spec!r}) is empty; check its folder and split")
    lengths = distributed.gather(len(dataset), world)
    if len(set(lengths)) > 1:  # the processes would share out orders that don't agree
        raise DataError(
            f"the {name} set has {shortened([str(n) for n in lengths])} samples in the processes "
            "of this run; make their copies of its files alike"
        )
    return dataset


def _check_folder(folder: RunFolder, config: TrainConfig, resume: bool, overwrite: bool) -> None:
    if not folder.holds_a_run():
        _check_foreign(folder)
    elif overwrite:
        return
    elif not resume:
        raise ConfigError(
            f"{folder.path} holds a run already; continue it with --resume, replace it with "
            "--overwrite, or choose another --run-dir"
        )
    elif folder.config.exists():
        _check_same(folder, config)


def _check_weights(config: TrainConfig, resume: bool) -> None:
    """Refuse files of weights that aren't there before a large model is built to take them."""
    files = {k: v for k, v in _texts("model", config.model) if v.endswith(WEIGHTS)}
    if config.init_from and not resume:
        files["init_from"] = config.init_from
    for key, file in files.items():
        if not is_remote(file) and not locate(file).exists():
            raise CheckpointError(
                f"{key}={file}: no such file; `swath configs NAME` says what a recipe begins with, "
                f"or give another (--set {key}=FILE)"
            )


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Texts inside of a spec by their keys, as ``--set`` has them."""
    if isinstance(value, Spec | Mapping):
        for name in value:
            yield from _texts(f"{key}.{name}", value[name])
    elif isinstance(value, str):
        yield key, value


def _check_foreign(folder: RunFolder) -> None:
    """Don't write over a ``config.json`` that something else has put there."""
    if not folder.config.exists():
        return
    try:
        ours = "task" in json.loads(folder.config.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        ours = False
    if not ours:
        raise ConfigError(f"{folder.config} isn't a run's; choose another run folder")


def _check_same(folder: RunFolder, config: TrainConfig) -> None:
    try:
        saved = dict(json.loads(folder.config.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{folder.config}: damaged ({error}); remove it and resume with the config that this "
            "run was started with"
        ) from error
    present = config.to_data()
    changed = [k for k in present if k not in _CHANGEABLE and present[k] != saved.get(k)]
    if changed:
        raise ConfigError(
            f"{folder.config}: this run was started with another {', '.join(changed)}; resume it "
            f"with the saved config (swath train {folder.config} --resume) or start a new run"
        )


def _place(
    model: nn.Module, config: TrainConfig, device: torch.device, world: World
) -> ExponentialMovingAverage | None:
    """Bring a model to its device and into the shape it is trained in; give its average."""
    if config.sync_batchnorm:
        if device.type != "cuda":
            raise ConfigError("sync_batchnorm=True needs GPUs; leave it out on a CPU")
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    ema = ExponentialMovingAverage(model, config.ema) if config.ema else None
    if config.strategy == "fsdp" and world.size > 1:
        if config.precision == "fp16":
            raise ConfigError("strategy='fsdp' needs precision 'bf16' or 'fp32', not 'fp16'")
        for each in (model, *((ema.model,) if ema else ())):
            distributed.shard(each, device, world)
    if config.compile:
        model.compile()
    return ema


def _initialise(model: nn.Module, path: str) -> str:
    """Load the weights whose name and shape fit; say what was and what wasn't."""
    weights = load_file(locate(path))
    own = model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        example = next(iter(weights), "")
        raise CheckpointError(
            f"{path}: none of its {len(weights)} tensors fits the model (it begins with "
            f"'{example}'{suggest(example, list(own)) if example else ''}"
            "); convert it first, see `swath convert --help`"
        )
    model.load_state_dict(fitting, strict=False)
    text = f"init_from {path}: {len(fitting)} of the model's {len(own)} tensors"
    for what, names in (
        ("left as initialised", [k for k in own if k not in fitting]),
        ("of another shape", [k for k in weights if k in own and k not in fitting]),
        ("unused", [k for k in weights if k not in own]),
    ):
        if names:
            text += f"; {what}: {len(names)} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
    return text


@contextlib.contextmanager
def _stop_between_steps(runner: Any, bar: Bar) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends the run after the present step; the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    owner = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != owner:
            return  # a data worker, which gets the terminal's Ctrl-C too
        if runner.train_loop.asked_to_stop:
            raise KeyboardInterrupt
        runner.train_loop.asked_to_stop = True
        bar.note("stopping after this step; press Ctrl-C again to break off without saving")

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
