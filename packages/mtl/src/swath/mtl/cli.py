"""``swath mtl`` and ``swath data prepare potsdam_irrg | resisc45``: data as RSCoTr has them."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Put Potsdam's tiles together again.", no_args_is_help=True, add_completion=False
)


@app.callback()
def root() -> None:
    """Put Potsdam's tiles together again."""


@app.command("stitch")
def stitch(
    tiles: Annotated[Path, typer.Argument(help="Folder of area_left_top_right_bottom.png.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the whole areas.")],
    five_classes: Annotated[
        bool, typer.Option("--five-classes", help="Draw clutter as impervious surface.")
    ] = False,
) -> None:
    """Put tiles together by their names, an image for each area.

    Example: `swath mtl stitch predictions/ -o areas/ --five-classes`
    """
    from swath.mtl.puzzle import stitch_folder

    for path in stitch_folder(tiles, out, five_classes):
        typer.echo(f"written  {path}")


def potsdam_irrg(
    root: Annotated[Path, typer.Argument(help="Folder that holds 3_Ortho_IRRG and 5_Labels_all.")],
    out: Annotated[Path, typer.Argument(help="The folder to write to.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Scenes at the same time.")] = None,
) -> None:
    """Cut Potsdam's infrared scenes into 512 px tiles, as RSCoTr is trained on.

    Example: `swath data prepare potsdam_irrg potsdam_raw/ potsdam/`
    """
    from swath.mtl.potsdam import prepare_irrg

    done = prepare_irrg(root, out, workers=workers, progress=True)
    typer.echo(f"{out}: {done.tiles} tiles of {done.scenes} scenes, {done.skipped} were there")


def resisc45(
    root: Annotated[Path, typer.Argument(help="Folder that holds one of images for each class.")],
    out: Annotated[Path, typer.Argument(help="The folder to write to.")],
) -> None:
    """Share RESISC45's images out among train, val and test, a fifth to train on as RSCoTr.

    Example: `swath data prepare resisc45 NWPU-RESISC45/ resisc45/`
    """
    from swath.mtl.resisc import prepare_resisc45

    counts = prepare_resisc45(root, out)
    typer.echo(f"{out}: {', '.join(f'{counts[split]} {split}' for split in sorted(counts))}")
