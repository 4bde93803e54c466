"""`swath data prepare rs4p` as typed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swath.core.checkpoint.store import save_model
from swath.core.cli import main
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

Swath = Callable[..., tuple[int, str, str]]


@pytest.fixture
def swath(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Swath:
    """Runs the command: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["swath", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), printed.out, " ".join(printed.err.split())

    return call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    model = Spec(UNet, in_channels=3, num_classes=2, width=4)
    task = Spec(SegmentationTask, classes=["ground", "roof"])
    save_model(path, model.build(), model, task, {"name": "tiny"})
    return path


def test_it_prepares_says_what_it_left_out_and_names_the_broken(
    swath: Swath, archive: Path, tmp_path: Path, checkpoint: Path
) -> None:
    (archive / "broken.png").write_bytes(b"rubbish")
    command = ["data", "prepare", "rs4p", archive, "--out", tmp_path / "out", "--model",
               checkpoint, "--tile", 64, "--min-size", 32, "--min-confident", 0,
               "--workers", 0]  # fmt: skip
    code, _, err = swath(*command)
    assert code == 2
    assert "1 of 6 scenes can't be read" in err
    code, out, err = swath(*command, "--max-broken", 0.5)
    assert code == 0
    assert "11 samples in 1 shards" in out
    assert "left out: 1 broken scenes;" in out
    assert "broken: broken.png: can't be read (not recognised as" in err
    code, out, _ = swath(*command, "--json")
    assert code == 0
    assert json.loads(out)["samples"] == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ROOT/absent", "--out", "OUT", "--model", "swath-small"], "no such folder"),
        (["ROOT", "--out", "OUT", "--model", "swath-smal"], "did you mean 'swath-small'"),
        (["ROOT", "--out", "OUT", "--model", "swath-small", "--bands", "a"], "--bands a:"),
        (["ROOT", "--out", "OUT", "--model", "swath-small", "--tile", "3"], "--tile 3 must"),
        (["ROOT", "--out", "OUT", "--model", "swath-small", "--classes", "a,b"],
         "takes no vocabulary"),
        (["ROOT", "--out", "OUT", "--model", "swath-small", "--scale", "5:1"], "scale='5:1'"),
        (["ROOT", "--out", "ROOT/out", "--model", "swath-small"], "lies in the source"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line_and_exit_code_2(
    swath: Swath, archive: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"ROOT": str(archive), "OUT": str(tmp_path / "out")}
    replaced = [a.replace("ROOT", places["ROOT"]).replace("OUT", places["OUT"]) for a in arguments]
    code, _, err = swath("data", "prepare", "rs4p", *replaced)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_it_is_listed_beside_cores_preparers(swath: Swath) -> None:
    code, out, _ = swath("data", "prepare", "--help")
    assert code == 0
    assert "rs4p" in out
    assert "potsdam" in out
