from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors

from swath.core.data.loader import Augmented
from swath.core.data.scenes import SceneDataset
from swath.core.errors import ConfigError, DataError
from swath.core.models.unet import UNet
from swath.core.sample import Sample
from swath.core.task import Batch
from swath.pretrain.semi_supervised import SemiSupervised
from swath.pretrain.task import S4PTask
from swath.pretrain.views import S4PViews, UnlabelledViews

CLASSES = SceneDataset(count=1, class_set="landcover").classes


def samples(cutmix: float = 0.5, count: int = 6) -> list[Sample]:
    """What the loader hands to `collate`."""
    scenes = SceneDataset(48, 12, seed=4, class_set="landcover")
    pairs = SemiSupervised(SceneDataset(48, 3, seed=4, class_set="landcover"), scenes,
                           cutmix=cutmix)  # fmt: skip
    views = Augmented(pairs, S4PViews(32), seed=3)
    return [views[0, i] for i in range(count)]


def unet() -> UNet:
    """With batch norms whose statistics are not those of the batch."""
    torch.manual_seed(0)
    model = UNet(3, len(CLASSES), width=4, depth=2)
    model.classifier.weight.data *= 12  # sure of some pixels and not of others
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(0, 0.2)
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return model


class Watched(nn.Module):
    """Remembers how it was called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[tuple[bool, bool, int, torch.dtype]] = []

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(image)
        self.calls.append((self.training, torch.is_grad_enabled(), len(image), logits.dtype))
        return logits


def official_order(
    model: nn.Module, found: list[Sample], threshold: float, task: S4PTask
) -> dict[str, Tensor]:
    """The step as the official code orders it: every image has a partner's view to label, box or
    not, boxes are pasted on the device, and each piece is computed on its own.
    """
    views: list[UnlabelledViews] = [s.targets["unlabelled"] for s in found]
    weak = torch.stack([task.radiometry(v.weak) for v in views])
    weak_mix = torch.stack(
        [task.radiometry(v.weak if v.weak_mix is None else v.weak_mix) for v in views]
    )
    box = torch.stack([v.box for v in views])
    ignore = torch.stack([v.ignore for v in views]).long() * 255
    model.eval()
    with torch.no_grad():
        out = model(torch.cat([weak, weak_mix])).softmax(1)
    one, other = out.chunk(2)
    label, confidence = one.argmax(1), one.amax(1)
    label[box] = other.argmax(1)[box]
    confidence[box] = other.amax(1)[box]
    model.train()
    strong = torch.stack([task.radiometry(v.strong) for v in views])
    image = torch.stack([task.radiometry(s.image) for s in found])
    logits = model(torch.cat([image, strong]))
    labelled, unlabelled = logits.chunk(2)
    mask = torch.stack([s.targets["mask"].as_subclass(Tensor).long() for s in found])
    loss_x = F.cross_entropy(labelled, mask, ignore_index=255)
    kept = ((confidence >= threshold) & (ignore != 255)).float()
    loss_u = (F.cross_entropy(unlabelled, label, reduction="none") * kept).sum()
    loss_u = loss_u / (ignore != 255).sum()
    return {"total": (loss_x + loss_u) / 2, "confident": kept.sum() / (ignore != 255).sum()}


def gradients(model: nn.Module, total: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cutmix", [0.0, 0.5, 1.0])
def test_a_step_is_the_official_one_without_the_partners_nobody_sees(cutmix: float) -> None:
    task = S4PTask(CLASSES, threshold=0.3)
    found = samples(cutmix)
    batch = task.collate(found)
    model = Watched(unet()).train()
    losses = task.losses(model, batch)
    total = torch.stack([x for x in losses.values() if x.requires_grad]).sum()
    got = gradients(model, total)
    statistics = {k: v.clone() for k, v in model.named_buffers()}

    partners = len(batch["mixed"])
    assert partners == sum(s.targets["unlabelled"].weak_mix is not None for s in found)
    assert [(c[0], c[1], c[2]) for c in model.calls] == [
        (False, False, 6 + partners),
        (True, True, 12),
    ]
    reference = Watched(unet()).train()
    want = official_order(reference, found, 0.3, task)
    wanted = gradients(reference, want["total"])
    assert float(losses["confident"]) == pytest.approx(float(want["confident"]))
    assert 0.02 < float(want["confident"]) < 0.98
    assert total.item() == pytest.approx(float(want["total"]), rel=1e-6)
    worst = max(float((got[k] - wanted[k]).abs().max()) for k in wanted)
    print(f"cutmix {cutmix}: largest difference of a gradient {worst:.1e}")
    assert got.keys() == wanted.keys()
    assert worst < 1e-6
    for name, value in reference.named_buffers():
        torch.testing.assert_close(statistics[name], value, rtol=1e-6, atol=1e-6)


def test_padding_and_nodata_are_neither_learnt_nor_counted() -> None:
    task = S4PTask(CLASSES, threshold=0.0)
    batch = task.collate(samples())
    model = unet().train()
    strong = batch["strong"].requires_grad_()
    losses = task.losses(model, batch)
    assert float(losses["confident"]) == 1.0  # of those that were seen
    batch["ignore"][:] = True
    dark = task.losses(model, batch)
    assert float(dark["unlabelled"]) == 0.0
    assert float(dark["confident"]) == 0.0
    (gradient,) = torch.autograd.grad(dark["unlabelled"], strong)
    assert not gradient.any()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_labels_have_their_own_precision_whatever_the_training_pass_uses(precision: Any) -> None:
    task = S4PTask(CLASSES, label_precision=precision)
    model = Watched(unet()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        task.losses(model, task.collate(samples()))
    labelling = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert [call[3] for call in model.calls] == [labelling, torch.bfloat16]


def test_averaged_weights_label_when_they_are_the_teacher() -> None:
    task = S4PTask(CLASSES, threshold=0.3, teacher="ema")
    batch, student, teacher = task.collate(samples()), Watched(unet()).train(), Watched(unet())
    teacher.model.classifier.weight.data.neg_()  # would label otherwise
    losses = task.losses(student, batch | {"averaged": teacher})
    assert [call[:2] for call in teacher.calls] == [(False, False)]
    assert [call[:2] for call in student.calls] == [(True, True)]
    by_itself = S4PTask(CLASSES, threshold=0.3).losses(Watched(unet()).train(), batch)
    torch.testing.assert_close(losses["ce"], by_itself["ce"])
    assert not torch.isclose(losses["unlabelled"], by_itself["unlabelled"])
    with pytest.raises(ConfigError, match="labels by averaged weights"):
        task.losses(student, batch)


def test_the_warm_up_sees_labels_alone() -> None:
    task = S4PTask(CLASSES, threshold=0.3, warmup=0.25)
    batch, model = task.collate(samples()), Watched(unet()).train()
    labelled = F.cross_entropy(unet().train()(batch["image"]), batch["mask"], ignore_index=255)
    early = task.losses(model, batch | {"progress": 0.24})
    assert list(early) == ["ce"]
    assert [count for *_, count, _ in model.calls] == [len(batch["image"])]
    torch.testing.assert_close(early["ce"], labelled / 2)
    assert set(task.losses(model, batch | {"progress": 0.25})) == {"ce", "unlabelled", "confident"}


def test_the_model_is_left_in_the_mode_it_came_in() -> None:
    model = unet().eval()
    S4PTask(CLASSES).losses(model, S4PTask(CLASSES).collate(samples()))
    assert not any(module.training for module in model.modules())


def test_samples_to_judge_on_are_ordinary_ones() -> None:
    task = S4PTask(CLASSES, mean_without=[CLASSES[0]])
    batch = task.collate([SceneDataset(32, 2, seed=1, class_set="landcover")[0]])
    assert set(batch) == {"image", "mask", "sizes", "meta"}
    figures = task.metrics()
    figures.update(task.predict(unet().eval(), batch), batch)
    rows = figures.compute()["per_class"]
    known = [r["IoU"] for n, r in rows.items() if n != CLASSES[0] and r["IoU"] is not None]
    assert figures.compute()["mIoU"] == pytest.approx(sum(known) / len(known))
    with pytest.raises(ConfigError, match="make train a SemiSupervised"):
        task.losses(unet(), batch)


class Stored:
    """Unlabelled images with masks and confidences of somebody's making."""

    def __init__(self, *stored: str, count: int = 4) -> None:
        self.count, self.stored = count, stored

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        scene = SceneDataset(32, 12, seed=4, class_set="landcover")[index]
        sure = torch.full((32, 32), 128, dtype=torch.uint8)
        sure[:16] = 255
        known = {"mask": scene.targets["mask"], "confidence": tv_tensors.Mask(sure)}
        targets = {name: known[name] for name in self.stored}
        return Sample(scene.image, targets, meta={"path": f"{index}.png"})


