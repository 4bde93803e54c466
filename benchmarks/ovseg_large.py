"""Words over large scenes: memory, time, seams; and one tile of the full-size GSNet.

Run:    OMP_NUM_THREADS=1 python benchmarks/ovseg_large.py [--checkpoint RUN/last.safetensors]
Claim:  a scene of 5,120 px with 20 classes takes about as much memory as one of 1,280; the mean
        step of the probabilities across the bands where tiles meet is at most 1.1 times that
        elsewhere.
State:  reached, with random weights: peaks of 1.51 and 1.45 GB; the step is 1.007 times that
        elsewhere. 947 s of a crowded core for 5,120 px; a tile of the full-size GSNet takes 12 s
        and 2.3 GB.

GSNet of `gsnet_scenes_tiny`, without a checkpoint with random weights; tiles of 384 px. The
full-size GSNet (ViT-B/16, ViT-B/8) has random weights and one tile of 384 px. Each row is a process
of its own.
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
import torch
from common import record
from numpy.typing import NDArray

from swath.core.config import load_config
from swath.core.data.scenes import render_large
from swath.core.inference.predictor import OVERLAP, Predictor, load_model
from swath.core.inference.tiler import plan_tiles
from swath.ovseg.models.gsnet import gsnet
from swath.ovseg.scenes import NAMES
from swath.ovseg.task import OpenVocabularyTask

WORDS, TILE, BLEND = NAMES[:20], 384, 32


def tiny(checkpoint: Path | None) -> Predictor:
    """The small GSNet with a task of 20 names."""
    if checkpoint is None:
        model = load_config("gsnet_scenes_tiny").model["model"].build()
    else:
        model = load_model(checkpoint, device="cpu").model
    return Predictor(model, OpenVocabularyTask(WORDS, ensemble="name", tile=TILE))


def large(scene: Path, checkpoint: Path | None) -> dict[str, float]:
    """Seconds of mapping a file into a file."""
    predictor = tiny(checkpoint)
    start = time.process_time()
    predictor.predict(scene, out=scene.with_name("map.tif"), blend=BLEND)
    return {"cpu s": time.process_time() - start}


def seams(scene: Path, checkpoint: Path | None) -> dict[str, float]:
    """Mean step of probabilities between neighbouring columns where tiles meet, over elsewhere."""
    result = tiny(checkpoint).predict(scene, probabilities=True, blend=BLEND)
    found: NDArray[np.float32] = np.asarray(result.probabilities)
    width = found.shape[2]
    bands = np.zeros(width - 1, bool)
    for tile in plan_tiles(TILE, width, TILE, OVERLAP, BLEND, 32):
        if tile.x.fade:
            bands[tile.x.begin - 1 : tile.x.begin + tile.x.fade] = True
    steps = np.abs(np.diff(found, axis=2)).mean((0, 1))
    return {"step ratio": float(steps[bands].mean() / steps[~bands].mean())}


def full() -> dict[str, float]:
    """Seconds of one tile of the published size."""
    predictor = Predictor(gsnet("b"), OpenVocabularyTask(WORDS))
    image = np.random.default_rng(0).integers(0, 255, (TILE, TILE, 3), dtype=np.uint8)
    predictor.task.text(predictor.model)  # type: ignore[attr-defined]
    start = time.process_time()
    predictor.predict(image)
    return {"cpu s": time.process_time() - start}


def measured(*step: str | Path) -> dict[str, Any]:
    """Run a step in a process of its own; what it found, and its peak memory."""
    command = [sys.executable, __file__, "--step", *map(str, step)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(step[0], found, flush=True)
    return found


def run_step(name: str, *arguments: str) -> None:
    """In the process of a step."""
    torch.manual_seed(0)
    if name == "full":
        found = full()
    else:
        scene, checkpoint = arguments
        step = {"large": large, "seams": seams}[name]
        found = step(Path(scene), Path(checkpoint) if checkpoint else None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found | {"peak MB": round(peak)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[1280, 5120])
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.step:
        run_step(*options.step)
        return
    checkpoint = str(options.checkpoint or "")
    rows: list[dict[str, Any]] = []

    def add(what: str, side: int, found: dict[str, Any]) -> None:
        figures = {key: found.get(key) for key in ("cpu s", "peak MB", "step ratio")}
        rows.append({"what": what, "side px": side, **figures})
        record("ovseg_large", rows, classes=len(WORDS), tile=TILE, checkpoint=bool(checkpoint))

    add("full-size GSNet, one tile", TILE, measured("full"))
    with tempfile.TemporaryDirectory() as folder:
        for side in options.sides:
            scene = Path(folder) / f"{side}.tif"
            render_large(scene, seed=5, height=side, width=side, domain="urban")
            if side == options.sides[0]:
                add("small GSNet, seams", side, measured("seams", scene, checkpoint))
            add("small GSNet", side, measured("large", scene, checkpoint))


if __name__ == "__main__":
    main()
