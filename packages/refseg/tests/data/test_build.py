import json
import multiprocessing
import os
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swath.core.data.detection import CocoJson
from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample
from swath.refseg.data.build import (
    UNFINISHED,
    Claim,
    Part,
    Thing,
    build,
    claims_about,
    colour_of,
    meant,
    parts_of,
    run_lengths,
    still_says,
    thing_of,
)
from swath.refseg.data.refer import ReferDataset, SentenceList

CLASSES = ("ship", "plane", "storage_tank")


def scene(*blocks: tuple[int, int, int, int, int, tuple[int, int, int]]) -> Sample:
    """Blocks of x, y, width, height, label and colour on grey ground."""
    image = np.full((3, 60, 80), 120, np.uint8)
    masks = np.zeros((len(blocks), 60, 80), bool)
    for mask, (x, y, w, h, _, colour) in zip(masks, blocks, strict=True):
        mask[y : y + h, x : x + w] = True
        image[:, mask] = np.array(colour)[:, None]
    labels = torch.tensor([block[4] for block in blocks])
    targets = {"instances": torch.from_numpy(masks), "labels": labels}
    return Sample(torch.from_numpy(image), targets)


RED, WHITE = (200, 20, 20), (245, 245, 245)
PORT = scene(
    (5, 5, 10, 6, 0, RED),
    (30, 5, 10, 6, 0, WHITE),
    (60, 40, 12, 12, 0, WHITE),
    (40, 30, 8, 8, 1, RED),
)


def test_sentences_single_out_what_they_are_about() -> None:
    image = PORT.image.numpy().transpose(1, 2, 0)
    things = [thing_of(image, part, part.name) for part in parts_of(PORT, CLASSES)]
    assert [t.colour for t in things] == ["red", "white", "white", "red"]
    said = {c.sentence() for c in claims_about(0, things)}
    assert {"the red ship", "the leftmost ship"} <= said
    assert "the ship" not in said
    assert "the white ship left of the plane" in {c.sentence() for c in claims_about(1, things)}
    assert "the largest ship" in {c.sentence() for c in claims_about(2, things)}
    assert "the plane" in {c.sentence() for c in claims_about(3, things)}


def test_what_is_too_near_to_tell_is_not_said() -> None:
    pair = [Thing("ship", None, 100, 0.50, 0.5), Thing("ship", None, 110, 0.52, 0.5)]
    assert claims_about(0, pair) == []
    assert meant(Claim("ship", extreme="largest"), pair) == [0, 1]


things = st.lists(
    st.builds(
        Thing,
        st.sampled_from(["ship", "plane"]),
        st.sampled_from(["red", "white", None]),
        st.integers(16, 400),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=5,
)


@given(things)
def test_no_claim_fits_another_object_as_well(group: list[Thing]) -> None:
    """By the plain meaning of the words, without margins."""
    axes = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}
    best = {"largest": ("area", max), "smallest": ("area", min), "leftmost": ("x", min),
            "rightmost": ("x", max), "topmost": ("y", min), "bottommost": ("y", max)}  # fmt: skip
    for index in range(len(group)):
        for claim in claims_about(index, group):
            fitting = [
                t for t in group if t.name == claim.name and claim.colour in (None, t.colour)
            ]
            if claim.relation:
                (anchor,) = [t for t in group if t.name == claim.anchor]
                axis, sign = axes[claim.relation]
                fitting = [
                    t for t in fitting if sign * (getattr(t, axis) - getattr(anchor, axis)) > 0
                ]
            if claim.extreme:
                axis, choose = best[claim.extreme]
                limit = choose(getattr(t, axis) for t in fitting)
                fitting = [t for t in fitting if getattr(t, axis) == limit]
            assert fitting == [group[index]]


