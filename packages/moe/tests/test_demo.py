import json
from pathlib import Path

import pytest

from swath.core.errors import ConfigError
from swath.moe.demo import run


def test_the_demo_leaves_a_model_its_figures_and_a_report(tmp_path: Path) -> None:
    files = run(tmp_path / "demo", quick=True, device="cpu")
    metrics = json.loads(files.metrics.read_text())
    assert list(metrics["per_task"]) == ["temperate"]  # a quick test set is its first four scenes
    assert (files.run / "best.safetensors").exists()
    report = files.report.read_text()
    for text in ("as urban", "as coastal", "Classes of arid", "swath moe add-expert"):
        assert text in report
    with pytest.raises(ConfigError, match="--overwrite"):
        run(tmp_path / "demo", quick=True, device="cpu")
