"""Preparing an archive in tiles a second, and feeding S4P from it in samples a second.

"prepare" rows: what one process does of the preparation, alone (reading, cutting, hashing and
encoding a GeoTIFF; looking for duplicates among as many hashes as an archive has; labelling with
swath-small; encoding masks), and the whole of it. "feed" rows: training samples of S4P at 512 px,
that is a labelled image, an unlabelled one and its partner through weak and strong views, by where
the unlabelled images are; and how many workers keep a GPU busy that makes steps of 12 such samples
in a stated time. Figures of one process are by its processor time, which other programs disturb
less.

Run:  python benchmarks/rs4p_pipeline.py [--seconds 10] [--step-s 0.25]
"""

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import torch
from common import record
from data_loading import CLASSES, write_folder
from rasterio.transform import from_origin
from torch import nn

from swath.core import load_model
from swath.core.data.loader import make_loader
from swath.core.data.segmentation import FolderSegmentation
from swath.core.inference.predictor import Predictor
from swath.core.progress import Bar
from swath.core.segmentation import SegmentationTask
from swath.pretrain.rs4p.dataset import ShardDataset, UnlabelledFolder
from swath.pretrain.rs4p.duplicates import DuplicateIndex
from swath.pretrain.rs4p.pipeline import prepare
from swath.pretrain.rs4p.recipe import Recipe
from swath.pretrain.rs4p.samples import Labelled, encode
from swath.pretrain.rs4p.sources import Cutting, Plan, Tile, cut, find_scenes, measure
from swath.pretrain.semi_supervised import SemiSupervised
from swath.pretrain.task import S4PTask
from swath.pretrain.views import S4PViews

SIDE = 512
BATCH = 12