def stored_samples(pool: Stored) -> list[Sample]:
    labelled = SceneDataset(32, 3, seed=4, class_set="landcover")
    pairs = SemiSupervised(labelled, pool, cutmix=1.0, stored_labels=True)
    views = Augmented(pairs, S4PViews(32, scale=(0.6, 1.4)), seed=0)
    return [views[0, i] for i in range(4)]


def stored_batch(task: S4PTask, pool: Stored) -> Batch:
    return task.collate(stored_samples(pool))


def test_stored_labels_cost_no_labelling_pass_and_move_with_the_pixels() -> None:
    task = S4PTask(CLASSES, labels="stored", threshold=0.95)
    batch = stored_batch(task, Stored("mask", "confidence"))
    model = Watched(unet()).train()
    losses = task.losses(model, batch)
    assert [(c[0], c[2]) for c in model.calls] == [(True, 8)]
    seen = ~batch["ignore"]
    sure = batch["confidence"] >= 0.95
    assert float(losses["confident"]) == pytest.approx(float(sure[seen].float().mean()))
    assert 0.2 < float(losses["confident"]) < 0.8
    assert set(batch["confidence"][seen].unique().tolist()) == {
        float(torch.tensor(v, dtype=torch.uint8) / 255) for v in (128, 255)
    }


