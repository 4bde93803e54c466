from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image

from swath.core.data.readers import (
    LabelReader,
    decode_image,
    decode_labels,
    find_images,
    image_size,
    read_array,
    read_labels,
    resolve_root,
)
from swath.core.data.spec import Protocol
from swath.core.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def tiff(path: Path, array: np.ndarray, **profile: object) -> Path:
    bands = array[None] if array.ndim == 2 else array
    count, height, width = bands.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=bands.dtype,
        **profile,
    ) as file:
        file.write(bands)
    return path


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "tile.png"
    Image.fromarray(RGB).save(path, format="JPEG")
    array, valid = read_array(path)
    assert array.shape == (3, 6, 5)
    assert valid is None
    named = tmp_path / "really_a_png.tif"
    Image.fromarray(RGB).save(named, format="PNG")
    np.testing.assert_array_equal(read_array(named)[0], RGB.transpose(2, 0, 1))
    assert image_size(named) == (5, 6)


def test_alpha_becomes_validity(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((6, 5), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    array, valid = read_array(tmp_path / "a.png")
    assert array.shape == (3, 6, 5)
    assert valid is not None
    assert np.argwhere(~valid).tolist() == [[0, 0]]


@pytest.mark.parametrize("bands", [1, 3])
def test_a_png_of_a_nodata_value_says_what_is_not_valid(tmp_path: Path, bands: int) -> None:
    values = np.full((bands, 6, 5), 7, np.uint8)
    values[:, 0] = 255
    values[0, 1, 1] = 255 if bands == 3 else 254  # not in every band
    size = {"driver": "PNG", "count": bands, "height": 6, "width": 5, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.png", "w", nodata=255, **size) as file:
        file.write(values)
    array, valid = read_array(tmp_path / "a.png")
    np.testing.assert_array_equal(array, values)
    assert valid is not None
    assert np.argwhere(~valid).tolist() == [[0, column] for column in range(5)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_tiff_keeps_the_sensors_numbers(tmp_path: Path, dtype: str) -> None:
    values = np.arange(2 * 30).reshape(2, 6, 5).astype(dtype) * 2
    array, valid = read_array(tiff(tmp_path / "a.tif", values))
    np.testing.assert_array_equal(array, values)
    assert (array.dtype, valid) == (np.dtype(dtype), None)


def test_wide_numbers_become_float32(tmp_path: Path) -> None:
    for dtype in ("uint32", "int32", "float64"):
        assert read_array(tiff(tmp_path / "a.tif", np.ones((2, 2), dtype)))[0].dtype == np.float32


def test_sixteen_bit_colour_png_is_not_reduced_to_eight(tmp_path: Path) -> None:
    values = np.arange(3 * 30, dtype=np.uint16).reshape(3, 6, 5) * 700
    profile = {"driver": "PNG", "count": 3, "height": 6, "width": 5, "dtype": "uint16"}
    with rasterio.open(tmp_path / "a.png", "w", **profile) as file:
        file.write(values)
    np.testing.assert_array_equal(read_array(tmp_path / "a.png")[0], values)


def test_nodata_is_not_valid(tmp_path: Path) -> None:
    values = np.full((1, 3, 3), 5, np.int16)
    values[0, 1, 1] = -9999
    _, valid = read_array(tiff(tmp_path / "a.tif", values, nodata=-9999))
    assert valid is not None
    assert valid.sum() == 8


def test_index_palette_grey_and_one_bit_masks(tmp_path: Path) -> None:
    labels = np.arange(30, dtype=np.uint8).reshape(6, 5) % 3
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "p.png"), labels)
    assert read_labels(tmp_path / "p.png", coloured=True)[0, 1].tolist() == [200, 0, 0]
    Image.fromarray(np.dstack([labels] * 3)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "grey.png"), labels)
    Image.fromarray(labels == 1).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "bit.png"), labels == 1)


def test_one_bit_tiff_that_stores_white_as_zero(tmp_path: Path, samples_dir: Path) -> None:
    folder = samples_dir / "segmentation/whu_building/label"
    counts = {p.stem: int(read_labels(p).sum()) for p in folder.glob("*.tif")}
    assert counts["0"] == 0
    assert counts["val_0"] == 9


def test_label_tables_map_shift_and_ignore() -> None:
    reader = LabelReader(Protocol(("a", "b"), mapping={0: 255, 1: 0, 2: 1}))
    stored = np.array([[0, 1], [2, 1]], np.uint8)
    assert reader.apply(stored, where="x").tolist() == [[255, 0], [1, 0]]
    assert reader.apply(stored.astype(np.int64), where="x").tolist() == [[255, 0], [1, 0]]


def test_negative_labels(tmp_path: Path) -> None:
    reader = LabelReader(Protocol(("land", "water"), mapping={-1: 255, 0: 0, 1: 1}))
    path = tiff(tmp_path / "l.tif", np.array([[-1, 0, 1]], np.int16))
    assert reader(path).tolist() == [[255, 0, 1]]
    assert reader(path).dtype == np.uint8


def test_colour_labels(tmp_path: Path) -> None:
    reader = LabelReader(Protocol(("a", "b"), mapping=(((255, 0, 0), 0), ((0, 0, 255), 1))))
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, :, 0], picture[1, :, 2] = 255, 255
    Image.fromarray(picture).save(tmp_path / "c.png")
    assert reader(tmp_path / "c.png").tolist() == [[0, 0], [1, 1]]


