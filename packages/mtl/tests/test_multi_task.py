import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.config import TrainConfig
from swath.core.data.radiometry import Radiometry
from swath.core.data.scenes import SceneDataset
from swath.core.errors import ConfigError, DataError
from swath.core.inference.answers import CountResult
from swath.core.inference.predictor import Predictor
from swath.core.sample import Sample
from swath.core.segmentation import collate_images
from swath.mtl.balance import without_conflicts
from swath.mtl.data import Part, TaskMixture
from swath.mtl.models.encoder import Features
from swath.mtl.models.heads import Head
from swath.mtl.models.rscotr import RSCoTr
from swath.mtl.multi_task import MultiTask
from swath.mtl.tasks import HeadTask


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


def test_scenes_are_searched_in_pieces_of_the_size_trained_on(
    tiny: TrainConfig, model: RSCoTr
) -> None:
    spec = tiny.task
    spec["parts"]["det/things"]["tile"] = 128
    predictor = Predictor(model, spec.build())
    seen: list[tuple[int, ...]] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    predictor.predict(np.zeros((200, 128, 3), np.uint8))
    assert len(seen) > 1
    assert max(max(shape) for shape in seen) <= 128


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


class CountHead(Head):
    """How many objects there are, from the mean of the last stage."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, 1)

    def forward(self, features: Features) -> Tensor:
        return F.softplus(self.fc(features.stages[-1].mean((2, 3))))[:, 0]

    def losses(self, features: Features, targets: Tensor) -> dict[str, Tensor]:
        return {"l1": F.smooth_l1_loss(self(features), targets)}


class MeanError:
    """Mean absolute error of counts."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def update(self, predictions: Sequence[Tensor], batch: dict[str, Any]) -> None:
        self.errors += [
            float((p - t).abs()) for p, t in zip(predictions, batch["count"], strict=True)
        ]

    def compute(self) -> dict[str, float]:
        return {"error": sum(self.errors) / len(self.errors)}


class CountTask(HeadTask):
    """Learns from the number of labels."""

    kind, score, classes, head = "counting", "error", ("objects",), "count"
    labels = ("labels",)
    radiometry = Radiometry.rgb8()

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        count = torch.tensor([float(len(s.targets["labels"])) for s in samples])
        return collate_images(samples, self.radiometry) | {"count": count}

    def targets(self, batch: dict[str, Any]) -> Tensor:
        return batch["count"]

    def read(self, output: Tensor, batch: dict[str, Any]) -> list[Tensor]:
        return list(output)

    def merge(self, tiles: Iterable[Any], scene: Any) -> CountResult:
        return CountResult("objects", round(sum(float(tile.prediction) for tile in tiles)))

    def metrics(self) -> Any:
        return MeanError()


def test_a_fourth_kind_of_task_is_a_head_and_a_head_task(tiny: TrainConfig, model: RSCoTr) -> None:
    model.heads["count"] = CountHead(model.backbone.channels[-1])
    known = tiny.task.build().parts
    task = MultiTask(
        {"det/things": known["det/things"], "count/things": CountTask()},
        score_weights={"count/things/error": -1},
    )
    scenes = SceneDataset(size=64, count=4, seed=3, labels=["boxes"], kind="industrial")
    data = TaskMixture({name: Part(scenes, batch_size=2) for name in task.parts}, together=True)
    keys = next(data.batches(0, 0, 0, 1))
    batch = task.collate([data[index] for _, index in keys])
    losses = task.losses(model, batch)
    assert {"count/things/l1", "det/things/loss_cls"} <= losses.keys()
    total(losses).backward()
    assert model.heads["count"].fc.weight.grad.abs().sum() > 0
    metrics = task.metrics()
    predictions = task.predict(model, batch)
    metrics.update(predictions, batch)
    wanted = batch["parts"]["count/things"]["count"]
    found = torch.stack([predictions[i] for i in batch["rows"]["count/things"]])
    error = float((found - wanted).abs().mean())
    figures = metrics.compute()
    assert figures["count/things/error"] == pytest.approx(error)
    assert figures["score"] == -figures["count/things/error"]
    answer = Predictor(model, task).predict(np.zeros((64, 64, 3), np.uint8), tile=None)
    assert list(answer) == ["det", "count"]
    assert answer["count"].count >= 0
    assert list(answer.plot()) == ["det"]  # a number has no figure
    assert list(answer.summary()["answer"]) == ["det", "count"]


def test_what_was_not_judged_is_in_no_score(tiny: TrainConfig) -> None:
    task: MultiTask = tiny.task.build()
    metrics = task.metrics()
    assert math.isnan(metrics.compute()["score"])
    scores = torch.eye(len(task.parts["cls/kinds"].classes))[:2]
    batch = {"rows": {"cls/kinds": [0, 1]}, "parts": {"cls/kinds": {"label": torch.tensor([0, 0])}}}
    metrics.update(list(scores), batch)
    figures = (metrics + task.metrics()).compute()
    assert figures["score"] == figures["cls/kinds/top1"] == 0.5


def test_mistakes_are_named(tiny: TrainConfig, model: RSCoTr) -> None:
    task: MultiTask = tiny.task.build()
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
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
    unlabelled = Sample(image, {}, meta={"dataset": "seg/cover", "id": "tile_7"})
    with pytest.raises(DataError, match="seg/cover: sample tile_7 has no 'mask'"):
        task.collate([unlabelled])
