"""The specialist's maps."""

import torch

from swath.ovseg.dino import Specialist


def test_the_last_block_may_guide_the_decoder_too() -> None:
    vit = {"img_size": 32, "embed_dim": 16, "depth": 4, "num_heads": 1}
    specialist = Specialist(6, (5, 3), (1, 3), vit).eval()
    image = torch.randn(1, 3, 32, 32)
    _, last, again = specialist.vit(image, (4, 4), specialist.taps)
    assert torch.equal(last, again)
    features, (first, second) = specialist(image, (2, 2))
    assert features.shape == (1, 6, 2, 2)
    assert (first.shape, second.shape) == ((1, 5, 4, 4), (1, 3, 8, 8))
    assert torch.equal(second, specialist.decod_proj2(last))
