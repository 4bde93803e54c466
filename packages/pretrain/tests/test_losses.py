import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swath.pretrain.losses import confident, cutmix, pseudo_labels, unlabelled_loss


def by_hand(
    logits: torch.Tensor,
    label: torch.Tensor,
    confidence: torch.Tensor,
    ignore: torch.Tensor,
    threshold: float,
) -> float:
    """The loss pixel by pixel, in Python's own float64."""
    total, seen = 0.0, 0
    images, classes, height, width = logits.shape
    for b in range(images):
        for y in range(height):
            for x in range(width):
                if ignore[b, y, x]:
                    continue
                seen += 1
                if float(confidence[b, y, x]) < threshold:
                    continue
                scores = [float(logits[b, k, y, x]) for k in range(classes)]
                highest = max(scores)
                log_sum = highest + math.log(sum(math.exp(s - highest) for s in scores))
                total += log_sum - scores[int(label[b, y, x])]
    return total / max(seen, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.tuples(*[st.integers(1, 4)] * 4),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_the_loss_is_the_sum_over_confident_pixels_by_the_number_of_seen_ones(
    seed: int, shape: tuple[int, int, int, int], threshold: float, hidden: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weak, strong = (6 * torch.randn(shape, generator=generator).double() for _ in range(2))
    label, confidence = pseudo_labels(weak)
    ignore = torch.rand(label.shape, generator=generator) < hidden
    got = unlabelled_loss(strong, label, confidence, ignore, threshold)
    assert float(got) == pytest.approx(
        by_hand(strong, label, confidence, ignore, threshold), rel=1e-10, abs=1e-12
    )


def test_gradients_are_right_and_come_from_confident_pixels_only() -> None:
    generator = torch.Generator().manual_seed(0)
    strong = torch.randn(2, 3, 3, 4, generator=generator).double().requires_grad_()
    label, confidence = pseudo_labels(4 * torch.randn(2, 3, 3, 4, generator=generator))
    ignore = torch.rand(2, 3, 4, generator=generator) < 0.3

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return unlabelled_loss(logits, label, confidence, ignore, 0.8)

    assert torch.autograd.gradcheck(loss, strong)
    loss(strong).backward()
    assert strong.grad is not None
    learnt = confident(confidence, ignore, 0.8)
    assert 0 < int(learnt.sum()) < learnt.numel()
    assert strong.grad.abs().sum(1).gt(0).equal(learnt)


def test_nothing_seen_and_nothing_confident_are_zero_with_a_gradient_of_zero() -> None:
    strong = torch.randn(1, 3, 2, 2).requires_grad_()
    label, confidence = torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 0.5)
    for ignore in (torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2, dtype=torch.bool)):
        loss = unlabelled_loss(strong, label, confidence, ignore, 0.95)
        (gradient,) = torch.autograd.grad(loss, strong)
        assert loss.item() == 0.0
        assert not gradient.any()


def test_confidence_is_the_probability_of_the_label() -> None:
    logits = torch.tensor([0.0, math.log(3), math.log(6)]).view(1, 3, 1, 1)
    label, confidence = pseudo_labels(logits)
    assert label.tolist() == [[[2]]]
    assert float(confidence) == pytest.approx(0.6)


def test_cutmix_takes_images_and_maps_alike() -> None:
    box = torch.zeros(2, 4, 5, dtype=torch.bool)
    box[0, 1:3, 2:4] = True
    images, others = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    assert cutmix(images, others, box).sum((1, 2, 3)).tolist() == [12, 0]
    maps = torch.zeros(2, 4, 5, dtype=torch.int64)
    assert cutmix(maps, maps + 7, box).sum((1, 2)).tolist() == [28, 0]
    assert cutmix(images[0], others[0], box[0]).sum() == 12
