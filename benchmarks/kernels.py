"""Speed and memory of every operator of swath.kernels against what one would use otherwise.

Run:  OMP_NUM_THREADS=1 python benchmarks/kernels.py [--device cuda] [--only rotated_iou] [--smoke]

On the CPU: one thread, processor time, the best of several interleaved rounds, so that the ratios
hold on a machine that others use too. ``peak_mb`` is what a call needs beyond its inputs, measured
in a process of its own (Linux only) that has warmed up with the smoke size. ``reference`` is the
back end in plain torch, without numba.

On a GPU: median of many launches with a cold L2 cache, next to the floor that 3.0 TB/s, 790 TFLOP/s
in bfloat16 and, for boxes, the rate of instructions set (section 13.10 of the specification asks
for at least 60 % of the memory floor above 20 us, and 65 % of the matrix rate for the FFN).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
import torch
import torch.nn.functional as F
import torchvision
from common import record
from torch import Tensor

from swath import kernels
from swath.kernels.boxes import boxes_to_detectron2, boxes_to_quads

BYTES_PER_S = 3.0e12
FLOP_PER_S = 790e12
# one SM issues for 128 lanes a cycle; a pair of boxes takes about 275 instructions
PAIRS_PER_S = 132 * 128 * 1.7e9 / 275
SECONDS_PER_WAY = 3.0


class Way(NamedTuple):
    """One way to compute a case; several calls may be needed to make up the whole."""

    call: Callable[[], object]
    share: float = 1.0  # of the case's work that one call does
    min_speedup: float | None = None  # aim against the baseline
    max_ms: float | None = None  # aim


@dataclass(frozen=True)
class Case:
    """Work at one size. ``make`` builds inputs; the first way is ours, ``baseline`` one of them."""

    name: str
    baseline: str
    make: Callable[[], dict[str, Way]]
    floor_us: float | None = None


# ---------------------------------------------------------------------------------- the operators


def rotated_iou(device: torch.device, smoke: bool) -> Iterator[Case]:
    """Sparse: 2 % of the pairs overlap, as between proposals and objects; dense: all do."""
    sizes = [(1000, 1000), (10_000, 1000)] if device.type == "cuda" else [(1000, 1000)]
    for n, m in [(60, 50)] if smoke else sizes:
        for kind in ("sparse", "dense"):
            yield iou_case(device, n, m, kind)
    if not smoke:
        yield iou_case(device, 10_000, 10_000, "sparse", alone=True)


def iou_case(device: torch.device, n: int, m: int, kind: str, *, alone: bool = False) -> Case:
    def make() -> dict[str, Way]:
        first, second = (random_boxes(size, kind, device, seed) for seed, size in enumerate((n, m)))
        sparse = kind == "sparse"
        ours = Way(lambda: kernels.rotated_iou(first, second), 1, 25 if sparse else 2.5)
        if alone:
            return {"swath": Way(ours.call)}
        ways = {
            "swath": ours if device.type == "cpu" else Way(ours.call),
            "reference": Way(reference(ours.call), 1, 3 if sparse else 1.3),
            "torchvision": torchvision_iou(first, second),
        }
        if device.type == "cpu":
            ways["shapely STRtree"] = shapely_iou(first, second, 1 if sparse else 0.02)
        return ways

    memory = (4 * n * m + 20 * (n + m)) / BYTES_PER_S
    issue = 0 if kind == "sparse" else n * m / PAIRS_PER_S
    name = f"{n} x {m} {kind}"
    return Case(name, "swath" if alone else "torchvision", make, max(memory, issue) * 1e6)


def random_boxes(n: int, kind: str, device: torch.device, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    canvas, low, high = (1000, 8, 128) if kind == "sparse" else (60, 60, 200)
    centre, sides = rng.uniform(0, canvas, (n, 2)), rng.uniform(low, high, (n, 2))
    boxes = np.concatenate([centre, sides, rng.uniform(-np.pi / 2, np.pi / 2, (n, 1))], 1)
    return torch.from_numpy(boxes.astype(np.float32)).to(device)


def torchvision_iou(first: Tensor, second: Tensor) -> Way:
    first, second = boxes_to_detectron2(first), boxes_to_detectron2(second)
    return Way(lambda: torchvision.ops.box_iou(first, second, fmt="cxcywhr"))


def shapely_iou(first: Tensor, second: Tensor, share: float) -> Way:
    first = first[: max(1, round(share * len(first)))]

    def call() -> np.ndarray:
        shapes1, shapes2 = (shapely.polygons(boxes_to_quads(b).numpy()) for b in (first, second))
        rows, columns = shapely.STRtree(shapes2).query(shapes1)
        common = shapely.area(shapely.intersection(shapes1[rows], shapes2[columns]))
        areas1, areas2 = shapely.area(shapes1), shapely.area(shapes2)
        out = np.zeros((len(shapes1), len(shapes2)))
        out[rows, columns] = common / (areas1[rows] + areas2[columns] - common)
        return out

    return Way(call, share)


def rotated_nms(device: torch.device, smoke: bool) -> Iterator[Case]:
    """Objects with 20 jittered proposals each."""
    for n in [100] if smoke else [5000] if device.type == "cpu" else [2000, 5000, 36_000]:
        for threshold in (0.1, 0.5, 0.8):
            yield nms_case(device, n, threshold)


def nms_case(device: torch.device, n: int, threshold: float) -> Case:
    def make() -> dict[str, Way]:
        rng = torch.Generator().manual_seed(0)
        jitter = torch.randn(n, 5, generator=rng) * torch.tensor([4.0, 4, 4, 4, 0.1])
        objects = random_boxes(n // 20, "sparse", torch.device("cpu"), 0).repeat_interleave(20, 0)
        boxes = (objects + jitter).clamp(min=torch.tensor([-1e4, -1e4, 4, 4, -9])).to(device)
        scores = torch.rand(n, generator=rng).to(device)
        ours = Way(lambda: kernels.rotated_nms(boxes, scores, threshold))
        slow_cpu = device.type == "cpu" and threshold == 0.5
        return {
            "swath": ours._replace(max_ms=10) if slow_cpu else ours,
            "reference": Way(reference(ours.call)),
            "torchvision IoU + greedy": Way(lambda: greedy_nms(boxes, scores, threshold)),
        }

    floor = n * (n - 1) / 2 / PAIRS_PER_S * 1e6
    return Case(f"{n} at {threshold}", "torchvision IoU + greedy", make, floor)


def greedy_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """A row of IoU for each box that is kept."""
    order = scores.argsort(descending=True, stable=True)
    degrees = boxes_to_detectron2(boxes)
    keep = []
    while order.numel():
        keep.append(order[0])
        iou = torchvision.ops.box_iou(degrees[order[:1]], degrees[order[1:]], fmt="cxcywhr")
        order = order[1:][iou[0] <= threshold]
    return torch.stack(keep)


def roi_align_rotated(device: torch.device, smoke: bool) -> Iterator[Case]:
    """7 x 7 bins of 2 x 2 samples from one level."""
    on_gpu = device.type == "cuda"
    r, c, side = (8, 8, 32) if smoke else (2000, 256, 256) if on_gpu else (256, 256, 128)
    element = 2 if on_gpu else 4
    floor = element * (r * c * 49 + c * side**2) / BYTES_PER_S * 1e6
    for training in (False, True):
        name = f"{r} rois, {c} x {side} x {side}, {passes(training)}"
        make = roi_ways(device, r, c, side, training)
        yield Case(name, "grid_sample", make, None if training else floor)


def roi_ways(
    device: torch.device, r: int, c: int, side: int, training: bool
) -> Callable[[], dict[str, Way]]:
    def make() -> dict[str, Way]:
        x = features(c, side, side, device=device)
        boxes = random_boxes(r, "sparse", device, 0) * torch.tensor(
            [side / 1000] * 4 + [1], device=device
        )
        rois = torch.cat((boxes.new_zeros(r, 1), boxes), 1)
        upright = torch.cat((boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2), 1)
        ways = {
            "swath": lambda: kernels.roi_align_rotated(x, rois, 7, 1.0, 2),
            "grid_sample": lambda: roi_align_eager(x, boxes),
            "torchvision, upright": lambda: torchvision.ops.roi_align(
                x, [upright.to(x.dtype)], 7, 1.0, 2, aligned=True
            ),
        }
        return as_ways(ways, (x,), training, device, "grid_sample")

    return make


def roi_align_eager(x: Tensor, boxes: Tensor, bins: int = 7, samples: int = 2) -> Tensor:
    steps = (torch.arange(bins * samples, device=x.device) + 0.5) / (bins * samples) - 0.5
    cx, cy, w, h, theta = (v[:, None, None] for v in boxes.unbind(-1))
    along, across = w * steps, h * steps[:, None]
    px = cx + along * theta.cos() - across * theta.sin()
    py = cy + along * theta.sin() + across * theta.cos()
    grid = torch.stack((2 * px / x.shape[3] - 1, 2 * py / x.shape[2] - 1), -1).to(x.dtype)
    points = F.grid_sample(x, grid.flatten(0, 1)[None], align_corners=False)
    pooled = F.avg_pool2d(points[0].unflatten(1, (len(boxes), -1)).transpose(0, 1), samples)
    return pooled.contiguous()


def ms_deform_attn(device: torch.device, smoke: bool) -> Iterator[Case]:
    """RSCoTr: 8 heads of 32 channels, 4 levels, 4 points."""
    pyramid = [(64, 64), (32, 32), (16, 16), (8, 8)]
    large = [(100, 167), (50, 84), (25, 42), (13, 21)]
    sizes = [("encoder 512 x 512", pyramid, None)]
    if device.type == "cuda":
        sizes += [("encoder 1333 x 800", large, None), ("decoder, 800 queries", large, 800)]
    if smoke:
        sizes = [("smoke", [(8, 8), (4, 4)], None)]
    for name, shapes, queries in sizes:
        s = sum(h * w for h, w in shapes)
        q = queries or s
        element = 2 if device.type == "cuda" else 4
        samples = q * 8 * len(shapes) * 4
        floor = (element * 256 * (s + q) + samples * 3 * 4) / BYTES_PER_S * 1e6
        for training in (False, True):
            make = deform_ways(device, shapes, q, training)
            name_of_pass = f"{name}, {passes(training)}"
            yield Case(name_of_pass, "grid_sample", make, None if training else floor)


def deform_ways(
    device: torch.device, shapes: list[tuple[int, int]], q: int, training: bool
) -> Callable[[], dict[str, Way]]:
    def make() -> dict[str, Way]:
        rng = torch.Generator().manual_seed(0)
        s, levels = sum(h * w for h, w in shapes), len(shapes)
        value = features(s, 8, 32, device=device)
        # near the query's own place, as trained offsets are
        place = torch.rand(1, q, 1, 1, 1, 2, generator=rng)
        offsets = torch.randn(1, q, 8, levels, 4, 2, generator=rng) / 32
        locations = (place + offsets).to(device)
        logits = torch.randn(1, q, 8, levels * 4, generator=rng)
        weights = logits.softmax(-1).unflatten(-1, (levels, 4)).to(device)
        ways = {
            "swath": lambda: kernels.ms_deform_attn(value, shapes, None, locations, weights),
            "grid_sample": lambda: deform_eager(value, shapes, locations, weights),
        }
        inputs = (value, locations, weights)
        return as_ways(ways, inputs, training, device, "grid_sample", 2 if training else None)

    return make


def deform_eager(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    b, _, heads, d = value.shape
    sampled = []
    for level, (part, (h, w)) in enumerate(
        zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)
    ):
        image = part.permute(0, 2, 3, 1).reshape(b * heads, d, h, w)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(image, grid.to(value.dtype), align_corners=False))
    points = torch.stack(sampled, -2).flatten(-2)  # (B * heads, D, Q, L * P)
    shares = weights.flatten(-2).transpose(1, 2).flatten(0, 1)[:, None].to(value.dtype)
    return (points * shares).sum(-1).unflatten(0, (b, heads)).permute(0, 3, 1, 2).flatten(2)


def cost_volume(device: torch.device, smoke: bool) -> Iterator[Case]:
    """Feature maps of 24 x 24; the first row is RSKT-Seg's training."""
    sizes = [("RSKT-Seg DLRSD", 8, 512, 17, 1, 4)]
    if device.type == "cuda":
        sizes += [
            ("GSNet, 40 classes", 4, 512, 40, 1, 1),
            ("COCO, 80 templates", 4, 512, 171, 80, 1),
            ("COCO, 80 templates, 4 directions", 4, 512, 171, 80, 4),
            ("RSKT-Seg L, 40 classes", 8, 768, 40, 1, 4),
        ]
    if smoke:
        sizes = [("smoke", 1, 16, 3, 2, 4)]
    for name, b, c, t, p, n in sizes:
        element = 2 if device.type == "cuda" else 4
        moved = element * (n * b * c * 576 + t * p * c + n * b * p * t * 576)
        floor = max(moved / BYTES_PER_S, 2 * n * b * p * t * c * 576 / FLOP_PER_S) * 1e6
        for training in (False, True):
            make = cost_ways(device, b, c, t, p, n, training)
            yield Case(f"{name}, {passes(training)}", "einsum", make, None if training else floor)


