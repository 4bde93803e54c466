"""Average precision against slow loops over the definitions, with the overlaps of shapely."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swath.core.errors import ConfigError, DataError
from swath.core.metrics.detection import COCO_AREAS, DetectionMetrics
from swath.core.structures import Detections
from swath.kernels import boxes_to_quads

Truth = dict[str, list[Tensor]]


def polygon(box: Tensor) -> Any:
    if len(box) == 4:
        return shapely.box(*box.tolist())
    return shapely.Polygon(boxes_to_quads(box.double()).tolist())


def overlap(box: Tensor, other: Tensor, crowd: bool = False) -> float:
    a, b = polygon(box), polygon(other)
    inside = a.intersection(b).area
    whole = a.area if crowd else a.area + b.area - inside
    return float(inside / whole) if whole > 0 else 0.0


def devkit_ap(recall: np.ndarray, precision: np.ndarray, eleven: bool) -> float:
    """As the development kits of VOC and DOTA write it."""
    if eleven:
        total = 0.0
        for t in np.arange(0.0, 1.1, 0.1):
            reached = recall >= t
            total += (precision[reached].max() if reached.any() else 0.0) / 11.0
        return total
    r = np.concatenate(([0.0], recall, [1.0]))
    p = np.concatenate(([0.0], precision, [0.0]))
    for i in range(len(p) - 1, 0, -1):
        p[i - 1] = max(p[i - 1], p[i])
    change = np.where(r[1:] != r[:-1])[0]
    return float(np.sum((r[change + 1] - r[change]) * p[change + 1]))


def devkit(
    found: Sequence[Detections], truth: Truth, label: int, iou: float, eleven: bool
) -> float:
    """DOTA's evaluation of one class: all detections by falling score, each with its image."""
    rows = [
        (float(d.scores[i]), image, d.boxes[i])
        for image, d in enumerate(found)
        for i in range(len(d))
        if int(d.labels[i]) == label
    ]
    rows.sort(key=lambda row: -row[0])
    own = [[i for i, v in enumerate(labels) if int(v) == label] for labels in truth["labels"]]
    difficult = truth["difficult"]
    positives = sum(not bool(difficult[k][i]) for k, ids in enumerate(own) for i in ids)
    if positives == 0:
        return math.nan
    seen: set[tuple[int, int]] = set()
    hits, misses = [], []
    for _, image, box in rows:
        best, which = -math.inf, -1
        for i in own[image]:
            value = overlap(box, truth["boxes"][image][i])
            if value > best:
                best, which = value, i
        hit = miss = 0
        if best > iou:
            if not difficult[image][which]:
                hit, miss = ((1, 0), (0, 1))[(image, which) in seen]
                seen.add((image, which))
        else:
            miss = 1
        hits.append(hit)
        misses.append(miss)
    tp, fp = np.cumsum(hits), np.cumsum(misses)
    precision = tp / np.maximum(tp + fp, np.finfo(np.float64).eps)
    return devkit_ap(tp / positives, precision, eleven)


def coco(found: Sequence[Detections], truth: Truth, label: int, iou: float, area: str) -> float:
    """COCO's evaluation of one class at one threshold, the loops of its definition."""
    low, high = COCO_AREAS[area]
    rows: list[tuple[float, int]] = []
    positives = 0
    for d, boxes, labels, crowds in zip(
        found, truth["boxes"], truth["labels"], truth["difficult"], strict=True
    ):
        own = [i for i, v in enumerate(labels) if int(v) == label]
        size = {i: polygon(boxes[i]).area for i in own}
        ignore = {i: bool(crowds[i]) or not low <= size[i] <= high for i in own}
        own.sort(key=lambda i: ignore[i])
        positives += sum(not ignore[i] for i in own)
        mine = [i for i in range(len(d)) if int(d.labels[i]) == label]
        mine.sort(key=lambda i: -float(d.scores[i]))
        taken: set[int] = set()
        for i in mine[:100]:
            least, which = min(iou, 1 - 1e-10), -1
            for g in own:
                if g in taken and not bool(crowds[g]):
                    continue
                if which >= 0 and not ignore[which] and ignore[g]:
                    break
                value = overlap(d.boxes[i], boxes[g], bool(crowds[g]))
                if value < least:
                    continue
                least, which = value, g
            if which >= 0:
                taken.add(which)
                if not ignore[which]:
                    rows.append((float(d.scores[i]), 1))
            elif low <= polygon(d.boxes[i]).area <= high:
                rows.append((float(d.scores[i]), 0))
    if positives == 0:
        return math.nan
    rows.sort(key=lambda row: -row[0])
    tp = np.cumsum([hit for _, hit in rows])
    fp = np.cumsum([1 - hit for _, hit in rows])
    recall, precision = tp / positives, tp / np.maximum(tp + fp, 1)
    total = 0.0
    for point in np.linspace(0, 1, 101):
        reached = recall >= point
        total += precision[reached].max() if reached.any() else 0.0
    return total / 101


