import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine

from swath.core.checkpoint.store import save_model
from swath.core.cli import main
from swath.core.cli.predict import _background, _show
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

UTM = CRS.from_epsg(32633)
PLACE = Affine(0.3, 0, 412345.678, 0, -0.3, 5212345.1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    spec = Spec(UNet, in_channels=3, num_classes=2, width=4, depth=1)
    task = Spec(SegmentationTask, classes=["background", "building"])
    save_model(path, spec.build(), spec, task)
    return path


def write(path: Path, bands: int = 3, dtype: str = "uint8", crs: CRS | None = UTM) -> Path:
    array = np.random.default_rng(0).integers(1, 255, (bands, 90, 120)).astype(dtype)
    place = {"crs": crs, "transform": PLACE} if crs else {}
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=90, width=120, dtype=dtype, **place
    ) as target:
        target.write(array)
    return path


def swath(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["swath", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    code = caught.value.code
    return code if isinstance(code, int) else 0


def test_writes_map_polygons_and_probabilities(
    tmp_path: Path, checkpoint: Path, monkeypatch, capsys
) -> None:
    image, out, polygons = (tmp_path / n for n in ("a.tif", "out/m.tif", "out/m.gpkg"))
    write(image)
    arguments = [checkpoint, image, "-o", out, "--vector", polygons, "--probabilities", "--json"]
    assert swath(monkeypatch, "predict", *arguments, "--device", "cpu") == 0
    (report,) = json.loads(capsys.readouterr().out)["results"]
    assert report["written"] == [str(out), str(tmp_path / "out/m_probabilities.tif"), str(polygons)]
    assert sum(report["shares"].values()) == pytest.approx(1, abs=1e-5)
    assert report["mpix_per_s"] > 0
    with rasterio.open(out) as written:
        assert (written.crs, written.transform) == (UTM, PLACE)
    assert set(gpd.read_file(polygons)["class"]) <= {"building"}

    assert swath(monkeypatch, "predict", checkpoint, image, "-o", out) == 2
    assert "m.tif exists" in capsys.readouterr().err
    assert swath(monkeypatch, "predict", checkpoint, image, "-o", out, "--overwrite") == 0
    shown = capsys.readouterr().out
    assert "written" in shown
    assert "MPix/s" in shown

    assert swath(monkeypatch, "vectorise", out, "-o", tmp_path / "v.geojson", "--skip", "") == 0
    assert "polygons" in capsys.readouterr().out
    assert set(gpd.read_file(tmp_path / "v.geojson")["class"]) <= {"background", "building"}
    without = [out, "-o", tmp_path / "w.geojson", "--skip", "background, building"]
    assert swath(monkeypatch, "vectorise", *without) == 0
    assert "0 polygons" in capsys.readouterr().out

    (tmp_path / "n_probabilities.tif").write_bytes(b"somebody's")
    arguments = [checkpoint, image, "-o", tmp_path / "n.tif", "--probabilities"]
    assert swath(monkeypatch, "predict", *arguments) == 2
    assert "n_probabilities.tif exists" in capsys.readouterr().err
    assert (tmp_path / "n_probabilities.tif").read_bytes() == b"somebody's"


def test_several_images_go_to_a_folder_and_one_bad_one_stops_nothing(
    tmp_path: Path, checkpoint: Path, monkeypatch, capsys
) -> None:
    good, bad = write(tmp_path / "a.tif"), write(tmp_path / "b.tif", bands=5)
    assert swath(monkeypatch, "predict", checkpoint, bad, good, "-o", tmp_path / "out") == 2
    assert "b.tif: 5 band" in capsys.readouterr().err
    assert (tmp_path / "out" / "a_mask.tif").exists()
    assert not (tmp_path / "out" / "b_mask.tif").exists()
    folder = tmp_path / "Result"
    arguments = (checkpoint, good, write(tmp_path / "c.tif"), "-o", folder, "--ending", ".png")
    assert swath(monkeypatch, "predict", *arguments) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["a.png", "c.png"]
    with Image.open(folder / "a.png") as indices:
        assert set(np.unique(np.asarray(indices))) <= {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.tif"], "missing.tif doesn't exist"),
        (["."], ". is a folder; give the images in it: *.tif"),
        (["a.tif", "--bands", "1,2,x"], "isn't a list of band numbers"),
        (["a.tif", "--bands", "1,2,9"], "band 9 was asked for"),
        (["a.tif", "--task", "detection"], "does segmentation, not 'detection'"),
        (["a.tif", "--classes", "tree"], "takes no vocabulary"),
        (["a.tif", "--background", "0.4"], "give classes too"),
        (["a.tif", "--tile", "64"], "tile=64 is too small"),
        (["a.tif", "--set", "oriented=true"], "segmentation has nothing to set; leave --set out"),
        (["a.tif", "--set", "oriented"], "'oriented': write it as name=value"),
        (["a.tif", "-o", "a.jpg"], "can't be saved as '.jpg'"),
        (["a.tif", "-o", "a.png", "--probabilities"], "written beside a .tif only"),
        (["a.tif", "-o", "b.tif", "--ending", ".png"], "leave --ending out, or give a folder"),
        (["a.tif", "--yolo"], "YOLO-OBB is for objects, not for segmentation"),
        (["a.tif", "--vector", "a.shp"], "written as .gpkg or .geojson"),
        (["a.tif", "a.tif", "-o", "out"], "out/a_mask.tif would be the result of two images"),
        (["a.tif", "a.bmp"], "a_mask.tif would be the result of two images of the same name"),
        (["16.tif"], "stored as uint16"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, checkpoint: Path, monkeypatch, capsys, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tif")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.bmp")
    write(tmp_path / "16.tif", dtype="uint16")
    assert swath(monkeypatch, "predict", checkpoint, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0
    assert "Traceback" not in error


def test_precision_is_passed_on(tmp_path: Path, checkpoint: Path, monkeypatch, capsys) -> None:
    image = write(tmp_path / "a.tif")
    arguments = ["predict", checkpoint, image, "--device", "cpu", "--precision"]
    assert swath(monkeypatch, *arguments, "bf16") == 0
    assert swath(monkeypatch, *arguments, "half", "--overwrite") == 2
    assert "precision='half' is none of fp32, bf16, fp16" in capsys.readouterr().err


def test_a_background_is_a_probability_or_names() -> None:
    assert _background("0.4") == 0.4
    assert _background("road, sea") == ["road", "sea"]


def test_notes_say_what_a_missing_crs_means(
    tmp_path: Path, checkpoint: Path, monkeypatch, capsys
) -> None:
    image = write(tmp_path / "a.tif", crs=None)
    assert swath(monkeypatch, "predict", checkpoint, image) == 0
    assert "results are in pixel coordinates" in capsys.readouterr().err
    assert (tmp_path / "a_mask.tif").exists()


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        ({"objects": {"ship": 0, "plane": 2}}, ["class objects", "plane 2"]),
        ({"objects": {"ship": 0, "plane": 0}}, ["nothing found of ship, plane"]),
        ({"answer": {"text": "Two ships."}}, ["text: Two ships."]),
        (
            {"answer": {"labels": ()}, "probabilities": {"a": 0.25, "b": 0.5}},
            ["labels: none", "class probability", "b 50.00%", "a 25.00%"],
        ),
    ],
)
def test_tells_what_was_found(found: dict[str, object], lines: list[str], capsys) -> None:
    size = {"width": 4, "height": 3, "crs": None, "seconds": 1.0, "mpix_per_s": 1.0}
    _show({"notes": [], "written": [], **size, **found})
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert said[1:] == lines


def test_a_name_without_suffix_is_a_folder_for_one_image_too(
    tmp_path: Path, checkpoint: Path, monkeypatch, capsys
) -> None:
    image = write(tmp_path / "a.tif")
    folder = tmp_path / "maps[final]"
    assert swath(monkeypatch, "predict", checkpoint, image, "-o", folder, "--device", "cpu") == 0
    assert (folder / "a_mask.tif").exists()
    assert f"written {folder / 'a_mask.tif'}" in capsys.readouterr().out


def test_what_is_unknown_is_transparent_in_a_picture_of_the_map(
    tmp_path: Path, checkpoint: Path, monkeypatch
) -> None:
    image, out = write(tmp_path / "a.tif"), tmp_path / "m.png"
    assert swath(monkeypatch, "predict", checkpoint, image, "-o", out, "--device", "cpu") == 0
    with Image.open(out) as picture:
        assert picture.mode == "P"
        assert picture.info["transparency"] == 255
