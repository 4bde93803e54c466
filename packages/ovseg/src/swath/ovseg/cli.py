"""``swath ovseg``: benchmarks and cost maps of open-vocabulary models."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Benchmarks and cost maps of open-vocabulary models.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Benchmarks and cost maps of open-vocabulary models."""


Weights = Annotated[str | None, typer.Option(help="Weights, for a model of `swath models`.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: the first GPU.")]


@app.command("test")
def judge(
    model: Annotated[str, typer.Argument(help="A model of `swath models`, or a checkpoint.")],
    data: Annotated[
        list[str],
        typer.Option(help="A data set (`floodnet`, `ovrsis-vdd`) or a benchmark. Repeatable."),
    ],
    root: Annotated[Path, typer.Option(help="Folder with the data sets' own folders.")],
    weights: Weights = None,
    published: Annotated[
        str | None,
        typer.Option(
            help="Evaluate as published: `slide` (CAT-Seg, GSNet) or `whole` (RSKT-Seg). "
            "Default: images at their own scale."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Figures as JSON.")] = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Judge a model on several data sets, each by its own classes; one table of mIoU and mACC.

    Benchmarks: `gsnet` (FloodNet, FLAIR, FAST, Potsdam), `ovrsisbench` (its eight sets).

    Example: `swath ovseg test gsnet-vitb --weights model_final.pth --data gsnet --root data`
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from swath.core.engine.evaluation import as_data
    from swath.core.errors import ConfigError
    from swath.core.files import write_json
    from swath.core.inference.predictor import load_model
    from swath.ovseg import evaluation
    from swath.ovseg.protocols import PublishedProtocol

    if published not in (None, "slide", "whole"):
        raise ConfigError(f"--published {published} is unknown; use slide or whole")
    protocol = PublishedProtocol(slide=published == "slide") if published else None
    names = evaluation.data_sets(data)
    predictor = load_model(model, weights=weights, device=device)
    table = evaluation.benchmark(
        predictor, names, root, protocol=protocol, device=device, progress=not as_json
    )
    figures = as_data(table)
    if out is not None:
        write_json(out, figures)
    if as_json:
        typer.echo(json.dumps(figures))
        return
    shown = Table("data set", "images", "mIoU", "mACC", box=None)
    for row in evaluation.rows(table):
        shown.add_row(*row)
    Console().print(shown)


@app.command("costs")
def costs(
    model: Annotated[str, typer.Argument(help="A model of `swath models`, or a checkpoint.")],
    image: Annotated[Path, typer.Argument(help="An image.")],
    classes: Annotated[str, typer.Option(help="Names, as for `swath predict`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the arrays and a picture.")],
    weights: Weights = None,
    device: Device = None,
) -> None:
    """Show what each stream says of each class, before and after aggregation.

    Example: `swath ovseg costs rskt-seg-vitb-dlrsd a.png --classes "ship, dock" --weights
    model_final.pth --out costs`
    """
    from swath.core.inference.predictor import load_model
    from swath.ovseg.costs import cost_maps

    names = [name.strip() for name in classes.split(";" if ";" in classes else ",")]
    predictor = load_model(model, weights=weights, device=device)
    for path in cost_maps(predictor, image, names).save(out):
        typer.echo(f"written  {path}")


@app.command("join")
def join(
    last: Annotated[Path, typer.Argument(help="The part named .zip; .z01, .z02, ... beside it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The whole archive.")],
) -> None:
    """Join the parts of a zip archive, such as LandDiscover50K's, to one that opens everywhere.

    Example: `swath ovseg join LD50KSplit.zip --out LandDiscover50K.zip`
    """
    from swath.ovseg.split_zip import join_zip

    join_zip(last, out)
    typer.echo(f"written  {out}")


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
