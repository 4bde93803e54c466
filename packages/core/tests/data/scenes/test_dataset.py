import pickle

import pytest
import torch
from torchvision import tv_tensors

from swath.core.data.scenes import (
    CLASS_SETS,
    KINDS,
    LABELS,
    OBJECT_CLASSES,
    SceneDataset,
    SceneObjects,
    render,
)
from swath.core.errors import DataError
from swath.core.spec import Spec, from_data, to_data
from swath.core.structures import RotatedBoxes, visible_fraction


def test_gives_every_kind_of_label_at_once() -> None:
    dataset = SceneDataset(128, 4, seed=8, labels=LABELS, kind="residential")
    sample = dataset[1]
    assert isinstance(sample.image, tv_tensors.Image)
    assert sample.image.shape == (3, 128, 128)
    assert sample.image.dtype == torch.uint8
    assert isinstance(sample.targets["mask"], tv_tensors.Mask)
    assert isinstance(sample.targets["boxes"], RotatedBoxes)
    count = len(sample.targets["boxes"])
    assert count > 0
    assert sample.targets["labels"].shape == (count,)
    assert int(sample.targets["labels"].max()) < len(OBJECT_CLASSES)
    assert sample.targets["instances"].shape == (count, 128, 128)
    assert sample.targets["instances"].flatten(1).any(1).all()
    assert all(0 <= e["object"] < count for e in sample.targets["expressions"])
    assert sample.meta["id"] == dataset.ids[1]
    assert sample.meta["domain"] == "temperate"
    assert sample.meta["gsd_m"] > 0


def test_a_pickled_copy_gives_the_same_samples() -> None:
    dataset = SceneDataset(64, 5, seed=2, domain="arid")
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[4].image, dataset[4].image)
    assert torch.equal(copy[4].targets["mask"], dataset[4].targets["mask"])


def test_seeds_are_disjoint_splits() -> None:
    train, test = SceneDataset(48, 6, seed=0), SceneDataset(48, 6, seed=1)
    seen = {train[i].image.numpy().tobytes() for i in range(6)}
    assert not seen & {test[i].image.numpy().tobytes() for i in range(6)}


def test_length_ends_iteration() -> None:
    dataset = SceneDataset(48, 3)
    assert len(list(dataset)) == len(dataset) == len(dataset.ids) == 3  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        dataset[3]


@pytest.mark.parametrize("name", list(CLASS_SETS))
def test_class_sets_regroup_the_same_pixels(name: str) -> None:
    full = SceneDataset(64, 2, seed=5, kind="industrial")
    other = SceneDataset(64, 2, seed=5, kind="industrial", class_set=name)
    assert len(other.classes) == len(other.palette)
    building = full[0].targets["mask"] == full.classes.index("building")
    assert torch.equal(building, other[0].targets["mask"] == other.classes.index("building"))
    assert int(other[0].targets["mask"].max()) < len(other.classes)


def test_the_spread_of_a_set_is_that_of_its_scenes() -> None:
    dataset = SceneDataset(48, 2, seed=6, spread=1.0)
    wide = render((6 << 32) + 1, 48, spread=1.0).image
    assert (dataset[1].image.numpy().transpose(1, 2, 0) == wide).all()


def test_kinds_take_turns() -> None:
    kinds = ["sports", "harbor", "airport"]
    dataset = SceneDataset(48, 7, seed=3, labels=["label"], kind=kinds)
    shown = [KINDS[dataset[i].targets["label"]] for i in range(-3, 7)]
    assert shown == ["harbor", "airport", "sports", *kinds, *kinds, "sports"]
    alone = SceneDataset(48, 7, seed=3, kind="harbor")
    assert torch.equal(dataset[4].image, alone[4].image)


def test_refuses_kinds_that_are_none() -> None:
    with pytest.raises(DataError, match=r"no kind 'harbour'.*'harbor'"):
        SceneDataset(48, kind=["sports", "harbour"])
    with pytest.raises(DataError, match="leaves no scenes"):
        SceneObjects(size=48, kind=[])


def test_is_described_by_a_spec() -> None:
    spec = Spec(SceneDataset, size=64, count=2, seed=1, labels=["mask", "boxes"])
    again = from_data(to_data(spec)).build()
    assert torch.equal(again[1].image, spec.build()[1].image)


@pytest.mark.parametrize(
    "arguments", [{"labels": ("masks",)}, {"domain": "urbane"}, {"class_set": "urbn"}]
)
def test_refuses_unknown_names(arguments: dict[str, object]) -> None:
    with pytest.raises(DataError, match="did you mean"):
        SceneDataset(64, 2, **arguments)  # type: ignore[arg-type]


def test_scenes_tell_of_the_chosen_objects_by_their_place_in_the_list() -> None:
    everything = SceneObjects(size=128, count=8, seed=5, domain="urban")
    some = SceneObjects(["vehicle", "building"], size=128, count=8, seed=5, domain="urban")
    for whole, part in zip(everything, some, strict=True):
        labels = whole.targets["labels"]
        for number, name in enumerate(("vehicle", "building")):
            mine = part.targets["boxes"].select(part.targets["labels"] == number)
            assert torch.equal(mine, whole.targets["boxes"][labels == OBJECT_CLASSES.index(name)])
        assert len(part.targets["boxes"]) == len(part.targets["labels"])
        assert "difficult" not in part.targets
    with pytest.raises(DataError, match=r"no 'vehicles'; did you mean 'vehicle'\?"):
        SceneObjects(["vehicles"])


def test_objects_that_the_border_cuts_too_much_are_difficult() -> None:
    marks = []
    for sample in list(SceneObjects(size=128, count=8, seed=5, domain="urban", whole=0.7)):  # type: ignore[call-overload]
        difficult = sample.targets["difficult"]
        assert torch.equal(difficult, visible_fraction(sample.targets["boxes"]) < 0.7)
        marks += difficult.tolist()
    assert set(marks) == {False, True}
