"""``swath upload``."""

from pathlib import Path
from typing import Annotated

import typer

from swath.core.cli.app import app


@app.command("upload")
def upload(
    folder: Annotated[Path, typer.Argument(help="What `swath pack` made.")],
    repo: Annotated[str, typer.Argument(help="hf://OWNER/REPO; made if it isn't there.")],
    private: Annotated[bool, typer.Option("--private", help="Visible to its owner only.")] = False,
) -> None:
    """Send a packed model to the Hugging Face Hub, after checking it. Nothing else ever uploads.

    Example: `swath upload roofs-v1 hf://me/roofs-v1 --private`
    """
    from swath.core.checkpoint import package

    typer.echo(package.upload(folder, repo, private=private))
