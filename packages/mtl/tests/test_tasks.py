import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.config import TrainConfig
from swath.core.errors import ConfigError, DataError
from swath.core.inference.predictor import Predictor
from swath.core.sample import Sample
from swath.mtl.balance import without_conflicts
from swath.mtl.models.rscotr import RSCoTr
from swath.mtl.tasks import BoxTask, MaskMetrics, MaskTask, MultiTask, SceneClassificationTask


@pytest.fixture
def model(tiny: TrainConfig) -> RSCoTr:
    torch.manual_seed(0)
    built: RSCoTr = tiny.model.build()
    return built.eval()


@pytest.fixture
def batch(tiny: TrainConfig) -> dict[str, Any]:
    """A batch of each data set."""
    train_set = tiny.train
    train_set["together"] = True
    data, task = train_set.build(), tiny.task.build()
    keys = next(data.batches(0, 0, 0, 1))
    collated: dict[str, Any] = task.collate([data[index] for _, index in keys])
    return collated


def gradients(model: RSCoTr) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([x for x in losses.values() if x.requires_grad]).sum()


def test_images_of_one_size_share_a_pass_and_learn_what_they_would_alone(
    tiny: TrainConfig, model: RSCoTr, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task: MultiTask = tiny.task.build()
    for part in task.parts.values():
        monkeypatch.setattr(part, "mix", None, raising=False)
    model.heads["det"].denoising = None
    passes = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    total(task.losses(model, batch)).backward()
    together = gradients(model)
    assert len(passes) == 1
    for name in batch["parts"]:
        alone = {"parts": {name: batch["parts"][name]}, "rows": {}}
        total(task.losses(model, alone)).backward()
    alone_sum = gradients(model)
    assert together.keys() == alone_sum.keys()
    for name, value in together.items():
        torch.testing.assert_close(value, alone_sum[name], rtol=1e-3, atol=1e-5)


def test_pcgrad_leaves_no_conflict_between_two_and_changes_nothing_where_there_is_none() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    # each loses its part against the other: (1, 0) + (-1, 1) / 2 -> (0.5, 0.5); (-1, 1) -> (0, 1)
    torch.testing.assert_close(without_conflicts([a, b], [[1], [0]]), torch.tensor([0.5, 1.5]))
    c = torch.tensor([2.0, 1.0])
    torch.testing.assert_close(without_conflicts([a, c], [[1], [0]]), a + c)


def test_pcgrad_steers_the_step_and_keeps_the_values(
    tiny: TrainConfig, model: RSCoTr, batch: dict[str, Any]
) -> None:
    spec = tiny.task
    plain: MultiTask = spec.build()
    spec["balance"] = "pcgrad"
    steered: MultiTask = spec.build()
    names = list(batch["parts"])
    for task in (plain, steered):
        for part in task.parts.values():
            part.__dict__.pop("mix", None)
            part.mix = None  # type: ignore[attr-defined]
    model.heads["det"].denoising = None
    own = []
    for name in names:
        total(plain.losses(model, {"parts": {name: batch["parts"][name]}, "rows": {}})).backward()
        own.append(gradients(model))
    torch.manual_seed(1)
    losses = steered.losses(model, batch)
    want = plain.losses(model, batch)
    assert float(total(losses).detach()) == pytest.approx(float(total(want).detach()), rel=1e-5)
    total(losses).backward()
    got = gradients(model)
    torch.manual_seed(1)
    order = [[n for n in torch.randperm(3).tolist() if n != t] for t in range(3)]
    flat = [
        torch.cat([g.get(n, torch.zeros_like(p)).flatten() for n, p in model.named_parameters()])
        for g in own
    ]
    joined = without_conflicts(flat, order)
    got_flat = torch.cat([got[n].flatten() for n, _ in model.named_parameters()])
    torch.testing.assert_close(got_flat, joined, rtol=1e-3, atol=1e-4)


def test_uncertainty_learns_a_variance_for_each_head(
    tiny: TrainConfig, batch: dict[str, Any]
) -> None:
    model_spec, task_spec = tiny.model, tiny.task
    model_spec["uncertainty"], task_spec["balance"] = True, "uncertainty"
    model, task = model_spec.build(), task_spec.build()
    losses = task.losses(model, batch)
    total(losses).backward()
    for head, variance in model.log_variances.items():
        own = [x for n, x in losses.items() if n.startswith(f"{head}/") and x.requires_grad]
        terms = torch.stack(own).sum() - losses[f"{head}/log_variance"]
        # d(exp(-s) L + s)/ds at s = 0
        assert float(variance.grad) == pytest.approx(1 - float(terms.detach()), rel=1e-4)
    with pytest.raises(ConfigError, match=r"needs model\.uncertainty=True"):
        task.losses(_without(model_spec), batch)


def _without(spec: Any) -> Any:
    spec["uncertainty"] = False
    return spec.build()


def test_one_pass_answers_for_every_head_as_each_alone_would(
    tiny: TrainConfig, model: RSCoTr
) -> None:
    predictor = Predictor(model, tiny.task.build())
    image = np.random.default_rng(0).integers(0, 255, (96, 80, 3), dtype=np.uint8)
    passes: list[int] = []
    hook = model.backbone.register_forward_hook(lambda *_: passes.append(1))
    several = predictor.predict(image, tile=None)
    assert len(passes) == 1
    hook.remove()
    assert list(several) == ["cls", "det", "seg"]
    alone = {head: predictor.for_task(head).predict(image, tile=None) for head in several}
    assert several["cls"].probabilities == pytest.approx(alone["cls"].probabilities)
    np.testing.assert_allclose(several["det"].boxes, alone["det"].boxes, atol=1e-4)
    np.testing.assert_array_equal(several["seg"].mask, alone["seg"].mask)
    two = predictor.for_task("det,seg").predict(image, tile=None)
    assert list(two) == ["det", "seg"]


def test_a_large_image_is_answered_tile_by_tile(
    tiny: TrainConfig, model: RSCoTr, tmp_path: Path
) -> None:
    predictor = Predictor(model, tiny.task.build())
    image = np.random.default_rng(1).integers(0, 255, (200, 260, 3), dtype=np.uint8)
    result = predictor.predict(image, tile=128, overlap=32, blend=16)
    assert result["seg"].mask.shape == (200, 260)
    assert sum(result["cls"].probabilities) == pytest.approx(1, abs=1e-5)
    boxes = result["det"].boxes
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [[260, 200]]).all()
    written = result.save(tmp_path)
    assert [path.name for path in written] == ["cls.json", "det.gpkg", "seg.tif"]
    assert all(path.stat().st_size for path in written)


