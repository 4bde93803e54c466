"""``swath data prepare rs4p``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from swath.core.cli.values import Arithmetic, Device, class_names

if TYPE_CHECKING:
    from swath.core.precision import Precision

_SHOWN = 10


def rs4p(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders of scenes, .tar shards, .txt lists (an image a line), or images.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")],
    model: Annotated[
        str, typer.Option(help="A model of `swath models`, or a checkpoint: it labels the tiles.")
    ],
    weights: Annotated[
        str | None, typer.Option(help="Weights for a model that brings none along.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Vocabulary, for models that take one: `water, tree`; or, where a class has "
            "alternatives, `plane, aircraft; ship`."
        ),
    ] = None,
    tile: Annotated[int, typer.Option(help="Largest side of a tile in pixels.")] = 512,
    bands: Annotated[
        str | None, typer.Option(help="Red, green and blue, numbered from 1: 4,3,2.")
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="darkest:brightest of scenes that aren't 8 bits, e.g. 0:3000."),
    ] = None,
    image_format: Annotated[
        str, typer.Option(help="How tiles are stored: jpg (quality 95) or png.")
    ] = "jpg",
    min_size: Annotated[int, typer.Option(help="Leave out scenes with a shorter side.")] = 64,
    min_valid: Annotated[
        float, typer.Option(help="Least share of a tile that holds data and isn't black.")
    ] = 0.5,
    duplicate_bits: Annotated[
        int,
        typer.Option(help="Bits of 64 in which hashes of near-duplicates differ; -1 keeps all."),
    ] = 4,
    confidence: Annotated[
        float, typer.Option(help="Confidence from which the label of a pixel counts as sure.")
    ] = 0.5,
    min_confident: Annotated[
        float, typer.Option(help="Least share of a tile's pixels that must be sure.")
    ] = 0.5,
    balance: Annotated[
        float,
        typer.Option(
            help="Thin out tiles whose classes are all in more than this share of the tiles; 1 "
            "keeps them all."
        ),
    ] = 1.0,
    shard_mb: Annotated[float, typer.Option(help="Size of a shard in MB.")] = 256.0,
    batch_size: Annotated[int, typer.Option(help="Tiles that the model labels at once.")] = 8,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read and encode; default: one a core."),
    ] = None,
    max_broken: Annotated[
        float, typer.Option(help="Share of the scenes that may be unreadable.")
    ] = 0.01,
    device: Device = None,
    precision: Arithmetic = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Turn unlabelled scenes into shards with pseudo-labels, to pre-train on.

    Cuts scenes into tiles, leaves out what is empty or looks like an earlier tile, labels the rest
    with a model, leaves out what it isn't sure of, and writes WebDataset shards with an index, a
    manifest and a report. Interrupted, it goes on where it stopped.

    Examples:
    `swath data prepare rs4p ~/archive --out ~/shards --model swath-small`

    `swath data prepare rs4p s2.txt -o s2 --model mine.safetensors --bands 3,2,1 --scale 0:3000`
    """
    from swath.core.errors import ConfigError
    from swath.core.inference.predictor import load_model
    from swath.pretrain.rs4p.pipeline import prepare
    from swath.pretrain.rs4p.recipe import Recipe

    try:
        numbers = None if bands is None else tuple(int(band) for band in bands.split(","))
    except ValueError as error:
        raise ConfigError(f"--bands {bands}: three numbers with commas between: 4,3,2") from error
    recipe = Recipe(
        tile=tile,
        min_size=min_size,
        min_valid=min_valid,
        bands=numbers,
        scale=scale,
        image_format=image_format,
        duplicate_bits=duplicate_bits,
        confidence=confidence,
        min_confident=min_confident,
        balance=balance,
        shard_mb=shard_mb,
        batch_size=batch_size,
    )
    done = prepare(
        sources,
        out,
        load_model(model, weights=weights, device=device, precision=cast("Precision", precision)),
        recipe,
        classes=None if classes is None else class_names(classes),
        workers=workers,
        max_broken=max_broken,
        progress=not as_json,
    )
    manifest = done.manifest
    if as_json:
        typer.echo(json.dumps(manifest))
        return
    scenes, tiles, broken = manifest["scenes"], manifest["tiles"], manifest["broken"]
    left_out = [f"{n:,} {k} tiles" for k, n in tiles.items() if n and k not in ("kept", "broken")]
    left_out += [f"{scenes[k]:,} {k} scenes" for k in ("too small", "broken") if scenes[k]]
    typer.echo(f"{done.out}: {done.samples:,} samples in {done.shards:,} shards")
    typer.echo(f"left out: {', '.join(left_out) or 'nothing'}; report: {done.out / 'report.html'}")
    for entry in broken[:_SHOWN]:
        typer.echo(f"broken: {entry['scene']}: {entry['reason']}", err=True)
    if len(broken) > _SHOWN:
        typer.echo(f"... and {len(broken) - _SHOWN} more, in {done.out / 'skipped.tsv'}", err=True)
