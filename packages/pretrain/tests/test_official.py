from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from swath.core.backbones.vit import ViT
from swath.core.checkpoint.official import load_strict, load_vit
from swath.core.checkpoint.safe import load_file
from swath.core.checkpoint.store import save_model
from swath.core.errors import CheckpointError, ConfigError
from swath.core.heads import UPerNet
from swath.core.models.segmentation import SegmentationModel, remap_official_keys
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.pretrain.cli import app
from swath.pretrain.official import export_official


def tiny() -> SegmentationModel:
    torch.manual_seed(0)
    vit = ViT(64, embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3))
    return SegmentationModel(vit, UPerNet(vit.channels, 8, dead_classifier=True), 16)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "last.safetensors"
    task = Spec(SegmentationTask, classes=[str(i) for i in range(16)])
    save_model(path, tiny(), Spec(UNet, in_channels=3, num_classes=16), task)
    return path


def test_a_whole_model_goes_out_and_comes_back_bit_for_bit(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vit_t_s4p_upernet.pth"
    counts = export_official(checkpoint, out)
    stored = torch.load(out, weights_only=True)["model"]
    assert {key.split(".")[0] for key in stored} == {"encoder", "semsegdecoder", "semseghead"}
    assert stored["semseghead.1.weight"].shape == (16, 8, 1, 1)
    assert stored["semsegdecoder.decode_head.conv_seg.weight"].shape == (1, 8, 1, 1)
    assert counts["tensors"] == len(tiny().state_dict())
    fresh = SegmentationModel(
        ViT(64, embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3)),
        UPerNet((16,) * 4, 8, dead_classifier=True),
        16,
    )
    load_strict(fresh, remap_official_keys(load_file(out)))
    want = tiny().state_dict()
    assert all(value.equal(want[name]) for name, value in fresh.state_dict().items())


def test_the_backbone_alone_has_no_prefix(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "vit_t_s4p.pth"
    export_official(checkpoint, out, backbone_only=True)
    stored = load_file(out)
    assert {"cls_token", "pos_embed", "layers.3.attn.attn.in_proj_weight", "fpn1.3.bias"} <= set(
        stored
    )
    vit = ViT(64, embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3))
    load_vit(vit, stored)
    want = tiny().backbone.state_dict()
    assert all(value.equal(want[name]) for name, value in vit.state_dict().items())


def test_the_command_writes_the_same_and_replaces_nothing_unasked(
    checkpoint: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "a.pth", tmp_path / "b.pth"
    run = CliRunner().invoke(app, ["export", str(checkpoint), str(out), "--backbone"])
    counts = export_official(checkpoint, again, backbone_only=True)
    assert run.exit_code == 0
    assert f"{counts['tensors']} tensors" in run.output
    assert load_file(out).keys() == load_file(again).keys()
    refused = CliRunner().invoke(app, ["export", str(checkpoint), str(out)])
    assert isinstance(refused.exception, ConfigError)
    assert "say --overwrite" in str(refused.exception)


def test_other_models_and_other_names_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="name it so"):
        export_official(checkpoint, tmp_path / "x.safetensors")
    unet = tmp_path / "unet.safetensors"
    task = Spec(SegmentationTask, classes=["a", "b"])
    save_model(unet, UNet(3, 2, width=4, depth=1), Spec(UNet, in_channels=3, num_classes=2), task)
    with pytest.raises(CheckpointError, match=r"unet\.safetensors holds no ViT as S4P trains it"):
        export_official(unet, tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize(
    ("key", "backbone_only"),
    [
        ("backbone.layers.0.ffn.experts.0.weight", True),  # S5's mixture of experts
        ("backbone.layers.0.ffn.experts.0.weight", False),
        ("decoder.laterals.0.conv.weight", False),  # of a LightDecoder
        ("heads.potsdam.classifier.weight", False),  # of several data sets
        ("rpn.conv.weight", False),  # of a detector
    ],
)
def test_what_the_official_code_knows_not_is_refused(
    checkpoint: Path, tmp_path: Path, key: str, backbone_only: bool
) -> None:
    other = tmp_path / "other.safetensors"
    save_file(load_file(checkpoint) | {key: torch.zeros(1)}, other)
    with pytest.raises(CheckpointError, match=r"other\.safetensors: '.*' has no place in"):
        export_official(other, tmp_path / "x.pth", backbone_only=backbone_only)
    assert not (tmp_path / "x.pth").exists()
