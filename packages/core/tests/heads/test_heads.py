from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from swath.core.heads import LightDecoder, UPerNet
from swath.core.heads.upernet import BatchNorm, group_norm

CHANNELS = (8, 16, 24, 32)


def pyramid(batch: int, height: int, width: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(batch, c, max(height >> i, 1), max(width >> i, 1))
        for i, c in enumerate(CHANNELS)
    ]


@pytest.mark.parametrize("norm", ["bn", "gn"])
@pytest.mark.parametrize("decoder", [UPerNet, LightDecoder])
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 13, 21), (1, 1, 1)])
def test_a_pyramid_becomes_one_map_at_its_finest_stride(
    decoder: type[UPerNet] | type[LightDecoder], norm: str, shape: tuple[int, int, int]
) -> None:
    model = decoder(CHANNELS, width=16, norm=norm).train()  # type: ignore[arg-type]
    out = model(pyramid(*shape))
    assert out.shape == (shape[0], model.out_channels, *shape[1:])
    out.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("channels", "levels"), [((8,), 1), ((8, 16), 2), ((4,) * 6, 6)])
def test_any_number_of_levels(channels: tuple[int, ...], levels: int) -> None:
    maps = [torch.randn(2, c, 32 >> i, 32 >> i) for i, c in enumerate(channels)]
    for decoder in (UPerNet(channels, width=8), LightDecoder(channels, width=8)):
        assert decoder(maps).shape == (2, 8, 32, 32)


@pytest.mark.parametrize(
    ("width", "parameters"), [(768, 9_640_193), (1024, 10_688_769), (1280, 11_737_345)]
)
def test_published_parameter_counts(width: int, parameters: int) -> None:
    with torch.device("meta"):
        decoder = UPerNet((width,) * 4, dead_classifier=True)
    assert sum(p.numel() for p in decoder.parameters()) == parameters


def test_the_dead_classifier_is_frozen_and_only_there_when_asked_for() -> None:
    dead = {n for n, p in UPerNet(CHANNELS, dead_classifier=True).named_parameters()}
    assert dead - {n for n, p in UPerNet(CHANNELS).named_parameters()} == {
        "conv_seg.weight",
        "conv_seg.bias",
    }


def test_the_light_decoder_is_light() -> None:
    channels = (64, 128, 256, 512)
    light = sum(p.numel() for p in LightDecoder(channels).parameters())
    full = sum(p.numel() for p in UPerNet(channels).parameters())
    assert light < 100_000 < full / 50


def test_batch_norm_with_one_value_uses_and_keeps_the_running_statistics() -> None:
    norm, reference = BatchNorm(3).train(), nn.BatchNorm2d(3).train()
    x = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(x), x, rtol=1e-4, atol=1e-4)
    assert norm.running_mean is not None
    assert not norm.running_mean.any()
    y = torch.randn(2, 3, 4, 4)
    assert norm(y).equal(reference(y))
    torch.testing.assert_close(norm.state_dict(), reference.state_dict())


def test_group_norm_divides_any_number_of_channels() -> None:
    assert [group_norm(c).num_groups for c in (256, 48, 20, 7)] == [32, 8, 4, 1]


def test_coarser_levels_reach_the_result() -> None:
    maps = pyramid(1, 16, 16)
    for decoder in (UPerNet(CHANNELS, width=8).eval(), LightDecoder(CHANNELS, width=8).eval()):
        outputs = []
        for level in range(len(CHANNELS)):
            changed = [x + (i == level) for i, x in enumerate(maps)]
            outputs.append(decoder(changed))
        assert all(not a.allclose(b) for a, b in pairwise(outputs))