def test_stored_masks_without_confidence_are_believed() -> None:
    batch = stored_batch(S4PTask(CLASSES, labels="stored"), Stored("mask"))
    seen = ~batch["ignore"]
    assert batch["confidence"][seen].unique().tolist() == [1.0]


def test_missing_stored_labels_are_named() -> None:
    with pytest.raises(DataError, match="brings no mask"):
        stored_batch(S4PTask(CLASSES, labels="stored"), Stored("confidence"))


class Deep:
    """Unlabelled images of another format than the labelled ones."""

    def __init__(self, bands: int, dtype: torch.dtype) -> None:
        self.image = torch.zeros(bands, 32, 32, dtype=dtype)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.image, meta={"path": f"{index}.tif"})


@pytest.mark.parametrize("labels", ["online", "stored"])
@pytest.mark.parametrize("cutmix", [0.0, 1.0])
@pytest.mark.parametrize(
    ("bands", "dtype", "message"),
    [
        (3, torch.uint16, r"^0.tif.*: stored as uint16, but the model takes uint8"),
        (5, torch.uint8, r"^0.tif.*: 5 band\(s\), but the model takes 3"),
    ],
)
def test_unlabelled_images_that_the_model_was_not_made_for_are_named(
    bands: int, dtype: torch.dtype, message: str, cutmix: float, labels: Any
) -> None:
    labelled = SceneDataset(32, 3, seed=4, class_set="landcover")
    pairs = SemiSupervised(labelled, Deep(bands, dtype), cutmix=cutmix)
    views = Augmented(pairs, S4PViews(32), seed=0)
    with pytest.raises(DataError, match=message):
        S4PTask(CLASSES, labels=labels).collate([views[0, i] for i in range(2)])


def test_stored_masks_out_of_range_are_named_and_ignored_pixels_are_not_learnt() -> None:
    task, found = S4PTask(CLASSES, labels="stored"), stored_samples(Stored("mask"))
    views: UnlabelledViews = found[1].targets["unlabelled"]
    y, x = (~views.ignore).nonzero()[0].tolist()
    views.targets["mask"][y, x] = 255
    batch = task.collate(found)
    unknown = (batch["confidence"] == 0) & ~batch["ignore"]
    assert unknown.nonzero().tolist() == [[1, y, x]]
    views.targets["mask"][y, x] = 77
    with pytest.raises(
        DataError, match=r"^1.png with a box of \d.png: the mask holds class 77, bu"
    ):
        task.collate(found)


def test_labels_of_other_classes_are_refused_as_far_as_names_are_known() -> None:
    scenes = SceneDataset(32, 3, seed=4, class_set="landcover")
    named, unnamed = SemiSupervised(scenes, scenes), SemiSupervised(Stored(), Stored())
    turned = [*CLASSES[1:], CLASSES[0]]
    for labels in ("online", "stored"):
        for pairs in (named, unnamed):
            S4PTask(CLASSES, labels=labels).check_data(pairs)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"train.labelled has other classes .*: 7 for 7 \(0"):
            S4PTask(turned, labels=labels).check_data(named)  # type: ignore[arg-type]
    half = SemiSupervised(Stored(), scenes, stored_labels=True)
    S4PTask(turned).check_data(half)  # its masks aren't looked at
    with pytest.raises(ConfigError, match=r"train.unlabelled has other classes"):
        S4PTask(turned, labels="stored").check_data(half)


def test_masks_out_of_range_are_named() -> None:
    found = samples()
    found[0].targets["mask"][0, 0] = 77
    with pytest.raises(DataError, match="the mask holds class 77, but there are 7 classes"):
        S4PTask(CLASSES).collate(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "task.threshold=1.5"),
        ({"warmup": 1.0}, "task.warmup=1.0"),
        ({"label_precision": "int8"}, "fp32, bf16 or fp16"),
        ({"labels": "offline"}, "'online' or 'stored'"),
        ({"teacher": "mean"}, "'self' or 'ema'"),
    ],
)
def test_options_out_of_range_are_named(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        S4PTask(CLASSES, **options)
