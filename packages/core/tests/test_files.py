from pathlib import Path

import pytest

from swath.core.files import atomic_path


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
