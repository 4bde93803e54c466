import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swath.core.metrics.multilabel import MultiLabelMetrics, average_precision


def test_hand_computed_figures() -> None:
    metrics = MultiLabelMetrics(["ship", "plane"])
    metrics.update([[0.9, 0.2], [0.4, 0.6]], {"labels": [[1, 0], [1, 0]]})
    figures = metrics.compute()
    assert figures["accuracy"] == 0.5
    assert (figures["precision"], figures["recall"]) == (0.5, 0.5)
    assert figures["F1"] == pytest.approx(0.5)
    assert figures["IoU"] == pytest.approx(1 / 3)
    assert figures["per_class"]["ship"]["AP"] == 1
    assert math.isnan(figures["per_class"]["plane"]["AP"])
    assert figures["mAP"] == 1  # of the class that occurs


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=20))
def test_average_precision_sums_over_steps_of_recall(rows: list[tuple[int, bool]]) -> None:
    scores = torch.tensor([score for score, _ in rows], dtype=torch.float64)
    truth = torch.tensor([label for _, label in rows])
    if not truth.any():
        assert math.isnan(average_precision(scores, truth))
        return
    want, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        now = float((chosen & truth).sum() / truth.sum())
        want += (now - recall) * float((chosen & truth).sum() / chosen.sum())
        recall = now
    assert average_precision(scores, truth) == pytest.approx(want)


def test_accumulators_add_up() -> None:
    parts = [MultiLabelMetrics(["ship"]), MultiLabelMetrics(["ship"])]
    parts[0].update([[0.9]], {"labels": [[1]]})
    parts[1].update([[0.9]], {"labels": [[0]]})
    assert (parts[0] + parts[1]).compute()["accuracy"] == 0.5
    parts[0].reset()
    assert math.isnan(parts[0].compute()["mAP"])