def test_other_numbers_are_scaled_for_all_tasks(tiny: TrainConfig, model: RSCoTr) -> None:
    predictor = Predictor(model, tiny.task.build())
    pixels = np.random.default_rng(2).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    want = predictor.predict(pixels, tile=None)
    wide = predictor.predict(pixels.astype(np.uint16) * 10, tile=None, scale="0:2550")
    assert wide["cls"].probabilities == pytest.approx(want["cls"].probabilities, abs=1e-4)
    np.testing.assert_array_equal(wide["seg"].mask, want["seg"].mask)


def test_an_error_of_one_task_reaches_the_user(tiny: TrainConfig, model: RSCoTr) -> None:
    predictor = Predictor(model, tiny.task.build())
    array = np.zeros((64, 64, 3), np.float32)
    with pytest.raises(DataError):
        predictor.predict(array, tile=None)


def test_images_without_an_object_are_learnt_as_background(
    tiny: TrainConfig, model: RSCoTr
) -> None:
    task = BoxTask([str(i) for i in range(6)])
    empty = Sample(
        torch.zeros(3, 64, 64, dtype=torch.uint8),
        {
            "boxes": tv_tensors.BoundingBoxes(
                torch.zeros(0, 4), format="XYXY", canvas_size=(64, 64)
            ),
            "labels": torch.zeros(0, dtype=torch.int64),
        },
    )
    losses = task.losses(model, task.collate([empty]))
    assert not any("dn_" in name for name in losses)
    assert float(losses["loss_bbox"].detach()) == 0
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.heads["det"].label_embedding.weight.grad is not None


