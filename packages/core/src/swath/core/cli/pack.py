"""``swath pack``."""

from pathlib import Path
from typing import Annotated

import typer

from swath.core.cli.app import app


@app.command("pack")
def pack(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make. Default: RUN/package.")
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Take the last weights instead of the best.")
    ] = False,
) -> None:
    """Gather a trained model into a folder to pass on: weights, config, card, checksums.

    Example: `swath pack runs/mine -o roofs-v1`
    """
    from swath.core.checkpoint import package

    folder = package.pack(run, out, last=last)
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    typer.echo(
        f"{folder}: {names}\nNext: read README.md, then swath verify {folder}, "
        f"swath upload {folder} hf://OWNER/REPO"
    )
