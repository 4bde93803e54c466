import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import typer.main

from swath.core.cli import app as root
from swath.core.cli import main
from swath.core.errors import DataError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Replaces the command by one that fails."""

    def replace(error: BaseException) -> None:
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command()
        def fail(debug: bool = False) -> None:
            raise error

        monkeypatch.setattr(root, "app", app)

    return replace


def test_help_lists_the_verbs_and_teaches(swath: Run) -> None:
    code, out, _ = swath("--help")
    assert code == 0
    for verb in ("demo", "train", "test", "configs", "models", "doctor", "--install-completion"):
        assert verb in out


def test_the_list_of_verbs_is_that_of_the_modules_and_their_help() -> None:
    folder = Path(str(root.__file__)).parent
    modules = {path.stem for path in folder.glob("[a-z]*.py")} - {"app", "values"}
    assert set(root.VERBS) == modules
    for verb, line in root.VERBS.items():
        importlib.import_module(f"swath.core.cli.{verb}")
        command = typer.main.get_group(root.app).commands[verb]
        first = " ".join((command.help or "").partition("\n\n")[0].split())
        assert first == line


def test_a_plugin_adds_verbs_and_replaces_none(swath: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    added = {"extra": f"{__name__}:EXTRA", "train": f"{__name__}:EXTRA"}
    monkeypatch.setattr(root, "named", lambda attribute: added)
    monkeypatch.setattr(root, "resolve", lambda reference: EXTRA)
    assert "extra" in swath("--help")[1]
    assert swath("extra", "hello", "you") == (0, "hello you\n", "")
    assert "Greet NAME." in swath("extra", "hello", "--help")[1]
    assert "--resume" in swath("train", "--help")[1]


EXTRA = typer.Typer()


@EXTRA.callback()
def extra() -> None:
    """Verbs of a plugin."""


@EXTRA.command()
def hello(name: str) -> None:
    """Greet `NAME`."""
    typer.echo(f"hello {name}")


def test_a_verb_that_does_not_exist_brings_up_the_nearest(swath: Run) -> None:
    code, _, err = swath("predikt")
    assert code == 2
    assert "predict" in err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("predict",), "swath predict: missing argument"),
        (("data", "prepare", "dota"), "swath data prepare dota: missing argument"),
        (("models", "--wide"), "swath models: no such option: --wide"),
        (("data", "preview", "x", "--count", "two"), "swath data preview: invalid value for"),
        (("data", "chek"), "swath data: no such command 'chek'"),
    ],
)
def test_what_is_mistyped_is_one_line(swath: Run, typed: tuple[str, ...], said: str) -> None:
    code, out, err = swath(*typed)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("group", [(), ("data",)])
def test_without_a_verb_the_verbs_are_shown(swath: Run, group: tuple[str, ...]) -> None:
    code, out, err = swath(*group)
    assert code == 2
    assert "predict" in out + err or "preview" in out + err


def test_help_imports_neither_verbs_nor_rich() -> None:
    code = (
        "import sys; from swath.core.cli import main; sys.argv = ['swath', '--help']\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('rich', 'torch', 'numpy', 'swath.core.cli.predict')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_shown(swath: Run) -> None:
    assert swath("--version")[:2] == (0, "swath-core 0.1.0\n")


def test_a_mistake_of_the_users_is_one_line_and_code_2(
    swath: Run, failing: Callable[..., None]
) -> None:
    failing(DataError("a[1].tif: damaged;\n  fetch it again"))
    assert swath() == (2, "", "error: a[1].tif: damaged; fetch it again\n")


def test_a_bug_is_code_1_and_says_how_to_report_it(
    swath: Run, failing: Callable[..., None]
) -> None:
    failing(KeyError("x"))
    code, _, err = swath()
    assert code == 1
    assert err.startswith("bug: KeyError: 'x' (run again with --debug")
    assert err.count("\n") == 1


def test_a_warning_is_one_line_without_our_source(
    swath: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def warn() -> None:
        warnings.warn("two images\nare absent", stacklevel=1)
        warnings.warn("of another package", FutureWarning, stacklevel=1)

    monkeypatch.setattr(root, "app", app)
    monkeypatch.setattr(
        warnings, "showwarning", lambda *given: print(warnings.formatwarning(*given[:4]))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, out, _ = swath()
    assert "note: two images are absent\n" in out
    assert "FutureWarning: of another package" in out


def test_an_interrupt_is_one_line_and_code_130(swath: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("swath.core.config.config_names", interrupted)
    assert swath("configs") == (130, "", "interrupted; nothing was left half-written\n")


def test_debug_shows_the_traceback(
    failing: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing(DataError("broken"))
    monkeypatch.setattr(sys, "argv", ["swath", "--debug"])
    with pytest.raises(DataError, match="broken"):
        main()


@pytest.mark.parametrize("module", ["swath.core", "swath.core.cli", "swath.core.engine"])
def test_importing_is_cheap(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('torch', 'mmengine') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
