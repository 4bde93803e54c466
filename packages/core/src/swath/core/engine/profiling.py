"""Where the time of a training step goes."""

import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from swath.core.engine.checkpointing import TrainerState
from swath.core.engine.mmengine import Hook
from swath.core.files import atomic_path, write_json
from swath.core.progress import Bar

_SKIPPED, _MEASURED = 3, 10


class ProfileHook(Hook):  # type: ignore[misc]
    """Profile ten steps after the first three, and name the three largest costs of one.

    Writes ``profile.json``: ``step_s``, the wall time of a step, and ``costs``, each with its name,
    seconds a step and share of it: waiting for data, and torch's operators by their own time (on
    the GPU where there is one). ``trace.json`` beside it opens in a browser's tracing page or
    Perfetto.

    Args:
        folder: The run's folder.
        state: The run's state.
        bar: Where the three costs are shown.
        device: Where the model runs.
    """

    def __init__(self, folder: Path, state: TrainerState, bar: Bar, device: torch.device) -> None:
        self.folder, self.state, self.bar, self.device = folder, state, bar, device
        self.profiler: profile | None = None
        self.seen = 0
        self.waited_s = 0.0

    def after_train_iter(self, runner: Any, outputs: Any, **_: Any) -> None:
        """Begin once the first steps, which allocate and tune, are over; report in the end."""
        self.seen += 1
        if self.seen == _SKIPPED:
            kinds = [ProfilerActivity.CPU]
            kinds += [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
            self.profiler = profile(activities=kinds)
            self.profiler.start()
            self.started = time.perf_counter()
        elif self.profiler is not None:
            self.waited_s += outputs["data_s"]
            if self.seen == _SKIPPED + _MEASURED:
                self._report(self.profiler)
                self.profiler = None

    def _report(self, profiler: profile) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        step_s = (time.perf_counter() - self.started) / _MEASURED
        profiler.stop()
        costs = {"waiting for data": self.waited_s / _MEASURED}
        on_gpu = self.device.type == "cuda"
        for event in profiler.key_averages():
            if event.key.startswith("enumerate(DataLoader)"):
                continue  # the wait for data, which the loop has measured
            own_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            costs[event.key] = own_us / 1e6 / _MEASURED
        ranked = sorted(costs.items(), key=lambda cost: -cost[1])
        content = {
            "step_s": step_s,
            "costs": [
                {"name": name, "s": seconds, "share": seconds / step_s}
                for name, seconds in ranked
                if seconds > 0
            ],
        }
        write_json(self.folder / "profile.json", content)
        with atomic_path(self.folder / "trace.json") as temporary:
            profiler.export_chrome_trace(str(temporary))
        largest = ", ".join(f"{name} {seconds / step_s:.0%}" for name, seconds in ranked[:3])
        self.bar.note(f"a step takes {step_s * 1e3:.1f} ms; largest costs: {largest}")
