"""CLIP alone as a segmenter."""

from typing import Any

import torch
from torch.nn import functional as F

from swath.ovseg.models.maskclip import MaskCLIP


def test_scores_are_cosines_by_temperature_and_nothing_is_trained(tiny: Any) -> None:
    torch.manual_seed(0)
    model = MaskCLIP(tiny.clip).eval()
    image, text = torch.randn(2, 3, 64, 96), F.normalize(torch.randn(5, 3, 32), dim=-1)
    with torch.no_grad():
        features, _ = model.clip.dense(image, (4, 6))
        got = model.score(image, text, (4, 6))
        scale = model.clip.logit_scale.exp()
    for i in range(5):
        want = F.cosine_similarity(features[:, None], text[i, None, :, :, None, None], dim=2)
        torch.testing.assert_close(got[:, i], scale * want.mean(1))
    assert model(image, text[:, :1]).shape == (2, 5, 64, 96)
    assert not any(p.requires_grad for p in model.parameters())