def test_a_built_set_is_read_back(tmp_path: Path) -> None:
    report = build([PORT, PORT], CLASSES, tmp_path / "refs", per_object=3)
    data = ReferDataset(tmp_path / "refs", "train")
    assert len(data) == report["triplets"] == len(set(data.ids))
    refs = json.loads((tmp_path / "refs/refs.json").read_text())
    masks = PORT.targets["instances"].numpy()
    assert {ref["kind"] for ref in refs} >= {"colour", "size", "position", "relation"}
    for ref, index in zip(refs, range(len(data)), strict=True):
        assert data[index].meta["kind"] == ref["kind"]
        mask = data[index].targets["mask"].numpy().astype(bool)
        if ref["kind"] == "nothing":
            assert ref["sentences"][0]["raw"] == "storage tank in the image"
            assert not mask.any()
        elif ref["kind"] == "all of a class":
            label = CLASSES.index(ref["sentences"][0]["raw"].split(" in the ")[0])
            chosen = PORT.targets["labels"].numpy() == label
            np.testing.assert_array_equal(mask, masks[chosen].any(0))
        else:
            assert any((mask == one).all() for one in masks)
    assert json.loads((tmp_path / "refs/report.json").read_text()) == report
    assert report["classes"]["ship"] == {"objects": 6, "spoken of": 6}
    assert report["kinds"]["nothing"] == 2
    with pytest.raises(ConfigError, match="isn't empty"):
        build([PORT], CLASSES, tmp_path / "refs")


def sentences_of(folder: Path) -> dict[str, np.ndarray]:
    """The sentences of a folder, and what they mean."""
    data = ReferDataset(folder, "all")
    return {q.sentence: data[i].targets["mask"].numpy() for i, q in enumerate(data.questions)}


def test_small_objects_are_known_though_not_spoken_of(tmp_path: Path) -> None:
    """One ship of 60 px, and one of 9; a plane of 4 px alone."""
    sample = scene((5, 5, 10, 6, 0, RED), (40, 5, 3, 3, 0, RED), (60, 40, 2, 2, 1, RED))
    report = build([sample], CLASSES, tmp_path, per_object=9, min_pixels=16)
    sentences = sentences_of(tmp_path)
    masks = sample.targets["instances"].numpy()
    np.testing.assert_array_equal(sentences["ship in the image"], masks[:2].any(0))
    assert "the ship" not in sentences
    assert "plane in the image" not in sentences
    about_one = [mask for text, mask in sentences.items() if not text.endswith("in the image")]
    assert about_one
    assert all((mask == masks[0]).all() for mask in about_one)
    assert not sentences["storage tank in the image"].any()
    assert report["classes"]["ship"] == {"objects": 2, "spoken of": 1}
    assert report["classes"]["plane"] == {"objects": 1, "spoken of": 0}


def test_a_coco_file_of_boxes_alone_is_built_from_these(tmp_path: Path) -> None:
    """One object has an outline, one an empty one, one none."""
    Image.fromarray(PORT.image.numpy().transpose(1, 2, 0)).save(tmp_path / "a.png")
    ship = {"bbox": [5, 5, 10, 6], "segmentation": [[5, 5, 15, 5, 15, 8, 5, 8]]}
    planes = {"bbox": [40, 30, 8, 8], "segmentation": []}, {"bbox": [60, 40, 12, 12]}
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "ship"}, {"id": 2, "name": "plane"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, **ship},
            *({"image_id": 1, "category_id": 2, **plane} for plane in planes),
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    sample = CocoJson(tmp_path / "coco.json", tmp_path, ["ship", "plane"])[0]
    parts = parts_of(sample, ("ship", "plane"))
    assert [part.name for part in parts] == ["ship", "plane", "plane"]
    assert [int(part.mask.sum()) for part in parts] == [30, 64, 144]
    assert parts[1].window == (slice(30, 38), slice(40, 48))


@pytest.mark.parametrize("rest", ["Background", "no-data"])
def test_the_rest_is_no_object(tmp_path: Path, rest: str) -> None:
    labels = torch.zeros(60, 80, dtype=torch.uint8)
    labels[10:20, 10:20] = 1
    build([Sample(PORT.image, {"mask": labels})], (rest, "road", "water"), tmp_path)
    sentences = sentences_of(tmp_path)
    assert not any(rest.lower() in text.lower() for text in sentences)
    assert not sentences["water in the image"].any()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_grey_images_are_built_from_and_others_stop_without_loss(tmp_path: Path) -> None:
    """Once the other is converted, the same call goes on."""
    grey = Sample(PORT.image[:1], PORT.targets)
    deep = Sample(PORT.image.to(torch.uint16), PORT.targets, meta={"path": "deep.tif"})
    with pytest.raises(DataError, match=r"deep\.tif: uint16 with 3 bands; 8-bit RGB"):
        build([PORT, grey, deep, PORT], CLASSES, tmp_path / "stopped")
    assert set(contents(tmp_path / "stopped")) == {
        "JPEGImages/000000.png", "JPEGImages/000001.png", UNFINISHED,
    }  # fmt: skip
    build([PORT, grey, grey, PORT], CLASSES, tmp_path / "stopped")
    build([PORT, grey, grey, PORT], CLASSES, tmp_path / "whole")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


