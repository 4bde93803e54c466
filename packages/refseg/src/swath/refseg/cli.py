"""``swath refseg``: judge a model by the eight evaluations, build data sets of sentences."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swath.core.cli.values import Device, Weights, class_names

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    help="Referring segmentation: judge, convert, build data sets of sentences.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def root() -> None:
    """Referring segmentation: judge, convert, build data sets of sentences."""


@app.command("test")
def judge(
    evaluation: Annotated[
        str,
        typer.Argument(
            help="referring, segmentation, detection, dota, grounding, multi-label, multi-class, "
            "captioning or counting."
        ),
    ],
    model: Annotated[str, typer.Argument(help="A model of `swath models`, or a checkpoint.")],
    root: Annotated[Path, typer.Option(help="Where your copy of the data set is.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Which set of `swath datasets`. Default: that of the paper."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    protocol: Annotated[
        str | None, typer.Option(help="How the set's labels are read; see `swath datasets NAME`.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="What the classes are asked as, in label order, between commas or semicolons."
        ),
    ] = None,
    weights: Weights = None,
    epoc: Annotated[
        str | None,
        typer.Option(
            help="The model of boundaries that parts objects which touch: its folder, or "
            "hf://OWNER/REPO@REVISION."
        ),
    ] = None,
    official: Annotated[
        bool, typer.Option("--official", help="Figures as the official scripts compute them.")
    ] = False,
    oriented: Annotated[
        bool, typer.Option("--oriented", help="For dota: rectangles of least area, Task1.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many samples.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="JSON file; for dota a folder, submission by default."),
    ] = None,
    device: Device = None,
) -> None:
    """Judge a model by one of RemoteSAM's evaluations.

    Example: `swath refseg test referring runs/a/best.safetensors --root data/rrsis-d`
    """
    from swath.core.data.catalogue import dataset_spec
    from swath.core.engine.evaluation import as_data
    from swath.core.errors import ConfigError, suggest
    from swath.core.files import write_json
    from swath.core.inference.predictor import load_model
    from swath.core.progress import track
    from swath.refseg.epoc import Epoc
    from swath.refseg.predictor import RemoteSAMPredictor
    from swath.refseg.protocols import JUDGES, Evaluation, write_dota
    from swath.refseg.sets import PRIORS

    if evaluation not in JUDGED_ON:
        raise ConfigError(f"unknown evaluation '{evaluation}'{suggest(evaluation, [*JUDGED_ON])}")
    kind, usual = JUDGED_ON[evaluation]
    name = dataset_spec(data or usual, task=kind).name
    samples, asked = _samples(evaluation, name, root, split, protocol)
    names = _renamed(evaluation, name, asked, classes)
    predictor = load_model(model, weights=weights, device=device)
    if not isinstance(predictor, RemoteSAMPredictor):
        raise ConfigError(f"{model} isn't a model that is asked in words")
    edges = Epoc(epoc, device=predictor.device) if epoc else None
    how = Evaluation(names, official, edges, PRIORS.get(name, {}), samples.classes)
    count = min(limit or len(samples), len(samples))
    shown = track((samples[i] for i in range(count)), "judging", count, "img")
    if evaluation == "dota":
        for path in write_dota(predictor, shown, how, out or Path("submission"), oriented):
            typer.echo(f"written  {path}")
        return
    figures = as_data(JUDGES[evaluation](predictor, shown, how))
    if out is not None:
        write_json(out, figures)
    typer.echo(json.dumps(figures, indent=1))


JUDGED_ON = {
    "referring": ("referring", "rrsis-d"),
    "segmentation": ("segmentation", "isaid"),
    "detection": ("detection", "dior-coco"),
    "dota": ("detection", "dota"),
    "grounding": ("grounding", "dior-rsvg"),
    "multi-label": ("detection", "dior-coco"),
    "multi-class": ("classification", "ucm"),
    "captioning": ("captioning", "ucm-captions"),
    "counting": ("counting", "counting-dior"),
}
"""What kind of data set each evaluation takes, and the one that the paper took."""


def _samples(
    evaluation: str, name: str, root: Path, split: str, protocol: str | None
) -> "tuple[Any, Sequence[str]]":
    """The data set of an evaluation, and what its classes are asked as."""
    from swath.core.data.catalogue import dataset_spec, load_dataset
    from swath.core.errors import ConfigError, DataError
    from swath.refseg import sets

    if not dataset_spec(name).splits:  # all of it is for testing
        split = "all"
    samples: Any = load_dataset(name, root, split, protocol)
    labelled = evaluation in ("segmentation", "detection", "multi-label")
    if labelled and any(item.label is None for item in samples.items):
        raise DataError(
            f"{root}: split '{split}' of {name} has no labels to judge by; choose another --split"
        )
    if evaluation == "captioning":
        return samples, sets.UCM_CAPTIONS
    asked = [sets.asked_as(class_name) for class_name in samples.classes]
    if evaluation != "segmentation":
        return samples, asked
    if asked[0] != "background":
        raise ConfigError(
            f"{name} has no class 0 for the rest, which this evaluation counts on; "
            "choose another --protocol"
        )
    return samples, asked[1:]


def _renamed(
    evaluation: str, name: str, asked: "Sequence[str]", classes: str | None
) -> "Sequence[str]":
    """What the classes are asked as, in the user's words if there are any."""
    from swath.core.errors import ConfigError

    if classes is None:
        return asked
    if evaluation in ("referring", "grounding", "counting"):
        raise ConfigError(f"--classes: {evaluation} asks what the set says; leave it out")
    names = class_names(classes)
    if evaluation != "captioning" and len(names) != len(asked):
        raise ConfigError(
            f"--classes: gives {len(names)} names for the {len(asked)} classes of {name}; name "
            f"each in this order: {', '.join(asked)}"
        )
    return names


