"""``swath configs``."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from swath.core.cli.app import app


@app.command("configs")
def configs(
    name: Annotated[str | None, typer.Argument(help="Show everything about one config.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runnable experiments, or show one: what it is, how to run it, what to expect.

    With a name and `--json`, the resolved config as data.

    Examples: `swath configs`, `swath configs scenes_tiny`, `swath configs --json`
    """
    from swath.core.config import config_header, config_names, load_config

    if name is not None:
        if as_json:
            typer.echo(json.dumps(load_config(name).to_data(), indent=2))
        else:
            typer.echo(config_header(name))
            typer.echo(f"\nAs data: swath configs {name} --json")
        return
    headers = {n: config_header(n).partition("\n")[0] for n in config_names()}
    if as_json:
        typer.echo(json.dumps(headers, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("config", no_wrap=True)
    table.add_column("")
    for config, header in headers.items():
        table.add_row(config, header)
    Console().print(table)
    typer.echo("\nNext: swath configs NAME; swath train NAME; swath train MY_OWN.py")