def test_labels_that_no_class_has_and_heads_for_other_classes_are_refused(
    tiny: TrainConfig, model: RSCoTr
) -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    mask = torch.full((64, 64), 255, dtype=torch.uint8)
    task: MultiTask = tiny.task.build()
    seg = task.parts["seg/cover"]
    void = seg.collate([Sample(image, {"mask": tv_tensors.Mask(mask)})])
    assert float(seg.losses(model, void)["ce"].detach()) == 0  # 255 is ignored
    mask[3, 3] = 77
    with pytest.raises(DataError, match="the mask holds class 77"):
        seg.collate([Sample(image, {"mask": tv_tensors.Mask(mask)})])
    with pytest.raises(DataError, match="label 12345 is of none"):
        task.parts["cls/kinds"].collate([Sample(image, {"label": 12345})])
    other = SceneClassificationTask(["a", "b"])
    labelled = other.collate([Sample(image, {"label": 1})])
    with pytest.raises(ConfigError, match="the head 'cls' knows"):
        other.losses(model, labelled)
    few = MaskTask(["a", "b"])
    labelled = few.collate([Sample(image, {"mask": tv_tensors.Mask(mask * 0)})])
    with pytest.raises(ConfigError, match="give the head num_classes=2"):
        few.losses(model, labelled)
    with pytest.raises(DataError, match="a sample is from 'det/diro'"):
        task.collate([Sample(image, {"label": 1}, meta={"dataset": "det/diro"})])
    with pytest.raises(ConfigError, match="no task 'deg'"):
        task.select(model, "deg")
    with pytest.raises(ConfigError, match=r"task\.weights\.sag"):
        MultiTask(task.parts, weights={"sag": 1.0})
    with pytest.raises(ConfigError, match="balance='equel' is unknown"):
        MultiTask(task.parts, balance="equel")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="names no figure"):
        MultiTask(task.parts, score_weights={"cls/other/top1": 1.0})
    with pytest.raises(ConfigError, match="must be the last of the classes"):
        MaskTask(["a", "b"], unjudged=["a"])


def test_pixels_predicted_as_no_judged_class_are_misses_of_none() -> None:
    metrics = MaskMetrics(["road", "roof", "clutter"], judged=2, ignore_index=255)
    mask = torch.tensor([[0, 0, 1, 1, 2, 255]])
    predicted = torch.tensor([[0, 2, 1, 9, 0, 0]])
    metrics.update([predicted], {"mask": mask[None]})
    figures = metrics.compute()
    assert figures["per_class"]["road"]["IoU"] == pytest.approx(1 / 2)
    assert figures["per_class"]["roof"]["IoU"] == pytest.approx(1 / 2)
    assert figures["mIoU"] == pytest.approx(1 / 2)
    # officially, clutter counts as a class of IoU 0, and the void pixel as a wrong road
    assert figures["official"]["mIoU"] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    twice = metrics + metrics
    assert twice.compute()["mIoU"] == pytest.approx(1 / 2)


def test_what_was_not_judged_is_in_no_score(tiny: TrainConfig) -> None:
    task: MultiTask = tiny.task.build()
    metrics = task.metrics()
    assert math.isnan(metrics.compute()["score"])
    scores = torch.eye(len(task.parts["cls/kinds"].classes))[:2]
    batch = {"rows": {"cls/kinds": [0, 1]}, "parts": {"cls/kinds": {"label": torch.tensor([0, 0])}}}
    metrics.update(list(scores), batch)
    figures = (metrics + task.metrics()).compute()
    assert figures["score"] == figures["cls/kinds/top1"] == 0.5
