import threading
import time
import weakref
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from swath.core.errors import ConfigError, RasterError
from swath.core.geo.raster import RasterInfo
from swath.core.inference.tiler import (
    Plan,
    Scene,
    TilePrediction,
    ahead,
    average_scores,
    blend_logits,
    label_dtype,
    plan_tiles,
)
from swath.core.models.unet import UNet


def stitched(model: nn.Module, image: torch.Tensor, plan: Plan) -> torch.Tensor:
    """The map put together from tiles; fails if a pixel is settled twice or never."""

    def tiles() -> Iterator[TilePrediction[torch.Tensor]]:
        for tile in plan:
            rows, columns = tile.window.toslices()
            with torch.inference_mode():
                logits = model(image[None, :, rows, columns])[0].clone()
            yield TilePrediction(tile, logits, np.ones(logits.shape[1:], dtype=bool))

    result = None
    times = np.zeros((plan.height, plan.width), dtype=int)
    for tile, logits, valid in blend_logits(tiles(), plan):
        assert logits is not None
        assert valid is not None
        assert valid.shape == logits.shape[1:]
        if result is None:
            result = torch.full((len(logits), plan.height, plan.width), torch.nan)
        rows, columns = tile.settled.toslices()
        result[:, rows, columns] = logits
        times[rows, columns] += 1
    assert (times == 1).all()
    assert result is not None
    return result


class PerPixel(nn.Module):
    """Sums written out, so that the arithmetic can't depend on the image's size."""

    def __init__(self, bands: int = 3, classes: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(classes, bands, generator=generator))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return sum(
            image[:, None, band] * self.weight[None, :, band, None, None]
            for band in range(image.shape[1])
        )


class Strided(nn.Module):
    """Pads right and below to its stride of 32, shrinks, mixes neighbours, enlarges."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shrink = nn.Conv2d(3, 8, 32, stride=32)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % 32, 0, -height % 32))
        x = F.interpolate(self.head(self.shrink(x)), scale_factor=32, mode="nearest")
        return x[..., :height, :width]


def convolutions() -> nn.Module:
    """Sees 8 pixels to every side, the farthest as well as the nearest."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 9, padding=4), nn.GELU(), nn.Conv2d(8, 4, 9, padding=4)
    ).eval()


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


sizes = st.one_of(st.integers(1, 40), st.integers(41, 420))


@settings(deadline=None, max_examples=60)
@given(
    height=sizes,
    width=sizes,
    tile=st.integers(64, 300),
    overlap=st.integers(0, 40),
    blend=st.integers(0, 20),
    align=st.sampled_from([1, 8, 32]),
)
def test_tiles_of_a_per_pixel_model_give_the_untiled_map(
    height: int, width: int, tile: int, overlap: int, blend: int, align: int
) -> None:
    try:
        plan = plan_tiles(height, width, tile, overlap, blend, align)
    except ConfigError as error:
        assert f"tile={tile} is too small" in str(error)  # noqa: PT017
        return
    model, scene = PerPixel(), image(height, width)
    assert torch.equal(stitched(model, scene, plan), model(scene[None])[0].detach())


@settings(deadline=None, max_examples=200)
@given(
    length=st.integers(1, 100_000),
    tile=st.integers(32, 3000),
    overlap=st.integers(0, 200),
    blend=st.integers(0, 100),
    align=st.sampled_from([1, 14, 32, 64]),
)
def test_spans_cover_the_scene_within_their_tile(
    length: int, tile: int, overlap: int, blend: int, align: int
) -> None:
    try:
        spans = plan_tiles(length, 1, tile, overlap, blend, align).rows
    except ConfigError:
        return
    assert spans[0].start == spans[0].begin == 0
    assert spans[-1].stop == spans[-1].hold == length
    for span in spans:
        assert span.start % align == 0
        assert 0 < span.stop - span.start <= max(tile, 1)
        assert span.begin + span.fade <= span.hold
    for a, b in pairwise(spans):
        assert b.begin == a.hold  # nothing missing, nothing twice
        assert a.stop - b.start >= overlap + blend
        assert b.begin - b.start == overlap // 2  # context before the band
        assert a.stop - (b.begin + blend) >= overlap - overlap // 2  # and behind it


def test_tiles_are_of_nearly_equal_size() -> None:
    spans = plan_tiles(30_000, 30_000, 1024, 64, 32).rows
    lengths = [span.stop - span.start for span in spans]
    assert max(lengths) - min(lengths) <= 64
    assert len(spans) == 33


@pytest.mark.parametrize(("height", "width"), [(300, 417), (1, 417), (417, 1), (130, 64)])
@pytest.mark.parametrize("blend", [0, 16])
def test_a_receptive_field_within_the_overlap_gives_the_untiled_logits(
    height: int, width: int, blend: int
) -> None:
    model, scene = convolutions(), image(height, width)
    tiled = stitched(model, scene, plan_tiles(height, width, 128, 16, blend))
    torch.testing.assert_close(tiled, model(scene[None])[0].detach(), atol=1e-4, rtol=0)


def test_a_receptive_field_beyond_the_overlap_does_not() -> None:
    model, scene = convolutions(), image(300, 300)
    tiled = stitched(model, scene, plan_tiles(300, 300, 128, 14, 0))
    assert (tiled - model(scene[None])[0]).abs().max() > 1e-2


@pytest.mark.parametrize("size", [(333, 475), (64, 700), (31, 33)])
def test_a_strided_model_sees_the_grid_it_would_see_untiled(size: tuple[int, int]) -> None:
    model, scene = Strided().eval(), image(*size)
    tiled = stitched(model, scene, plan_tiles(*size, 256, 64, 32))
    torch.testing.assert_close(tiled, model(scene[None])[0].detach(), atol=1e-4, rtol=0)


