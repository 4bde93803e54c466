import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swath.core import zoo
from swath.core.checkpoint.store import load_task, save_model
from swath.core.cli import main
from swath.core.errors import CheckpointError
from swath.core.inference.predictor import load_model
from swath.core.spec import Spec
from swath.core.task import predict_command
from swath.refseg.cards import CARDS
from swath.refseg.data.scenes import VOCABULARY
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.predictor import RemoteSAMPredictor
from swath.refseg.task import ReferringTask
from swath.refseg.text import WordPieces

SMALL = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "window_size": 2,
    "grid": 2,
    "bert": {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    },
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of ours, with its vocabulary inside."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    model = Spec(RemoteSAM, **SMALL)
    tokenizer = Spec(WordPieces, vocabulary=list(VOCABULARY))
    task = Spec(ReferringTask, tokenizer=tokenizer, input_size=64)
    save_model(path, model.build(), model, task)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_our_checkpoints_bring_their_vocabulary(checkpoint: Path, picture: Path) -> None:
    model = load_model(checkpoint, device="cpu")
    assert isinstance(model, RemoteSAMPredictor)
    assert model.referring_seg(picture, "the ship").mask.shape == (60, 80)


def test_an_official_file_loads_strictly_without_running_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official layout: weights under "model", beside an optimiser and a Namespace."""
    import argparse

    (card,) = CARDS
    small = dataclasses.replace(
        card, builder="swath.refseg.models.remotesam:RemoteSAM", builder_kwargs=SMALL
    )
    monkeypatch.setattr(zoo, "card", lambda name: small)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    monkeypatch.setenv("SWATH_BERT_VOCAB", str(tmp_path))
    state = RemoteSAM(**SMALL).state_dict()  # type: ignore[arg-type]
    path = tmp_path / "official.pth"
    content = {"model": state, "epoch": 3, "args": argparse.Namespace(lr=3e-5)}
    torch.save(content, path)
    model = load_model("remotesam-swin-b", weights=path, device="cpu")
    assert isinstance(model, RemoteSAMPredictor)
    kept = model.model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in state.items())
    assert model.task.tokenizer.words["ship"] == VOCABULARY.index("ship")  # type: ignore[attr-defined]
    del state["backbone.cim.bn.weight"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"1 missing: backbone\.cim\.bn\.weight"):
        load_model("remotesam-swin-b", weights=path, device="cpu")


def test_a_converted_file_brings_its_vocabulary_along(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    model = Spec(RemoteSAM, **SMALL)
    tokenizer = Spec(WordPieces, vocabulary=str(tmp_path), max_tokens=7)
    path = tmp_path / "m.safetensors"
    save_model(path, model.build(), model, Spec(ReferringTask, tokenizer=tokenizer, input_size=64))
    (tmp_path / "vocab.txt").unlink()
    kept = load_model(path, device="cpu")
    assert kept.task.tokenizer.listed == list(VOCABULARY)  # type: ignore[attr-defined]
    assert kept.task.tokenizer.max_tokens == 7  # type: ignore[attr-defined]
    assert kept.predict(picture, task="referring", text="the ship").mask.shape == (60, 80)


def swath(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["swath", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    code = caught.value.code
    return code if isinstance(code, int) else 0


@pytest.mark.parametrize(
    ("name", "question", "ending", "key"),
    [
        ("referring", ["--text", "the red ship"], "mask.tif", "shares"),
        ("semantic_seg", ["--classes", "ship, water"], "mask.gpkg", "shares"),
        ("counting", ["--classes", "ship,water"], "objects.geojson", "objects"),
        ("captioning", ["--classes", "ship"], "answer.json", "answer"),
    ],
)
def test_tasks_on_the_command_line(
    checkpoint: Path,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    question: list[str],
    ending: str,
    key: str,
) -> None:
    out = tmp_path / ending
    arguments = ["predict", checkpoint, picture, "--task", name, *question, "--out", out]
    assert swath(monkeypatch, *arguments, "--json", "--device", "cpu") == 0
    (report,) = json.loads(capsys.readouterr().out)["results"]
    assert key in report
    assert out.stat().st_size > 0


def test_a_model_that_is_not_told_its_task_lists_them(
    checkpoint: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert swath(monkeypatch, "predict", checkpoint, picture) == 2
    assert "choose one of referring_seg" in " ".join(capsys.readouterr().err.split())


def test_the_command_that_is_suggested_runs(
    checkpoint: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = predict_command(load_task(checkpoint), checkpoint, str(picture))
    assert swath(monkeypatch, *shlex.split(command)[1:], "--device", "cpu") == 0
    assert picture.with_name("a_mask.tif").exists()
