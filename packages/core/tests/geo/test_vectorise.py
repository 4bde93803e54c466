import json
import subprocess
import sys
import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

from swath.core.errors import ConfigError, RasterError
from swath.core.geo import vectorise as module
from swath.core.geo.raster import RasterInfo, RasterWriter
from swath.core.geo.vectorise import to_geodataframe, vectorise

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

UTM = CRS.from_epsg(32633)
NORTH_UP = Affine(0.5, 0, 412_345.5, 0, -0.5, 5_212_345.25)
CLASSES = ("background", "field", "wood")
EARTH = 510_065_621_724_089  # square metres of the WGS 84 ellipsoid


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (height // 7 + 1, width // 7 + 1))
    return np.kron(coarse, np.ones((7, 7), int))[:height, :width].astype(np.uint8)


def write(
    path: Path, mask: np.ndarray, transform: Affine = NORTH_UP, crs: CRS | None = UTM
) -> Path:
    info = RasterInfo(None, mask.shape[1], mask.shape[0], crs=crs, transform=transform)
    with RasterWriter(path, info, nodata=255, classes=CLASSES) as writer:
        writer.write(Window(0, 0, mask.shape[1], mask.shape[0]), mask)
    return path


@pytest.fixture
def strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of 64 rows at the least, so that small maps have seams."""
    monkeypatch.setattr(module, "_STRIP_PIXELS", 1)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
@pytest.mark.parametrize(
    "transform",
    [
        NORTH_UP,
        Affine(0.5, 0, 412_345.5, 0, 0.5, 5_212_345.25),
        Affine(0.49, 0.07, 412_345.5, 0.07, -0.49, 5_212_345.25),
    ],
    ids=["north up", "south up", "rotated"],
)
def test_areas_are_those_of_the_pixels(tmp_path: Path, suffix: str, transform: Affine) -> None:
    mask = blobs(300, 210)
    mask[100:140, 50:90] = 255
    out = tmp_path / f"m{suffix}"
    count = vectorise(write(tmp_path / "m.tif", mask, transform), out, skip=())
    table = gpd.read_file(out)
    assert len(table) == count
    assert table.geometry.is_valid.all()
    assert table.crs.to_epsg() == (32633 if suffix == ".gpkg" else 4326)
    areas = table.to_crs(32633).area
    for index, name in enumerate(CLASSES):
        chosen = table["class"] == name
        expected = (mask == index).sum() * abs(transform.determinant)
        assert areas[chosen].sum() == pytest.approx(expected, rel=1e-4)
        assert table.loc[chosen, "area_m2"].sum() == pytest.approx(expected, rel=2e-3)
        assert table.loc[chosen, "area_px"].sum() == (mask == index).sum()
        assert (table.loc[chosen, "class_id"] == index).all()


@pytest.mark.usefixtures("strips")
@settings(deadline=None, max_examples=40)
@given(
    arrays(np.uint8, st.tuples(st.integers(65, 150), st.integers(1, 6)), elements=st.integers(0, 2))
)
def test_seams_leave_no_trace(mask: np.ndarray) -> None:
    """Polygons are those of the whole map at once: same number, same pixels."""
    whole = [
        (shapely.geometry.shape(outline), int(value))
        for outline, value in rasterio.features.shapes(mask, connectivity=4)
    ]
    table = to_geodataframe(mask, skip=())
    assert len(table) == len(whole)
    assert table.geometry.is_valid.all()
    expected = sorted((v, p.bounds, p.area) for p, v in whole)
    found = sorted(zip(table.class_id, map(tuple, table.bounds.values), table.area, strict=True))
    assert [tuple(map(float, (v, *b, a))) for v, b, a in found] == [
        tuple(map(float, (v, *b, a))) for v, b, a in expected
    ]


@pytest.mark.usefixtures("strips")
def test_a_region_that_forks_and_meets_again_is_one_polygon_with_a_hole() -> None:
    mask = np.zeros((200, 50), np.uint8)
    mask[10:190, 5:45] = 1
    mask[60:135, 20:30] = 2
    table = to_geodataframe(mask, classes=CLASSES)
    assert sorted(table["class"]) == ["field", "wood"]
    field = table[table["class"] == "field"].geometry.iloc[0]
    assert len(field.interiors) == 1
    assert field.area == 180 * 40 - 75 * 10


def test_geojson_is_in_degrees_with_the_exterior_counterclockwise(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[5:10, 5:10] = 1
    vectorise(write(tmp_path / "m.tif", mask), tmp_path / "m.geojson")
    content = json.loads((tmp_path / "m.geojson").read_text())
    (feature,) = content["features"]
    assert feature["properties"]["class"] == "field"
    assert feature["properties"]["area_m2"] == pytest.approx(25 * 0.25, rel=1e-3)
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert shapely.is_ccw(shapely.LinearRing(ring))
    assert ring[:, 0].min() > 13
    assert ring[:, 1].max() < 48


def test_polygons_across_the_date_line_are_cut(tmp_path: Path) -> None:
    mask = np.ones((40, 40), np.uint8)
    crs = CRS.from_epsg(32660)  # 180 degrees east is at about 834 km at the equator
    path = write(tmp_path / "m.tif", mask, Affine(500, 0, 823_978, 0, -500, 10_000), crs)
    assert vectorise(path, tmp_path / "m.geojson") == 1
    table = gpd.read_file(tmp_path / "m.geojson")
    assert table.area_m2.iloc[0] == pytest.approx(20_000**2, rel=5e-3)
    assert table.geom_type.tolist() == ["MultiPolygon"]  # RFC 7946, 3.1.9
    table = table.explode()
    widths = table.bounds.maxx - table.bounds.minx
    assert (widths < 1).all()
    assert set(np.sign(table.bounds.minx)) == {-1, 1}
    assert table.to_crs(8857).area.sum() == pytest.approx(20_000**2, rel=5e-3)


def test_a_map_of_the_globe_stays_whole(tmp_path: Path) -> None:
    globe = write(
        tmp_path / "m.tif", np.ones((18, 36), np.uint8), Affine(10, 0, -180, 0, -10, 90),
        CRS.from_epsg(4326),
    )  # fmt: skip
    vectorise(globe, tmp_path / "m.geojson")
    (whole,) = gpd.read_file(tmp_path / "m.geojson").geometry
    assert whole.area == 360 * 180


FULL_DISK = """
import resource, sys
import numpy as np
from swath.core.errors import WriteError
from swath.core.geo.vectorise import vectorise
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    vectorise(np.random.default_rng(0).integers(0, 2, (90, 90), np.uint8), sys.argv[1])
except WriteError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize(
    ("name", "limit"), [("m.geojson", 4_000), ("m.gpkg", 4_000), ("m.gpkg", 120_000)]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", FULL_DISK,
         str(tmp_path / name), str(limit)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{name} can't be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("polar", "equal_area"), [(3413, 6931), (3031, 6932)])
def test_polygons_around_a_pole_hold_it(tmp_path: Path, polar: int, equal_area: int) -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[40:60, 40:60] = 1  # with the pole in its middle, in a hole of class 0
    mask[10:20, 45:60] = 2
    place = Affine(1000, 0, -50_000, 0, -1000, 50_000)
    path = write(tmp_path / "m.tif", mask, place, CRS.from_epsg(polar))
    vectorise(path, tmp_path / "m.geojson", skip=[])
    table = gpd.read_file(tmp_path / "m.geojson")
    assert table.is_valid.all()
    assert table.total_bounds[[0, 2]].tolist() == [-180, 180]
    for shape, area in zip(table.to_crs(equal_area).geometry, table.area_m2, strict=True):
        assert shape.area == pytest.approx(area, rel=1e-6)
    assert table.area_m2.sum() == pytest.approx(100e3**2 / 0.97**2, rel=0.01)  # true at 70 degrees


def test_areas_of_more_than_half_the_earth_are_not_those_of_the_rest(tmp_path: Path) -> None:
    mask = np.zeros((180, 360), np.uint8)
    mask[80:100, 100:200] = 1
    path = write(tmp_path / "m.tif", mask, Affine(1, 0, -180, 0, -1, 90), CRS.from_epsg(4326))
    rest, band = to_geodataframe(path, skip=[]).sort_values("class_id").area_m2
    assert band == pytest.approx(100 / 360 * EARTH * np.sin(np.radians(10)), rel=0.01)
    assert rest + band == pytest.approx(EARTH)


def test_a_crs_without_a_transform_places_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8", crs=UTM
    ) as raster:
        raster.write(np.ones((1, 4, 4), np.uint8))
    for out in (tmp_path / "m.gpkg", tmp_path / "m.geojson"):
        with pytest.warns(UserWarning, match=r"m\.tif has a CRS, but no transform"):
            vectorise(path, out)
        assert gpd.read_file(out).total_bounds.tolist() == [0, 0, 4, 4]
    assert gpd.read_file(tmp_path / "m.gpkg").crs is None


def test_area_is_that_of_the_ground_in_web_mercator(tmp_path: Path) -> None:
    mask = np.ones((10, 10), np.uint8)
    path = write(tmp_path / "m.tif", mask, Affine(10, 0, 0, 0, -10, 8_399_737), CRS.from_epsg(3857))
    vectorise(path, tmp_path / "m.gpkg")
    table = gpd.read_file(tmp_path / "m.gpkg")
    assert table.area.iloc[0] == pytest.approx(100 * 100)
    assert table.area_m2.iloc[0] == pytest.approx(50 * 50, rel=0.01)  # 60 degrees north


def test_background_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    mask = blobs(30, 30)
    assert set(to_geodataframe(mask, classes=CLASSES)["class"]) == {"field", "wood"}
    assert set(to_geodataframe(mask, classes=CLASSES, skip=["wood", 1])["class"]) == {"background"}
    with pytest.raises(ConfigError, match="no class is called 'woods'; did you mean 'wood'"):
        to_geodataframe(mask, classes=CLASSES, skip=["woods"])


def test_small_regions_can_be_left_out_and_outlines_simplified() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[0, 0] = 1
    for i in range(5, 35):  # a staircase
        mask[i, 5:i] = 1
    assert len(to_geodataframe(mask, skip=[0])) == 2
    table = to_geodataframe(mask, skip=[0], min_area_px=4)
    simple = to_geodataframe(mask, skip=[0], min_area_px=4, simplify_px=1.5)
    assert len(table) == len(simple) == 1
    points = [shapely.get_num_coordinates(t.geometry.iloc[0]) for t in (table, simple)]
    assert points[1] < points[0] / 5


@pytest.mark.filterwarnings("error:'crs' was not provided")
def test_without_a_crs_coordinates_are_pixels(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 15:20] = 1
    path = write(tmp_path / "m.tif", mask, Affine.identity(), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that the map has none is said when it is made
        for name in ("m.gpkg", "m.geojson"):
            vectorise(path, tmp_path / name)
    assert gpd.read_file(tmp_path / "m.gpkg").total_bounds.tolist() == [15, 5, 20, 10]
    feature = json.loads((tmp_path / "m.geojson").read_text())["features"][0]
    assert feature["properties"]["area_m2"] is None
    assert feature["properties"]["area_px"] == 25


def test_a_local_crs_keeps_its_coordinates_for_nothing_says_where_it_is(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 15:20] = 1
    site = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    path = write(tmp_path / "m.tif", mask, Affine(2, 0, 100, 0, -2, 50), site)
    vectorise(path, tmp_path / "m.gpkg")
    with pytest.warns(UserWarning, match=r"m\.tif: nothing says where on earth its CRS lies"):
        vectorise(path, tmp_path / "m.geojson")
    table = gpd.read_file(tmp_path / "m.gpkg")
    assert table.total_bounds.tolist() == [130, 30, 140, 40]
    assert table.area_m2.isna().all()
    assert "site" in table.crs.to_wkt()
    feature = json.loads((tmp_path / "m.geojson").read_text())["features"][0]
    assert shapely.geometry.shape(feature["geometry"]).bounds == (130, 30, 140, 40)


@pytest.mark.parametrize("name", ["m.gpkg", "m.geojson"])
def test_a_map_without_regions_gives_an_empty_layer(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "m.tif", np.zeros((9, 9), np.uint8))
    assert vectorise(path, tmp_path / name) == 0
    assert len(gpd.read_file(tmp_path / name)) == 0


@pytest.mark.parametrize("name", ["m.gpkg", "m.geojson"])
def test_a_failure_leaves_nothing(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "m.tif", blobs(600, 600))
    path.write_bytes(path.read_bytes()[:2500])
    with pytest.raises(RasterError):
        vectorise(path, tmp_path / "out" / name)
    folder = tmp_path / "out"
    assert not folder.exists() or list(folder.iterdir()) == []


def test_refuses_what_it_cannot_write_or_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tif", blobs(9, 9))
    with pytest.raises(ConfigError, match=r"m\.shp.*\.gpkg or \.geojson"):
        vectorise(path, tmp_path / "m.shp")
    with pytest.raises(RasterError, match="float32 numbers, not class indices"):
        vectorise(np.zeros((9, 9), np.float32), tmp_path / "m.gpkg")


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    mask = np.ones((20, 20), np.uint8)
    out = tmp_path / "m.GPKG"
    vectorise(write(tmp_path / "m.tif", mask), out)
    assert out.read_bytes().startswith(b"SQLite")
    assert gpd.read_file(out, engine="pyogrio").crs.to_epsg() == 32633


def test_values_below_the_classes_are_left_out() -> None:
    mask = np.full((20, 20), -1, np.int16)
    mask[5:10, 5:10] = 1
    assert to_geodataframe(mask, classes=CLASSES)["class"].tolist() == ["field"]
    assert sorted(to_geodataframe(mask)["class_id"]) == [-1, 1]


def test_values_without_a_name_are_left_out_and_told(tmp_path: Path) -> None:
    mask = write(tmp_path / "m.tif", blobs(70, 70))
    with pytest.warns(UserWarning, match="the values 1, 2 have no name among the 1 classes"):
        found = to_geodataframe(mask, classes=["wood"])
    assert set(found["class"]) == {"wood"}


@pytest.mark.parametrize("mask", [None, [[0, 1]], np.zeros((1, 4, 4), np.uint8)])
def test_what_is_no_class_map_is_refused(tmp_path: Path, mask: object) -> None:
    with pytest.raises(RasterError, match=r"a class map is a path or a numpy array \(H, W\), not"):
        vectorise(mask, tmp_path / "a.gpkg")  # type: ignore[arg-type]


def test_numbers_that_polygons_cannot_hold_are_refused() -> None:
    with pytest.raises(RasterError, match="beyond 32 bits"):
        to_geodataframe(np.full((4, 4), 2**40))


@pytest.mark.parametrize("options", [{"skip": "field"}, {"skip": 0}, {"simplify_px": -1}])
def test_mistaken_options_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        vectorise(blobs(9, 9), tmp_path / "a.gpkg", classes=CLASSES, **options)  # type: ignore[arg-type]
