"""Tiny copies that follow the official scripts' paths, read, checked and looked at by name."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swath.core.cli import main
from swath.core.data.catalogue import catalogue, load_dataset
from swath.core.data.check import check_known
from swath.core.data.preview import contact_sheet
from swath.core.inference.predictor import Predictor
from swath.refseg.data.refer import ReferDataset
from swath.refseg.datasets import DATASETS
from swath.refseg.predictor import RemoteSAMPredictor

SIDE = 12
SPLITS = ("train", "val", "test")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 255, (SIDE, SIDE, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def refer(images: str, refs: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        entries, annotations = [], []
        for number, split in enumerate(SPLITS, start=1):
            name = f"{number:05d}.jpg"
            picture(root / images / name)
            sentences = [{"sent": "the ship", "raw": "The ship"}, {"sent": "it", "raw": "It"}]
            entries.append(
                {"split": split, "ann_id": number, "file_name": name, "sentences": sentences}
            )
            runs = {"size": [SIDE, SIDE], "counts": [0, SIDE, SIDE * (SIDE - 1)]}
            annotations.append({"id": number, "segmentation": [runs]})
        (root / refs).mkdir(parents=True, exist_ok=True)
        (root / refs / "refs(unc).p").write_bytes(pickle.dumps(entries))
        (root / refs / "instances.json").write_text(json.dumps({"annotations": annotations}))

    return make


def phrases(images: str, masks: str, ending: str, suffix: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for number, split in enumerate(SPLITS):
            picture(root / images / f"{number}.{ending}")
            (root / masks).mkdir(exist_ok=True)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:, 0] = 255
            Image.fromarray(mask).save(root / masks / f"{number}.{ending}")
            line = f"{number}{suffix} a road along the river\n"
            (root / f"output_phrase_{split}.txt").write_text(line)

    return make


def rsvg(root: Path) -> None:
    for number, split in enumerate(SPLITS):
        picture(root / f"DIOR_RSVG/JPEGImages/{number:05d}.jpg")
        corners = "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax>"
        xml = (
            f"<annotation><filename>{number:05d}.jpg</filename><object><bndbox>{corners}</bndbox>"
            "<description>a dam</description></object></annotation>"
        )
        path = root / f"DIOR_RSVG/Annotations/{number:05d}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(xml)
        (root / f"DIOR_RSVG/{split}.txt").write_text(f"{number}\n")


def coco(root: Path) -> None:
    picture(root / "JPEGImages/00001.jpg")
    names = next(s for s in DATASETS if s.name == "dior-coco").protocol().classes
    content = {
        "images": [{"id": 1, "file_name": "00001.jpg"}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 14, "bbox": [1, 2, 5, 6]}],
    }
    (root / "Annotations").mkdir()
    (root / "Annotations/DIOR_test.json").write_text(json.dumps(content))


def captions(root: Path) -> None:
    rows = []
    for number, split in enumerate(SPLITS):
        picture(root / f"UCM_captions/Images/{number}.tif")
        said = [{"raw": "There is a ship ."}]
        rows.append({"filename": f"{number}.tif", "split": split, "sentences": said})
    (root / "UCM_captions/dataset.json").write_text(json.dumps({"images": rows}))


def counting(folder: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        picture(root / folder / "Images/00001.jpg")
        turns = [{"content": "Count the number of storage tank."}, {"content": "3"}]
        path = root / folder / "Annotation/test_IMG_CT.json"
        path.parent.mkdir()
        path.write_text(json.dumps([{"images": ["00001.jpg"], "conversations": turns}]))

    return make


def folders(path: str) -> Callable[[Path], None]:
    return lambda root: picture(root / path)


COPIES = {
    "remotesam-270k": refer("RemoteSAM-270K/JPEGImages", "RemoteSAM-270K"),
    "rrsis-d": refer("images/rrsisd/JPEGImages", "rrsisd"),
    "refsegrs": phrases("images", "masks", "tif", ""),
    "risbench": phrases("img_rgb", "mask", "png", ".png"),
    "dior-rsvg": rsvg,
    "dior-coco": coco,
    "ucm-captions": captions,
    "counting-dior": counting("Counting/test/DIOR"),
    "counting-dota": counting("."),
    "ucm": folders("UCMerced_LandUse/Images/golfcourse/golfcourse00.tif"),
    "aid": folders("AID/StorageTanks/storagetanks_1.jpg"),
}
TARGETS = {
    "referring": {"sentence", "mask"},
    "grounding": {"sentence", "box", "boxes", "labels"},
    "detection": {"boxes", "labels", "difficult", "instances"},
    "captioning": {"captions"},
    "counting": {"name", "count"},
    "classification": {"label"},
}


@pytest.fixture(params=COPIES)
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    COPIES[request.param](tmp_path)
    return request.param, tmp_path


def test_every_set_has_a_copy_here_and_is_in_the_catalogue() -> None:
    assert {spec.name for spec in DATASETS} == set(COPIES)
    assert set(COPIES) <= set(catalogue())


def test_a_copy_is_read_checked_and_looked_at(copy: tuple[str, Path], tmp_path: Path) -> None:
    name, root = copy
    spec = catalogue()[name]
    for split in [*spec.splits, "all"]:
        data = load_dataset(name, root, split)
        assert len(data) == len(data.ids) == len(data.items)
        assert set(data[0].targets) == TARGETS[spec.task]
        assert data[0].image.shape == (3, SIDE, SIDE)
    report = check_known(name, root, progress=False)
    assert report.faults == []
    assert sum(report.images.values()) == len({item.image for item in data.items})
    assert contact_sheet(data, tmp_path / "sheet.png", cell_px=40).stat().st_size > 0


def test_lower_case_folders_of_aid_are_read_too(tmp_path: Path) -> None:
    picture(tmp_path / "storagetanks/1.jpg")
    data = load_dataset("aid", tmp_path)
    assert data.classes[data[0].targets["label"]] == "storagetanks"


def test_the_doctor_sees_masks_that_do_not_fit_and_images_in_two_splits(tmp_path: Path) -> None:
    COPIES["refsegrs"](tmp_path)
    Image.fromarray(np.zeros((SIDE, 2 * SIDE), np.uint8)).save(tmp_path / "masks/0.tif")
    (tmp_path / "output_phrase_test.txt").write_text("1 the same again\n")
    (tmp_path / "output_phrase_val.txt").unlink()
    (tmp_path / "output_phrase_train.txt").write_text("0 a road\n1 a road\n")
    report = check_known("refsegrs", tmp_path, progress=False)
    found = {finding.kind: finding.message for finding in report.faults}
    assert set(found) == {"missing", "label", "leak"}
    assert "output_phrase_val.txt: no such list" in found["missing"]
    assert "they don't belong together" in found["label"]
    assert "the same picture is in train" in found["leak"]


def test_the_doctor_names_absent_images(tmp_path: Path) -> None:
    COPIES["rrsis-d"](tmp_path)
    (tmp_path / "images/rrsisd/JPEGImages/00003.jpg").unlink()
    messages = [f.message for f in check_known("rrsis-d", tmp_path, progress=False).faults]
    assert any("00003.jpg" in message for message in messages)


def test_the_doctor_says_once_what_concerns_all_splits(tmp_path: Path) -> None:
    refer("JPEGImages", ".")(tmp_path)
    (tmp_path / "refs(unc).p").unlink()
    (found,) = check_known("rrsis-d", tmp_path, progress=False).findings
    assert "holds neither refs.json nor refs(unc).p" in found.message


def test_a_set_of_ones_own_may_do_without_a_split(tmp_path: Path) -> None:
    refer("JPEGImages", ".")(tmp_path)
    refs = pickle.loads((tmp_path / "refs(unc).p").read_bytes())
    (tmp_path / "refs.json").write_text(json.dumps([r for r in refs if r["split"] != "val"]))
    report = check_known("rrsis-d", tmp_path, progress=False)
    assert not report.faults
    assert "no sample of split 'val'" in [found.message for found in report.findings]
    (found,) = check_known("rrsis-d", tmp_path, split="val", progress=False).faults
    assert found.message == "no sample of split 'val'"


class Malicious:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/swath-was-checked"),)


def test_the_doctor_names_a_malicious_pickle_and_does_not_run_it(tmp_path: Path) -> None:
    refer("JPEGImages", ".")(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Malicious()]))
    (found,) = check_known("rrsis-d", tmp_path, progress=False).findings
    assert "nothing of it was run; get it from a source you trust" in found.message
    assert not Path("/tmp/swath-was-checked").exists()


@pytest.fixture
def swath(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs a command; its exit code, and what it wrote."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["swath", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        written = capsys.readouterr()
        return (code if isinstance(code, int) else 0), written.out + written.err

    return run


def test_commands_take_them_by_name(
    copy: tuple[str, Path], swath: Callable[..., tuple[int, str]]
) -> None:
    name, root = copy
    code, text = swath("datasets", name)
    assert (code, name in text) == (0, True)
    code, text = swath("data", "check", name, root)
    assert (code, "no faults" in text) == (0, True)


JUDGED = {
    "referring": ("rrsis-d", "oIoU"),
    "grounding": ("dior-rsvg", "Pr@0.5"),
    "detection": ("dior-coco", "mAP"),
    "multi-label": ("dior-coco", "mAP"),
    "multi-class": ("ucm", "accuracy"),
    "captioning": ("ucm-captions", "CIDEr"),
    "counting": ("counting-dior", "MAE"),
}


@pytest.mark.parametrize("evaluation", JUDGED)
def test_evaluations_take_the_set_of_the_paper(
    evaluation: str,
    predictor: RemoteSAMPredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    swath: Callable[..., tuple[int, str]],
) -> None:
    name, figure = JUDGED[evaluation]
    COPIES[name](tmp_path)
    monkeypatch.setattr("swath.core.inference.predictor.load_model", lambda *a, **k: predictor)
    out = tmp_path / "figures.json"
    code, text = swath("refseg", "test", evaluation, "m", "--root", tmp_path, "--out", out)
    assert code == 0, text
    assert figure in json.loads(out.read_text())


def test_options_of_a_task_are_set_on_the_command_line(
    predictor: RemoteSAMPredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    swath: Callable[..., tuple[int, str]],
) -> None:
    def load(*_: object, task: str | None, **__: object) -> Predictor:
        return predictor if task is None else predictor.for_task(task)

    monkeypatch.setattr("swath.core.inference.predictor.load_model", load)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 50, 3), np.uint8)).save(
        image := tmp_path / "a.png"
    )
    start = ("predict", "m", image, "--classes", "ship,vehicle", "--task")
    boxes, caption = tmp_path / "boxes.json", tmp_path / "caption.json"
    code, text = swath(*start, "detection", "--set", "oriented=true", "--out", boxes)
    assert code == 0, text
    want = predictor.detection(image, ["ship", "vehicle"], oriented=True).save(tmp_path / "b.json")
    assert boxes.read_text() == want.read_text()
    settings = "--set", "region_split=4", "--set", "seed=3", "--set", "regions=tile"
    code, text = swath(*start, "captioning", *settings, "--out", caption)
    assert code == 0, text
    want = predictor.captioning(
        image, ["ship", "vehicle"], region_split=4, seed=3, regions="tile"
    ).save(tmp_path / "c.json")
    assert caption.read_text() == want.read_text()
    for setting, message in (
        ("orientd=true", "detection has no option 'orientd'; did you mean 'oriented'"),
        ("oriented=yes", "oriented='yes' must be True or False"),
        ("tile=64", "detection has no option 'tile'"),
    ):
        code, text = swath(*start, "detection", "--set", setting, "--out", tmp_path / "x.json")
        assert code == 2
        assert message in " ".join(text.split())
    code, text = swath("predict", "m", image, "--set", "oriented=true")
    assert code == 2
    assert "choose a --task first" in " ".join(text.split())


def test_a_submission_for_dota_is_written_of_its_unlabelled_patches(
    predictor: RemoteSAMPredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    swath: Callable[..., tuple[int, str]],
) -> None:
    for corner in (0, 8):
        picture(tmp_path / f"test-dev/images/P0001__{SIDE}__{corner}___0.png")
    monkeypatch.setattr("swath.core.inference.predictor.load_model", lambda *a, **k: predictor)
    code, text = swath(
        "refseg", "test", "dota", "m", "--root", tmp_path, "--protocol", "v2.0", "--out",
        tmp_path / "submission",
    )  # fmt: skip
    assert code == 0, text
    names = {path.name for path in (tmp_path / "submission").iterdir()}
    assert len(names) == 18
    assert "Task2_storage-tank.txt" in names
    lines = (tmp_path / "submission/Task2_plane.txt").read_text().splitlines()
    assert {line.split()[0] for line in lines} <= {"P0001"}


@pytest.mark.parametrize("evaluation", ["detection", "multi-label"])
def test_a_split_without_labels_is_refused(
    tmp_path: Path, swath: Callable[..., tuple[int, str]], evaluation: str
) -> None:
    picture(tmp_path / "test-dev/images/P0001.png")
    code, text = swath(
        "refseg", "test", evaluation, "m", "--data", "dota", "--protocol", "v2.0",
        "--root", tmp_path,
    )  # fmt: skip
    assert code == 2
    assert "split 'test' of dota has no labels to judge by" in " ".join(text.split())


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (
            "detection",
            "gives 2 names for the 20 classes of dior-coco; name each in this order: air",
        ),
        ("counting", "counting asks what the set says; leave it out"),
    ],
)
def test_classes_in_other_words_are_as_many_as_the_sets(
    tmp_path: Path, swath: Callable[..., tuple[int, str]], evaluation: str, message: str
) -> None:
    COPIES[JUDGED[evaluation][0]](tmp_path)
    code, text = swath(
        "refseg", "test", evaluation, "m", "--root", tmp_path, "--classes", "plane, ship"
    )
    assert code == 2
    assert message in " ".join(text.split())


def test_classes_in_other_words_may_hold_commas(
    predictor: RemoteSAMPredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    swath: Callable[..., tuple[int, str]],
) -> None:
    COPIES["dior-coco"](tmp_path)
    monkeypatch.setattr("swath.core.inference.predictor.load_model", lambda *a, **k: predictor)
    names = [f"class {i}, seen from above" for i in range(20)]
    out = tmp_path / "figures.json"
    code, text = swath(
        "refseg", "test", "detection", "m", "--root", tmp_path, "--classes", "; ".join(names),
        "--out", out,
    )  # fmt: skip
    assert code == 0, text
    assert set(names) <= set(json.loads(out.read_text())["per_class"])


def test_what_is_built_is_judged_on_and_trained_on(
    predictor: RemoteSAMPredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    swath: Callable[..., tuple[int, str]],
) -> None:
    """The commands of the readme, on a set without splits."""
    images = []
    for number in range(3):
        picture(tmp_path / f"vhr10/images/{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg"})
    ships = [{"image_id": i, "category_id": 1, "bbox": [1, 1, 6, 6]} for i in range(3)]
    categories = [{"id": 1, "name": "ship"}]
    coco = {"images": images, "categories": categories, "annotations": ships}
    (tmp_path / "vhr10/instances.json").write_text(json.dumps(coco))
    built = tmp_path / "sentences"
    code, text = swath(
        "refseg", "build", "nwpu-vhr10", "--root", tmp_path / "vhr10", "--split", "all",
        "--out", built,
    )  # fmt: skip
    assert code == 0, text
    assert "the ship" in {question.sentence for question in ReferDataset(built).questions}
    monkeypatch.setattr("swath.core.inference.predictor.load_model", lambda *a, **k: predictor)
    figures = tmp_path / "figures.json"
    code, text = swath("refseg", "test", "referring", "m", "--root", built, "--out", figures)
    assert code == 0, text
    per_kind = json.loads(figures.read_text())["per_kind"]
    assert set(per_kind) == {"category", "all of a class"}
    assert per_kind["category"]["sentences"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["countin", "m", "--root", "."], "did you mean 'counting'"),
        (["counting", "m", "--root", ".", "--data", "ucm"], "is a classification set"),
        (["grounding", "m", "--root", "nowhere"], "isn't a folder"),
    ],
)
def test_mistakes_are_one_line(
    swath: Callable[..., tuple[int, str]], arguments: list[str], message: str
) -> None:
    code, text = swath("refseg", "test", *arguments)
    assert code == 2
    assert message in " ".join(text.split())
