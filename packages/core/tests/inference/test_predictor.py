import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine
from torch import Tensor, nn

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError, DataError, RasterError, SwathError
from swath.core.geo.raster import GeoImage, RasterInfo, read_image
from swath.core.inference.predictor import Predictor, load_model
from swath.core.segmentation import SegmentationTask

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:.*has no CRS and transform"),
]
PLACE = {"crs": CRS.from_epsg(32633), "transform": Affine(0.3, 0, 412345.678, 0, -0.3, 5212345.1)}


class Brightest(nn.Module):
    """Says which band is brightest; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(tuple(image.shape))
        return image * self.weight


def radiometry(bands: int = 3, dtype: str = "uint8") -> Radiometry:
    names = tuple(f"b{i}" for i in range(bands))
    scale = {"uint8": 1 / 255, "uint16": 1e-4}.get(dtype, 1.0)
    return Radiometry(names, dtype, scale, (0.5,) * bands, (0.25,) * bands)


def predictor(bands: int = 3, dtype: str = "uint8", **options) -> Predictor:
    classes = [f"class {i}" for i in range(bands)]
    return Predictor(Brightest(), SegmentationTask(classes, radiometry(bands, dtype), **options))


def noise(bands: int, height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    top = 255 if dtype in ("uint8", "float32") else 10_000
    return np.random.default_rng(0).integers(1, top, (bands, height, width)).astype(dtype)


def write(path: Path, array: np.ndarray, **profile) -> Path:
    count, height, width = array.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width,
        dtype=array.dtype, **(PLACE | profile),
    ) as target:  # fmt: skip
        target.write(array)
    return path


class Objects(SegmentationTask):
    """Says that it finds objects."""

    kind = "detection"


class Both(SegmentationTask):
    """Two tasks in one: the bands as they are, and the other way round."""

    def select(self, model: nn.Module, name: str) -> tuple[nn.Module, SegmentationTask]:
        if name == "straight":
            return model, SegmentationTask(self.classes, self.radiometry)
        reverse = SegmentationTask(self.classes[::-1], self.radiometry)
        return nn.Sequential(model, nn.Conv2d(3, 3, 1)), reverse


class Adds(nn.Module):
    """Matrix products, which autocast narrows; remembers their type."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)
        self.seen: list[torch.dtype] = []

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.mix(image)
        self.seen.append(scores.dtype)
        return scores


def test_precision_is_that_of_the_forward_pass(tmp_path: Path) -> None:
    model, task = Adds(), SegmentationTask(["a", "b", "c"], radiometry())
    image = noise(3, 64, 64).transpose(1, 2, 0)
    exact = Predictor(model, task).predict(image, probabilities=True)
    narrow = Predictor(model, task, precision="bf16")
    found = narrow.predict(image, probabilities=True, out=tmp_path / "mask.tif")
    assert model.seen == [torch.float32, torch.bfloat16]
    assert narrow.for_task("segmentation").precision == "bf16"
    difference = np.abs(found.probabilities - exact.probabilities).max()
    print("largest difference of probabilities:", difference)
    assert 0 < difference < 0.02
    with pytest.raises(ConfigError, match="precision='half' is none of fp32, bf16, fp16"):
        Predictor(model, task, precision="half")  # type: ignore[arg-type]


def test_a_model_of_several_tasks_does_the_one_that_is_chosen() -> None:
    model = Brightest()
    several = Predictor(model, Both(["a", "b", "c"], radiometry()), {"name": "both"})
    chosen = several.for_task("reverse")
    assert chosen.classes == ("c", "b", "a")
    assert chosen.card == {"name": "both"}
    image = noise(3, 20, 30).transpose(1, 2, 0)
    chosen.predict(image, tile=None)
    assert model.seen == [(1, 3, 20, 30)]
    single = predictor()
    assert single.for_task("segmentation") is single
    with pytest.raises(ConfigError, match="does segmentation, not 'detection'; leave task out"):
        single.for_task("detection")


