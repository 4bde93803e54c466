import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from swath.core.data.archives import extract
from swath.core.errors import DataError


def tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for member in members:
            file.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return path


def everything(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_unpacks_zip_and_tar(tmp_path: Path) -> None:
    archives = [
        zipped(tmp_path / "a.zip", img__1=b"one", readme=b"two"),
        tar(
            tmp_path / "a.tar.gz",
            entry("img", tarfile.DIRTYPE),
            entry("img/1", size=3),
            entry("readme"),
        ),
    ]
    for archive in archives:
        target = tmp_path / f"out_{archive.name}"
        written = extract(archive, target)
        assert {str(p.relative_to(target)) for p in written} == {"img/1", "readme"}
        assert everything(target) == {"img", "img/1", "readme"}
    assert (tmp_path / "out_a.zip/img/1").read_bytes() == b"one"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (entry("../evil"), "outside of the target"),
        (entry("ok/../../evil"), "outside of the target"),
        (entry("/abs/evil"), "outside of the target"),
        (entry("C:\\evil"), "outside of the target"),
        (entry("..\\evil"), "outside of the target"),
        (entry("link", tarfile.SYMTYPE, "/etc/passwd"), "link or a device"),
        (entry("hard", tarfile.LNKTYPE, "ok"), "link or a device"),
        (entry("dev", tarfile.CHRTYPE), "link or a device"),
        (entry("fifo", tarfile.FIFOTYPE), "link or a device"),
    ],
)
def test_nothing_of_an_unsafe_tar_is_written(
    tmp_path: Path, member: tarfile.TarInfo, message: str
) -> None:
    archive = tar(tmp_path / "evil.tar.gz", entry("ok", size=4), member)
    with pytest.raises(DataError, match=message):
        extract(archive, tmp_path / "in/out")
    assert everything(tmp_path) == {"evil.tar.gz", "in", "in/out"}


def test_nothing_of_an_unsafe_zip_is_written(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for member in ("../evil", "/evil", link):
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
            file.writestr("ok", "fine")
            file.writestr(member, "/etc/passwd")
        with pytest.raises(DataError, match="nothing was unpacked"):
            extract(tmp_path / "evil.zip", tmp_path / "in/out")
        assert everything(tmp_path) == {"evil.zip", "in", "in/out"}


def test_a_bomb_is_refused_before_writing(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.zip", zeros=bytes(100 << 20))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(DataError, match="nothing was unpacked"):
        extract(bomb, tmp_path / "out")
    assert everything(tmp_path / "out") == set()


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", data=os.urandom(5000))
    with pytest.raises(DataError, match="nothing was unpacked"):
        extract(archive, tmp_path / "out", max_bytes=4999)
    assert len(extract(archive, tmp_path / "out", max_bytes=5000)) == 1


def test_a_link_that_already_lies_in_the_target_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/img").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="leads out of the target"):
        extract(zipped(tmp_path / "a.zip", img__1=b"one"), tmp_path / "out")
    assert everything(tmp_path / "outside") == set()


@pytest.mark.parametrize("cut", [60, 150])
def test_damaged_archives_leave_nothing(tmp_path: Path, cut: int) -> None:
    archive = tar(tmp_path / "a.tar.gz", entry("big", size=200_000))
    archive.write_bytes(archive.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"a.tar.gz"):
        extract(archive, tmp_path / "out")
    assert everything(tmp_path / "out") == set()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="neither a zip nor a tar"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    with pytest.raises(DataError, match="no such archive"):
        extract(tmp_path / "b.zip", tmp_path / "out")
    with pytest.raises(DataError, match="holds no file"):
        extract(zipped(tmp_path / "c.zip"), tmp_path / "out")
