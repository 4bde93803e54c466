"""``swath predict``: a model over rasters of any size."""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from swath.core.cli.app import ListsInARow, app
from swath.core.cli.values import (
    Arithmetic,
    Device,
    Overwrite,
    Weights,
    class_names,
    refuse_existing,
)
from swath.core.errors import ConfigError, SwathError

if TYPE_CHECKING:
    from swath.core.inference.predictor import Predictor
    from swath.core.precision import Precision

DEFAULT_MODEL = "swath-small"

ENDINGS = {
    "captioning": "_answer.json",
    "classification": "_answer.json",
    "counting": "_objects.gpkg",
    "detection": "_objects.gpkg",
    "multi-label classification": "_answer.json",
    "several tasks": "_results",
}
"""What is put behind an image's name where no name is given, by the kind of task; else a mask's."""


@app.command("predict", cls=ListsInARow)
def predict(
    model: Annotated[
        str,
        typer.Argument(
            help=f"A model of `swath models`, such as **{DEFAULT_MODEL}** (comes along), or a "
            "checkpoint file."
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Rasters.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Result: of segmentation .tif, .png, .gpkg or .geojson; of detection .gpkg, "
            ".geojson, .json (COCO) or .txt (DOTA); of other answers .json; a folder for several "
            "images, or several tasks. Default: IMAGE_mask.tif, IMAGE_objects.gpkg, "
            "IMAGE_answer.json or, of several tasks, IMAGE_results/.",
        ),
    ] = None,
    weights: Weights = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Vocabulary, for models that take one: `water, tree`; or, where a class has "
            "alternatives, `plane, aircraft; ship`."
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            help="With --classes: a class for the rest, where no class is as probable as this "
            "number, or where one of these names fits best: `0.4`, `road, sea`."
        ),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            help="The sentences that classes stand in, for models that compare pixels with words: "
            "`single`, `imagenet`, `overhead`, `name`, or your own, `a map of {}; a photo of {}`."
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="A sentence, for models that take one.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "--tasks",
            metavar="NAME",
            help="Which task, for models that do several; --tasks takes more than one where a "
            "model answers them in one pass: `--tasks cls det`.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="How it answers, for models that are asked in words: "
            "`oriented=true`, `regions=tile`, `region_split=4`. Repeatable.",
        ),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(help="Bands in the model's order, numbered from 1: `--bands 3,2,1`."),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="How the numbers map to the model's range: `--scale 0:10000`."),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest tile side; default the model's own, or 1024, less for many classes.",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(min=0, help="Context shared by neighbours; default 64, for objects 200."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Tiles at once; default 1 on a CPU, 4 on a GPU.")
    ] = None,
    device: Device = None,
    precision: Arithmetic = "fp32",
    ending: Annotated[
        str | None,
        typer.Option(
            help="What follows an image's name in a folder of results: `.png`, `_roofs.gpkg`. "
            "Default: as of --out."
        ),
    ] = None,
    yolo: Annotated[
        bool,
        typer.Option("--yolo", help="Write objects as YOLO-OBB labels, IMAGE.txt; without scores."),
    ] = False,
    vector: Annotated[
        Path | None, typer.Option(help="Also write polygons: .gpkg or .geojson (one image only).")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write a band of probability per class.")
    ] = False,
    save_cost_maps: Annotated[
        bool,
        typer.Option(
            "--save-cost-maps",
            help="Of models that compare pixels with words: also write what each stream says of "
            "each word, to IMAGE_cost_maps beside the result.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables.")
    ] = False,
) -> None:
    """Run a model over rasters of any size; the result lies exactly on the image.

    Reads by windows, runs tile by tile with blended seams and keeps CRS and transform.

    **Examples**

    `swath predict swath-small scene.tif --out mask.tif --vector mask.gpkg`

    `swath predict run/best.safetensors a.tif b.tif --out masks/`

    `swath predict run/best.safetensors s2.tif --bands 3,2,1 --scale 0:3000`

    `swath predict run/best.safetensors scene.tif --task counting --classes ship,vehicle`

    `swath predict best.safetensors scene.tif --task detection --classes ship --set oriented=true`

    `swath predict run/best.safetensors scene.tif --out results/ --tasks cls det seg`

    `swath predict run/best.safetensors *.png --out Result/ --ending .png`
    """
    _check_paths(images, out)
    if vector is not None and len(images) > 1:
        raise ConfigError("--vector takes one image; run swath vectorise on the masks instead")
    if vector is not None and vector.suffix.lower() not in (".gpkg", ".geojson"):
        raise ConfigError(f"{vector}: polygons are written as .gpkg or .geojson; change the suffix")
    numbers = _numbers(bands)

    from swath.core.inference.predictor import load_model
    from swath.core.inference.results import check_format, probabilities_path

    predictor = load_model(
        model, weights=weights, device=device, task=task, precision=cast("Precision", precision)
    )
    kind = predictor.task.kind
    own = _settings(predictor, settings or [])
    if vector is not None:
        check_format(vector, kind)
    if save_cost_maps and not hasattr(predictor, "cost_maps"):
        raise ConfigError(f"{model} has no cost maps; leave --save-cost-maps out")
    if templates is not None:
        if not hasattr(predictor, "with_ensemble"):
            raise ConfigError(f"{model} puts no classes into sentences; leave --templates out")
        predictor = predictor.with_ensemble(_templates(templates))
    usual = ".txt" if yolo else ENDINGS.get(kind, "_mask.tif")
    targets = _targets(images, out, ending or usual)
    if ending and targets == [out]:
        raise ConfigError(f"{out} is a whole name; leave --ending out, or give a folder")
    if yolo:
        _check_yolo(targets, kind)
    costs = [
        target.with_name(f"{image.stem}_cost_maps") if save_cost_maps else None
        for image, target in zip(images, targets, strict=True)
    ]
    beside = [probabilities_path(target) for target in targets] if probabilities else []
    for path in filter(None, [*targets, *beside, *costs, vector]):
        refuse_existing(path, overwrite)
    options: dict[str, Any] = {
        "tile": tile or "auto",
        "overlap": overlap,
        "batch_size": batch_size,
        "bands": numbers,
        "scale": scale,
        "probabilities": probabilities,
        "classes": None if classes is None else class_names(classes),
        "background": _background(background),
        "text": text,
        "progress": not as_json,
        **own,
    }
    reports, failures = [], []
    for image, target, maps in zip(images, targets, costs, strict=True):
        try:
            reports.append(_one(predictor, image, target, vector, maps, yolo, options))
        except SwathError as error:
            if len(images) == 1:
                raise
            failures.append(str(error))
            continue
        if not as_json:
            _show(reports[-1])
    if as_json:
        print(json.dumps({"results": reports, "failures": failures}, indent=2))
    if failures:
        for line in failures if not as_json else ():
            Console(stderr=True, soft_wrap=True).print(
                f"[bold red]error[/]: {escape(line)}", highlight=False
            )
        sys.exit(2)


