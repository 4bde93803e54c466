"""``swath train``."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from swath.core.cli.app import ListsInARow, app
from swath.core.cli.values import Device
from swath.core.errors import ConfigError

if TYPE_CHECKING:
    from swath.core.config import TrainConfig
    from swath.core.engine import RunSummary
    from swath.core.spec import Spec


@app.command("train", cls=ListsInARow)
def train(
    config: Annotated[
        str, typer.Argument(help="Name (see `swath configs`), .py file, or a run's config.json.")
    ],
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Folder to write to. Default: runs/NAME.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a value of the config: `--set optimizer.lr=1e-4`. Repeatable.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --run-dir where it stopped; begin it if none."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --run-dir.")
    ] = False,
    device: Device = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=N.", min=0)] = None,
    init_tasks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Begin with a model of some of the tasks, for models that can; short for "
            "`--set model.init_tasks=FILE`.",
        ),
    ] = None,
    val_tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME...",
            help="Validate these tasks only, for models that do several: `--val-tasks cls seg`.",
        ),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of everything, to see that it works.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track",
            metavar="NAME",
            help="Also send the figures to tensorboard, wandb or mlflow. Repeatable.",
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure some steps and name what takes longest.")
    ] = False,
) -> None:
    """Train a model as a config says.

    Ctrl-C (or SIGTERM) saves and stops, exit code 130; `--resume` goes on exactly there. The run's
    folder gets the best and the last weights, a log (JSON lines), the resolved config and a report.

    Examples:
    `swath train scenes_tiny`

    `swath train my_run.py --set optimizer.lr=1e-4 --run-dir runs/a`

    `swath train runs/a/config.json --resume`
    """
    from swath.core.config import load_config

    assignments = [*(overrides or ()), *([f"seed={seed}"] if seed is not None else ())]
    loaded = load_config(config, assignments)
    if init_tasks is not None:
        alone = f"--init-tasks: the model of {config} can't begin with other tasks; leave it out"
        set_argument(loaded.model, "init_tasks", init_tasks, alone)
    if val_tasks is not None:
        single = f"--val-tasks: {config} validates no several tasks; leave it out"
        set_argument(loaded.val, "only", val_tasks.split(","), single)
    folder = run_dir or default_run_dir(config, smoke)
    from swath.core import engine
    from swath.core.engine.distributed import launched

    summary = engine.train(
        engine.smoke(loaded) if smoke else loaded,
        folder,
        resume=resume,
        overwrite=overwrite or (smoke and run_dir is None and not resume),
        device=device,
        trackers=track or (),
        profile=profile,
    )
    if not launched().main:
        return
    console = Console(soft_wrap=True, highlight=False)
    if summary.interrupted:
        again = ["swath", "train", config, "--run-dir", str(folder), "--resume"]
        console.print(
            f"stopped at step {summary.step} of {summary.iterations}, everything is saved; "
            f"continue with: {shlex.join(again)}",
            markup=False,
        )
        raise typer.Exit(130)
    _finish(summary, loaded, config, console)


def set_argument(spec: "Spec | None", name: str, value: Any, otherwise: str) -> None:
    """Set what an option of the command is short for.

    Args:
        spec: Has the argument; None where the config has no such piece.
        name: The argument.
        value: For it.
        otherwise: The error where there is no such argument.

    Raises:
        ConfigError: If there is none.
    """
    if spec is None or name not in (spec.parameters() or (name,)):
        raise ConfigError(otherwise)
    spec[name] = value


def default_run_dir(config: str, smoke: bool) -> Path:
    """``runs/NAME``; the folder itself where a run's saved config is given."""
    path = Path(config)
    if path.name == "config.json" or (path / "config.json").is_file():
        folder = path.parent if path.name == "config.json" else path
        return folder.with_name(f"{folder.name}-smoke") if smoke else folder
    return Path("runs") / (path.stem + ("-smoke" if smoke else ""))


def _finish(summary: "RunSummary", config: "TrainConfig", name: str, console: Console) -> None:
    from swath.core.task import predict_command

    best = summary.best_checkpoint
    if summary.best is None:
        figures = "not validated"
    else:
        figures = f"best {summary.score} {summary.best:.4f} at step {summary.best_step}"
    console.print(f"{summary.step} steps, {figures}, {summary.seconds:.0f} s", markup=False)
    console.print(f"checkpoint  {best}", markup=False)
    report = _report(summary, config)
    if report is not None:
        console.print(f"report      {report}", markup=False)
    console.print(f"next        {shlex.join(['swath', 'test', name, str(best)])}", markup=False)
    console.print(
        f"            {predict_command(config.task.build(), best, 'IMAGE')}", markup=False
    )


def write_report(run_dir: Path, *judged: Any, **options: Any) -> Path | None:
    """Write a run's report; if that fails, say why and go on: the run isn't lost for want of it."""
    from swath.core.errors import SwathError
    from swath.core.viz.report import training_report

    try:
        return training_report(run_dir, *judged, **options)
    except SwathError as error:
        Console(stderr=True, soft_wrap=True).print(f"no report: {error}", markup=False)
        return None


def _report(summary: "RunSummary", config: "TrainConfig") -> Path | None:
    from swath.core.checkpoint.store import load_pair
    from swath.core.errors import SwathError

    validation = summary.run_dir / "validation.json"
    if config.val is None or not validation.exists():
        return None
    try:
        model, task, _ = load_pair(summary.best_checkpoint)
        metrics = json.loads(validation.read_text(encoding="utf-8"))
        metrics.pop("step", None)
    except SwathError as error:  # a model class of the user's own can't be loaded by its file alone
        Console(stderr=True, soft_wrap=True).print(f"no report: {error}", markup=False)
        return None
    return write_report(summary.run_dir, metrics, model, task, config.val.build())
