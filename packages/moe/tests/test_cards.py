import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from swath.core import load_model, zoo
from swath.core.errors import CheckpointError, ConfigError
from swath.core.spec import from_data
from swath.moe import detection_sets, sets
from swath.moe.models import mdf_detector
from swath.moe.models.mdf import MDFSegmenter, official_keys
from swath.moe.models.vit_moe import ViTMoE

TINY = {
    "backbone": {
        "_target_": "swath.moe.models.vit_moe:ViTMoE",
        "num_experts": 4,
        "part_features": 8,
        "img_size": 32,
        "embed_dims": 32,
        "num_layers": 4,
        "num_heads": 2,
        "out_indices": [0, 1, 2, 3],
    },
    "tasks": sets.num_classes(),
    "width": 16,
    "dead_classifier": True,
}


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path, MDFSegmenter]:
    """The name of a card, made small, and a file in the authors' layout for it."""
    name = "s5-moe-vitb-seg"
    small = replace(
        zoo.card(name), builder="swath.moe.models.mdf:MDFSegmenter", builder_kwargs=TINY
    )
    monkeypatch.setattr(zoo, "card", lambda _: small)
    torch.manual_seed(0)
    arguments = {k: v for k, v in TINY["backbone"].items() if k != "_target_"}
    model = MDFSegmenter(ViTMoE(**arguments), sets.num_classes(), 16, dead_classifier=True)
    path = tmp_path / "s5_vit_b_moe_mdf.pth"
    weights = {f"module.{k}": v for k, v in official_keys(model.state_dict()).items()}
    torch.save({"model": weights}, path)
    return name, path, model.eval()


def test_cards_import_no_torch() -> None:
    code = "import sys, swath.moe.cards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_published_file_predicts_for_each_of_its_sets(
    official: tuple[str, Path, MDFSegmenter],
) -> None:
    name, path, model = official
    image = torch.randint(0, 255, (32, 32, 3), dtype=torch.uint8).numpy()
    for number, (task, classes) in enumerate(sets.num_classes().items()):
        predictor = load_model(name, weights=path, device="cpu", task=task)
        assert predictor.classes == sets.protocol(task).classes
        batch = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            want = model(batch, number).by_task[task]
            assert torch.equal(predictor.model(batch), want)
        assert want.shape[1] == classes
        assert predictor.predict(image, tile=None).mask.shape == (32, 32)


def test_the_published_detector_finds_for_each_of_its_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, tasks = "s5-moe-vitb-det", detection_sets.num_classes()
    tiny = {"backbone": {**TINY["backbone"], "num_experts": 2, "img_size": 64}, "tasks": tasks}
    tiny |= {"channels": 16, "fc_channels": 32}
    small = replace(
        zoo.card(name), builder="swath.moe.models.mdf_detector:MDFDetector", builder_kwargs=tiny
    )
    monkeypatch.setattr(zoo, "card", lambda _: small)
    torch.manual_seed(0)
    model = from_data({"_target_": "swath.moe.models.mdf_detector:MDFDetector", **tiny}).build()
    weights = {f"module.{k}": v for k, v in mdf_detector.official_keys(model.state_dict()).items()}
    path = tmp_path / "s5_vit_b_moe_mdf.pth"
    torch.save({"model": weights}, path)
    image = torch.randn(1, 3, 64, 64)
    for number, task in enumerate(tasks):
        predictor = load_model(name, weights=path, device="cpu", task=task)
        assert predictor.classes == detection_sets.protocol(task).classes
        with torch.no_grad():
            (got,) = predictor.model(image, [(64, 64)])
            (want,) = model.eval()(image, number, [(64, 64)])
        assert torch.equal(got.boxes, want.boxes)
    zoo.convert(path, name, tmp_path / "ours.safetensors")
    ours = load_model(tmp_path / "ours.safetensors", device="cpu", task="dota")
    assert ours.task.kind == "detection"
    state = torch.load(path)["model"]
    state["module.neck_dior.lateral_convs.0.conv.weigth"] = state.pop(
        "module.neck_dior.lateral_convs.0.conv.weight"
    )
    torch.save({"model": state}, path)
    with pytest.raises(
        CheckpointError, match=r"1 missing: heads\.dior\.neck.*1 unexpected: .*weigth"
    ):
        load_model(name, weights=path, device="cpu")


def test_the_published_file_converts_to_one_of_ours(
    official: tuple[str, Path, MDFSegmenter], tmp_path: Path
) -> None:
    name, path, model = official
    ours = tmp_path / "ours.safetensors"
    counts = zoo.convert(path, name, ours)
    assert counts["tensors"] == len(model.state_dict())
    loaded = load_model(ours, device="cpu", task="loveda")
    batch = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.model(batch), model(batch, 3).by_task["loveda"])


def test_mistakes_are_named(official: tuple[str, Path, MDFSegmenter], tmp_path: Path) -> None:
    name, path, _ = official
    with pytest.raises(ConfigError, match="takes no other classes"):
        zoo.convert(path, name, tmp_path / "x.safetensors", classes=("a", "b"))
    with pytest.raises(ConfigError, match="did you mean 'potsdam'"):
        load_model(name, weights=path, device="cpu", task="postdam")
    state = torch.load(path)["model"]
    state.pop("module.semseghead_loveda.1.weight")
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=r"1 missing: classifiers\.loveda\.weight"):
        load_model(name, weights=path, device="cpu", task="potsdam")