def cost_ways(
    device: torch.device, b: int, c: int, t: int, p: int, n: int, training: bool
) -> Callable[[], dict[str, Way]]:
    def make() -> dict[str, Way]:
        maps = [features(c, 24, 24, batch=b, device=device, seed=i) for i in range(n)]
        text = features(p, c, batch=t, device=device, seed=n)
        turns = tuple(range(n))
        ways = {
            "swath": lambda: kernels.cost_volume(maps, text, turns),
            "einsum": lambda: cost_eager(maps, text),
        }
        return as_ways(ways, (*maps, text), training, device, "einsum", None if training else 1.5)

    return make


def cost_eager(maps: list[Tensor], text: Tensor) -> Tensor:
    upright = [torch.rot90(F.normalize(x, dim=1), -turns, (2, 3)) for turns, x in enumerate(maps)]
    corr = torch.einsum("bnchw,tpc->bnpthw", torch.stack(upright, 1), F.normalize(text, dim=-1))
    return corr.flatten(1, 2)


def task_ffn(device: torch.device, smoke: bool) -> Iterator[Case]:
    """S5's FFN, four tasks in equal parts of a batch, against one dense FFN of that size."""
    sizes = [("ViT-B", 4, 256, 768)]
    if device.type == "cuda":
        sizes = [("ViT-B", 12, 1024, 768), ("ViT-L", 12, 1024, 1024), ("ViT-H", 12, 1024, 1280)]
    for name, b, tokens, c in [("smoke", 4, 8, 32)] if smoke else sizes:
        flops = 4 * b * tokens * c * 4 * c
        for training in (False, True):
            title = f"{name}, {b} x {tokens} tokens, {passes(training)}"
            floor = (3 if training else 1) * flops / FLOP_PER_S * 1e6
            yield Case(title, "dense FFN", ffn_ways(device, b, tokens, c, training), floor)


