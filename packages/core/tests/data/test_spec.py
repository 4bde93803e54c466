from pathlib import Path

import pytest

from swath.core.data.spec import DatasetSpec, Layout, Protocol
from swath.core.errors import DataError
from swath.core.spec import Spec, from_data, to_data

LAYOUT = Layout(r"{split}/{area}/img/{tile:\d+_\d+}_{n}.png", "{split}/{area}/lab/{tile}_{n}.png")
SPEC = DatasetSpec(
    name="toy",
    title="Toy",
    task="segmentation",
    layouts=(Layout("never/{id}.png"), LAYOUT),
    protocols={"a": Protocol(("x", "y")), "b": Protocol(("x",))},
    splits={name.lower(): {"split": (name,)} for name in ("Train", "Val", "Test")},
    unlabelled=("test",),
    folder="toy",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "Train/u/2_10_1",
        "Train/u/2_10_10",
        "Train/u/2_10_2",
        "Train/r/3_1_1",
        "Val/u/4_4_1",
    ):
        split, area, stem = name.split("/")
        for folder in ("img", "lab"):
            path = tmp_path / "toy" / split / area / folder / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "toy/Train/u/img/notes.png").touch()  # doesn't follow the template
    return tmp_path


def test_pairs_by_the_fields_of_the_template_in_natural_order(root: Path) -> None:
    layout, items = SPEC.items(root / "toy", "train")
    assert layout is LAYOUT
    assert [item.id for item in items] == ["r/3_1/1", "u/2_10/1", "u/2_10/2", "u/2_10/10"]
    assert all(item.label is not None and item.label.is_file() for item in items)


def test_a_copy_is_found_below_the_root_too(root: Path) -> None:
    assert SPEC.items(root, "val")[1] == SPEC.items(root / "toy", "val")[1]


def test_all_is_everything(root: Path) -> None:
    assert len(SPEC.items(root, "all")[1]) == 5


def test_a_split_without_public_labels_comes_without(root: Path) -> None:
    image = root / "toy/Test/u/img/9_9_9.png"
    image.parent.mkdir(parents=True)
    image.touch()
    assert [item.label for item in SPEC.items(root, "test")[1]] == [None]


def test_only_the_labels_of_such_a_split_may_be_absent_among_all(root: Path) -> None:
    for split in ("Test", "Val"):
        image = root / f"toy/{split}/u/img/9_9_9.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    absent = [item for item in SPEC.items(root, "all")[1] if item.label is None]
    assert [item.fields["split"] for item in absent] == ["Test"]
    assert SPEC.may_lack_label(absent[0])


def test_list_files_name_images_and_masks_relative_to_the_collection(root: Path) -> None:
    lines = "# comment\ntoy/Train/u/img/2_10_1.png toy/Train/u/lab/2_10_1.png\n\n"
    (root / "toy" / "mine.txt").write_text(lines)
    (item,) = SPEC.items(root / "toy", "mine.txt")[1]
    assert item.image.is_file()
    assert item.label == root / "toy/Train/u/lab/2_10_1.png"


def test_list_files_may_hold_bare_names_and_paths(root: Path) -> None:
    (root / "mine.txt").write_text("2_10_2.png\nVal/u/img/4_4_1.png\nr/3_1/1\n")
    items = SPEC.items(root / "toy", str(root / "mine.txt"))[1]
    assert [item.id for item in items] == ["u/2_10/2", "u/4_4/1", "r/3_1/1"]


@pytest.mark.parametrize(
    ("split", "text", "message"),
    [
        ("traim", None, "no split 'traim'; did you mean 'train'"),
        ("test", None, "split 'test' of toy is empty"),
        ("gone.txt", None, "gone.txt: no such list file"),
        ("l.txt", "", "names no sample"),
        ("l.txt", "a b c", "line 1: 3 columns"),
        ("l.txt", "nowhere.png", "'nowhere.png' isn't an image"),
    ],
)
def test_says_what_is_wrong_with_a_split(
    root: Path, split: str, text: str | None, message: str
) -> None:
    if text is not None:
        (root / "toy" / split).write_text(text)
    with pytest.raises(DataError, match=message):
        SPEC.items(root / "toy", split)


def test_says_what_is_wrong_with_a_copy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="isn't a folder; toy is expected there"):
        SPEC.items(tmp_path / "gone", "all")
    with pytest.raises(DataError, match=r"holds no images of toy; expected never/"):
        SPEC.items(tmp_path, "all")


def test_a_field_that_occurs_twice_must_hold_the_same_text(tmp_path: Path) -> None:
    for name in ("rome/images/rome_1.tif", "rome/images/oslo_1.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    layout = Layout("{city}/images/{city}_{n}.tif", "{city}/labels/{city}_{n}.tif")
    (item,) = layout.find(tmp_path, {})
    assert item.label == tmp_path / "rome/labels/rome_1.tif"


def test_a_split_that_the_copy_has_no_folders_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    spec = DatasetSpec("t", "T", "segmentation", (Layout("{id}.png"),), SPEC.protocols, SPEC.splits)
    with pytest.raises(DataError, match="has no split folders"):
        spec.items(tmp_path, "train")


def test_the_first_protocol_is_the_default() -> None:
    own = Protocol(("mine",))
    assert SPEC.protocol() is SPEC.protocols["a"]
    assert SPEC.protocol("b").classes == ("x",)
    assert SPEC.protocol(own) is own
    with pytest.raises(DataError, match="no protocol 'c'"):
        SPEC.protocol("c")


def test_a_protocol_survives_json() -> None:
    spec = Spec(
        Protocol,
        classes=("a", "b"),
        mapping=((1, 0), (2, 1), (0, 255)),
        palette=((1, 2, 3), (4, 5, 6)),
    )
    assert from_data(to_data(spec)).build() == spec.build()
    coloured = Protocol(("a",), mapping={"(1, 2, 3)": 0})
    assert coloured.coloured
    assert coloured.mapping == (((1, 2, 3), 0),)


def test_without_a_mapping_the_indices_and_the_ignore_index_are_stored() -> None:
    assert dict(Protocol(("a", "b"), ignore_index=9).mapping) == {0: 0, 1: 1, 9: 9}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"palette": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"mapping": {0: 2}}, "mapped to 2"),
        ({"mapping": ((0, 0), ((1, 2, 3), 1))}, "mixes integers and colours"),
    ],
)
def test_refuses_an_inconsistent_protocol(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Protocol(("a", "b"), **arguments)  # type: ignore[arg-type]
