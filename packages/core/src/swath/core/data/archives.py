"""Unpacking archives that somebody else made."""

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any
from uuid import uuid4

from swath.core.errors import DataError
from swath.core.progress import Bar

MAX_BYTES = 500 << 30
"""Unpacked size above which an archive is refused unless the caller allows more."""

MAX_RATIO = 200
"""Unpacked over packed size above which a large zip is taken for a bomb; imagery is below 20."""

_SMALL = 64 << 20
_MAX_MEMBERS = 20_000_000
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    source: Any


def extract(
    archive: str | Path,
    target: str | Path,
    *,
    max_bytes: int = MAX_BYTES,
    progress: bool = False,
) -> list[Path]:
    """Unpack a zip or tar (plain, gz, bz2, xz) archive into a folder.

    The whole table of contents is judged before the first byte is written: names that lead out of
    the target (absolute, ``..``, drive letters), links, devices, and sizes beyond the limits are
    refused. While unpacking, no member may grow past the size it claimed. Files get ordinary
    permissions; nothing is overwritten until all of it has been unpacked.

    Args:
        archive: The file.
        target: Folder to unpack into; made if absent.
        max_bytes: Most bytes it may hold when unpacked.
        progress: Show a bar.

    Returns:
        The files written.

    Raises:
        DataError: If the archive is unsafe, too large, damaged or of no known kind; nothing is left
            in the target then.
    """
    path, folder = Path(archive), Path(target)
    if not path.is_file():
        raise DataError(f"{path}: no such archive")
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".unpacking-{uuid4().hex[:8]}"
    try:
        with _opened(path) as (members, open_member):
            wanted = _judged(path, members, max_bytes)
            need, free = sum(m.size for m in wanted), shutil.disk_usage(folder).free
            if need > free:
                raise DataError(f"{path}: needs {_size(need)}, the disk has {_size(free)} free")
            with Bar(f"unpacking {path.name}", len(wanted), "files", enabled=progress) as bar:
                for member in wanted:
                    place = staging / member.name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    _copy(path, member, open_member(member.source), place)
                    bar.advance()
        written = []
        for member in wanted:
            final = folder / member.name
            _refuse_links(folder, final, path)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / member.name, final)
            written.append(final)
        return written
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"{path}: can't be unpacked: {' '.join(str(error).split())}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Iterator[_Member | str], Any]]:
    """The archive's members (or, as text, what is wrong with one), and what opens a member."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as bundle:
            yield (_zip_member(info) for info in bundle.infolist()), bundle.open
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tape:
            yield (_tar_member(info) for info in tape), tape.extractfile
    else:
        raise DataError(f"{path}: neither a zip nor a tar archive")


def _zip_member(info: zipfile.ZipInfo) -> _Member | str:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"'{info.filename}' is a link or a device"
    if info.flag_bits & 1:
        return f"'{info.filename}' is encrypted; unpack it yourself"
    return _Member(info.filename, -1 if info.is_dir() else info.file_size, info)


def _tar_member(info: tarfile.TarInfo) -> _Member | str:
    if not (info.isreg() or info.isdir()):
        return f"'{info.name}' is a link or a device"
    return _Member(info.name, -1 if info.isdir() else info.size, info)


def _judged(path: Path, members: Iterator[_Member | str], max_bytes: int) -> list[_Member]:
    """The files of an archive, all of them safe."""
    wanted: dict[str, _Member] = {}
    total = 0
    packed = path.stat().st_size
    for member in members:
        if isinstance(member, str):
            raise DataError(f"{path}: {member}; nothing was unpacked")
        name = _safe_name(path, member.name)
        if member.size < 0 or name == ".":
            continue
        total += member.size
        if total > max_bytes or (total > _SMALL and total > MAX_RATIO * packed):
            raise DataError(
                f"{path}: {_size(packed)} that unpack to {_size(total)} or more; nothing was "
                "unpacked (raise max_bytes if it is genuine and below "
                f"{MAX_RATIO} times its packed size)"
            )
        if len(wanted) >= _MAX_MEMBERS:
            raise DataError(f"{path}: more than {_MAX_MEMBERS} files; nothing was unpacked")
        wanted[name] = _Member(name, member.size, member.source)
    if not wanted:
        raise DataError(f"{path}: holds no file")
    return list(wanted.values())


def _safe_name(path: Path, name: str) -> str:
    posix, windows = PurePosixPath(name.replace("\\", "/")), PureWindowsPath(name)
    outside = posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts
    if outside or "\0" in name:
        raise DataError(f"{path}: '{name}' would land outside of the target; nothing was unpacked")
    return posix.as_posix()


def _refuse_links(folder: Path, final: Path, archive: Path) -> None:
    """A link that already lies in the target must not carry files out of it."""
    if not final.parent.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{archive}: {final.parent} is a link that leads out of the target")


def _copy(path: Path, member: _Member, source: IO[bytes] | None, place: Path) -> None:
    if source is None:
        raise DataError(f"{path}: '{member.name}' can't be read")
    left = member.size
    with source, place.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise DataError(f"{path}: '{member.name}' is larger than it claims")
            sink.write(chunk)
    if left:
        raise DataError(f"{path}: '{member.name}' is truncated")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**29 else f"{count / 2**20:.1f} MB"
