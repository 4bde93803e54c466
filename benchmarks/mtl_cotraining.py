"""Does co-training pay: one RSCoTr of three tasks against three specialists, at equal total steps.

Run:    OMP_NUM_THREADS=1 python benchmarks/mtl_cotraining.py
Claim:  at equal total steps one co-trained model is about as good as three specialists, with far
        fewer parameters; all three answers about an image take it less than half of their time.
State:  three seeds, 1,600 steps a side. Co-trained against specialists: top-1 68.1 and 65.2, mF1
        64.7 and 58.2, AP50 33.9 and 35.3 %: classes and masks gain at every seed, boxes lose 4.5
        and 0.3 points at two and gain 0.6 at one. Parameters 3.6 and 10.1 million, training 376 and
        371 s of a busy processor, three answers about an image of 256 px 0.097 and 0.199 s (49 %).
First:  800 steps on 800 scenes a task, seeds 0, 1 and 2 (``results/mtl_cotraining_first.json``).
        Co-trained against specialists: top-1 60.0 and 60.0, mF1 51.7 and 49.0, AP50 23.4 and
        32.9 %: boxes lost at every seed. All were far from trained. Since then 200 scenes a task,
        as few as many a data set of this field has, and twice the steps; trial, seed 30, on the
        same 300 scenes: top-1 64.3 and 64.7, mF1 65.9 and 56.3, AP50 45.5 and 41.8.
Trials: the detector alone. A Swin of 5 blocks learns eight images of boats by heart in 150 steps
        (AP50 0.97). A Swin of 8 blocks on 64 unseen scenes of houses and courts, one seed, after
        225 steps of 8 images: with 20 queries 0.08, with 60 (of 85 tokens, of which only chosen
        ones learn) 0.18, with classes weighed threefold as well 0.21, at twice the rate then 0.24;
        without denoising and with a faster second moment (0.99) 0.11. Boxes come from the first
        stage, the decoder hardly moves them yet.
        Earlier, three classes in all kinds of urban scenes, half of which show none of them: 0.09
        after 400 steps.

Scenes, the model and recipe of `rscotr_scenes_tiny`. A specialist makes the steps that the
co-trained model makes for its task, with batches of the same scenes, on a schedule of its own
length; all are judged on the same unseen scenes. The recipe is chosen at other seeds (``--try``).
Finished runs are kept in ``results/mtl_cotraining.json`` and unfinished ones under ``runs``, so
that the study goes on where it was stopped. Times are of the processor, one thread; inference is
timed with weights as initialised, interleaved, the median of many.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import RESULTS, RUNS, record, recorded, trained

from swath.core.checkpoint.store import load_pair
from swath.core.config import TrainConfig, load_config
from swath.core.data.scenes import VERSION
from swath.core.engine import evaluate
from swath.core.inference.predictor import Predictor
from swath.mtl.configs import _scenes

NAME = "mtl_cotraining"
SCORES = {"cls/kinds": "top1", "det/things": "AP50", "seg/cover": "mF1"}
MODELS = {"co-trained": list(SCORES), **{name: [name] for name in SCORES}}
SEEDS = (3, 4, 5)  # the first study has seen 0, 1 and 2, trials 30 and 50
STEPS = 1600  # of a side; about 40 minutes of a core for the whole study
JUDGED, JUDGED_SEED = 300, 77


def config_of(names: Sequence[str], seed: int) -> TrainConfig:
    """The tiny recipe for some of its tasks."""
    share = sum(turn in names for turn in _scenes.TURNS) / len(_scenes.TURNS)
    steps = round(STEPS * share)
    return replace(
        load_config("rscotr_scenes_tiny"),
        model=_scenes.model(names),
        task=_scenes.task(names),
        train=_scenes.training(seed, names),
        val=None,
        iterations=steps,
        checkpoint_every=steps,
        num_workers=0,
        seed=seed,
    )


def run(model: str, seed: int) -> dict[str, Any]:
    """Train one model and judge its last weights."""
    names = MODELS[model]
    config = config_of(names, seed)
    folder = RUNS / NAME / f"{model.replace('/', '_')}_{seed}"
    done = trained(config, folder)
    network, task, _ = load_pair(done.last)
    unseen = _scenes.judged(JUDGED_SEED, JUDGED, names).build()
    figures = evaluate(network, task, unseen, batch_size=20, progress=False)
    row = {
        "model": model,
        "seed": seed,
        "steps": config.iterations,
        **{name: 100 * figures[f"{name}/{SCORES[name]}"] for name in names},
        "parameters": sum(p.numel() for p in network.parameters()),
        "training cpu s": round(done.cpu_seconds, 1),
    }
    print(json.dumps(row), flush=True)
    return row


def seconds_for_three_answers(side: int, rounds: int) -> dict[str, float]:
    """Median seconds until one image has all three: from the one model, and from the three."""
    configs = {name: config_of(names, seed=0) for name, names in MODELS.items()}
    built = {n: Predictor(c.model.build().eval(), c.task.build()) for n, c in configs.items()}
    together = built.pop("co-trained")
    models = {"co-trained": [together], "three specialists": list(built.values())}
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    seconds: dict[str, list[float]] = {title: [] for title in models}
    for _ in range(rounds + 2):
        for title, predictors in models.items():
            start = time.process_time()
            for predictor in predictors:
                predictor.predict(image, tile=None)
            seconds[title].append(time.process_time() - start)
    return {title: statistics.median(values[2:]) for title, values in seconds.items()}


def summarise(runs: Sequence[dict[str, Any]], answers: dict[str, float]) -> list[dict[str, Any]]:
    """Both sides in means over the seeds that are complete."""
    table: list[dict[str, Any]] = []
    seeds = {row["seed"] for row in runs if row["model"] == list(MODELS)[-1]}
    if not seeds:
        return table
    for side, models in (("co-trained", ["co-trained"]), ("three specialists", list(SCORES))):
        own = [row for row in runs if row["model"] in models and row["seed"] in seeds]
        row: dict[str, Any] = {"model": side, "seeds": len(seeds)}
        for name, score in SCORES.items():
            row[f"{name} {score}"] = statistics.mean(r[name] for r in own if name in r)
        for total in ("steps", "parameters", "training cpu s"):
            row[total] = sum(r[total] for r in own) / len(seeds)
        table.append(row | {"three answers s": answers[side]})
    return table


def plot(runs: Sequence[dict[str, Any]]) -> None:
    """A panel for each task: each seed a line from its specialist to the co-trained model."""
    figure, panels = plt.subplots(1, len(SCORES), figsize=(7.2, 2.8), layout="constrained")
    for axes, (name, score) in zip(panels, SCORES.items(), strict=True):
        for seed in sorted({row["seed"] for row in runs}):
            pair = [
                row[name]
                for model in (name, "co-trained")
                for row in runs
                if row["model"] == model and row["seed"] == seed
            ]
            if len(pair) == 2:
                axes.plot((0, 1), pair, marker="o", color="#2463a8", alpha=0.8)
        axes.set_xticks((0, 1), ("specialist", "co-trained"))
        axes.set_xlim(-0.3, 1.3)
        axes.set_title(f"{name}, {score}, %", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"{NAME}.png", dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--side", type=int, default=256, help="of the image that is timed, px")
    parser.add_argument("--try", dest="trial", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    answers = seconds_for_three_answers(options.side, rounds=15)
    print(json.dumps(answers), flush=True)
    runs = [] if options.trial else recorded(NAME)
    done = {(row["model"], row["seed"]) for row in runs}
    for seed in options.seeds:
        for model in MODELS:
            if (model, seed) in done:
                continue
            runs.append(run(model, seed))
            if not options.trial:
                table = summarise(runs, answers)
                record(NAME, table, scenes=VERSION, side=options.side, runs=runs)
    if not options.trial:
        plot(runs)


if __name__ == "__main__":
    main()
