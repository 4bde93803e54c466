import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import from_origin

from swath.core.errors import ConfigError, DataError, RasterError
from swath.core.geo.raster import GeoImage, RasterInfo
from swath.core.inference.results import SegmentationResult
from swath.core.inference.tiler import Scene, TilePrediction
from swath.core.sample import Sample
from swath.refseg import asks, postprocess
from swath.refseg.asks import PIECE, TASKS, margins
from swath.refseg.captions import caption
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.predictor import RemoteSAMPredictor
from swath.refseg.preprocess import Fit
from swath.refseg.results import ChosenClass
from swath.refseg.task import ReferringTask
from swath.refseg.text import PROMPT

SIDE = 64
CLASSES = ["vehicle", "building", "water"]
ARGUMENTS = {
    name: {"text": "the red vehicle"} if kind.takes == "text" else {"classes": CLASSES}
    for name, kind in TASKS.items()
}


def picture(height: int = 70, width: int = 50, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, bands), dtype=np.uint8)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.tif"
    profile = {
        "driver": "GTiff", "width": 150, "height": 90, "count": 3, "dtype": "uint8",
        "crs": CRS.from_epsg(32633), "transform": from_origin(500_000, 5_400_000, 0.5, 0.5),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(picture(90, 150).transpose(2, 0, 1))
    return path


@pytest.mark.parametrize("name", TASKS)
def test_every_task_answers_the_same_twice(predictor: RemoteSAMPredictor, name: str) -> None:
    first, second = (predictor.predict(picture(), task=name, **ARGUMENTS[name]) for _ in range(2))
    if hasattr(first, "mask"):
        np.testing.assert_array_equal(first.mask, second.mask)
        assert first.mask.shape == (70, 50)
    elif hasattr(first, "boxes"):
        np.testing.assert_array_equal(first.boxes, second.boxes)
    else:
        assert first == second


def test_masks_are_the_networks_argmax_resized_by_nearest_neighbour(
    predictor: RemoteSAMPredictor, model: RemoteSAM, task: ReferringTask
) -> None:
    image = picture(task.input_size, task.input_size)
    ids, present = task.tokenizer([PROMPT.format(name) for name in CLASSES])
    pixels = task.image(Sample(torch.from_numpy(image.transpose(2, 0, 1).copy())))
    with torch.no_grad():
        logits = torch.cat(
            [model(pixels[None], i[None], p[None]) for i, p in zip(ids, present, strict=True)]
        )
    found = predictor.masks(image, CLASSES)
    for name, scores in zip(CLASSES, logits, strict=True):
        mask, probability = found[name]
        np.testing.assert_allclose(probability, scores.softmax(0)[1].numpy(), atol=1e-4)
        unsure = (scores[0] - scores[1]).abs().numpy() < 1e-4
        assert ((mask == scores.argmax(0).numpy()) | unsure).all()


def test_the_number_of_sentences_at_once_changes_nothing(predictor: RemoteSAMPredictor) -> None:
    one, all_ = (predictor.masks(picture(), CLASSES, sentences_at_once=count) for count in (1, 64))
    for name in CLASSES:
        np.testing.assert_allclose(one[name][1], all_[name][1], atol=1e-5)


def test_an_image_is_looked_at_once_whatever_the_number_of_classes(
    predictor: RemoteSAMPredictor, model: RemoteSAM, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, reads = [], []
    look, encode = model.look, model.encode_text
    monkeypatch.setattr(model, "look", lambda image: looks.append(1) or look(image))
    monkeypatch.setattr(model, "encode_text", lambda i, m: reads.append(1) or encode(i, m))
    for _ in range(2):
        predictor.semantic_seg(picture(), CLASSES)
    assert (len(looks), len(reads)) == (2, len(CLASSES))  # words are kept for the second image


def test_a_chosen_task_may_be_changed(predictor: RemoteSAMPredictor) -> None:
    counting = predictor.for_task("counting")
    assert sum(counting.predict(picture(), classes=["ship"]).counts.values()) >= 0
    assert counting.referring_seg(picture(), "the ship").mask.shape == (70, 50)


def test_words_are_read_anew_when_the_weights_change(
    predictor: RemoteSAMPredictor, model: RemoteSAM
) -> None:
    before = predictor.masks(picture(), ["ship"])["ship"][1]
    with torch.no_grad():
        model.text_encoder.embeddings.word_embeddings.weight.normal_(std=2)
    after = predictor.masks(picture(), ["ship"])["ship"][1]
    assert np.abs(before - after).max() > 1e-3


def test_semantic_seg_gives_each_pixel_to_the_surest_class(predictor: RemoteSAMPredictor) -> None:
    found = predictor.masks(picture(), CLASSES)
    result = predictor.semantic_seg(picture(), CLASSES)
    probabilities = np.stack([found[name][1] for name in CLASSES])
    want = np.where(probabilities.max(0) > 0.5, probabilities.argmax(0) + 1, 0)
    np.testing.assert_array_equal(result.mask, want)
    assert result.classes == ("background", *CLASSES)


def test_results_lie_on_the_scene(
    predictor: RemoteSAMPredictor, scene: Path, tmp_path: Path
) -> None:
    mask = predictor.referring_seg(scene, "the red vehicle", out=tmp_path / "mask.tif")
    with rasterio.open(tmp_path / "mask.tif") as file, rasterio.open(scene) as source:
        assert (file.crs, file.transform, file.shape) == (
            source.crs,
            source.transform,
            source.shape,
        )
    assert mask.info.crs == CRS.from_epsg(32633)
    found = predictor.detection(scene, CLASSES, oriented=True)
    table = geopandas.read_file(found.save(tmp_path / "objects.gpkg"))
    assert len(table) == len(found)
    assert table.crs.to_epsg() == 32633
    counted = predictor.counting(scene, CLASSES)
    assert sum(counted.counts.values()) == len(counted)
    table = geopandas.read_file(counted.save(tmp_path / "counted.gpkg"))
    assert table["count"].tolist() == [counted.counts[name] for name in table["class"]]


def test_which_classes_are_there_is_saved_with_their_scores(
    predictor: RemoteSAMPredictor, scene: Path, tmp_path: Path
) -> None:
    several = predictor.multi_label_cls(scene, CLASSES)
    saved = json.loads(several.save(tmp_path / "labels.json").read_text())
    assert saved["classes"] == CLASSES
    assert saved["labels"] == list(several.labels)
    one = predictor.multi_class_cls(scene, CLASSES)
    saved = json.loads(one.save(tmp_path / "label.json").read_text())
    assert saved["chosen"] == one.chosen
    unsure = ChosenClass(("a", "b"), (0.2, 0.4)).summary()["answer"]
    assert unsure["chosen"] is None


def test_large_scenes_are_tiled_for_classes_and_whole_for_sentences(
    predictor: RemoteSAMPredictor, scene: Path
) -> None:
    ask = predictor.task.select(predictor.model, "detection")[1]
    assert ask.auto_tile(90, 2 * SIDE) is None  # type: ignore[attr-defined]
    assert ask.auto_tile(90, 2 * SIDE + 1) == SIDE  # type: ignore[attr-defined]
    text = predictor.task.select(predictor.model, "referring")[1]
    assert text.auto_tile(5000, 20_000) is None  # type: ignore[attr-defined]
    whole = predictor.referring_seg(scene, "the vehicle", overlap=8, blend=8)
    tiled = predictor.referring_seg(scene, "the vehicle", regions="tile", overlap=8, blend=8)
    assert whole.mask.shape == tiled.mask.shape == (90, 150)
    one, many = (
        predictor.masks(scene, ["vehicle"], regions=regions, overlap=8, blend=8)["vehicle"][1]
        for regions in ("scene", "tile")
    )
    assert np.abs(one - many).max() > 1e-3


def test_a_scene_is_looked_at_in_no_more_tiles_than_it_needs(
    predictor: RemoteSAMPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles share 12 of their 64 px: 5 in a row of 224 px do, and a multiple of 32 isn't needed."""
    seen = []
    fitted = asks.fitted
    monkeypatch.setattr(asks, "fitted", lambda *given: seen.append(0) or fitted(*given))
    predictor.detection(picture(224, 224), ["ship"])
    assert len(seen) == 25


def test_tiles_of_a_scene_are_joined_into_one_map(
    predictor: RemoteSAMPredictor, scene: Path
) -> None:
    """A tile as large as the scene is the scene."""
    one = predictor.masks(scene, CLASSES, fit="native", tile=None)
    tiled = predictor.masks(scene, CLASSES, fit="native", tile=160)
    for name in CLASSES:
        np.testing.assert_allclose(one[name][1], tiled[name][1], atol=1e-5)
    parts = predictor.masks(scene, CLASSES, tile=SIDE, overlap=8, blend=8)
    assert all(np.isfinite(probability).all() for _, probability in parts.values())


@pytest.mark.parametrize(("height", "width"), [(90, 150), (20, 300)])
def test_tiles_keep_their_shape(
    predictor: RemoteSAMPredictor, monkeypatch: pytest.MonkeyPatch, height: int, width: int
) -> None:
    """What the network sees of each is enlarged alike along both axes, up to a pixel."""
    sizes = []
    fitted = asks.fitted

    def spy(image: torch.Tensor, side: int, fit: Fit) -> torch.Tensor:
        seen = fitted(image, side, fit)
        sizes.append((image.shape[-2:], seen.shape[-2:]))
        return seen

    monkeypatch.setattr(asks, "fitted", spy)
    predictor.detection(picture(height, width), ["ship"], overlap=8, blend=8)
    assert len(sizes) > 1
    for (high, wide), (rows, columns) in sizes:
        assert max(rows, columns) == SIDE
        assert abs(rows - high * SIDE / max(high, wide)) <= 0.5
        assert abs(columns - wide * SIDE / max(high, wide)) <= 0.5
    sizes.clear()
    predictor.detection(picture(height, width), ["ship"], overlap=8, blend=8, fit="resize")
    assert {after for _, after in sizes} == {(SIDE, SIDE)}


def test_tiles_hold_one_map_at_a_time_whatever_the_number_of_classes(
    predictor: RemoteSAMPredictor, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is joined lies in a file, in halves; each class has the boxes it has alone."""
    shapes = []
    as_maps = postprocess.as_maps
    monkeypatch.setattr(
        postprocess, "as_maps", lambda m, s: shapes.append((*m.shape, m.dtype)) or as_maps(m, s)
    )
    options = {"regions": "tile", "overlap": 8, "blend": 8}
    several = predictor.detection(scene, CLASSES, **options)
    assert shapes == [(1, 90, 150, torch.float16)] * len(CLASSES)
    for number, name in enumerate(CLASSES):
        alone = predictor.detection(scene, [name], **options)
        here = several.labels == number
        np.testing.assert_array_equal(several.boxes[here], alone.boxes)
        np.testing.assert_allclose(several.scores[here], alone.scores, atol=2e-3)


@pytest.mark.parametrize("name", ["detection", "multi_label_cls", "captioning", "referring_seg"])
@pytest.mark.parametrize("regions", ["scene", "tile"])
def test_a_scene_of_nodata_is_refused(
    predictor: RemoteSAMPredictor, name: str, regions: str
) -> None:
    blank = np.zeros((3, 90, 150), np.uint8)
    image = GeoImage(blank, np.zeros((90, 150), bool), RasterInfo(None, 150, 90, 3, "uint8"))
    with pytest.raises(RasterError, match="no valid pixel"):
        predictor.predict(image, task=name, regions=regions, overlap=8, blend=8, **ARGUMENTS[name])


def test_nodata_has_no_say_in_scores(predictor: RemoteSAMPredictor) -> None:
    """The right half is nodata: scores are those of what is left of it."""
    array = np.ascontiguousarray(picture(SIDE, SIDE).transpose(2, 0, 1))
    valid = np.zeros((SIDE, SIDE), bool)
    valid[:, : SIDE // 2] = True
    image = GeoImage(array, valid, RasterInfo(None, SIDE, SIDE, 3, "uint8"))
    _, probability = predictor.masks(array.transpose(1, 2, 0), ["ship"])["ship"]
    seen = probability[:, : SIDE // 2]
    (score,) = predictor.multi_label_cls(image, ["ship"]).probabilities
    assert score == pytest.approx(0.5 * seen.max() + 0.5 * seen.mean(), abs=1e-5)


@pytest.mark.parametrize("fit", ["resize", "pad", "native"])
def test_every_policy_gives_maps_of_the_images_size(
    predictor: RemoteSAMPredictor, fit: str
) -> None:
    mask, probability = predictor.masks(picture(90, 30), ["ship"], fit=fit)["ship"]
    assert mask.shape == probability.shape == (90, 30)


def test_captions_place_oriented_objects_by_their_centres() -> None:
    """A diamond about (30, 10): its first two corners are left of and above that."""
    diamond = np.array([[20.0, 10, 30, 0, 40, 10, 30, 20, 0.9]])
    np.testing.assert_array_equal(postprocess.upright(diamond), [[20, 0, 40, 20, 0.9]])
    rows = {"ship": postprocess.upright(diamond).tolist()}
    text = caption(rows, 40, 60, 4, lambda count: 0)
    assert text == "It contains ship. The upper right region contains ship."


def test_captions_are_seeded(predictor: RemoteSAMPredictor) -> None:
    texts = {predictor.captioning(picture(), CLASSES, seed=seed).text for seed in range(8)}
    assert len(texts) > 1
    assert predictor.captioning(picture(), CLASSES, seed=3) == predictor.captioning(
        picture(), CLASSES, seed=3
    )


def test_edges_part_touching_objects(predictor: RemoteSAMPredictor) -> None:
    """A boundary map that cuts every fourth column leaves objects three columns wide."""

    def stripes(image: np.ndarray) -> np.ndarray:
        edges = np.zeros(image.shape[:2], np.float32)
        edges[:, ::4] = 1
        return edges

    parted = predictor.detection(picture(), ["ship"], use_epoc=stripes)  # type: ignore[arg-type]
    whole = predictor.detection(picture(), ["ship"])
    widths = parted.boxes[:, 2] - parted.boxes[:, 0]
    assert len(parted) > len(whole)
    assert widths.max() <= 3


@pytest.mark.parametrize("from_file", [False, True])
def test_the_boundary_model_sees_the_bands_that_the_network_sees(
    predictor: RemoteSAMPredictor, tmp_path: Path, from_file: bool
) -> None:
    seen = []

    def spy(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return np.zeros(image.shape[:2], np.float32)

    image = picture(bands=4)
    profile = {"driver": "GTiff", "width": 50, "height": 70, "count": 4, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", photometric="minisblack", **profile) as file:
        file.write(image.transpose(2, 0, 1))
        file.colorinterp = [rasterio.enums.ColorInterp.undefined] * 4
    given = tmp_path / "a.tif" if from_file else image
    predictor.detection(given, ["ship"], bands=[4, 3, 2], use_epoc=spy)  # type: ignore[arg-type]
    np.testing.assert_array_equal(seen[0], image[:, :, [3, 2, 1]])


def test_oriented_objects_are_counted_by_their_own_area(predictor: RemoteSAMPredictor) -> None:
    found = predictor.detection(picture(), CLASSES, oriented=True)
    every = predictor.counting(picture(), CLASSES, oriented=True)
    assert len(found) == len(every) > 0
    areas = found.boxes[:, 2] * found.boxes[:, 3]
    least = dict.fromkeys(CLASSES, float(np.median(areas)))
    larger = predictor.counting(picture(), CLASSES, oriented=True, min_areas=least)
    assert len(larger) == (areas > np.median(areas)).sum()


BAD = {
    "no task": ({}, "choose one of referring_seg"),
    "unknown task": ({"task": "detektion"}, "did you mean 'detection'"),
    "empty sentence": ({"task": "referring", "text": "  "}, "sentence is empty"),
    "no sentence": ({"task": "referring"}, r"referring_seg: .*with text=.*--text"),
    "several sentences": (
        {"task": "referring", "text": ["a ship", "a plane"]},
        r"text=\['a ship', 'a plane'\] isn't one sentence",
    ),
    "numbers for classes": ({"task": "detection", "classes": [1, 2]}, "classes: 1 is no name"),
    "a number for classes": ({"task": "detection", "classes": 3}, "classes: 3 is no name"),
    "areas that are none": (
        {"task": "counting", "classes": ["ship"], "min_areas": 5},
        "min_areas=5 must be a dict",
    ),
    "a text for a switch": (
        {"task": "detection", "classes": ["ship"], "oriented": "no"},
        "oriented='no' must be True or False",
    ),
    "half a sentence at once": (
        {"task": "detection", "classes": ["ship"], "sentences_at_once": 0.5},
        "sentences_at_once=0.5 must be a whole number",
    ),
    "a balance above 1": (
        {"task": "multi_class_cls", "classes": ["ship"], "balance": 2},
        "balance=2 must be in 0..1",
    ),
    "what is no option": (
        {"task": "detection", "classes": ["ship"], "tokenizer": None},
        "detection has no option 'tokenizer'",
    ),
    "zero classes": ({"task": "counting", "classes": []}, "no class is named"),
    "an empty class": ({"task": "counting", "classes": ["ship", ""]}, "a comma too many"),
    "a class named twice": (
        {"task": "detection", "classes": ["ship", "ship ", "vehicle"]},
        "'ship' is named twice",
    ),
    "one text for classes": ({"task": "detection", "classes": "ship"}, r"classes=\['ship'\]"),
    "an unknown fit": ({"task": "counting", "classes": ["ship"], "fit": "padd"}, "one of resize"),
    "unknown regions": (
        {"task": "counting", "classes": ["ship"], "regions": "tiles"},
        "regions='tiles' isn't known; choose one of auto, scene, tile",
    ),
    "no sentence at once": (
        {"task": "counting", "classes": ["ship"], "sentences_at_once": 0},
        "sentences_at_once=0 must be 1 or more",
    ),
    "an area of another class": (
        {"task": "counting", "classes": ["ship"], "min_areas": {"shipp": 4.0}},
        "min_areas: 'shipp' isn't one of the classes; did you mean 'ship'",
    ),
    "an unknown option": (
        {"task": "detection", "classes": ["ship"], "epoc_treshold": 0.1},
        "has no option 'epoc_treshold'; did you mean 'epoc_threshold'",
    ),
    "a boundary model that is none": (
        {"task": "detection", "classes": ["ship"], "use_epoc": True},
        r"use_epoc=True isn't a boundary model; give one, use_epoc=Epoc\(FOLDER\)",
    ),
    "a sentence for classes": (
        {"task": "counting", "text": "a ship"},
        "counting takes class names",
    ),
    "classes for a sentence": (
        {"task": "referring", "classes": ["ship"]},
        "referring_seg takes a sentence",
    ),
    "a class for the rest": (
        {"task": "detection", "classes": ["ship"], "background": 0.4},
        "detection has no class for the rest; leave background out",
    ),
    "two tasks at once": ({"task": "counting,detection"}, "one task at a time"),
    "an odd number of regions": (
        {"task": "captioning", "classes": ["ship"], "region_split": 5},
        "must be one of 4, 9",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_questions_are_refused_in_one_line_before_anything_is_run(
    predictor: RemoteSAMPredictor, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, message = BAD[case]
    monkeypatch.setattr(predictor.model, "look", None)
    with pytest.raises(ConfigError, match=message) as caught:
        predictor.predict(picture(), **arguments)
    assert "\n" not in str(caught.value)


def test_long_sentences_and_unknown_words_are_warned_of(predictor: RemoteSAMPredictor) -> None:
    with pytest.warns(UserWarning, match="the model was trained on 20"):
        predictor.referring_seg(picture(), "the ship at the top " * 8)
    with pytest.warns(UserWarning, match="no pieces for 船"):
        predictor.referring_seg(picture(), "the 船 at the top")


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2000, 3)])
def test_odd_images_are_answered(predictor: RemoteSAMPredictor, shape: tuple[int, int]) -> None:
    assert predictor.referring_seg(picture(*shape), "the ship").mask.shape == shape


def test_what_is_no_image_is_refused(predictor: RemoteSAMPredictor) -> None:
    with pytest.raises(RasterError, match="the image must be an array"):
        predictor.referring_seg(None, "the ship")
    with pytest.raises(DataError, match=r"shape \(3, 70, 50\); \(H, W, C\) is expected"):
        predictor.referring_seg(picture().transpose(2, 0, 1), "the ship")


@pytest.mark.parametrize("shape", [(20_000, 30), (30, 20_000)])
def test_an_image_of_20_000_px_is_answered_in_pieces(
    predictor: RemoteSAMPredictor, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    """A sentence is asked of the whole, but nothing of the network's is as large as the whole."""
    sizes = []
    probability = np.zeros(shape, np.float32)
    blend = asks.blend_segmentation

    def spy(tiles: Iterable[TilePrediction[torch.Tensor]], scene: Scene) -> SegmentationResult:
        def noted() -> Iterator[TilePrediction[torch.Tensor]]:
            for tile in tiles:
                assert tile.prediction is not None
                sizes.append(tuple(tile.prediction.shape))
                probability[tile.tile.window.toslices()] = tile.prediction[1].sigmoid()
                yield tile

        return blend(noted(), scene)

    image = picture(*shape)
    monkeypatch.setattr(asks, "blend_segmentation", spy)
    mask = predictor.referring_seg(image, "the ship").mask
    assert max(max(size) for size in sizes) <= PIECE
    assert sum(height * width for _, height, width in sizes) == mask.size == image[..., 0].size
    found = predictor.predict(image, task="masks", classes=["the ship"], prompt="{}", tile=None)
    np.testing.assert_array_equal(mask, found["the ship"][0])
    np.testing.assert_allclose(probability, found["the ship"][1], rtol=0, atol=1e-6)
    assert np.ptp(probability) > 1e-3


@given(st.integers(1, 130), st.integers(1, 3000))
@settings(deadline=None)
def test_pieces_are_where_nearest_neighbour_has_them(few: int, many: int) -> None:
    values = torch.arange(few, dtype=torch.float32)[None, None]
    want = torch.nn.functional.interpolate(values, size=many, mode="nearest")[0, 0]
    assert torch.equal(asks._nearest(few, many), want.long())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture(bands=1), r"1 band\(s\)"),
        (picture(bands=4), r"4 band\(s\)"),
        (picture().astype(np.uint16), "uint16"),
    ],
)
def test_what_the_model_was_not_made_for_is_refused(
    predictor: RemoteSAMPredictor, image: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        predictor.referring_seg(image, "the ship")


def test_16_bits_pass_with_a_scale_and_grey_with_repeated_bands(
    predictor: RemoteSAMPredictor,
) -> None:
    deep = picture().astype(np.uint16) * 100
    assert predictor.referring_seg(deep, "the ship", scale="0:25500").mask.shape == (70, 50)
    grey = picture(bands=1)
    assert predictor.referring_seg(grey, "the ship", bands=[1, 1, 1]).mask.shape == (70, 50)


@pytest.mark.parametrize(("mode", "bands"), [("RGBA", None), ("L", [1, 1, 1])])
def test_files_with_alpha_or_of_grey_are_answered(
    predictor: RemoteSAMPredictor, tmp_path: Path, mode: str, bands: list[int] | None
) -> None:
    Image.fromarray(picture()).convert(mode).save(tmp_path / "a.png")
    result = predictor.referring_seg(tmp_path / "a.png", "the ship", bands=bands)
    assert result.mask.shape == (70, 50)


def test_margins_are_batched_in_bounded_numbers(model: RemoteSAM) -> None:
    seen = []
    model.classifier.register_forward_hook(lambda _m, _i, output: seen.append(len(output)))
    words = torch.randn(7, 5, 16)
    with torch.no_grad():
        found = margins(model, torch.randn(1, 3, 32, 32), words, torch.ones(7, 5), at_once=3)
    assert seen == [3, 3, 1]
    assert found.shape == (7, 32, 32)
