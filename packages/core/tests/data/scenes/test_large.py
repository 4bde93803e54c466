from pathlib import Path

import numpy as np
import pytest
import rasterio

from swath.core.data.scenes import CLASSES, DOMAINS, render_large
from swath.core.data.scenes.paint import Painter, Sensor
from swath.core.data.scenes.plan import Plan
from swath.core.data.scenes.world import lay_out_region
from swath.core.errors import DataError


def test_writes_a_georeferenced_scene_and_its_truth(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    truth = render_large(path, seed=4, height=300, width=420, domain="urban", crs="EPSG:32637")
    with rasterio.open(path) as scene, rasterio.open(truth) as labels:
        gsd_m = DOMAINS["urban"].gsd_m[0]
        assert (scene.height, scene.width, scene.count) == (300, 420, 3)
        assert scene.crs.to_epsg() == labels.crs.to_epsg() == 32637
        assert scene.transform == labels.transform
        assert scene.res == (gsd_m, gsd_m)
        assert labels.nodata == 255
        assert labels.read(1).max() < len(CLASSES)
        assert scene.read().std() > 10


def test_windows_fit_together() -> None:
    plan = Plan(500, 500, 0.5, DOMAINS["temperate"], 9)
    sensor = Sensor(plan)
    lay_out_region(plan)
    painter = Painter(plan, sensor)
    whole = painter.window(0, 0, 400, 400)
    for row, col, height, width in ((0, 0, 160, 200), (272, 300, 128, 100), (37, 91, 128, 128)):
        part = painter.window(row, col, height, width)
        place = (slice(row, row + height), slice(col, col + width))
        assert np.array_equal(part.mask, whole.mask[place])
        assert np.array_equal(part.planes, whole.planes[:, *place])


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        render_large(tmp_path / f"{name}.tif", seed=6, height=96, width=128)
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        assert np.array_equal(a.read(), b.read())


@pytest.mark.parametrize("arguments", [{"domain": "x"}, {"class_set": "x"}, {"height": 3}])
def test_refuses_what_cannot_be(tmp_path: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(DataError):
        render_large(tmp_path / "x.tif", **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
