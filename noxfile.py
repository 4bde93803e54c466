"""Every check of the project; a bare ``nox`` runs what CI runs.

uvx nox                      lint, types, each package's tests, what crosses them, wheels, docs
uvx nox -s "tests(core)"     one package with nothing but its own dependencies
uvx nox -s suite             all tests with everything installed together
uvx nox -s pythons           the suite on every supported Python
uvx nox -s demo bench        what takes longer
uvx nox -s interop           mmrotate's own code beside ours; interop_detectron2 likewise
"""

import os
import re
import shutil
import sys
from pathlib import Path

import nox

PACKAGES = sorted(path.parent.name for path in Path("packages").glob("*/pyproject.toml"))
PYTHONS = ["3.11", "3.12", "3.13"]
# the oldest torch we promise, with the torchvision and triton of that day
OLDEST_TORCH = ["torch==2.11.*", "torchvision==0.26.*"]

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests", "together", "wheels", "docs"]
nox.options.error_on_missing_interpreters = False


def sync(session: nox.Session, *arguments: str) -> None:
    """Bring the session's environment to what the workspace says."""
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        *arguments,
        env={
            "UV_PROJECT_ENVIRONMENT": session.virtualenv.location,
            "UV_PYTHON": str(session.virtualenv.location),
        },
    )


def pytest(session: nox.Session, *arguments: str) -> None:
    # compiling all that torch imports anew in every process takes longer than many a test
    env = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    session.run("pytest", "-q", *arguments, *session.posargs, env=env)


