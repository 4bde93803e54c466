import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swath.core.errors import DataError, UnsafeCheckpointError
from swath.refseg.data.refer import (
    DiorRsvg,
    PhraseList,
    ReferDataset,
    SentenceList,
    convert_refs,
)

SIDE = 10


def runs(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths, column by column, beginning with zeros."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    bounds = [0, *changes.tolist(), flat.size]
    counts = np.diff(bounds).tolist()
    return {"size": list(mask.shape), "counts": counts if flat[0] == 0 else [0, *counts]}


def block(rows: slice, columns: slice, side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[rows, columns] = 1
    return mask


def ref(number: int, split: str, *sentences: str, name: str = "a.jpg") -> dict[str, Any]:
    return {
        "ref_id": number,
        "ann_id": number,
        "image_id": np.int64(1),  # official files hold numbers of NumPy
        "category_id": 2,
        "file_name": name,
        "split": split,
        "sentences": [{"sent": s.lower(), "raw": s} for s in sentences],
    }


@pytest.fixture
def refer(tmp_path: Path) -> Path:
    """As the dossier describes RRSIS-D; the image is a png though it is listed as jpg."""
    (tmp_path / "JPEGImages").mkdir()
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "JPEGImages/a.png")
    refs = [
        ref(1, "train", "The ship", "A boat"),
        ref(2, "testA", "The plane"),
        ref(3, "val", "Nothing"),
        ref(4, "train", "The pond"),
    ]
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs))
    overlapping = [runs(block(slice(0, 4), slice(0, 4))), runs(block(slice(2, 6), slice(0, 4)))]
    annotations = [
        {"id": 1, "segmentation": overlapping},
        {"id": 2, "segmentation": [runs(block(slice(5, 6), slice(5, 6)))]},
        {"id": 3, "segmentation": []},
        {"id": 4, "segmentation": [[0, 0, 4, 0, 4, 2, 0, 2]]},
    ]
    (tmp_path / "instances.json").write_text(json.dumps({"annotations": annotations}))
    return tmp_path


def test_refer_layout_with_runs_polygons_and_empty_masks(refer: Path) -> None:
    train = ReferDataset(refer, "train")
    assert [q.sentence for q in train.questions] == ["the ship", "the pond"]
    np.testing.assert_array_equal(train[0].targets["mask"], block(slice(0, 6), slice(0, 4)))
    np.testing.assert_array_equal(train[1].targets["mask"], block(slice(0, 2), slice(0, 4)))
    assert int(ReferDataset(refer, "val")[0].targets["mask"].sum()) == 0
    assert ReferDataset(refer, "test").ids == ["2-0"]


def test_every_sentence_is_judged_and_the_first_is_trained_on(refer: Path) -> None:
    everything = ReferDataset(refer, "train", sentences="all")
    assert [q.sentence for q in everything.questions] == ["The ship", "A boat", "The pond"]


def test_officially_pixels_of_several_parts_drop_out(refer: Path) -> None:
    mask = ReferDataset(refer, "train", overlaps="none")[0].targets["mask"].numpy()
    assert int(mask.sum()) == 6 * 4 - 2 * 4
    assert mask[2:4, :4].sum() == 0


def test_refs_are_converted_once_to_json(refer: Path) -> None:
    before = ReferDataset(refer, "train")[0]
    path = convert_refs(refer)
    assert json.loads(path.read_text())[0]["image_id"] == 1
    pickled = (refer / "refs(unc).p").read_bytes()
    (refer / "refs(unc).p").unlink()
    after = ReferDataset(refer, "train")[0]
    assert before.targets["sentence"] == after.targets["sentence"]
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"refs\.json: can't be read as JSON: .*; make it again"):
        ReferDataset(refer, "train")
    with pytest.raises(DataError, match="holds neither"):
        convert_refs(refer)
    (refer / "refs(unc).p").write_bytes(pickled)
    convert_refs(refer)  # from the pickle, whatever was made of it before
    assert ReferDataset(refer, "train")[0].targets["sentence"] == before.targets["sentence"]


class Malicious:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/swath-was-here"),)


def test_a_malicious_pickle_is_refused_without_being_run(refer: Path) -> None:
    marker = Path("/tmp/swath-was-here")
    (refer / "refs(unc).p").write_bytes(pickle.dumps([Malicious()]))
    with pytest.raises(UnsafeCheckpointError):
        ReferDataset(refer, "train")
    assert not marker.exists()


def test_what_is_no_pickle_of_refs_is_called_so(refer: Path) -> None:
    (refer / "refs(unc).p").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: can't be read as a pickle of refs"):
        ReferDataset(refer, "train")


def test_masks_of_almost_the_images_size_are_fitted_and_others_refused(refer: Path) -> None:
    def resize(height: int, width: int) -> None:
        image = Image.fromarray(np.zeros((height, width, 3), np.uint8))
        image.save(refer / "JPEGImages/a.png")

    big = [
        {"id": i, "segmentation": [runs(block(slice(0, 50), slice(0, 100), 100))]} for i in range(5)
    ]
    (refer / "instances.json").write_text(json.dumps({"annotations": big}))
    resize(98, 101)
    mask = ReferDataset(refer, "train")[0].targets["mask"]
    assert mask.shape == (98, 101)
    assert float(mask.float().mean()) == pytest.approx(0.5, abs=0.02)
    resize(100, 50)
    with pytest.raises(DataError, match="they don't belong together"):
        ReferDataset(refer, "train")[0]