SET = [PORT, scene((5, 5, 10, 6, 0, RED), (30, 5, 9, 6, 1, WHITE)), PORT]


class Deadly:
    """The set above for a process that dies before a number of files are renamed and images read;
    half a line is written then."""

    def __init__(self, out: Path, call: int) -> None:
        self.out, self.call, self.calls, self.rename = out, call, 0, os.replace

    def step(self) -> None:
        if self.calls == self.call:
            with (self.out / UNFINISHED).open("a") as log:
                log.write('{"sentences": [')
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1

    def replace(self, source: Any, target: Any) -> None:
        self.step()
        self.rename(source, target)

    def __len__(self) -> int:
        return len(SET)

    def __getitem__(self, index: int) -> Sample:
        self.step()
        return SET[index]


def killed_at(call: int, out: Path) -> None:
    samples = Deadly(out, call)
    os.replace = samples.replace
    build(samples, CLASSES, out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    build(SET, CLASSES, tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    assert set(wanted) == {"refs.json", "instances.json", "report.json"} | {
        f"JPEGImages/00000{i}.png" for i in range(3)
    }
    for death in range(9):  # three images read, three written, three lists
        out = tmp_path / f"killed-{death}"
        child = multiprocessing.get_context("fork").Process(target=killed_at, args=(death, out))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert (out / UNFINISHED).is_file()
        read: list[int] = []
        build(Noted(SET, read), CLASSES, out)
        assert contents(out) == wanted, f"killed at {death}"
        assert len(read) <= 1 + max(3 - death // 2, 0)  # the last one again, to be compared
    done = multiprocessing.get_context("fork").Process(target=killed_at, args=(9, tmp_path / "a"))
    done.start()
    done.join()
    assert done.exitcode == 0


class Noted(list[Sample]):
    """Says which samples were read."""

    def __init__(self, samples: list[Sample], read: list[int]) -> None:
        super().__init__(samples)
        self.read = read

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        return super().__getitem__(index)


def test_another_request_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        build([PORT, Sample(PORT.image)], CLASSES, tmp_path)
    with pytest.raises(ConfigError, match="was begun with other images, seed; choose another"):
        build([PORT], CLASSES, tmp_path, seed=1)
    with pytest.raises(ConfigError, match="was begun with other images; choose another"):
        build([SET[1], PORT], CLASSES, tmp_path)


def peak(samples: Any, out: Path) -> int:
    """Most bytes that a build holds at a time."""
    tracemalloc.start()
    build(samples, ("ship",), out)
    bytes_held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return bytes_held


def test_memory_holds_one_image_and_pieces_of_its_masks(tmp_path: Path) -> None:
    """90 ships of 20 px in 1200 px: whole masks would be 130 MB."""
    corners = torch.tensor([[x, y] for x in range(0, 1000, 110) for y in range(0, 990, 110)])
    boxes = torch.cat([corners, corners + 20], 1).float()[:90]
    image = torch.randint(0, 255, (3, 1200, 1200), dtype=torch.uint8)
    sample = Sample(image, {"boxes": boxes, "labels": torch.zeros(90, dtype=torch.int64)})
    few, many = (peak([sample] * count, tmp_path / str(count)) for count in (1, 4))
    assert few < 30e6
    assert many < few + 1e6


def test_of_a_set_without_splits_every_third_image_is_for_the_test(tmp_path: Path) -> None:
    build([PORT] * 4, CLASSES, tmp_path, split="all")
    images = {
        split: {question.image.stem[-1] for question in ReferDataset(tmp_path, split).questions}
        for split in ("train", "test", "all")
    }
    assert images == {"train": {"0", "1", "3"}, "test": {"2"}, "all": {"0", "1", "2", "3"}}


def test_what_was_built_is_not_mistaken_for_a_list_of_sentences(tmp_path: Path) -> None:
    build([PORT], CLASSES, tmp_path)
    with pytest.raises(DataError, match="is in REFER's layout; read its folder as a ReferDataset"):
        SentenceList(tmp_path / "refs.json", tmp_path / "JPEGImages")


LEFT = Claim("vehicle", "red", None, "left of", "building")


@pytest.mark.parametrize(
    ("sentence", "claim", "kept"),
    [
        ("Find the red vehicle to the left of a building", LEFT, True),
        ("the vehicle, which is red, left of the building", LEFT, True),
        ("the red building left of the vehicle", LEFT, False),
        ("the vehicle left of the building, which is red", LEFT, False),
        ("the covered vehicle left of the building", LEFT, False),
        ("the red vehicle not left of the building", LEFT, False),
        ("the red vehicle left of the white building", LEFT, False),
        ("the red vehicle left of the building on the right", LEFT, False),
        ("the red vehicles left of the building", LEFT, False),
        ("the red vehicle left of the building with a ship", LEFT, False),
        ("a large vehicle", Claim("vehicle"), False),
        ("a large vehicle", Claim("large vehicle"), True),
        ("the biggest of all: the largest vehicle", Claim("vehicle", extreme="largest"), True),
        ("the largest, leftmost vehicle", Claim("vehicle", extreme="largest"), False),
    ],
)
def test_other_words_must_single_out_the_same(sentence: str, claim: Claim, kept: bool) -> None:
    classes = ("vehicle", "large vehicle", "building", "ship")
    assert still_says(sentence, claim, classes) == kept


def test_rewritten_sentences_are_checked(tmp_path: Path) -> None:
    build([PORT], CLASSES, tmp_path / "kept", rewrite=lambda s: f"Please show {s}")
    build([PORT], CLASSES, tmp_path / "refused", rewrite=lambda s: "some thing")

    def sentences(folder: str) -> list[str]:
        refs = json.loads((tmp_path / folder / "refs.json").read_text())
        return [
            r["sentences"][0]["raw"] for r in refs if r["kind"] not in ("nothing", "all of a class")
        ]

    assert all(text.startswith("Please show the") for text in sentences("kept"))
    assert all(text.startswith("the") for text in sentences("refused"))


@pytest.mark.parametrize(
    ("colour", "name"),
    [(RED, "red"), (WHITE, "white"), ((20, 20, 20), "black"), ((128, 128, 128), "grey"),
     ((30, 60, 200), "blue"), ((110, 60, 20), "brown"), ((240, 220, 40), "yellow")],
)  # fmt: skip
def test_colours_are_measured(colour: tuple[int, int, int], name: str) -> None:
    assert colour_of(np.full((50, 3), colour, np.uint8)) == name


def test_mixed_colours_have_no_name() -> None:
    assert colour_of(np.array([RED, WHITE] * 20, np.uint8)) is None


def test_objects_come_from_boxes_and_class_maps_too() -> None:
    boxes = torch.tensor([[5.0, 5, 15, 11]])
    sample = Sample(PORT.image, {"boxes": boxes, "labels": torch.tensor([1])})
    (part,) = parts_of(sample, CLASSES)
    assert (part.name, part.window) == ("plane", (slice(5, 11), slice(5, 15)))
    assert part.mask.all()
    labels = torch.zeros(60, 80, dtype=torch.uint8)
    labels[:3, :3] = labels[20:23, :3] = 1
    parts = parts_of(Sample(PORT.image, {"mask": labels}), ("background", "ship"))
    assert [(part.name, part.row, int(part.mask.sum())) for part in parts] == [
        ("ship", 0, 9),
        ("ship", 20, 9),
    ]
    with pytest.raises(DataError, match="neither objects nor a class map"):
        parts_of(Sample(PORT.image), CLASSES)


@given(st.tuples(*[st.integers(1, 5)] * 2), st.tuples(*[st.integers(0, 3)] * 4), st.integers(0))
def test_run_lengths_are_those_of_the_whole_mask(
    shape: tuple[int, int], around: tuple[int, int, int, int], bits: int
) -> None:
    piece = np.array([bool(bits >> i & 1) for i in range(shape[0] * shape[1])]).reshape(shape)
    whole = np.pad(piece, (around[:2], around[2:]))
    runs = run_lengths(Part("ship", piece, around[0], around[2]), whole.shape)
    values = [np.full(count, i % 2) for i, count in enumerate(runs["counts"])]
    np.testing.assert_array_equal(np.concatenate(values), whole.T.ravel())
    assert runs["size"] == list(whole.shape)
    assert all(runs["counts"][1:])
