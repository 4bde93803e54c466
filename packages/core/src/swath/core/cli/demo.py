"""``swath demo``."""

from pathlib import Path
from typing import Annotated

import typer

from swath.core.cli.app import app


@app.command("demo")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path(
        "swath-demo"
    ),
    seed: Annotated[int, typer.Option(help="Other scenes, other weights.", min=0)] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few iterations only: to see that all works.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier demo in that folder.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.")
    ] = None,
) -> None:
    """Train, judge and use a small model on scenes rendered on the spot. No download.

    In a few minutes on two CPU cores it renders a large georeferenced scene, trains a small U-Net,
    evaluates it on scenes it has not seen, segments the large scene tile by tile, and writes the
    checkpoint, the metrics, the mask (GeoTIFF), its polygons (GeoPackage, GeoJSON) and a report.

    Example: `swath demo --out my-demo`
    """
    typer.echo("swath demo: a model from nothing, in a few minutes, without a download")
    from swath.core.demo import run

    run(out, seed=seed, quick=quick, overwrite=overwrite, device=device)
