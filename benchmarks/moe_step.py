"""A training step on four data sets at once: one mixed batch against a forward pass for each.

Run:    OMP_NUM_THREADS=1 python benchmarks/moe_step.py            (a GPU is used if there is one)
Claim:  the mixed batch has the loss of the separate passes, to 1e-5, and isn't slower on a CPU.

The official code of S5 runs one forward pass for each data set and adds up the losses. The two ways
take turns, and what is compared is the CPU time (on a GPU the time) of each. Without dropout and
with frozen batch statistics, which one image a set couldn't give.
"""

import argparse
import statistics
import time

import torch
from common import record
from torch import Tensor
from torch.nn import functional as F

from swath.moe.models.mdf import MDFSegmenter, mdf_segmenter

Batch = tuple[Tensor, Tensor, list[Tensor]]


def mixed(model: MDFSegmenter, batch: Batch) -> Tensor:
    images, ids, masks = batch
    logits = model(images, ids)
    own = [
        F.cross_entropy(logits.by_task[name], torch.stack([masks[i] for i in rows.tolist()]))
        for name, rows in logits.rows.items()
    ]
    return torch.stack(own).sum()


def in_turn(model: MDFSegmenter, batch: Batch) -> Tensor:
    images, ids, masks = batch
    losses = []
    for number, name in enumerate(model.tasks):
        rows = (ids == number).nonzero()[:, 0].tolist()
        logits = model(images[rows], number).by_task[name]
        losses.append(F.cross_entropy(logits, torch.stack([masks[i] for i in rows])))
    return torch.stack(losses).sum()


def step(way, model: MDFSegmenter, batch: Batch) -> tuple[float, float, float]:
    """Loss, seconds and peak MB (on a GPU) of a forward and a backward pass."""
    gpu = batch[0].is_cuda
    model.zero_grad(set_to_none=True)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    clock = time.perf_counter if gpu else time.process_time
    start = clock()
    loss = way(model, batch)
    loss.backward()
    if gpu:
        torch.cuda.synchronize()
    seconds = clock() - start
    peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else float("nan")
    return float(loss.detach()), seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="b")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--images", type=int, default=1, help="of each data set")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = mdf_segmenter(options.size, img_size=options.side).to(device).eval()
    ids = torch.arange(len(model.tasks)).repeat_interleave(options.images)
    classes = list(model.tasks.values())
    side = options.side
    images = torch.randn(len(ids), 3, side, side, device=device)
    masks = [torch.randint(0, classes[t], (side, side), device=device) for t in ids.tolist()]
    batch = (images, ids, masks)
    ways = {"one mixed batch": mixed, "a pass for each set": in_turn}
    results = {name: [step(way, model, batch)] for name, way in ways.items()}  # warms up
    for _ in range(options.repeats):
        for name, way in ways.items():
            results[name].append(step(way, model, batch))
    rows = [
        {
            "step": name,
            "loss": runs[0][0],
            "seconds": statistics.median(seconds for _, seconds, _ in runs[1:]),
            "fastest": min(seconds for _, seconds, _ in runs[1:]),
            "peak MB": runs[-1][2] if device == "cuda" else "-",
        }
        for name, runs in results.items()
    ]
    first, second = rows
    record(
        f"moe_step_{device}",
        rows,
        **vars(options),
        clock="time" if device == "cuda" else "CPU time",
        speedup=second["seconds"] / first["seconds"],
        relative_difference_of_losses=abs(first["loss"] - second["loss"]) / abs(second["loss"]),
    )


if __name__ == "__main__":
    main()
