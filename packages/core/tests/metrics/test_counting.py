import math

import pytest

from swath.core.metrics.counting import CountingMetrics


def test_hand_computed_figures() -> None:
    metrics = CountingMetrics()
    metrics.update([3, 5, 0], {"count": [3, 2, 1], "name": ["ship", "ship", "plane"]})
    figures = metrics.compute()
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert figures["MAE"] == pytest.approx(4 / 3)
    assert figures["RMSE"] == pytest.approx(math.sqrt(10 / 3))
    assert figures["bias"] == pytest.approx(2 / 3)
    assert figures["per_class"]["plane"]["accuracy"] == 0


def test_accumulators_add_up() -> None:
    first, second = CountingMetrics(), CountingMetrics()
    assert math.isnan(first.compute()["MAE"])
    first.update([1], {"count": [1]})
    second.update([1], {"count": [3]})
    assert (first + second).compute()["MAE"] == 1
    first.reset()
    assert first.compute()["questions"] == 0
