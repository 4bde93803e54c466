"""Samples a second: our data loading against the same pipeline written on torchvision v2.

Both read the same folder of PNG images and masks, cut a random window, flip and turn, change
brightness and contrast, normalise, and collate. "zoom" pipelines also scale by 0.5 to 2 first.
Without workers it is samples a second of processor time, which other programs disturb less; each
figure is the best of several turns.

Run:  python benchmarks/data_loading.py [--seconds 10]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import record
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from swath.core.data.loader import make_loader
from swath.core.data.segmentation import FolderSegmentation
from swath.core.data.transforms import ColorJitter, Dihedral, RandomCropPad, RandomScaledCrop
from swath.core.progress import track
from swath.core.segmentation import SegmentationTask

CLASSES = ("ground", "field", "forest", "water", "road", "building")
BATCH_SIZE = 8
TURNS = 4


def write_folder(root: Path, count: int, side: int) -> None:
    """PNG tiles that compress like imagery: smooth noise with regions."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i in range(count):
        regions = cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), 24)
        ranks = np.searchsorted(np.quantile(regions, np.linspace(0, 1, 7)[1:-1]), regions)
        colours = rng.integers(40, 200, (len(CLASSES), 3))
        texture = cv2.GaussianBlur(rng.normal(0, 30, (side, side, 3)).astype(np.float32), (0, 0), 2)
        image = np.clip(colours[ranks] + 4 * texture, 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "images" / f"{i:03}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{i:03}.png"), ranks.astype(np.uint8))


class TorchvisionFolder(Dataset[Any]):
    """What one would write by hand on torchvision v2."""

    def __init__(self, root: Path, size: int, zoom: bool) -> None:
        self.images = sorted((root / "images").iterdir())
        self.masks = sorted((root / "masks").iterdir())
        resize = [v2.ScaleJitter((size, size), (0.5, 2.0))] if zoom else []
        self.transform = v2.Compose(
            [
                *resize,
                v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomChoice([v2.Identity(), v2.RandomRotation((90, 90))]),
                v2.ColorJitter(0.2, 0.2),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = tv_tensors.Image(decode_image(str(self.images[index]), ImageReadMode.RGB))
        mask = tv_tensors.Mask(decode_image(str(self.masks[index]), ImageReadMode.UNCHANGED)[0])
        image, mask = self.transform(image, mask)
        return image, mask.long()


def torchvision_batches(root: Path, size: int, zoom: bool, workers: int) -> Iterator[Any]:
    dataset = TorchvisionFolder(root, size, zoom)
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**9)
    return iter(
        DataLoader(
            dataset,
            BATCH_SIZE,
            sampler=sampler,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            persistent_workers=workers > 0,
        )
    )


def swath_batches(root: Path, size: int, zoom: bool, workers: int) -> Iterator[Any]:
    crop = RandomScaledCrop(size, scale=(0.5, 2.0)) if zoom else RandomCropPad(size)
    return iter(
        make_loader(
            FolderSegmentation(root / "images", root / "masks", classes=CLASSES),
            SegmentationTask(CLASSES),
            batch_size=BATCH_SIZE,
            num_workers=workers,
            transform=v2.Compose([crop, Dihedral(), ColorJitter(0.2, 0.2)]),
            shuffle=True,
        )
    )


def rate(batches: Iterator[Any], seconds: float, workers: int) -> float:
    """Samples a second in the steady state."""
    clock = time.perf_counter if workers else time.process_time
    for _ in islice(batches, 4):
        pass
    start, count = clock(), 0
    while clock() - start < seconds:
        next(batches)
        count += BATCH_SIZE
    return count / (clock() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, side in ((256, 512), (512, 1024)):
            write_folder(Path(folder) / str(size), 24, side)
        cases = [(s, z, w) for s in (256, 512) for z in (False, True) for w in (0, 2)]
        for size, zoom, workers in track(cases, "measuring", unit="cases"):
            root = Path(folder) / str(size)
            # several times in turn, so that a disturbance doesn't hit one of them alone
            best = dict.fromkeys((swath_batches, torchvision_batches), 0.0)
            for _ in range(TURNS):
                for batches in best:
                    found = rate(batches(root, size, zoom, workers), seconds / TURNS / 2, workers)
                    best[batches] = max(best[batches], found)
            ours, theirs = best.values()
            rows.append(
                {
                    "crop_px": size,
                    "tile_px": 2 * size,
                    "pipeline": "zoom" if zoom else "crop",
                    "workers": workers,
                    "swath_per_s": round(ours, 1),
                    "torchvision_per_s": round(theirs, 1),
                    "ratio": round(ours / theirs, 2),
                }
            )
    record("data_loading", rows, batch_size=BATCH_SIZE, seconds_per_case=seconds)


if __name__ == "__main__":
    main()
