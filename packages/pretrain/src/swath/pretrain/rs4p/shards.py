"""Shards: plain tar files of samples in WebDataset's convention, read at offsets from an index.

The members of a sample stand one after the other and share its key:

=====================  ====================================================================
``<key>.jpg|png``      8-bit RGB
``<key>.mask.png``     class indices, 255 where there is no data
``<key>.conf.png``     confidence, 0 to 255 for 0 to 1
``<key>.json``         where it came from
=====================  ====================================================================

A tar's headers say where its members lie, so any sample can be read with one seek. The index of a
folder that we prepared is ``index.npy``; shards made by others are scanned once.
"""

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from swath.core.errors import ConfigError, DataError
from swath.core.files import atomic_path

PARTS = ("image", "mask", "confidence", "json")
"""What a sample consists of, in the order in which it is written."""

SUFFIXES = {
    "jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "tif": "image",
    "tiff": "image", "mask.png": "mask", "seg.png": "mask", "conf.png": "confidence",
    "json": "json",
}  # fmt: skip
"""What a member is, by what follows the first dot of its name; others are left alone."""

INDEX = "index.npy"

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)

Index = NDArray[Any]
"""A structured array, one entry a sample: see `index_dtype`."""


def index_dtype(key_length: int = 16) -> np.dtype[Any]:
    """The fields of an index.

    ``key``; ``shard``, a number; ``whole``, whether every pixel holds data; and of each of `PARTS`
    ``<part>_at`` and ``<part>_size``, in bytes, 0 if it is absent.
    """
    spans = [field for part in PARTS for field in ((f"{part}_at", "<u8"), (f"{part}_size", "<u4"))]
    return np.dtype([("key", f"S{key_length}"), ("shard", "<u4"), ("whole", "?"), *spans])


def tar_members(members: Iterable[tuple[str, bytes]]) -> tuple[bytes, list[tuple[int, int]]]:
    """Members as a piece of a tar file that depends on nothing but them.

    Args:
        members: Name, at most 100 bytes, and content of each.

    Returns:
        The piece, a multiple of 512 bytes, and offset and size of each content in it.
    """
    piece, spans = bytearray(), []
    for name, content in members:
        header = tarfile.TarInfo(name)
        header.size = len(content)
        piece += header.tobuf(tarfile.USTAR_FORMAT)
        spans.append((len(piece), len(content)))
        piece += content + bytes(-len(content) % _BLOCK)
    return bytes(piece), spans