class Words(SegmentationTask):
    """Takes a vocabulary; classes are independent, and its tiles small."""

    tile = 128
    activation = "sigmoid"

    def with_classes(self, classes: tuple[str, ...], background: float | None = None) -> "Words":
        extra = () if background is None else (f"below {background}",)
        return Words([*classes, *extra], self.radiometry)


def test_a_vocabulary_has_scores_of_its_own_tiles_and_a_background() -> None:
    model = Brightest()
    words = Predictor(model, Words(["a", "b", "c"], radiometry()))
    image = noise(3, 200, 300).transpose(1, 2, 0)
    result = words.predict(
        image, overlap=16, blend=16, classes=["x", "y"], background=0.5, probabilities=True
    )
    assert result.classes == ("x", "y", "below 0.5")
    assert max(max(shape[2:]) for shape in model.seen) == 128
    logits = 3 * words.task.radiometry(torch.from_numpy(image).permute(2, 0, 1))
    np.testing.assert_allclose(result.probabilities, logits.sigmoid().detach().numpy(), atol=1e-6)
    with pytest.raises(ConfigError, match="give classes too"):
        words.predict(image, background=0.5)
    with pytest.raises(ConfigError, match="classes='tree' is one text; give a list"):
        words.predict(image, classes="tree")


def test_many_classes_make_tiles_smaller_unless_the_task_says_how_large() -> None:
    image, names = noise(3, 200, 300).transpose(1, 2, 0), [f"thing {i}" for i in range(1000)]
    for kind, side in ((SegmentationTask, 96), (Words, 128)):
        model = Brightest()
        thousand = nn.Sequential(model, nn.Conv2d(3, len(names), 1))
        Predictor(thousand, kind(names, radiometry())).predict(image, overlap=16, blend=16)
        assert max(max(shape[2:]) for shape in model.seen) == side


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (31, 33), (300, 417)])
def test_tiled_equals_untiled(size: tuple[int, int]) -> None:
    image = noise(3, *size).transpose(1, 2, 0)
    tiled = predictor().predict(image, tile=128, overlap=16, blend=16, probabilities=True)
    whole = predictor().predict(image, tile=None, probabilities=True)
    np.testing.assert_array_equal(tiled.mask, whole.mask)
    np.testing.assert_array_equal(tiled.mask, image.argmax(axis=2))
    np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-6)
    np.testing.assert_allclose(tiled.probabilities.sum(axis=0), 1, atol=1e-5)


def test_the_file_has_the_georeference_of_the_image(tmp_path: Path) -> None:
    array = noise(3, 200, 300)
    array[:, 50:90, 20:200] = 0
    image = write(tmp_path / "a.tif", array, nodata=0)
    result = predictor().predict(image, tile=128, overlap=16, blend=16, out=tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as written:
        assert (written.crs, written.transform) == (PLACE["crs"], PLACE["transform"])
        assert written.nodata == 255
        mask = written.read(1)
    expected = array.argmax(axis=0)
    expected[50:90, 20:200] = 255
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(result.mask, expected)
    assert result.counts.sum() == (expected != 255).sum()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.tif", "m.tif", "m.tif.aux.xml"]


def test_probabilities_that_would_be_lost_are_refused(tmp_path: Path) -> None:
    image = np.ones((8, 8, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"m\.png: probabilities are written beside a \.tif only"):
        predictor().predict(image, out=tmp_path / "m.png", probabilities=True)
    finds = Predictor(Brightest(), Objects(["a", "b", "c"], radiometry()))
    with pytest.raises(ConfigError, match="not of detection results; leave them out"):
        finds.predict(image, probabilities=True)


def test_a_checkpoint_takes_no_other_weights() -> None:
    with pytest.raises(ConfigError, match=r"a\.safetensors brings its own weights; leave b"):
        load_model("a.safetensors", weights="b.pth")


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-6), ("uint8", 0.5 / 254 + 1e-6)])
def test_probabilities_are_written_beside_the_map(tmp_path: Path, kind, tolerance: float) -> None:
    array = noise(3, 100, 150)
    array[:, :10] = 0
    image = write(tmp_path / "a.tif", array, nodata=0)
    result = predictor().predict(image, out=tmp_path / "m.tif", probabilities=kind)
    expected = predictor().predict(image, probabilities=True).probabilities
    assert result.probabilities_path == tmp_path / "m_probabilities.tif"
    np.testing.assert_allclose(result.probabilities, expected, atol=tolerance)
    assert np.isnan(expected[:, :10]).all()
    assert np.isfinite(expected[:, 10:]).all()


