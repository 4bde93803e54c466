"""Buildings of Kampala: train on some places, judge on the others, and map the mosaic.

    python benchmarks/kampala_folds.py --samples ../shared/samples

For each of the four committed folds of places `kampala_unet` is trained and judged on the places it
hasn't seen: tile by tile, all zooms pooled into one confusion matrix, and by zoom; and on whole
places of zoom 21, where a prediction sees its surroundings. The mosaic's four places are then
mapped by the model that hasn't seen them, put together and scored against the truth raster. A fifth
training holds out every place of the mosaic at once and learns from the one that is left.

Writes ``results/kampala.json``; the run folders keep checkpoints, maps and overlays.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from common import record
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window, from_bounds

from swath.core.checkpoint.store import load_pair
from swath.core.config import load_config
from swath.core.data.kampala import PLACE_ZOOM, kampala_buildings, load_folds
from swath.core.data.places import MapTile, places_of
from swath.core.engine import evaluate, train
from swath.core.inference.predictor import Predictor
from swath.core.metrics.segmentation import ConfusionMatrix

TILES = Path("segmentation/oam_kampala_buildings")
IMAGE = Path("geotiff/oam_kampala_mosaic_rgb.tif")
TRUTH = Path("geotiff/oam_kampala_mosaic_buildings.tif")
FOLDS: tuple[int | str, ...] = (0, 1, 2, 3, "mosaic")


def main() -> None:
    """Train, judge and map; print a table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=Path, required=True, help="folder of the sample data")
    parser.add_argument("--runs", type=Path, default=Path("runs/kampala"), help="run folders")
    parser.add_argument("--set", action="append", default=[], help="override of the config")
    parser.add_argument("--only", help="train and judge this fold alone (0 to 3, or mosaic)")
    parser.add_argument("--smoke", action="store_true", help="a few steps, nothing recorded")
    arguments = parser.parse_args()
    overrides = [*arguments.set, *(["iterations=4", "batch_size=2"] if arguments.smoke else [])]

    rows = [
        run_fold(fold, arguments.samples, arguments.runs / f"fold_{fold}", overrides)
        for fold in FOLDS
        if arguments.only in (None, str(fold))
    ]
    if arguments.only is not None:
        return
    mosaic = map_mosaic(arguments.samples, arguments.runs)
    folds = rows[:4]
    summary = {
        "mean_building_iou": mean(folds, "iou"),
        "mean_building_iou_zoom_21": mean(folds, "iou_z21"),
        "mean_building_iou_whole_places": mean(folds, "iou_places"),
        "mosaic": mosaic,
    }
    print(json.dumps(summary, indent=1))
    if not arguments.smoke:
        record(
            "kampala",
            rows,
            summary=summary,
            overrides=overrides,
            iou="building IoU of held-out places; tiles of zooms 19 to 21 pooled in one matrix",
        )


def run_fold(
    fold: int | str, samples: Path, run_dir: Path, overrides: Sequence[str]
) -> dict[str, Any]:
    """Train and judge one fold on its held-out places, unless an earlier call has done so."""
    done = run_dir / "fold.json"
    if done.exists():
        row: dict[str, Any] = json.loads(done.read_text())
        return row
    root = samples / TILES
    config = load_config(
        "kampala_unet",
        [f"{part}.{key}" for part in ("train", "test") for key in (f"root={root}", f"fold={fold}")]
        + list(overrides),
    )
    started, cpu = time.monotonic(), time.process_time()
    summary = train(config, run_dir, resume=run_dir.exists())
    minutes, cpu_minutes = (time.monotonic() - started) / 60, (time.process_time() - cpu) / 60
    model, task, _ = load_pair(summary.last_checkpoint)

    tiles = kampala_buildings(root, fold, "test")
    figures = {"iou": building(evaluate(model, task, tiles, num_workers=0))}
    for zoom in (19, 20, 21):
        chosen = [tiles[i] for i, name in enumerate(tiles.ids) if MapTile.parse(name).zoom == zoom]
        figures[f"iou_z{zoom}"] = building(evaluate(model, task, chosen))
    places = kampala_buildings(root, fold, "test", stitched=True)
    finest = [places[i] for i, name in enumerate(places.ids) if name.endswith("@21")]
    figures["iou_places"] = building(evaluate(model, task, finest, batch_size=1))
    row = {
        "fold": fold,
        "test_tiles": len(tiles),
        **{name: round(value, 4) for name, value in figures.items()},
        "train_min": round(minutes, 2),
        "cpu_min_without_workers": round(cpu_minutes, 2),
        "iterations": summary.step,
        "threads": torch.get_num_threads(),
    }
    done.write_text(json.dumps(row))
    return row


def map_mosaic(samples: Path, runs: Path) -> dict[str, float]:
    """Map the mosaic by models that haven't seen the place, and score both ways of doing so."""
    with rasterio.open(samples / TRUTH) as source:
        truth, transform = source.read(1), source.transform
    composite = np.full_like(truth, 255)
    for fold, names in enumerate(load_folds()["folds"]):
        mapped = predict(runs / f"fold_{fold}", samples / IMAGE)
        for place in places_of(names, PLACE_ZOOM):
            window = from_bounds(*place.bounds_m(), transform=transform)
            rounded = window.round_offsets().round_lengths()
            if inside(rounded, truth.shape):
                region = rounded.toslices()
                composite[region] = mapped[region]
    alone = predict(runs / "fold_mosaic", samples / IMAGE)
    scores = {}
    for name, mapped in (("each_place_by_its_fold", composite), ("all_places_held_out", alone)):
        matrix = ConfusionMatrix(2)
        matrix.update(torch.from_numpy(mapped), torch.from_numpy(truth))
        scores[name] = round(float(matrix.iou()[1]), 4)
        write_comparison(samples / IMAGE, truth, mapped, runs / f"mosaic_{name}.jpg")
    return scores


def predict(run_dir: Path, image: Path) -> NDArray[np.uint8]:
    """Map a scene with a run's last weights; the GeoTIFF stays in the run folder."""
    model, task, description = load_pair(run_dir / "last.safetensors")
    predictor = Predictor(model, task, description["card"])
    result = predictor.predict(image, out=run_dir / "mosaic.tif", progress=True)
    mask: NDArray[np.uint8] = result.mask
    return mask


def write_comparison(
    image: Path, truth: NDArray[np.uint8], mapped: NDArray[np.uint8], out: Path
) -> None:
    """Picture of hits (green), false alarms (red) and misses (blue), at half size."""
    with rasterio.open(image) as source:
        picture = source.read().transpose(1, 2, 0).astype(np.float32)
    for found, real, colour in ((1, 1, (0, 200, 0)), (1, 0, (230, 0, 0)), (0, 1, (0, 60, 255))):
        chosen = (mapped == found) & (truth == real)
        picture[chosen] = 0.6 * picture[chosen] + 0.4 * np.array(colour)
    Image.fromarray(picture.astype(np.uint8)).resize((1024, 1024)).save(out, quality=85)


def building(figures: Mapping[str, Any]) -> float:
    """IoU of the class building."""
    return float(figures["per_class"]["building"]["IoU"])


def mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    """Mean over the folds."""
    return round(float(np.mean([row[key] for row in rows])), 4)


def inside(window: Window, shape: tuple[int, ...]) -> bool:
    """Whether a window lies within an array of this shape."""
    height, width = shape
    rows, columns = window.toranges()
    return bool(rows[0] >= 0 and rows[1] <= height and columns[0] >= 0 and columns[1] <= width)


if __name__ == "__main__":
    main()
