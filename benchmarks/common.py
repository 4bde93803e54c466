"""What every benchmark shares: timing, and writing down on which machine a figure was measured."""

import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from swath.core.config import TrainConfig
from swath.core.engine import train

RESULTS = Path(__file__).parent / "results"
RUNS = Path(__file__).parent.parent / "runs"


def record(name: str, rows: Sequence[Mapping[str, Any]], **notes: Any) -> Path:
    """Print rows as a table and write them, with the machine, to ``results/<name>.json``.

    Args:
        name: File name without suffix.
        rows: One mapping per line, all with the same keys; numbers are shown with 4 digits.
        **notes: Whatever else belongs to the record (settings, how it was run).

    Returns:
        The file written.
    """
    data = {
        "benchmark": name,
        **machine(),
        **notes,
        "rows": [dict(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(data, indent=1) + "\n")

    table = Table(
        title=f"{name}: {data['cpu']}, {data['cores']} cores, torch {data['torch']}",
        title_justify="left",
    )
    for column in rows[0] if rows else ():
        numeric = isinstance(rows[0][column], int | float)
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    console = Console()
    console.print(table)
    console.print(f"written to {path}")
    return path


def recorded(name: str, key: str = "runs") -> list[dict[str, Any]]:
    """What `record` has written under a key so far; nothing if it hasn't: a study goes on there."""
    path = RESULTS / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())[key] if path.exists() else []
    return found


def machine() -> dict[str, Any]:
    """Where and with what the figures were measured, as JSON data."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "torchvision", "numpy", "swath-core")},
    }


@dataclass(frozen=True)
class Trained:
    """A training that is done.

    Attributes:
        best: The weights with the best validation, the last ones without any.
        last: The last weights.
        step: Steps made.
        cpu_seconds: Processor time of all its sittings, loader's workers included.
    """

    best: Path
    last: Path
    step: int
    cpu_seconds: float


def trained(
    config: TrainConfig, run: Path, *, until: int | None = None, progress: bool = False
) -> Trained:
    """Train to the end, from where the run was stopped if it was.

    Args:
        config: What to train.
        run: Folder of the run; ``cpu_seconds.json`` in it keeps the processor time.
        until: Stop after this step instead.
        progress: Whether to show a bar.

    Raises:
        KeyboardInterrupt: If the training was stopped, which stops the study too.
    """
    clock = run / "cpu_seconds.json"
    seconds, start = json.loads(clock.read_text()) if clock.exists() else 0.0, cpu_seconds()
    summary = train(config, run, resume=True, until=until, device="cpu", progress=progress)
    seconds += cpu_seconds() - start
    clock.write_text(json.dumps(seconds))
    if summary.interrupted and summary.step != until:
        raise KeyboardInterrupt
    return Trained(summary.best_checkpoint, summary.last_checkpoint, summary.step, seconds)


def cpu_seconds() -> float:
    """Processor time of this process and of those it started and that have ended."""
    usages = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usages)


def median_seconds(call: Callable[[], object], *, repeats: int = 5, warmup: int = 1) -> float:
    """Median duration of a call: robust on a machine that others use too."""
    for _ in range(warmup):
        call()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def _commit() -> str:
    """Short hash of the checked-out commit, with a ``+`` if tracked files were changed since."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(RESULTS.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
