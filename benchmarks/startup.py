"""How long the command and the package take to start, and that neither imports torch.

Run: python benchmarks/startup.py
"""

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


def seconds(command: list[str]) -> list[float]:
    durations = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        durations.append(time.perf_counter() - start)
    return durations[1:]  # the first run reads from disk


def imports_torch(name: str) -> str:
    if name not in PROBES:
        return "-"
    done = subprocess.run([sys.executable, "-c", PROBES[name]], check=False)
    return "yes" if done.returncode else "no"


def main() -> None:
    rows = []
    for name, command in CASES.items():
        measured = seconds(command)
        rows.append(
            {
                "what": name,
                "median_s": statistics.median(measured),
                "fastest_s": min(measured),
                "imports torch": imports_torch(name),
            }
        )
    record("startup", rows, repeats=REPEATS, aim="swath --help below 0.5 s, no torch")


if __name__ == "__main__":
    main()
