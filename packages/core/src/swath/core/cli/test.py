"""``swath test``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from swath.core.cli.app import ListsInARow, app
from swath.core.cli.train import set_argument, write_report
from swath.core.cli.values import Device
from swath.core.errors import ConfigError, differing

if TYPE_CHECKING:
    from swath.core.config import TrainConfig


@app.command("test", cls=ListsInARow)
def judge(
    config: Annotated[
        str, typer.Argument(help="The config it was trained with, or its run's folder.")
    ],
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of ours, or a run's folder (its best one).")
    ],
    split: Annotated[
        str | None, typer.Option(help="train, val or test. Default: test, else val.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME...", help="Which tasks, for models that do several: `--tasks cls seg`."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME...",
            help="Data sets of `swath datasets` instead of the config's: `--data floodnet flair`.",
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="With --data: the folder with the sets' own folders.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a value of the config: `--set optimizer.lr=1e-4`. Repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder. Default: evaluation/SPLIT in the run's."),
    ] = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Judge a checkpoint on a config's test set; write metrics.json and a report.

    With `--data` it is judged on several data sets instead, with one table of the figures: models
    that are asked in words by each set's own classes, others where the classes are theirs.

    Examples:
    `swath test scenes_tiny runs/scenes_tiny/best.safetensors`

    `swath test runs/a runs/a --split val --json`

    `swath test runs/words runs/words --data ovrsisbench --root data`
    """
    from swath.core.checkpoint.store import load_pair
    from swath.core.config import load_config
    from swath.core.engine.evaluation import as_data, evaluate
    from swath.core.files import write_json

    loaded = load_config(config, overrides or ())
    if checkpoint.is_dir():
        best = checkpoint / "best.safetensors"
        checkpoint = best if best.exists() else checkpoint / "last.safetensors"
    if data is not None:
        if root is None:
            raise ConfigError("--data needs --root, the folder with the data sets' folders")
        if tasks is not None:
            raise ConfigError("--tasks is for the config's own data, not for --data; leave it out")
        _on_data_sets(loaded, checkpoint, data.split(","), root, split, out, device, as_json)
        return
    if root is not None:
        raise ConfigError("--root is where the data sets of --data are; name them, or leave it out")
    chosen = split or ("test" if loaded.test is not None else "val")
    dataset_spec = {"train": loaded.train, "val": loaded.val, "test": loaded.test}.get(chosen)
    if dataset_spec is None:
        has = [s for s in ("train", "val", "test") if getattr(loaded, s) is not None]
        raise ConfigError(f"{config} has no split '{chosen}'; choose one of {', '.join(has)}")
    if tasks is not None:
        single = f"--tasks: the {chosen} set of {config} is for no several tasks; leave it out"
        set_argument(dataset_spec, "only", tasks.split(","), single)
    model, saved_task, _ = load_pair(checkpoint)
    task = loaded.task.build()
    if tuple(task.classes) != tuple(saved_task.classes):
        raise ConfigError(
            f"{checkpoint}: its classes aren't those of {config}: "
            f"{differing(saved_task.classes, task.classes)}; give the config it was trained with"
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
        progress=not as_json,
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
        title=f"{checkpoint.resolve().parent.name}/{checkpoint.name} on {config}, {chosen}",
    )
    if as_json:
        typer.echo(json.dumps(figures))
        return
    _show(figures, f"{chosen}: {len(dataset)} images")
    typer.echo(f"metrics  {folder / 'metrics.json'}")
    if report is not None:
        typer.echo(f"report   {report}")


def _on_data_sets(
    config: "TrainConfig",
    checkpoint: Path,
    names: list[str],
    root: Path,
    split: str | None,
    out: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    from swath.core.checkpoint.store import load_pair
    from swath.core.engine.evaluation import as_data, evaluate_on
    from swath.core.files import write_json

    model, _, _ = load_pair(checkpoint)
    table = evaluate_on(
        model,
        config.task.build(),
        names,
        root,
        split=split or "all",
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        device=device,
        precision=config.precision,
        progress=not as_json,
    )
    figures = as_data(table)
    written = (out or checkpoint.parent / "evaluation" / "data_sets") / "metrics.json"
    write_json(written, {"checkpoint": str(checkpoint), "data": figures})
    if as_json:
        typer.echo(json.dumps(figures))
        return
    columns = list(figures["mean"])
    shown = Table("data set", "images", *columns, box=None, header_style="bold", pad_edge=False)
    for name, row in figures.items():
        shown.add_row(name, str(row.get("images", "")), *(_number(row.get(c)) for c in columns))
    Console(highlight=False).print(shown)
    typer.echo(f"metrics  {written}")


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
