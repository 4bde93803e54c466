"""The command's root: verbs, error style, exit codes (0 fine, 2 the user can fix it, 1 our bug)."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from swath.core.errors import SwathError
from swath.core.plugins import named, resolve

VERBS = {
    "demo": "Train, judge and use a small model on scenes rendered on the spot. No download.",
    "models": "List the models Swath knows by name, or show one with its paper, licences and "
    "weights.",
    "datasets": "List the data sets Swath can read by name, or show one with its layouts and "
    "protocols.",
    "configs": "List the runnable experiments, or show one: what it is, how to run it, what to "
    "expect.",
    "data": "Check, look at, prepare and unpack data sets.",
    "train": "Train a model as a config says.",
    "test": "Judge a checkpoint on a config's test set; write metrics.json and a report.",
    "predict": "Run a model over rasters of any size; the result lies exactly on the image.",
    "vectorise": "Turn a class map into polygons with class and area, in bounded memory.",
    "convert": "Turn an official checkpoint into one file that knows its model, task and classes.",
    "weights": "Look into weights files without executing what is in them.",
    "pack": "Gather a trained model into a folder to pass on: weights, config, card, checksums.",
    "verify": "Check a packed model against its hashes; a single changed byte is found.",
    "upload": "Send a packed model to the Hugging Face Hub, after checking it. Nothing else ever "
    "uploads.",
    "doctor": "Show what Swath runs on here and warn of what commonly goes wrong.",
}
"""Each verb, in the module of its name, and the first line of its help: what ``--help`` shows
without importing them."""

_SPELLINGS = {"vectorize": "vectorise"}

_click: Any = sys.modules[typer.BadParameter.__module__]  # newer typers carry their own


class Verbs(TyperGroup):
    """Imports a verb's module when the verb is called; lists all in plain text, without rich.

    Plugins add verbs under ``commands``, each names a `typer.Typer`, and under ``command_help`` the
    first lines of their help.
    """

    def __init__(self, *, commands: Any = None, **settings: Any) -> None:
        told = named("command_help")
        added = {n: told.get(n, f"Commands of {ref.split(':')[0]}.") for n, ref in _added().items()}
        listed: dict[str, Any] = {
            n: TyperCommand(n, short_help=h) for n, h in (VERBS | added).items()
        }
        known = commands if isinstance(commands, Mapping) else {}
        super().__init__(commands=listed | dict(known), **settings)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that was typed, from its module."""
        name = _SPELLINGS.get(args[0], args[0])
        if name in VERBS:
            importlib.import_module(f"{__package__}.{name}")
            self.commands.update(typer.main.get_group(app).commands)
        elif name in _added():
            added = resolve(_added()[name])
            added.rich_markup_mode = app.rich_markup_mode  # its help looks like that of our verbs
            self.commands[name] = typer.main.get_command(added)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; typer would end an interrupted one with code 1."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted; nothing was left half-written", err=True)
            raise typer.Exit(130) from None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, options and verbs."""
        super(TyperGroup, self).format_help(ctx, formatter)


class ListsInARow(TyperCommand):
    """A verb some of whose options take all values that follow: ``--tasks cls det``."""

    options = ("--tasks", "--val-tasks", "--data")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with the values that follow such an option joined by commas."""
        joined: list[str] = []
        taking = False
        for argument in args:
            if taking and not argument.startswith("-"):
                joined[-1] += f",{argument}" if joined[-1] else argument
                continue
            taking = argument in self.options
            joined += [argument, ""] if taking else [argument]
        return super().parse_args(ctx, joined)


def _added() -> dict[str, str]:
    """Verbs of plugins; core's own can't be replaced."""
    return {name: app for name, app in named("commands").items() if name not in VERBS}


app = typer.Typer(
    name="swath",
    cls=Verbs,
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
    """Remote-sensing vision models on real imagery: train, test, predict.

    Start with `swath demo`: it trains a small model in minutes and shows what comes out.
    """


def main() -> None:
    """Run the command; every `SwathError` and mistyped option is one line and exit code 2."""
    debug = "--debug" in sys.argv  # before or after the verb
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    usual = warnings.formatwarning
    warnings.formatwarning = _as_note(usual)
    try:
        code = app(arguments, prog_name="swath", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except _click.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except _click.UsageError as error:
        _complain("error", _mistyped(error))
        sys.exit(2)
    except SwathError as error:
        if debug:
            raise
        _complain("error", str(error))
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        _complain(
            "bug",
            f"{type(error).__name__}: {error} "
            "(run again with --debug for the traceback and report it)",
        )
        sys.exit(1)
    finally:
        warnings.formatwarning = usual


def _mistyped(error: Any) -> str:
    """What click has to say about an option or argument, and whose help tells more."""
    said = error.format_message().rstrip(".")
    verb = error.ctx.command_path if error.ctx else "swath"
    return f"{verb}: {said[0].lower()}{said[1:]} (see '{verb} --help')"


def _as_note(usual: Callable[..., str]) -> Callable[..., str]:
    """What our warnings look like: a line, without the place in our source that gave it."""

    def formatted(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
        if category is not UserWarning:
            return usual(message, category, *where, **line)
        return f"note: {' '.join(str(message).split())}\n"

    return formatted


def _complain(kind: str, text: str) -> None:
    """One line, its first word in red on a terminal."""
    typer.echo(f"{typer.style(kind, fg='red', bold=True)}: {' '.join(text.split())}", err=True)
