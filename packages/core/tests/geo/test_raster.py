import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine
from rasterio.windows import Window

from swath.core.errors import RasterError, SwathError
from swath.core.geo.raster import RasterInfo, RasterWriter, open_member, open_raster, read_image

UTM = CRS.from_epsg(32633)
PLACES = {
    "utm": (UTM, Affine(0.3, 0, 412345.678901234, 0, -0.3, 5212345.123456789)),
    "degrees": (CRS.from_epsg(4326), Affine(1e-5 / 3, 0, 13.1234567890123, 0, -1e-5 / 3, 47.1)),
    "rotated": (UTM, Affine(0.29, 0.07, 412345.1, 0.07, -0.29, 5212345.2)),
    "south up": (UTM, Affine(0.3, 0, 412345.6, 0, 0.3, 5212345.1)),
    "national": (CRS.from_epsg(28992), Affine(0.25, 0, 155000.0, 0, -0.25, 463000.0)),
    "nowhere": (None, Affine.identity()),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def write(path: Path, array: np.ndarray, **profile) -> Path:
    planes = array[None] if array.ndim == 2 else array
    count, height, width = planes.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width,
        dtype=array.dtype, **profile,
    ) as target:  # fmt: skip
        target.write(planes)
    return path


@pytest.mark.parametrize("place", PLACES)
def test_keeps_crs_transform_and_size_bit_for_bit(tmp_path: Path, place: str) -> None:
    crs, transform = PLACES[place]
    source = write(tmp_path / "a.tif", np.ones((37, 53), np.uint8), crs=crs, transform=transform)
    with open_raster(source) as raster, RasterWriter(tmp_path / "b.tif", raster.info) as writer:
        assert (raster.info.crs, raster.info.transform) == (crs, transform)
        writer.write(Window(0, 0, 53, 37), np.zeros((37, 53), np.uint8))
    with rasterio.open(tmp_path / "b.tif") as result:
        assert (result.crs, result.transform) == (crs, transform)
        assert (result.height, result.width) == (37, 53)


def test_keeps_ground_control_points_and_says_so(tmp_path: Path) -> None:
    points = [GroundControlPoint(r, c, 10 + c / 7, 50 - r / 7, 3) for r in (0, 9) for c in (0, 9)]
    source = write(
        tmp_path / "a.tif", np.ones((10, 10), np.uint8), gcps=points, crs=CRS.from_epsg(4326)
    )
    with open_raster(source) as raster, RasterWriter(tmp_path / "b.tif", raster.info) as writer:
        assert raster.info.has_georeference
        assert "4 ground control points only" in str(raster.info.note)
        writer.write(Window(0, 0, 10, 10), np.zeros((10, 10), np.uint8))
    with rasterio.open(tmp_path / "b.tif") as result:
        kept, crs = result.gcps
        assert crs == CRS.from_epsg(4326)
        assert [(p.row, p.col, p.x, p.y, p.z) for p in kept] == [
            (p.row, p.col, p.x, p.y, p.z) for p in points
        ]


def test_says_that_a_raster_has_no_place(tmp_path: Path) -> None:
    info = read_image(write(tmp_path / "a.tif", np.ones((4, 4), np.uint8))).info
    assert not info.has_georeference
    assert info.gsd_m is None
    assert "a.tif has no CRS" in str(info.note)


def test_a_crs_without_a_transform_is_not_written(tmp_path: Path) -> None:
    lost = RasterInfo(Path("a.tif"), 4, 4, crs=CRS.from_epsg(32633))
    assert not lost.has_georeference
    assert "a.tif has a CRS, but no transform" in str(lost.note)
    with RasterWriter(tmp_path / "b.tif", lost) as writer:
        writer.write(Window(0, 0, 4, 4), np.ones((4, 4), np.uint8))
    assert read_image(tmp_path / "b.tif").info.crs is None


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "float32", "float64", "complex64"]
)
@pytest.mark.parametrize("count", [1, 3, 13])
def test_reads_any_type_and_band_count(tmp_path: Path, dtype: str, count: int) -> None:
    array = (np.arange(count * 6 * 5) % 120).reshape(count, 6, 5).astype(dtype)
    image = read_image(write(tmp_path / "a.tif", array))
    np.testing.assert_array_equal(image.array, array)
    assert image.array.dtype == dtype
    assert image.valid.all()


