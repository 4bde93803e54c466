"""Peak memory of predicting and vectorising a 30,000 x 30,000 x 3 raster with 16 classes.

Run:  python benchmarks/memory_30k.py [--sizes 30000x30000 60000x6000] [--fill 1.0] [--folder DIR]

Claim: under 1.5 GB of resident memory, and at most 20 % more at 60,000 wide (users.md row 2); under
1 GB for vectorising (row 5). The raster repeats a small textured tile in a share ``--fill`` of its
blocks; the others are sparse and nodata. Each step runs in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from common import record
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

CLASSES = 16
BLOCK = 512


def make(path: Path, width: int, height: int, fill: float) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(1, 255, (3, 16, 16))
    texture = np.kron(coarse, np.ones((1, 32, 32))).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", nodata=0,
        crs=CRS.from_epsg(32633), transform=Affine(0.3, 0, 4e5, 0, -0.3, 5.2e6), tiled=True,
        blockxsize=BLOCK, blockysize=BLOCK, compress="deflate", interleave="pixel", sparse_ok=True,
    ) as target:  # fmt: skip
        for y in range(0, height, BLOCK):
            for x in range(0, width, BLOCK):
                if rng.random() < fill:
                    h, w = min(BLOCK, height - y), min(BLOCK, width - x)
                    target.write(texture[:, :h, :w], window=Window(x, y, w, h))


def predict(path: Path, out: Path) -> None:
    import torch
    from torch import nn

    from swath.core.data.radiometry import Radiometry
    from swath.core.inference.predictor import Predictor
    from swath.core.segmentation import SegmentationTask

    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = SegmentationTask([f"c{i}" for i in range(CLASSES)], Radiometry.rgb8())
    Predictor(nn.Conv2d(3, CLASSES, 1), task).predict(path, out=out, progress=True)


def vectorise(mask: Path, out: Path) -> None:
    from swath.core.geo.vectorise import vectorise as run

    print(run(mask, out, progress=True), "polygons", file=sys.stderr)


def measured(step: str, *paths: Path) -> dict[str, float]:
    """Run a step in a fresh process; its seconds and peak resident memory."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, *map(str, paths)],
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found | {"seconds": round(time.monotonic() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["30000x30000", "60000x6000"], metavar="WxH")
    parser.add_argument("--fill", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--no-vectors", action="store_true")
    parser.add_argument("--note", default="", help="How it was run, for the record.")
    parser.add_argument("--step", nargs=3, metavar=("STEP", "IN", "OUT"))
    arguments = parser.parse_args()
    if arguments.step:
        step, source, out = arguments.step
        {"predict": predict, "vectorise": vectorise}[step](Path(source), Path(out))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"peak_rss_mb": round(peak)}))
        return
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        width, height = map(int, size.split("x"))
        about = {"classes": CLASSES, "width": width, "height": height, "fill": arguments.fill}
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            image, mask, polygons = (Path(folder) / n for n in ("a.tif", "m.tif", "m.gpkg"))
            make(image, width, height, arguments.fill)
            rows.append({"step": "predict"} | about | measured("predict", image, mask))
            print(rows[-1], flush=True)
            if not arguments.no_vectors:
                rows.append({"step": "vectorise"} | about | measured("vectorise", mask, polygons))
                print(rows[-1], flush=True)
        record("memory_30k", rows, threads=1, note=arguments.note)


if __name__ == "__main__":
    main()