def write_shard(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a shard of what `tar_members` made; it appears when it is whole."""
    with atomic_path(path) as temporary, temporary.open("wb") as sink:
        for piece in pieces:
            sink.write(piece)
        sink.write(_END)
        sink.flush()
        os.fsync(sink.fileno())


def read_at(path: str | Path, offset: int, size: int) -> bytes:
    """Bytes of a file. Nothing stays open, so that processes can't share a position.

    Raises:
        DataError: If the file is absent or ends before.
    """
    try:
        with open(path, "rb", buffering=0) as source:
            source.seek(offset)
            content = source.read(size)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error}; copy it again") from error
    if len(content) != size:
        raise DataError(
            f"{path}: truncated: {size} bytes are expected at offset {offset}, {len(content)} are "
            "there; copy it again"
        )
    return content


def load_index(folder: Path, shards: Sequence[Path]) -> Index:
    """The index of a folder that was prepared by us, mapped into memory, not read.

    Raises:
        DataError: If it is damaged, or a shard is shorter than it says.
    """
    path = folder / INDEX
    try:
        index: Index = open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}; copy it again") from error
    if index.dtype.names is None or not len(index) or int(index["shard"].max()) >= len(shards):
        raise DataError(f"{path}: not the index of these {len(shards)} shards; copy both again")
    ends = _end_of_last_sample(index, len(shards))
    for shard, end in zip(shards, ends.tolist(), strict=True):
        _check_length(shard, end)
    return index


def scan_shards(shards: Sequence[Path], *, cached: bool = True) -> Index:
    """The index of shards that brought none along, from their headers.

    Args:
        shards: Tar files.
        cached: Keep each shard's index beside it as ``<shard>.index.npy`` for the next time, where
            the folder can be written to.

    Raises:
        DataError: If a shard is truncated, compressed or no tar, or holds no image.
    """
    found = [_scan_cached(path) if cached else scan_shard(path) for path in shards]
    return join_indexes(found, [1] * len(found))


def join_indexes(indexes: Sequence[Index], shards: Sequence[int]) -> Index:
    """Several indexes as one, whose shards follow one another.

    Args:
        indexes: At least one; a single one is returned as it is.
        shards: How many each of them has.
    """
    if len(indexes) == 1:
        return indexes[0]
    longest = max(index.dtype["key"].itemsize for index in indexes)
    joined: Index = np.concatenate(indexes, dtype=index_dtype(longest))
    before = np.cumsum([0, *shards[:-1]]).astype(np.uint32)
    joined["shard"] += np.repeat(before, [len(index) for index in indexes])
    return joined


def scan_shard(path: Path) -> Index:
    """The index of one shard, from its headers alone; see `scan_shards`.

    A stored confidence tells that the shard is of ours: its masks say where there is no data.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for member in members(path):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        part = SUFFIXES.get(suffix.lower())
        if part is not None:
            spans = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
            spans.setdefault(part, (member.offset_data, member.size))
    with_image = {key: spans for key, spans in samples.items() if "image" in spans}
    if not with_image:
        raise DataError(f"{path}: holds no image (a member called <key>.jpg or <key>.png)")
    keys = [key.encode() for key in with_image]
    index = np.zeros(len(keys), index_dtype(max(map(len, keys))))
    index["key"] = keys
    index["whole"] = ["confidence" not in spans for spans in with_image.values()]
    for row, spans in enumerate(with_image.values()):
        for part, (offset, size) in spans.items():
            index[row][f"{part}_at"], index[row][f"{part}_size"] = offset, size
    return index


def members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The files in a plain tar, from its headers.

    Raises:
        DataError: If it is truncated, compressed or no tar: the file, and the offset up to which
            it is whole.
    """
    end = 0
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tape:
            for member in tape:
                if member.offset_data + member.size > size:
                    raise DataError(
                        f"{path}: truncated: '{member.name}' needs {member.size} bytes at offset "
                        f"{member.offset_data}, the file ends at {size}; copy it again"
                    )
                end = member.offset_data + member.size + -member.size % _BLOCK
                if member.isfile():
                    yield member
                tape.members.clear()  # type: ignore[attr-defined]  # it remembers all otherwise
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{path}: truncated, compressed or no tar: {error} after offset {end}; shards are "
            "plain .tar files, copy or decompress it again"
        ) from error
    if size < end + len(_END):
        raise DataError(
            f"{path}: truncated: after offset {end} a tar's end mark is missing; copy it again"
        )


def _scan_cached(path: Path) -> Index:
    cache, stamp = path.with_name(f"{path.name}.{INDEX}"), _stamp(path)
    with suppress(OSError, ValueError, EOFError), cache.open("rb") as source:  # else scanned again
        known: Index = np.load(source)
        if np.load(source).tolist() == stamp:
            return known
    index = scan_shard(path)
    # a folder that is read-only is scanned again next time
    with (
        suppress(OSError, ConfigError),
        atomic_path(cache) as temporary,
        temporary.open("wb") as sink,
    ):
        np.save(sink, index)
        np.save(sink, stamp)
    return index


def _stamp(path: Path) -> list[int]:
    """Size and time of a file. Copies keep times, so that a later one may be of another file."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error}; copy it again") from error
    return [stat.st_size, stat.st_mtime_ns]


def _end_of_last_sample(index: Index, count: int) -> NDArray[np.uint64]:
    """Least length of each shard."""
    ends = np.zeros(count, np.uint64)
    for part in PARTS:
        np.maximum.at(ends, index["shard"], index[f"{part}_at"] + index[f"{part}_size"])
    return ends


def _check_length(path: Path, end: int) -> None:
    if not path.is_file():
        raise DataError(f"{path}: the index names this shard, but it isn't there; copy it again")
    size = path.stat().st_size
    if size < end:
        raise DataError(
            f"{path}: truncated: its last sample ends at offset {end}, the file at {size}; "
            "copy it again"
        )
