import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError, DataError
from swath.core.inference.protocols import EvaluationMode
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask, cross_entropy, dice_loss


class InDict(nn.Module):
    """Gives its logits as torchvision's models do."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": image}


class PerPixel(nn.Module):
    """Logits from each pixel alone, so that results can be worked out by hand."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.conv(image)
        return logits


def sample(height: int, width: int, classes: int = 3, seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    mask = torch.randint(0, classes, (height, width), generator=generator)
    return Sample(image, {"mask": mask}, meta={"id": f"sample-{seed}"})


def test_collate_scales_once_and_pads_smaller_images_with_ignored_pixels() -> None:
    task = SegmentationTask("abc")
    batch = task.collate([sample(8, 6), sample(5, 9, seed=1)])
    assert batch["image"].shape == (2, 3, 8, 9)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].dtype == torch.int64
    assert (batch["mask"][1, 5:] == 255).all()
    assert (batch["mask"][0, :, 6:] == 255).all()
    assert (batch["image"][1, :, 5:] == 0).all()
    torch.testing.assert_close(batch["image"][0, :, :, :6], Radiometry.rgb8()(sample(8, 6).image))


def test_invalid_pixels_are_ignored_and_carry_no_number() -> None:
    s = sample(4, 4)
    s.valid = torch.ones(4, 4, dtype=torch.bool)
    s.valid[0] = False
    batch = SegmentationTask("abc").collate([s])
    assert (batch["mask"][0, 0] == 255).all()
    assert (batch["image"][0, :, 0] == 0).all()
    assert (batch["mask"][0, 1:] != 255).all()


def test_a_mean_without_an_unknown_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ship'"):
        SegmentationTask(["sea", "ship"], mean_without=["shop"])


def test_samples_without_masks_can_neither_train_nor_judge() -> None:
    task = SegmentationTask("abc")
    batch = task.collate([Sample(sample(4, 4).image, meta={"path": "test/9.png"})])
    with pytest.raises(DataError, match=r"test/9\.png: .* without mask; take a split whose"):
        task.losses(PerPixel(3), batch)
    with pytest.raises(DataError, match="without mask"):
        task.metrics().update(task.predict(PerPixel(3), batch), batch)


def test_samples_without_masks_collate_for_prediction() -> None:
    assert "mask" not in SegmentationTask("abc").collate([Sample(sample(4, 4).image)])


def test_a_class_that_does_not_exist_names_sample_and_class() -> None:
    s = sample(4, 4)
    s.targets["mask"][2, 2] = 7
    with pytest.raises(DataError, match=r"sample-0: the mask holds class 7, .* \(0\.\.2\)"):
        SegmentationTask("abc").collate([s])


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(DataError, match="uint16"):
        SegmentationTask("abc").collate([Sample(torch.zeros(3, 4, 4, dtype=torch.uint16))])


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0)])
def test_cross_entropy_is_torchs_mean(weights: tuple[float, ...] | None) -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 3, 6, 5), torch.randint(0, 3, (2, 6, 5))
    mask[0, :3] = 255
    weight = torch.tensor(weights) if weights else None
    want = F.cross_entropy(logits, mask, weight=weight, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, mask, 255, weights), want)


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0)])
def test_a_batch_without_labels_gives_zero_loss_and_zero_gradients(
    weights: tuple[float, ...] | None,
) -> None:
    task = SegmentationTask("abc", class_weights=weights, dice_weight=1.0)
    s = sample(4, 4)
    s.targets["mask"][:] = 255
    model = PerPixel(3)
    losses = task.losses(model, task.collate([s]))
    sum(losses.values(), torch.zeros(())).backward()
    assert {name: value.item() for name, value in losses.items()} == {"ce": 0, "dice": 0}
    assert model.conv.weight.grad is not None
    assert (model.conv.weight.grad == 0).all()


def test_dice_is_zero_for_a_perfect_prediction_and_ignores_what_is_ignored() -> None:
    mask = torch.tensor([[[0, 1, 255, 1]]])
    logits = F.one_hot(mask.clamp(max=1), 2).movedim(-1, 1).float() * 100
    logits[..., 2] = torch.tensor([50.0, -50.0]).view(1, 2, 1)
    assert float(dice_loss(logits, mask)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(-logits, mask)) == pytest.approx(1, abs=1e-6)


def test_a_prediction_does_not_depend_on_what_else_is_in_the_batch() -> None:
    task = SegmentationTask("abc", dice_weight=0.5)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    samples = [sample(8, 6), sample(5, 9, seed=1)]
    together = task.predict(model, task.collate(samples))
    for s, got in zip(samples, together, strict=True):
        assert got.shape[-2:] == s.image.shape[-2:]
        torch.testing.assert_close(got, task.predict(model, task.collate([s]))[0])


