"""``swath verify``."""

from pathlib import Path
from typing import Annotated

import typer

from swath.core.cli.app import app


@app.command("verify")
def verify(
    path: Annotated[Path, typer.Argument(help="A package's folder, or a checkpoint of ours.")],
) -> None:
    """Check a packed model against its hashes; a single changed byte is found.

    Example: `swath verify roofs-v1`
    """
    from swath.core.checkpoint import package

    names = package.verify(path)
    typer.echo(f"{path}: whole ({', '.join(names)})")
