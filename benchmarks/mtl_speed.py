"""Where the time of the full RSCoTr goes, and what one pass for three tasks saves.

Run:    OMP_NUM_THREADS=1 python benchmarks/mtl_speed.py --size 512
        python benchmarks/mtl_speed.py --device cuda --size 800 --rounds 30
Claim:  three answers from one pass cost less than three passes; on a CPU deformable attention of
        swath.kernels is at least twice as fast as the plain torch one.

Variants are interleaved, round by round, and the median of each is reported: seconds of processor
time on a CPU (one thread; others' load matters less then), of wall time on a GPU. Parts are timed
by hooks around modules; the forward pass of a training step holds losses and matching, too.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from common import record
from torch import Tensor, nn

from swath.kernels import ms_deform_attn
from swath.mtl.models.dino import Objects
from swath.mtl.models.rscotr import RSCoTr, rscotr
from swath.mtl.optim import CoTrainingAdamW

PARTS = ("backbone", "neck", "encoder")


class Stopwatch:
    """Seconds by name, summed over calls: of the processor, or of a GPU that is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        start = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    def watch(self, module: nn.Module, name: str) -> None:
        """Time every forward pass of a module."""
        starts: list[float] = []
        module.register_forward_pre_hook(lambda *_: starts.append(self._now()))

        def stop(*_: Any) -> None:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - starts.pop()

        module.register_forward_hook(stop)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


def medians(variants: Mapping[str, Callable[[], object]], rounds: int, watch: Stopwatch) -> dict:
    """Median seconds of each variant, after one round that doesn't count."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            watch.seconds.clear()
            with watch("all"):
                run()
            if number:
                seconds[name].append(watch.seconds["all"])
    return {name: statistics.median(values) for name, values in seconds.items()}


def attention(size: int, device: torch.device, rounds: int, watch: Stopwatch) -> list[dict]:
    """Deformable attention over the pyramid of an image: forward and backward, by back end."""
    shapes = [(-(-size // s), -(-size // s)) for s in (8, 16, 32, 64)]
    tokens = sum(h * w for h, w in shapes)
    torch.manual_seed(0)
    value = torch.randn(1, tokens, 8, 32, device=device, requires_grad=True)
    places = torch.rand(1, tokens, 8, 4, 4, 2, device=device, requires_grad=True)
    weights = torch.rand(1, tokens, 8, 4, 4, device=device).flatten(3).softmax(-1)
    weights = weights.view(1, tokens, 8, 4, 4).requires_grad_()
    fast = "triton" if device.type == "cuda" else "cpu"

    def run(backend: str) -> None:
        os.environ["SWATH_KERNELS"] = backend
        ms_deform_attn(value, shapes, None, places, weights).sum().backward()
        del os.environ["SWATH_KERNELS"]

    found = medians(
        {name: lambda name=name: run(name) for name in ("reference", fast)}, rounds, watch
    )
    return [
        {"what": "ms_deform_attn, forward and backward", "variant": name, "seconds": seconds}
        for name, seconds in found.items()
    ]


def answers(
    model: RSCoTr, image: Tensor, rounds: int, watch: Stopwatch
) -> tuple[list[dict], dict[str, float]]:
    """Three answers from one pass and from three; and the parts of the one."""
    model.eval()
    heads = list(model.heads)

    @torch.no_grad()
    def one() -> None:
        model(image)

    @torch.no_grad()
    def three() -> None:
        for head in heads:
            model(image, [head])

    found = medians({"one pass": one, "three passes": three}, rounds, watch)
    watch.seconds.clear()
    one()
    rows = [{"what": "three answers", "variant": n, "seconds": s} for n, s in found.items()]
    return rows, dict(watch.seconds)


def step(model: RSCoTr, image: Tensor, head: str, watch: Stopwatch) -> dict[str, float]:
    """One training step of one task, by part."""
    model.train()
    device, size = image.device, image.shape[-1]
    targets: Any = {
        "cls": torch.zeros(len(image), dtype=torch.int64, device=device),
        "det": [
            Objects(
                torch.tensor([[8.0, 8.0, 72.0, 56.0]] * 5, device=device),
                torch.zeros(5, dtype=torch.int64, device=device),
            )
        ]
        * len(image),
        "seg": torch.zeros(len(image), size, size, dtype=torch.int64, device=device),
    }[head]
    optimizer = CoTrainingAdamW()(model, 1000).optimizer
    for _ in range(2):  # the first makes the optimiser's state
        watch.seconds.clear()
        with watch("forward and losses"):
            losses = model.head(head).losses(model.features(image), targets)
            total = torch.stack([x for x in losses.values() if x.requires_grad]).sum()
        with watch("backward"):
            total.backward()
        with watch("optimiser"):
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    return dict(watch.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    watch = Stopwatch(device)
    rows = attention(options.size, device, options.rounds, watch)
    model = rscotr(drop_path_rate=0.0).to(device)
    for part in PARTS:
        watch.watch(model.get_submodule(part), part)
    for name, head in model.heads.items():
        watch.watch(head, f"head {name}, encoder included")
    image = torch.randn(1, 3, options.size, options.size, device=device)
    found, parts = answers(model, image, options.rounds, watch)
    rows += found
    rows += [{"what": "of one pass", "variant": n, "seconds": s} for n, s in parts.items()]
    for head in model.heads:
        parts = step(model, image, head, watch)
        rows += [
            {"what": f"training step, {head}", "variant": n, "seconds": s} for n, s in parts.items()
        ]
    name = "mtl_speed" if device.type == "cpu" else f"mtl_speed_{device.type}"
    record(name, rows, size=options.size, rounds=options.rounds)


if __name__ == "__main__":
    main()
