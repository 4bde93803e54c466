import pytest
import torch
from torch.nn import functional as F

from swath.refseg.models import winograd
from swath.refseg.models.winograd import MANY, convolve_3x3


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 9), (16, 7)])
@pytest.mark.parametrize("channels", [MANY, MANY - 1])
@pytest.mark.parametrize("last", [False, True])
def test_it_is_the_convolution(size: tuple[int, int], channels: int, last: bool) -> None:
    torch.manual_seed(0)
    x, kernels = torch.randn(2, channels, *size), torch.randn(2, MANY, channels, 3, 3)
    want = torch.stack(
        [F.conv2d(s.double(), k.double(), padding=1) for s, k in zip(x, kernels, strict=True)]
    )
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = convolve_3x3(x, kernels)
    error = float((found - want).abs().max())
    print(f"largest difference {error:.2g} of values up to {float(want.abs().max()):.2g}")
    assert error < 2e-5 * float(want.abs().max())


def test_one_kernel_serves_all_samples_and_bands_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    x, kernel = torch.randn(2, MANY, 24, 12), torch.randn(1, MANY, MANY, 3, 3)
    with torch.inference_mode():
        whole = convolve_3x3(x, kernel)
        monkeypatch.setattr(winograd, "TILES_AT_ONCE", 4)
        torch.testing.assert_close(convolve_3x3(x, kernel), whole)
        torch.testing.assert_close(whole[1:], convolve_3x3(x[1:], kernel))
