import json
from pathlib import Path

import pytest

from swath.core.errors import ConfigError
from swath.mtl.demo import run


def test_the_demo_leaves_a_model_three_results_and_a_report(tmp_path: Path) -> None:
    files = run(tmp_path / "demo", quick=True, device="cpu")
    metrics = json.loads(files.metrics.read_text())
    assert {"cls/kinds/top1", "seg/cover/mF1"} <= set(metrics)
    written = {path.name for path in files.results.iterdir()}
    assert {"cls.json", "det.gpkg", "seg.tif"} <= written
    report = files.report.read_text()
    for text in ("three answers", "for det", "strongest channels", "--task cls,det,seg"):
        assert text in report
    with pytest.raises(ConfigError, match="--overwrite"):
        run(tmp_path / "demo", quick=True, device="cpu")
