"""``swath moe``: work on trained models of several tasks."""

from pathlib import Path
from typing import Annotated

import typer

from swath.core.cli.values import Device, Overwrite, Weights, class_names, refuse_existing

app = typer.Typer(
    help="Work on trained models of several tasks.", no_args_is_help=True, add_completion=False
)


@app.callback()
def root() -> None:
    """Work on trained models of several tasks."""


@app.command("add-expert")
def add_expert(
    checkpoint: Annotated[Path, typer.Argument(help="A trained model of several data sets.")],
    name: Annotated[str, typer.Argument(help="Name of the new task.")],
    classes: Annotated[str, typer.Option(help="Its classes in index order: `ground, road`.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Default: CHECKPOINT_NAME.safetensors beside it."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(help="Task whose experts and decoder it begins with. Default: the first."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Give a trained model one more task; what it says for the others stays bit for bit.

    Example: `swath moe add-expert runs/moe_seg_vitb/best.safetensors roads --classes ground,road`
    """
    from swath.moe import experts

    target = out or checkpoint.with_name(f"{checkpoint.stem}_{name}.safetensors")
    refuse_existing(target, overwrite)
    experts.add_expert(checkpoint, name, class_names(classes), target, like)
    typer.echo(
        f"written  {target}\n"
        f"next     train the new task alone: a config with init_from='{target}' and "
        f"trained=['{name}'] in its model"
    )


@app.command("dota")
def dota(
    model: Annotated[str, typer.Argument(help="A detector: a checkpoint or a model's name.")],
    images: Annotated[Path, typer.Argument(help="Folder of whole DOTA scenes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Archive for the server, .zip.")],
    labels: Annotated[
        Path | None, typer.Option(help="Folder of their labelTxt files: computes AP50 as well.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Which task, of a model of several data sets. Default: dota."),
    ] = None,
    weights: Weights = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Search whole DOTA scenes and write the archive that its server takes.

    The tiles are those of `swath data prepare dota`, 1024 px that share 200; their objects are
    joined by rotated suppression at IoU 0.5, for AP of your own at 0.1.

    Example: `swath moe dota runs/moe_det_vitb/best.safetensors $DATA/val/images --labels
    $DATA/val/labelTxt -o submission.zip`
    """
    from swath.core.data.detection import DotaText
    from swath.core.data.readers import find_images
    from swath.core.errors import ConfigError
    from swath.core.inference.predictor import load_model
    from swath.moe import dota as server

    if out.suffix.lower() != ".zip":
        raise ConfigError(f"{out}: the server takes a .zip; change the suffix")
    refuse_existing(out, overwrite)
    scenes = find_images(images)
    predictor = load_model(model, weights=weights, device=device)
    if task is not None or hasattr(predictor.task, "select"):
        predictor = predictor.for_task(task or "dota")
    truth = DotaText(images, labels, predictor.classes) if labels is not None else None
    if truth is not None:
        server.check_labels(truth)
    ious = (server.SERVER_IOU,) if truth is None else (server.SERVER_IOU, server.OWN_IOU)
    found, *own = server.search(predictor, scenes, ious, progress=True)
    server.submission(found, predictor.classes, out)
    typer.echo(f"written  {out}: {sum(map(len, found.values()))} objects in {len(found)} scenes")
    if truth is not None:
        figures = server.judge(own[0], truth)
        for name, row in figures["per_class"].items():
            value = "-" if row["AP"] is None else f"{row['AP']:.4f}"
            typer.echo(f"{name:22} {value}  ({row['objects']} objects)")
        typer.echo(f"mean AP50  {figures['mAP']:.4f}")
