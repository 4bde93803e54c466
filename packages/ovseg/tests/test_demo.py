import json
from pathlib import Path

import pytest
import rasterio

from swath.core.errors import ConfigError
from swath.ovseg.demo import run


def test_the_demo_leaves_a_model_a_map_cost_maps_and_a_report(tmp_path: Path) -> None:
    files = run(tmp_path / "demo", quick=True, device="cpu")
    assert "mIoU" in json.loads(files.metrics.read_text())
    assert (files.run / "best.safetensors").exists()
    with rasterio.open(files.map) as written, rasterio.open(files.scene) as scene:
        assert (written.crs, written.transform) == (scene.crs, scene.transform)
    assert (files.costs / "cost_maps.png").exists()
    report = files.report.read_text()
    for text in ("Words as classes", "Cost maps", "background", "--save-cost-maps"):
        assert text in report
    with pytest.raises(ConfigError, match="--overwrite"):
        run(tmp_path / "demo", quick=True, device="cpu")
