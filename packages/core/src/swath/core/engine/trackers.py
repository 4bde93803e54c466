"""Where a run's figures can be followed besides ``log.jsonl``: TensorBoard, W&B, MLflow.

Each is an optional dependency and writes into the run's folder unless its own environment variables
(``WANDB_MODE``, ``MLFLOW_TRACKING_URI``, ...) say otherwise.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from swath.core.checkpoint.fetch import offline
from swath.core.config import TrainConfig
from swath.core.engine.checkpointing import RunFolder
from swath.core.errors import ConfigError, MissingDependencyError, suggest


class Tracker(Protocol):
    """Takes figures by step."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Record figures, named like ``"train/loss"`` and ``"val/mIoU"``."""

    def close(self) -> None:
        """Everything is written when this returns."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder."""

    def __init__(self, folder: RunFolder, config: TrainConfig) -> None:
        module = _require("torch.utils.tensorboard", "tensorboard")
        self.writer = module.SummaryWriter(str(folder.tensorboard))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        self.writer.close()


class WeightsAndBiases:
    """A run of W&B, named like the folder; a resumed run goes on under the same id."""

    def __init__(self, folder: RunFolder, config: TrainConfig) -> None:
        wandb = _require("wandb", "wandb")
        if offline():
            os.environ.setdefault("WANDB_MODE", "offline")
        self.run = wandb.init(
            dir=str(folder.path),
            name=folder.path.name,
            id=f"{folder.path.name}-{config.hash}",
            config=config.to_data(),
            resume="allow",
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self.run.finish()


class MLflow:
    """A run of MLflow; in ``mlflow.db`` of the folder unless ``MLFLOW_TRACKING_URI`` is set."""

    def __init__(self, folder: RunFolder, config: TrainConfig) -> None:
        mlflow = _require("mlflow", "mlflow")
        default = f"sqlite:///{folder.path.resolve() / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", default))
        experiment = self.client.get_experiment_by_name("swath")
        number = experiment.experiment_id if experiment else self.client.create_experiment("swath")
        run = self.client.create_run(number, run_name=folder.path.name)
        self.run_id = run.info.run_id
        self.client.log_param(self.run_id, "config", config.hash)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in figures.items():
            self.client.log_metric(self.run_id, name, value, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self.client.set_terminated(self.run_id)


TRACKERS: dict[str, type[TensorBoard] | type[WeightsAndBiases] | type[MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
"""What ``swath train --track`` knows."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that isn't in `TRACKERS`."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"tracker '{name}' is unknown{suggest(name, list(TRACKERS))}")


def _require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"--track {package} needs the package {package}: pip install 'swath-core[{package}]'"
        ) from error
