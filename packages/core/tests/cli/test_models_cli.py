import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from swath.core.cli.app import app, main

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def verbs() -> None:
    import swath.core.cli  # noqa: F401


def test_models_lists_every_card_as_text_and_json() -> None:
    from swath.core import zoo

    names = list(zoo.cards())
    listed = run(app, ["models"], env={"COLUMNS": "80"}).stdout
    assert all(name in listed for name in names)
    assert list(json.loads(run(app, ["models", "--json"]).stdout)) == names


def test_one_model_shows_paper_licences_and_where_weights_are() -> None:
    card = json.loads(run(app, ["models", "s4p-vit-b", "--json"]).stdout)
    assert card["params"] == 103_158_289
    assert "Baidu" in card["weights"]
    assert card["official_repo"] in run(app, ["models", "s4p-vit-b"]).stdout


def test_weights_inspect_counts_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float16)}, path, {"k": "v"})
    report = json.loads(run(app, ["weights", "inspect", str(path), "--json"]).stdout)
    assert report["format"] == "safetensors"
    assert report["values"] == 10
    assert report["metadata"] == {"k": "v"}
    assert report["tensors"][1] == {"name": "b", "shape": [4], "dtype": "float16", "values": 4}
    assert "2 x 3" in run(app, ["weights", "inspect", str(path)]).stdout


def test_an_unsafe_file_ends_with_exit_code_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    path = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "x": Attack()}, path)
    for arguments in (
        ["weights", "inspect", str(path)],
        ["convert", str(path), "--model", "s4p-vit-b", "-o", str(tmp_path / "out.safetensors")],
    ):
        monkeypatch.setattr("sys.argv", ["swath", *arguments])
        with pytest.raises(SystemExit, match="2"):
            main()
        message = capsys.readouterr().err
        assert "system" in message
        assert len(message.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_convert_reports_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": {"encoder.cls_token": torch.zeros(1, 1, 4)}}, path)
    monkeypatch.setattr("swath.core.models.segmentation.s4p_segmenter", tiny_segmenter)
    out = tmp_path / "out.safetensors"
    result = run(app, ["convert", str(path), "--model", "s4p-vit-b", "-o", str(out)])
    assert "missing" in str(result.exception)
    assert not out.exists()


def tiny_segmenter(size: str = "b", num_classes: int = 16) -> torch.nn.Module:
    return torch.nn.Conv2d(3, num_classes, 1)
