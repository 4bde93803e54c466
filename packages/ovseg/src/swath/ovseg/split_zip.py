"""Joining zip archives that were split into parts, as LandDiscover50K's is.

``cat`` alone gives a file whose table of contents still counts from each part's beginning; here the
table is rewritten. Structures: PKWARE's APPNOTE.TXT, sections 4.3.12 to 4.3.16 and 4.5.3.
"""

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from swath.core.errors import DataError
from swath.core.files import atomic_path
from swath.core.progress import track

_END = b"PK\x05\x06"
_END64 = b"PK\x06\x06"
_LOCATOR64 = b"PK\x06\x07"
_ENTRY = b"PK\x01\x02"
_FILE = b"PK\x03\x04"
_MAX32 = 0xFFFFFFFF
_COMMENT = 0xFFFF


class _Table(NamedTuple):
    """Where the table of contents is."""

    disk: int
    offset: int
    entries: int
    last_disk: int


def join_zip(last: str | Path, out: str | Path, *, progress: bool = False) -> Path:
    """Write one archive out of ``NAME.z01``, ``NAME.z02``, ... and ``NAME.zip``.

    Args:
        last: The part named ``.zip``.
        out: The archive to write, a file that isn't there yet.
        progress: Show a bar.

    Returns:
        Its path.

    Raises:
        DataError: If a part is missing, cut off or none of this archive, or ``out`` exists.
    """
    last, out = Path(last), Path(out)
    if last.suffix.lower() != ".zip":
        raise DataError(f"{last}: give the last part, the one named .zip")
    parts = [*_numbered(last), last]
    for part in parts:
        if not part.is_file():
            raise DataError(f"{part}: this part of the archive is missing; fetch it again")
    if out.exists():
        raise DataError(f"{out} exists; give the whole archive another name, or delete that file")
    table = _table(last)
    if table.last_disk != len(parts) - 1:
        raise DataError(
            f"{last}: says that it is part {table.last_disk + 1}, but there are {len(parts)} parts "
            f"({parts[0].name} to {last.name}); fetch those that are missing"
        )
    starts = [0]
    for part in parts[:-1]:
        starts.append(starts[-1] + part.stat().st_size)
    with atomic_path(out) as temporary, temporary.open("w+b") as whole:
        for part in track(parts, "joining", unit="parts", enabled=progress):
            with part.open("rb") as source:
                shutil.copyfileobj(source, whole, 1 << 20)
        begin = starts[table.disk] + table.offset
        entries = []
        for entry, place in list(_entries(whole, begin, table, starts, last)):
            whole.seek(place)
            if whole.read(4) != _FILE:
                raise _mixed(last)
            entries.append(entry)
        whole.seek(begin)
        whole.truncate()
        for entry in entries:
            whole.write(entry)
        _write_end(whole, begin, whole.tell() - begin, len(entries))
    return out


def _numbered(last: Path) -> list[Path]:
    """``.z01`` up to the highest number that is there."""
    numbers = [
        int(path.suffix[2:])
        for path in last.parent.glob(f"{last.stem}.z*")
        if path.suffix[2:].isdigit()
    ]
    return [last.with_suffix(f".z{n:02d}") for n in range(1, max(numbers, default=0) + 1)]


def _table(last: Path) -> _Table:
    """What the end of the last part says."""
    size = last.stat().st_size
    with last.open("rb") as file:
        file.seek(max(0, size - _COMMENT - 22 - 20 - 56))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise DataError(f"{last}: cut off, or no zip archive; fetch it again")
    disk, table_disk, _, entries, _, offset = struct.unpack("<4H2L", tail[at + 4 : at + 20])
    locator = tail[at - 20 : at]
    if not locator.startswith(_LOCATOR64):
        return _Table(table_disk, offset, entries, disk)
    at64 = tail.rfind(_END64, 0, at)
    if at64 < 0:
        raise DataError(f"{last}: its table of contents can't be found; fetch the parts again")
    disk, table_disk, _, entries, _, offset = struct.unpack("<2L4Q", tail[at64 + 16 : at64 + 56])
    return _Table(table_disk, offset, entries, disk)


def _entries(
    whole: BinaryIO, begin: int, table: _Table, starts: list[int], where: Path
) -> Iterator[tuple[bytes, int]]:
    """The table's entries and their files' places, counted from the beginning of the whole."""
    whole.seek(begin)
    for _ in range(table.entries):
        head = whole.read(46)
        if not head.startswith(_ENTRY) or len(head) < 46:
            raise _mixed(where)
        fields = list(struct.unpack("<4s6H3L5H2L", head))
        name, extra, comment = (whole.read(n) for n in fields[10:13])
        packed, unpacked, disk, offset = fields[8], fields[9], fields[13], fields[16]
        sizes, extra = _split_extra(extra)
        wide = iter(sizes)
        unpacked = next(wide) if unpacked == _MAX32 else unpacked
        packed = next(wide) if packed == _MAX32 else packed
        offset = next(wide) if offset == _MAX32 else offset
        if disk >= len(starts):
            raise DataError(f"{where}: a file is in part {disk + 1}, which isn't there")
        place = starts[disk] + offset
        yield _entry(fields, name, extra, comment, (unpacked, packed, place)), place


def _mixed(where: Path) -> DataError:
    return DataError(f"{where}: its parts are cut off or don't belong together; fetch them again")


def _split_extra(extra: bytes) -> tuple[tuple[int, ...], bytes]:
    """The 64-bit numbers of an entry, and its other extra fields."""
    numbers: tuple[int, ...] = ()
    kept, at = b"", 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack("<2H", extra[at : at + 4])
        content = extra[at + 4 : at + 4 + size]
        if kind == 1:
            numbers = struct.unpack(f"<{len(content) // 8}Q", content[: len(content) // 8 * 8])
        else:
            kept += extra[at : at + 4 + size]
        at += 4 + size
    return numbers, kept


def _entry(
    fields: list[int], name: bytes, extra: bytes, comment: bytes, numbers: tuple[int, int, int]
) -> bytes:
    """An entry on disk 0, with 64-bit numbers where 32 bits don't hold them."""
    wide = [n for n in numbers if n >= _MAX32]
    if wide:
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) + extra
    unpacked, packed, offset = (min(n, _MAX32) for n in numbers)
    fields[8], fields[9], fields[16] = packed, unpacked, offset
    fields[10], fields[11], fields[12], fields[13] = len(name), len(extra), len(comment), 0
    return struct.pack("<4s6H3L5H2L", *fields) + name + extra + comment


def _write_end(whole: BinaryIO, begin: int, size: int, count: int) -> None:
    """The end of an archive in one part."""
    if count > 0xFFFE or begin + size >= _MAX32:
        at = whole.tell()
        whole.write(struct.pack("<4sQ2H2L4Q", _END64, 44, 45, 45, 0, 0, count, count, size, begin))
        whole.write(struct.pack("<4sLQL", _LOCATOR64, 0, at, 1))
    short = min(count, 0xFFFF)
    ends = min(size, _MAX32), min(begin, _MAX32)
    whole.write(struct.pack("<4s4H2LH", _END, 0, 0, short, short, *ends, 0))
