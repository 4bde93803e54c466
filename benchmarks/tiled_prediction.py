"""Speed and memory of tiled prediction against one forward pass over the whole image.

Run:  OMP_NUM_THREADS=1 python benchmarks/tiled_prediction.py [--side 3072] [--threads 1]

Claim: at least 0.9 of the untiled speed (users.md row 2). Tiled means what a user gets: reading a
GeoTIFF, tiles with blended overlaps, and writing the mask GeoTIFF with its overviews; untiled is
the bare model and the argmax over an image in memory that is scaled already. Ratios are to the
untiled forward in the memory format that tiled prediction chooses too, channels last. Times are the
best of several; ``cpu_s`` is the processor time of all threads, which other programs disturb less.
Each line runs in a process of its own; ``start_mb`` is what the imports alone take.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from common import record
from rasterio.crs import CRS
from rasterio.transform import Affine

CLASSES = 5
WAYS = ("untiled channels_last", "untiled", "512", "768", "1024", "1536", "auto")


def make(path: Path, side: int) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(1, 255, (3, side // 32 + 1, side // 32 + 1))
    image = np.kron(coarse, np.ones((1, 32, 32)))[:, :side, :side]
    image = (image + rng.normal(0, 8, image.shape)).clip(1, 255).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", tiled=True,
        crs=CRS.from_epsg(32633), transform=Affine(0.3, 0, 4e5, 0, -0.3, 5.2e6),
        blockxsize=512, blockysize=512, compress="deflate", interleave="pixel",
    ) as target:  # fmt: skip
        target.write(image)


def measure(way: str, image: Path, threads: int, repeats: int) -> dict[str, Any]:
    import torch

    from swath.core.data.radiometry import Radiometry
    from swath.core.geo.raster import read_image
    from swath.core.inference.predictor import Predictor
    from swath.core.models.unet import UNet
    from swath.core.segmentation import SegmentationTask

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = UNet(3, CLASSES, width=16, depth=3, stem_stride=2).eval()
    task = SegmentationTask([f"c{i}" for i in range(CLASSES)], Radiometry.rgb8())
    start_mb = peak_mb()
    if way.startswith("untiled"):
        order = torch.channels_last if way.endswith("channels_last") else torch.contiguous_format
        model = model.to(memory_format=order)
        scaled = task.radiometry(torch.from_numpy(read_image(image).array))[None]
        scaled = scaled.contiguous(memory_format=order)

        def run() -> None:
            with torch.inference_mode():
                model(scaled).max(dim=1).indices.to(torch.uint8).numpy()
    else:
        predictor = Predictor(model, task)
        tile: Any = way if way == "auto" else int(way)

        def run() -> None:
            predictor.predict(image, tile=tile, out=image.with_name(f"mask{way}.tif"))

    return timed(run, repeats) | {"start_mb": start_mb, "peak_mb": peak_mb()}


def timed(run: Callable[[], None], repeats: int) -> dict[str, float]:
    """Least wall and processor seconds of a call, after one that doesn't count."""
    run()
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return {"wall_s": min(walls), "cpu_s": min(processors)}


def peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=3072)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help="The first is compared to.")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "IMAGE"))
    arguments = parser.parse_args()
    if arguments.one:
        way, image = arguments.one
        print(json.dumps(measure(way, Path(image), arguments.threads, arguments.repeats)))
        return
    pixels = arguments.side**2 / 1e6
    options = ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        make(path, arguments.side)
        for way in arguments.ways:
            command = [sys.executable, __file__, *options, "--one", way, str(path)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found = json.loads(done.stdout)
            first = rows[0] if rows else found
            rows.append(
                {"tile": way}
                | {key: round(value, 3) for key, value in found.items()}
                | {
                    "mpix_per_s": round(pixels / found["wall_s"], 3),
                    "ratio": round(first["wall_s"] / found["wall_s"], 3),
                    "cpu_ratio": round(first["cpu_s"] / found["cpu_s"], 3),
                }
            )
            print(rows[-1], flush=True)
    model = f"UNet(3, {CLASSES}, width=16, depth=3, stem_stride=2)"
    record("tiled_prediction", rows, model=model, side=arguments.side, threads=arguments.threads)


if __name__ == "__main__":
    main()
