import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from swath.refseg.models.remotesam import RotatedDecoder
from swath.refseg.models.upsampled_conv import convolve_upsampled

sides = st.integers(1, 6)


@settings(max_examples=25, deadline=None)
@given(sides, sides, st.integers(0, 7), st.integers(0, 7))
def test_it_is_the_convolution_of_the_upsampled_map(h: int, w: int, dh: int, dw: int) -> None:
    generator = torch.Generator().manual_seed(h + 10 * w + 100 * dh + 1000 * dw)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, skip, weight = random(2, 3, h, w), random(2, 2, h + dh, w + dw), random(4, 5, 3, 3)
    up = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
    want = F.conv2d(torch.cat([up, skip], 1), weight, padding=1)
    torch.testing.assert_close(convolve_upsampled(x, skip, weight), want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("side", [2, 5])
def test_the_folded_decoder_is_the_decoder(side: int) -> None:
    torch.manual_seed(0)
    decoder = RotatedDecoder(16)
    for module in decoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    decoder.eval()
    maps = [torch.randn(2, 2 * 2**i, side * 2 ** (3 - i), side * 2 ** (3 - i)) for i in range(4)]
    plain = decoder(maps).detach()
    with torch.no_grad():
        folded = decoder(maps)
    print(f"{side}: {float((plain - folded).abs().max()):.1e}")
    torch.testing.assert_close(folded, plain, atol=1e-5, rtol=1e-4)
