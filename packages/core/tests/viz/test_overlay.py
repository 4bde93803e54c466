import numpy as np
import pytest

from swath.core.viz.overlay import (
    colourise,
    difference,
    display_rgb,
    feature_rgb,
    overlay,
)

RED, GREEN = (255, 0, 0), (0, 255, 0)


def test_eight_bit_rgb_is_shown_as_it_is() -> None:
    image = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    np.testing.assert_array_equal(display_rgb(image), image.transpose(1, 2, 0))


def test_the_stretch_maps_the_percentiles_to_black_and_white() -> None:
    band = np.arange(101, dtype=np.uint16).reshape(1, 1, 101) * 100
    shown = display_rgb(band)[0, :, 0]
    assert shown[2] == 0
    assert shown[98] == 255
    assert shown[50] == 127


def test_nodata_neither_influences_the_stretch_nor_shows() -> None:
    band = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    valid = np.ones((10, 10), dtype=bool)
    valid[0, 0] = False
    spoilt = band.copy()
    spoilt[0, 0, 0] = 1e9
    np.testing.assert_array_equal(display_rgb(spoilt, valid), display_rgb(band, valid))
    assert display_rgb(spoilt, valid)[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_numbers_are_black(value: float) -> None:
    image = np.random.default_rng(0).normal(size=(4, 6, 7)).astype(np.float32)
    image[1, 2, 3] = value
    assert display_rgb(image)[2, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 9), (13, 3, 3)])
def test_a_constant_image_is_mid_grey(shape: tuple[int, int, int]) -> None:
    assert set(display_rgb(np.full(shape, 7, dtype=np.int16)).ravel()) == {128}


def test_an_image_without_a_valid_pixel_is_black() -> None:
    assert not display_rgb(np.full((4, 2, 2), np.nan)).any()


def test_bands_choose_red_green_and_blue() -> None:
    image = np.random.default_rng(0).integers(0, 4000, (8, 5, 5), dtype=np.uint16)
    chosen = display_rgb(image, bands=(7, 3, 1))
    np.testing.assert_array_equal(chosen, display_rgb(image[[7, 3, 1]]))


def test_a_band_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"0\.\.3; got \[1, 2, 4\]"):
        display_rgb(np.zeros((4, 2, 2)), bands=(1, 2, 4))


def test_an_overlay_mixes_by_alpha_and_leaves_unknown_and_hidden_pixels_clear() -> None:
    image = np.full((1, 4, 3), 100, dtype=np.uint8)
    mask = np.array([[0, 1, 255, -1]])
    shown = overlay(image, mask, [RED, GREEN], 0.5, hide=[0])
    assert shown[0].tolist() == [[100] * 3, [50, 178, 50], [100] * 3, [100] * 3]


def test_an_overlay_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        overlay(np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((2, 3)), [RED])


def test_values_without_a_class_get_the_other_colour() -> None:
    painted = colourise(np.array([[0, 1, 7, -1]]), [RED, GREEN], other=(1, 2, 3))
    assert painted[0].tolist() == [list(RED), list(GREEN), [1, 2, 3], [1, 2, 3]]


def test_two_classes_tell_misses_from_false_alarms() -> None:
    shown = difference(np.array([[0, 1, 0, 1, 255]]), np.array([[0, 1, 1, 0, 1]]), classes=2)[0]
    right, right_too, alarm, miss, unknown = (tuple(int(c) for c in pixel) for pixel in shown)
    assert right == right_too
    assert len({right, alarm, miss, unknown}) == 4


def test_features_that_differ_in_one_direction_show_in_red_alone() -> None:
    ramp = np.linspace(-1, 1, 64).reshape(1, 8, 8)
    shown = feature_rgb(np.concatenate([ramp, 2 * ramp, np.zeros_like(ramp)]))
    assert shown[0, 0, 0] == 0
    assert shown[-1, -1, 0] == 255


@pytest.mark.parametrize("channels", [1, 2, 3, 20])
def test_any_number_of_features_can_be_shown(channels: int) -> None:
    features = np.random.default_rng(0).normal(size=(channels, 5, 6)).astype(np.float32)
    assert feature_rgb(features).shape == (5, 6, 3)
