"""Does a small RemoteSAM understand language? Trained on scenes, asked about scenes it hasn't seen.

Run:  python benchmarks/refseg_scenes.py [--run FOLDER] [--threads 2] [--until STEP] [--smoke]

`remotesam_scenes_tiny` is trained as it is committed, then judged on 600 sentences about 200 unseen
scenes, each about one object. Two controls ask the same weights about the same images: sentences of
other images, and sentences about something else in the same scene (where three sentences of a scene
mean but one thing, they are left out). Aims: oIoU 0.6; 0.4 above the first control; 0.2 above the
second; thirty minutes of processor time. Then the seven other tasks are asked of the same weights.

State: 0.657, 0.426 above the first control, 0.272 above the second, after 3,200 steps by Muon and
30.6 minutes, half of them beside other jobs. Wrong are mostly relations (0.17). Now and then a
sentence is ambiguous: "the storage tank" may be one of two, since what shows less than 30 % of
itself doesn't count as a rival.
Before, by AdamW: 9,000 steps in 73 minutes gave 0.633, 0.425 and 0.215; 6,500, a third of whose
scenes came twice, 0.591, 0.399 and 0.232.
Trial: at seed 77 4,000 steps by Muon have 0.673, 9,000 by AdamW 0.649.

A run that was interrupted goes on in its folder; --until judges it at an earlier step.
"""

import argparse
import math
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import RESULTS, record, trained

from swath.core.config import load_config
from swath.core.data.scenes import CLASSES
from swath.core.data.scenes.scene import Scene
from swath.core.engine import evaluate
from swath.core.inference.predictor import load_model
from swath.core.sample import Sample
from swath.refseg.data.scenes import GROUND, SceneSentences
from swath.refseg.protocols import JUDGES, Evaluation

