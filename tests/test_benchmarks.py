import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks"
IMPORT_ALL = """
import importlib, pathlib
for path in sorted(pathlib.Path().glob("*.py")):
    importlib.import_module(path.stem)
"""


def test_every_benchmark_fits_the_packages() -> None:
    """What a script imports is there; in a process of its own, as their names are common ones."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
