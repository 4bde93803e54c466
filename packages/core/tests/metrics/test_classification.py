import math

import pytest
import torch

from swath.core.errors import DataError
from swath.core.metrics.classification import ClassificationMetrics

CLASSES = ("beach", "forest", "harbor", "island", "lake", "river", "wetland")


def batch(count: int, seed: int) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, len(CLASSES), generator=generator)
    return list(scores), {"label": torch.randint(len(CLASSES), (count,), generator=generator)}


def test_figures_are_those_of_counting_by_hand() -> None:
    scores, truth = batch(40, 0)
    metrics = ClassificationMetrics(CLASSES)
    metrics.update(scores, truth)
    figures = metrics.compute()
    ranks = [
        int((row > row[label]).sum())
        for row, label in zip(scores, truth["label"].tolist(), strict=True)
    ]
    assert figures["top1"] == pytest.approx(sum(r == 0 for r in ranks) / 40)
    assert figures["top5"] == pytest.approx(sum(r < 5 for r in ranks) / 40)
    for i, name in enumerate(CLASSES):
        own = [r == 0 for r, label in zip(ranks, truth["label"], strict=True) if label == i]
        assert figures["per_class"][name]["images"] == len(own)
        assert figures["per_class"][name]["accuracy"] == pytest.approx(sum(own) / len(own))


def test_parts_add_up_and_an_absent_class_counts_in_no_mean() -> None:
    (a, truth_a), (b, truth_b) = batch(9, 1), batch(5, 2)
    truth_a["label"][:], truth_b["label"][:] = 0, 1
    parts = [ClassificationMetrics(CLASSES) for _ in range(3)]
    parts[0].update(a, truth_a)
    parts[1].update(b, truth_b)
    parts[2].update(a + b, {"label": torch.cat((truth_a["label"], truth_b["label"]))})
    total = (parts[0] + parts[1]).compute()
    assert total == parts[2].compute()
    assert total["per_class"]["lake"]["accuracy"] is None
    assert math.isfinite(total["mACC"])


def test_labels_that_no_class_has_are_named() -> None:
    scores, truth = batch(3, 3)
    truth["label"][1] = 7
    with pytest.raises(DataError, match=r"7 scores and labels .* to 7 for 7 classes"):
        ClassificationMetrics(CLASSES).update(scores, truth)
