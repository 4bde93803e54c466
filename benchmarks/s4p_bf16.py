"""How many pseudo-labels stay the same when a trained network labels in half precision.

Run:    OMP_NUM_THREADS=1 python benchmarks/s4p_bf16.py
Aim:    99.9 % of them.
State:  99.93 and 99.98 % when trained, 99.8 before; all of those that the threshold learns from.

Two networks learn by S4P, for 300 steps, what ``s4p_scenes_tiny`` teaches: its own U-Net, and the
published architecture in small, a ViT (width 192, 12 layers, patches of 8 px) with UPerNet. Before
and after, they label the weak views of unlabelled scenes in float32 and under autocast to bfloat16.
``same if sure`` counts pixels of a confidence of 0.95 or more in float32: those that the published
threshold learns from. What labelling in bfloat16 saves at full size measures `s4p_step.py`; weights
of that size that have learnt something aren't to be had here.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import record, trained
from torch import nn

from swath.core.backbones.vit import ViT
from swath.core.checkpoint.official import load_strict
from swath.core.checkpoint.safe import load_file
from swath.core.config import TrainConfig, load_config
from swath.core.data.loader import Augmented
from swath.core.engine import evaluate
from swath.core.engine.pieces import adamw_cosine
from swath.core.heads import UPerNet
from swath.core.models.segmentation import SegmentationModel
from swath.core.spec import Spec
from swath.core.task import Batch
from swath.pretrain.task import S4PTask

STEPS = 300
SURE = 0.95
LABELLED = 128  # unlabelled scenes, the last ones of the pool: their masks are never looked at


def small_s4p(num_classes: int, size: int = 64) -> SegmentationModel:
    """`s4p_segmenter`'s parts, narrower and of finer patches."""
    backbone = ViT(size, patch_size=8, embed_dims=192, num_heads=3)
    decoder = UPerNet(backbone.channels, 32)
    return SegmentationModel(backbone, decoder, num_classes, align_corners=True)


def runs() -> dict[str, TrainConfig]:
    """What is trained, by the name of the network."""
    unet = load_config("s4p_scenes_tiny", [f"iterations={STEPS}"])
    vit = replace(
        unet,
        model=Spec(small_s4p, num_classes=len(unet.task["classes"])),
        optimizer=adamw_cosine(lr=5e-4, weight_decay=0.01, warmup=50),
    )
    return {"U-Net": unet, "ViT and UPerNet": vit}


def batches(config: TrainConfig, size: int = 16) -> list[Batch]:
    """Views of scenes that had no labels, in batches."""
    assert config.augment is not None
    pairs = config.train.build()
    views = Augmented(pairs, config.augment.build(), seed=1)
    task = config.task.build()
    last = range(len(pairs) - LABELLED, len(pairs), size)
    return [task.collate([views[0, i] for i in range(k, k + size)]) for k in last]


def row(name: str, model: nn.Module, config: TrainConfig, data: list[Batch]) -> dict[str, Any]:
    """Labels in float32 against those in bfloat16."""
    task = config.task.build()
    assert config.test is not None
    figures = evaluate(model, task, config.test.build(), device="cpu", progress=False)
    other = S4PTask(task.classes, label_precision="bf16")
    exact = [task.pseudo_labels(model, batch) for batch in data]
    half = [other.pseudo_labels(model, batch) for batch in data]
    same = torch.cat([a == b for (a, _), (b, _) in zip(exact, half, strict=True)])
    sure = torch.cat([confidence for _, confidence in exact]) >= SURE
    return {
        "network": name,
        "mIoU": figures["mIoU"],
        "same": float(same.float().mean()),
        "sure": float(sure.float().mean()),
        "same if sure": float(same[sure].float().mean()) if sure.any() else None,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = []
    for name, config in runs().items():
        data = batches(config)
        torch.manual_seed(0)
        rows.append(row(f"{name}, untrained", config.model.build(), config, data))
        with TemporaryDirectory() as folder:
            model = config.model.build().eval()
            load_strict(model, load_file(trained(config, Path(folder), progress=True).last))
        rows.append(row(f"{name}, trained", model, config, data))
        print(rows[-2:], flush=True)
    record("s4p_bf16", rows, pixels=LABELLED * 64**2)


if __name__ == "__main__":
    main()
