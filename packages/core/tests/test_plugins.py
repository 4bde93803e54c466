from importlib.metadata import EntryPoint

import pytest

from swath.core import plugins
from swath.core.plugins import Plugin


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("good", "swath.core.plugins", plugins.GROUP),
        EntryPoint("gone", "swath.no_such_module", plugins.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    plugins.plugins.cache_clear()
    yield
    plugins.plugins.cache_clear()


@pytest.mark.usefixtures("installed")
def test_a_broken_plugin_is_reported_by_name_and_the_others_work() -> None:
    assert [p.name for p in plugins.plugins()] == ["gone", "good"]
    assert plugins.broken() == {
        "gone": "ModuleNotFoundError: No module named 'swath.no_such_module'"
    }


def test_declarations_are_strings_one_or_many() -> None:
    plugin = Plugin("x", data=type("Data", (), {"configs": "a.b", "models": ("c:D", "e:F")}))
    assert plugin.get("configs") == ("a.b",)
    assert plugin.get("models") == ("c:D", "e:F")
    assert plugin.get("datasets") == ()


def test_what_is_declared_by_name_is_gathered_from_all(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [
        Plugin("x", data=type("Data", (), {"demos": {"x": "x.demo:run"}})),
        Plugin("y", data=type("Data", (), {"demos": {"y": "y.demo:run"}})),
        Plugin("broken", error="ImportError"),
    ]
    monkeypatch.setattr(plugins, "plugins", lambda: tuple(installed))
    assert plugins.named("demos") == {"x": "x.demo:run", "y": "y.demo:run"}


def test_data_from_outside_may_name_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import json.decoder

    monkeypatch.setattr(plugins, "plugins", lambda: (Plugin("a", json.decoder), Plugin("b")))
    assert plugins.trusted() == ("json.", "swath.")
