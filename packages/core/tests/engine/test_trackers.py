import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swath.core.config import TrainConfig
from swath.core.engine import train
from swath.core.errors import ConfigError, MissingDependencyError

Toy = Callable[..., TrainConfig]


def test_tensorboard_gets_the_figures_of_the_log_at_their_steps(toy: Toy, tmp_path: Path) -> None:
    train(toy(iterations=4), tmp_path / "run", trackers=["tensorboard"], progress=False)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "val/mIoU"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4]
    assert [event.step for event in events.Scalars("val/mIoU")] == [4]


def test_an_unknown_tracker_is_refused_before_anything_is_written(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'wandbb' is unknown; did you mean 'wandb'"):
        train(toy(), tmp_path / "run", trackers=["wandbb"], progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_says_what_to_install(
    toy: Toy, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without(module: str, *rest: Any) -> Any:
        if module == name:
            raise ModuleNotFoundError(module)
        return real(module, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'swath-core\[{name}\]'"):
        train(toy(), tmp_path / "run", trackers=[name], progress=False)
