import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample
from swath.refseg.data.build import (
    Claim,
    Thing,
    build,
    claims_about,
    colour_of,
    masks_of,
    meant,
    run_lengths,
    things_of,
)
from swath.refseg.data.refer import ReferDataset

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
    things = things_of(image, *masks_of(PORT, CLASSES))
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
    for ref, index in zip(refs, range(len(data)), strict=True):
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
    (mask,), names = masks_of(sample, CLASSES)
    assert names == ["plane"]
    np.testing.assert_array_equal(mask, PORT.targets["instances"][0].numpy())
    labels = torch.zeros(60, 80, dtype=torch.uint8)
    labels[:3, :3] = labels[20:23, :3] = 1
    masks, names = masks_of(Sample(PORT.image, {"mask": labels}), ("background", "ship"))
    assert names == ["ship", "ship"]
    assert [int(m.sum()) for m in masks] == [9, 9]
    with pytest.raises(DataError, match="neither objects nor a class map"):
        masks_of(Sample(PORT.image), CLASSES)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0))
def test_run_lengths_add_up(height: int, width: int, bits: int) -> None:
    flat = [bool(bits >> i & 1) for i in range(height * width)]
    runs = run_lengths(np.array(flat).reshape(height, width))
    assert sum(runs["counts"]) == height * width
    assert sum(runs["counts"][1::2]) == sum(flat)