def test_the_map_does_not_depend_on_the_tile_size() -> None:
    torch.manual_seed(0)
    model = UNet(3, 4, width=8, depth=1).eval()  # sees about 30 pixels
    scene = image(420, 500)
    untiled = model(scene[None])[0].detach()
    for tile in (160, 192, 256, 384):
        tiled = stitched(model, scene, plan_tiles(420, 500, tile, 64, 16))
        torch.testing.assert_close(tiled, untiled, atol=1e-4, rtol=0)


def test_the_fade_is_linear() -> None:
    plan = plan_tiles(1, 100, 64, 0, 8, align=8)
    first, second = list(plan)

    def tiles() -> Iterator[TilePrediction[torch.Tensor]]:
        for value, tile in ((0.0, first), (9.0, second)):
            shape = (1, tile.window.height, tile.window.width)
            yield TilePrediction(tile, torch.full(shape, value), np.ones(shape[1:], dtype=bool))

    values = torch.cat([part for _, part, _ in blend_logits(tiles(), plan)], dim=2)[0, 0]
    start = second.x.begin
    assert values[start - 1] == 0
    torch.testing.assert_close(values[start : start + 8], torch.arange(1.0, 9.0))
    assert values[start + 8] == 9


def test_a_tile_without_data_leaves_its_neighbours_as_they_are() -> None:
    plan = plan_tiles(64, 200, 96, 16, 8, align=8)
    tiles = list(plan)
    assert len(tiles) == 3

    def predictions() -> Iterator[TilePrediction[torch.Tensor]]:
        for n, tile in enumerate(tiles):
            shape = (2, tile.window.height, tile.window.width)
            valid = np.ones(shape[1:], dtype=bool)
            yield TilePrediction(tile, None if n == 1 else torch.full(shape, n + 1.0), valid)

    parts = [part for _, part, _ in blend_logits(predictions(), plan)]
    assert parts[1] is None
    assert (parts[0] == 1).all()
    assert (parts[2] == 3).all()


@pytest.mark.parametrize("arguments", [(64, 33, 0), (96, 64, 32), (128, 0, 64), (16, 0, 0)])
def test_says_which_tile_would_do(arguments: tuple[int, int, int]) -> None:
    tile, overlap, blend = arguments
    with pytest.raises(ConfigError, match=f"tile={tile} is too small") as caught:
        plan_tiles(1000, 1000, tile, overlap, blend)
    least = int(str(caught.value).split("tile of ")[1].split()[0])
    plan_tiles(1000, 1000, least, overlap, blend)
    with pytest.raises(ConfigError):
        plan_tiles(1000, 1000, least - 1, overlap, blend)


def test_labels_take_the_smallest_type_that_leaves_room_for_nodata() -> None:
    assert [label_dtype(n) for n in (1, 255, 256, 65_535)] == [np.uint8, np.uint8] + [np.uint16] * 2
    with pytest.raises(ConfigError, match="65536 classes"):
        label_dtype(65_536)


def test_only_strips_of_past_tiles_stay_in_memory() -> None:
    plan = plan_tiles(600, 600, 128, 16, 16)
    past: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def tiles() -> Iterator[TilePrediction[torch.Tensor]]:
        nonlocal most
        for tile in plan:
            shape = (2, tile.window.height, tile.window.width)
            logits = torch.zeros(shape)
            past.append(weakref.ref(logits))
            yield TilePrediction(tile, logits, np.ones(shape[1:], dtype=bool))
            del logits
            most = max(most, sum(reference() is not None for reference in past))

    for _ in blend_logits(tiles(), plan):
        pass
    assert len(past) == len(plan) >= 25
    assert most <= 2


def test_producers_run_ahead_and_in_order() -> None:
    made: list[int] = []

    def produce() -> Iterator[int]:
        for n in range(5):
            made.append(n)
            yield n

    items = ahead(produce(), 2, "test")
    first = next(items)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert first == 0
    assert len(made) >= 3
    assert len(made) <= 4  # bounded: two wait, one is in hand
    assert list(items) == [1, 2, 3, 4]


def test_an_exception_of_the_producer_reaches_the_consumer_in_order() -> None:
    def produce() -> Iterator[int]:
        yield 1
        raise RasterError("gone")

    items = ahead(produce(), 2, "test")
    assert next(items) == 1
    with pytest.raises(RasterError, match="gone"):
        next(items)


def test_the_producer_ends_when_the_consumer_does() -> None:
    closed = threading.Event()

    def produce() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = ahead(produce(), 1, "swath-test-thread")
    next(items)
    items.close()
    assert closed.is_set()
    assert "swath-test-thread" not in [t.name for t in threading.enumerate()]


def test_scores_of_tiles_count_by_their_valid_pixels() -> None:
    plan = plan_tiles(32, 64, 32, 0, 0)
    left, right = plan
    scene = Scene(plan, RasterInfo(None, 64, 32, 3, "uint8"), task=None)
    half = np.arange(32 * 32).reshape(32, 32) % 2 == 0
    tiles = [
        TilePrediction(left, torch.tensor([1.0, 0.0]), np.ones((32, 32), dtype=bool)),
        TilePrediction(right, torch.tensor([0.4, 0.6]), half),
    ]
    assert average_scores(tiles, scene) == pytest.approx((0.8, 0.2))
    nothing: list[TilePrediction[torch.Tensor]] = [TilePrediction(left, None, None)]
    with pytest.raises(RasterError, match="no valid pixel"):
        average_scores(nothing, scene)
