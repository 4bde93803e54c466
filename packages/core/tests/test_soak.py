"""What one process does again and again leaves nothing behind; see also `benchmarks/soak.py`."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
import torch
from rasterio.crs import CRS
from rasterio.transform import Affine

from swath.core.config import TrainConfig
from swath.core.data.scenes import CLASSES, SceneDataset
from swath.core.engine import train
from swath.core.engine.pieces import adamw_cosine
from swath.core.inference.predictor import Predictor
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

torch.set_num_threads(1)


def held() -> dict[str, int]:
    """Files, threads and child processes of this process."""
    for thread in threading.enumerate():
        if thread.name == "QueueFeederThread":  # ends by itself, a moment after the queue's loader
            thread.join(timeout=10)
    process = psutil.Process()
    return {
        "files": process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
        "threads": threading.active_count(),
        "children": len(process.children()),
    }


def assert_nothing_is_left(
    act: Callable[[int], object], warmup: int, times: int, growth_mb: float
) -> None:
    for number in range(warmup):
        act(number)
    before, rss = held(), psutil.Process().memory_info().rss
    for number in range(warmup, warmup + times):
        act(number)
    grown = (psutil.Process().memory_info().rss - rss) / 1e6
    print(f"{times} times: {grown:.1f} MB more, {before}")
    assert held() == before
    assert grown < growth_mb


def test_predictions_leave_nothing_behind(tmp_path: Path) -> None:
    scene = tmp_path / "scene.tif"
    place = {"crs": CRS.from_epsg(32633), "transform": Affine(0.3, 0, 4e5, 0, -0.3, 5e6)}
    pixels = np.random.default_rng(0).integers(1, 255, (3, 256, 256), dtype=np.uint8)
    with rasterio.open(
        scene, "w", driver="GTiff", width=256, height=256, count=3, dtype="uint8", **place
    ) as file:
        file.write(pixels)
    model = UNet(in_channels=3, num_classes=2, width=4, depth=1)
    predictor = Predictor(model, SegmentationTask(["ground", "roof"]))

    def predict(number: int) -> None:
        predictor.predict(scene).save(tmp_path / "map.tif")

    # a scene that is kept would be 0.2 MB a time, its scores 0.5
    assert_nothing_is_left(predict, warmup=10, times=40, growth_mb=6)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_runs_leave_nothing_behind(tmp_path: Path, workers: int) -> None:
    config = TrainConfig(
        model=Spec(UNet, in_channels=3, num_classes=len(CLASSES), width=4, depth=1),
        task=Spec(SegmentationTask, classes=list(CLASSES)),
        train=Spec(SceneDataset, size=32, count=8, seed=1),
        val=Spec(SceneDataset, size=32, count=2, seed=2),
        optimizer=adamw_cosine(lr=1e-3),
        iterations=2,
        batch_size=2,
        num_workers=workers,
    )
    assert_nothing_is_left(
        lambda number: train(config, tmp_path / str(number), progress=False),
        warmup=2,
        times=4,
        growth_mb=6,
    )
