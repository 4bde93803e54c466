import pytest
import torch

from swath.mtl.models.dino import DINOHead, Noise, Objects
from swath.mtl.models.rscotr import RSCoTr


def test_the_class_weight_scales_what_is_lost_about_classes_alone(model: RSCoTr) -> None:
    head = model.heads["det"]
    assert isinstance(head, DINOHead)
    features = model.features(torch.zeros(1, 3, 64, 64))
    objects = [Objects(torch.tensor([[4.0, 8.0, 30.0, 24.0]]), torch.tensor([1]))]
    count = 2 * head.denoising.num_queries  # one object: every query is a group
    noise = Noise(
        torch.ones(count),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(count, 4),
        torch.rand(count, 4),
    )
    published = head.losses(features, objects, noise)
    head.class_weight = 3.0
    weighed = head.losses(features, objects, noise)
    for name, value in published.items():
        factor = 3.0 if name.endswith("cls") else 1.0
        assert float(weighed[name].detach()) == pytest.approx(
            factor * float(value.detach()), rel=1e-6
        )