def write_scene(path: Path, folder: Path, across: int) -> None:
    """A tiled GeoTIFF of the folder's images side by side, each turned or mirrored another way."""
    images = [cv2.imread(str(p))[..., ::-1] for p in sorted((folder / "images").iterdir())]
    place = {"crs": "EPSG:32736", "transform": from_origin(450_000, 40_000, 0.3, 0.3)}
    tiling = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    side = across * SIDE
    with rasterio.open(path, "w", "GTiff", side, side, 3, dtype="uint8", **place, **tiling) as sink:
        for number, (row, column) in enumerate(itertools.product(range(across), repeat=2)):
            image = np.rot90(images[number % len(images)], number // len(images))
            window = rasterio.windows.Window(column * SIDE, row * SIDE, SIDE, SIDE)
            sink.write(image.transpose(2, 0, 1), window=window)


def rate(call: Callable[[], Any], units: int, seconds: float) -> float:
    """Units a second of processor time, the best of three turns."""
    best = 0.0
    for _ in range(3):
        start, done = time.process_time(), 0
        while not done or time.process_time() - start < seconds / 3:
            call()
            done += units
        best = max(best, done / (time.process_time() - start))
    return best


def preparing(root: Path, hashes: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Tiles a second of each stage in one process, and of all of it."""
    scene = root / "scene.tif"
    cutting = Cutting()
    plan = Plan(find_scenes([scene]), np.array(measure(find_scenes([scene]), cutting)), cutting)
    places = [plan[i] for i in range(len(plan))]
    yield _row("cut, hash, encode JPEG", rate(lambda: cut(places[:16], cutting), 16, seconds))
    tiles = [tile for tile in cut(places[:16], cutting) if isinstance(tile, Tile)]

    index = DuplicateIndex(4)
    random = np.random.default_rng(0).integers(0, 2**64, hashes, dtype=np.uint64).tolist()
    for number, value in enumerate(random):
        index.add(value, number)
    queries = [value ^ 0b1011 for value in random[:1000]]
    found = [index.find(value) for value in queries]
    assert found == list(range(1000)), "a duplicate was overlooked"
    yield _row(
        f"look for duplicates among {hashes:,}",
        rate(lambda: [index.find(value) for value in queries], 1000, seconds),
    )

    model = load_model("swath-small", device="cpu")
    batch = model.task.collate([_sample(tile) for tile in tiles[:8]])
    with torch.inference_mode():
        labels = rate(lambda: model.task.predict(model.model, batch), 8, seconds)
        scores = torch.stack(model.task.predict(model.model, batch)).softmax(1).max(1)
    yield _row("label with swath-small, one thread", labels)
    masks = scores.indices.to(torch.uint8).numpy()
    sure = (scores.values * 255).round().to(torch.uint8).numpy()
    labelled = [
        Labelled(0, t.place, t.encoded, t.suffix, t.meta, mask, confidence, len(model.classes))
        for t, mask, confidence in zip(tiles, masks, sure, strict=False)
    ]
    encoding = rate(lambda: [encode(item) for item in labelled], len(labelled), seconds)
    yield _row("encode mask and confidence", encoding)
    recipe = Recipe(min_confident=0.0, duplicate_bits=-1)
    for name, labeller in (("no model to speak of", flat_model()), ("swath-small", model)):
        for workers in (0, 2):
            start = time.perf_counter()
            out = root / f"whole-{labeller is model}-{workers}"
            done = prepare([scene], out, labeller, recipe, workers=workers)
            # by the clock, and with the start of the workers
            speed = done.samples / (time.perf_counter() - start)
            yield _row(f"all of it, {name}, {workers} workers (clock)", speed)


def _sample(tile: Tile) -> Any:
    from swath.core.sample import Sample

    return Sample(torch.from_numpy(tile.pixels))


def flat_model() -> Predictor:
    """A model that costs nothing: what is measured is everything else."""
    return Predictor(nn.Conv2d(3, len(CLASSES), 1), SegmentationTask(CLASSES), {"name": "flat"})


def feeding(root: Path, step_s: float, seconds: float) -> Iterator[dict[str, Any]]:
    """Training samples a second of one worker, by where the unlabelled images are."""
    labelled = FolderSegmentation(root / "png/images", root / "png/masks", classes=CLASSES)
    for name, unlabelled in (
        ("folder of PNG", UnlabelledFolder(root / "png/images")),
        ("shards of PNG", ShardDataset(root / "shards-png")),
        ("folder of JPEG", UnlabelledFolder(root / "jpg/images")),
        ("shards of JPEG", ShardDataset(root / "shards-jpg")),
    ):
        reading = rate(lambda d=unlabelled: [d[i] for i in range(len(d))], len(unlabelled), seconds)
        for cutmix in (0.5, 1.0):
            loader = make_loader(
                SemiSupervised(labelled, unlabelled, cutmix=cutmix),
                S4PTask(classes=CLASSES),
                batch_size=BATCH,
                transform=S4PViews(SIDE),
                shuffle=True,
            )
            batches = iter(loader)
            speed = rate(lambda b=batches: next(b), BATCH, seconds)
            yield _row(
                f"feed: {name}, partner for {cutmix:.0%}",
                speed,
                reading,
                math.ceil(BATCH / step_s / speed),
            )


def _row(
    what: str, per_s: float, reading: float | None = None, workers: int | None = None
) -> dict[str, Any]:
    return {
        "what": what,
        "per_s": round(per_s, 1),
        "images_read_per_s": "" if reading is None else round(reading, 1),
        "workers_for_a_gpu": "" if workers is None else workers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--step-s", type=float, default=0.25, help="the GPU's time for a step")
    parser.add_argument("--images", type=int, default=24, help="different tiles")
    parser.add_argument("--across", type=int, default=10, help="tiles along a side of the scene")
    parser.add_argument("--hashes", type=int, default=1_000_000, help="tiles of the archive")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder, Bar("measuring", 16, "figures") as bar:
        root = Path(folder)
        write_folder(root / "png", options.images, SIDE)
        (root / "jpg/images").mkdir(parents=True)
        for path in (root / "png/images").iterdir():
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            cv2.imwrite(str(root / f"jpg/images/{path.stem}.jpg"), cv2.imread(str(path)), quality)
        write_scene(root / "scene.tif", root / "png", options.across)
        everything = Recipe(min_confident=0.0, duplicate_bits=-1)
        for kind in ("png", "jpg"):
            source, target = root / kind / "images", root / f"shards-{kind}"
            prepare([source], target, flat_model(), everything, workers=0)
        for row in itertools.chain(
            preparing(root, options.hashes, options.seconds),
            feeding(root, options.step_s, options.seconds),
        ):
            rows.append(row)
            bar.advance()
    record(
        "rs4p_pipeline",
        rows,
        tile_px=SIDE,
        images_per_step=f"{BATCH} labelled, {BATCH} unlabelled, up to {BATCH} partners",
        step_s=options.step_s,
        seconds_per_figure=options.seconds,
    )


if __name__ == "__main__":
    main()
