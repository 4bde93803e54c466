"""How far masks of a trained RemoteSAM agree with float32's when it computes in bfloat16.

Run:  python benchmarks/refseg_bf16.py CHECKPOINT [--config remotesam_scenes_tiny]
Aim:  IoU of all masks of both at least 0.995.

Asked are the sentences of the config's test set. How fast bfloat16 is at full size measures
`refseg_speed.py`; masks of its random weights hang on margins near zero and say little.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from common import record
from torch import Tensor

from swath.core import load_model
from swath.core.config import load_config
from swath.core.engine import evaluate
from swath.core.inference.predictor import Predictor
from swath.core.precision import Precision, autocast
from swath.core.sample import Sample


def masks(predictor: Predictor, samples: Sequence[Sample], precision: Precision) -> Tensor:
    """Where the model sees what each sentence means, bool ``(N, H, W)``."""
    task = predictor.task
    with torch.inference_mode(), autocast(torch.device("cpu"), precision):
        found = [task.predict(predictor.model, task.collate([sample]))[0] for sample in samples]
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--config", default="remotesam_scenes_tiny")
    parser.add_argument("--count", type=int, default=600, help="of the sentences, at most")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    test = load_config(arguments.config).test
    assert test is not None
    data = test.build()
    samples = [data[i] for i in range(min(arguments.count, len(data)))]
    predictor = load_model(arguments.checkpoint, device="cpu")
    wanted = masks(predictor, samples, "fp32")
    rows: list[dict[str, Any]] = []
    kinds: tuple[Precision, ...] = ("fp32", "bf16")
    for kind in kinds:
        found = wanted if kind == "fp32" else masks(predictor, samples, kind)
        figures = evaluate(
            predictor.model, predictor.task, samples, precision=kind, device="cpu", progress=False
        )
        both, either = (found & wanted).sum(), (found | wanted).sum()
        each = (found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2)).clamp_min(1)
        empty = ~(found | wanted).flatten(1).any(1)
        rows.append(
            {
                "arithmetic": kind,
                "oIoU with the truth": figures["oIoU"],
                "IoU with fp32": float(both / either),
                "mean IoU with fp32": float(each.masked_fill(empty, 1).mean()),
                "pixels that change": float((found != wanted).float().mean()),
            }
        )
    record("refseg_bf16", rows, config=arguments.config, sentences=len(samples))


if __name__ == "__main__":
    main()