def _check_paths(images: list[Path], out: Path | None) -> None:
    for image in images:
        if image.is_dir():
            raise ConfigError(f"{image} is a folder; give the images in it: {image / '*.tif'}")
    if out is not None and len(images) > 1 and out.suffix and not out.is_dir():
        raise ConfigError(f"{out} must be a folder: there are {len(images)} images")


def _targets(images: list[Path], out: Path | None, ending: str) -> list[Path]:
    """Where each result goes: to a name with a suffix, or else into that folder."""
    if (
        out is not None
        and len(images) == 1
        and not out.is_dir()
        and (out.suffix or not Path(ending).suffix)
    ):
        return [out]
    targets = [(out or image.parent) / f"{image.stem}{ending}" for image in images]
    if len(set(targets)) < len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise ConfigError(
            f"{twice} would be the result of two images of the same name; run them one by one, "
            "each with an --out of its own"
        )
    return targets


def _check_yolo(targets: list[Path], kind: str) -> None:
    if kind != "detection":
        raise ConfigError(f"YOLO-OBB is for objects, not for {kind}; leave --yolo out")
    if any(path.suffix.lower() != ".txt" for path in targets):
        raise ConfigError(f"{targets[0]}: YOLO-OBB labels are .txt files; change the suffix")


def _settings(predictor: "Predictor", assignments: list[str]) -> dict[str, Any]:
    """Options of the task, of ``name=value`` each; one that it hasn't is refused."""
    from swath.core.config import literal

    settings = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set '{assignment}': write it as name=value")
        settings[name.strip()] = literal(text.strip())
    if not settings:
        return {}
    task = predictor.task
    if not hasattr(task, "with_options"):
        advice = "choose a --task first" if hasattr(task, "select") else "leave --set out"
        raise ConfigError(f"--set: {task.kind} has nothing to set; {advice}")
    task.with_options(**settings)
    return settings


