"""The small Oriented R-CNN on real imagery: VHR-10, trained and judged on different images; dota8.

Run:    OMP_NUM_THREADS=1 python benchmarks/oriented_real.py --samples FOLDER [--start CHECKPOINT]
        Under its detection/ are nwpu_vhr10/images, nwpu_vhr10/labelTxt (DOTA text of the smallest
        rectangles) and dota8/images/train, dota8/labels/train (YOLO-OBB).
Shows:  that the whole way works on photographs: labels in, training, AP, boxes out. A hundred and
        fifty images teach a network of this size little, from nothing; ``--start`` begins with what
        `oriented_rcnn_scenes_tiny` learnt from rendered scenes. dota8 has four images, which are
        learnt and judged alike: whether they can be learnt at all.

State:  180 steps (``--iterations 180``) from the scenes' detector: VHR-10 AP50 0.43 on 50 images,
        storage tanks 1.00, airplanes 0.63, bridges 0.20, AP75 0.09; 180 steps from nothing 0.05.
        dota8 AP50 0.63, AP75 0.22. Not run for longer.

Of VHR-10's images in the order of their names, every fourth block of five is judged on: neighbours
may show neighbouring ground. With ``--pictures`` the judged images are drawn with what was found
and what is there. The recipe is that of the scenes but for augmentation and length, chosen before
any run.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import record, trained

from swath.core.config import TrainConfig, load_config
from swath.core.data.detection import DotaText, YoloObb
from swath.core.data.transforms import light_augment
from swath.core.detection.task import DetectionTask
from swath.core.engine import evaluate
from swath.core.inference.predictor import Predictor, load_model
from swath.core.spec import Spec

RECIPE = "oriented_rcnn_scenes_tiny"
ZOOM = 0.5  # half of the pixels along each side tell enough, in a quarter of the time
SIZE = 192
VHR10 = ("airplane", "ship", "storage_tank", "baseball_diamond", "tennis_court", "basketball_court",
         "ground_track_field", "harbor", "bridge", "vehicle")  # fmt: skip
DOTA = ("plane", "ship", "storage-tank", "baseball-diamond", "tennis-court", "basketball-court",
        "ground-track-field", "harbor", "bridge", "large-vehicle", "small-vehicle", "helicopter",
        "roundabout", "soccer-ball-field", "swimming-pool")  # fmt: skip


def vhr10(root: Path) -> tuple[Spec, Spec]:
    """The sets to train and to judge on."""
    images, labels = (root / "nwpu_vhr10" / part for part in ("images", "labelTxt"))
    parts: dict[bool, list[str]] = {False: [], True: []}
    for i, name in enumerate(sorted(path.stem for path in images.iterdir())):
        parts[i // 5 % 4 == 3].append(name)
    spec = {"images": str(images), "labels": str(labels), "classes": list(VHR10)}
    return Spec(DotaText, **spec, ids=parts[False]), Spec(DotaText, **spec, ids=parts[True])


def dota8(root: Path) -> tuple[Spec, Spec]:
    """The four images, twice."""
    folder = {part: str(root / "dota8" / part / "train") for part in ("images", "labels")}
    images = Spec(YoloObb, **folder, classes=list(DOTA))
    return images, images


def configure(
    sets: tuple[Spec, Spec], classes: tuple[str, ...], iterations: int, start: Path | None
) -> TrainConfig:
    """The recipe of the scenes for other images."""
    config = load_config(RECIPE)
    config.model["num_classes"] = len(classes)
    thresholds = config.task["iou_thresholds"]
    return replace(
        config,
        task=Spec(DetectionTask, classes=list(classes), zoom=ZOOM, iou_thresholds=thresholds),
        train=sets[0],
        augment=Spec(light_augment, size=SIZE, scale=[0.8 * ZOOM, 1.4 * ZOOM]),
        val=None,
        test=sets[1],
        iterations=iterations,
        init_from=None if start is None else str(start),
    )


def run(config: TrainConfig, folder: Path) -> tuple[Predictor, Mapping[str, Any], float]:
    """Train and judge the last weights: the model, its figures, CPU seconds of training."""
    done = trained(config, folder)
    predictor = load_model(done.last, device="cpu")
    assert config.test is not None
    judged = config.test.build()
    figures = evaluate(predictor.model, predictor.task, judged, device="cpu", progress=False)
    return predictor, figures, done.cpu_seconds


def draw(predictor: Predictor, images: Any, folder: Path) -> None:
    """Each image with what was found, from a score of 0.3 on, and thin in white what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(images.ids):
        sample = images[i]
        result = predictor.predict(np.asarray(sample.image).transpose(1, 2, 0))
        figure = result.plot(min_score=0.3)
        for quad in sample.targets["boxes"].to_quads().numpy():
            figure.axes[0].fill(*quad.T, fill=False, edgecolor="white", linewidth=0.7)
        figure.savefig(folder / f"{name}.png", dpi=70)


SETS = {"vhr10": (vhr10, VHR10), "dota8": (dota8, DOTA)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, required=True, help="folder of the sample data")
    parser.add_argument("--start", type=Path, help="a checkpoint of the scenes' detector")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--iterations", type=int, default=1600)
    parser.add_argument("--pictures", type=Path, help="a folder for pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.sets:
        parts, classes = SETS[name]
        config = configure(
            parts(options.samples / "detection"), classes, options.iterations, options.start
        )
        with tempfile.TemporaryDirectory() as folder:
            predictor, figures, seconds = run(config, Path(folder) / "run")
        table = {label: row for label, row in figures["per_class"].items() if row["objects"]}
        columns = ("AP50", "AP75", "recall", "objects")
        judged = config.test.build()
        record(
            f"oriented_{name}" + ("_from_scenes" if options.start else ""),
            [{"class": label, **{k: row[k] for k in columns}} for label, row in table.items()],
            AP50=figures["AP50"],
            AP75=figures["AP75"],
            recipe=RECIPE,
            iterations=options.iterations,
            images={"trained on": len(config.train.build()), "judged on": len(judged)},
            training_cpu_seconds=seconds,
        )
        if options.pictures is not None:
            draw(predictor, judged, options.pictures / name)


if __name__ == "__main__":
    main()
