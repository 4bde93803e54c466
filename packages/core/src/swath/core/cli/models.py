"""``swath models``."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from swath.core.cli.app import app


@app.command("models")
def models(
    name: Annotated[str | None, typer.Argument(help="Show everything about one model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models Swath knows by name, or show one with its paper, licences and weights.

    Examples: `swath models`, `swath models s4p-vit-b`, `swath models --json`
    """
    from swath.core import zoo

    if name is not None:
        details = _details(zoo.card(name))
        if as_json:
            typer.echo(json.dumps(details, indent=2))
        else:
            _print_details(details)
        return
    cards = zoo.cards()
    if as_json:
        typer.echo(json.dumps({n: asdict(c) for n, c in cards.items()}, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for column in ("task", "parameters", "weights", ""):
        table.add_column(column, justify="right" if column == "parameters" else "left")
    for card in cards.values():
        params = f"{card.params / 1e6:,.1f} M" if card.params else "small"
        where = "comes along" if card.builtin else "a file of yours"
        table.add_row(card.name, card.task, params, where, card.title)
    Console().print(table)
    for plugin, error in zoo.problems().items():
        Console(stderr=True).print(f"plugin '{plugin}' is broken: {error}", markup=False)
    typer.echo("\nNext: swath models NAME; swath predict NAME IMAGE")


def _details(card: Any) -> dict[str, Any]:
    """The card, completed by what the file that comes along says of itself."""
    details = asdict(card)
    if card.builtin is not None and card.builtin_path().is_file():
        from swath.core.checkpoint.store import describe

        description = describe(card.builtin_path())
        details["classes"] = description["task"].get("classes", [])
        details["card"] = description["card"]
    return details


def _print_details(details: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for key, value in details.items():
        if value in (None, "", (), [], {}):
            continue
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            value = ", ".join(value)
        table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table, markup=False)
