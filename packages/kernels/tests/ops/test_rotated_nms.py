"""Rotated NMS: recorded cases, rules, properties and registration."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swath.kernels import rotated_nms
from swath.kernels.ops.rotated_iou.reference import pairwise
from swath.kernels.ops.rotated_nms import triton as kernels

OP = torch.ops.swath.rotated_nms


@pytest.fixture(autouse=True)
def few_steps(monkeypatch) -> None:
    """Triton's interpreter takes as long for a large block as for a small one."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(kernels, "ROWS", 64)


def crowd(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Boxes that overlap often, and scores with ties."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator) * torch.tensor([60.0, 60, 30, 30, 6])
    boxes += torch.tensor([0.0, 0, 5, 5, -3])
    scores = torch.randint(0, max(1, count // 2), (count,), generator=generator) / count
    return boxes.to(dtype), scores


def greedy(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor) -> list[int]:
    """The rule, box by box."""
    iou = pairwise(boxes.double(), boxes.double(), "iou", 0.0)
    keep: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not any(labels[i] == labels[j] and iou[i, j] > threshold for j in keep):
            keep.append(i)
    return keep


def quick(case: dict, backend: str, device: torch.device) -> bool:
    """Whether the interpreter gets through a case in seconds."""
    return backend != "triton" or device.type == "cuda" or case["n"] <= 500


@pytest.mark.parity
def test_keeps_what_was_recorded(backend, device, parity) -> None:
    cases, tensors = parity("nms_rotated")
    unread = set(tensors)
    for case in cases:
        inputs = {
            name: tensors.get(f"{case['name']}.{name}")
            for name in ("boxes", "scores", "labels", "keep")
        }
        unread -= {f"{case['name']}.{name}" for name in inputs}
        assert (inputs["labels"] is not None) == case["class_aware"]
        if not quick(case, backend, device):
            continue
        wide = backend == "cpu" or (backend == "reference" and case["n"] <= 500)
        for dtype in (torch.float32, torch.float64) if wide else (torch.float32,):
            labels = inputs["labels"]
            keep = rotated_nms(
                inputs["boxes"].to(device, dtype),
                inputs["scores"].to(device),
                case["iou_threshold"],
                labels if labels is None else labels.to(device),
            )
            assert keep.dtype == torch.int64
            assert torch.equal(keep.cpu(), inputs["keep"]), case["name"]
    assert not unread


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9])
def test_follows_the_greedy_rule_over_several_tiles(backend, device, threshold) -> None:
    boxes, scores = crowd(150)
    labels = torch.arange(150) % 3 - 1
    keep = rotated_nms(boxes.to(device), scores.to(device), threshold, labels.to(device))
    assert keep.tolist() == greedy(boxes, scores, threshold, labels)
    everything = rotated_nms(boxes.to(device), scores.to(device), threshold)
    assert everything.tolist() == greedy(boxes, scores, threshold, torch.zeros(150))


def test_a_long_chain_of_suppression_is_settled_in_order(backend, device) -> None:
    """Each box overlaps its neighbours only; who is kept depends on all before."""
    boxes = torch.zeros(130, 5)
    boxes[:, 0], boxes[:, 2:4] = torch.arange(130) * 6.0, 10
    keep = rotated_nms(boxes.to(device), torch.linspace(1, 0, 130).to(device), 0.2)
    assert keep.tolist() == list(range(0, 130, 2))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 40), st.integers(0, 10_000), st.floats(0, 1), st.booleans())
def test_idempotent_and_independent_of_the_order(backend, count, seed, threshold, labelled) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWATH_KERNELS", backend)
        boxes, scores = crowd(count, seed, torch.float64)
        labels = torch.arange(count) % 3 if labelled else None
        keep = rotated_nms(boxes, scores, threshold, labels)
        kept = [values if values is None else values[keep] for values in (boxes, scores, labels)]
        again = rotated_nms(kept[0], kept[1], threshold, kept[2])
        assert torch.equal(again, torch.arange(len(keep)))
        # other orders give the same boxes, once no scores are tied
        scores = scores + torch.linspace(0, 1e-3, count)
        keep = rotated_nms(boxes, scores, threshold, labels)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        shuffled = labels if labels is None else labels[order]
        assert torch.equal(
            order[rotated_nms(boxes[order], scores[order], threshold, shuffled)], keep
        )


