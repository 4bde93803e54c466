"""Seconds to build models of full size, with random weights and as a checkpoint's loading does.

Run:    OMP_NUM_THREADS=1 python benchmarks/model_building.py
Before: loading built a model with random weights, all of which it then overwrote.

Seconds are the processor's; each model is built twice either way, and the faster counts.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from common import record
from torch import nn

from swath.core import zoo
from swath.core.checkpoint.unfilled import build_unfilled

MODELS = (
    "s4p-vit-b",
    "s4p-vit-l",
    "s5-moe-vitb-seg",
    "s5-moe-vitb-det",
    "gsnet-vitb",
    "rskt-seg-vitb-dlrsd",
    "remotesam-swin-b",
    "rscotr-swin-t",
)


def fastest(build: Callable[[], nn.Module]) -> tuple[float, nn.Module]:
    """Seconds, and what was built last."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        model = build()
        seconds.append(time.process_time() - start)
    return min(seconds), model


def row(name: str) -> dict[str, Any]:
    """One model of the zoo, without weights."""
    spec, _ = zoo.card(name).specs()
    drawn, model = fastest(spec.build)
    unfilled, _ = fastest(lambda: build_unfilled(spec.build))
    return {
        "model": name,
        "million parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "random weights, s": drawn,
        "to be loaded, s": unfilled,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    record("model_building", [row(name) for name in MODELS])


if __name__ == "__main__":
    main()