@app.command("convert-refs")
def convert_refs(
    folder: Annotated[Path, typer.Argument(help="Folder with refs(unc).p.")],
) -> None:
    """Write refs.json beside refs(unc).p, whose code is never run."""
    from swath.refseg.data import refer

    typer.echo(f"written  {refer.convert_refs(folder)}")


@app.command("build")
def build(
    name: Annotated[
        str, typer.Argument(help="A data set of `swath datasets`, or `scenes` for rendered ones.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    root: Annotated[Path | None, typer.Option(help="Where your copy of the data set is.")] = None,
    split: Annotated[
        str, typer.Option(help="Which split; all: every third image is for the test.")
    ] = "train",
    per_object: Annotated[int, typer.Option(min=1, help="Sentences about an object.")] = 2,
    limit: Annotated[int, typer.Option(min=1, help="Images at most.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Which sentences are taken.")] = 0,
) -> None:
    """Make images with sentences and masks from a data set of objects or class maps.

    Stopped and given again, the command goes on where it stopped.

    Example: `swath refseg build nwpu-vhr10 --root vhr10 --split all --out sentences`
    """
    from torch.utils.data import Subset

    from swath.core.data.catalogue import load_dataset
    from swath.core.data.scenes import OBJECT_CLASSES, SceneDataset
    from swath.core.errors import ConfigError
    from swath.refseg.data import build as engine

    samples: Any
    if name == "scenes":
        samples = SceneDataset(192, min(limit, 1000), seed, labels=("instances", "boxes"))
        classes = OBJECT_CLASSES
    elif root is None:
        raise ConfigError(f"--root: say where your copy of {name} is")
    else:
        samples = load_dataset(name, root, split)
        classes = samples.classes
    chosen: Any = Subset(samples, range(min(limit, len(samples))))
    report = engine.build(
        chosen, classes, out, split=split, per_object=per_object, seed=seed, progress=True
    )
    typer.echo(f"written  {out}: {report['triplets']} triplets")
    for kind, number in report["kinds"].items():
        typer.echo(f"{number:8d}  {kind}")
