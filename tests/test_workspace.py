"""What holds the packages together."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_no_package_hides_its_siblings(package: Path) -> None:
    assert not (package / "src/swath/__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_package_is_complete(package: Path) -> None:
    version = tomllib.loads((package / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (package / "CHANGELOG.md").read_text()
    assert (package / f"src/swath/{package.name}/py.typed").exists()
    assert len((package / "README.md").read_text()) > 300
    assert (ROOT / f"tests/smoke/{package.name}.py").exists()


def test_root_depends_on_every_member() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {re.split(r"[\[<>=]", name)[0] for name in root["project"]["dependencies"]}
    assert listed == {f"swath-{package.name}" for package in PACKAGES}


def test_constraints_agree_with_the_workspace() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert root["tool"]["uv"]["constraint-dependencies"] == pins
    assert not [pin for pin in pins if "://" in pin]


def test_continuous_integration_runs_the_readmes_command() -> None:
    command = "pip install uv && uvx nox"
    assert command in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci/run").read_text()


def test_importing_a_package_loads_no_torch() -> None:
    modules = ", ".join(f"swath.{package.name}" for package in PACKAGES)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from swath.core.cli import main; sys.argv = ['swath', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: sys.exit(end.code or ('torch' in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
