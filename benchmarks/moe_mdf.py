"""One model against many: four domains learnt apart, together, and together with experts.

Run:    OMP_NUM_THREADS=1 python benchmarks/moe_mdf.py
Aim:    MoE-MDF at least matches a shared model without experts in every domain, and four separate
        ones on average, with less than half of their parameters.
Before: from scratch, 400 steps, seeds 11 and 12, mean mIoU: separate 22.0, shared 26.3, MoE-MDF
        26.2, with 45 % of the separate models' parameters. Against shared, MoE-MDF was 0.2 to 1.6
        points better on average in three domains, and worse in urban at both seeds, by 3.3 and 2.5
        (``results/moe_mdf_first.json``). Then from pre-trained weights, 800 steps at their own rate
        of 1.5e-3, experts of 32 channels, seed 13: 42.2, 47.4 and 45.9; against shared 2.5 better
        in temperate, the same in coastal, 4.5 and 3.8 worse in arid and urban
        (``results/moe_mdf_second.json``).
Trial:  an expert sees a quarter of each batch, so that its gradients are noisier than what is
        shared. At a third of the rate (seed 5) MoE-MDF is 0.3, -1.5, 0.2 and 0.9 better than shared
        in temperate, arid, coastal and urban; with experts of 24 channels, a quarter of the width
        as published, 2.0, 1.6, 1.0 and -0.4. With four times as many scenes it is 1.0 worse on
        average.
State:  seeds 16 to 18, mean mIoU: separate 45.7, shared 46.0, MoE-MDF 46.0 with 44 % of the
        parameters of the separate ones. Against shared it is 0.5 better in urban and 0.3, 0.1 and
        0.1 worse in temperate, arid and coastal, from -1.2 to 1.2 at single seeds: the same, for
        what can be told here. Against separate ones it is 0.5, 0.6 and 1.2 better in three domains
        and 1.3 worse in coastal; at seed 18 both joint models lose to them.

As S5 does it, all three are fine-tuned from one pre-trained plain transformer and decoder, which
has seen a fifth domain only (winter), by `s4p_to_moe`: every expert begins as its feed-forward
layer. They follow the small recipe of `moe_seg_scenes_tiny`, see the same scenes in the same number
of steps, every step with as many scenes of each domain: a separate model gets a quarter of a batch,
its own domain's. Without experts all samples go through the first, which is the plain transformer.
Of each domain there are few scenes, as of many a data set, rendered once and kept. A seed picks
them, the weights of the heads and the order; the scenes to judge on are the same for all. The
recipe was chosen with other seeds. Every finished run is kept in ``results/moe_mdf.json``, so that
the study goes on where it was stopped.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from common import RESULTS, RUNS, record, recorded, trained
from safetensors.torch import save_file
from torch import Tensor, nn

from swath.core.backbones.vit import ViT
from swath.core.checkpoint.safe import load_file
from swath.core.config import TrainConfig, load_config
from swath.core.data.mixture import InMemory
from swath.core.data.scenes import CLASS_SETS, VERSION, SceneDataset
from swath.core.engine import evaluate
from swath.core.heads import UPerNet
from swath.core.models.segmentation import SegmentationModel
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.moe.models.mdf import MDFSegmenter, s4p_to_moe

NAME, CONFIG = "moe_mdf", "moe_seg_scenes_tiny"
SEEDS = (16, 17, 18)
SPREAD = 0.15  # how much the light differs from scene to scene
ITERATIONS, LR = 800, 5e-4  # a third of the rate that such a model is pre-trained with
PART = 24  # an expert's channels: a quarter of the width, as published
PRETRAINING, PRETRAINING_POOL = 1500, 2000  # steps, scenes
POOL, JUDGED, JUDGED_SEED = 250, 100, 4343  # scenes of each domain

Job = tuple[str, list[str], int]
"""An arm, the domains that its model learns, and a seed."""


class SharedSegmenter(MDFSegmenter):
    """A decoder and a head for each task on one backbone without experts."""

    def features(
        self, image: Tensor, task_ids: Tensor | int
    ) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
        """The maps of each task's samples, whatever the task by the first expert."""
        rows = self._rows(task_ids, len(image))
        maps = self.backbone(image, 0)
        return {task: [x[chosen] for x in maps] for task, chosen in rows.items()}, rows


ARMS = {"separate": MDFSegmenter, "shared": SharedSegmenter, "MoE-MDF": MDFSegmenter}


def pretrained() -> Path:
    """Weights to start from: a plain ViT's, whose feed-forward layers are every expert's."""
    path = RUNS / NAME / "pretrained.safetensors"
    if path.exists():
        return path
    config = load_config(CONFIG, [f"iterations={PRETRAINING}", "val=None", "num_workers=0"])
    vit = dict(config.model["backbone"].kwargs)
    experts = vit.pop("num_experts")
    del vit["part_features"]
    classes = CLASS_SETS["full"].classes
    plain = replace(
        config,
        model=Spec(
            SegmentationModel,
            backbone=Spec(ViT, **vit),
            decoder=Spec(
                UPerNet,
                channels=[vit["embed_dims"]] * len(vit["out_indices"]),
                width=config.model["width"],
            ),
            num_classes=len(classes),
            align_corners=True,
        ),
        task=Spec(SegmentationTask, classes=list(classes)),
        train=Spec(
            InMemory,
            dataset=Spec(
                SceneDataset,
                size=vit["img_size"],
                count=PRETRAINING_POOL,
                seed=0,
                domain="winter",
                spread=SPREAD,
            ),
        ),
        test=None,
    )
    done = trained(plain, RUNS / NAME / "pretraining")
    state = s4p_to_moe(load_file(done.last), list(config.task["tasks"]), experts, PART)
    save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    return path


