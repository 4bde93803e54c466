import pickle
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine, from_origin
from shapely import box

from swath.core.data.georaster import GeoRasterSegmentation
from swath.core.data.spec import Protocol
from swath.core.errors import DataError

UTM = "EPSG:32636"
PLACE = from_origin(500_000, 40_000, 2, 2)  # 2 m pixels


def raster(path: Path, array: np.ndarray, transform: Affine = PLACE, **profile: Any) -> Path:
    size = dict(zip(("count", "height", "width"), array.shape, strict=True))
    options = {"crs": UTM, "transform": transform, "dtype": array.dtype} | size | profile
    with rasterio.open(path, "w", driver="GTiff", **options) as file:
        file.write(array)
    return path


def squares(path: Path, *pixels: tuple[int, int, int, int], crs: str = UTM, **columns: Any) -> Path:
    """Rectangles given as column, row, width, height of 2 m pixels."""
    shapes = [
        box(*(PLACE * (left, top + height)), *(PLACE * (left + width, top)))
        for left, top, width, height in pixels
    ]
    frame = geopandas.GeoDataFrame(columns, geometry=shapes, crs=UTM).to_crs(crs)
    frame.to_file(path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(1, 4000, (2, 40, 50), dtype=np.uint16)
    return raster(tmp_path / "scene.tif", values)


def whole(data: GeoRasterSegmentation, height: int = 40, width: int = 50) -> np.ndarray:
    """The windows' masks put together again."""
    scene = np.full((height, width), 99, np.uint8)
    for sample in (data[i] for i in range(len(data))):
        left, top, w, h = sample.meta["window"]
        scene[top : top + h, left : left + w] = sample.targets["mask"].numpy()
    return scene


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_polygons_of_another_crs_are_drawn_into_the_windows(
    tmp_path: Path, image: Path, suffix: str
) -> None:
    crs = "EPSG:4326" if suffix == ".geojson" else UTM
    labels = squares(tmp_path / f"l{suffix}", (3, 5, 20, 10), (30, 30, 20, 10), crs=crs)
    data = GeoRasterSegmentation(image, labels, tile_px=16, stride=12)
    expected = np.zeros((40, 50), np.uint8)
    expected[5:15, 3:23] = expected[30:40, 30:50] = 1
    np.testing.assert_array_equal(whole(data), expected)
    with rasterio.open(image) as file:
        left, top, w, h = data[4].meta["window"]
        np.testing.assert_array_equal(
            data[4].image.numpy(), file.read()[:, top : top + h, left : left + w]
        )
    assert data[4].meta["gsd_m"] == pytest.approx(2, rel=0.01)


def test_an_attribute_says_the_class_and_later_features_lie_on_top(
    tmp_path: Path, image: Path
) -> None:
    labels = squares(
        tmp_path / "l.gpkg", (0, 0, 10, 10), (5, 5, 10, 10), use=["roof", "pool"], code=[4, 7]
    )
    classes = ("ground", "pool", "roof")
    by_name = GeoRasterSegmentation(image, labels, classes=classes, attribute="use", tile_px=64)
    mask = by_name[0].targets["mask"]
    assert (mask[2, 2], mask[7, 7], mask[12, 12], mask[30, 30]) == (2, 1, 1, 0)
    for burn in ({4: "roof", 7: 1}, [[4, "roof"], [7, 1]]):
        by_code = GeoRasterSegmentation(
            image, labels, classes=classes, attribute="code", burn=burn, tile_px=64
        )
        assert (by_code[0].targets["mask"] == mask).all()


def test_windows_cover_everything_and_stay_inside(tmp_path: Path, image: Path) -> None:
    labels = squares(tmp_path / "l.gpkg", (0, 0, 5, 5))
    data = GeoRasterSegmentation(image, labels, tile_px=16)
    assert len(data) == 3 * 4
    assert data.ids[-1] == "scene/24_34"
    assert (whole(data) != 99).all()
    assert GeoRasterSegmentation(image, labels, tile_px=512)[0].image.shape == (2, 40, 50)


def test_parts_of_the_height_share_no_pixel(tmp_path: Path, image: Path) -> None:
    labels = squares(tmp_path / "l.gpkg", (0, 0, 5, 5))
    train = whole(GeoRasterSegmentation(image, labels, tile_px=16, rows=(0, 0.6))) != 99
    test = whole(GeoRasterSegmentation(image, labels, tile_px=16, rows=(0.6, 1))) != 99
    assert train[:24].all()
    assert test[24:].all()
    assert not (train & test).any()


def test_windows_without_data_are_left_out_and_nodata_is_marked(tmp_path: Path) -> None:
    values = np.zeros((1, 40, 40), np.uint16)
    values[0, 10:, 20:] = 7
    image = raster(tmp_path / "s.tif", values, nodata=0)
    labels = squares(tmp_path / "l.gpkg", (20, 20, 5, 5))
    data = GeoRasterSegmentation(image, labels, tile_px=20)
    assert data.ids == ["s/0_20", "s/20_20"]
    valid = data[0].valid
    assert valid is not None
    assert valid.any(dim=1).tolist() == [False] * 10 + [True] * 10
    assert data[1].valid is None


def test_labels_count_only_inside_a_region(tmp_path: Path, image: Path) -> None:
    labels = squares(tmp_path / "l.gpkg", (0, 0, 5, 5))
    region = squares(tmp_path / "r.gpkg", (0, 0, 10, 8), crs="EPSG:4326")
    data = GeoRasterSegmentation(image, labels, tile_px=20, region=region)
    assert data.ids == ["scene/0_0"]
    mask = data[0].targets["mask"]
    assert (mask[:5, :5] == 1).all()
    assert (mask[5:8, :10] == 0).all()
    assert (mask[8:] == 255).all()
    assert (mask[:, 10:] == 255).all()


def test_a_label_raster_on_the_same_grid(tmp_path: Path, image: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 3, (1, 40, 50), dtype=np.uint8)
    labels = raster(tmp_path / "l.tif", stored)
    protocol = Protocol(("a", "b"), mapping=((0, 255), (1, 0), (2, 1)))
    data = GeoRasterSegmentation(image, labels, protocol=protocol, tile_px=16)
    np.testing.assert_array_equal(whole(data), np.array([255, 0, 1], np.uint8)[stored[0]])


def test_a_label_raster_is_matched_by_coordinates_not_by_index(tmp_path: Path, image: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 2, (1, 30, 30), dtype=np.uint8)
    shifted = raster(tmp_path / "l.tif", stored, PLACE * Affine.translation(-7, 4))
    seen = whole(GeoRasterSegmentation(image, shifted, classes=("a", "b"), tile_px=16))
    expected = np.full((40, 50), 255, np.uint8)
    expected[4:34, :23] = stored[0, :, 7:]
    np.testing.assert_array_equal(seen, expected)


def test_several_rasters_share_one_label_file(samples_dir: Path) -> None:
    folder = samples_dir / "geotiff/s2_aberystwyth"
    protocol = Protocol(
        ("forest", "grass", "urban", "water"), mapping=((0, 255), *((i + 1, i) for i in range(4)))
    )
    tiles = sorted(folder.glob("tile*.tif"))
    data = GeoRasterSegmentation(
        tiles, folder / "landcover_cls.tif", protocol=protocol, tile_px=128
    )
    assert {i.partition("/")[0] for i in data.ids} == {p.stem for p in tiles}
    sample = data[5]
    left, top, _, _ = sample.meta["window"]
    with (
        rasterio.open(folder / "landcover_cls.tif") as cls,
        rasterio.open(sample.meta["path"]) as image,
    ):
        for row, column in ((0, 0), (17, 90), (127, 64)):
            place = image.transform * (left + column + 0.5, top + row + 0.5)
            value = next(cls.sample([place]))[0]
            assert sample.targets["mask"][row, column] == (255 if value == 0 else value - 1)


def test_kampala_polygons_agree_with_the_truth_raster(samples_dir: Path) -> None:
    folder = samples_dir / "geotiff"
    labels = samples_dir / "segmentation/oam_kampala_buildings/labels.geojson"
    data = GeoRasterSegmentation(folder / "oam_kampala_mosaic_rgb.tif", labels, tile_px=1024)
    with rasterio.open(folder / "oam_kampala_mosaic_buildings.tif") as file:
        truth = file.read(1)
    drawn = whole(data, 2048, 2048)
    with rasterio.open(folder / "oam_kampala_mosaic_rgb.tif") as file:
        seen = file.read().any(axis=0)
    assert (drawn == truth)[seen].mean() > 0.995


def test_it_travels_to_workers(tmp_path: Path, image: Path) -> None:
    labels = squares(tmp_path / "l.gpkg", (3, 3, 9, 9))
    data = GeoRasterSegmentation(image, labels, tile_px=20, bands=(2,))
    again = pickle.loads(pickle.dumps(data))
    assert (again[0].targets["mask"] == data[0].targets["mask"]).all()
    assert again[0].image.shape == (1, 20, 20)


def faults(tmp_path: Path, image: Path) -> dict[str, tuple[dict[str, Any], str]]:
    labels = squares(tmp_path / "l.gpkg", (3, 3, 9, 9), use=["roof"])
    far = squares(tmp_path / "far.gpkg", (9000, 9000, 9, 9))
    values = np.ones((1, 40, 50), np.uint8)
    nowhere = raster(tmp_path / "nowhere.tif", values, Affine.identity(), crs=None)
    small = raster(tmp_path / "small.tif", values[:, :9], Affine.identity(), crs=None)
    (tmp_path / "bad.gpkg").write_text("nothing")
    base: dict[str, Any] = {"raster": image, "labels": labels}
    coloured = {"protocol": Protocol(("a", "b"), mapping=(((255, 0, 0), 0), ((0, 255, 0), 1)))}
    use = base | {"attribute": "use"}
    return {
        "no CRS": (base | {"raster": nowhere}, "has no CRS and transform"),
        "elsewhere": (base | {"labels": far}, "none of its features touches"),
        "missing": (base | {"labels": tmp_path / "gone.gpkg"}, "no such label file"),
        "damaged": (base | {"labels": tmp_path / "bad.gpkg"}, "can't be read as vectors"),
        "attribute": (base | {"attribute": "used"}, "no attribute 'used'; did you mean 'use'"),
        "class": (use, "use='roof' isn't one of the classes"),
        "burn": (use | {"burn": {"road": 1}}, "use='roof' isn't in burn"),
        "burn alone": (base | {"burn": {"roof": 1}}, "burn needs the attribute"),
        "tile": (base | {"tile_px": 0}, "tile_px=0"),
        "rows": (base | {"rows": (0.5, 0.5)}, "two rising fractions"),
        "colours": (base | coloured | {"labels": image}, "this protocol lists colours"),
        "grids": (base | {"labels": small}, "can't be matched"),
    }


@pytest.mark.parametrize(
    "name",
    ["no CRS", "elsewhere", "missing", "damaged", "attribute", "class", "burn", "burn alone",
     "tile", "rows", "colours", "grids"],
)  # fmt: skip
def test_faults_are_one_line(tmp_path: Path, image: Path, name: str) -> None:
    arguments, message = faults(tmp_path, image)[name]
    with pytest.raises(DataError, match=message) as error:
        GeoRasterSegmentation(**arguments)
    assert "\n" not in str(error.value)


def test_a_value_outside_the_protocol_names_the_label_raster(tmp_path: Path, image: Path) -> None:
    labels = raster(tmp_path / "l.tif", np.full((1, 40, 50), 9, np.uint8))
    with pytest.raises(DataError, match=r"l.tif: label value 9"):
        GeoRasterSegmentation(image, labels, classes=("a", "b"))[0]
