"""Augmentation: what moves, how padding is marked, no overflow at any dtype or band count."""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from swath.core.data.loader import seeded
from swath.core.data.transforms import (
    ColorJitter,
    Dihedral,
    DropInvisible,
    GaussianBlur,
    GaussianNoise,
    RandomCropPad,
    RandomRotate,
    RandomScale,
    RandomScaledCrop,
    light_augment,
    strong_augment,
)
from swath.core.sample import Sample
from swath.core.spec import Spec, from_data, to_data
from swath.core.structures import RotatedBoxes

DTYPES = (torch.uint8, torch.uint16, torch.int16, torch.float32)
BANDS = (1, 3, 4, 13)


def make_image(
    bands: int = 3, height: int = 40, width: int = 56, dtype: torch.dtype = torch.uint8
) -> Tensor:
    rng = np.random.default_rng(0)
    top = 1.0 if dtype == torch.float32 else float(torch.iinfo(dtype).max)
    return torch.from_numpy(rng.uniform(0, top, (bands, height, width))).to(dtype)


def make_sample(
    height: int = 40, width: int = 56, mask_dtype: torch.dtype = torch.int64, bands: int = 3
) -> Sample:
    """A bright object in the image, the mask, the instances and the boxes alike."""
    box = RotatedBoxes([[30.0, 18.0, 24.0, 10.0, 0.6]], canvas_size=(height, width))
    drawn = np.zeros((height, width), np.uint8)
    corners = np.round((box.to_quads()[0].numpy() - 0.5) * 16).astype(np.int32)
    cv2.fillConvexPoly(drawn, corners, 1, shift=4)
    mask = torch.from_numpy(drawn)
    return Sample(
        image=(mask * 200).expand(bands, -1, -1).clone(),
        targets={
            "mask": tv_tensors.Mask(mask.to(mask_dtype)),
            "instances": tv_tensors.Mask(mask[None].bool()),
            "boxes": box,
            "labels": torch.tensor([1]),
            "caption": "a field",
        },
        valid=tv_tensors.Mask(torch.ones(height, width, dtype=torch.bool)),
    )


GEOMETRIC: dict[str, Callable[[], Any]] = {
    "scale": lambda: RandomScale((0.5, 2.0)),
    "crop": lambda: RandomCropPad(48),
    "scaled crop": lambda: RandomScaledCrop((64, 48), scale=(0.5, 2.0)),
    "dihedral": Dihedral,
    "rotate": lambda: RandomRotate(180.0),
    "light": lambda: light_augment(64, scale=(0.9, 1.5)),
}


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("mask_dtype", [torch.uint8, torch.int64])
def test_image_masks_and_boxes_move_together(name: str, mask_dtype: torch.dtype) -> None:
    transform = GEOMETRIC[name]()
    for seed in range(12):
        with seeded(seed):
            out = make_sample(mask_dtype=mask_dtype).map(transform)
        mask, size = out.targets["mask"], tuple(out.image.shape[-2:])
        assert mask.dtype == mask_dtype
        assert tuple(mask.shape) == tuple(out.valid.shape) == size
        assert out.targets["instances"].shape[1:] == size
        assert isinstance(out.targets["mask"], tv_tensors.Mask)
        assert isinstance(out.image, tv_tensors.Image)
        boxes = out.targets["boxes"]
        assert isinstance(boxes, RotatedBoxes)
        assert boxes.canvas_size == size
        # image and mask agree except along the object's edge
        bright = (out.image[0] > 80).as_subclass(Tensor)
        assert (bright != (mask == 1)).float().mean() < 0.03
        # padding, and only padding, is marked
        assert torch.equal(mask == 255, ~out.valid)
        if len(boxes) and (mask == 1).any():
            rows, columns = torch.nonzero((mask == 1).as_subclass(Tensor), as_tuple=True)
            points = torch.stack((columns, rows), 1) + 0.5 - boxes[0, :2]
            cos, sin = boxes[0, 4].cos(), boxes[0, 4].sin()
            along, across = points @ torch.stack((cos, sin)), points @ torch.stack((-sin, cos))
            assert (along.abs() <= boxes[0, 2] / 2 + 2.5).all()
            assert (across.abs() <= boxes[0, 3] / 2 + 2.5).all()


def test_dihedral_shows_all_eight_orientations_exactly() -> None:
    image = tv_tensors.Image(make_image(2, 5, 7))
    wanted = {
        torch.rot90(image, k, (1, 2)).flip(-1).numpy().tobytes()
        if flip
        else torch.rot90(image, k, (1, 2)).contiguous().numpy().tobytes()
        for k in range(4)
        for flip in (False, True)
    }
    seen = set()
    transform = Dihedral()
    for seed in range(80):
        with seeded(seed):
            seen.add(transform(image).numpy().tobytes())
    assert seen == wanted


