"""``swath convert``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from swath.core.cli.app import app
from swath.core.cli.values import Overwrite, class_names, refuse_existing


@app.command("convert")
def convert(
    official: Annotated[
        str, typer.Argument(help="The authors' checkpoint: a file, hf://OWNER/REPO/FILE, or a URL.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Its name: `swath models`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The *.safetensors file to write.")],
    classes: Annotated[
        str | None,
        typer.Option(help="Class names, comma-separated, if it was fine-tuned to others."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Turn an official checkpoint into one file that knows its model, task and classes.

    Every key of the file must be accounted for; nothing in it is executed.

    Example: `swath convert vit_b_s4p_upernet.pth --model s4p-vit-b -o s4p_b.safetensors`
    """
    from swath.core import zoo
    from swath.core.checkpoint.store import load_task
    from swath.core.task import predict_command

    refuse_existing(out, overwrite)
    names = None if classes is None else tuple(class_names(classes))
    counts = zoo.convert(official, model, out, names)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **counts}))
    else:
        typer.echo(
            f"{out}: {counts['tensors']} tensors, {counts['parameters']:,} parameters, all of "
            f"{model}\nNext: {predict_command(load_task(out), out, 'IMAGE')}"
        )
