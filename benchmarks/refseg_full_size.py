"""RemoteSAM at full size on the authors' demonstration image: each of its evaluations, once.

Run:  OMP_NUM_THREADS=1 python benchmarks/refseg_full_size.py [--smoke]

Swin-B and BERT-base, 896 px, random weights: what comes out means nothing; that it comes out, in
which shape, time and memory is what is shown. Every evaluation is asked about one image, DOTA's
submission with all of DOTA's classes. The image is in the shared samples (SWATH_SAMPLES_DIR).
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import record

from swath.core.data.catalogue import dataset_spec
from swath.core.data.segmentation import read_image_tensor
from swath.core.engine.evaluation import as_data
from swath.core.sample import Sample
from swath.refseg.data.scenes import VOCABULARY
from swath.refseg.models.remotesam import remotesam
from swath.refseg.predictor import RemoteSAMPredictor
from swath.refseg.protocols import JUDGES, Evaluation, write_dota
from swath.refseg.sets import asked_as
from swath.refseg.task import ReferringTask
from swath.refseg.text import WordPieces

SAMPLES = Path(os.environ.get("SWATH_SAMPLES_DIR", Path(__file__).parents[2] / "shared/samples"))
IMAGE = SAMPLES / "refseg/remotesam_demo/demo.jpg"
CLASSES = ("airplane", "vehicle")


def sample() -> Sample:
    """The image with a target for every evaluation."""
    image, _ = read_image_tensor(IMAGE)
    height, width = image.shape[1:]
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[: height // 2, : width // 2] = 1
    targets = {
        "sentence": "the airplane on the right",
        "mask": mask,
        "box": [0, 0, width // 2, height // 2],
        "boxes": torch.tensor([[0.0, 0, width // 2, height // 2]]),
        "labels": torch.tensor([0]),
        "label": 0,
        "captions": ["two airplanes on a runway"],
        "name": "airplane",
        "count": 2,
    }
    return Sample(image, targets, meta={"path": IMAGE.name})


def dota(model: RemoteSAMPredictor, samples: list[Sample]) -> dict[str, Any]:
    """Lines of a submission by class."""
    names = tuple(asked_as(name) for name in dataset_spec("dota").protocol("v2.0").classes)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_dota(model, samples, Evaluation(names), folder)
        lines = [path.read_text().count("\n") for path in paths]
    return {"files": len(paths), "objects": sum(lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small input, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    start = time.process_time()
    side = 96 if arguments.smoke else 896
    task = ReferringTask(WordPieces(VOCABULARY), input_size=side)
    model = RemoteSAMPredictor(remotesam().eval(), task)
    print(f"built in {time.process_time() - start:.0f} s", flush=True)
    samples, how, rows = [sample()], Evaluation(CLASSES), []
    for name in [*JUDGES, "dota"]:
        start = time.process_time()
        judge = JUDGES.get(name)
        figures = dota(model, samples) if judge is None else judge(model, samples, how)
        numbers = {k: v for k, v in as_data(figures).items() if not isinstance(v, dict | list)}
        rows.append(
            {
                "evaluation": name,
                "CPU s": time.process_time() - start,
                "peak memory GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "figures": ", ".join(numbers),
            }
        )
        print(rows[-1], flush=True)
    if not arguments.smoke:
        parameters = sum(p.numel() for p in model.model.parameters())
        _, height, width = samples[0].image.shape
        record(
            "refseg_full_size",
            rows,
            parameters=parameters,
            input=side,
            image=[width, height],
            classes=CLASSES,
            threads=1,
        )


if __name__ == "__main__":
    main()
