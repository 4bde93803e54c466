import io
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.transform import from_origin

from swath.core.errors import DataError
from swath.pretrain.rs4p.sources import (
    Cutting,
    Plan,
    Scene,
    Tile,
    Unusable,
    cut,
    find_scenes,
    measure,
)

RNG = np.random.default_rng(0)


def noise(height: int, width: int, bands: int = 3) -> np.ndarray:
    return RNG.integers(1, 256, (height, width, bands), dtype=np.uint8)


def tiff(path: Path, bands: np.ndarray, **profile: object) -> Path:
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **profile) as sink:
        sink.write(bands)
    return path


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tape:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tape.addfile(info, io.BytesIO(content))
    return path


def tiles(path: Path, cutting: Cutting) -> list[Tile | Unusable]:
    scenes = find_scenes([path])
    sizes = [size if not isinstance(size, str) else (0, 0) for size in measure(scenes, cutting)]
    plan = Plan(scenes, np.array(sizes), cutting)
    return cut([plan[i] for i in range(len(plan))], cutting)


def only(path: Path, cutting: Cutting | None = None) -> Tile:
    (tile,) = tiles(path, cutting or Cutting(min_size=1))
    assert isinstance(tile, Tile), tile
    return tile


def test_folders_lists_shards_and_files_are_searched(tmp_path: Path) -> None:
    for name in (
        "x/b.png", "x/deep/a.TIF", "x/.hidden.png", "y/c.jpg", "y/my  own c.jpg", "x/notes.md"
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "list.txt").write_text(
        "y/c.jpg masks/c.png\ny/absent.jpg masks/absent.png\ny/my  own c.jpg\n"
    )
    inside = ("k1.jpg", "k1.mask.png", "k1.conf.png", "k1.json", "d/k2.png", "d/.k3.png",
              "S2A.2020.PNG", "tile_0.5m.tif")  # fmt: skip
    tar(tmp_path / "x/S.TAR", dict.fromkeys(inside, b"abc"))
    scenes = find_scenes([tmp_path / "x", tmp_path / "list.txt", tmp_path / "y/c.jpg"])
    assert [(s.name, s.size) for s in scenes] == [
        ("x/S.TAR/S2A.2020.PNG", 3),
        ("x/S.TAR/d/k2.png", 3),
        ("x/S.TAR/k1.jpg", 3),
        ("x/S.TAR/tile_0.5m.tif", 3),
        ("x/b.png", 5),
        ("x/deep/a.TIF", 5),
        ("y/absent.jpg", 0),
        ("y/c.jpg", 5),
        ("y/my  own c.jpg", 5),
    ]
    jpeg = scenes[2]
    assert jpeg.path.read_bytes()[jpeg.offset :][:3] == b"abc"
    assert find_scenes([tmp_path / "x/S.TAR"])[0].name == "S.TAR/S2A.2020.PNG"


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for name in ("in/own/a.png", "elsewhere/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "in/circle").symlink_to(tmp_path / "in")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/once_more").symlink_to(tmp_path / "elsewhere")
    assert [s.name for s in find_scenes([tmp_path / "in"])] == ["linked/b.png", "own/a.png"]


@pytest.mark.parametrize(
    ("name", "message"), [("absent", "no such folder"), ("text.md", "neither a folder")]
)
def test_sources_that_are_none_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.md").write_text("text")
    with pytest.raises(DataError, match=message):
        find_scenes([tmp_path / name])


def test_a_folder_without_scenes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scenes"):
        find_scenes([tmp_path])


@given(height=st.integers(1, 700), width=st.integers(1, 700), tile=st.integers(32, 128))
def test_tiles_lie_inside_touch_and_leave_out_less_than_half_a_tile(
    height: int, width: int, tile: int
) -> None:
    scene = Scene("s", Path("s"), 1)
    plan = Plan([scene], np.array([[height, width]]), Cutting(tile=tile, min_size=1))
    covered = np.zeros((height, width), int)
    for i in range(len(plan)):
        p = plan[i]
        assert (p.height, p.width) == (min(tile, height), min(tile, width))
        assert p.row + p.height <= height
        assert p.column + p.width <= width
        covered[p.row : p.row + p.height, p.column : p.column + p.width] += 1
    for axis in (0, 1):
        along = covered.any(axis=1 - axis)
        end = int(along.sum())
        assert along[:end].all()
        assert len(along) - end < tile / 2


def test_tiles_are_numbered_across_scenes(tmp_path: Path) -> None:
    scenes = [Scene(name, Path(name), 1) for name in ("a", "small", "broken", "b")]
    sizes = np.array([[100, 200], [40, 300], [0, 0], [64, 64]])
    plan = Plan(scenes, sizes, Cutting(tile=64, min_size=50))
    assert len(plan) == 2 * 3 + 1
    assert plan.too_small == 1
    assert [plan[i].name for i in range(7)] == [
        "a@0,0", "a@0,64", "a@0,128", "a@36,0", "a@36,64", "a@36,128", "b@0,0",
    ]  # fmt: skip


