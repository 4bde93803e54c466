"""`swath data` and `swath datasets` as typed: what they print, write and exit with."""

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from swath.core.cli import data
from swath.core.data.prepare import RECIPES
from swath.core.plugins import Plugin

Swath = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        rng = np.random.default_rng(number)
        for folder, shape, top in (("images", (16, 16, 3), 256), ("masks", (16, 16), 2)):
            (tmp_path / folder).mkdir(exist_ok=True)
            array = rng.integers(0, top, shape).astype(np.uint8)
            Image.fromarray(array).save(tmp_path / folder / f"{number}.png")
    return tmp_path


def own(root: Path) -> list[object]:
    return [root, "--images", "images", "--masks", "masks", "--classes", "ground,roof"]


def test_a_clean_folder_passes_the_check(swath: Swath, root: Path) -> None:
    code, out, _ = swath("data", "check", *own(root))
    assert code == 0
    assert "no faults" in out
    assert "roof" in out


def test_a_fault_is_printed_and_ends_in_exit_code_2(swath: Swath, root: Path) -> None:
    Image.new("L", (16, 16), 5).save(root / "masks/1.png")
    code, out, _ = swath("data", "check", *own(root))
    assert code == 2
    assert f"{root / 'masks/1.png'}: label value 5 in 256 pixel(s)" in out
    assert "1 fault(s)" in out