def ffn_ways(
    device: torch.device, b: int, tokens: int, c: int, training: bool
) -> Callable[[], dict[str, Way]]:
    def make() -> dict[str, Way]:
        part = c // 3 if c < 256 else 256
        x = features(tokens, c, batch=b, device=device)
        w1, b1 = weights_of(4 * c, c, device=device)
        ws, bs = weights_of(c - part, 4 * c, device=device)
        experts = [weights_of(part, 4 * c, device=device) for _ in range(4)]
        we, be = (torch.stack(parts) for parts in zip(*experts, strict=True))
        w2, b2 = torch.cat((ws, we[0])), torch.cat((bs, be[0]))
        ids = torch.arange(b, device=device) % 4

        def original() -> Tensor:
            """One pass per task, two products and a concatenation each, as the official code."""
            out = []
            for task in range(4):
                hidden = F.gelu(F.linear(x[task::4], w1, b1))
                shared, own = F.linear(hidden, ws, bs), F.linear(hidden, we[task], be[task])
                out.append(torch.cat((shared, own), -1))
            return torch.cat(out)

        ways = {
            "swath": lambda: kernels.task_ffn(x, w1, b1, ws, bs, we, be, ids),
            "dense FFN": lambda: F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2),
            "pass per task": original,
        }
        inputs = (x, w1, b1, ws, bs, we, be, w2, b2)  # each way needs some
        return as_ways(ways, inputs, training, device, "dense FFN", 1 / 1.1)

    return make


