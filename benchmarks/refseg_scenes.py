"""Does a small RemoteSAM understand language? Trained on scenes, asked about scenes it hasn't seen.

Run:  python benchmarks/refseg_scenes.py [--minutes 15] [--threads 2] [--checkpoint RUN] [--smoke]

`remotesam_scenes_tiny` is trained for as many steps as fit into the time, measured before; then
judged on 600 sentences about unseen scenes, by kind: about one object where the scene has one that
a sentence can single out, else about a class. Two controls on the same weights and images:
sentences permuted among images, and sentences swapped within a scene. Aims: oIoU 0.6; 0.4 above
permuted; 0.2 above swapped. Then other tasks are asked of the same weights.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import record

from swath.core.config import load_config
from swath.core.data.scenes import OBJECT_CLASSES, SceneDataset
from swath.core.engine import evaluate, train
from swath.core.inference.predictor import load_model
from swath.core.sample import Sample
from swath.refseg.data.scenes import SceneSentences
from swath.refseg.protocols import JUDGES, Evaluation

CONFIG = "remotesam_scenes_tiny"
GROUND = ("grass", "field", "tree", "water", "road")


class Permuted:
    """Samples whose sentence is another's: of any image, or of the same scene."""

    def __init__(self, samples: SceneSentences, within: bool) -> None:
        self.samples = samples
        count = len(samples)
        step = 1 if within else count // 2
        group = samples.sentences if within else count
        self.other = [i // group * group + (i + step) % group for i in range(count)]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """The image and mask of one, the sentence of the other."""
        sample, other = self.samples[index], self.samples[self.other[index]]
        return replace(sample, targets={**sample.targets, "sentence": other.targets["sentence"]})


class Objects:
    """Scenes with upright boxes and names, as the other evaluations ask for them."""

    def __init__(self, size: int, count: int, classes: tuple[str, ...]) -> None:
        labels = ("instances", "boxes", "mask")
        self.scenes, self.classes = SceneDataset(size, count, 3, labels=labels), classes

    def __iter__(self) -> Any:
        for i in range(len(self.scenes)):
            sample = self.scenes[i]
            masks, labels = sample.targets["instances"], sample.targets["labels"]
            boxes = [_around(mask) for mask in masks]
            name = self.classes[i % len(self.classes)]
            targets = {
                **sample.targets,
                "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
                "name": name,
                "count": int((labels == self.classes.index(name)).sum()),
            }
            yield replace(sample, targets=targets)


def _around(mask: Any) -> list[int]:
    rows, columns = np.nonzero(np.asarray(mask))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def steps_that_fit(config: Any, minutes: float) -> int:
    """Steps of training in the time, from the speed of twelve after three."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for steps in (3, 15):
            short = config.override([f"iterations={steps}", "val=None", "num_workers=0"])
            start = time.monotonic()
            train(short, Path(folder) / str(steps), device="cpu")
            seconds.append(time.monotonic() - start)
    return int(minutes * 60 / ((seconds[1] - seconds[0]) / 12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, help="judge this instead of training")
    parser.add_argument("--smoke", action="store_true", help="a few steps, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load_config(CONFIG)
    size = config.task["input_size"]
    count = 12 if arguments.smoke else 600
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, steps, seconds = arguments.checkpoint, None, None
        if checkpoint is None:
            steps = 4 if arguments.smoke else steps_that_fit(config, arguments.minutes)
            start = time.monotonic()
            options = [f"iterations={steps}", f"val_every={steps}", "num_workers=1"]
            summary = train(config.override(options), Path(folder) / "run", device="cpu")
            checkpoint, seconds = summary.best_checkpoint, time.monotonic() - start
        model: Any = load_model(checkpoint, device="cpu")
    unseen = SceneSentences(size, count, seed=3, sentences=3)
    rows, figures = [], {}
    for name, samples in (
        ("sentences as they are", unseen),
        ("permuted among images", Permuted(unseen, within=False)),
        ("swapped within a scene", Permuted(unseen, within=True)),
    ):
        figures[name] = evaluate(model.model, model.task, samples, batch_size=16, device="cpu")
        rows.append({"set": name, "kind": "all", **_short(figures[name])})
    for kind, row in figures["sentences as they are"]["per_kind"].items():
        rows.append({"set": "sentences as they are", "kind": kind, **_short(row)})
    others = {}
    classes = (*OBJECT_CLASSES,)
    for name in ("detection", "multi-label", "counting"):
        samples = Objects(size, 6 if arguments.smoke else 100, classes)
        found = JUDGES[name](model, samples, Evaluation(classes))
        others[name] = {k: v for k, v in found.items() if isinstance(v, float)}
    if arguments.smoke:
        print(rows, others)
        return
    record("refseg_scenes", rows, steps=steps, seconds=seconds, other_tasks=others, size=size)


def _short(figures: Any) -> dict[str, float]:
    return {k: figures[k] for k in ("oIoU", "mIoU", "Pr@0.5", "sentences")}


if __name__ == "__main__":
    main()