def test_json_is_all_that_is_printed(swath: Swath, root: Path) -> None:
    (root / "masks/2.png").unlink()
    code, out, _ = swath("data", "check", *own(root), "--json")
    report = json.loads(out)
    assert code == 2
    assert [f["kind"] for f in report["findings"]] == ["missing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "check", "lovedaa", "ROOT"], "did you mean 'loveda'"),
        (["data", "check", "loveda"], "give the folder of your copy"),
        (["data", "check", "ROOT"], "--classes"),
        (["data", "check", "loveda", "ROOT"], "holds no images of loveda"),
        (["data", "preview", "ROOT", "--images", "absent", "--masks", "masks",
          "--classes", "a,b"], "isn't a folder"),
        (["data", "check", "ROOT", "--split", "val", "--protocol", "s5"],
         "--split and --protocol can't be used with a folder of your own"),
        (["data", "check", "loveda", "ROOT", "--classes", "a,b", "--format", "coco"],
         "--classes and --format can't be used with a named set"),
        (["data", "preview", "ROOT", "--format", "coco", "--split", "val.txt"],
         "--split can't be used with a folder of your own"),
        (["data", "unpack", "ROOT/absent.zip", "ROOT/out"], "no such archive"),
        (["datasets", "potsdm"], "did you mean 'potsdam'"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line_and_exit_code_2(
    swath: Swath, root: Path, arguments: list[str], message: str
) -> None:
    code, _, err = swath(*(a.replace("ROOT", str(root)) for a in arguments))
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_a_preview_is_written_where_asked(swath: Swath, root: Path) -> None:
    code, out, _ = swath("data", "preview", *own(root), "-o", root / "sheet.png", "--count", 2)
    assert code == 0
    assert "2 of 3 samples" in out
    with Image.open(root / "sheet.png") as sheet:
        assert sheet.mode == "RGB"
    code, _, err = swath("data", "preview", *own(root), "-o", root / "sheet.png")
    assert code == 2
    assert "sheet.png exists; choose another name or say --overwrite" in err


def test_yolo_labels_are_checked_and_shown(swath: Swath, root: Path) -> None:
    (root / "labels").mkdir()
    for number in range(3):
        (root / f"labels/{number}.txt").write_text("1 0.2 0.2 0.8 0.2 0.8 0.7 0.2 0.7\n")
    arguments = [root, "--images", "images", "--labels", "labels", "--classes", "plane,ship"]
    code, out, err = swath("data", "check", *arguments, "--format", "yolo-obb", "--json")
    assert code == 0, err
    assert json.loads(out)["histogram"] == {"plane": 0, "ship": 3}
    sheet = root / "sheet.png"
    code, _, err = swath("data", "preview", *arguments, "--format", "yolo-obb", "-o", sheet)
    assert code == 0, err
    assert Image.open(sheet).size[0] > 16


def test_an_archive_is_unpacked(swath: Swath, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr("set/1.txt", "one")
    code, out, _ = swath("data", "unpack", tmp_path / "a.zip", tmp_path / "out")
    assert code == 0
    assert "1 files" in out
    assert (tmp_path / "out/set/1.txt").read_text() == "one"


def test_an_archive_that_leads_out_is_refused(swath: Swath, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr("../evil.txt", "one")
    code, _, err = swath("data", "unpack", tmp_path / "a.zip", tmp_path / "out")
    assert code == 2
    assert "outside of the target" in " ".join(err.split())
    assert not (tmp_path / "evil.txt").exists()


def test_datasets_lists_all_and_explains_one(swath: Swath) -> None:
    code, out, _ = swath("datasets")
    assert code == 0
    assert {"loveda", "potsdam", "dota", "eurosat"} <= set(out.split())
    code, out, _ = swath("datasets", "loveda")
    assert code == 0
    assert "agriculture" in out
    assert "CC-BY-NC-SA-4.0" in out
    code, out, _ = swath("datasets", "--json")
    assert code == 0
    assert json.loads(out)["loveda"]["task"] == "segmentation"


def gather_all(source: Path, count: int = 1) -> None:
    """Gather things."""
    print(f"{count} of {source}")


@pytest.fixture
def preparers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    references = (f"{__name__}:gather_all", "no.such.module:broken")
    declared = Plugin("test", data=SimpleNamespace(preparers=references))
    monkeypatch.setattr(data, "plugins", lambda: (declared,))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[gather_all.__module__])
    data._preparers.cache_clear()
    yield
    data._preparers.cache_clear()


@pytest.mark.usefixtures("preparers")
@pytest.mark.filterwarnings("ignore:plugin 'test'")
def test_a_plugin_prepares_data_of_its_own(swath: Swath) -> None:
    code, out, _ = swath("data", "prepare", "gather_all", "here", "--count", 3)
    assert (code, out.strip()) == (0, "3 of here")
    code, out, _ = swath("data", "prepare", "--help")
    assert code == 0
    assert "gather_all" in out  # listed by the name that it is called by
    assert "Gather things." in out
    assert "potsdam" in out


@pytest.mark.usefixtures("preparers")
def test_a_preparer_that_cannot_be_imported_is_reported_and_the_others_work(swath: Swath) -> None:
    with pytest.warns(UserWarning, match=r"plugin 'test': 'no.such.module:broken' can't be used"):
        code, _, _ = swath("data", "prepare", "gather_all", "here")
    assert code == 0


def test_core_offers_every_recipe_by_name() -> None:
    assert set(data._CUT) == set(RECIPES)


def test_prepare_says_what_it_wrote_and_then_that_nothing_is_left(
    swath: Swath, tmp_path: Path
) -> None:
    for folder, name, colour in (
        ("2_Ortho_RGB", "top_potsdam_2_10_RGB.tif", (90, 120, 40)),
        ("5_Labels_all", "top_potsdam_2_10_label.tif", (0, 255, 0)),
    ):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        Image.new("RGB", (100, 80), colour).save(tmp_path / "raw" / folder / name)
    command = ("data", "prepare", "potsdam", tmp_path / "raw", tmp_path / "out")
    code, out, _ = swath(*command, "--size", 64, "--overlap", 0)
    assert code == 0
    assert "4 tiles of 1 scenes" in out
    code, out, _ = swath(*command, "--size", 64, "--overlap", 0, "--json")
    assert json.loads(out) == {"scenes": 1, "skipped": 1, "tiles": 4}


def test_a_set_that_nobody_prepares_is_named_before_its_arguments_are(swath: Swath) -> None:
    code, _, err = swath("data", "prepare", "loveda")
    assert code == 2
    assert "'loveda' is used as it is distributed" in err
    assert "isaid" in err