def test_reads_a_window_and_chosen_bands_in_order(tmp_path: Path) -> None:
    array = np.arange(4 * 20 * 30, dtype=np.uint16).reshape(4, 20, 30)
    with open_raster(write(tmp_path / "a.tif", array)) as raster:
        part, valid = raster.read(Window(7, 3, 11, 5), bands=[4, 1])
    np.testing.assert_array_equal(part, array[[3, 0], 3:8, 7:18])
    assert valid.shape == (5, 11)


def test_a_black_band_is_not_nodata_but_black_in_all_bands_is(tmp_path: Path) -> None:
    array = np.zeros((3, 1, 3), np.uint8)
    array[:, 0, 0], array[0, 0, 1] = 9, 9
    valid = read_image(write(tmp_path / "a.tif", array, nodata=0)).valid
    assert valid.tolist() == [[True, True, False]]


def test_one_band_of_minus_9999_makes_a_pixel_invalid(tmp_path: Path) -> None:
    array = np.ones((2, 1, 2), np.float32)
    array[1, 0, 1] = -9999
    assert read_image(write(tmp_path / "a.tif", array, nodata=-9999)).valid.tolist() == [
        [True, False]
    ]


@pytest.mark.parametrize("nodata", [None, np.nan])
def test_nan_and_infinity_are_invalid(tmp_path: Path, nodata: float | None) -> None:
    array = np.array([[[1, np.nan, np.inf, -np.inf]], [[1, 1, 1, 1]]], np.float32)
    valid = read_image(write(tmp_path / "a.tif", array, nodata=nodata)).valid
    assert valid.tolist() == [[True, False, False, False]]


def test_alpha_is_a_mask_and_not_a_band_unless_asked_for(tmp_path: Path) -> None:
    array = np.full((4, 1, 2), 7, np.uint8)
    array[3] = [[255, 0]]
    path = write(tmp_path / "a.tif", array, photometric="RGB", alpha="yes")
    image = read_image(path)
    assert image.array.shape == (3, 1, 2)
    assert image.valid.tolist() == [[True, False]]
    assert read_image(path, bands=[4]).array.tolist() == [[[255, 0]]]
    assert read_image(path, bands=[4]).valid.all()


def test_an_internal_mask_is_honoured(tmp_path: Path) -> None:
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", count=1, height=1, width=2, dtype="uint8"
        ) as target,
    ):
        target.write(np.ones((1, 1, 2), np.uint8))
        target.write_mask(np.array([[255, 0]], np.uint8))
    assert read_image(tmp_path / "a.tif").valid.tolist() == [[True, False]]


def test_ground_sampling_distance_is_in_metres_on_the_ground() -> None:
    north = Affine(10, 0, 500_000, 0, -10, 5_500_000)
    assert RasterInfo(None, 9, 9, crs=UTM, transform=north).gsd_m == pytest.approx(10, rel=0.01)
    # at 60 degrees north, web Mercator stretches twofold
    mercator = Affine(10, 0, 0, 0, -10, 8_399_737.9)
    info = RasterInfo(None, 2, 2, crs=CRS.from_epsg(3857), transform=mercator)
    assert info.gsd_m == pytest.approx(5, rel=0.01)
    degrees = Affine(1 / 3600, 0, 10, 0, -1 / 3600, 0)
    info = RasterInfo(None, 2, 2, crs=CRS.from_epsg(4326), transform=degrees)
    assert info.gsd_m == pytest.approx(30.9, rel=0.01)


def test_palette_and_class_names_come_back(tmp_path: Path) -> None:
    info = RasterInfo(None, 300, 200, crs=UTM, transform=Affine(1, 0, 5e5, 0, -1, 5e6))
    palette, classes = [(1, 2, 3), (4, 5, 6)], ("bare & dry", "wet")
    with RasterWriter(
        tmp_path / "m.tif", info, nodata=255, palette=palette, classes=classes, overviews=True
    ) as writer:
        writer.write(Window(0, 0, 300, 100), np.ones((100, 300), np.uint8))
    with open_raster(tmp_path / "m.tif") as raster:
        assert raster.palette is not None
        assert raster.palette[:2] == palette
        assert raster.classes == classes
        array, valid = raster.read()
    assert valid.sum() == (array == 1).sum() == 100 * 300  # what wasn't written is nodata
    assert "<Category>bare &amp; dry</Category>" in (tmp_path / "m.tif.aux.xml").read_text()
    with rasterio.open(tmp_path / "m.tif") as result:
        assert result.profile["tiled"]
        assert result.profile["compress"] == "deflate"
        assert result.overviews(1) == [2]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, error) -> None:
    path = tmp_path / "m.tif"
    path.write_bytes(b"old")

    def fail() -> None:
        with RasterWriter(path, RasterInfo(None, 9, 9)) as writer:
            writer.write(Window(0, 0, 9, 9), np.ones((9, 9), np.uint8))
            raise error

    with pytest.raises(error):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["m.tif"]
    assert path.read_bytes() == b"old"


