import json
import math

import pytest
import torch
import torchmetrics.classification as tm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swath.core.errors import DataError
from swath.core.metrics.segmentation import MATRIX_LIMIT, ConfusionMatrix, SegmentationMetrics


def labels(seed: int, classes: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, shape, generator=generator)
    noise = torch.randint(0, classes, shape, generator=generator)
    keep = torch.rand(shape, generator=generator) < 0.6
    return torch.where(keep, target, noise), target


def test_matches_hand_computed_figures() -> None:
    c = ConfusionMatrix(2)
    c.update(torch.tensor([[0, 0, 1], [1, 1, 0]]), torch.tensor([[0, 1, 1], [1, 255, 0]]))
    assert c.matrix is not None
    assert c.matrix.tolist() == [[2, 0], [1, 2]]
    assert c.iou().tolist() == pytest.approx([2 / 3, 2 / 3])
    assert c.precision().tolist() == pytest.approx([2 / 3, 1])
    assert c.recall().tolist() == pytest.approx([1, 2 / 3])
    assert c.overall_accuracy() == pytest.approx(4 / 5)
    assert c.kappa() == pytest.approx((4 / 5 - 12 / 25) / (1 - 12 / 25))


@pytest.mark.parametrize("classes", [2, 7])
def test_agrees_with_torchmetrics(classes: int) -> None:
    prediction, target = labels(0, classes, 3, 40, 31)
    target[:, :5] = 255
    figures = SegmentationMetrics([str(i) for i in range(classes)])
    figures.update(list(prediction), {"mask": target})
    got = figures.compute()
    options = {"num_classes": classes, "ignore_index": 255}
    want = {
        "mIoU": tm.MulticlassJaccardIndex(**options),
        "mF1": tm.MulticlassF1Score(**options, average="macro"),
        "mPrecision": tm.MulticlassPrecision(**options, average="macro"),
        "mACC": tm.MulticlassRecall(**options, average="macro"),
        "OA": tm.MulticlassAccuracy(**options, average="micro"),
        "kappa": tm.MulticlassCohenKappa(**options),
    }
    for name, reference in want.items():
        assert got[name] == pytest.approx(float(reference(prediction, target)), abs=1e-6), name


def test_agrees_with_torchmetrics_when_classes_are_absent() -> None:
    prediction, target = labels(1, 3, 50, 20)
    c = ConfusionMatrix(6)
    c.update(prediction, target)
    reference = tm.MulticlassJaccardIndex(num_classes=6)
    assert float(c.iou().nanmean()) == pytest.approx(float(reference(prediction, target)))
    assert c.iou()[3:].isnan().all()


def test_means_can_leave_classes_out() -> None:
    prediction, target = labels(5, 3, 2, 40, 31)
    whole = SegmentationMetrics(["background", "ship", "plane"])
    objects = SegmentationMetrics(["background", "ship", "plane"], mean_without=["background"])
    for figures in (whole, objects):
        figures.update(list(prediction), {"mask": target})
    rows = whole.compute()["per_class"]
    for got in (objects.compute(), (objects + objects).compute()):
        assert got["mIoU"] == pytest.approx((rows["ship"]["IoU"] + rows["plane"]["IoU"]) / 2)
        assert got["OA"] == pytest.approx(whole.compute()["OA"])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 30))
def test_batches_in_any_split_add_up_to_the_whole(seed: int, classes: int, cut: int) -> None:
    prediction, target = labels(seed, classes, 31)
    whole, first, second = (ConfusionMatrix(classes) for _ in range(3))
    whole.update(prediction, target)
    first.update(prediction[:cut], target[:cut])
    second.update(prediction[cut:], target[cut:])
    total = first + second
    assert total.matrix is not None
    assert whole.matrix is not None
    assert total.matrix.equal(whole.matrix)
    assert total.union.equal(whole.union)
    assert int(whole.target.sum()) == 31


def test_many_classes_need_no_square_of_memory() -> None:
    classes = 65_535
    prediction, target = labels(3, classes, 2000)
    c = ConfusionMatrix(classes, ignore_index=classes)
    c.update(prediction, target)
    assert c.matrix is None
    assert classes > MATRIX_LIMIT
    assert c.overall_accuracy() == pytest.approx(float((prediction == target).double().mean()))


def test_mean_over_all_counts_an_absent_class_as_zero() -> None:
    prediction = torch.tensor([[0, 1]])
    means = []
    for mode in ("present", "all"):
        m = SegmentationMetrics(["a", "b", "never"], mean_over=mode)  # type: ignore[arg-type]
        m.update([prediction], {"mask": prediction[None]})
        means.append(m.compute()["mIoU"])
    assert means == pytest.approx([1.0, 2 / 3])


def test_an_undefined_figure_is_null_in_the_table() -> None:
    m = SegmentationMetrics(["a", "b"])
    zeros = torch.zeros(1, 2, 2, dtype=torch.long)
    m.update(list(zeros), {"mask": zeros})
    table = m.compute()["per_class"]
    assert table["b"] == {"IoU": None, "F1": None, "precision": None, "recall": None, "pixels": 0}
    json.dumps(table, allow_nan=False)


def test_without_any_pixel_every_mean_is_nan() -> None:
    figures = SegmentationMetrics(["a", "b"]).compute()
    assert all(math.isnan(figures[name]) for name in ("mIoU", "mF1", "mACC", "OA", "kappa"))


def test_the_official_ignore_bin_only_behind_its_option() -> None:
    target = torch.tensor([0, 1, 2, 2])  # 2 is ignored
    prediction = torch.tensor([0, 1, 0, 1])
    right = ConfusionMatrix(2, ignore_index=2)
    official = ConfusionMatrix(2, ignore_index=2, count_ignored_as_last_class=True)
    for c in (right, official):
        c.update(prediction, target)
    assert right.intersection.tolist() == [1, 1]
    assert official.intersection.tolist() == [1, 3]


@pytest.mark.parametrize("where", ["target", "prediction"])
def test_refuses_a_class_that_does_not_exist(where: str) -> None:
    wrong, right = torch.tensor([0, 7]), torch.tensor([0, 1])
    pair = (right, wrong) if where == "target" else (wrong, right)
    with pytest.raises(DataError, match=rf"{where} holds class 7, allowed are 0\.\.1"):
        ConfusionMatrix(2).update(*pair)


def test_padding_of_a_batch_is_not_counted() -> None:
    m = SegmentationMetrics(["a", "b"])
    zeros = torch.zeros(1, 5, 5, dtype=torch.long)
    m.update([zeros[0, :2, :3]], {"mask": zeros})
    assert int(m.confusion.target.sum()) == 6


def test_metrics_of_two_ranks_add_up() -> None:
    prediction, target = labels(5, 4, 2, 16, 16)
    whole, first, second = (SegmentationMetrics(list("abcd")) for _ in range(3))
    whole.update(list(prediction), {"mask": target})
    first.update([prediction[0]], {"mask": target[:1]})
    second.update([prediction[1]], {"mask": target[1:]})
    assert (first + second).compute() == whole.compute()
    whole.reset()
    assert int(whole.confusion.target.sum()) == 0
