from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from swath.core.backbones import build_backbone
from swath.core.backbones.timm import TimmPyramid
from swath.core.errors import CheckpointError, ConfigError

NAMES = [
    "resnet18",
    "mobilenetv3_small_050",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
]


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_promised_channels_and_strides(name: str) -> None:
    model = TimmPyramid(name, in_channels=4, img_size=64).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 4, 96, 160))
    assert model.strides == (4, 8, 16, 32)
    got = [(x.shape[1], 96 // x.shape[2], 160 // x.shape[3]) for x in maps]
    assert got == [(c, s, s) for c, s in zip(model.channels, model.strides, strict=True)]


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_local_weights_are_loaded_strictly(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    full = timm.create_model(name)
    path = tmp_path / "timm.safetensors"
    save_file({k: v.contiguous() for k, v in full.state_dict().items()}, path)
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    model = TimmPyramid(name, img_size=224, weights="$WEIGHTS/timm.safetensors")
    first = next(v for k, v in full.state_dict().items() if k.endswith("weight"))
    assert any(v.shape == first.shape and v.equal(first) for v in model.body.state_dict().values())
    save_file({"something.else": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="missing"):
        TimmPyramid(name, img_size=224, weights=path)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        TimmPyramid("resnet_18")


def test_a_model_of_fixed_size_says_so() -> None:
    model = TimmPyramid("maxvit_rmlp_pico_rw_256", img_size=64)
    with pytest.raises(ConfigError, match="96 x 96 px"):
        model(torch.randn(1, 3, 96, 96))


def test_our_own_backbones_have_nothing_to_fetch() -> None:
    with pytest.raises(ConfigError, match="no weights to fetch"):
        build_backbone("vit_b", pretrained=True)
