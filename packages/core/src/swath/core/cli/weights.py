"""``swath weights``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from swath.core.cli.app import app

weights_app = typer.Typer(
    no_args_is_help=True, help="Look into weights files without executing what is in them."
)
app.add_typer(weights_app, name="weights")


@weights_app.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(help="A .safetensors, .pth, .pt, .bin or .pkl file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show format, tensors, sizes and metadata of a weights file.

    A file that would execute code is refused, and the message says what it would have called.

    Example: `swath weights inspect checkpoint.pth`
    """
    from swath.core.checkpoint.safe import file_format, load_file, read_metadata

    tensors = load_file(file)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "values": tensor.numel(),
        }
        for name, tensor in tensors.items()
    ]
    report: dict[str, Any] = {
        "file": str(file),
        "format": file_format(file),
        "bytes": file.stat().st_size,
        "tensors": rows,
        "values": sum(t.numel() for t in tensors.values()),
        "metadata": _parsed(read_metadata(file)),
    }
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("tensor", "shape", "dtype", "values"):
        table.add_column(column, justify="right" if column == "values" else "left")
    for row in rows:
        shape = " x ".join(map(str, row["shape"])) or "scalar"
        table.add_row(row["name"], shape, row["dtype"], f"{row['values']:,}")
    console.print(table, markup=False)
    console.print(
        f"\n{report['format']}, {report['bytes'] / 1e6:,.1f} MB, {len(rows)} tensors, "
        f"{report['values']:,} values",
        highlight=False,
    )
    if report["metadata"]:
        console.print_json(data=report["metadata"])


def _parsed(metadata: dict[str, str]) -> dict[str, Any]:
    """Metadata with its JSON entries read, so that they print as what they are."""
    parsed: dict[str, Any] = {}
    for key, value in metadata.items():
        try:
            parsed[key] = json.loads(value) if value.startswith(("{", "[")) else value
        except ValueError:
            parsed[key] = value
    return parsed
