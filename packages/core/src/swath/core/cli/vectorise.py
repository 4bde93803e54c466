"""``swath vectorise``: class maps to polygons."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from swath.core.cli.app import app
from swath.core.cli.values import Overwrite, class_names, refuse_existing


@app.command("vectorise")
def vectorise(
    mask: Annotated[Path, typer.Argument(help="A class map, as `swath predict` writes it.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help=".gpkg (the mask's CRS) or .geojson (EPSG:4326).")
    ],
    classes: Annotated[
        str | None,
        typer.Option(help="Names of the values 0,1,..., comma-separated, if the file has none."),
    ] = None,
    skip: Annotated[
        str | None,
        typer.Option(help="Classes to leave out, comma-separated; default: background."),
    ] = None,
    min_area_px: Annotated[
        float, typer.Option(min=0, help="Leave out regions with fewer pixels.")
    ] = 0,
    simplify_px: Annotated[
        float, typer.Option(min=0, help="Tolerance of simplified outlines in pixels.")
    ] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Turn a class map into polygons with class and area, in bounded memory.

    **Example**: `swath vectorise mask.tif -o buildings.gpkg --min-area-px 20`
    """
    refuse_existing(out, overwrite)
    from swath.core.geo.vectorise import vectorise as run

    count = run(
        mask,
        out,
        classes=None if classes is None else class_names(classes),
        skip=None if skip is None else _skipped(skip),
        min_area_px=min_area_px,
        simplify_px=simplify_px,
        progress=True,
    )
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[green]written[/] {escape(str(out))}: {count} polygons")


def _skipped(text: str) -> list[int | str]:
    """Values or names; none of an empty text."""
    items = (item.strip() for item in text.split(","))
    return [int(item) if item.isdecimal() else item for item in items if item]


app.command("vectorize", hidden=True)(vectorise)
