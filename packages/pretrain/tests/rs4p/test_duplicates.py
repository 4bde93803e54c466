import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.pretrain.rs4p.duplicates import MAX_RADIUS, DuplicateIndex, perceptual_hash

HASHES = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60)


def blotches(seed: int, side: int = 512) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()


def recompressed(image: np.ndarray) -> np.ndarray:
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 8, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


COPIES = {
    "noise": noisy,
    "JPEG": recompressed,
    "brighter": lambda image: np.clip(image * 0.8 + 30, 0, 255).astype(np.uint8),
    "half size": lambda image: cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA),
    "a pixel aside": lambda image: np.roll(image, 1, axis=1),
    "grey": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_a_few_bits_apart(name: str) -> None:
    apart = [distance(image, COPIES[name](image)) for image in map(blotches, range(40))]
    print(f"{name}: at most {max(apart)} bits, median {np.median(apart)}")
    assert np.median(apart) <= 2
    assert np.mean(np.array(apart) <= 4) >= 0.9


def test_unrelated_images_are_far_apart() -> None:
    hashes = [perceptual_hash(blotches(seed)) for seed in range(200)]
    apart = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    print(f"unrelated: {min(apart)} to {max(apart)} bits, mean {np.mean(apart):.1f}")
    assert min(apart) > 8
    assert np.mean(apart) == pytest.approx(32, abs=2)


@given(hashes=HASHES, radius=st.integers(0, MAX_RADIUS), data=st.data())
def test_the_banded_search_finds_what_a_full_search_finds(
    hashes: list[int], radius: int, data: st.DataObject
) -> None:
    index = DuplicateIndex(radius)
    for number, value in enumerate(hashes):
        index.add(value, 10 * number)
    near = data.draw(st.sampled_from(hashes))
    for bit in data.draw(st.lists(st.integers(0, 63), max_size=MAX_RADIUS + 2, unique=True)):
        near ^= 1 << bit
    everywhere = [10 * i for i, v in enumerate(hashes) if (v ^ near).bit_count() <= radius]
    assert index.find(near) == (everywhere[0] if everywhere else None)


def test_an_empty_index_knows_nothing() -> None:
    assert DuplicateIndex(4).find(0) is None


def test_a_radius_beyond_the_bands_is_refused() -> None:
    with pytest.raises(ValueError, match=f"0 to {MAX_RADIUS}"):
        DuplicateIndex(MAX_RADIUS + 1)
