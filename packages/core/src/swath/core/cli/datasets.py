"""``swath datasets``."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from swath.core.cli.app import app


@app.command("datasets")
def datasets(
    name: Annotated[str | None, typer.Argument(help="Show everything about one set.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the data sets Swath can read by name, or show one with its layouts and protocols.

    Examples: `swath datasets`, `swath datasets potsdam`, `swath datasets --json`
    """
    from swath.core.data.catalogue import catalogue, dataset_spec

    if name is not None:
        spec = dataset_spec(name)
        if as_json:
            typer.echo(json.dumps(asdict(spec), indent=2))
        else:
            _print(spec)
        return
    known = catalogue()
    if as_json:
        typer.echo(json.dumps({n: asdict(s) for n, s in known.items()}, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "task", "classes", "GSD", ""):
        number = column in ("classes", "GSD")
        table.add_column(column, justify="right" if number else "left", no_wrap=bool(column))
    for spec in known.values():
        classes = str(len(spec.protocol().classes))
        gsd = f"{spec.gsd_m:g} m" if spec.gsd_m else "varies"
        table.add_row(spec.name, spec.task, classes, gsd, spec.title)
    Console().print(table)
    typer.echo("\nNext: swath datasets NAME; swath data check NAME ROOT")


def _print(spec: Any) -> None:
    console = Console()
    console.print(f"[bold]{spec.title}[/] ({spec.name}), {spec.task}")
    gsd = f", {spec.gsd_m:g} m" if spec.gsd_m else ""
    console.print(f"bands: {', '.join(spec.bands)} ({spec.dtype}){gsd}", highlight=False)
    console.print(f"splits: {', '.join(dict.fromkeys([*spec.splits, 'all']))}", highlight=False)
    for label, value in (("licence", spec.licence), ("from", spec.where), ("notes", spec.notes)):
        if value:
            console.print(f"{label}: {value}", markup=False, highlight=False)
    console.print("\n[bold]Layouts[/] (relative to the root)")
    for layout in spec.layouts:
        console.print(f"  {layout.images}", markup=False, highlight=False)
        if layout.labels:
            console.print(f"    {layout.kind}: {layout.labels}", markup=False, highlight=False)
        if layout.lists:
            console.print(f"    lists: {layout.lists}", markup=False, highlight=False)
    for name, protocol in spec.protocols.items():
        tile = f", {protocol.tile_px} px" if protocol.tile_px else ""
        console.print(f"\n[bold]Protocol {name}[/]: {protocol.metric}{tile}", highlight=False)
        if protocol.source:
            console.print(f"  {protocol.source}", markup=False, highlight=False)
        stored: dict[int, list[str]] = {}
        for value, index in protocol.mapping:
            stored.setdefault(index, []).append(str(value))
        for index, (title, colour) in enumerate(
            zip(protocol.classes, protocol.palette, strict=True)
        ):
            hexadecimal = "#" + "".join(f"{v:02x}" for v in colour)
            values = f"stored as {' or '.join(stored.get(index, ['nothing']))}"
            console.print(f"  [{hexadecimal}]██[/] {index:>3} {title}", end="")
            console.print(f"  ({values})" if spec.task == "segmentation" else "", highlight=False)
        ignored = stored.get(protocol.ignore_index)
        if ignored and spec.task == "segmentation":
            console.print(
                f"     {protocol.ignore_index:>3} ignored  (stored as {', '.join(ignored)})"
            )