def test_a_crop_smaller_than_the_image_is_a_window_of_it() -> None:
    image = torch.arange(40 * 56).reshape(1, 40, 56).to(torch.uint16)
    starts = set()
    for seed in range(60):
        with seeded(seed):
            out = RandomCropPad((16, 20))(tv_tensors.Image(image))
        top, left = divmod(int(out[0, 0, 0]), 56)
        assert torch.equal(
            out.as_subclass(Tensor).int(), image[:, top : top + 16, left : left + 20].int()
        )
        starts.add((top, left))
    assert len(starts) > 40


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_smaller_than_the_crop_is_padded_and_marked(dtype: torch.dtype) -> None:
    image = make_image(5, 10, 12, dtype)
    sample = Sample(
        image=image,
        targets={
            "mask": tv_tensors.Mask(torch.full((10, 12), 3)),
            "instances": tv_tensors.Mask(torch.ones(2, 10, 12, dtype=torch.uint8)),
        },
        valid=tv_tensors.Mask(torch.ones(10, 12, dtype=torch.bool)),
    )
    out = sample.map(RandomCropPad(20, ignore_index=9))
    assert out.image.dtype == dtype
    assert out.valid is not None
    assert int(out.valid.sum()) == int((out.targets["mask"] == 3).sum()) == 120
    assert int((out.targets["mask"] == 9).sum()) == 400 - 120
    assert int(out.targets["instances"].sum()) == 240
    valid = out.valid.numpy()
    assert (out.image.numpy()[:, ~valid] == 0).all()
    np.testing.assert_array_equal(out.image.numpy()[:, valid], image.numpy().reshape(5, -1))


def test_scaling_and_cropping_at_once_shows_what_the_two_steps_show() -> None:
    ramp = torch.arange(128.0).repeat(128, 1)[None]
    with seeded(1):
        out = RandomScaledCrop(32, scale=(2.0, 2.0))(tv_tensors.Image(ramp))
    steps = out[0, 0, 2:-2].diff()  # twice as large: half a unit a pixel
    torch.testing.assert_close(steps.as_subclass(Tensor), torch.full_like(steps, 0.5))
    shrunk = RandomScaledCrop(32, scale=(0.25, 0.25))(tv_tensors.Image(ramp))
    torch.testing.assert_close(shrunk[0, 0].as_subclass(Tensor), torch.arange(32.0) * 4 + 1.5)


PHOTOMETRIC: dict[str, Callable[[], Any]] = {
    "jitter": lambda: ColorJitter(0.9, 0.9, saturation=0.9, gamma=0.5, gain=0.5),
    "curves only": lambda: ColorJitter(0.5, 0.5, gamma=0.5, gain=0.5),
    "blur": lambda: GaussianBlur((1.0, 2.0), p=1.0),
    "noise": lambda: GaussianNoise((0.5, 1.0), p=1.0),
}


@pytest.mark.parametrize("name", PHOTOMETRIC)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bands", BANDS)
def test_light_changes_without_overflow_at_any_dtype_and_band_count(
    name: str, dtype: torch.dtype, bands: int
) -> None:
    # the largest values: one step too far and a wrapped value would be near the bottom
    image = make_image(bands, 24, 24, dtype)
    top = 1.0 if dtype == torch.float32 else float(torch.iinfo(dtype).max)
    image[:, :12] = torch.full_like(image[:, :12], int(top))
    transform = PHOTOMETRIC[name]()
    mask = tv_tensors.Mask(torch.ones(24, 24, dtype=torch.int64))
    changed = 0
    for seed in range(6):
        with seeded(seed):
            out, same = transform(tv_tensors.Image(image), mask)
        assert out.dtype == dtype
        assert out.shape == image.shape
        assert same is mask
        values = out.numpy().astype(np.float64)
        assert np.isfinite(values).all()
        assert values[:, 2:9].mean() >= values[:, 14:].mean()  # bright stays brighter than dim
        changed += not np.array_equal(out.numpy(), image.numpy())
    assert changed


@pytest.mark.parametrize("dtype", DTYPES)
def test_jitter_matches_the_formula(dtype: torch.dtype) -> None:
    image = make_image(4, 16, 16, dtype)
    jitter = ColorJitter(0.3, 0.3, saturation=0.4, gamma=0.4, gain=0.2, value_range=(0, 200))
    with seeded(5):
        params = jitter.make_params([image])
    out = jitter.transform(tv_tensors.Image(image), params).numpy().astype(np.float64)

    x = image.numpy().astype(np.float64)
    mean = x.mean((1, 2), keepdims=True)

    def curve(values: np.ndarray) -> np.ndarray:
        values = values * params["gain"][:, None, None]
        inside = (values > 0) & (values < 200)
        bent = 200 * (np.clip(values, 0, 200) / 200) ** params["gamma"]
        return np.where(inside, bent, values) * params["brightness"]

    x, pivot = curve(x), curve(mean)
    x = pivot + params["contrast"] * (x - pivot)
    if dtype == torch.uint8:  # goes through a table of rounded values
        x = np.clip(np.rint(x), 0, 255)
    grey = x.mean(0, keepdims=True)
    x = grey + params["saturation"] * (x - grey)
    if dtype != torch.float32:
        limits = torch.iinfo(dtype)
        x = np.clip(np.rint(x), limits.min, limits.max)
    unit = 1e-5 if dtype == torch.float32 else 1
    np.testing.assert_allclose(out, x, atol=unit, rtol=1e-5)