FULL_DISK = """
import resource, sys
import numpy as np
from rasterio.windows import Window
from swath.core.errors import RasterError
from swath.core.geo.raster import RasterInfo, RasterWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
noise = np.random.default_rng(0).integers(0, 200, (2000, 2000)).astype(np.uint8)
try:
    with RasterWriter(sys.argv[1], RasterInfo(None, 2000, 2000)) as writer:
        writer.write(Window(0, 0, 2000, 2000), noise)
except RasterError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "m.tif")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "m.tif can't be written" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_stale_side_files_go_with_the_raster_they_described(tmp_path: Path) -> None:
    for end in (".aux.xml", ".ovr", ".msk"):
        (tmp_path / f"m.tif{end}").write_text("<PAMDataset/>")
    with RasterWriter(tmp_path / "m.tif", RasterInfo(None, 9, 9)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["m.tif"]


def test_refuses_to_write_another_format(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"m\.jpg must end in \.tif"):
        RasterWriter(tmp_path / "m.jpg", RasterInfo(None, 9, 9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "doesn't exist"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_bytes(b""), "can't be read"),
        (lambda p: p.write_bytes(np.random.default_rng(0).bytes(5000)), "can't be read"),
        (lambda p: p.write_bytes(b"II*\0" + bytes(100)), "can't be read"),
    ],
)
def test_refuses_what_is_not_a_raster(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "a.tif"
    make(path)
    with pytest.raises(RasterError, match=message) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_refuses_a_truncated_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 300, 300)).astype(np.uint8)
    path = write(tmp_path / "a.tif", noise, compress="deflate")
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(RasterError, match="damaged, incomplete"):
        read_image(path)


def test_refuses_bands_that_do_not_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((3, 4, 4), np.uint8))
    with pytest.raises(RasterError, match="has bands 1 to 3, but band 4 was asked for"):
        read_image(path, bands=[1, 4])


def bomb_tiff(path: Path) -> Path:
    """A sparse BigTIFF of a few bytes that claims 10^6 x 10^6 pixels."""
    with rasterio.open(
        path, "w", driver="GTiff", width=10**6, height=10**6, count=1, dtype="uint8",
        tiled=True, blockxsize=8192, blockysize=8192, sparse_ok=True, bigtiff="YES",
    ):  # fmt: skip
        pass
    return path


def bomb_png(path: Path, side: int = 40_000) -> Path:
    """A valid PNG of side x side black bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("make", [bomb_tiff, bomb_png])
def test_bombs_are_refused_before_anything_is_allocated(tmp_path: Path, make) -> None:
    path = make(tmp_path / ("a.tif" if make is bomb_tiff else "a.png"))
    process = psutil.Process()
    before, start = process.memory_info().rss, time.monotonic()
    with pytest.raises(RasterError, match="more than the limit"):
        open_raster(path)
    assert time.monotonic() - start < 2
    assert process.memory_info().rss - before < 50 << 20


def test_a_wide_raster_is_not_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "wide.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=60_000, height=30_000, count=3, dtype="uint8",
        tiled=True, blockxsize=512, blockysize=512, sparse_ok=True, interleave="pixel",
    ):  # fmt: skip
        pass
    with open_raster(path) as raster:
        assert raster.read(Window(59_000, 29_000, 1000, 1000))[0].shape == (3, 1000, 1000)
        with pytest.raises(RasterError, match="more than the limit of 1,000"):
            open_raster(path, max_pixels=1000)