def test_flip_tta_averages_the_probabilities_of_both_views() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 3, 3, padding=1)
    task = SegmentationTask("abc", flip_tta=True)
    batch = task.collate([sample(6, 7)])
    image = batch["image"]
    want = (model(image).softmax(1) + model(image.flip(-1)).softmax(1).flip(-1)) / 2
    torch.testing.assert_close(task.predict(model, batch)[0].softmax(0), want[0])


def test_metrics_of_a_perfect_model_are_perfect() -> None:
    task = SegmentationTask("abc")
    batch = task.collate([sample(6, 7)])
    metrics = task.metrics()
    metrics.update([F.one_hot(batch["mask"][0], 3).movedim(-1, 0).float()], batch)
    assert metrics.compute()[task.score] == 1


def test_evaluation_mode_is_used_in_predict() -> None:
    task = SegmentationTask("abc", evaluation=EvaluationMode("resize", size=16))
    model = PerPixel(3)
    assert task.predict(model, task.collate([sample(6, 7)]))[0].shape == (3, 6, 7)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("palette", [(0, 0, 0)]), ("class_weights", [1.0]), ("mean_over", "some")],
)
def test_wrong_arguments_name_themselves(argument: str, value: object) -> None:
    with pytest.raises(ConfigError, match=argument):
        SegmentationTask("abc", **{argument: value})  # type: ignore[arg-type]


def made(**changes: object) -> Sample:
    image = torch.zeros(3, 8, 6, dtype=torch.uint8)
    parts = {"image": image, "mask": torch.zeros(8, 6, dtype=torch.int64), "valid": None}
    parts |= changes  # type: ignore[assignment]
    return Sample(parts["image"], {"mask": parts["mask"]}, parts["valid"], {"id": "a"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": torch.zeros(4, 6, dtype=torch.int64)}, r"a: the mask .*\(8, 6\); got .*\(4, 6\)"),
        ({"mask": torch.zeros(1, 8, 6, dtype=torch.int64)}, "a: the mask must be a tensor of int"),
        (
            {"mask": torch.zeros(8, 6)},
            "a: the mask must be a tensor of int.* got a Tensor, tor",
        ),
        ({"mask": np.zeros((8, 6), int)}, "a: the mask must be .* got a ndarray"),
        ({"mask": 3}, "a: the mask must be .* got a int"),
        ({"image": torch.zeros(8, 6)}, r"a: the image must be a tensor \(C, H, W\)"),
        ({"image": np.zeros((3, 8, 6))}, r"a: the image must be a tensor \(C, H, W\)"),
        ({"valid": torch.full((8, 6), 255, dtype=torch.uint8)}, "a: valid must be a boolean"),
        ({"valid": torch.ones(6, 8, dtype=torch.bool)}, "a: valid must be .* the image's shape"),
    ],
)
def test_what_is_no_image_or_no_mask_of_it_is_refused(changes: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SegmentationTask(["a", "b"]).collate([made(**changes)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(3, 3, 1), "the model scores 3 classes, the task has 2"),
        (nn.Conv2d(3, 1, 1), "the model scores 1 classes, the task has 2"),
        (nn.Conv2d(3, 2, 1, stride=2), "logits of 3 x 4 px for images of 6 x 8 px"),
        (nn.Flatten(2), "gave a Tensor, torch.float32 of shape"),
        (InDict(), "gave a dict; a segmentation model gives logits"),
    ],
)
def test_a_model_that_gives_no_logit_a_class_and_pixel_is_refused(
    model: nn.Module, message: str
) -> None:
    task = SegmentationTask(["a", "b"])
    batch = task.collate([made()])
    with pytest.raises(ConfigError, match=message):
        task.losses(model, batch)
    with pytest.raises(ConfigError, match=message):
        task.predict(model, batch)


@pytest.mark.parametrize("classes", [[], ["a", "b", "a"]])
def test_classes_are_different_names(classes: list[str]) -> None:
    with pytest.raises(ConfigError, match="classes"):
        SegmentationTask(classes)


@pytest.mark.parametrize("colour", ["red", (0, 0), (300, 0, 0), ("1", "2", "3")])
def test_colours_are_three_bytes(colour: object) -> None:
    with pytest.raises(ConfigError, match="palette must hold three whole numbers"):
        SegmentationTask(["a", "b"], palette=[(0, 0, 0), colour])  # type: ignore[list-item]
