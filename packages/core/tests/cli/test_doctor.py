import json
from collections.abc import Callable, Iterator
from importlib.metadata import version as real_version
from pathlib import Path
from types import SimpleNamespace

import pytest

import swath
from swath.core import plugins
from swath.core.cli import doctor

Swath = Callable[..., tuple[int, str, str]]


def test_the_environment_is_shown(swath: Swath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_CHECKS", ())
    code, out, _ = swath("doctor")
    assert code == 0
    assert "no problem found" in out
    facts = json.loads(swath("doctor", "--json")[1])
    assert {"python", "torch", "GDAL", "cores", "memory", "warnings"} <= facts.keys()


def test_warnings_are_printed_and_give_code_2(
    swath: Swath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check() -> Iterator[str]:
        yield "something is off; mend it"

    monkeypatch.setattr(doctor, "_CHECKS", (check,))
    code, out, _ = swath("doctor")
    assert code == 2
    assert "warning: something is off; mend it" in out


def test_the_gui_build_of_opencv_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "4.10")
    assert "pip uninstall opencv-python" in next(iter(doctor._gui_opencv()))
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert list(doctor._gui_opencv()) == []


def test_a_foreign_swath_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "distributions", lambda: [])
    assert list(doctor._foreign_swath()) == []
    monkeypatch.setattr(swath, "__file__", str(tmp_path / "swath/__init__.py"), raising=False)
    assert "hides packages of ours" in next(iter(doctor._foreign_swath()))
    monkeypatch.undo()
    foreign = SimpleNamespace(metadata={"Name": "swath"}, version="9")
    monkeypatch.setattr(doctor, "distributions", lambda: [foreign])
    assert "pip uninstall swath" in next(iter(doctor._foreign_swath()))


def test_versions_that_do_not_fit_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(doctor._versions()) == []
    monkeypatch.setattr(
        doctor, "_version", lambda name: "0.0.1" if name == "numpy" else real_version(name)
    )
    assert "swath-core needs numpy>=2.0, but 0.0.1 is installed" in " ".join(doctor._versions())


def test_a_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = plugins.Plugin("acme", error="ImportError: no module named acme")
    monkeypatch.setattr(plugins, "plugins", lambda: (broken,))
    assert "plugin 'acme' is broken: ImportError" in next(iter(doctor._broken_plugins()))
