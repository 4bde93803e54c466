import pytest
import torch
from torch import nn

from swath.core.engine.ema import ExponentialMovingAverage


def test_the_average_follows_by_hand_computed_steps() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = ExponentialMovingAverage(model, decay=0.25)
    model.weight.data.fill_(1.0)
    average.update(model, step=1)  # decay min(0.25, 2 / 11)
    assert average.model.weight.item() == pytest.approx(9 / 11)
    average.update(model, step=1000)
    assert average.model.weight.item() == pytest.approx(1 - 2 / 11 * 0.25)


def test_buffers_follow_and_counters_are_copied() -> None:
    model = nn.BatchNorm1d(2)
    average = ExponentialMovingAverage(model, decay=0.5)
    model.train()(torch.randn(8, 2) + 3)
    average.update(model, step=100)
    torch.testing.assert_close(average.model.running_mean, model.running_mean / 2)
    assert average.model.num_batches_tracked == 1


def test_the_average_takes_no_gradients_and_stays_in_eval_mode() -> None:
    average = ExponentialMovingAverage(nn.Linear(1, 1).train(), decay=0.5)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
