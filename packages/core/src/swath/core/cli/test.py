"""``swath test``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from swath.core.cli.app import ListsInARow, app
from swath.core.cli.train import write_report


@app.command("test", cls=ListsInARow)
def judge(
    config: Annotated[str, typer.Argument(help="The config that the model was trained with.")],
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of ours, or a run's folder (its best one).")
    ],
    split: Annotated[
        str | None, typer.Option(help="train, val or test. Default: test, else val.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Which tasks, for models that do several: `--tasks cls seg`."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override, as key.path=value. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder. Default: beside the checkpoint.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: the first GPU.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Judge a checkpoint on a config's test set; write metrics.json and a report.

    Examples: `swath test scenes_tiny runs/scenes_tiny/best.safetensors`, `swath test runs/a runs/a
    --split val --json`
    """
    from swath.core.checkpoint.store import load_pair
    from swath.core.config import load_config
    from swath.core.engine.evaluation import as_data, evaluate
    from swath.core.errors import ConfigError
    from swath.core.files import write_json

    loaded = load_config(config, overrides or ())
    if checkpoint.is_dir():
        best = checkpoint / "best.safetensors"
        checkpoint = best if best.exists() else checkpoint / "last.safetensors"
    chosen = split or ("test" if loaded.test is not None else "val")
    dataset_spec = {"train": loaded.train, "val": loaded.val, "test": loaded.test}.get(chosen)
    if dataset_spec is None:
        has = [s for s in ("train", "val", "test") if getattr(loaded, s) is not None]
        raise ConfigError(f"{config} has no split '{chosen}'; choose one of {', '.join(has)}")
    if tasks is not None:
        dataset_spec["only"] = tasks.split(",")
    model, saved_task, _ = load_pair(checkpoint)
    task = loaded.task.build()
    if tuple(task.classes) != tuple(saved_task.classes):
        raise ConfigError(
            f"{checkpoint}: its classes ({', '.join(saved_task.classes)}) aren't those of {config} "
            f"({', '.join(task.classes)}); give the config it was trained with"
        )
    dataset = dataset_spec.build()
    metrics = evaluate(
        model,
        task,
        dataset,
        batch_size=loaded.batch_size,
        num_workers=loaded.num_workers,
        device=device,
        precision=loaded.precision,
    )
    folder = out or checkpoint.parent / "evaluation" / chosen
    figures = as_data(metrics)
    content = {"checkpoint": str(checkpoint), "split": chosen, **figures}
    write_json(folder / "metrics.json", content)
    report = write_report(
        checkpoint.parent,
        metrics,
        model,
        task,
        dataset,
        path=folder / "report.html",
        title=f"{checkpoint.parent.name}/{checkpoint.name} on {config}, {chosen}",
    )
    if as_json:
        typer.echo(json.dumps(figures))
        return
    _show(figures, f"{chosen}: {len(dataset)} images")
    typer.echo(f"metrics  {folder / 'metrics.json'}")
    if report is not None:
        typer.echo(f"report   {report}")


def _show(figures: Mapping[str, Any], title: str) -> None:
    console = Console(highlight=False)
    numbers = {k: v for k, v in figures.items() if isinstance(v, int | float)}
    console.print(f"{title}\n" + "  ".join(f"{k} {v:.4f}" for k, v in numbers.items()))
    for rows in figures.values():
        if not isinstance(rows, Mapping) or not rows:
            continue
        if not all(isinstance(row, Mapping) for row in rows.values()):
            continue
        columns = list(next(iter(rows.values())))
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("")
        for column in columns:
            table.add_column(column, justify="right")
        for name, row in rows.items():
            table.add_row(name, *(_number(row.get(column)) for column in columns))
        console.print(table)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)