def test_bands_are_taken_in_the_given_order(tmp_path: Path) -> None:
    array = noise(5, 40, 50)
    image = write(tmp_path / "a.tif", array)
    mask = predictor().predict(image, bands=[5, 2, 1]).mask
    np.testing.assert_array_equal(mask, array[[4, 1, 0]].argmax(axis=0))


def test_every_kind_of_image_gives_the_same_map(tmp_path: Path) -> None:
    array = noise(3, 60, 70)
    path = write(tmp_path / "a.tif", array)
    hwc = array.transpose(1, 2, 0)
    images = [path, str(path), read_image(path), hwc, Image.fromarray(hwc)]
    masks = [predictor().predict(image).mask for image in images]
    for mask in masks:
        np.testing.assert_array_equal(mask, array.argmax(axis=0))


def test_a_picture_with_a_palette_is_seen_in_colour() -> None:
    picture = Image.new("P", (9, 9), 1)
    picture.putpalette([0, 0, 255, 255, 0, 0])
    assert (predictor().predict(picture).mask == 0).all()  # red


@pytest.mark.parametrize("mode", ["CMYK", "HSV", "YCbCr", "RGBA", "PA"])
def test_a_picture_in_other_colours_is_seen_in_rgb(mode: str) -> None:
    red = Image.new("RGBA", (9, 9), (250, 5, 5))
    picture = red.convert("P").convert("PA") if mode == "PA" else red.convert("RGB").convert(mode)
    assert (predictor().predict(picture).mask == 0).all()


def test_what_is_transparent_or_masked_is_invalid() -> None:
    array = noise(3, 40, 50).transpose(1, 2, 0)
    hidden = np.zeros((40, 50), bool)
    hidden[:7] = True
    alpha = Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))
    picture = Image.fromarray(array)
    picture.putalpha(alpha)
    masked = np.ma.masked_array(array, np.stack([hidden, hidden & False, hidden & False], axis=2))
    for image in (picture, masked):
        mask = predictor().predict(image).mask
        np.testing.assert_array_equal(mask, np.where(hidden, 255, array.argmax(axis=2)))


@pytest.mark.parametrize("dtype", [">u2", ">f4", "longdouble", "float16", "uint64"])
def test_numbers_of_any_type_and_byte_order_are_read(dtype: str) -> None:
    array = noise(3, 40, 50).transpose(1, 2, 0)
    result = predictor().predict(array.astype(dtype), scale="0:255")
    np.testing.assert_array_equal(result.mask, array.argmax(axis=2))


@pytest.mark.parametrize(
    "arguments",
    [
        {"tile": "512"},
        {"tile": 512.5},
        {"overlap": "32"},
        {"blend": 1.5},
        {"batch_size": 0},
        {"batch_size": "4"},
        {"probabilities": "float16"},
        {"bands": 3},
        {"bands": "321"},
        {"bands": ["red", "green", "blue"]},
        {"bands": [1.0, 2.0, 3.0]},
        {"device": "meta"},
        {"device": 1.5},
        {"scale": (0, 3000)},
        {"scale": 0},
    ],
)
def test_a_mistaken_argument_is_named_with_its_value(arguments: dict[str, Any]) -> None:
    (name, value) = next(iter(arguments.items()))
    with pytest.raises(SwathError, match=name) as caught:
        predictor().predict(noise(3, 40, 50).transpose(1, 2, 0), **arguments)
    assert str(value) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_images_at_once_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(3, 40, 50))
    with pytest.raises(RasterError, match=r"or one path; got a list"):
        predictor().predict([path, path])


