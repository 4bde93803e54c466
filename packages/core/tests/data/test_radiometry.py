from typing import Any

import numpy as np
import pytest
import torch

from swath.core.data.radiometry import Radiometry
from swath.core.errors import DataError
from swath.core.sample import Sample
from swath.core.spec import from_data, to_data

S2 = Radiometry(("red", "nir"), "uint16", 1e-4, (0.1, 0.3), (0.05, 0.1))


def test_scales_by_hand_computed_values() -> None:
    image = torch.tensor([[[1000]], [[5000]]], dtype=torch.uint16)
    torch.testing.assert_close(S2(image), torch.tensor([[[0.0]], [[2.0]]]))
    assert S2(image[None].expand(3, -1, -1, -1)).shape == (3, 2, 1, 1)


def test_values_above_the_usual_range_are_not_clipped() -> None:
    image = torch.full((2, 1, 1), 65535, dtype=torch.uint16)
    assert S2(image)[0].item() == pytest.approx((6.5535 - 0.1) / 0.05, rel=1e-5)


def test_nan_and_infinity_become_the_mean() -> None:
    image = torch.tensor([[[float("nan")]], [[float("inf")]]])
    assert S2(image).tolist() == [[[0.0]], [[0.0]]]


@pytest.mark.parametrize(
    ("dtype", "count", "message"),
    [
        (torch.uint16, 3, r"x.tif: stored as uint16, but the model takes uint8.*--scale 0:10000"),
        (np.dtype("float32"), 3, r"stored as float32.*--scale 0:1"),
        ("uint8", 4, r"4 band\(s\), but the model takes 3 \(red, green, blue\).*--bands 1,2,3"),
        ("uint8", 1, r"1 band\(s\), but the model takes 3.*--bands 1,1,1"),
    ],
)
def test_refuses_what_the_model_was_not_made_for(dtype: object, count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Radiometry.rgb8().check(dtype, count, where="x.tif")


def test_an_explicit_scale_admits_any_dtype_without_passing_through_8_bits() -> None:
    scaled = Radiometry.rgb8().with_scale("1000:3000")
    scaled.check("uint16", 3, where="x.tif")
    image = torch.tensor([1000, 2001, 5000], dtype=torch.uint16).reshape(3, 1, 1)
    mean, std = (torch.tensor(v) for v in (scaled.mean, scaled.std))
    expected = (torch.tensor([0.0, 0.5005, 2.0]) - mean) / std
    torch.testing.assert_close(scaled(image).flatten(), expected)
    assert Radiometry.rgb8().with_scale(0.5).scale == 0.5


@pytest.mark.parametrize(
    "scale", ["3000:1000", "a:b", "5:5", "much", "0:inf", "nan", 0, -1.0, float("inf"), (0, 9)]
)
def test_refuses_a_scale_it_cannot_read(scale: Any) -> None:
    with pytest.raises(DataError, match="isn't a factor above 0 or"):
        Radiometry.rgb8().with_scale(scale)


def test_statistics_are_those_of_the_valid_pixels() -> None:
    rng = np.random.default_rng(0)
    images, valid = (
        rng.integers(900, 1100, (5, 2, 9, 7), dtype=np.uint16),
        rng.random((5, 9, 7)) > 0.4,
    )
    images[:, :, ~valid[0]] = np.where(valid[:, ~valid[0]], 1000, 0)[:, None]
    images = np.where(valid[:, None], images, 0).astype(np.uint16)  # nodata would drag both down
    fitted = Radiometry.fit([(i, v) for i, v in zip(images, valid, strict=True)])
    kept = images.transpose(1, 0, 2, 3)[:, valid].astype(np.float64)
    np.testing.assert_allclose(fitted.mean, kept.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(fitted.std, kept.std(axis=1), rtol=1e-12)
    assert (fitted.dtype, fitted.scale, fitted.bands) == ("uint16", 1.0, ("band1", "band2"))


def test_statistics_stay_exact_on_a_large_offset() -> None:
    image = np.float32(1e6) + np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    assert Radiometry.fit([image, image]).std[0] == pytest.approx(np.arange(8).std())


def test_statistics_skip_nan_and_constant_bands_do_not_divide_by_zero() -> None:
    image = np.stack([np.full((2, 2), 7.0), np.array([[1, np.nan], [3, np.inf]])]).astype(
        np.float32
    )
    fitted = Radiometry.fit([image])
    assert fitted.mean == (7.0, 2.0)
    assert fitted.std == (1.0, 1.0)


def test_fits_samples_and_spreads_a_limit_over_the_set() -> None:
    samples = [Sample(torch.full((1, 2, 2), v, dtype=torch.uint8)) for v in range(0, 100, 10)]
    fitted = Radiometry.fit(samples, bands=("grey",), limit=2)
    assert fitted.mean[0] == pytest.approx((0 + 50) / 2 / 255)
    fitted = Radiometry.fit(samples, limit=6)  # not the first six
    assert fitted.mean[0] == pytest.approx((0 + 10 + 30 + 50 + 60 + 80) / 6 / 255)


def test_refuses_mixed_images_and_images_without_a_valid_pixel() -> None:
    with pytest.raises(DataError, match="2 bands of uint8, those before it 1 of uint8"):
        Radiometry.fit([np.zeros((1, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)])
    with pytest.raises(DataError, match="no valid pixel"):
        Radiometry.fit([(np.zeros((1, 2, 2), np.uint8), np.zeros((2, 2), bool))])


def test_survives_json() -> None:
    assert from_data(to_data(S2.spec())).build() == S2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dtype": "int64"}, "dtype 'int64'"),
        ({"mean": (0.0,)}, "2 bands, 1 means"),
        ({"std": (1.0, 0.0)}, "above 0"),
    ],
)
def test_refuses_an_inconsistent_declaration(changed: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Radiometry(**({k: v for k, v in vars(S2).items()} | changed))  # type: ignore[arg-type]