def configure(arm: str, domains: Sequence[str], seed: int) -> TrainConfig:
    """The run of one model: of all domains, or, where they are learnt apart, of one."""
    config = load_config(CONFIG, [f"seed={seed}", f"iterations={ITERATIONS}", "val=None"])
    assert config.test is not None
    every = config.task["tasks"]
    for owner, key in ((config.train, "parts"), (config.test, "parts"), (config.task, "tasks"),
                       (config.model, "tasks")):  # fmt: skip
        owner[key] = {name: owner[key][name] for name in domains}
    for name, part in config.train["parts"].items():
        part["count"], part["seed"], part["spread"] = POOL, seed, SPREAD
        config.train["parts"][name] = Spec(InMemory, dataset=part)
    for part in config.test["parts"].values():
        part["count"], part["seed"], part["spread"] = JUDGED, JUDGED_SEED, SPREAD
    config.model = Spec(ARMS[arm], **config.model.kwargs)
    config.model["backbone"]["part_features"] = PART
    config.optimizer["lr"] = LR
    batch_size = config.batch_size * len(domains) // len(every)
    return replace(config, batch_size=batch_size, num_workers=0, init_from=str(pretrained()))


def run(arm: str, domains: Sequence[str], seed: int) -> dict[str, Any]:
    """Train one model and judge its last weights."""
    config = configure(arm, domains, seed)
    with tempfile.TemporaryDirectory() as folder:
        done = trained(config, Path(folder) / "run")
        model: nn.Module = config.model.build()
        model.load_state_dict(load_file(done.last))
    assert config.test is not None
    judged = config.test.build()
    figures = evaluate(model, config.task.build(), judged, device="cpu", progress=False)
    row = {
        "arm": arm,
        "seed": seed,
        "mIoU": {name: 100 * part["mIoU"] for name, part in figures["per_task"].items()},
        "parameters": parameters(model, len(domains) if arm == "MoE-MDF" else 1),
        "cpu s": round(done.cpu_seconds),
    }
    print(row, flush=True)
    return row


def parameters(model: nn.Module, experts: int) -> int:
    """Those in use: experts from this number on never see a sample."""
    idle = tuple(f".experts.{i}." for i in range(experts, 99))
    return sum(p.numel() for n, p in model.named_parameters() if not any(i in n for i in idle))


def jobs_of(seeds: Sequence[int], domains: list[str]) -> list[Job]:
    """Every run of the study at some seeds."""
    return [
        (arm, part, seed)
        for seed in seeds
        for arm in ("MoE-MDF", "shared", "separate")
        for part in ([[name] for name in domains] if arm == "separate" else [domains])
    ]


def summarise(runs: Sequence[dict[str, Any]], domains: list[str]) -> list[dict[str, Any]]:
    """Means of each arm over the seeds of which every run is there."""
    seen = sorted({r["seed"] for r in runs})
    seeds = [s for s in seen if all(find(runs, job) for job in jobs_of([s], domains))]
    table = []
    for arm in ARMS if seeds else ():
        own = [r for r in runs if r["arm"] == arm and r["seed"] in seeds]
        domains: dict[str, list[float]] = {}
        for r in own:
            for name, value in r["mIoU"].items():
                domains.setdefault(name, []).append(value)
        means = {name: statistics.mean(values) for name, values in sorted(domains.items())}
        row = {"model": arm, **means, "mean": statistics.mean(means.values())}
        for total in ("parameters", "cpu s"):
            row[total] = sum(r[total] for r in own) // len(seeds)
        table.append(row | {"seeds": len(seeds)})
    return table


def find(runs: Sequence[dict[str, Any]], job: Job) -> bool:
    """Whether a job is done."""
    arm, domains, seed = job
    key = (arm, sorted(domains), seed)
    return any((r["arm"], sorted(r["mIoU"]), r["seed"]) == key for r in runs)


def plot(table: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]], path: Path) -> None:
    """A bar for each arm in every domain, a point for each run."""
    domains = [name for name in table[0] if name in {d for r in runs for d in r["mIoU"]}]
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for i, (row, colour) in enumerate(zip(table, ("#8a8f98", "#d98c2b", "#2463a8"), strict=True)):
        places = [n + (i - 1) * 0.27 for n in range(len(domains) + 1)]
        label = f"{row['model']}, {row['parameters'] / 1e6:.2f} M parameters"
        heights = [row[name] for name in (*domains, "mean")]
        axes.bar(places, heights, 0.25, color=colour, label=label)
        for place, name in zip(places, domains, strict=False):
            own = [r["mIoU"] for r in runs if r["arm"] == row["model"]]
            points = [figures[name] for figures in own if name in figures]
            axes.scatter([place] * len(points), points, s=8, color="black", zorder=3)
    axes.set_xticks(range(len(domains) + 1), [*domains, "mean"])
    axes.set_ylabel("mIoU on unseen scenes, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=8)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--most", type=int, help="stop after so many more runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    domains = list(load_config(CONFIG).task["tasks"])
    wanted = jobs_of(options.seeds, domains)
    runs = recorded(NAME)
    for job in [job for job in wanted if not find(runs, job)][: options.most]:
        done = run(*job)
        runs = [*recorded(NAME), done]  # read again: other processes may run other seeds
        record(
            NAME,
            summarise(runs, domains),
            unit=f"mIoU in %, {JUDGED} unseen scenes of each domain",
            scenes=f"{VERSION}, {POOL} of each domain to learn from",
            config=CONFIG,
            iterations=ITERATIONS,
            runs=runs,
        )
    if table := summarise(runs, domains):
        plot(table, runs, RESULTS / f"{NAME}.png")


if __name__ == "__main__":
    main()
