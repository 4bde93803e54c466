import json
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from swath.core.cli.app import app
from swath.core.config import load_config
from swath.core.plugins import named
from swath.pretrain.demo import DemoFiles, run, supervised_twin


@pytest.fixture(scope="module")
def talk() -> StringIO:
    return StringIO()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, talk: StringIO) -> DemoFiles:
    folder = tmp_path_factory.mktemp("demo") / "out"
    return run(folder, quick=True, device="cpu", console=Console(file=talk, width=100))


def test_the_demo_writes_what_it_promises_and_says_where_it_is(
    files: DemoFiles, talk: StringIO
) -> None:
    assert all(path.exists() for path in files.made())
    assert not list(files.folder.rglob("*.part*"))
    said = talk.getvalue()
    assert all(f"{i}/3" in said for i in (1, 2, 3))
    assert "20 labelled scenes alone" in said
    assert "report.html" in said


def test_both_runs_are_judged(files: DemoFiles) -> None:
    metrics = json.loads(files.metrics.read_text())
    assert set(metrics) == {"supervised", "s4p"}
    assert all(0 <= figures["mIoU"] <= 1 for figures in metrics.values())


def test_the_report_shows_pseudo_labels_and_the_comparison(files: DemoFiles) -> None:
    text = files.report.read_text(encoding="utf-8")
    parts = ("mIoU, labels alone", "gain in points", "strong view", "pseudo-label", "confidence",
             "% learnt from", "4 of 2 labelled", "4 scenes", "swath data prepare rs4p")  # fmt: skip
    for part in parts:
        assert part in text
    assert text.count("<img ") == 6 * 5


def test_the_twin_differs_in_what_it_learns_from_and_in_nothing_else() -> None:
    config = load_config("s4p_scenes_tiny")
    own, twin = config.to_data(), supervised_twin(config).to_data()
    assert {key for key in own if own[key] != twin[key]} == {"task", "train", "augment"}
    assert twin["train"] == own["train"]["labelled"]


def test_swath_demo_knows_it_by_name() -> None:
    assert named("demos")["pretrain"] == "swath.pretrain.demo:run"
    assert "pretrain" in CliRunner().invoke(app, ["demo", "--help"]).output
