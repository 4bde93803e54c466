"""One model against many: four domains learnt apart, together, and together with experts.

Run:    OMP_NUM_THREADS=1 python benchmarks/moe_mdf.py
Claim:  MoE-MDF at least matches a shared model without experts in every domain, and four separate
        ones on average, with less than half of their parameters.

All three see the same scenes in the same number of steps: a separate model gets a quarter of a
batch, its own domain's. The backbone is the small one of `moe_seg_scenes_tiny`; without experts all
samples go through the first.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import record
from torch import Tensor, nn

from swath.core.checkpoint.safe import load_file
from swath.core.config import TrainConfig, load_config
from swath.core.engine import evaluate, train
from swath.core.spec import Spec
from swath.moe.models.mdf import MDFSegmenter

SEED = 4343


class SharedSegmenter(MDFSegmenter):
    """A decoder and a head for each task on one backbone without experts."""

    def features(
        self, image: Tensor, task_ids: Tensor | int
    ) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
        """The maps of each task's samples, whatever the task by the first expert."""
        rows = self._rows(task_ids, len(image))
        maps = self.backbone(image, 0)
        return {task: [x[chosen] for x in maps] for task, chosen in rows.items()}, rows


def parameters(model: nn.Module, experts: int) -> int:
    """Those in use: experts from this number on never see a sample."""
    idle = tuple(f".experts.{i}." for i in range(experts, 99))
    return sum(p.numel() for n, p in model.named_parameters() if not any(i in n for i in idle))


def run(config: TrainConfig) -> tuple[dict[str, float], nn.Module, float]:
    """Mean IoU of each domain on unseen scenes, the model, and CPU seconds of the training."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        summary = train(config, Path(folder) / "run", device="cpu")
        seconds = time.process_time() - start
        model: nn.Module = config.model.build()
        model.load_state_dict(load_file(summary.last_checkpoint))
    assert config.test is not None
    figures = evaluate(model, config.task.build(), config.test.build(), device="cpu")
    return {name: row["mIoU"] for name, row in figures["per_task"].items()}, model, seconds


def only(config: TrainConfig, name: str) -> TrainConfig:
    """The same recipe for one of the domains."""
    data = config.to_data()
    for part in ("train", "test"):
        data[part]["parts"] = {name: data[part]["parts"][name]}
    data["task"]["tasks"] = {name: data["task"]["tasks"][name]}
    data["model"]["tasks"] = {name: data["model"]["tasks"][name]}
    data["batch_size"] //= len(config.task["tasks"])
    return TrainConfig.from_data(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--count", type=int, default=100, help="scenes to judge on, of each domain")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        settings = [f"seed={seed}", f"iterations={options.iterations}", "val=None"]
        config = load_config("moe_seg_scenes_tiny", settings)
        assert config.test is not None
        for part in config.test["parts"].values():
            part["count"], part["seed"] = options.count, SEED
        domains = list(config.task["tasks"])
        torch.set_num_threads(1)

        apart, total, seconds = {}, 0, 0.0
        for name in domains:
            found, model, spent = run(only(config, name))
            apart |= found
            total, seconds = total + parameters(model, 1), seconds + spent
        rows.append(row("four separate models", seed, apart, total, seconds))

        for title, target, experts in (
            ("shared, no experts", SharedSegmenter, 1),
            ("MoE-MDF", MDFSegmenter, len(domains)),
        ):
            config.model = Spec(target, **config.model.kwargs)
            found, model, spent = run(config)
            rows.append(row(title, seed, found, parameters(model, experts), spent))
    record("moe_mdf", rows, iterations=options.iterations, unit="mIoU on unseen scenes")


def row(
    title: str, seed: int, found: dict[str, float], count: int, seconds: float
) -> dict[str, Any]:
    mean = sum(found.values()) / len(found)
    return {"model": title, "seed": seed, **found, "mean": mean, "parameters": count,
            "CPU seconds": seconds}  # fmt: skip


if __name__ == "__main__":
    main()
