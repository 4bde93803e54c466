import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import transforms as pil_transforms
from torchvision import tv_tensors
from torchvision.transforms import v2

from swath.core.data.loader import Augmented, seeded
from swath.core.data.transforms import GaussianBlur
from swath.core.errors import DataError
from swath.core.sample import Sample
from swath.pretrain.semi_supervised import SemiSupervised
from swath.pretrain.views import (
    ColorJitter,
    RandomCropPadCorner,
    RandomGrayscale,
    RandomLongSide,
    S4PViews,
    UnlabelledViews,
    cutmix_box,
    strong_view,
    weak_view,
)


def image(height: int, width: int, seed: int = 0, bands: int = 3) -> tv_tensors.Image:
    """A photograph's stand-in: smooth colours with some noise, never 0."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, bands, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    noise = torch.rand(bands, height, width, generator=generator)
    return tv_tensors.Image((20 + 210 * smooth.clamp(0, 1) + 20 * noise).to(torch.uint8))


class Images:
    """Images of one size without labels; the mask of each is its number where there is one."""

    def __init__(self, count: int, height: int = 40, width: int = 56, masks: bool = False) -> None:
        self.count, self.height, self.width, self.masks = count, height, width, masks

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        mask = torch.full((self.height, self.width), index, dtype=torch.uint8)
        targets = {"mask": tv_tensors.Mask(mask)} if self.masks else {}
        return Sample(image(self.height, self.width, index), targets, meta={"id": index})


# --- weak view ---------------------------------------------------------------------------------


def test_the_long_side_is_uniform_from_half_to_double() -> None:
    scale = RandomLongSide((0.5, 2.0))
    with seeded(0):
        sides = np.array([max(scale.make_params([image(30, 40)])["size"]) for _ in range(6000)])
    assert (sides.min(), sides.max()) == (20, 80)
    share = np.bincount(sides)[20:] * 61 / 6000  # 61 whole numbers, each as likely
    print(f"share of a side, of what is expected: {share.min():.2f} to {share.max():.2f}")
    assert share.min() > 0.6
    assert share.max() < 1.5


def test_proportions_are_kept() -> None:
    with seeded(1):
        for _ in range(50):
            height, width = RandomLongSide().make_params([image(30, 40)])["size"]
            assert height == round(width * 30 / 40)


def test_what_is_smaller_than_the_crop_lies_in_the_corner_on_black_and_unlabelled() -> None:
    picture, mask = image(10, 14), tv_tensors.Mask(torch.ones(10, 14, dtype=torch.uint8))
    valid = tv_tensors.Mask(torch.ones(10, 14, dtype=torch.bool))
    out, label, seen = RandomCropPadCorner(16, ignore_index=255)(picture, mask, valid)
    assert out[:, :10, :14].equal(picture)
    assert out[:, 10:].eq(0).all()
    assert out[:, :, 14:].eq(0).all()
    assert label.eq(255).equal(~seen.bool())
    assert int(seen.sum()) == 140


def test_a_crop_of_a_larger_image_reaches_every_place_and_pads_nothing() -> None:
    crop = RandomCropPadCorner(8)
    with seeded(2):
        corners = [tuple(crop.make_params([image(12, 10)]).values()) for _ in range(300)]
    assert set(corners) == {(top, left) for top in range(5) for left in range(3)}


def test_each_flip_happens_half_the_time() -> None:
    first = tv_tensors.Mask(torch.arange(4, dtype=torch.uint8).reshape(2, 2))
    view = weak_view(2, (1.0, 1.0))
    with seeded(3):
        counts = np.bincount([int(view(first)[0, 0]) for _ in range(2000)], minlength=4)
    assert counts.min() > 430
    assert counts.max() < 570


# --- strong view -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("brightness", 1.4), ("contrast", 0.6), ("contrast", 1.5), ("saturation", 0.5),
     ("saturation", 1.5), ("hue", 0.2), ("hue", -0.25)],
)  # fmt: skip
def test_each_change_of_colour_is_pillows(name: str, value: float) -> None:
    picture = image(64, 64)
    got = ColorJitter().transform(picture, {name: value})
    pil = v2.functional.to_pil_image(picture)
    adjust = getattr(pil_transforms.functional, f"adjust_{name}")
    want = v2.functional.pil_to_tensor(adjust(pil, value))
    levels = (got.short() - want.short()).abs()
    print(f"{name} {value}: {levels.max()} levels at most, {levels.float().mean():.2f} on average")
    assert levels.float().mean() < 1.0
    assert levels.max() <= (8 if name == "hue" else 2)  # both store a hue in 256 steps


def test_factors_are_uniform_about_one_and_the_order_is_random() -> None:
    jitter = ColorJitter(0.5, 0.5, 0.5, 0.25, p=0.8)
    with seeded(4):
        drawn = [jitter.make_params([image(8, 8)]) for _ in range(3000)]
    happened = [d for d in drawn if d]
    assert len(happened) / 3000 == pytest.approx(0.8, abs=0.03)
    for name, low, high in (("brightness", 0.5, 1.5), ("contrast", 0.5, 1.5),
                            ("saturation", 0.5, 1.5), ("hue", -0.25, 0.25)):  # fmt: skip
        values = np.array([d[name] for d in happened])
        assert low <= values.min() < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    assert len({tuple(d) for d in happened}) == math.factorial(4)


def test_nothing_of_the_strong_view_moves() -> None:
    dot = tv_tensors.Image(torch.full((3, 33, 33), 90, dtype=torch.uint8))
    dot[:, 15:18, 15:18] = 255
    with seeded(5):
        for _ in range(40):
            out = strong_view()(dot).float().sum(0)
            change = (out - out[0, 0]).abs()  # what the square brings, spread by the blur
            assert change[16, 16] == change.max()
            assert change.equal(change.flip(0))
            assert change.equal(change.flip(1))


def test_a_weaker_strong_view_changes_colours_less() -> None:
    flat = tv_tensors.Image(
        torch.tensor([120, 80, 40], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    )

    def change(strength: float) -> float:
        view = strong_view(strength)
        with seeded(8):
            changed = [(view(flat).float() - flat.float()).abs().mean() for _ in range(200)]
        return float(torch.stack(changed).mean())

    assert change(0.0) == 0.0  # what is left, the blur, shows nothing on one colour
    assert 0 < 2 * change(0.3) < change(1.0)


@pytest.mark.parametrize("bands", [1, 5])
def test_images_of_other_bands_and_dtypes_get_a_strong_view_too(bands: int) -> None:
    wide = tv_tensors.Image(image(24, 24, bands=bands).to(torch.int32).mul(200).to(torch.uint16))
    with seeded(6):
        out = [strong_view()(wide) for _ in range(20)]
    assert all(o.shape == wide.shape and o.dtype == torch.uint16 for o in out)
    assert sum(not o.equal(wide) for o in out) > 10


def test_grey_is_the_same_in_all_bands() -> None:
    for bands in (3, 5):
        grey = RandomGrayscale(p=1.0)(image(8, 8, bands=bands))
        assert all(grey[i].equal(grey[0]) for i in range(bands))


# --- CutMix ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(16, 120), st.integers(16, 120))
def test_a_box_is_one_rectangle_inside_the_image(seed: int, height: int, width: int) -> None:
    with seeded(seed):
        box = cutmix_box(height, width)
    rows, columns = box.any(1).nonzero().flatten(), box.any(0).nonzero().flatten()
    assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert int(box.sum()) == len(rows) * len(columns)


def test_areas_and_proportions_of_boxes_are_those_of_the_paper() -> None:
    side = 512
    with seeded(7):
        boxes = [cutmix_box(side, side) for _ in range(400)]
    area = np.array([float(box.float().mean()) for box in boxes])
    aspect = np.array([float(b.any(1).sum()) / float(b.any(0).sum()) for b in boxes])
    print(f"area {area.min():.3f}..{area.max():.3f}, mean {area.mean():.3f}; "
          f"aspect {aspect.min():.2f}..{aspect.max():.2f}")  # fmt: skip
    assert 0.019 <= area.min() < 0.05
    assert 0.36 < area.max() <= 0.4
    assert area.mean() == pytest.approx(0.21, abs=0.012)  # uniform in [0.02, 0.4]
    assert 0.29 <= aspect.min() < 0.4
    assert 2.5 < aspect.max() <= 3.36


# --- the whole ---------------------------------------------------------------------------------


def test_views_agree_pixel_by_pixel_about_who_is_where() -> None:
    pairs = SemiSupervised(
        Images(4, masks=True), Images(8, masks=True), cutmix=1.0, stored_labels=True
    )
    plain = S4PViews(48)
    plain.strong = v2.Identity()  # colours as they are: the strong view is the weak one, mixed
    views = Augmented(pairs, plain, seed=8)
    for key in range(8):
        sample = views[0, key]
        v: UnlabelledViews = sample.targets["unlabelled"]
        assert v.weak_mix is not None
        assert v.box.any()
        assert v.strong.equal(torch.where(v.box, v.weak_mix, v.weak))
        label = v.targets["mask"]
        partner = set(label[v.box].tolist()) - {255}
        assert set(label[~v.box].tolist()) <= {key, 255}
        assert len(partner) <= 1
        assert key not in partner
        assert label.eq(255).equal(v.ignore), "padding is never labelled"
        assert v.strong[:, v.ignore].eq(0).all()
        assert set(sample.targets["mask"].unique().tolist()) <= {key % 4, 255}


def test_stored_labels_need_both_masks_and_no_confidence() -> None:
    one, other = Images(2, masks=True)[0], Images(2, masks=True)[1]
    sure = tv_tensors.Mask(torch.full(one.targets["mask"].shape, 51, dtype=torch.uint8))
    doubtful = replace(one, targets=one.targets | {"confidence": sure})
    bare = replace(other, targets={})
    with seeded(3):
        for known, partner in ((doubtful, other), (other, doubtful)):
            _, out, _ = S4PViews(48)(one.image, {"unlabelled": known, "mix": partner}, None)
            views: UnlabelledViews = out["unlabelled"]
            confidence = views.targets["confidence"]
            theirs = views.box if partner is doubtful else ~views.box
            assert confidence[theirs & ~views.ignore].eq(0.2).all()
            assert confidence[~theirs].eq(1).all()
        for known, partner in ((one, bare), (bare, one)):
            _, out, _ = S4PViews(48)(one.image, {"unlabelled": known, "mix": partner}, None)
            assert not out["unlabelled"].targets


def test_padding_and_nodata_are_black_and_ignored() -> None:
    sample = Images(1)[0]
    nodata = torch.ones(40, 56, dtype=torch.bool)
    nodata[:, :20] = False
    sample.valid = tv_tensors.Mask(nodata)
    with seeded(9):
        for _ in range(20):
            targets = {"unlabelled": sample}
            _, out, _ = S4PViews(64)(sample.image, targets, None)
            views: UnlabelledViews = out["unlabelled"]
            inside = torch.nn.functional.max_pool2d((~views.ignore)[None].float(), 5, 1, 2)[0] == 0
            assert views.weak[:, inside].eq(0).all()  # but for interpolation at the edge
            assert views.ignore.any()
            assert views.weak_mix is None
            assert not views.box.any()


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.float32])
def test_every_dtype_of_a_sample_is_changed_and_keeps_its_nodata(
    dtype: torch.dtype, bands: int
) -> None:
    valid = torch.ones(40, 56, dtype=torch.bool)
    valid[:, :20] = False
    one, other = (
        Sample(image(40, 56, seed, bands).to(dtype), valid=tv_tensors.Mask(valid))
        for seed in (0, 1)
    )
    views = S4PViews(48)
    views.strong = v2.Compose(
        [ColorJitter(p=1.0), RandomGrayscale(p=1.0), GaussianBlur((1.0, 1.0), p=1.0)]
    )
    with seeded(4):
        _, out, _ = views(one.image, {"unlabelled": one, "mix": other}, one.valid)
    found: UnlabelledViews = out["unlabelled"]
    assert found.weak_mix is not None
    assert {x.dtype for x in (found.weak, found.strong, found.weak_mix)} == {dtype}
    assert found.strong.shape == (bands, 48, 48)
    assert not found.strong.float()[:, ~found.ignore].eq(found.weak.float()[:, ~found.ignore]).all()
    assert found.weak.float()[:, found.ignore & ~found.box].mean() < 10, "black but for its edge"


def test_a_partner_of_other_bands_or_dtype_is_named() -> None:
    one = Sample(image(40, 56), meta={"path": "a.tif"})
    other = Sample(image(40, 56, bands=5).to(torch.uint16), meta={"path": "b.tif"})
    message = r"^b.tif: 5 band\(s\) of uint16, but a.tif, .* has 3 of uint8; make the unlabelled"
    with pytest.raises(DataError, match=message):
        S4PViews(32)(one.image, {"unlabelled": one, "mix": other}, None)


def test_views_depend_on_seed_epoch_and_index_alone() -> None:
    views = Augmented(SemiSupervised(Images(3, masks=True), Images(9)), S4PViews(32), seed=1)

    def pixels(epoch: int, index: int) -> torch.Tensor:
        found: UnlabelledViews = views[epoch, index].targets["unlabelled"]
        return torch.stack([found.weak, found.strong])

    first = pixels(0, 5)
    torch.rand(100)
    pixels(0, 6)
    assert pixels(0, 5).equal(first)
    assert not pixels(1, 5).equal(first)
