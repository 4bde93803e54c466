"""``swath moe``: work on trained models of several tasks."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Work on trained models of several tasks.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Work on trained models of several tasks."""


@app.command("add-expert")
def add_expert(
    checkpoint: Annotated[Path, typer.Argument(help="A trained model of several data sets.")],
    name: Annotated[str, typer.Argument(help="Name of the new task.")],
    classes: Annotated[str, typer.Option(help="Its classes, comma-separated, in index order.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Default: CHECKPOINT_NAME.safetensors beside it."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(help="Task whose experts and decoder it begins with. Default: the first."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Give a trained model one more task; what it says for the others stays bit for bit.

    Example: `swath moe add-expert runs/moe_seg_vitb/best.safetensors roads --classes ground,road`
    """
    from swath.core.errors import ConfigError
    from swath.moe import experts

    target = out or checkpoint.with_name(f"{checkpoint.stem}_{name}.safetensors")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists; choose another name or say --overwrite")
    names = [c.strip() for c in classes.split(",") if c.strip()]
    experts.add_expert(checkpoint, name, names, target, like)
    typer.echo(
        f"written  {target}\n"
        f"next     train the new task alone: a config with init_from='{target}' and "
        f"trained=['{name}'] in its model"
    )