def _background(text: str | None) -> float | list[str] | None:
    """A probability, or names."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return class_names(text)


def _templates(text: str) -> str | list[str]:
    """An ensemble's name, or sentences between semicolons."""
    return [one.strip() for one in text.split(";")] if "{" in text else text


def _numbers(bands: str | None) -> list[int] | None:
    if bands is None:
        return None
    try:
        return [int(b) for b in bands.split(",")]
    except ValueError as error:
        raise ConfigError(f"--bands {bands} isn't a list of band numbers, e.g. 3,2,1") from error


def _one(
    predictor: "Predictor",
    image: Path,
    target: Path,
    vector: Path | None,
    costs: Path | None,
    yolo: bool,
    options: dict[str, Any],
) -> dict[str, Any]:
    from swath.core.geo.raster import open_raster

    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = predictor.predict(image, out=None if yolo else target, **options)
    if yolo:
        result.save_yolo(target)
    seconds = time.monotonic() - start
    probabilities = getattr(result, "probabilities_path", None)
    written = [target, *([probabilities] if probabilities else [])]
    if vector is not None:
        written.append(result.save(vector))
    if costs is not None:
        same = {name: options[name] for name in ("classes", "background", "bands", "scale")}
        maps = predictor.cost_maps(image, **same)  # type: ignore[attr-defined]
        written += maps.save(costs, progress=options["progress"])
    with open_raster(image) as raster:
        info = raster.info
    return {
        "image": str(image),
        "written": [str(path) for path in written],
        "width": info.width,
        "height": info.height,
        "crs": info.crs.to_string() if info.crs and info.placed else None,
        "seconds": round(seconds, 3),
        "mpix_per_s": round(info.width * info.height / 1e6 / seconds, 3),
        **result.summary(),
        "notes": [str(w.message) for w in caught if w.category is UserWarning],
    }


def _show(report: dict[str, Any]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for note in report["notes"]:
        Console(stderr=True, soft_wrap=True).print(
            f"[yellow]note[/]: {escape(note)}", highlight=False
        )
    for path in report["written"]:
        console.print(f"[green]written[/] {escape(path)}")
    crs = report["crs"] or "no CRS"
    valid = f"{report['valid_share']:.1%} valid, " if "valid_share" in report else ""
    console.print(
        f"{report['width']} x {report['height']} px, {crs}, {valid}"
        f"{report['seconds']:.1f} s, {report['mpix_per_s']:.2f} MPix/s"
    )
    for name, value in report.get("answer", {}).items():
        console.print(escape(f"{name}: {_in_words(value)}"))
    kinds = {"shares": "share", "objects": "objects", "probabilities": "probability"}
    for kind in kinds.keys() & report:
        table = Table("class", kinds[kind], box=None)
        for name, value in sorted(report[kind].items(), key=lambda item: -item[1]):
            if value:
                table.add_row(
                    escape(name), f"{value:.2%}" if isinstance(value, float) else str(value)
                )
        if table.row_count:
            console.print(table)
        else:
            console.print(escape(f"nothing found of {', '.join(report[kind])}"))


def _in_words(value: Any) -> str:
    """A value of an answer, lists as words with commas, none of them as "none"."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
