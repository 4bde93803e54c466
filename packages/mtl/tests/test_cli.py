"""The verbs with several tasks, as a user types them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from swath.core.cli.app import main
from swath.core.config import TrainConfig
from swath.core.engine import train


def swath(*arguments: str) -> int:
    """The exit code of the command."""
    before, sys.argv = sys.argv, ["swath", *arguments]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def scene(path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 96, 128), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=128, height=96, count=3, dtype="uint8",
        crs="EPSG:32636", transform=from_origin(400_000, 50_000, 0.5, 0.5),
    ) as raster:  # fmt: skip
        raster.write(pixels)
    return path


def test_three_georeferenced_results_and_figures_of_chosen_tasks(
    tiny: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig.from_data(tiny.to_data())
    config.iterations, config.val_every = 2, 2
    config.val = None
    train(config, tmp_path / "run", progress=False)
    best, image = str(tmp_path / "run/last.safetensors"), str(scene(tmp_path / "scene.tif"))
    out = tmp_path / "results"
    assert swath("predict", best, image, "-o", str(out), "--tasks", "cls", "det", "seg") == 0
    with rasterio.open(out / "seg.tif") as mask, rasterio.open(image) as given:
        assert (mask.crs, mask.transform, mask.shape) == (given.crs, given.transform, given.shape)
    answer = json.loads((out / "cls.json").read_text())
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-4)
    import geopandas

    assert geopandas.read_file(out / "det.gpkg").crs == "EPSG:32636"

    for options, message in (
        (("-o", str(tmp_path / "answers.tif")), "go into a folder; leave '.tif' out"),
        (("-o", str(tmp_path / "answers.GPKG")), "go into a folder; leave '.GPKG' out"),
        (("--vector", str(tmp_path / "answers.gpkg")), "go into a folder; leave '.gpkg' out"),
        (("--probabilities",), "not of several tasks results"),
    ):
        assert swath("predict", best, image, "--tasks", "cls", "seg", *options) == 2
        assert message in capsys.readouterr().err
    assert not [*tmp_path.glob("answers*"), *tmp_path.glob("scene_*")]

    assert swath("predict", best, image, "--tasks", "seg") == 0
    assert (tmp_path / "scene_mask.tif").exists()
    capsys.readouterr()
    assert swath("predict", best, image, "--tasks", "cls", "sag") == 2
    assert "no task 'sag'; did you mean 'seg'" in capsys.readouterr().err


def test_some_tasks_alone_can_be_tested(
    tiny: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig.from_data(tiny.to_data())
    config.iterations, config.val_every = 1, 9
    run = tmp_path / "run"
    train(config, run, progress=False)
    arguments = ("test", str(run), str(run), "--split", "val", "--tasks", "cls", "seg", "--json")
    capsys.readouterr()
    assert swath(*arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"cls/kinds/top1", "seg/cover/mF1", "score"} <= set(figures)
    assert not any(name.startswith("det/") for name in figures)
    torch.testing.assert_close(
        figures["score"], (figures["cls/kinds/top1"] + figures["seg/cover/mF1"]) / 2
    )
