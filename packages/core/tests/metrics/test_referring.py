import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swath.core.metrics.referring import GroundingMetrics, ReferringMetrics, box_iou

SIDE = 4


def mask(*places: int) -> torch.Tensor:
    flat = torch.zeros(SIDE * SIDE, dtype=torch.int64)
    flat[list(places)] = 1
    return flat.view(SIDE, SIDE)


def test_hand_computed_figures() -> None:
    metrics = ReferringMetrics()
    metrics.update([mask(0, 1).bool(), mask(5)], {"mask": torch.stack([mask(1, 2), mask(5)])})
    figures = metrics.compute()
    assert figures["mIoU"] == pytest.approx((1 / 3 + 1) / 2)
    assert figures["oIoU"] == pytest.approx(2 / 4)
    assert [figures[f"Pr@{t}"] for t in (0.5, 0.9)] == [0.5, 0.5]


def test_sentences_that_mean_nothing_are_told_apart() -> None:
    batch = {"mask": torch.stack([mask(1, 2), mask(), mask()])}
    found = [mask(1, 2), mask(), mask(7)]
    sane, official = ReferringMetrics(), ReferringMetrics("official")
    for metrics in (sane, official):
        metrics.update(found, batch)
    figures = sane.compute()
    assert (figures["mIoU"], figures["oIoU"], figures["sentences"]) == (1, 1, 1)
    assert figures["empty"] == {"sentences": 2, "nothing found": 0.5, "pixels found": 0.5}
    figures = official.compute()
    assert figures["mIoU"] == pytest.approx(1 / 3)
    assert figures["oIoU"] == pytest.approx(2 / 3)


def test_kinds_of_sentences_have_rows() -> None:
    metrics = ReferringMetrics()
    metas = [{"kind": "colour"}, {"kind": "size"}, {}]
    batch = {"mask": torch.stack([mask(1), mask(2), mask(3)]), "meta": metas}
    metrics.update([mask(1), mask(9), mask(3)], batch)
    rows = metrics.compute()["per_kind"]
    assert {kind: row["mIoU"] for kind, row in rows.items()} == {"colour": 1, "size": 0}


def test_padding_is_left_out_and_accumulators_add_up() -> None:
    truth = {"mask": mask(0, 15)[None]}
    whole, part = ReferringMetrics(), ReferringMetrics()
    part.update([mask(0)[:2, :2]], truth)
    assert part.compute()["mIoU"] == 1
    whole.update([mask(0)], truth)
    assert (whole + part).compute()["mIoU"] == 0.75
    whole.reset()
    assert math.isnan(whole.compute()["mIoU"])


boxes = st.tuples(*[st.integers(0, 20)] * 4).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]) + 1, max(v[1], v[3]) + 1)
)


@given(boxes, boxes)
def test_overlap_of_boxes_is_that_of_their_pixels(
    a: tuple[int, int, int, int], b: tuple[int, int, int, int]
) -> None:
    drawn = torch.zeros(2, 22, 22, dtype=torch.bool)
    for canvas, (x1, y1, x2, y2) in zip(drawn, (a, b), strict=True):
        canvas[y1:y2, x1:x2] = True
    want = float((drawn[0] & drawn[1]).sum() / (drawn[0] | drawn[1]).sum())
    assert box_iou(a, b) == pytest.approx(want)


def test_a_missing_box_is_judged_by_nothing_or_officially_by_the_one_before() -> None:
    found = [None, (0, 0, 2, 2), None]
    truth = {"boxes": [(0, 0, 2, 2)] * 3}
    sane, official = GroundingMetrics(), GroundingMetrics("official")
    for metrics in (sane, official):
        metrics.update(found, truth)
    assert sane.compute()["Pr@0.9"] == pytest.approx(1 / 3)
    assert official.compute()["Pr@0.9"] == pytest.approx(2 / 3)
    assert sane.compute()["mIoU"] == official.compute()["mIoU"] == pytest.approx(1 / 3)