@pytest.mark.parametrize("name", [*PHOTOMETRIC, "dihedral", "scaled crop", "rotate"])
def test_the_memory_layout_of_the_image_does_not_matter(name: str) -> None:
    transform = (PHOTOMETRIC | GEOMETRIC)[name]()
    image = make_image(3, 24, 24)
    by_pixel = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    with seeded(2):
        wanted = transform(tv_tensors.Image(image))
    with seeded(2):
        assert torch.equal(transform(tv_tensors.Image(by_pixel)), wanted)


def test_pixels_without_data_do_not_spread_through_the_jitter() -> None:
    image = make_image(2, 16, 16, torch.float32)
    image[0, 3, 4] = math.nan
    out = ColorJitter(0.3, 0.3)(tv_tensors.Image(image))
    assert int(torch.isnan(out).sum()) == 1
    noisy = GaussianNoise((0.2, 0.2), p=1.0)(tv_tensors.Image(image))
    assert int(torch.isnan(noisy).sum()) == 1


def test_noise_is_as_strong_as_asked_for_relative_to_the_band() -> None:
    image = make_image(2, 64, 64, torch.float32) * torch.tensor([1.0, 1000.0])[:, None, None]
    out = GaussianNoise((0.1, 0.1), p=1.0)(tv_tensors.Image(image))
    share = (out - image).std((1, 2)) / image.std((1, 2))
    torch.testing.assert_close(share.as_subclass(Tensor), torch.full((2,), 0.1), atol=0.01, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("build", [light_augment, strong_augment])
def test_the_ready_made_augmentations_take_anything(
    build: Callable[..., Any], bands: int, dtype: torch.dtype
) -> None:
    transform = build(48)
    for seed, (height, width) in enumerate([(30, 90), (100, 70), (48, 48), (20, 20)]):
        sample = make_sample(height, width)
        sample.image = make_image(bands, height, width, dtype)
        with seeded(seed):
            out = sample.map(transform)
        assert out.image.shape == (bands, 48, 48)
        assert out.image.dtype == dtype
        assert out.image.is_contiguous()
        assert out.targets["caption"] == "a field"
        assert len(out.targets["labels"]) == len(out.targets["boxes"])
        assert len(out.targets["labels"]) == len(out.targets["instances"])


def test_rotation_mirrors_masks_with_the_image_but_refuses_boxes() -> None:
    sample = make_sample()
    with pytest.raises(ValueError, match="use 'ignore'"):
        sample.map(RandomRotate(30.0, mode="reflect"))
    sample.targets = {"mask": sample.targets["mask"]}
    out = sample.map(RandomRotate(30.0, mode="reflect"))
    assert out.valid is not None
    assert bool(out.valid.all())
    assert not (out.targets["mask"] == 255).any()


def test_objects_cut_off_lose_box_label_and_mask() -> None:
    targets = {
        "boxes": RotatedBoxes([[8.0, 8, 6, 4, 0], [-9, 8, 20, 4, 0]], canvas_size=(16, 16)),
        "labels": torch.tensor([4, 7]),
        "instances": tv_tensors.Mask(torch.ones(2, 16, 16, dtype=torch.bool)),
        "names": ["a", "b"],
    }
    image = tv_tensors.Image(torch.zeros(3, 16, 16))
    drop = DropInvisible(names=("boxes", "labels", "instances", "names"))
    _, kept, _ = drop(image, targets, None)
    assert isinstance(kept["boxes"], RotatedBoxes)
    assert isinstance(kept["instances"], tv_tensors.Mask)
    assert kept["labels"].tolist() == [4]
    assert kept["names"] == ["a"]
    assert len(kept["instances"]) == len(kept["boxes"]) == 1
    flat = tv_tensors.BoundingBoxes(
        [[2.0, 2, 8, 8], [0, 4, 16, 4]], format="XYXY", canvas_size=(16, 16)
    )
    by_default = {"labels": torch.tensor([4, 7]), "difficult": torch.tensor([False, True])}
    _, kept = DropInvisible()(image, {"boxes": flat, **by_default})
    assert kept["labels"].tolist() == [4]
    assert kept["difficult"].tolist() == [False]


def test_builders_can_be_written_in_a_config() -> None:
    spec = Spec(light_augment, size=32, scale=(0.5, 2.0))
    assert from_data(to_data(spec)) == spec
    out = make_sample().map(spec.build())
    assert tuple(out.image.shape) == (3, 32, 32)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomScale((2.0, 1.0)), r"scale must be two values .*got \(2.0, 1.0\)"),
        (lambda: RandomCropPad(0), "size must be positive; got 0"),
        (lambda: ColorJitter(1.5), "brightness must be between 0 and 1; got 1.5"),
        (lambda: RandomRotate(3.0, mode="wrap"), "'ignore' or 'reflect'; got 'wrap'"),
    ],
)
def test_refuses_settings_without_meaning(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
