"""One small RSCoTr on real imagery of three kinds: what it makes of images it hasn't seen.

Run:    python benchmarks/mtl_samples.py --samples ../shared/samples --scenes runs/scenes
Claim:  none; a few hundred images each show the way, not what such data can give.
State:  1,200 steps from the weights of the study's seed 3 (1,600 steps on scenes), 791 s of a busy
        core: EuroSAT top-1 57.3, AP50 of VHR-10 5.8, IoU of buildings 43.6 %. From an earlier
        recipe's weights it was 49.3, 0.6 and 29.0. Baseball diamonds are found (AP50 0.37), storage
        tanks at times (0.11), and white roofs and vans are taken for those; of the other eight
        kinds next to nothing. Large roofs are found in patches, and some cars with them.

EuroSAT patches are named, NWPU VHR-10's objects boxed and Kampala's roofs mapped by one model that
begins with the weights of `rscotr_scenes_tiny`, whose run folder ``--scenes`` is. Every fifth image
of the first two and one fold of Kampala's places are held out. The run folder gets pictures of
held-out images, the best objects above a score of 0.3.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from common import record, trained

from swath.core.checkpoint.store import load_pair
from swath.core.config import load_config
from swath.core.engine import evaluate
from swath.core.engine.evaluation import as_data
from swath.core.inference.objects import DetectionResult
from swath.core.inference.predictor import Predictor
from swath.mtl.data import TaskMixture, head_of
from swath.mtl.multi_task import MultiTask


def draw(predictor: Predictor, unseen: TaskMixture, folder: Path, count: int = 6) -> None:
    """Write the answers about some held-out images of each set, evenly spread."""
    for name, start in unseen.starts.items():
        places = np.linspace(start, start + len(unseen.parts[name].dataset) - 1, count)
        alone = predictor.for_task(name)
        for number, place in enumerate(places.astype(int)):
            image = np.asarray(unseen[int(place)].image).transpose(1, 2, 0)
            result = alone.predict(image, tile=None)
            boxes = isinstance(result, DetectionResult)
            figure = result.plot(min_score=0.3) if boxes else result.plot()
            figure.savefig(folder / f"{head_of(name)}_{number}.png", dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=Path, required=True, help="folder of the sample data")
    parser.add_argument("--scenes", type=Path, help="run folder to begin with; default: scratch")
    parser.add_argument("--run", type=Path, default=Path("runs/rscotr_samples_small"))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    os.environ["SWATH_DATA"] = str(options.samples.resolve())
    overrides = list(options.overrides)
    if options.scenes:
        overrides.append(f"init_from={options.scenes / 'last.safetensors'}")
    config = load_config("rscotr_samples_small", overrides)
    done = trained(config, options.run)
    model, task, _ = load_pair(done.last)
    assert isinstance(task, MultiTask)
    assert config.test is not None
    unseen = config.test.build()
    figures = evaluate(model, task, unseen, batch_size=config.batch_size)
    draw(Predictor(model, task), unseen, options.run)
    judged = {
        "cls/eurosat": ("top-1", figures["cls/eurosat/top1"]),
        "det/vhr10": ("AP50", figures["det/vhr10/AP50"]),
        "seg/kampala": (
            "IoU of building",
            figures["seg/kampala"]["per_class"]["building"]["IoU"],
        ),
    }
    rows = [
        {
            "data set": name,
            "trained on": len(config.train["parts"][name]["dataset"].build()),
            "judged on": len(unseen.parts[name].dataset),
            "figure": figure,
            "%": 100 * value,
        }
        for name, (figure, value) in judged.items()
    ]
    record(
        "mtl_samples",
        rows,
        steps=config.iterations,
        overrides=options.overrides,
        from_scenes=bool(options.scenes),
        training_cpu_seconds=round(done.cpu_seconds),
        per_class={name: as_data(figures[name]["per_class"]) for name in judged},
    )


if __name__ == "__main__":
    main()