def compile_kernels(session: nox.Session, *arguments: str) -> None:
    """Every Triton kernel for sm_80 and sm_90, by this session's triton."""
    budget = "packages/kernels/aot_budget.json"
    session.run("python", "-m", "swath.kernels.aot", "--budget", budget, *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, formatting, and the direction of imports."""
    sync(session, "--all-packages", "--group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, on everything that ships."""
    sync(session, "--all-packages", "--group", "lint")
    session.run("mypy")


@nox.session
def suite(session: nox.Session) -> None:
    """All tests, with everything installed together."""
    sync(session, "--all-packages", "--group", "test", "--group", "docs")
    pytest(session, "-n", "2", "--dist", "worksteal")


@nox.session
def together(session: nox.Session) -> None:
    """What `tests` leaves out: what crosses packages, and the slow tests."""
    sync(session, "--all-packages", "--group", "test", "--group", "docs")
    pytest(session, "-n", "2", "--dist", "worksteal", "tests")
    pytest(session, "-n", "2", "--dist", "worksteal", "-m", "slow", "packages")


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests(session: nox.Session, package: str) -> None:
    """One package's tests with only that package and its dependencies installed."""
    sync(session, "--package", f"swath-{package}", "--no-default-groups", "--group", "test")
    pytest(session, "-n", "2", "-m", "not slow", f"packages/{package}/tests")


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """The suite on every supported Python."""
    sync(session, "--all-packages", "--group", "test", "--group", "docs")
    pytest(session, "-n", "2", "-m", "not slow")


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def lowest(session: nox.Session, package: str) -> None:
    """One package on the lowest versions it allows."""
    below = ["kernels"] if package in {"kernels", "core"} else ["kernels", "core"]
    members = [f"./packages/{name}" for name in sorted({*below, package})]
    groups = nox.project.load_toml(f"packages/{package}/pyproject.toml")["dependency-groups"]
    session.run_install(
        "uv", "pip", "install", "--no-config", "--resolution", "lowest-direct",
        *members, *OLDEST_TORCH, *groups["test"],
    )  # fmt: skip
    pytest(session, "-n", "2", "-m", "not slow", f"packages/{package}/tests")
    if package == "kernels":
        compile_kernels(session)


@nox.session
def kernels_aot(session: nox.Session) -> None:
    """Compile every Triton kernel without a GPU within its budget; ``-- --update`` records it."""
    sync(session, "--package", "swath-kernels", "--no-default-groups")
    compile_kernels(session, *session.posargs)


@nox.session
def interop(session: nox.Session) -> None:
    """What mmrotate's own code does on our operators, beside ours; needs the index."""
    chosen = ("--package", "swath-moe", "--extra", "mmrotate")
    sync(session, *chosen, "--no-default-groups", "--group", "test")
    session.run("python", "-m", "swath.kernels.compat.mmcv")
    pytest(session, "packages/moe/interop/with_mmrotate.py")


@nox.session
def interop_detectron2(session: nox.Session) -> None:
    """Our models in detectron2's trainer; $DETECTRON2_SRC is its source tree, uncompiled."""
    source = os.environ.get("DETECTRON2_SRC")
    if not source or not Path(source, "detectron2").is_dir():
        session.error("DETECTRON2_SRC must name a source tree of detectron2")
    sync(session, "--package", "swath-ovseg", "--no-default-groups", "--group", "test")
    session.run_install(
        "uv", "pip", "install", "--quiet", "cloudpickle", "fvcore", "iopath", "omegaconf",
        "pycocotools", "tabulate", "tensorboard", "termcolor", "yacs",
    )  # fmt: skip
    session.env["PYTHONPATH"] = source
    pytest(session, "packages/ovseg/interop/with_detectron2.py")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every wheel, install each alone in a fresh environment, and use it."""
    folder = Path(session.create_tmp()).resolve() / "wheels"
    shutil.rmtree(folder, ignore_errors=True)
    session.run_install("uv", "build", "--quiet", "--all-packages", "--out-dir", str(folder))
    # uv takes a wheel of the same name for the one that it unpacked in an earlier run
    fresh = [f"--refresh-package=swath-{package}" for package in PACKAGES]
    for package in PACKAGES:
        environment = folder / f"env-{package}"
        python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        session.run_install("uv", "venv", "--quiet", str(environment))
        session.run_install(
            "uv", "pip", "install", "--quiet", "--python", str(python), "--find-links", str(folder),
            "--constraint", "constraints.txt", *fresh, f"swath-{package}",
        )  # fmt: skip
        session.run(str(python), f"tests/smoke/{package}.py", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site (the suite runs its code blocks)."""
    sync(session, "--only-group", "docs")
    session.run("mkdocs", "build", "--quiet", "--strict")


@nox.session
def demo(session: nox.Session) -> None:
    """The README's first command, as a new user runs it."""
    sync(session, "--all-packages")
    session.run("swath", "demo", "--overwrite", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark; ``-- FOLDER`` names the sample data, without which some are left out."""
    sync(session, "--all-packages", "--group", "test")
    for script in sorted(Path("benchmarks").glob("*.py")):
        code = script.read_text()
        if "__main__" not in code or script.stem == "soak":  # which takes hours
            continue
        if '"--samples"' not in code:
            session.run("python", str(script))
        elif session.posargs:
            session.run("python", str(script), "--samples", *session.posargs)


@nox.session
def constraints(session: nox.Session) -> None:
    """Pin the newest versions that resolve, in constraints.txt and pyproject.toml."""
    root = Path("pyproject.toml")
    text = root.read_text()
    block = re.compile(r"(?<=constraint-dependencies = \[\n).*?(?=^\])", re.DOTALL | re.MULTILINE)
    root.write_text(block.sub("", text, count=1))
    Path("uv.lock").unlink(missing_ok=True)
    exported = session.run_install(
        "uv", "export", "--quiet", "--all-packages", "--all-extras", "--no-extra", "mmrotate",
        "--all-groups", "--no-hashes", "--no-emit-workspace", "--no-annotate", "--no-header",
        silent=True,
    )  # fmt: skip
    pins = sorted(line for line in exported.splitlines() if "sys_platform == 'never'" not in line)
    Path("constraints.txt").write_text("\n".join(pins) + "\n")
    root.write_text(block.sub("".join(f'    "{pin}",\n' for pin in pins), text, count=1))


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def release(session: nox.Session, package: str) -> None:
    """Check a package and tag its version: changelog, API surface, wheel, then the tag."""
    version = nox.project.load_toml(f"packages/{package}/pyproject.toml")["project"]["version"]
    changelog = Path(f"packages/{package}/CHANGELOG.md").read_text()
    if f"## [{version}]" not in changelog:
        session.error(f"packages/{package}/CHANGELOG.md has no section '## [{version}]'")
    sync(session, "--all-packages", "--group", "test")
    pytest(session, "tests/test_api_surface.py", "tests/test_workspace.py")
    wheels(session)
    session.run("git", "tag", f"swath-{package}-v{version}", external=True)
    session.log("tagged; push the tag to publish")
