"""Does co-training pay: one RSCoTr of three tasks against three specialists, at equal total steps.

Run:    OMP_NUM_THREADS=1 python benchmarks/mtl_cotraining.py --steps 900 --seeds 0 1 2
Claim:  at equal total steps one co-trained model is about as good as three specialists, with far
        fewer parameters; all three answers about an image take it less than half of their time.

Scenes, the small model of `rscotr_scenes_tiny`. A specialist gets a third of the steps, in batches
of the same size, from the scenes that the co-trained model sees for that task; all are judged on
the same unseen scenes. Times are of the processor (one thread), so that others' load matters less;
inference is timed on one image, interleaved, the median of many.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import record

from swath.core.config import TrainConfig, load_config
from swath.core.engine import evaluate, train
from swath.core.inference.predictor import Predictor, load_model
from swath.mtl.configs import _scenes

SCORES = {"cls/kinds": "top1", "det/things": "mAP", "seg/cover": "mF1"}


def config_of(names: Sequence[str], steps: int, seed: int) -> TrainConfig:
    """The tiny recipe for some of its tasks."""
    whole = load_config("rscotr_scenes_tiny")
    return replace(
        whole,
        model=_scenes.model(names),
        task=_scenes.task(names),
        train=_scenes.data(seed=1, count=4000, names=names, augmented=True),
        test=_scenes.data(seed=3, count=200, names=names),
        val=None,
        iterations=steps,
        checkpoint_every=steps,
        num_workers=0,
        seed=seed,
    )


def trained(config: TrainConfig, folder: Path) -> tuple[Predictor, float, dict[str, float]]:
    """The model, the seconds it took to train, and its figures on unseen scenes."""
    start = time.process_time()
    summary = train(config, folder, progress=False)
    seconds = time.process_time() - start
    predictor = load_model(summary.last_checkpoint, device="cpu")
    assert config.test is not None
    unseen = config.test.build()
    metrics = evaluate(predictor.model, predictor.task, unseen, batch_size=8, progress=False)
    figures = {n: metrics[f"{n}/{s}"] for n, s in SCORES.items() if f"{n}/{s}" in metrics}
    return predictor, seconds, figures


def inference(one: Predictor, three: Sequence[Predictor], side: int, rounds: int) -> list[float]:
    """Median seconds of all three answers: from the one, and from the three."""
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds + 2):
        for number, predictors in enumerate(([one], three)):
            start = time.process_time()
            for predictor in predictors:
                predictor.predict(image, tile=None)
            seconds[number].append(time.process_time() - start)
    return [statistics.median(values[2:]) for values in seconds]


def parameters(predictors: Sequence[Predictor]) -> int:
    """Of all models together."""
    return sum(p.numel() for predictor in predictors for p in predictor.model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--steps", type=int, default=900, help="of all trainings of a side together"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--side", type=int, default=256, help="of the image that is timed, px")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            one, seconds, figures = trained(
                config_of(list(SCORES), options.steps, seed), Path(folder) / "one"
            )
            three = [
                trained(config_of([name], options.steps // 3, seed), Path(folder) / name[:3])
                for name in SCORES
            ]
            specialists = [predictor for predictor, _, _ in three]
            times = inference(one, specialists, options.side, rounds=15)
            alone: dict[str, float] = {}
            for _, _, own in three:
                alone |= own
            for title, own, models, spent, answer in (
                ("co-trained", figures, [one], seconds, times[0]),
                ("three specialists", alone, specialists, sum(s for _, s, _ in three), times[1]),
            ):
                rows.append(
                    {
                        "seed": seed,
                        "model": title,
                        **{f"{name} {SCORES[name]}": own[name] for name in SCORES},
                        "parameters": parameters(models),
                        "training s": spent,
                        "three answers s": answer,
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    record("mtl_cotraining", rows, steps=options.steps, side=options.side)


if __name__ == "__main__":
    main()
