import pytest
import torch
from torchvision import tv_tensors

from swath.core.config import TrainConfig
from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample
from swath.mtl.models.rscotr import RSCoTr
from swath.mtl.multi_task import MultiTask
from swath.mtl.tasks import BoxTask, MaskMetrics, MaskTask, SceneClassificationTask


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
    # as officially, the terms are those of any other batch: loggers and processes see the same ones
    depth = len(model.heads["det"].layers)
    noised = [loss for name, loss in losses.items() if "dn_loss_" in name]
    assert len(noised) == 3 * depth
    assert not any(float(loss.detach()) for loss in noised)
    assert float(losses["loss_bbox"].detach()) == 0
    torch.stack([*losses.values()]).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.heads["det"].label_embedding.weight.grad is not None


def test_boxes_end_where_their_image_does() -> None:
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor([[-8.0, 10, 20, 70], [4, 4, 30, 30]]), format="XYXY", canvas_size=(40, 64)
    )
    image = torch.zeros(3, 40, 64, dtype=torch.uint8)
    sample = Sample(image, {"boxes": boxes, "labels": torch.tensor([0, 0])})
    larger = Sample(torch.zeros(3, 64, 64, dtype=torch.uint8), sample.targets)
    batch = BoxTask(["a"]).collate([sample, larger])
    # the first image is padded to 64 px; its boxes still end at its own border
    assert batch["boxes"][0].tolist() == [[0, 10, 20, 40], [4, 4, 30, 30]]
    assert batch["boxes"][1].tolist() == [[0, 10, 20, 64], [4, 4, 30, 30]]


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
    with pytest.raises(ConfigError, match="must be the last of the classes"):
        MaskTask(["a", "b"], unjudged=["a"])


@pytest.mark.parametrize("ignored", [5, -1, 255])
def test_pixels_that_a_data_set_ignores_are_not_learnt_whatever_it_calls_them(
    tiny: TrainConfig, model: RSCoTr, ignored: int
) -> None:
    classes = tiny.task.build().parts["seg/cover"].classes
    assert model.head("seg").out_channels > 5  # else 5 could be no label of the head's
    losses = []
    for label, task in (
        (255, MaskTask(classes)),
        (ignored, MaskTask(classes, ignore_index=ignored)),
    ):
        mask = torch.zeros(64, 64, dtype=torch.int64)
        mask[20:] = label
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        batch = task.collate([Sample(image, {"mask": tv_tensors.Mask(mask)})])
        losses.append({k: float(v.detach()) for k, v in task.losses(model, batch).items()})
    assert losses[0] == losses[1]


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
