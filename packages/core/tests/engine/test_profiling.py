import json
from collections.abc import Callable
from pathlib import Path

import pytest

from swath.core.config import TrainConfig
from swath.core.engine import train

Toy = Callable[..., TrainConfig]


def test_the_costs_of_a_step_are_named_and_add_up_to_no_more_than_it(
    toy: Toy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(toy(iterations=15, val=None), tmp_path / "run", profile=True)
    content = json.loads((tmp_path / "run" / "profile.json").read_text())
    costs = content["costs"]
    assert [cost["s"] for cost in costs] == sorted((c["s"] for c in costs), reverse=True)
    assert 0.3 < sum(cost["share"] for cost in costs) < 1.1
    assert any("convolution" in cost["name"] for cost in costs)
    assert {"traceEvents"} <= set(json.loads((tmp_path / "run" / "trace.json").read_text()))
    largest = [cost["name"] for cost in costs[:3]]
    shown = capfd.readouterr().err
    assert all(name in shown for name in largest)


def test_profiling_does_not_change_what_is_learnt(toy: Toy, tmp_path: Path) -> None:
    for name, profile in (("plain", False), ("profiled", True)):
        train(toy(iterations=14), tmp_path / name, profile=profile, progress=False)
    plain, profiled = (tmp_path / name / "last.safetensors" for name in ("plain", "profiled"))
    assert plain.read_bytes() == profiled.read_bytes()
