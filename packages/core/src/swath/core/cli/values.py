"""Options and values of options, as more than one verb takes them."""

from pathlib import Path
from typing import Annotated

import typer

from swath.core.errors import ConfigError

Device = Annotated[
    str | None,
    typer.Option(help="`cpu`, `cuda`, `cuda:1`, ... Default: the first GPU, else the CPU."),
]
"""Where to compute: ``--device``."""

Weights = Annotated[
    str | None,
    typer.Option(help="Weights for a model that comes without: a file, hf://OWNER/REPO, URL."),
]
"""Of a model that is named: ``--weights``."""

Arithmetic = Annotated[
    str,
    typer.Option(
        help="Arithmetic: `fp32`; or `bf16` or `fp16`, twice as fast or more where `swath doctor` "
        "shows it, and a little less exact."
    ),
]
"""Of a model's forward pass: ``--precision``; a `swath.core.precision.Precision`."""

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what it writes where that exists.")
]
"""Whether a verb may replace files: ``--overwrite``."""


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Leave alone what a verb hasn't been told to replace.

    Raises:
        ConfigError: If the path is there and ``overwrite`` is False.
    """
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists; choose another name or say --overwrite")


def class_names(text: str) -> list[str]:
    """Names between semicolons, or commas if there is none.

    Raises:
        ConfigError: If there is no name, or none between two of them or at an end.
    """
    mark = ";" if ";" in text else ","
    names = [name.strip() for name in text.split(mark)]
    if not any(names):
        raise ConfigError("no class is named; give at least one: 'water, tree'")
    if not all(names):
        raise ConfigError(f"'{text}': a name is missing beside a '{mark}'; is there one too many?")
    return names
