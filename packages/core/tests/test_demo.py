import json
import shlex
from io import StringIO
from pathlib import Path

import geopandas
import pytest
import rasterio
from rich.console import Console
from typer.testing import CliRunner

from swath.core.cli.app import app
from swath.core.demo import DemoFiles, demo_config, next_commands, run
from swath.core.errors import ConfigError


@pytest.fixture(scope="module")
def talk() -> StringIO:
    return StringIO()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, talk: StringIO) -> DemoFiles:
    folder = tmp_path_factory.mktemp("demo") / "out"
    console = Console(file=talk, width=100)
    return run(folder, quick=True, device="cpu", console=console)


def test_the_demo_writes_every_file_it_promises(files: DemoFiles) -> None:
    assert all(path.exists() for path in files.made())
    assert not list(files.folder.rglob("*.part*"))


def test_the_mask_lies_where_the_scene_lies(files: DemoFiles) -> None:
    with rasterio.open(files.scene) as scene, rasterio.open(files.mask) as mask:
        assert (mask.crs, mask.transform, mask.shape) == (scene.crs, scene.transform, scene.shape)
        assert scene.crs is not None


def test_polygons_are_in_the_scenes_crs_and_in_degrees(files: DemoFiles) -> None:
    with rasterio.open(files.scene) as scene:
        assert geopandas.read_file(files.geopackage).crs == scene.crs
    assert geopandas.read_file(files.geojson).crs == "EPSG:4326"


def test_the_metrics_are_json_with_the_score(files: DemoFiles) -> None:
    assert 0 <= json.loads(files.metrics.read_text())["mIoU"] <= 1


def test_the_report_shows_the_scene_and_the_next_commands(files: DemoFiles) -> None:
    text = files.report.read_text(encoding="utf-8")
    for part in ("The scene", "Training", "Confusions", "Best examples", "resolved config"):
        assert part in text
    assert all(command in text for command in next_commands(files).values())


def test_the_demo_tells_where_it_is(files: DemoFiles, talk: StringIO) -> None:
    said = talk.getvalue()
    assert [f"{i}/5" in said for i in range(1, 6)] == [True] * 5
    assert "report.html" in said
    assert said.count("swath ") >= 3


@pytest.mark.parametrize("index", range(3))
def test_the_next_commands_work(files: DemoFiles, index: int) -> None:
    command = list(next_commands(files).values())[index]
    arguments = shlex.split(command)[1:]
    if arguments[0] == "train":
        arguments.append("--smoke")
    if arguments[0] == "test":
        arguments += ["--set", "test.count=2", "--set", "test.size=96"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{command}: {result.output} {result.exception}"


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose")
    with pytest.raises(ConfigError, match="isn't empty; choose another folder"):
        run(tmp_path, quick=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="out is a file"):
        run(tmp_path / "out")


def test_a_plugins_demo_runs_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("swath.core.cli.demo._DEMOS", {"other": "swath.core.demo:run"})
    monkeypatch.setattr("swath.core.demo.run", lambda out, **rest: asked.append((out, rest)))
    runner = CliRunner()
    assert runner.invoke(app, ["demo", "other", "--quick", "--seed", "3"]).exit_code == 0
    rest = {"seed": 3, "quick": True, "overwrite": False, "device": None}
    assert asked == [(Path("swath-demo-other"), rest)]
    unknown = runner.invoke(app, ["demo", "othr", "--out", str(tmp_path)])
    assert "there is no demo 'othr'; did you mean 'other'?" in str(unknown.exception)


def test_a_seed_changes_the_config() -> None:
    assert demo_config(1).hash != demo_config(0).hash
    assert demo_config(1).hash == demo_config(1).hash
