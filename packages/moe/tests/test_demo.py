import json
from pathlib import Path

import pytest

from swath.core.data.scenes import OBJECT_CLASSES
from swath.core.errors import ConfigError
from swath.moe.demo import run


def test_the_demo_leaves_a_model_its_figures_and_a_report(tmp_path: Path) -> None:
    files = run(tmp_path / "demo", quick=True, device="cpu")
    metrics = json.loads(files.metrics.read_text())
    # a quick test set is its first four scenes
    assert list(metrics["domains"]["per_task"]) == ["temperate"]
    assert set(metrics["boxes"]["per_class"]) == set(OBJECT_CLASSES)
    assert (files.run / "best.safetensors").exists()
    assert files.objects.exists()
    report = files.report.read_text()
    for text in (
        "as urban",
        "as coastal",
        "Classes of arid",
        "Oriented boxes",
        "swath moe add-expert",
    ):
        assert text in report
    with pytest.raises(ConfigError, match="--overwrite"):
        run(tmp_path / "demo", quick=True, device="cpu")