def test_more_classes_than_a_byte_holds() -> None:
    reader = LabelReader(Protocol(tuple(map(str, range(65535))), ignore_index=65535))
    stored = np.array([[0, 65534, 65535]], np.uint16)
    assert reader.apply(stored, where="x").tolist() == stored.tolist()


@pytest.mark.parametrize(
    ("protocol", "array", "message"),
    [
        (
            Protocol(("a", "b")),
            np.array([[0, 1], [7, 9]], np.uint8),
            r"value 7, 9 in 2 pixel\(s\), first at row 1, column 0, isn't in .* \(0, 1, 255\)",
        ),
        (Protocol(("a",), mapping={300: 0}), np.array([[300, -5]], np.int16), r"value -5 in 1"),
        (
            Protocol(("a",), mapping=(((1, 1, 1), 0),)),
            np.array([[[1, 1, 1], [9, 8, 7]]], np.uint8),
            r"value \(9, 8, 7\) in 1 pixel",
        ),
    ],
)
def test_a_label_outside_the_protocol_is_named(
    protocol: Protocol, array: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match="m.png: label " + message):
        LabelReader(protocol).apply(array, where="m.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image at all", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "not an image|damaged"),
        (b"II*\0" + b"\xff" * 60, "damaged|unreadable|can't be|not recognized|isn't"),
        (b"", "not an image"),
    ],
)
def test_garbage_is_one_line_naming_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_array(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cut"):
        read_array(path)


def test_a_claimed_size_beyond_the_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    tiff(tmp_path / "a.tif", RGB.transpose(2, 0, 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for name in ("a.png", "a.tif"):
        with pytest.raises(DataError, match=name):
            read_array(tmp_path / name)


def test_masks_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="a colour image, but the protocol's labels are integers"):
        read_labels(tmp_path / "rgb.png")
    Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match="labels are RGB colours"):
        read_labels(tmp_path / "grey.png", coloured=True)
    with pytest.raises(DataError, match="holds fractions or NaN"):
        read_labels(tiff(tmp_path / "f.tif", np.array([[0.5, 1.0]], np.float32)))
    whole = tiff(tmp_path / "w.tif", np.array([[2.0, 1.0]], np.float32))
    assert read_labels(whole).tolist() == [[2, 1]]


def test_a_missing_file_proposes_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "area_12.png").touch()
    with pytest.raises(DataError, match=r"no such file; did you mean 'area_12.png'"):
        read_array(tmp_path / "area_2.png")


def test_folders_give_relative_ids(tmp_path: Path) -> None:
    (tmp_path / "z21").mkdir()
    for name in ("z21/b.png", "a.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert sorted(find_images(tmp_path)) == ["a", "z21/b"]
    (tmp_path / "a.tif").touch()
    with pytest.raises(DataError, match="share the id 'a'"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="isn't a folder"):
        find_images(tmp_path / "gone")


def test_variables_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWATH_DATA", "/data")
    assert resolve_root("$SWATH_DATA/x") == Path("/data/x")
    with pytest.raises(DataError, match="set that environment variable"):
        resolve_root("$NOT_SET_ANYWHERE/x")


def test_images_inside_other_files_are_read_alike(tmp_path: Path) -> None:
    alpha = np.full((6, 5, 1), 255, np.uint8)
    alpha[2, 3] = 0
    Image.fromarray(np.concatenate([RGB, alpha], axis=-1)).save(tmp_path / "a.png")
    Image.fromarray(RGB[..., 0] % 3).save(tmp_path / "m.png")
    content = {name: (tmp_path / name).read_bytes() for name in ("a.png", "m.png")}
    array, valid = decode_image(content["a.png"], "shard/a")
    expected, expected_valid = read_array(tmp_path / "a.png")
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(valid, expected_valid)
    labels = decode_labels(content["m.png"], "shard/m")
    np.testing.assert_array_equal(labels, read_labels(tmp_path / "m.png"))
    with pytest.raises(DataError, match=r"shard/a: damaged or truncated"):
        decode_image(content["a.png"][:-30], "shard/a")
    with pytest.raises(DataError, match=r"shard/a: not an image"):
        decode_image(b"text", "shard/a")


def test_the_sensors_numbers_are_kept_inside_other_files_too(tmp_path: Path) -> None:
    five = np.arange(1, 151, dtype=np.uint16).reshape(5, 6, 5) * 57
    five[:, 1, 2] = 0
    assert cv2.imwrite(str(tmp_path / "rgb.png"), five[:3].transpose(1, 2, 0))
    for path in (tiff(tmp_path / "five.tif", five, nodata=0), tmp_path / "rgb.png"):
        content = path.read_bytes()
        expected, expected_valid = read_array(path)
        array, valid = decode_image(content, "shard/a")
        assert array.dtype == np.uint16
        assert int(array.max()) > 5000
        np.testing.assert_array_equal(array, expected)
        np.testing.assert_equal(valid, expected_valid)
        with pytest.raises(DataError, match=r"^shard/a can't be read \((?!.*vsimem)"):
            decode_image(content[:60], "shard/a")
    _, valid = decode_image((tmp_path / "five.tif").read_bytes(), "shard/a")
    assert np.argwhere(~valid).tolist() == [[1, 2]]
