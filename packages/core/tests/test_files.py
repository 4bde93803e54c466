import errno
import os
from pathlib import Path

import pytest

from swath.core.errors import ConfigError, WriteError
from swath.core.files import atomic_path, locked


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "out.tif"
    with atomic_path(final) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".tif"
        assert temporary.parent == final.parent
        assert not final.exists()
    assert final.read_text() == "whole"
    assert list(final.parent.iterdir()) == [final]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    final = tmp_path / "out.gpkg"
    final.write_text("old")
    with pytest.raises(error), atomic_path(final) as temporary:  # noqa: PT012
        temporary.write_text("half")
        Path(f"{temporary}-journal").write_text("side file")
        raise error
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_a_folder_in_place_of_the_file_or_a_file_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tif").mkdir()
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "a.tif", "a.tif is a folder; give the name of a file"),
        (tmp_path / "file" / "b.tif", r"b.tif can't be written .*choose another folder"),
    ):
        with pytest.raises(ConfigError, match=message), atomic_path(path):
            pass


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path) -> None:
    final = tmp_path / "out.json"
    final.write_text("old")
    message = r"out.json can't be written \(No space left on device\); free some space"
    with pytest.raises(WriteError, match=message), atomic_path(final):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), atomic_path(final):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "another")
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_a_locked_folder_is_one_process_s_until_it_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with locked(folder, "training", "--run-dir"):
        taken = rf"new: process {os.getpid()} on .* is training here; .* choose another --run-dir"
        with pytest.raises(ConfigError, match=taken), locked(folder, "training", "--run-dir"):
            pass
    with locked(folder, "training", "--run-dir"):
        pass