def test_a_large_scene_is_cut_where_the_plan_says(tmp_path: Path) -> None:
    image = noise(100, 150)
    Image.fromarray(image).save(tmp_path / "a.png")
    found = tiles(tmp_path, Cutting(tile=64, image_format="png"))
    assert len(found) == 4
    for tile in found:
        assert isinstance(tile, Tile)
        p = tile.place
        expected = image[p.row : p.row + 64, p.column : p.column + 64]
        np.testing.assert_array_equal(tile.pixels.transpose(1, 2, 0), expected)
        with Image.open(io.BytesIO(tile.encoded)) as stored:
            np.testing.assert_array_equal(np.asarray(stored), expected)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_small_picture_is_stored_as_it_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(70, 90)).save(path)
    tile = only(tmp_path, Cutting(image_format="png"))
    assert (tile.encoded, tile.suffix) == (path.read_bytes(), suffix)


def test_grey_palette_and_four_bands_become_rgb(tmp_path: Path) -> None:
    image = noise(40, 40)
    for name, picture, expected in (
        ("grey", Image.fromarray(image[..., 0]), np.repeat(image[..., :1], 3, axis=2)),
        ("palette", Image.fromarray(image).quantize(16), None),
        ("alpha", Image.fromarray(np.dstack([image, np.full((40, 40), 255, np.uint8)])), image),
    ):
        folder = tmp_path / name
        folder.mkdir()
        picture.save(folder / "a.png")
        wanted = np.asarray(picture.convert("RGB")) if expected is None else expected
        np.testing.assert_array_equal(only(folder).pixels.transpose(1, 2, 0), wanted)
    near_infrared = noise(40, 40, 4).transpose(2, 0, 1)
    path = tiff(tmp_path / "nir.tif", near_infrared, photometric="minisblack")
    np.testing.assert_array_equal(only(path).pixels, near_infrared[:3])
    chosen = only(path, Cutting(bands=(4, 1, 2), min_size=1))
    np.testing.assert_array_equal(chosen.pixels, near_infrared[[3, 0, 1]])


def test_other_numbers_are_scaled_where_the_user_says_how(tmp_path: Path) -> None:
    stored = RNG.integers(0, 4000, (3, 40, 40), dtype=np.uint16)
    path = tiff(tmp_path / "a.tif", stored)
    (message,) = measure(find_scenes([path]), Cutting())
    assert "stored as uint16" in str(message)
    assert "--scale" in str(message)
    tile = only(path, Cutting(scale=(1 / 3000, 0.0), min_size=1))
    expected = np.rint(np.clip(stored / 3000, 0, 1) * 255)
    np.testing.assert_allclose(tile.pixels, expected, atol=1)
    (refused,) = measure(find_scenes([tiff(tmp_path / "b.tif", np.ones((10, 9, 9), np.uint8))]),
                         Cutting())  # fmt: skip
    assert "10 bands" in str(refused)


def test_nodata_is_black_and_invalid_and_empty_tiles_are_left_out(tmp_path: Path) -> None:
    bands = noise(64, 192).transpose(2, 0, 1).copy()
    bands[:, :, 96:] = 0  # the second tile holds half, the third nothing
    path = tiff(tmp_path / "a.tif", bands, nodata=0)
    first, second, third = tiles(path, Cutting(tile=64, min_valid=0.5))
    assert isinstance(first, Tile)
    assert first.valid is None
    assert isinstance(second, Tile)
    assert second.valid is not None
    assert second.valid[:, :32].all()
    assert not second.valid[:, 32:].any()
    assert not second.pixels[:, :, 32:].any()
    assert third == Unusable()
    _, second, _ = tiles(path, Cutting(tile=64, min_valid=0.51))
    assert second == Unusable()