def test_a_model_that_was_trained_on_is_asked_in_evaluation_mode() -> None:
    model = predictor()
    model.model.train()
    model.predict(noise(3, 40, 50).transpose(1, 2, 0))
    assert not model.model.training


def test_a_predictor_says_what_it_is_and_takes_nothing_else() -> None:
    assert repr(predictor()) == "Predictor(Brightest, segmentation of 3 classes, cpu)"
    with pytest.raises(ConfigError, match="a torch Module and a Task, in this order, not a Seg"):
        Predictor(predictor().task, predictor().model)  # type: ignore[arg-type]


def test_tiles_without_data_are_not_run(tmp_path: Path) -> None:
    array = np.zeros((3, 96, 1000), np.uint8)
    array[:, :, :60] = noise(3, 96, 60)
    model = predictor()
    model.predict(write(tmp_path / "a.tif", array, nodata=0), tile=128, overlap=16, blend=16)
    assert len(model.model.seen) == 1


def test_tiles_of_a_size_share_a_batch() -> None:
    model = predictor()
    image = noise(3, 96, 1000).transpose(1, 2, 0)
    batched = model.predict(image, tile=128, overlap=16, blend=16, batch_size=4)
    assert max(shape[0] for shape in model.model.seen) == 4
    np.testing.assert_array_equal(batched.mask, image.argmax(axis=2))


def test_sixteen_bits_need_a_scale(tmp_path: Path) -> None:
    array = noise(3, 40, 50, "uint16")
    image = write(tmp_path / "a.tif", array)
    with pytest.raises(DataError, match=r"a\.tif: stored as uint16.*--scale"):
        predictor().predict(image)
    mask = predictor().predict(image, scale="0:10000").mask
    np.testing.assert_array_equal(mask, array.argmax(axis=0))
    assert predictor().task.radiometry.dtype == "uint8"  # the predictor itself is as it was


def test_wrong_band_count_is_refused_with_the_fix(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(5, 9, 9))
    with pytest.raises(DataError, match=r"5 band.*takes 3.*--bands 1,2,3"):
        predictor().predict(image)


def test_a_grey_image_is_told_to_repeat_its_band(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(1, 9, 9))
    with pytest.raises(DataError, match=r"1 band.*takes 3.*repeat.*--bands 1,1,1$"):
        predictor().predict(image)
    assert (predictor().predict(image, bands=[1, 1, 1]).mask == 0).all()


