"""The command's root: verbs, error style, exit codes (0 fine, 2 the user can fix it, 1 our bug)."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from swath.core.errors import SwathError

app = typer.Typer(
    name="swath",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"swath-core {version('swath-core')}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Remote-sensing vision models on real imagery: train, test, predict, export.

    Start with `swath demo`: it trains a small model in minutes and shows what comes out.
    """


def main() -> None:
    """Run the command; every `SwathError` becomes one line and exit code 2."""
    debug = "--debug" in sys.argv  # before or after the verb
    try:
        app([argument for argument in sys.argv[1:] if argument != "--debug"], prog_name="swath")
    except SwathError as error:
        if debug:
            raise
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]error[/]: {_plain(error)}", highlight=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; nothing was left half-written")
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]bug[/]: {type(error).__name__}: {_plain(error)} "
            "(run again with --debug for the traceback and report it)",
            highlight=False,
        )
        sys.exit(1)


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()).replace("[", r"\[")