def test_what_is_missing_is_named(refer: Path, tmp_path: Path) -> None:
    refs = [ref(1, "train", "The ship"), ref(2, "train", "The car", name="gone.jpg")]
    (refer / "refs(unc).p").write_bytes(pickle.dumps(refs))
    with pytest.warns(UserWarning, match=r"1 images of the refs aren't there, e\.g\. gone\.jpg"):
        assert len(ReferDataset(refer, "train")) == 1
    (refer / "refs(unc).p").write_bytes(pickle.dumps([ref(9, "train", "The ship")]))
    with pytest.raises(DataError, match="lacks annotation 9"):
        ReferDataset(refer, "train")
    (refer / "refs(unc).p").write_bytes(pickle.dumps([{"split": "train"}]))
    with pytest.raises(DataError, match="ref 0 lacks ann_id, file_name, sentences"):
        ReferDataset(refer, "train")
    with pytest.raises(DataError, match="holds neither"):
        ReferDataset(refer / "JPEGImages", "train")
    (refer / "refs(unc).p").write_bytes(pickle.dumps([ref(1, "train", "The ship")]))
    with pytest.raises(DataError, match="has no question of this split"):
        ReferDataset(refer, "val")


def test_refsegrs(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "images/7.tif")
    values = np.where(block(slice(0, 3), slice(0, 3)) > 0, 255, 50).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "masks/7.tif")
    (tmp_path / "output_phrase_val.txt").write_text("7 road next to the building\n\n")
    sample = PhraseList(tmp_path, "val")[0]
    assert sample.targets["sentence"] == "road next to the building"
    np.testing.assert_array_equal(sample.targets["mask"], block(slice(0, 3), slice(0, 3)))
    with pytest.raises(DataError, match="no such list"):
        PhraseList(tmp_path, "test")
    (tmp_path / "output_phrase_val.txt").write_text("7 a road\n8 a car\n")
    with pytest.raises(DataError, match=r"line 2: .*8\.tif isn't there"):
        PhraseList(tmp_path, "val")


def test_dior_rsvg_counts_objects_over_sorted_files(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    for name, sentences in (("2", ["a dam"]), ("1", ["a ship", "a car"])):
        objects = "".join(
            f"<object><bndbox><xmin>{i}</xmin><ymin>0</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
            f"<description>{s}</description></object>"
            for i, s in enumerate(sentences)
        )
        xml = f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
        (tmp_path / f"Annotations/{name}.xml").write_text(xml)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / f"JPEGImages/{name}.jpg")
    (tmp_path / "test.txt").write_text("1\n2\n")
    data = DiorRsvg(tmp_path, "test")
    assert [q.sentence for q in data.questions] == ["a car", "a dam"]
    assert data[0].targets["box"] == [1, 0, 9, 8]


def test_a_list_of_sentences_is_split_by_image(tmp_path: Path) -> None:
    rows = []
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / name)
        outline = [[0, 0, 4, 0, 4, 2, 0, 2]]
        rows += [{"image": name, "sentence": "the pond", "segmentation": outline}] * 2
    (tmp_path / "refs.json").write_text(json.dumps(rows))
    parts = {s: SentenceList(tmp_path / "refs.json", tmp_path, s) for s in ("train", "test")}  # type: ignore[arg-type]
    images = {s: {q.image.name for q in part.questions} for s, part in parts.items()}
    assert images == {"train": {"a.png", "b.png"}, "test": {"c.png"}}
    np.testing.assert_array_equal(parts["test"][0].targets["mask"], block(slice(0, 2), slice(0, 4)))
    (tmp_path / "refs.json").write_text("[{}]")
    with pytest.raises(DataError, match="can't be read as a list of sentences"):
        SentenceList(tmp_path / "refs.json", tmp_path)


def test_outlines_of_all_objects_say_where_words_are_true(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "a.png")
    pond, court = [[0, 0, 4, 0, 4, 2, 0, 2]], [[0, 4, 3, 4, 3, 6, 0, 6]]
    rows = [{"image": "a.png", "sentence": "the pond", "segmentation": pond}]
    (tmp_path / "refs.json").write_text(json.dumps(rows))
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIDE, "width": SIDE}],
        "categories": [{"id": 1, "name": "pond"}, {"id": 2, "name": "tennis_court"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "segmentation": s, "bbox": [0, 0, 1, 1]}
            for i, s in ((1, pond), (2, court))
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    plain = SentenceList(tmp_path / "refs.json", tmp_path)[0]
    assert "words" not in plain.targets
    told = SentenceList(tmp_path / "refs.json", tmp_path, objects=tmp_path / "instances.json")[0]
    assert told.meta["words"] == ("court", "pond", "tennis")
    places = block(slice(4, 6), slice(0, 3)), block(slice(0, 2), slice(0, 4))
    np.testing.assert_array_equal(told.targets["words"], [places[0], places[1], places[0]])


@pytest.fixture
def samples() -> Path:
    here = Path(__file__).resolve()
    folder = Path(os.environ.get("SWATH_SAMPLES_DIR", here.parents[5] / "shared" / "samples"))
    if not (folder / "refseg/nwpu_refs/refs.json").is_file():
        pytest.skip("shared samples folder absent")
    return folder


def test_sentences_about_real_images(samples: Path) -> None:
    """The mask of each sentence fills its box."""
    path = samples / "refseg/nwpu_refs/refs.json"
    folder = next((samples / "detection").rglob("002.jpg")).parent
    rows = json.loads(path.read_text())
    data = SentenceList(path, folder)
    assert len(data) == len(rows)
    for index in range(0, len(data), 100):
        x, y, width, height = rows[index]["bbox_xywh"]
        mask = data[index].targets["mask"].numpy()
        ys, xs = np.nonzero(mask)
        assert abs(xs.min() - x) <= 2
        assert abs(ys.max() + 1 - (y + height)) <= 2
        assert 0.2 < mask.sum() / (width * height) <= 1
