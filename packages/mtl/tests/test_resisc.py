from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from swath.core.cli.app import app
from swath.core.data.catalogue import load_dataset
from swath.core.errors import DataError
from swath.mtl.resisc import prepare_resisc45

CLASSES = ("airplane", "sea_ice")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two classes as distributed, ten images each."""
    for number, name in enumerate(CLASSES):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.full((4, 4, 3), 10 * number + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "raw" / name / f"{name}_{i:03}.png")
    return tmp_path / "raw"


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))


def test_a_fifth_of_each_class_is_to_train_on_and_the_catalogue_reads_the_rest(
    raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert prepare_resisc45(raw, out) == {"train": 4, "val": 4, "test": 12}
    splits = {split: load_dataset("resisc45", out, split) for split in ("train", "val", "test")}
    for split, each in {"train": 2, "val": 2, "test": 6}.items():
        found = [splits[split].classes[label] for label in splits[split].labels]
        assert [found.count(name) for name in CLASSES] == [each, each]
    names = [Path(name).name for name in files(out)]
    assert sorted(names) == sorted(Path(name).name for name in files(raw))  # each image once
    assert (out / files(out)[0]).stat().st_ino in {p.stat().st_ino for p in raw.rglob("*.png")}


def test_the_draw_is_always_the_same_and_a_broken_off_run_goes_on(
    raw: Path, tmp_path: Path
) -> None:
    run = CliRunner().invoke(app, ["data", "prepare", "resisc45", str(raw), str(tmp_path / "a")])
    assert run.exit_code == 0, run.output
    assert "12 test, 4 train, 4 val" in run.output
    prepare_resisc45(raw, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    (tmp_path / "b" / files(tmp_path / "b")[0]).unlink()
    prepare_resisc45(raw, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_other_folders_are_refused(raw: Path, tmp_path: Path) -> None:
    prepare_resisc45(raw, tmp_path / "out")
    with pytest.raises(DataError, match="has split folders already"):
        prepare_resisc45(tmp_path / "out", tmp_path / "again")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt isn't of this preparation"):
        prepare_resisc45(raw, tmp_path / "mine")
    (raw / "sea_ice").rename(raw / "see_ice")
    with pytest.raises(DataError, match="'see_ice' isn't a class; did you mean 'sea_ice'"):
        prepare_resisc45(raw, tmp_path / "new")
