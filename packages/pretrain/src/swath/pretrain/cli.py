"""``swath pretrain``: what pre-training leaves behind, for others."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Pass on what pre-training has made.", no_args_is_help=True, add_completion=False
)


@app.callback()
def root() -> None:
    """Pass on what pre-training has made."""


@app.command("export")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Of an S4P run, or converted by Swath.")],
    out: Annotated[Path, typer.Argument(help="The *.pth to write.")],
    backbone: Annotated[
        bool, typer.Option("--backbone", help="The ViT alone, as in vit_b_s4p.pth.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Write a checkpoint in the layout of the official S5 code.

    Example: `swath pretrain export runs/s4p/last.safetensors vit_b_s4p_upernet.pth`
    """
    from swath.core.errors import ConfigError
    from swath.pretrain.official import export_official

    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; choose another name or say --overwrite")
    counts = export_official(checkpoint, out, backbone_only=backbone)
    typer.echo(f"written  {out}: {counts['tensors']} tensors, {counts['values']:,} values")
