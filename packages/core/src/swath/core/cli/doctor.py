"""``swath doctor``."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from swath.core.checkpoint.fetch import cache_folder
from swath.core.cli.app import app

_PACKAGES = (
    "swath-core",
    "swath-kernels",
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "rasterio",
    "mmengine",
    "timm",
    "opencv-python-headless",
)


@app.command("doctor")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what Swath runs on here and warn of what commonly goes wrong.

    Ends with exit code 2 if there is a warning. Put the output into a bug report.

    Examples: `swath doctor`, `swath doctor --json`
    """
    facts = collect()
    warnings = list(find_warnings())
    if as_json:
        typer.echo(json.dumps({**facts, "warnings": warnings}, indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        width = max(map(len, facts))
        for name, value in facts.items():
            console.print(f"{name:<{width}}  {value if value is not None else '-'}", markup=False)
        for warning in warnings:
            console.print(f"warning: {warning}", style="yellow", markup=False)
        if not warnings:
            console.print("no problem found", style="green")
    if warnings:
        raise typer.Exit(2)


def collect() -> dict[str, Any]:
    """What is installed and what the machine has, by name."""
    import psutil
    import rasterio
    import torch

    memory = psutil.virtual_memory()
    cache = _existing(cache_folder())
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{name: _version(name) for name in _PACKAGES},
        "GDAL": rasterio.__gdal_version__,
        "CUDA": torch.version.cuda,
        "devices": ", ".join(_devices(torch)),
        "fast in bf16": ", ".join(_fast_in_bf16(torch)) or None,
        "cores": _cores(),
        "torch threads": torch.get_num_threads(),
        "memory": f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free",
        "cache disk": f"{shutil.disk_usage(cache).free / 1e9:.1f} GB free in {cache}",
    }
    return facts


def find_warnings() -> Iterator[str]:
    """One line for each thing that commonly goes wrong and does here: what, and what to do."""
    for check in _CHECKS:
        yield from check()


def _gui_opencv() -> Iterator[str]:
    if _version("opencv-python") is not None:
        yield (
            "opencv-python is installed beside opencv-python-headless; it needs libGL, which "
            "servers lack, and overwrites the other's files: pip uninstall opencv-python "
            "opencv-python-headless && pip install opencv-python-headless"
        )


def _foreign_swath() -> Iterator[str]:
    import swath

    if getattr(swath, "__file__", None):
        yield (
            f"{swath.__file__} hides packages of ours: 'swath' must be a namespace without "
            "__init__.py; uninstall the distribution that brought it"
        )
    for found in distributions():
        if (found.metadata["Name"] or "").lower() == "swath":
            yield (
                f"a foreign distribution 'swath' {found.version} is installed; it isn't this "
                "project (ours are swath-core, swath-kernels, ...): pip uninstall swath"
            )


def _versions() -> Iterator[str]:
    from packaging.requirements import Requirement

    for found in distributions():
        name = (found.metadata["Name"] or "").lower()
        if not name.startswith("swath-"):
            continue
        for text in requires(name) or ():
            needed = Requirement(text)
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            present = _version(needed.name)
            if present is None:
                yield f"{name} needs {needed.name}, which isn't installed: pip install '{needed}'"
            elif not needed.specifier.contains(present, prereleases=True):
                yield (
                    f"{name} needs {needed.name}{needed.specifier}, but {present} is installed: "
                    f"pip install '{needed}'"
                )


def _threads() -> Iterator[str]:
    import torch

    if torch.get_num_threads() > _cores():
        yield (
            f"torch uses {torch.get_num_threads()} threads on {_cores()} cores, which slows it "
            f"down; set OMP_NUM_THREADS={_cores()}"
        )


def _broken_plugins() -> Iterator[str]:
    from swath.core import plugins, zoo

    for name, error in {**plugins.broken(), **zoo.problems()}.items():
        yield f"plugin '{name}' is broken: {error}; update or uninstall the package it belongs to"


_CHECKS: tuple[Callable[[], Iterator[str]], ...] = (
    _gui_opencv,
    _foreign_swath,
    _versions,
    _threads,
    _broken_plugins,
)


def _devices(torch: Any) -> list[str]:
    found = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return ["cpu", *found]


def _fast_in_bf16(torch: Any) -> list[str]:
    """Kinds of devices that compute in bfloat16 instead of emulating it."""
    found = {
        "cpu": torch.cpu._is_avx512_bf16_supported(),
        "cuda": torch.cuda.is_available() and torch.cuda.is_bf16_supported(False),
    }
    return [name for name, fast in found.items() if fast]


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