def moe_mlp(device: torch.device, smoke: bool) -> Iterator[Case]:
    """Top 2 of 8 experts."""
    t, c = (32, 16) if smoke else (12_288, 768) if device.type == "cuda" else (1024, 384)
    flops = 2 * 4 * t * c * 4 * c
    for training in (False, True):
        name = f"{t} tokens, C = {c}, {passes(training)}"
        floor = (3 if training else 1) * flops / FLOP_PER_S * 1e6
        yield Case(name, "loop over experts", moe_ways(device, t, c, training), floor)


def moe_ways(device: torch.device, t: int, c: int, training: bool) -> Callable[[], dict[str, Way]]:
    def make() -> dict[str, Way]:
        x = features(t, c, device=device)[0]
        logits = torch.randn(t, 8, generator=torch.Generator().manual_seed(1)).to(device)
        pairs = [(weights_of(4 * c, c, device=device), weights_of(c, 4 * c, device=device))
                 for _ in range(8)]  # fmt: skip
        w1, b1, w2, b2 = (
            torch.stack([pair[layer][what] for pair in pairs])
            for layer in (0, 1)
            for what in (0, 1)
        )
        ways = {
            "swath": lambda: kernels.moe_mlp(x, logits, w1, b1, w2, b2, 2, "gelu_erf")[0],
            "loop over experts": lambda: moe_eager(x, logits, w1, b1, w2, b2),
        }
        inputs = (x, logits, w1, b1, w2, b2)
        return as_ways(ways, inputs, training, device, "loop over experts")

    return make


