import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from swath.core.checkpoint.package import pack, render_card, upload, verify
from swath.core.checkpoint.store import describe, save_model
from swath.core.data.radiometry import Radiometry
from swath.core.errors import CheckpointError
from swath.core.inference.predictor import load_model
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

CARD = {"title": "Roofs", "data": "Ten tiles (CC-BY-4.0)", "licence": "Apache-2.0", "credit": "us"}
SENTINEL2 = Spec(
    Radiometry, bands=["B4", "B8"], dtype="uint16", scale=1e-4, mean=[0.1, 0.3], std=[0.1, 0.2]
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    model = Spec(UNet, in_channels=2, num_classes=2, width=4, depth=1)
    task = Spec(SegmentationTask, classes=["other", "roof"], radiometry=SENTINEL2, gsd_m=10.0)
    torch.manual_seed(0)
    for name, step in (("best", 40), ("last", 60)):
        training = {"step": step, "seed": 3, "config": "0123456789abcdef"}
        save_model(folder / f"{name}.safetensors", model.build(), model, task, CARD, training)
    (folder / "config.json").write_text('{"iterations": 60}\n')
    (folder / "validation.json").write_text(json.dumps({"step": 40, "mIoU": 0.75, "table": {}}))
    return folder


def test_a_package_holds_what_its_user_needs_and_loads(run: Path) -> None:
    folder = pack(run)
    names = ["README.md", "config.json", "metrics.json", "model.safetensors"]
    assert verify(folder) == names
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "SHA256SUMS"])
    assert load_model(folder / "model.safetensors", device="cpu").task.classes == ("other", "roof")
    card = (folder / "README.md").read_text()
    facts = ["license: apache-2.0", "# Roofs", "other, roof", "B4, B8, uint16", "10.0 m"]
    facts += ["swath predict model.safetensors scene.tif\n"]
    facts += ["Ten tiles (CC-BY-4.0)", "40 steps, seed 3", "| mIoU | 0.7500 |", "| credit | us |"]
    for fact in facts:
        assert fact in card


def test_figures_of_other_weights_are_not_packed(run: Path) -> None:
    folder = pack(run, run.parent / "last", last=True)
    assert not (folder / "metrics.json").exists()
    assert "mIoU" not in (folder / "README.md").read_text()
    assert describe(folder / "model.safetensors")["training"]["step"] == 60


def test_what_nobody_stated_is_said_to_be_not_stated(run: Path) -> None:
    description = describe(run / "best.safetensors") | {"card": {}}
    description["task"] = {k: v for k, v in description["task"].items() if k != "gsd_m"}
    card = render_card(description, {})
    assert card.count("not stated") == 3
    assert "license: other" in card


def test_each_of_a_hundred_flipped_bytes_is_found(run: Path) -> None:
    folder = pack(run)
    files = [path for path in sorted(folder.iterdir()) for _ in range(20)]
    assert len(files) == 100
    generator = torch.Generator().manual_seed(0)
    for path in files:
        content = path.read_bytes()
        place = int(torch.randint(len(content), (), generator=generator))
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(torch.randint(8, (), generator=generator))
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            verify(folder)
        path.write_bytes(content)
    verify(folder)


def test_sums_are_what_sha256sum_reads(run: Path) -> None:
    folder = pack(run)
    done = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_a_file_that_is_missing_or_was_added_is_named(run: Path) -> None:
    folder = pack(run)
    (folder / "extra.py").write_text("")
    with pytest.raises(CheckpointError, match=r"extra\.py: isn't listed"):
        verify(folder)
    (folder / "extra.py").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: is missing"):
        verify(folder)


def test_a_folder_that_is_no_package_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no SHA256SUMS: no package; give"):
        verify(tmp_path)


def test_sums_cannot_point_outside(run: Path) -> None:
    folder = pack(run)
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("config.json", "../run/config.json"))
    with pytest.raises(CheckpointError, match="isn't a hash and a name"):
        verify(folder)


def test_one_checkpoint_can_be_verified_alone(run: Path) -> None:
    assert verify(run / "best.safetensors") == ["best.safetensors"]


def test_nothing_is_overwritten_and_nothing_half_made_stays(run: Path) -> None:
    folder = pack(run)
    with pytest.raises(CheckpointError, match="exists already"):
        pack(run)
    (run / "config.json").unlink()
    with pytest.raises(FileNotFoundError):
        pack(run, run.parent / "other")
    assert not [path for path in run.parent.iterdir() if path.name not in ("run",)]
    assert verify(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no trained weights"):
        pack(tmp_path)


def test_only_a_whole_package_is_uploaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Api:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            sent.append((name, private, exist_ok))

        def upload_folder(self, repo_id: str, folder_path: str) -> str:
            sent.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
            return "https://example.org/commit"

    module = type("huggingface_hub", (), {"HfApi": Api})
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", module)
    monkeypatch.delenv("SWATH_OFFLINE", raising=False)
    folder = pack(run)
    assert upload(folder, "hf://me/roofs", private=True) == "https://example.org/commit"
    assert sent[0] == ("me/roofs", True, True)
    assert "model.safetensors" in sent[1][1]
    with pytest.raises(CheckpointError, match="expected hf://OWNER/REPO"):
        upload(folder, "me")
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="doesn't match"):
        upload(folder, "hf://me/roofs")
    monkeypatch.setenv("SWATH_OFFLINE", "1")
    with pytest.raises(CheckpointError):
        upload(folder, "hf://me/roofs")
    assert len(sent) == 2
