"""The published file opens by name, predicts, converts, and starts a training."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swath.core import load_model, zoo
from swath.core.errors import CheckpointError, ConfigError
from swath.core.spec import from_data, to_data
from swath.mtl import sets
from swath.mtl.models.dino import DINOHead
from swath.mtl.models.heads import SceneClassifier
from swath.mtl.models.mask_decoder import MaskDecoder
from swath.mtl.models.rscotr import RSCoTr, load_task_pretrain, official_keys, rscotr

SMALL: dict[str, Any] = {"dim": 32, "heads": 4, "hidden": 48, "depth": 1}


@pytest.fixture
def tiny_arguments() -> dict[str, Any]:
    from swath.core.backbones.swin import Swin
    from swath.core.spec import Spec

    counts = sets.num_classes()
    heads = {
        "cls": Spec(SceneClassifier, num_classes=counts["cls"], in_channels=64),
        "det": Spec(DINOHead, num_classes=counts["det"], num_queries=15, **SMALL),
        "seg": Spec(MaskDecoder, num_classes=counts["seg"], num_queries=9, **SMALL),
    }
    spec = Spec(
        RSCoTr,
        backbone=Spec(Swin, embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2]),
        heads=heads,
        dim=32,
        encoder_depth=1,
        encoder_heads=4,
        encoder_hidden=48,
        norm_groups=4,
    )
    return {name: value for name, value in to_data(spec).items() if name != "_target_"}


@pytest.fixture
def official(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_arguments: dict[str, Any]
) -> tuple[str, Path, RSCoTr]:
    """The name of a card, made small, and a file in the authors' layout for it."""
    name = "rscotr-swin-t"
    small = replace(
        zoo.card(name),
        builder="swath.mtl.models.rscotr:RSCoTr",
        builder_kwargs=tiny_arguments,
    )
    monkeypatch.setattr(zoo, "card", lambda _: small)
    torch.manual_seed(0)
    arguments = from_data({"_target_": "swath.mtl.models.rscotr:RSCoTr", **tiny_arguments})
    model = arguments.build().eval()
    path = tmp_path / "rscotr_round-robin_1-1-0.1_slvl-cls.pth"
    classes = {"dior": list(sets.protocol("det/dior").classes)}
    content = {"state_dict": official_keys(model.state_dict()), "meta": {"CLASSES": classes}}
    torch.save(content, path)
    return name, path, model


def test_cards_import_no_torch() -> None:
    code = "import sys, swath.mtl.cards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["rscotr-swin-t", "rscotr-swin-t-mlvl"])
def test_full_size_models_have_the_published_number_of_parameters(name: str) -> None:
    card = zoo.card(name)
    with torch.device("meta"):
        model = rscotr(**card.builder_kwargs)
    assert sum(p.numel() for p in model.parameters()) == card.params


def test_the_published_file_gives_three_answers(official: tuple[str, Path, RSCoTr]) -> None:
    name, path, model = official
    predictor = load_model(name, weights=path, device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    several = predictor.predict(image, tile=None)
    assert several["det"].classes == sets.protocol("det/dior").classes
    assert several["seg"].mask.max() < 5  # clutter is learnt, not answered with
    assert several["cls"].label in sets.protocol("cls/resisc").classes
    batch = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(predictor.model(batch)["cls"], model(batch)["cls"])


def test_the_published_file_converts_strictly(
    official: tuple[str, Path, RSCoTr], tmp_path: Path
) -> None:
    name, path, model = official
    counts = zoo.convert(path, name, tmp_path / "ours.safetensors")
    assert counts["tensors"] == len(model.state_dict())
    loaded = load_model(tmp_path / "ours.safetensors", device="cpu", task="det")
    assert loaded.classes == sets.protocol("det/dior").classes
    content = torch.load(path)
    content["state_dict"].pop("bbox_head.transformer.level_embeds")
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"1 missing: heads\.det\.level_embed"):
        load_model(name, weights=path, device="cpu")


def test_a_detector_of_mmdets_layout_starts_the_shared_parts(
    official: tuple[str, Path, RSCoTr], tiny_arguments: dict[str, Any]
) -> None:
    _, _, trained = official
    # the DINO of mmdet: its own encoder, and convolutions with biases in the neck
    detector = {
        key.replace("shared_encoder.", "bbox_head.transformer.encoder."): value
        for key, value in official_keys(trained.state_dict()).items()
        if not key.startswith(("cls_head.", "seg_head."))
    }
    detector |= {"neck.convs.0.conv.bias": torch.zeros(32)}
    spec = from_data({"_target_": "swath.mtl.models.rscotr:RSCoTr", **tiny_arguments})
    model = spec.build()
    loaded = load_task_pretrain(model, detector)
    state, wanted = model.state_dict(), trained.state_dict()
    assert set(loaded) == {k for k in wanted if not k.startswith(("heads.cls.", "heads.seg."))}
    assert all(torch.equal(state[name], wanted[name]) for name in loaded)
    detector["bbox_head.cls_branches.0.weight"] = torch.zeros(3, 32)
    with pytest.raises(CheckpointError, match=r"heads\.det\.cls_branches\.0\.weight is \(3, 32\)"):
        load_task_pretrain(model, detector)
    with pytest.raises(CheckpointError, match=r"'heads\.det\.box' has no place"):
        load_task_pretrain(model, {"bbox_head.box": torch.zeros(1)}, where="x.pth")


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="no head 'sag'; did you mean 'seg'"):
        rscotr({"sag": 3})
    with pytest.raises(ConfigError, match="scheme 2 needs a query for every class"):
        MaskDecoder(num_classes=7, num_queries=5)
