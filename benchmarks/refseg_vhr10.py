"""Sentences about real images: the small RemoteSAM on NWPU VHR-10.

Run:  python benchmarks/refseg_vhr10.py --samples FOLDER [--weights SCENES_WEIGHTS] [--smoke]

The folder holds ``refseg/nwpu_refs/refs.json`` and ``detection/nwpu_vhr10``. The config
`remotesam_vhr10_tiny` trains on two images of three, from the weights of `remotesam_scenes_tiny` if
they are given, and is judged on the sentences about the others: as they are, with sentences
permuted among images, and, of the weights it began with, before it has seen a real image. Images
are shrunk once to twice the network's side, which is all that it sees of them.
"""

import argparse
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import RUNS, record, trained
from PIL import Image
from refseg_scenes import asked, short

from swath.core.config import load_config
from swath.core.engine import evaluate
from swath.core.inference.predictor import load_model
from swath.core.sample import Sample

CONFIG = "remotesam_vhr10_tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, required=True, help="folder of the sample data")
    parser.add_argument("--weights", type=Path, help="of remotesam_scenes_tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a few steps, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SWATH_DATA"] = folder
        config = load_config(CONFIG)
        shrink(arguments.samples, Path(folder) / "vhr10-refs", 2 * config.task["input_size"])
        overrides = [f"init_from={arguments.weights}"] if arguments.weights else []
        overrides += ["iterations=4"] if arguments.smoke else []
        done = trained(config.override(overrides), Path(folder) / "run")
        model: Any = load_model(done.last, device="cpu")
        assert config.test is not None  # the config has one
        unseen = config.test.build()
        samples = [unseen[i] for i in range(len(unseen))]
    rows = figures(model, samples, "fine-tuned" if arguments.weights else "from scratch")
    if arguments.weights:
        rows += figures(load_model(arguments.weights, device="cpu"), samples, "before")
    if arguments.smoke:
        print(rows)
        return
    settings = {
        "steps": config.iterations,
        "cpu_minutes": done.cpu_seconds / 60,
        "threads": arguments.threads,
    }
    record("refseg_vhr10", rows, config=CONFIG, weights=bool(arguments.weights), **settings)
    RUNS.mkdir(exist_ok=True)
    picture(model, samples, RUNS / "refseg_vhr10.png")  # the images may not be handed on for gain


def shrink(samples: Path, out: Path, side: int) -> None:
    """Squares of ``side`` px of all images, with sentences and outlines to match."""
    vhr10 = samples / "detection/nwpu_vhr10"
    refs = json.loads((samples / "refseg/nwpu_refs/refs.json").read_text())
    coco = json.loads((vhr10 / "instances.json").read_text())
    (out / "images").mkdir(parents=True)
    scales = {}
    for image in coco["images"]:
        name = image["file_name"]
        scales[name] = scales[image["id"]] = (side / image["width"], side / image["height"])
        with Image.open(vhr10 / "images" / name) as picture:
            small = picture.convert("RGB").resize((side, side), Image.Resampling.BOX)
        small.save(out / "images" / name, quality=95)
    for ref in refs:
        ref["segmentation"] = scaled(ref["segmentation"], scales[ref["image"]])
    for annotation in coco["annotations"]:
        scale = scales[annotation["image_id"]]
        annotation["segmentation"] = scaled(annotation["segmentation"], scale)
        annotation["bbox"] = scaled([annotation["bbox"]], scale)[0]
    (out / "refs.json").write_text(json.dumps(refs))
    (out / "instances.json").write_text(json.dumps(coco))


def scaled(polygons: list[list[float]], scale: tuple[float, float]) -> list[list[float]]:
    return [(np.reshape(p, (-1, 2)) * scale).ravel().tolist() for p in polygons]


def figures(model: Any, samples: Sequence[Sample], weights: str) -> list[dict[str, Any]]:
    """Figures of all sentences, by first word, and with the sentences of other images."""
    half = len(samples) // 2
    permuted = [asked(s, samples[(i + half) % len(samples)]) for i, s in enumerate(samples)]
    sets: dict[str, list[Sample]] = defaultdict(list, all=list(samples), permuted=permuted)
    for sample in samples:
        sets[str(sample.targets["sentence"]).split()[1]].append(sample)
    return [
        {
            "weights": weights,
            "sentences": name,
            **short(evaluate(model.model, model.task, chosen, batch_size=8, device="cpu")),
        }
        for name, chosen in sets.items()
        if name in ("all", "permuted") or len(chosen) >= 5
    ]


def picture(model: Any, samples: Sequence[Sample], path: Path) -> None:
    """Answers about unseen images: green what is meant, red what was found."""
    figure, axes = plt.subplots(4, 6, figsize=(15, 11))
    for axis, sample in zip(axes.flat, samples[:: len(samples) // axes.size], strict=False):
        side = sample.image.shape[-1]
        found = model.task.predict(model.model, model.task.collate([sample]))[0].numpy()
        axis.imshow(np.asarray(sample.image).transpose(1, 2, 0), extent=(0, side, side, 0))
        axis.contour(np.asarray(sample.targets["mask"]), [0.5], colors="lime", linewidths=2)
        if found.any():
            places = (np.arange(found.shape[0]) + 0.5) * side / found.shape[0]
            axis.contour(places, places, found, [0.5], colors="red", linewidths=1.2)
        axis.set_title(str(sample.targets["sentence"]), fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