def test_equal_scores_keep_the_first(backend, device) -> None:
    boxes = torch.tensor([[0.0, 0, 8, 4, 0.3]], device=device).repeat(4, 1)
    scores = torch.tensor([0.2, 0.7, 0.7, 0.7], device=device)
    assert rotated_nms(boxes, scores, 0.99).tolist() == [1]


def test_suppresses_strictly_above_the_threshold(backend, device) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [1, 0, 2, 2, 0]], device=device)  # IoU 1/2
    scores = torch.tensor([0.9, 0.8], device=device)
    assert rotated_nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert rotated_nms(boxes, scores, 0.4999).tolist() == [0]


def test_labels_compete_only_among_themselves(backend, device) -> None:
    boxes = torch.tensor([[0.0, 0, 8, 4, 0.3]], device=device).repeat(4, 1)
    scores = torch.tensor([0.1, 0.9, 0.8, 0.7], device=device)
    for dtype in (torch.int32, torch.int64):
        labels = torch.tensor([-5, 3, -5, 3], device=device, dtype=dtype)
        assert rotated_nms(boxes, scores, 0.5, labels).tolist() == [1, 2]


def test_thresholds_outside_0_to_1(backend, device) -> None:
    boxes = torch.tensor(
        [[0.0, 0, 8, 4, 0], [0, 0, 8, 4, 0], [90, 0, 8, 4, 0], [0, 0, -1, 4, 0]], device=device
    )
    scores = torch.tensor([0.1, 0.3, 0.2, 0.9], device=device)
    labels = torch.tensor([0, 0, 0, 1], device=device)
    assert rotated_nms(boxes, scores, -0.1, labels).tolist() == [1]
    for threshold in (1.0, 7.0, math.inf):
        assert rotated_nms(boxes, scores, threshold, labels).tolist() == [1, 2, 0]


def test_invalid_rows_are_not_kept_and_suppress_nothing(backend, device) -> None:
    good = [0.0, 0, 8, 4, 0.1]
    boxes = torch.tensor([good] * 8, device=device)
    boxes[0, 0], boxes[1, 4] = math.nan, math.inf
    boxes[2, 2], boxes[3, 3], boxes[4, 2:4] = 0, -4, 0.5
    scores = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.9, math.nan, math.inf, 0.1], device=device)
    assert rotated_nms(boxes, scores, 0.5, min_size=1.0).tolist() == [7]
    assert rotated_nms(boxes[:4], scores[:4], 0.5).tolist() == []


def test_max_keep_takes_the_best(backend, device) -> None:
    boxes = torch.tensor([[x * 20.0, 0, 8, 4, 0] for x in range(5)], device=device)
    scores = torch.tensor([0.1, 0.5, 0.3, 0.9, 0.7], device=device)
    assert rotated_nms(boxes, scores, 0.5, max_keep=2).tolist() == [3, 4]
    assert rotated_nms(boxes, scores, 0.5, max_keep=0).tolist() == []
    assert rotated_nms(boxes, scores, 0.5, max_keep=9).tolist() == [3, 4, 1, 2, 0]


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single_boxes(backend, device, count) -> None:
    boxes, scores = (tensor.to(device) for tensor in crowd(count))
    for threshold in (-1, 0.5, 1):
        keep = rotated_nms(boxes, scores, threshold, torch.zeros_like(scores, dtype=torch.int64))
        assert keep.tolist() == list(range(count))
        assert keep.dtype == torch.int64


