"""Does what S4P learnt carry over to other scenes?

Run:    OMP_NUM_THREADS=1 python benchmarks/s4p_transfer.py
Claim:  a network pre-trained by S4P on temperate scenes, fine-tuned on a few labelled scenes of
        another domain, beats the same network trained on those scenes from scratch.
State:  so at every one of three seeds: 57.1 from scratch, 63.8 after S4P, at least 3.4 points more;
        but 64.1 after the labels alone, so that the unlabelled scenes add nothing here.

Pre-training is the run of ``s4p_label_efficiency.py`` with 1/16 of the scenes labelled; "labels
alone" is pre-trained on the same labelled scenes without the unlabelled ones; both are taken from
that study where it has left them. All three are then trained for the same number of steps on the
same few scenes of the other domain and judged on 200 unseen ones. Writes
``results/s4p_transfer.json``.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import record, trained
from s4p_label_efficiency import (
    CLASS_SET,
    JUDGED,
    JUDGED_SEED,
    RECIPE,
    SEEDS,
    SIZE,
    SPREAD,
    configure,
    run_folder,
)

from swath.core.checkpoint.store import load_pair
from swath.core.data.scenes import VERSION, SceneDataset
from swath.core.engine import evaluate
from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec

DOMAIN = "arid"
LABELLED, ITERATIONS, LR = 20, 400, 1e-3
STARTS = ("scratch", "labels alone", "S4P")


def pretrain(arm: str, seed: int) -> Path:
    """The weights of one arm of the label-efficiency study."""
    return trained(configure(arm, 16, seed, RECIPE), run_folder(arm, 16, seed)).last


def fine_tune(weights: Path | None, seed: int, folder: Path) -> float:
    """Train on the other domain's few scenes; mIoU in percent on unseen ones."""
    few = Spec(SceneDataset, size=SIZE, count=LABELLED, seed=seed, domain=DOMAIN,
               class_set=CLASS_SET, spread=SPREAD)  # fmt: skip
    config = replace(
        configure("supervised", 16, seed, RECIPE | {"iterations": ITERATIONS}),
        train=few,
        optimizer=adamw_cosine(LR, RECIPE["weight_decay"], RECIPE["warmup"]),
        init_from=None if weights is None else str(weights),
    )
    model, task, _ = load_pair(trained(config, folder).last)
    unseen = SceneDataset(
        SIZE, JUDGED, JUDGED_SEED, domain=DOMAIN, class_set=CLASS_SET, spread=SPREAD
    )
    return 100 * float(evaluate(model, task, unseen, batch_size=20, progress=False)["mIoU"])


def run(seed: int) -> dict[str, Any]:
    """All three starts of one seed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starts = {
            "scratch": None,
            "labels alone": pretrain("supervised", seed),
            "S4P": pretrain("S4P", seed),
        }
        scores = {
            start: fine_tune(weights, seed, folder / f"tuned {start}")
            for start, weights in starts.items()
        }
    row = {"seed": seed, **scores}
    print(row, flush=True)
    return row


def main() -> None:
    """Every seed; print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    rows = [run(seed) for seed in options.seeds]
    means = {start: statistics.mean(row[start] for row in rows) for start in STARTS}
    if tuple(options.seeds) == SEEDS:
        record("s4p_transfer", rows, scenes=VERSION, domain=DOMAIN, labelled=LABELLED,
               iterations=ITERATIONS, lr=LR, pretraining=RECIPE, means=means)  # fmt: skip


if __name__ == "__main__":
    main()
