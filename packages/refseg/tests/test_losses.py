import pytest
import torch

from swath.refseg.losses import cross_entropy, dice


def test_ignored_pixels_belong_to_neither_class() -> None:
    logits, target = torch.zeros(1, 2, 1, 2), torch.tensor([[[1, -100]]])
    assert float(dice(logits, target)) == pytest.approx(0.5 + 1)
    assert float(cross_entropy(logits, target)) == pytest.approx(float(torch.tensor(2).log()))