def test_half_precision_and_strided_boxes(backend, device) -> None:
    boxes, scores = (tensor.to(device) for tensor in crowd(20, 1, torch.bfloat16))
    expected = rotated_nms(boxes.float(), scores, 0.3)
    strided = boxes.T.contiguous().T
    assert torch.equal(rotated_nms(strided, scores.half().float(), 0.3), expected)


def test_triton_writes_only_its_own_output() -> None:
    from swath.kernels.ops.rotated_iou.triton import table

    device = "cuda" if torch.cuda.is_available() else "cpu"
    boxes, _ = crowd(70)
    labels = torch.zeros(70, dtype=torch.int64, device=device)
    words = torch.full((16 + 2 * 70 + 16,), 7, dtype=torch.int64, device=device)
    kept = torch.full((16 + 70 + 16,), 7, dtype=torch.int8, device=device)
    dead = torch.zeros(2 + 16, dtype=torch.int64, device=device)
    kernels._mask_kernel[(2, 2)](table(boxes.to(device)), labels, words[16:], 70, 0.1, ROWS=8)
    kernels._scan_kernel[(1,)](words[16:], labels, dead, kept[16:], 70, WORDS=32)
    for guarded in (words, kept):
        assert (guarded[:16] == 7).all()
        assert (guarded[-16:] == 7).all()
    assert (dead[2:] == 0).all()
    assert kept[16:-16].unique().tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore")  # opcheck uses deprecated parts of torch
def test_operator_is_registered_correctly(backend, device) -> None:
    boxes, scores = (tensor.to(device) for tensor in crowd(9))
    labels = torch.arange(9, device=device) % 2
    torch.library.opcheck(OP.default, (boxes, scores, labels, 0.3, -1, 0.0))
    torch.library.opcheck(OP.default, (boxes, scores, None, 0.3, 2, 0.0))


def test_compiles_without_a_graph_break(monkeypatch) -> None:
    monkeypatch.setenv("SWATH_KERNELS", "cpu")
    monkeypatch.setattr(torch._dynamo.config, "capture_dynamic_output_shape_ops", True)

    def best(boxes: Tensor, scores: Tensor) -> Tensor:
        return boxes[rotated_nms(boxes, scores, 0.3)] * 2

    compiled = torch.compile(best, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (12, 30):
        assert torch.equal(compiled(*crowd(count)), best(*crowd(count)))


BOXES, SCORES = crowd(2)
MISUSE = {
    "boxes": ((BOXES[0], SCORES, 0.5), ValueError, r"boxes must have shape \(N, 5\); got \(5,\)"),
    "columns": ((BOXES[:, :4], SCORES, 0.5), ValueError, r"boxes .*\(2, 4\)"),
    "scores": ((BOXES, SCORES[:1], 0.5), ValueError, r"scores must have shape \(2,\).*\(1,\)"),
    "score dtype": ((BOXES, SCORES.long(), 0.5), TypeError, "scores .*int64"),
    "labels": ((BOXES, SCORES, 0.5, SCORES.long()[:1]), ValueError, r"labels .*\(1,\)"),
    "label dtype": ((BOXES, SCORES, 0.5, SCORES), TypeError, "labels must be integers; .*float32"),
    "threshold": ((BOXES, SCORES, math.nan), ValueError, "iou_threshold .*NaN"),
    "max_keep": ((BOXES, SCORES, 0.5, None, -2), ValueError, "max_keep .*-2"),
    "device": ((BOXES, SCORES.to("meta"), 0.5), ValueError, "scores on meta"),
}


@pytest.mark.parametrize(("args", "error", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_refused_by_name(args, error, message) -> None:
    with pytest.raises(error, match=message):
        rotated_nms(*args)


def test_degrees_are_warned_about_at_the_callers_line() -> None:
    with pytest.warns(UserWarning, match="boxes has angles beyond 4 pi") as caught:
        rotated_nms(torch.tensor([[0.0, 0, 4, 2, 90]]), torch.tensor([1.0]), 0.5)
    assert [warning.filename for warning in caught] == [__file__]
