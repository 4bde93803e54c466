import time

import pytest
import torch
from torch import Tensor, nn

from swath.core.checkpoint.official import load_strict
from swath.core.errors import CheckpointError, ConfigError
from swath.core.models.segmentation import (
    SegmentationModel,
    official_keys,
    remap_official_keys,
    s4p_segmenter,
    segmentation_model,
)

PAIRS = [
    ("resnet18", "light"),
    ("mobilenetv3_small_050", "upernet"),
    ("convnext_atto", "light"),
    ("vit_tiny_patch16_224", "light"),
]


def build(backbone: str, decoder: str, **options: object) -> SegmentationModel:
    torch.manual_seed(0)
    arguments: dict[str, object] = {"num_classes": 3, "in_channels": 4, "img_size": 64, "width": 16}
    return segmentation_model(backbone, decoder, **(arguments | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("backbone", "decoder"), PAIRS)
def test_every_pair_keeps_the_contract(backbone: str, decoder: str) -> None:
    model = build(backbone, decoder)

    model.train()  # a batch of one, an odd size, finite gradients everywhere
    logits = model(torch.randn(1, 4, 47, 70))
    assert logits.shape == (1, 3, 47, 70)
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    model.eval()  # deterministic, and the state dict holds all there is
    other = build(backbone, decoder).eval()
    load_strict(other, model.state_dict())
    image = torch.randn(2, 4, 33, 64)
    with torch.no_grad():
        assert model(image).equal(model(image))
        assert other(image).equal(model(image))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (31, 33)])
def test_the_smallest_images_work(shape: tuple[int, int]) -> None:
    model = build("resnet18", "light").eval()
    assert model(torch.randn(1, 4, *shape)).shape == (1, 3, *shape)


@pytest.mark.parametrize("name", ["vit_b", "rvsa_b"])
def test_our_backbones_pair_with_the_builder(name: str) -> None:
    with torch.device("meta"):
        model = segmentation_model(name, "light", num_classes=3, in_channels=5)
        assert model(torch.zeros(1, 5, 100, 60)).shape == (1, 3, 100, 60)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'upernet'"):
        segmentation_model(decoder="uper-net")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'vit_b"):
        segmentation_model(backbone="vit_bb")


class Strided(nn.Module):
    """A backbone of one average-pooled map, to see where things land."""

    channels, strides = (1,), (4,)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(image, 4)]


class First(nn.Module):
    out_channels = 1

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0]


@pytest.mark.parametrize("crop_padding", [True, False])
def test_padding_shifts_nothing_unless_asked_for(crop_padding: bool) -> None:
    model = SegmentationModel(Strided(), First(), 1, crop_padding=crop_padding).eval()
    nn.init.ones_(model.classifier.weight)
    nn.init.zeros_(model.classifier.bias)  # type: ignore[arg-type]
    image = torch.zeros(1, 1, 8, 42)
    image[..., 20:24] = 1  # one cell of the grid, centred at column 21.5
    columns = torch.arange(42.0)
    got = model(image)[0, 0, 4].detach()
    centre = float((got * columns).sum() / got.sum())
    assert (centre == pytest.approx(21.5, abs=0.05)) is crop_padding


@pytest.mark.parametrize(
    ("size", "parameters"), [("b", 103_155_462), ("l", 327_424_518), ("h", 663_380_230)]
)
def test_published_parameter_counts_of_s4p(size: str, parameters: int) -> None:
    with torch.device("meta"):
        model = s4p_segmenter(size, num_classes=5)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_official_keys_are_the_inverse_of_the_remap() -> None:
    with torch.device("meta"):
        state = s4p_segmenter().state_dict()
    official = official_keys(state)
    assert {k.split(".")[0] for k in official} == {"encoder", "semsegdecoder", "semseghead"}
    assert official["semseghead.1.weight"].shape == (16, 256, 1, 1)
    ddp = {f"module.{k}": v for k, v in official.items()}
    assert list(remap_official_keys(ddp)) == list(state)


def test_a_key_that_nobody_knows_is_an_error() -> None:
    with torch.device("meta"):
        model = s4p_segmenter()
        state = {**official_keys(model.state_dict()), "ema.encoder.x": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 unexpected: ema\.encoder\.x"):
        load_strict(model, remap_official_keys(state))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["b", "l", "h"])
def test_full_size_forward(size: str) -> None:
    model = s4p_segmenter(size, num_classes=5).eval()  # type: ignore[arg-type]
    start = time.monotonic()
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, 512, 512))
    print(f"s4p-vit-{size}: {time.monotonic() - start:.1f} s at 512 px")
    assert logits.shape == (1, 5, 512, 512)
    assert logits.isfinite().all()
