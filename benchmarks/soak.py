"""One process for a long time: thousands of predictions, hours of training. Does anything grow?

    python benchmarks/soak.py --predictions 5000 --minutes 120

Predictions of a small U-Net, written as GeoTIFF and GeoPackage in turn; then training runs one
after the other on synthetic scenes with a loader process, validation and checkpoints. Memory that
is in use is noted after each; its slope is that of a line through the second half of the notes, the
first half being allocators' and caches' time to settle. Writes ``results/soak_predictions.json``
and ``results/soak_training.json``, each when it is through; 0 leaves one out.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
import torch
from common import record
from rasterio.crs import CRS
from rasterio.transform import Affine

from swath.core.config import TrainConfig
from swath.core.data.scenes import CLASSES, SceneDataset
from swath.core.engine import train
from swath.core.engine.pieces import adamw_cosine
from swath.core.inference.predictor import Predictor
from swath.core.models.unet import UNet
from swath.core.progress import track
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec


def main() -> None:
    """Predict, train, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--predictions", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=120)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, count, minutes = Path(name), arguments.predictions, arguments.minutes
        if count:
            row = watch("predictions", predictions(folder), range(count))
            record("soak_predictions", [row])
        if minutes:
            row = watch("training runs", training_runs(folder), until(60 * minutes))
            record("soak_training", [row], minutes=minutes)


def watch(what: str, act: Callable[[int], object], numbers: Any) -> dict[str, Any]:
    """Do something for every number, and fit a line to the memory it leaves in use."""
    process, notes = psutil.Process(), []
    files, threads = set(), set()
    for number in track(numbers, what):
        act(number)
        notes.append(process.memory_info().rss / 1e6)
        if number >= 10:
            files.add(process.num_fds())
            threads.add(threading.active_count())
    half = notes[len(notes) // 2 :]
    slope = np.polynomial.Polynomial.fit(range(len(half)), half, 1).convert().coef[1]
    return {
        "what": what,
        "times": len(notes),
        "mb_at_the_end": round(notes[-1], 1),
        "mb_per_1000": round(1000 * float(slope), 3) + 0.0,
        "open_files": "-".join(map(str, sorted({min(files), max(files)}))),
        "threads": "-".join(map(str, sorted({min(threads), max(threads)}))),
    }


def until(seconds: float) -> Iterator[int]:
    """Numbers, for so long; a dozen at least."""
    end, number = time.monotonic() + seconds, 0
    while number < 12 or time.monotonic() < end:
        yield number
        number += 1


def predictions(folder: Path) -> Callable[[int], object]:
    """Maps a scene of 192 x 192 pixels."""
    scene = folder / "scene.tif"
    place = {"crs": CRS.from_epsg(32633), "transform": Affine(0.3, 0, 4e5, 0, -0.3, 5e6)}
    pixels = np.random.default_rng(0).integers(1, 255, (3, 192, 192), dtype=np.uint8)
    shape = {"width": 192, "height": 192, "count": 3, "dtype": "uint8"}
    with rasterio.open(scene, "w", driver="GTiff", **shape, **place) as file:
        file.write(pixels)
    model = UNet(in_channels=3, num_classes=2, width=4, depth=1)
    predictor = Predictor(model, SegmentationTask(["ground", "roof"]))

    def predict(number: int) -> None:
        result = predictor.predict(scene, tile=160)
        result.save(folder / ("map.gpkg" if number % 50 == 49 else "map.tif"))

    return predict


def training_runs(folder: Path) -> Callable[[int], object]:
    """Trains for forty steps."""
    config = TrainConfig(
        model=Spec(UNet, in_channels=3, num_classes=len(CLASSES), width=8, depth=2),
        task=Spec(SegmentationTask, classes=list(CLASSES)),
        train=Spec(SceneDataset, size=64, count=32, seed=1),
        val=Spec(SceneDataset, size=64, count=4, seed=2),
        optimizer=adamw_cosine(lr=1e-3),
        iterations=40,
        batch_size=4,
        num_workers=1,
        val_every=20,
        checkpoint_every=20,
        ema=0.9,
    )
    return lambda number: train(config, folder / "run", overwrite=True, progress=False)


if __name__ == "__main__":
    main()
