import pytest
import torch
from torch import Tensor

from swath.core.models.unet import UNet


def eval_unet(**kwargs: int) -> UNet:
    torch.manual_seed(0)
    return UNet(3, 4, width=4, **{"depth": 2, "stem_stride": 2, **kwargs}).eval()


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 1), (5, 130)])
def test_logits_have_the_size_of_the_image(stem_stride: int, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        logits = eval_unet(stem_stride=stem_stride)(torch.randn(2, 3, *size))
    assert logits.shape == (2, 4, *size)


def test_parameter_count_follows_from_the_widths() -> None:
    # stem 3 -> 1 at 3x3 with norm: 27 + 2; level 0: 9 + 2 + 9 + 2; level 1, 1 -> 2:
    # 18 + 4 + 36 + 4 + 2; lateral 2 -> 1: 2; decoder as level 0: 22; classifier 1 -> 2: 4
    model = UNet(3, 2, width=1, depth=1, stem_stride=1)
    assert sum(p.numel() for p in model.parameters()) == 29 + 22 + 64 + 2 + 22 + 4


def test_shifting_the_image_by_one_stride_shifts_the_logits() -> None:
    model = eval_unet()
    image = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        whole = model(image)
        shifted = model(image[..., model.stride :])
    # far from the borders, where padding plays no part
    torch.testing.assert_close(
        shifted[..., 48:80, 48:64], whole[..., 48:80, 48 + model.stride : 64 + model.stride]
    )


def test_the_result_for_an_image_does_not_depend_on_its_batch() -> None:
    model = eval_unet()
    images = torch.randn(3, 3, 40, 24)
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone)


def test_every_parameter_gets_a_finite_gradient() -> None:
    model = UNet(5, 2, width=4, depth=3, dropout=0.1).train()
    loss: Tensor = model(torch.randn(2, 5, 37, 50)).square().mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_refuses_a_stem_stride_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="stem_stride=3"):
        UNet(3, 2, stem_stride=3)