def test_black_and_one_coloured_tiles_are_left_out(tmp_path: Path) -> None:
    for name, colour in (("black", (0, 0, 0)), ("white", (255, 255, 255)), ("sea", (9, 30, 90))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    assert [type(tile) for tile in tiles(tmp_path, Cutting())] == [Unusable] * 3


def test_where_a_tile_lies_is_kept(tmp_path: Path) -> None:
    bands = noise(64, 128).transpose(2, 0, 1)
    place = {"crs": "EPSG:32736", "transform": from_origin(450_000, 40_000, 0.5, 0.5)}
    _, second = tiles(tiff(tmp_path / "a.tif", bands, **place), Cutting(tile=64))
    assert isinstance(second, Tile)
    assert second.meta["source"] == "a.tif"
    assert second.meta["window"] == [0, 64, 64, 64]
    assert second.meta["crs"] == "EPSG:32736"
    assert second.meta["transform"] == [0.5, 0.0, 450_032.0, 0.0, -0.5, 40_000.0]
    assert second.meta["gsd_m"] == pytest.approx(0.5, rel=0.01)


def test_a_scene_in_a_shard_is_read_in_place(tmp_path: Path) -> None:
    picture = io.BytesIO()
    image = noise(64, 64)
    Image.fromarray(image).save(picture, "PNG")
    tar(tmp_path / "s.tar", {"k.png": picture.getvalue()})
    tile = only(tmp_path / "s.tar")
    assert tile.encoded == picture.getvalue()
    assert tile.place.name == "s.tar/k.png@0,0"
    np.testing.assert_array_equal(tile.pixels.transpose(1, 2, 0), image)


def test_a_geotiff_in_a_shard_is_read_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = noise(64, 128).transpose(2, 0, 1).copy()
    bands[:, :, :10] = 255
    place = {"crs": "EPSG:32736", "transform": from_origin(450_000, 40_000, 0.5, 0.5)}
    whole = tiff(tmp_path / "k.tif", bands, nodata=255, **place)
    content = whole.read_bytes()
    shard = tar(tmp_path / "s, 1.tar", {"d/k.tif": content, "cut.tif": content[:-9_000]})
    expected = tiles(whole, Cutting(tile=64))
    scenes = find_scenes([shard])
    plan = Plan(scenes, np.array(measure(scenes, Cutting())), Cutting(tile=64))
    monkeypatch.setattr("swath.pretrain.rs4p.sources.read_at", None)  # nothing is copied
    broken, _, *found = cut([plan[i] for i in range(len(plan))], plan.cutting)
    assert isinstance(broken, Unusable)
    assert broken.reason is not None
    assert "vsi" not in broken.reason
    for tile, same in zip(found, expected, strict=True):
        assert isinstance(tile, Tile)
        assert isinstance(same, Tile)
        np.testing.assert_array_equal(tile.pixels, same.pixels)
        assert tile.meta == {**same.meta, "source": "s, 1.tar/d/k.tif"}
    assert found[0].valid is not None
    assert not found[0].valid[:, :10].any()


def test_a_picture_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    for image in (noise(40, 40), noise(40, 40)):
        Image.fromarray(image).save(path)
        os.utime(path, ns=(0, int(image.sum())))
        np.testing.assert_array_equal(only(path).pixels.transpose(1, 2, 0), image)


@pytest.mark.parametrize("bands", [1, 3])
def test_a_png_with_a_nodata_value_keeps_it(tmp_path: Path, bands: int) -> None:
    image = noise(64, 64, bands).transpose(2, 0, 1) // 2
    image[:, :, :20] = 255
    size = {"count": bands, "height": 64, "width": 64, "dtype": "uint8", "nodata": 255}
    with rasterio.open(tmp_path / "a.png", "w", driver="PNG", **size) as sink:
        sink.write(image)
    tile = only(tmp_path / "a.png")
    assert tile.valid is not None
    assert not tile.valid[:, :20].any()
    assert tile.valid[:, 20:].all()
    assert not tile.pixels[:, :, :20].any()


def test_a_picture_that_the_disk_cannot_give_is_a_broken_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.png")
    scenes = find_scenes([tmp_path])
    place = Plan(scenes, np.array([[64, 64]]), Cutting())[0]

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("swath.pretrain.rs4p.shards.open", fail, raising=False)
    (tile,) = cut([place], Cutting())
    assert isinstance(tile, Unusable)
    assert "Input/output error" in str(tile.reason)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_truncated_scene_is_named_and_the_others_are_cut(tmp_path: Path, suffix: str) -> None:
    for name in "abc":
        Image.fromarray(noise(64, 64)).save(tmp_path / f"{name}.{suffix}")
    broken = tmp_path / f"b.{suffix}"
    broken.write_bytes(broken.read_bytes()[: -len(broken.read_bytes()) // 3])
    scenes = find_scenes([tmp_path])
    plan = Plan(scenes, np.full((3, 2), 64), Cutting())
    first, second, third = cut([plan[i] for i in range(3)], Cutting())
    assert isinstance(first, Tile)
    assert isinstance(third, Tile)
    assert isinstance(second, Unusable)
    assert second.reason is not None
    assert not second.reason.startswith(str(tmp_path)), "its name is said beside it"


def test_a_png_of_sixteen_bits_keeps_its_numbers(tmp_path: Path) -> None:
    stored = RNG.integers(0, 4000, (40, 40, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), stored[..., ::-1])
    (message,) = measure(find_scenes([tmp_path]), Cutting())
    assert "stored as uint16" in str(message)
    tile = only(tmp_path, Cutting(scale=(1 / 4000, 0.0), min_size=1))
    np.testing.assert_allclose(tile.pixels.transpose(1, 2, 0), stored / 4000 * 255, atol=1)
