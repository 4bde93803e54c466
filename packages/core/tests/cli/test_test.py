"""`swath test` on several data sets: what it prints, and what it refuses."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swath.core.cli.test import _on_data_sets, judge
from swath.core.errors import ConfigError


def test_a_figure_that_is_not_a_number_is_printed_as_a_dash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"a": {"images": 3, "mIoU": math.nan}, "mean": {"mIoU": 0.5}}
    monkeypatch.setattr("swath.core.checkpoint.store.load_pair", lambda _: (None, None, {}))
    monkeypatch.setattr("swath.core.engine.evaluation.evaluate_on", lambda *_, **__: table)
    config: Any = SimpleNamespace(
        task=SimpleNamespace(build=lambda: None), batch_size=1, num_workers=0, precision="fp32"
    )
    _on_data_sets(config, tmp_path / "x.safetensors", ["a"], tmp_path, None, None, None, False)
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines()[1:3]] == [
        ["a", "3", "-"],
        ["mean", "0.5000"],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "loveda"}, "--data needs --root"),
        (
            {"data": "loveda", "root": Path(), "tasks": "seg"},
            "--tasks is for the config's own data",
        ),
        ({"root": Path()}, "--root is where the data sets of --data are"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        judge("scenes_tiny", Path("x.safetensors"), **options)
