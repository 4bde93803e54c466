"""``swath ovseg detectron2``, and ``swath data prepare landdiscover``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Open-vocabulary models in detectron2.", no_args_is_help=True, add_completion=False
)


@app.callback()
def root() -> None:
    """Open-vocabulary models in detectron2."""


@app.command(
    "detectron2",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def detectron2(context: typer.Context) -> None:
    """Train or evaluate in detectron2, by an official yaml file; arguments are detectron2's.

    detectron2 must be importable; it isn't on the package index.

    Example: `swath ovseg detectron2 --config-file configs/vitb_384.yaml --eval-only MODEL.WEIGHTS
    model_final.pth`
    """
    from swath.ovseg.interop.detectron2 import main

    main(context.args)


def landdiscover(
    last: Annotated[Path, typer.Argument(help="The part named .zip; .z01, .z02, ... beside it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The whole archive.")],
) -> None:
    """Join the parts of a zip archive, such as LandDiscover50K's, to one that opens everywhere.

    Example: `swath data prepare landdiscover LD50KSplit.zip -o LandDiscover50K.zip`
    """
    from swath.ovseg.split_zip import join_zip

    join_zip(last, out, progress=True)
    typer.echo(
        f"written  {out}\nnext     swath data unpack {out} DATA, the folder of the data sets"
    )
