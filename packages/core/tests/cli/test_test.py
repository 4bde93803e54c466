"""`swath test` on several data sets: what it prints."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swath.core.cli.test import _on_data_sets


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