CONFIG = "remotesam_scenes_tiny"
SEED = 3  # of the unseen scenes: the config's own test set; recipes were chosen on others
PER_SCENE = 3
THINGS = ("aircraft", "basketball court", "building", "ship", "storage tank", "vehicle")
TASK_SCENES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="where the run is kept; default: nowhere")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--until", type=int, help="judge after this step, not at the end")
    parser.add_argument("--smoke", action="store_true", help="a few steps, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config, count, scenes = load_config(CONFIG), 600, TASK_SCENES
    if arguments.smoke:
        config, count, scenes = config.override(["iterations=4", "val=None"]), 12, 6
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or Path(folder) / "run"
        done = trained(config, run, until=arguments.until, progress=True)
        weights = done.best if done.step == config.iterations else done.last
        model: Any = load_model(weights, device="cpu")
    unseen = SceneSentences(
        config.task["input_size"], count, SEED, sentences=PER_SCENE, empty_scenes=False
    )
    samples = [unseen[i] for i in range(count)]
    rows = understanding(model, samples)
    others = other_tasks(model, unseen, scenes)
    if arguments.smoke:
        print(rows, others)
        return
    settings = {
        "steps": done.step,
        "of_steps": config.iterations,
        "cpu_minutes": done.cpu_seconds / 60,
        "threads": arguments.threads,
    }
    record("refseg_scenes", rows, other_tasks=others, config=CONFIG, **settings)
    picture(model, samples, rows, RESULTS / "refseg_scenes.png")


def understanding(model: Any, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Figures of sentences as they are, by kind, and of the two controls."""
    count = len(samples)
    permuted = [asked(s, samples[(i + count // 2) % count]) for i, s in enumerate(samples)]
    pairs = [(s, other) for i, s in enumerate(samples) if (other := another(samples, i))]
    sets = {
        "as they are": samples,
        "permuted among images": permuted,
        "those with another in their scene": [s for s, _ in pairs],
        "swapped within a scene": [asked(s, other) for s, other in pairs],
    }
    rows = []
    for name, chosen in sets.items():
        figures = evaluate(model.model, model.task, chosen, batch_size=12, device="cpu")
        rows.append({"sentences": name, "kind": "all", **short(figures)})
        if chosen is samples:
            table = figures["per_kind"].items()
            rows += [{"sentences": name, "kind": kind, **short(row)} for kind, row in table]
    return rows


def asked(sample: Sample, other: Sample) -> Sample:
    """The image and mask of one, the sentence of the other."""
    sentence = other.targets["sentence"]
    return replace(sample, targets={**sample.targets, "sentence": sentence})


def another(samples: Sequence[Sample], index: int) -> Sample | None:
    """A sample of the same scene whose sentence means something else."""
    first = index // PER_SCENE * PER_SCENE
    others = [samples[first + (index + k) % PER_SCENE] for k in range(1, PER_SCENE)]
    mask = samples[index].targets["mask"]
    return next((o for o in others if not torch.equal(o.targets["mask"], mask)), None)


def short(figures: Any) -> dict[str, Any]:
    return {k: figures[k] for k in ("oIoU", "mIoU", "Pr@0.5")} | {"count": figures["sentences"]}


def other_tasks(model: Any, unseen: SceneSentences, count: int) -> dict[str, dict[str, float]]:
    """Figures of the seven other tasks on unseen scenes."""
    found = {}
    for name, make in TASKS.items():
        classes = (*THINGS, *GROUND) if name == "segmentation" else THINGS
        samples = list(made(unseen, count, make))
        figures = JUDGES[name](model, samples, Evaluation(classes))
        plain = {k: v for k, v in figures.items() if isinstance(v, float) and not math.isnan(v)}
        found[name] = plain | {"scenes": len(samples)}
    return found


Targets = dict[str, Any] | None


def made(
    unseen: SceneSentences, count: int, make: Callable[[Scene, int], Targets]
) -> Iterator[Sample]:
    """Scenes with what a task asks about them, where there is something to ask."""
    for number in range(count):
        scene = unseen.scene(number)
        targets = make(scene, number)
        if targets is not None:
            yield Sample(torch.from_numpy(scene.planes), targets)


def class_map(scene: Scene, number: int) -> Targets:
    """Things and ground, 1 and up; 0 elsewhere."""
    mask = np.zeros(scene.mask.shape, np.int64)
    for i, name in enumerate(GROUND, start=len(THINGS) + 1):
        mask[scene.mask == CLASSES.index(name)] = i
    for thing in scene.objects:
        if thing.noun in THINGS:
            mask[scene.instances == thing.id] = THINGS.index(thing.noun) + 1
    return {"mask": torch.from_numpy(mask)}


def boxes(scene: Scene, number: int) -> Targets:
    """Upright boxes and classes."""
    things = [thing for thing in scene.objects if thing.noun in THINGS]
    around = [box(scene, thing.id) for thing in things]
    return {
        "boxes": torch.tensor(around, dtype=torch.float64).reshape(-1, 4),
        "labels": torch.tensor([THINGS.index(thing.noun) for thing in things], dtype=torch.int64),
    }


def sentence_with_box(scene: Scene, number: int) -> Targets:
    """One sentence about one object."""
    if not scene.expressions:
        return None
    expression = scene.expressions[number % len(scene.expressions)]
    return {"sentence": expression.text, "box": box(scene, expression.object)}


def only_class(scene: Scene, number: int) -> Targets:
    """The class of scenes whose objects are of one class."""
    nouns = {thing.noun for thing in scene.objects}
    if len(nouns) != 1 or not nouns <= set(THINGS):
        return None
    return {"label": THINGS.index(nouns.pop())}


def caption(scene: Scene, number: int) -> Targets:
    """The scene's own caption."""
    return {"captions": [scene.caption]}


def count_of(scene: Scene, number: int) -> Targets:
    """How many there are of a class that the scene shows, every fourth time of any class."""
    nouns = sorted({thing.noun for thing in scene.objects} & set(THINGS))
    if number % 4 == 0 or not nouns:
        nouns = list(THINGS)
    name = nouns[number % len(nouns)]
    return {"name": name, "count": sum(thing.noun == name for thing in scene.objects)}


def box(scene: Scene, number: int) -> list[float]:
    rows, columns = np.nonzero(scene.instances == number)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


TASKS: dict[str, Callable[[Scene, int], Targets]] = {
    "segmentation": class_map,
    "detection": boxes,
    "grounding": sentence_with_box,
    "multi-label": boxes,
    "multi-class": only_class,
    "captioning": caption,
    "counting": count_of,
}


def picture(model: Any, samples: Sequence[Sample], rows: Any, path: Path) -> None:
    """The figures by kind, and answers: green what is meant, red what was found."""
    figure, axes = plt.subplots(4, 6, figsize=(15, 11))
    bars = [row for row in rows if row["sentences"] == "as they are" or row["kind"] == "all"]
    names = [row["kind"] if row["kind"] != "all" else row["sentences"] for row in bars]
    names = [textwrap.fill(name, 16) for name in names]
    for axis in axes[0]:
        axis.remove()
    chart = figure.add_subplot(axes[0, 0].get_gridspec()[0, :])
    chart.bar(names, [row["oIoU"] for row in bars])
    chart.set_ylabel("oIoU")
    shown = samples[:: len(samples) // axes[1:].size]
    for axis, sample in zip(axes[1:].flat, shown, strict=False):
        batch = model.task.collate([sample])
        found = model.task.predict(model.model, batch)[0].numpy()
        axis.imshow(np.asarray(sample.image).transpose(1, 2, 0))
        axis.contour(np.asarray(sample.targets["mask"]), [0.5], colors="lime", linewidths=2)
        if found.any():
            axis.contour(found, [0.5], colors="red", linewidths=1.2)
        axis.set_title(str(sample.targets["sentence"]), fontsize=8, wrap=True)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
