"""Cost maps of whatever can be predicted, and a predictor whose words stand in other sentences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.errors import ConfigError, DataError, RasterError
from swath.core.geo.raster import GeoImage, RasterInfo
from swath.core.inference.predictor import Predictor
from swath.core.models.unet import UNet
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask
from swath.ovseg import costs
from swath.ovseg.costs import CostMaps, OpenVocabularyPredictor, cost_maps
from swath.ovseg.task import OpenVocabularyTask


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8)


def geo(array: np.ndarray, valid: np.ndarray) -> GeoImage:
    count, height, width = array.shape
    return GeoImage(array, valid, RasterInfo(None, width, height, count, str(array.dtype)))


@pytest.fixture
def predictor(tiny: Any) -> OpenVocabularyPredictor:
    return OpenVocabularyPredictor(tiny.build("catseg"), OpenVocabularyTask(["tree", "ship"]))


def test_other_models_have_no_cost_maps() -> None:
    unet = Predictor(UNet(3, 2, width=4, depth=1), SegmentationTask(["a", "b"]))
    with pytest.raises(ConfigError, match="a UNet has no cost maps"):
        cost_maps(unet, np.zeros((64, 64, 3), np.uint8))


def test_bands_and_scale_are_those_of_a_prediction(predictor: OpenVocabularyPredictor) -> None:
    image = noise(64, 96, 3)
    other = np.concatenate([image[..., ::-1], image[..., :1]], -1).astype(np.uint16) * 10
    want = predictor.cost_maps(image, ["roof", "sea"])
    got = predictor.cost_maps(other, ["roof", "sea"], bands=[3, 2, 1], scale="0:2550")
    assert got.names == ("roof", "sea")
    for stream, values in want.maps.items():
        np.testing.assert_allclose(got.maps[stream], values, rtol=0, atol=1e-4)
    for refused, message in ((image[..., 0], "1 band"), (other, "4 band")):
        with pytest.raises(DataError, match=message):
            predictor.cost_maps(refused)


def test_large_images_are_shrunk_to_the_means_of_their_valid_pixels(
    predictor: OpenVocabularyPredictor,
) -> None:
    small = noise(3, 100, 1001)
    array = small.repeat(3, 1).repeat(3, 2)[..., :-1]  # the last squares are cut
    valid = np.ones(array.shape[1:], bool)
    valid[1::3, ::3] = False
    array[:, ~valid] = 7
    maps = predictor.cost_maps(geo(array, valid))
    np.testing.assert_array_equal(maps.image, small.transpose(1, 2, 0))
    assert maps.maps["clip"].shape == (2, 4, 48)
    assert np.abs(maps.maps["clip"]).max() <= 1.0001


def test_pixels_without_data_say_nothing(predictor: OpenVocabularyPredictor) -> None:
    array = noise(3, 64, 64)
    valid = np.ones((64, 64), bool)
    valid[:, 40:] = False
    want = predictor.cost_maps(geo(array, valid))
    array[:, ~valid] = 0
    got = predictor.cost_maps(geo(array, valid))
    for stream, values in want.maps.items():
        np.testing.assert_array_equal(got.maps[stream], values)
    with pytest.raises(RasterError, match="no valid pixel"):
        predictor.cost_maps(geo(array, np.zeros_like(valid)))


def test_many_names_are_shown_on_several_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(costs, "PICTURED", 3)
    names = tuple(f"thing {i}" for i in range(7))
    maps = CostMaps(names, {"clip": np.zeros((7, 2, 2), np.float32)}, np.zeros((4, 4, 3), np.uint8))
    assert [len(maps.plot(start).axes) for start in (0, 3, 6)] == [6, 6, 2]
    assert maps.plot(6).axes[0].get_title() == "thing 6"
    written = ["cost_maps.npz", "cost_maps_1.png", "cost_maps_2.png", "cost_maps_3.png"]
    assert [path.name for path in maps.save(tmp_path, progress=True)] == written
    assert "drawing cost maps: 3/3 pages" in capsys.readouterr().err
    few = CostMaps(names[:3], {"clip": maps.maps["clip"][:3]}, maps.image)
    few.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost_maps.npz", "cost_maps.png"]


def test_a_runs_report_shows_the_maps_of_names_that_an_image_holds(tiny: Any) -> None:
    task = OpenVocabularyTask(["tree", "plane, aircraft", "ship"])
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:9], mask[-9:] = 1, 255
    sample = Sample(
        tv_tensors.Image(noise(3, 64, 64)), {"mask": tv_tensors.Mask(mask.clamp_min(1))}
    )
    (card,) = task.report(tiny.build("gsnet"), {}, [sample])
    assert card.title == "Cost maps of the first image"
    for shown in ("plane: clip", "aircraft: specialist", "aircraft: aggregated"):
        assert shown in card.body
    assert "ship" not in card.body


def test_words_stand_in_any_sentences(predictor: OpenVocabularyPredictor, tiny: Any) -> None:
    image, calls = noise(64, 64, 3), []
    predictor.model.clip.ln_final.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    plain = predictor.predict(image, probabilities=True)
    got = predictor.predict(image, ensemble="overhead", probabilities=True)
    predictor.predict(image, ensemble="overhead")
    assert calls == [2, 16], "encoded once"
    task = OpenVocabularyTask(["tree", "ship"], ensemble="overhead")
    want = Predictor(tiny.build("catseg"), task).predict(image, probabilities=True)
    np.testing.assert_array_equal(got.probabilities, want.probabilities)
    assert not np.array_equal(got.probabilities, plain.probabilities)
    own = predictor.with_ensemble(["a map of {}"])
    assert torch.equal(own.adapted_task(classes=["roof", "sea"]).tokens, tokens("roof", "sea"))
    with pytest.raises(ConfigError, match="did you mean 'overhead'"):
        predictor.predict(image, ensemble="overheat")


def tokens(*names: str) -> torch.Tensor:
    return OpenVocabularyTask(names, ensemble=["a map of {}"]).tokens