def test_the_limit_can_be_set_by_the_environment(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "a.tif", np.ones((10, 10), np.uint8))
    monkeypatch.setenv("SWATH_MAX_PIXELS", "99")
    with pytest.raises(RasterError, match="SWATH_MAX_PIXELS=100"):
        open_raster(path)
    monkeypatch.setenv("SWATH_MAX_PIXELS", "many")
    with pytest.raises(RasterError, match="SWATH_MAX_PIXELS=many must be a whole number"):
        open_raster(path)


@pytest.mark.parametrize(
    "path", ["https://example.com/a.tif", "s3://b/a.tif", "/vsicurl/https://example.com/a.tif"]
)
def test_an_address_is_told_from_a_file_that_is_missing(path: str) -> None:
    for given in (path, Path(path)):
        with pytest.raises(RasterError, match="isn't a file of this machine; fetch it"):
            open_raster(given)


def test_a_raster_inside_another_file_is_read_in_place_and_called_by_its_name(
    tmp_path: Path,
) -> None:
    array = np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8)
    content = write(tmp_path / "a.tif", array, nodata=7, compress="deflate").read_bytes()
    around = tmp_path / "several, in one.tar"
    around.write_bytes(b"before" + content + b"after")
    with open_member(around, 6, len(content), "one.tar/a.tif") as raster:
        assert (raster.info.path, raster.info.nodata) == (Path("one.tar/a.tif"), 7)
        np.testing.assert_array_equal(raster.read()[0], array)
    with pytest.raises(RasterError, match=r"^one.tar/a.tif can't be read \(not recognised"):
        open_member(around, 7, len(content), "one.tar/a.tif")
    with (
        open_member(around, 6, len(content) * 2 // 3, "one.tar/a.tif") as raster,
        pytest.raises(RasterError, match=r"^one.tar/a.tif can't be read") as caught,
    ):
        raster.read()
    assert "vsi" not in str(caught.value)


@pytest.mark.parametrize("bands", [3, "123", ["red"], [1.0]])
def test_bands_that_are_no_numbers_are_refused(tmp_path: Path, bands: Any) -> None:
    path = write(tmp_path / "a.tif", np.ones((10, 10), np.uint8))
    with pytest.raises(RasterError, match="must be band numbers, counted from 1"):
        read_image(path, bands)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One of the ways files break: flipped bytes, mostly in the header, cuts and repeats."""
    out = bytearray(data)
    kind = rng.integers(4)
    if kind == 0:  # bytes anywhere
        for position in rng.integers(0, len(out), rng.integers(1, 30)):
            out[position] = rng.integers(256)
    elif kind == 1:  # tags, sizes, block layout: the directory comes first in these files
        for position in rng.integers(4, 400, rng.integers(1, 8)):
            out[position] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
    elif kind == 2:  # cut
        del out[rng.integers(len(out)) :]
    else:  # a piece moved elsewhere
        a, b, n = rng.integers(0, len(out), 3)
        out[b : b + n % 64] = out[a : a + n % 64]
    return bytes(out)


def fuzz(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 255, (3, 70, 90)).astype(np.uint8)
    seeds = [
        write(folder / "tiled.tif", array, tiled=True, blockxsize=32, blockysize=32,
              compress="deflate", crs=UTM, transform=PLACES["utm"][1], nodata=0),
        write(folder / "jpeg.tif", array, tiled=True, blockxsize=32, blockysize=32,
              compress="jpeg", photometric="YCBCR"),
        write(folder / "strips.tif", array.astype(np.uint16), compress="lzw", predictor=2),
        write(folder / "plain.tif", array.astype(np.float32), nodata=-9999, bigtiff="YES"),
    ]  # fmt: skip
    originals = [path.read_bytes() for path in seeds]
    before = psutil.Process().memory_info().rss
    for n in range(count):
        path = folder / "mutant.tif"
        path.write_bytes(mutated(originals[n % len(originals)], rng))
        start = time.monotonic()
        try:
            with open_raster(path) as raster:
                info = raster.info
                raster.read(Window(0, 0, min(64, info.width), min(64, info.height)))
        except SwathError as error:
            assert "\n" not in str(error)  # noqa: PT017
        assert time.monotonic() - start < 5
    assert psutil.Process().memory_info().rss - before < 1 << 29


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, 200, seed=0)


@pytest.mark.slow
def test_a_thousand_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, 1000, seed=1)
