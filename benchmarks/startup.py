"""How long the command and the package take to start, and that neither imports torch.

Run: python benchmarks/startup.py
"""

import os
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from common import record

SWATH = str(Path(sysconfig.get_path("scripts")) / "swath")
CASES = {
    "swath --help": [SWATH, "--help"],
    "swath --version": [SWATH, "--version"],
    "swath configs": [SWATH, "configs"],
    "import swath.core": [sys.executable, "-c", "import swath.core"],
    "python (nothing)": [sys.executable, "-c", ""],
}
PROBES = {
    "import swath.core": "import swath.core, sys; sys.exit('torch' in sys.modules)",
    "swath --help": "import swath.core.cli, sys; sys.exit('torch' in sys.modules)",
}
REPEATS = 9


def seconds(command: list[str]) -> list[tuple[float, float]]:
    """Wall and processor time of each run; the latter says more where others use the machine."""
    durations = []
    for _ in range(REPEATS + 1):
        start, busy = time.perf_counter(), _children()
        subprocess.run(command, check=True, capture_output=True)
        durations.append((time.perf_counter() - start, _children() - busy))
    return durations[1:]  # the first run reads from disk


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def imports_torch(name: str) -> str:
    if name not in PROBES:
        return "-"
    done = subprocess.run([sys.executable, "-c", PROBES[name]], check=False)
    return "yes" if done.returncode else "no"


def main() -> None:
    rows = []
    for name, command in CASES.items():
        wall, busy = zip(*seconds(command), strict=True)
        rows.append(
            {
                "what": name,
                "median_s": statistics.median(wall),
                "fastest_s": min(wall),
                "cpu_s": statistics.median(busy),
                "imports torch": imports_torch(name),
            }
        )
    record("startup", rows, repeats=REPEATS, aim="swath --help below 0.5 s, no torch")


if __name__ == "__main__":
    main()