def scenes(
    seed: int, rotated: bool, images: int = 4, classes: int = 3
) -> tuple[list[Detections], Truth]:
    """Crowded images: detections are objects, jittered or repeated, and noise."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def boxes(count: int) -> Tensor:
        sides = 10 + 120 * rand(count, 2) ** 2
        centre = 30 + 100 * rand(count, 2)
        if rotated:
            return torch.cat([centre, sides, 6.3 * rand(count, 1)], 1)
        return torch.cat([centre - sides / 2, centre + sides / 2], 1)

    found: list[Detections] = []
    truth: Truth = {"boxes": [], "labels": [], "difficult": []}
    for _ in range(images):
        count = int(torch.randint(0, 7, (), generator=generator))
        true, labels = boxes(count), torch.randint(0, classes, (count,), generator=generator)
        noise = (rand(2 * count, true.shape[1]) - 0.5) * 8
        noise[:, 4:] *= 0.05
        guesses = torch.cat([true, true]) + noise, boxes(3)
        wrong = torch.randint(0, classes, (3,), generator=generator)
        order = torch.randperm(2 * count + 3, generator=generator)
        found.append(
            Detections(
                torch.cat(guesses)[order],
                torch.randperm(2 * count + 3, generator=generator) / 40 + 1e-3 * rand(()),
                torch.cat([labels, labels, wrong])[order],
            )
        )
        truth["boxes"].append(true)
        truth["labels"].append(labels)
        truth["difficult"].append(rand(count) < 0.25)
    return found, truth


def figures(found: Sequence[Detections], truth: Truth, **options: Any) -> dict[str, Any]:
    metrics = DetectionMetrics([str(i) for i in range(3)], **options)
    metrics.update(found, truth)
    return metrics.compute()


def close(got: float | None, want: float) -> bool:
    if got is None or math.isnan(got):
        return math.isnan(want)
    return abs(got - want) < 1e-9


@pytest.mark.parametrize("protocol", ["voc07", "voc12"])
@given(seed=st.integers(0, 10**6), rotated=st.booleans(), iou=st.sampled_from([0.3, 0.5, 0.75]))
@settings(max_examples=12, deadline=None)
def test_equals_the_development_kits(protocol: Any, seed: int, rotated: bool, iou: float) -> None:
    found, truth = scenes(seed, rotated)
    got = figures(found, truth, protocol=protocol, iou_thresholds=[iou])
    want = [devkit(found, truth, c, iou, protocol == "voc07") for c in range(3)]
    assert all(close(got["per_class"][str(c)]["AP"], want[c]) for c in range(3))
    known = [v for v in want if not math.isnan(v)]
    assert close(got["mAP"], float(np.mean(known)) if known else math.nan)


@given(seed=st.integers(0, 10**6), rotated=st.booleans())
@settings(max_examples=12, deadline=None)
def test_equals_the_loops_of_cocos_definition(seed: int, rotated: bool) -> None:
    found, truth = scenes(seed, rotated)
    got = figures(found, truth, protocol="coco", iou_thresholds=[0.5, 0.75])
    for threshold, name in ((0.5, "AP50"), (0.75, "AP75")):
        want = [coco(found, truth, c, threshold, "all") for c in range(3)]
        assert all(close(got["per_class"][str(c)][name], want[c]) for c in range(3))
    for area in ("small", "medium", "large"):
        parts = [coco(found, truth, c, t, area) for c in range(3) for t in (0.5, 0.75)]
        known = [v for v in parts if not math.isnan(v)]
        assert close(got[f"AP_{area}"], float(np.mean(known)) if known else math.nan)


def one(
    boxes: list[list[float]], scores: list[float], difficult: list[bool], **options: Any
) -> Any:
    """AP of one class in one image whose object is a square of side 10 at the origin."""
    truth = {
        "boxes": [torch.tensor([[0.0, 0, 10, 10], [100.0, 0, 110, 10]])[: len(difficult)]],
        "labels": [torch.zeros(len(difficult), dtype=torch.int64)],
        "difficult": [torch.tensor(difficult, dtype=torch.bool)],
    }
    found = Detections(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(scores),
        torch.zeros(len(boxes), dtype=torch.int64),
    )
    metrics = DetectionMetrics(["thing"], **options)
    metrics.update([found], truth)
    return metrics.compute()


def test_hand_computed_averages() -> None:
    # right, wrong, right: precision 1 at recall 1/2, 2/3 at recall 1
    boxes = [[0.0, 0, 10, 10], [50.0, 0, 60, 10], [100.0, 0, 110, 10]]
    scores, difficult = [0.9, 0.8, 0.7], [False, False]
    assert one(boxes, scores, difficult, protocol="voc12")["mAP"] == pytest.approx(5 / 6)
    eleven = (6 * 1 + 5 * 2 / 3) / 11
    assert one(boxes, scores, difficult, protocol="voc07")["mAP"] == pytest.approx(eleven)
    many = (51 * 1 + 50 * 2 / 3) / 101
    assert one(boxes, scores, difficult, protocol="coco")["AP50"] == pytest.approx(many)


@pytest.mark.parametrize(("protocol", "hit"), [("voc12", False), ("coco", True)])
def test_an_overlap_of_exactly_the_threshold_counts_for_coco_alone(
    protocol: Any, hit: bool
) -> None:
    half = one([[0.0, 0, 10, 5]], [0.5], [False], protocol=protocol, iou_thresholds=[0.5])
    assert half["mAP"] == float(hit)


def test_a_second_detection_of_an_object_is_a_miss_however_much_better_it_fits() -> None:
    found = one([[0.0, 0, 10, 8], [0.0, 0, 10, 10]], [0.9, 0.8], [False], protocol="voc12")
    assert found["mAP"] == 1  # the first took it, the miss comes after full recall
    assert found["per_class"]["thing"]["detections"] == 2
    late = one([[50.0, 0, 60, 10], [0.0, 0, 10, 10]], [0.9, 0.8], [False], protocol="voc12")
    assert late["mAP"] == 0.5


def test_the_confusion_matrix_says_what_objects_were_taken_for() -> None:
    """By falling score, each object once, of whatever class; unsure detections have no say."""
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    truth = {
        "boxes": [objects],
        "labels": [torch.tensor([0, 0, 1, 1])],
        "difficult": [torch.tensor([False, False, False, True])],
    }
    found = Detections(
        torch.tensor(
            [[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10],
             [80, 0, 90, 10]]
        ),
        torch.tensor([0.9, 0.8, 0.7, 0.2, 0.9, 0.5]),
        torch.tensor([0, 0, 1, 1, 1, 1]),
    )  # fmt: skip
    metrics = DetectionMetrics(["a", "b"])
    metrics.update([found], truth)
    # a found, a taken for b, b missed; the second a on the first object and the last b are alarms
    assert metrics.compute()["confusion"] == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert (metrics + metrics).compute()["confusion"] == [[2, 2, 0], [0, 0, 2], [2, 2, 0]]


def test_difficult_objects_neither_help_nor_hurt() -> None:
    boxes = [[100.0, 0, 110, 10], [100.0, 0, 110, 9], [0.0, 0, 10, 10]]
    for protocol in ("voc07", "voc12", "coco"):
        got = one(boxes, [0.9, 0.8, 0.7], [False, True], protocol=protocol)
        assert got["mAP"] == pytest.approx(1), protocol
        assert got["per_class"]["thing"]["objects"] == 1


def test_images_with_difficult_objects_only_and_without_any_give_no_figure() -> None:
    got = one([[0.0, 0, 10, 10]], [0.9], [True])
    assert math.isnan(got["mAP"])
    assert got["per_class"]["thing"]["AP"] is None
    empty = one([], [], [])
    assert math.isnan(empty["mAP"])
    assert one([], [], [False])["mAP"] == 0


def test_detections_beyond_the_limit_of_an_image_are_left_out() -> None:
    boxes = [[50.0, 0, 60, 10], [0.0, 0, 10, 10]]
    assert one(boxes, [0.9, 0.8], [False], max_detections=1)["mAP"] == 0
    assert one(boxes, [0.9, 0.8], [False], max_detections=2)["mAP"] == 0.5


@pytest.mark.parametrize("protocol", ["voc07", "coco"])
def test_image_by_image_in_two_processes_equals_all_at_once(protocol: Any) -> None:
    found, truth = scenes(3, rotated=True, images=6)
    parts = [DetectionMetrics(["0", "1", "2"], protocol) for _ in range(2)]
    for i, d in enumerate(found):
        parts[i % 2].update([d], {k: [v[i]] for k, v in truth.items()})
    joined = (parts[0] + parts[1]).compute()
    assert joined == figures(found, truth, protocol=protocol)
    parts[0].reset()
    assert parts[0].compute()["per_class"]["0"]["detections"] == 0


def test_refuses_what_cannot_be_judged() -> None:
    label = {"labels": [torch.tensor([0])]}
    guess = Detections(torch.zeros(1, 5), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    metrics = DetectionMetrics(["thing"])
    with pytest.raises(DataError, match="detections have 5 numbers a box and objects 4"):
        metrics.update([guess], {"boxes": [torch.zeros(1, 4)], **label})
    with pytest.raises(DataError, match="objects have labels 3 to 3, but there are 1 classes"):
        metrics.update([guess], {"boxes": [torch.zeros(1, 5)], "labels": [torch.tensor([3])]})
    with pytest.raises(DataError, match="isn't finite"):
        metrics.update([guess], {"boxes": [torch.full((1, 5), math.nan)], **label})
    with pytest.raises(ConfigError, match="protocol='voc' is unknown"):
        DetectionMetrics(["thing"], "voc")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="iou_thresholds"):
        DetectionMetrics(["thing"], iou_thresholds=[50])
