"""What the small Oriented R-CNN finds on unseen scenes after a budget of CPU time.

Run:    OMP_NUM_THREADS=1 python benchmarks/oriented_scenes.py [--config NAME] [--minutes 20]
Claim:  AP50 of at least 0.85 and AP75 of at least 0.45 after ten minutes on two cores, which is
        twenty of CPU time, at the photometric spread that the scenes have.

The recipe was chosen on the config's own training and validation seeds; it is judged on scenes of
another. Training stops when the budget is spent, wherever its schedule then is.
"""

import argparse
import tempfile
import time
from pathlib import Path

from common import record

from swath.core.checkpoint.store import load_pair
from swath.core.config import load_config
from swath.core.engine import evaluate, train

SEED, SCENES = 4242, 300
STEPS = 50


def cpu_seconds() -> float:
    import psutil

    process = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (process, *process.children(recursive=True)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="oriented_rcnn_scenes_tiny")
    parser.add_argument("--minutes", type=float, default=20.0, help="of CPU time")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    options = parser.parse_args()
    config = load_config(options.config, [*options.overrides, "val=None"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "run"
        spent, step, resume = 0.0, 0, False
        while step < config.iterations and spent < 60 * options.minutes:
            start, step = cpu_seconds(), min(step + STEPS, config.iterations)
            summary = train(config, folder, until=step, resume=resume, device="cpu")
            spent += cpu_seconds() - start
            resume = True
        model, task, _ = load_pair(summary.last_checkpoint)
    assert config.test is not None
    config.test["count"], config.test["seed"] = SCENES, SEED
    started = time.process_time()
    figures = evaluate(model, task, config.test.build(), device="cpu")
    rows = [
        {"class": name, **{k: row[k] for k in ("AP50", "AP75", "recall", "objects")}}
        for name, row in figures["per_class"].items()
    ]
    record(
        "oriented_scenes",
        rows,
        config=options.config,
        overrides=options.overrides,
        steps=step,
        training_cpu_seconds=spent,
        judging_cpu_seconds=time.process_time() - started,
        AP50=figures["AP50"],
        AP75=figures["AP75"],
    )


if __name__ == "__main__":
    main()
