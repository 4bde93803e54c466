"""``swath pretrain``: what pre-training leaves behind, for others."""

from pathlib import Path
from typing import Annotated

import typer

from swath.core.cli.values import Overwrite, refuse_existing

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
    overwrite: Overwrite = False,
) -> None:
    """Write a checkpoint in the layout of the official S5 code.

    Example: `swath pretrain export runs/s4p/last.safetensors vit_b_s4p_upernet.pth`
    """
    from swath.pretrain.official import export_official

    refuse_existing(out, overwrite)
    counts = export_official(checkpoint, out, backbone_only=backbone)
    typer.echo(f"written  {out}: {counts['tensors']} tensors, {counts['values']:,} values")
