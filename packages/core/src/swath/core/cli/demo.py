"""``swath demo``."""

from pathlib import Path
from typing import Annotated

import typer

from swath.core.cli.app import app
from swath.core.cli.values import Device
from swath.core.errors import ConfigError, suggest
from swath.core.plugins import named, resolve

_DEMOS = named("demos")


@app.command("demo")
def demo(
    of: Annotated[
        str | None,
        typer.Argument(help=f"Another demo instead: {', '.join(_DEMOS) or 'none is installed'}."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for everything it makes. Default: swath-demo[-OF]."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Other scenes, other weights.", min=0)] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few iterations only: to see that all works.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier demo in that folder.")
    ] = False,
    device: Device = None,
) -> None:
    """Train, judge and use a small model on scenes rendered on the spot. No download.

    In a few minutes on two CPU cores it renders a large georeferenced scene, trains a small U-Net,
    evaluates it on scenes it has not seen, segments the large scene tile by tile, and writes the
    checkpoint, the metrics, the mask (GeoTIFF), its polygons (GeoPackage, GeoJSON) and a report.

    Examples: `swath demo --out my-demo`; `swath demo pretrain`, if swath-pretrain is installed
    """
    if of is not None and of not in _DEMOS:
        raise ConfigError(f"there is no demo '{of}'{suggest(of, list(_DEMOS))}")
    typer.echo("swath demo: a model from nothing, in a few minutes, without a download")
    run = resolve(_DEMOS[of] if of else "swath.core.demo:run")
    folder = out or Path(f"swath-demo-{of}" if of else "swath-demo")
    run(folder, seed=seed, quick=quick, overwrite=overwrite, device=device)