def moe_eager(x: Tensor, logits: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    gates, ids = logits.softmax(-1).topk(2)
    gates = (gates / gates.sum(-1, keepdim=True)).to(x.dtype)
    out = torch.zeros_like(x)
    for expert in range(len(w1)):
        rows, slots = (ids == expert).nonzero(as_tuple=True)
        hidden = F.gelu(F.linear(x[rows], w1[expert], b1[expert]))
        result = F.linear(hidden, w2[expert], b2[expert]) * gates[rows, slots, None]
        out = out.index_add(0, rows, result)
    return out


OPERATORS = {
    function.__name__: function
    for function in (
        rotated_iou,
        rotated_nms,
        roi_align_rotated,
        ms_deform_attn,
        cost_volume,
        task_ffn,
        moe_mlp,
    )
}


# ---------------------------------------------------------------------------------- building ways


def features(*shape: int, batch: int = 1, device: torch.device, seed: int = 0) -> Tensor:
    """Random, float32 on the CPU and bfloat16 on a GPU."""
    rng = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.randn(batch, *shape, generator=rng).to(device, dtype)


def weights_of(rows: int, columns: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias."""
    weight = features(rows, columns, device=device)[0] / columns**0.5
    return weight, weight[:, 0].contiguous()


def passes(training: bool) -> str:
    return "forward + backward" if training else "forward"


def as_ways(
    calls: dict[str, Callable[[], Tensor]],
    inputs: tuple[Tensor, ...],
    training: bool,
    device: torch.device,
    eager: str,
    min_speedup: float | None = None,
) -> dict[str, Way]:
    """Ways for a differentiable operator; on a GPU the eager one is also run compiled."""
    if device.type == "cuda":
        calls = {**calls, f"{eager}, torch.compile": torch.compile(calls[eager])}
        min_speedup = 1.0
    if training:
        calls = {name: with_backward(call, inputs) for name, call in calls.items()}
    ways = {
        name: Way(without_graph(call) if not training else call) for name, call in calls.items()
    }
    return {**ways, "swath": ways["swath"]._replace(min_speedup=min_speedup)}


def with_backward(call: Callable[[], Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    def run() -> object:
        for tensor in inputs:
            tensor.requires_grad_()
        out = call()
        return torch.autograd.grad(out, inputs, torch.ones_like(out), allow_unused=True)

    return run


def without_graph(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return call()

    return run


def reference(call: Callable[[], object]) -> Callable[[], object]:
    """The same call by the plain torch back end."""

    def run() -> object:
        with forced("reference"):
            return call()

    return run


@contextmanager
def forced(backend: str) -> Iterator[None]:
    before = os.environ.get("SWATH_KERNELS")
    os.environ["SWATH_KERNELS"] = backend
    try:
        yield
    finally:
        os.environ.pop("SWATH_KERNELS")
        if before is not None:
            os.environ["SWATH_KERNELS"] = before


# -------------------------------------------------------------------------------------- measuring


def warm_up(op: str, device: torch.device) -> None:
    """Compile and import everything that the operator needs, at the smallest size."""
    for case in OPERATORS[op](device, True):
        for way in case.make().values():
            way.call()


def cpu_seconds(ways: dict[str, Way]) -> dict[str, float]:
    """Best processor time of each way for the whole case, in interleaved rounds."""
    best = dict.fromkeys(ways, float("inf"))
    spent = dict.fromkeys(ways, 0.0)
    for _ in range(50):
        for name, way in ways.items():
            if spent[name] < SECONDS_PER_WAY:
                start = time.process_time()
                way.call()
                taken = time.process_time() - start
                best[name] = min(best[name], taken / way.share)
                spent[name] += taken
    return best


def gpu_seconds(ways: dict[str, Way]) -> dict[str, float]:
    """Median time of each way; the L2 cache is cleared before every launch."""
    from triton.testing import do_bench

    return {
        name: do_bench(way.call, return_mode="median") / 1e3 / way.share
        for name, way in ways.items()
    }


def gpu_peaks(ways: dict[str, Way]) -> dict[str, float]:
    peaks = {}
    for name, way in ways.items():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way.call()
        torch.cuda.synchronize()
        peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return peaks


def cpu_peaks(op: str, case: str, ways: dict[str, Way]) -> dict[str, float]:
    """Each way in a process of its own."""
    peaks = {}
    for name in ways:
        command = [sys.executable, __file__, "--peak", op, case, name]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        peaks[name] = float(json.loads(done.stdout))
    return peaks


def print_peak(op: str, title: str, name: str) -> None:
    """What one call adds to the resident memory of this process, in MB."""
    device = torch.device("cpu")
    warm_up(op, device)
    (case,) = (case for case in OPERATORS[op](device, False) if case.name == title)
    way = case.make()[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak_resident_kb()
    way.call()
    print((peak_resident_kb() - before) / 1024)


def peak_resident_kb() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def measured(op: str, case: Case, device: torch.device, smoke: bool) -> list[dict[str, Any]]:
    """A row for each way."""
    ways = case.make()
    seconds = cpu_seconds(ways) if device.type == "cpu" else gpu_seconds(ways)
    if device.type == "cuda":
        peaks = gpu_peaks(ways)
    else:
        peaks = dict.fromkeys(ways, float("nan")) if smoke else cpu_peaks(op, case.name, ways)
    rows = []
    for name, way in ways.items():
        ms, speedup = seconds[name] * 1e3, seconds[case.baseline] / seconds[name]
        row = {"case": case.name, "way": name, "ms": ms, "speedup": speedup}
        if device.type == "cuda":
            row["floor_us"] = case.floor_us
            row["of_floor"] = case.floor_us / (ms * 1e3) if case.floor_us else None
        rows.append(row | {"peak_mb": peaks[name], "aim": judged(way, ms, speedup)})
    return rows


def judged(way: Way, ms: float, speedup: float) -> str:
    """The aim, and whether it was met."""
    if way.max_ms is not None:
        return f"< {way.max_ms:g} ms: {'met' if ms < way.max_ms else 'missed'}"
    if way.min_speedup is not None:
        return f"{way.min_speedup:.3g} x: {'met' if speedup >= way.min_speedup else 'missed'}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", choices=OPERATORS, metavar="OP", help=", ".join(OPERATORS))
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, nothing recorded")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print_peak(*arguments.peak)
        return
    device = torch.device(arguments.device)
    names = ("swath-kernels", "triton", "numba", "shapely")
    notes: dict[str, Any] = {name: version(name) for name in names}
    if device.type == "cuda":
        notes["gpu"] = torch.cuda.get_device_name()
    for op in [arguments.only] if arguments.only else OPERATORS:
        warm_up(op, device)
        rows: list[dict[str, Any]] = []
        for case in OPERATORS[op](device, arguments.smoke):
            rows += measured(op, case, device, arguments.smoke)
            print(op, *rows[-1].values(), sep="  ", flush=True)
        if not arguments.smoke:
            record(f"kernels_{op}_{device.type}", rows, threads=1, **notes)


if __name__ == "__main__":
    main()