def test_other_ground_sampling_distance_is_a_warning(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(3, 9, 9))
    with pytest.warns(UserWarning, match=r"pixels of 0\.3 m, the model was made for 10 m"):
        predictor(gsd_m=10).predict(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor(gsd_m=0.5).predict(image)


def test_no_georeference_is_a_warning_and_pixel_coordinates(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(3, 9, 9), crs=None, transform=None)
    with pytest.warns(UserWarning, match="results are in pixel coordinates"):
        result = predictor().predict(image, out=tmp_path / "m.tif")
    assert result.info.crs is None
    assert result.path.exists()


def test_coordinates_without_a_crs_are_kept_and_said_to_lack_one(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(3, 9, 9), crs=None)
    with pytest.warns(UserWarning, match=r"which CRS its coordinates are in.*gdal_edit\.py -a_srs"):
        result = predictor().predict(image)
    assert not result.info.transform.is_identity


def test_refuses_to_overwrite_its_input(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(3, 9, 9))
    with pytest.raises(ConfigError, match="is the image itself"):
        predictor().predict(image, out=image)


def test_a_fixed_vocabulary_takes_no_classes() -> None:
    with pytest.raises(ConfigError, match="fixed classes"):
        predictor().predict(np.ones((9, 9, 3), np.uint8), classes=["tree"])


class Broken(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        raise RuntimeError("out of memory")


def test_an_error_of_the_model_leaves_nothing(tmp_path: Path) -> None:
    model = Predictor(Broken(), SegmentationTask(["a"], radiometry()))
    image = write(tmp_path / "a.tif", noise(3, 9, 9))
    with pytest.raises(RuntimeError, match="out of memory"):
        model.predict(image, out=tmp_path / "out" / "m.tif")
    assert list((tmp_path / "out").iterdir()) == []


def test_damage_found_while_reading_leaves_nothing(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(3, 600, 600), compress="deflate", tiled=True,
                  blockxsize=128, blockysize=128)  # fmt: skip
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    with pytest.raises(RasterError, match="damaged, incomplete"):
        predictor().predict(image, tile=128, overlap=16, blend=16, out=tmp_path / "out" / "m.tif")
    assert list((tmp_path / "out").iterdir()) == []


INTERRUPTED = """
import signal, sys, time
import torch
from swath.core.data.radiometry import Radiometry
from swath.core.inference.predictor import Predictor
from swath.core.segmentation import SegmentationTask

class Slow(torch.nn.Module):
    def forward(self, image):
        print("tile", flush=True)
        time.sleep(0.2)
        return image

# a test run in the background inherits an ignored SIGINT
signal.signal(signal.SIGINT, signal.default_int_handler)
task = SegmentationTask(["a", "b", "c"], Radiometry.rgb8())
Predictor(Slow(), task).predict(sys.argv[1], tile=128, overlap=16, blend=16, out=sys.argv[2])
"""


def test_prediction_does_without_packages_that_take_much_memory(tmp_path: Path) -> None:
    code = f"""
import sys
import numpy as np
from torch import nn
from swath.core.inference.predictor import Predictor
from swath.core.segmentation import SegmentationTask

image = np.full((64, 64, 3), 9, np.uint8)
Predictor(nn.Conv2d(3, 2, 1), SegmentationTask(["a", "b"])).predict(
    image, out={str(tmp_path / "mask.tif")!r}
)
heavy = {{"torchvision", "matplotlib", "mmengine", "pandas", "geopandas", "timm", "scipy"}}
print(*sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_leaves_no_file_under_the_final_name(tmp_path: Path, how) -> None:
    image = write(tmp_path / "a.tif", noise(3, 1000, 1000))
    out = tmp_path / "out" / "m.tif"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(image), str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "tile\n"
    assert list(out.parent.iterdir())  # it has begun
    os.kill(process.pid, how)
    _, error = process.communicate(timeout=120)  # it ends; how soon depends on the machine
    assert not out.exists()
    if how == signal.SIGINT:
        assert "KeyboardInterrupt" in error
        assert list(out.parent.iterdir()) == []


NAN, INF = float("nan"), float("inf")


def constant(value: float, bands: int = 3, size: tuple[int, int] = (40, 40), dtype="float32"):
    return np.full((*size, bands), value, dtype=dtype)


def spoilt(value: float) -> np.ndarray:
    array = noise(3, 40, 40, "float32").transpose(1, 2, 0)
    array[3, 5, 1] = value
    return array


def many(classes: int) -> Predictor:
    class Last(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            score = image.new_zeros(len(image), classes, *image.shape[-2:])
            score[:, -1] = 1
            return score

    task = SegmentationTask(
        [str(i) for i in range(classes)], radiometry(), palette=[(1, 2, 3)] * classes
    )
    return Predictor(Last(), task)


EDGES = {
    "one NaN": (spoilt(NAN), 1),
    "one infinity": (spoilt(INF), 1),
    "one negative infinity": (spoilt(-INF), 1),
    "undeclared float nodata": (spoilt(-3.4028235e38), 1),
    "all NaN": (constant(NAN), "no valid pixel"),
    "all infinite": (constant(INF), "no valid pixel"),
    "all zero": (constant(0), 0),
    "all equal": (constant(7), 0),
    "1 x 1": (constant(7, size=(1, 1)), 0),
    "1 px wide": (constant(7, size=(500, 1)), 0),
    "1 px high": (constant(7, size=(1, 500)), 0),
    "2 x 3": (constant(7, size=(2, 3)), 0),
    "larger than a tile by one": (constant(7, size=(129, 129)), 0),
    "huge numbers": (constant(1e29), 0),
    "tiny numbers": (constant(1e-40), 0),
    "no rows": (constant(7, size=(0, 5)), "must be an array"),
    "no bands": (constant(7, bands=0), "must be an array"),
    "grey": (constant(7, bands=1), "1 band"),
    "grey without an axis": (np.ones((9, 9), np.float32), "1 band"),
    "four bands": (constant(7, bands=4), "4 band"),
    "four axes": (np.ones((1, 9, 9, 3), np.float32), "must be an array"),
    "text": (np.full((9, 9, 3), "a"), "must be an array"),
    "complex": (np.ones((9, 9, 3), np.complex64), "must be an array"),
    "booleans": (np.ones((9, 9, 3), bool), "must be an array"),
    "uint8": (constant(7, dtype="uint8"), "stored as uint8"),
    "uint16": (constant(7, dtype="uint16"), "stored as uint16"),
    "float64": (constant(7, dtype="float64"), "stored as float64"),
    "none": (None, "must be an array"),
    "ragged": ([[1.0], [1.0, 2.0]], "must be an array"),
    "bands first": (
        np.ones((3, 50, 40), np.float32),
        r"shape \(3, 50, 40\); \(H, W, C\) is expected.* give array.transpose\(1, 2, 0\)",
    ),
    "a tensor, bands first": (torch.ones(3, 50, 40), r"shape \(3, 50, 40\); \(H, W, C\)"),
    "a folder": (Path(__file__).parent, "is a folder"),
    "missing": ("missing.tif", "doesn't exist"),
}


@pytest.mark.parametrize("case", EDGES)
def test_edge_case(case: str) -> None:
    image, expected = EDGES[case]
    model = predictor(dtype="float32")
    if isinstance(expected, str):
        with pytest.raises(SwathError, match=expected) as caught:
            model.predict(image, tile=128, overlap=16, blend=16, probabilities=True)
        assert "\n" not in str(caught.value)
        return
    result = model.predict(image, tile=128, overlap=16, blend=16, probabilities=True)
    invalid = result.mask == result.nodata
    assert invalid.sum() == expected
    assert np.isfinite(result.probabilities[:, ~invalid]).all()
    assert result.mask[~invalid].max() < 3


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, "uint8"), (255, "uint8"), (256, "uint16"), (65_535, "uint16")]
)
def test_any_number_of_classes(tmp_path: Path, classes: int, dtype: str) -> None:
    out = tmp_path / "m.tif"
    result = many(classes).predict(np.ones((6, 7, 3), np.uint8), out=out)
    assert result.mask.dtype == dtype
    assert (result.mask == classes - 1).all()
    assert read_image(out).valid.all()
    assert len(result.classes) == classes


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="65536 classes"):
        many(65_536).predict(np.ones((6, 7, 3), np.uint8))


def test_all_nodata_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", np.zeros((3, 300, 300), np.uint8), nodata=0)
    with pytest.raises(RasterError, match=r"a\.tif holds no valid pixel"):
        predictor().predict(image, tile=128, overlap=16, blend=16, out=tmp_path / "out" / "m.tif")
    assert list((tmp_path / "out").iterdir()) == []


def test_invalid_pixels_of_an_image_in_memory_stay_invalid() -> None:
    valid = np.ones((20, 30), dtype=bool)
    valid[3, 4] = False
    image = GeoImage(noise(3, 20, 30), valid, RasterInfo(None, 30, 20, 4, alpha=4))
    mask = predictor().predict(image).mask
    assert (mask == 255).sum() == 1
    assert mask[3, 4] == 255


def test_a_checkpoint_gives_a_predictor(tmp_path: Path) -> None:
    from swath.core.checkpoint.store import save_model
    from swath.core.models.unet import UNet
    from swath.core.spec import Spec

    spec = Spec(UNet, in_channels=3, num_classes=2, width=4, depth=1)
    task = Spec(SegmentationTask, classes=["no", "yes"])
    model = spec.build().eval()
    save_model(tmp_path / "m.safetensors", model, spec, task, card={"name": "tiny"})
    loaded = load_model(tmp_path / "m.safetensors", device="cpu")
    assert loaded.classes == ("no", "yes")
    assert loaded.card["name"] == "tiny"
    image = noise(3, 50, 60).transpose(1, 2, 0)
    expected = Predictor(model, task.build()).predict(image)
    np.testing.assert_array_equal(loaded.predict(image).mask, expected.mask)


def test_unknown_models_and_missing_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SwathError, match="swath-smal"):
        load_model("swath-smal")
    with pytest.raises(SwathError, match=r"missing\.safetensors"):
        load_model(tmp_path / "missing.safetensors")


def test_many_classes_make_the_tile_smaller() -> None:
    image = np.ones((1100, 1100, 3), np.uint8)
    for classes, side in ((3, 1024), (48, 512)):
        seen = []

        class Remembers(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                seen.append(max(image.shape[-2:]))  # noqa: B023
                return image[:, :1].expand(-1, classes, -1, -1).clone()  # noqa: B023

        task = SegmentationTask([str(i) for i in range(classes)], radiometry())
        Predictor(Remembers(), task).predict(image)
        assert max(seen) <= side
        assert max(seen) > side // 2 - 128


def test_convolutions_run_channels_last_and_other_models_as_they_are() -> None:
    last = torch.channels_last
    convolution = nn.Conv2d(3, 3, 3, padding=1)
    Predictor(nn.Sequential(convolution), SegmentationTask(["a", "b", "c"]))
    assert convolution.weight.is_contiguous(memory_format=last)
    mixed = nn.ModuleList([nn.Conv2d(3, 3, 3), nn.Linear(3, 3)])
    Predictor(mixed, SegmentationTask(["a", "b", "c"]))
    assert not mixed[0].weight.is_contiguous(memory_format=last)


def test_a_model_without_sentences_says_so() -> None:
    with pytest.raises(ConfigError, match="takes no sentence"):
        predictor().predict(np.zeros((8, 8, 3), np.uint8), text="the ship")


@pytest.mark.parametrize("tile", [None, 128])
def test_scores_that_are_no_numbers_are_no_class(tile: int | None) -> None:
    model = predictor()
    model.model.weight.data.fill_(float("nan"))
    with pytest.raises(ConfigError, match=r"scores aren't numbers \(NaN\); take a wider precision"):
        model.predict(noise(3, 150, 150).transpose(1, 2, 0), tile=tile, overlap=0, blend=16)


def test_results_compare_by_identity() -> None:
    image = noise(3, 40, 50).transpose(1, 2, 0)
    first, second = predictor().predict(image), predictor().predict(image)
    assert first != second
    assert [second, first].index(first) == 1
    assert len({first, second}) == 2


@pytest.mark.parametrize("arguments", [{"alpha": 3}, {"alpha": -1}, {"side": 0}])
def test_pictures_of_no_size_or_opacity_are_refused(arguments: dict[str, Any]) -> None:
    result = predictor().predict(noise(3, 40, 50).transpose(1, 2, 0))
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        result.plot(**arguments)
