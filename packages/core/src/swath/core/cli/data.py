"""``swath data check | preview | prepare | unpack``: look after copies of data sets."""

import json
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from swath.core.cli.app import app
from swath.core.cli.values import Overwrite, class_names, refuse_existing
from swath.core.errors import ConfigError, DataError
from swath.core.plugins import plugins, resolve

if TYPE_CHECKING:
    from swath.core.data.check import Report
    from swath.core.data.spec import Protocol

data_app = typer.Typer(no_args_is_help=True, help="Check, look at, prepare and unpack data sets.")
app.add_typer(data_app, name="data")

_CUT = ("potsdam", "vaihingen", "isaid", "dota")


class Preparers(TyperGroup):
    """`swath data prepare`: the sets that core cuts into tiles, and what plugins prepare.

    A plugin's ``preparers`` are ``"module:function"`` strings; the function is a typer command of
    that name.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Core's names, then the plugins'."""
        return [*self.commands, *_preparers()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name.

        Raises:
            DataError: If nobody prepares a set of that name.
        """
        known = {**self.commands, **_preparers()}
        if cmd_name not in known:
            from swath.core.data.prepare import unprepared

            raise unprepared(cmd_name, known)
        return known[cmd_name]


@cache
def _preparers() -> dict[str, Any]:
    """The plugins' commands by name; one that can't be imported is reported and left out."""
    commands = {}
    for plugin in plugins():
        for reference in plugin.get("preparers"):
            try:
                name = reference.rpartition(":")[2]
                alone = typer.Typer(rich_markup_mode="markdown", add_completion=False)
                alone.command(name)(resolve(reference))
                commands[name] = typer.main.get_command(alone)
            except Exception as error:  # foreign code: reported by name, never fatal
                warnings.warn(
                    f"plugin '{plugin.name}': '{reference}' can't be used: {error}", stacklevel=2
                )
    return commands


prepare_app = typer.Typer(
    cls=Preparers,
    no_args_is_help=True,
    help="Turn scenes into what training reads: tiles as papers cut them, or shards.",
)
data_app.add_typer(prepare_app, name="prepare")

_Name = Annotated[
    str, typer.Argument(help="A data set's name (`swath datasets`), or a folder of your own.")
]
_Root = Annotated[Path | None, typer.Argument(help="Where the copy of a named set is.")]
_Images = Annotated[Path | None, typer.Option(help="Your own folder: where the images are in it.")]
_Labels = Annotated[
    Path | None,
    typer.Option("--masks", "--labels", help="Where the masks or label files are in it."),
]
_Classes = Annotated[
    str | None, typer.Option(help="Class names in index order, with commas between.")
]
_Kind = Annotated[
    str, typer.Option("--format", help="mask, dota, yolo-obb, voc, voc-rotated, vhr10 or coco.")
]
_Split = Annotated[
    str | None, typer.Option(help="One split, or a file that lists its images. Default: all.")
]
_Protocol = Annotated[str | None, typer.Option(help="How a named set's labels are read.")]
_SHOWN = 50


@data_app.command("check")
def check(
    name: _Name,
    root: _Root = None,
    images: _Images = None,
    labels: _Labels = None,
    classes: _Classes = None,
    kind: _Kind = "mask",
    lists: Annotated[
        list[Path] | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="A text file with a split's image ids; repeat for each split.",
        ),
    ] = None,
    split: _Split = None,
    protocol: _Protocol = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read every file of a data set and say what is wrong in which.

    Finds missing pairs, unreadable files, sizes that differ, labels out of range, odd number
    formats, bad boxes, duplicates, and pictures that leak from one split into another. Exit code 2
    if there are faults.

    Examples:
    `swath data check loveda ~/data/loveda`

    `swath data check ~/data/mine --images images --masks masks --classes ground,building`

    `swath data check ~/data/ships --images images --labels labelTxt --format dota --classes ship`
    """
    from swath.core.data.check import check_folders, check_known

    own = {"--images": images, "--masks": labels, "--classes": classes, "--list": lists}
    _refuse_unused(root, own, kind, {"--split": split, "--protocol": protocol})
    if root is not None:
        report = check_known(name, root, split=split, protocol=protocol, progress=not as_json)
    else:
        pictures, truth, names = _own_folder(name, images, labels, classes)
        report = check_folders(
            pictures,
            truth,
            names,
            kind=_known_kind(kind),
            lists=lists or (),
            progress=not as_json,
        )
    if as_json:
        typer.echo(json.dumps(report.to_data(), indent=2))
    else:
        _print(report)
    if report.faults:
        raise typer.Exit(2)


@data_app.command("preview")
def preview(
    name: _Name,
    root: _Root = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path(
        "preview.png"
    ),
    images: _Images = None,
    labels: _Labels = None,
    classes: _Classes = None,
    kind: _Kind = "mask",
    split: _Split = None,
    protocol: _Protocol = None,
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 12,
    overwrite: Overwrite = False,
) -> None:
    """Render a contact sheet: samples spread over the set with their labels, and a legend.

    Examples:
    `swath data preview nwpu-vhr10 ~/data/vhr10 -o sheet.png`

    `swath data preview ~/data/mine --images images --masks masks --classes ground,building`
    """
    from swath.core.data.catalogue import load_dataset
    from swath.core.data.preview import contact_sheet

    refuse_existing(out, overwrite)
    own = {"--images": images, "--masks": labels, "--classes": classes}
    listed = {"--split": split} if kind == "coco" else {}
    _refuse_unused(root, own, kind, {**listed, "--protocol": protocol})
    if root is not None:
        dataset = load_dataset(name, root, split or "all", protocol)
    else:
        pictures, truth, names = _own_folder(name, images, labels, classes)
        dataset = _own_dataset(pictures, truth, names, _known_kind(kind), split)
    contact_sheet(dataset, out, count=count)
    typer.echo(f"{out}: {min(count, len(dataset))} of {len(dataset)} samples")


def prepare(
    ctx: typer.Context,
    root: Annotated[Path, typer.Argument(help="The copy as its authors distribute it, unpacked.")],
    out: Annotated[Path, typer.Argument(help="The folder to write the tiles to.")],
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the tiles in pixels; default: the papers', 512 for potsdam and vaihingen,"
            " 896 for isaid, 1024 for dota."
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Pixels that neighbours share; default: the papers', 256 for potsdam and vaihingen"
            " (0 but to train on), 384 for isaid, 200 for dota."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Only this split: train, val, ... Default: all.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Scenes cut at the same time; default: one a core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Cut the scenes into the tiles that papers train on.

    Interrupted, it goes on where it stopped; run again, it skips what is finished. The tiles are a
    copy that `swath data check NAME OUT` and a config read.

    Examples:
    `swath data prepare potsdam ~/data/Potsdam ~/data/potsdam_512`

    `swath data prepare dota ~/data/DOTA ~/data/dota_1024 --overlap 512`
    """
    from dataclasses import asdict

    from swath.core.data.prepare import prepare as cut

    done = cut(
        str(ctx.info_name),
        root,
        out,
        size=size,
        overlap=overlap,
        split=split,
        workers=workers,
        progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        before = f", {done.skipped} of them before" if done.skipped else ""
        typer.echo(f"{out}: {done.tiles:,} tiles of {done.scenes:,} scenes{before}")


for _name in _CUT:
    prepare_app.command(_name)(prepare)


@data_app.command("unpack")
def unpack(
    archive: Annotated[Path, typer.Argument(help="A zip or tar archive.")],
    target: Annotated[Path, typer.Argument(help="The folder to unpack into.")],
    max_gb: Annotated[float, typer.Option(help="Refuse archives that hold more.")] = 500.0,
) -> None:
    """Unpack an archive without trusting it: nothing lands outside of the target.

    Absolute paths, `..`, links, devices and bombs are refused before a byte is written.

    Example: `swath data unpack LoveDA.zip ~/data/loveda`
    """
    from swath.core.data.archives import extract

    files = extract(archive, target, max_bytes=int(max_gb * 2**30), progress=True)
    typer.echo(f"{target}: {len(files)} files")


def _refuse_unused(
    root: Path | None, own: dict[str, Any], kind: str, known: dict[str, Any]
) -> None:
    """Refuse options of folders of one's own for a named set, and the other way round."""
    if root is not None:
        unused, what = {**own, "--format": kind != "mask"}, "a named set, whose files are known"
    else:
        unused, what = known, "a folder of your own"
    given = [option for option, value in unused.items() if value]
    if given:
        raise ConfigError(f"{' and '.join(given)} can't be used with {what}; leave it out")


def _own_folder(
    name: str, images: Path | None, labels: Path | None, classes: str | None
) -> tuple[Path, Path, "Protocol"]:
    from swath.core.data.catalogue import catalogue
    from swath.core.data.readers import resolve_root
    from swath.core.data.spec import Protocol

    if name in catalogue():
        raise DataError(f"'{name}' is a known data set: give the folder of your copy after it")
    if images is None or labels is None or classes is None:
        raise DataError(
            f"'{name}' isn't a known data set; for a folder of your own give --images, --masks "
            "(or --labels and --format) and --classes, for a known one its name and its folder"
        )
    folder = resolve_root(name)
    return folder / images, folder / labels, Protocol(tuple(class_names(classes)))


def _own_dataset(
    images: Path, labels: Path, protocol: "Protocol", kind: str, ids: str | None
) -> object:
    from swath.core.data import CocoJson, DotaText, FolderSegmentation, VocXml, YoloObb

    if kind == "mask":
        return FolderSegmentation(images, labels, ids, protocol)
    if kind == "coco":
        return CocoJson(labels, images, protocol.classes)
    if kind == "dota":
        return DotaText(images, labels, protocol.classes, ids)
    if kind == "yolo-obb":
        return YoloObb(images, labels, protocol.classes, ids)
    if kind in ("voc", "voc-rotated"):
        rotated = kind == "voc-rotated"
        return VocXml(images, labels, protocol.classes, ids, rotated=rotated)
    raise DataError(f"a folder of {kind} labels can't be previewed by itself; use its set's name")


def _known_kind(kind: str) -> str:
    from swath.core.errors import suggest

    known = ["mask", "dota", "yolo-obb", "voc", "voc-rotated", "vhr10", "coco"]
    if kind not in known:
        raise DataError(f"--format '{kind}' isn't known{suggest(kind, known)}")
    return kind


def _print(report: "Report") -> None:
    console = Console()
    total = sum(report.images.values())
    splits = ", ".join(f"{name} {count:,}" for name, count in report.images.items())
    console.print(f"[bold]{report.name}[/] in {report.root}: {total:,} images ({splits})")
    for what, counter in (("sizes", report.sizes), ("formats", report.formats)):
        common = ", ".join(f"{key} ({count:,})" for key, count in counter.most_common(4))
        console.print(f"{what}: {common}{' ...' if len(counter) > 4 else ''}", highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("class")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    everything = max(sum(report.histogram.values()), 1)
    for name, count in report.histogram.items():
        share = count / everything
        table.add_row(name, f"{count:,}", f"{share:.1%}", "█" * round(share * 30))
    if report.ignored:
        table.add_row("(ignored)", f"{report.ignored:,}", "", "")
    console.print(table)
    for finding in report.findings[:_SHOWN]:
        colour = "red" if finding.is_fault else "yellow"
        console.print(f"[{colour}]{finding.kind:>10}[/]  ", end="")
        console.print(f"{finding.path}: {finding.message}", markup=False, soft_wrap=True)
    if len(report.findings) > _SHOWN:
        console.print(f"... and {len(report.findings) - _SHOWN} more; --json lists all")
    faults = len(report.faults)
    console.print(f"[bold red]{faults} fault(s)[/]" if faults else "[bold green]no faults[/]")
