import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.core.errors import DataError
from swath.pretrain.rs4p.shards import (
    PARTS,
    index_dtype,
    load_index,
    members,
    read_at,
    scan_shard,
    scan_shards,
    tar_members,
    write_shard,
)


def sample(key: str, size: int = 700) -> list[tuple[str, bytes]]:
    return [
        (f"{key}.jpg", key.encode() * size),
        (f"{key}.mask.png", b"m" * 3),
        (f"{key}.conf.png", b"c" * 512),
        (f"{key}.json", b"{}"),
    ]


def shard(path: Path, keys: str) -> Path:
    write_shard(path, (tar_members(sample(key))[0] for key in keys))
    return path


@given(st.lists(st.binary(max_size=1200), max_size=5))
def test_what_is_written_is_what_tarfile_reads(contents: list[bytes]) -> None:
    named = [(f"{i}.bin", content) for i, content in enumerate(contents)]
    piece, spans = tar_members(named)
    assert [piece[a : a + n] for a, n in spans] == contents
    with tarfile.open(fileobj=io.BytesIO(piece + bytes(1024))) as tape:
        read = [(m.name, tape.extractfile(m).read()) for m in tape]  # type: ignore[union-attr]
    assert read == named


def test_equal_samples_make_equal_shards_without_time_and_owner(tmp_path: Path) -> None:
    a, b = shard(tmp_path / "a.tar", "xy"), shard(tmp_path / "b.tar", "xy")
    assert a.read_bytes() == b.read_bytes()
    assert {(m.mtime, m.uid, m.uname) for m in members(a)} == {(0, 0, "")}


def test_the_headers_give_every_offset(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", "pq")
    index = scan_shard(path)
    assert index["key"].tolist() == [b"p", b"q"]
    for row, key in zip(index, "pq", strict=True):
        stored = [read_at(path, int(row[f"{p}_at"]), int(row[f"{p}_size"])) for p in PARTS]
        assert stored == [content for _, content in sample(key)]


def test_shards_of_others_need_an_image_only(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    long = "a/very-long-folder-name" * 8
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tape:
        for name in ("d/one.jpeg", "d/one.cls", "two.seg.png", "two.PNG", f"{long}/three.png",
                     "no-image.json"):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tape.addfile(info, io.BytesIO(name.encode()))
    index = scan_shard(path)
    keys = [key.decode() for key in index["key"]]
    assert keys == ["d/one", "two", f"{long}/three"]
    assert index["mask_size"].tolist() == [0, 11, 0]
    assert index["json_size"].sum() == 0
    assert read_at(path, int(index["image_at"][2]), len(f"{long}/three.png")).endswith(b"three.png")


def test_the_scan_is_kept_beside_the_shard_until_the_shard_changes(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", "xyz")
    first = scan_shards([path])
    cache = tmp_path / "a.tar.index.npy"
    assert cache.is_file()
    np.testing.assert_array_equal(scan_shards([path]), first)
    assert len(scan_shards([shard(path, "vw")])) == 2
    both = scan_shards([path, shard(tmp_path / "b.tar", "u")], cached=False)
    assert both["shard"].tolist() == [0, 0, 1]


def test_a_shard_with_an_older_date_is_scanned_again(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", "xyz")
    scan_shards([path])
    os.utime(shard(path, "uvw"), (1, 1))  # as cp -p, rsync -a and mv leave it
    assert scan_shards([path])["key"].tolist() == [b"u", b"v", b"w"]


def test_a_scan_kept_by_an_earlier_version_is_made_anew(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", "x")
    earlier = scan_shard(path)
    earlier["whole"] = True
    np.save(tmp_path / "a.tar.index.npy", earlier)
    assert not scan_shards([path])["whole"].any()


def test_a_folder_that_is_closed_is_scanned_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path / "a.tar", "xy")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(scan_shards([path])) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]
    with pytest.raises(DataError, match=r"b\.tar: can't be read"):
        scan_shards([tmp_path / "b.tar"])


@pytest.mark.parametrize("damage", [b"", b"rubbish", "half", "other"])
def test_a_damaged_scan_is_made_anew(tmp_path: Path, damage: bytes | str) -> None:
    path, cache = shard(tmp_path / "a.tar", "xyz"), tmp_path / "a.tar.index.npy"
    first = scan_shards([path])
    if damage == "other":
        np.save(cache, np.arange(3))
    else:
        whole = cache.read_bytes()
        cache.write_bytes(whole[: len(whole) // 2] if isinstance(damage, str) else damage)
    np.testing.assert_array_equal(scan_shards([path]), first)
    np.testing.assert_array_equal(np.load(cache), first[0:3])


@pytest.mark.parametrize("cut", [1, 600, 1024, 1025, 1600, 3000])
def test_a_truncated_shard_is_refused_with_its_name_and_an_offset(tmp_path: Path, cut: int) -> None:
    path = shard(tmp_path / "a.tar", "xy")
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    with pytest.raises(DataError, match=r"a\.tar: truncated.*offset \d+"):
        scan_shard(path)


@pytest.mark.parametrize("content", [b"", b"not a tar" * 200])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar: truncated"):
        scan_shard(path)


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tape:
        tape.addfile(tarfile.TarInfo("x.jpg"))
    with pytest.raises(DataError, match="compressed or no tar"):
        scan_shard(tmp_path / "a.tar")


def test_a_shard_without_images_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [tar_members([("x.json", b"{}")])[0]])
    with pytest.raises(DataError, match="holds no image"):
        scan_shard(tmp_path / "a.tar")


def test_an_index_is_checked_against_its_shards(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", "xy")
    index = scan_shard(path)
    full = np.zeros(2, index_dtype())
    for name in index.dtype.names or ():
        full[name] = index[name]
    np.save(tmp_path / "index.npy", full)
    np.testing.assert_array_equal(load_index(tmp_path, [path])["key"], [b"x", b"y"])
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"a\.tar: truncated: its last sample ends at offset \d+"):
        load_index(tmp_path, [path])
    path.unlink()
    with pytest.raises(DataError, match="isn't there"):
        load_index(tmp_path, [path])
    with pytest.raises(DataError, match="not the index of these 0 shards"):
        load_index(tmp_path, [])
    (tmp_path / "index.npy").write_bytes(json.dumps({}).encode())
    with pytest.raises(DataError, match=r"index\.npy: damaged"):
        load_index(tmp_path, [path])


def test_reading_beyond_the_end_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", "x")
    with pytest.raises(DataError, match="16 bytes are expected at offset 1000000, 0 are there"):
        read_at(path, 1_000_000, 16)
    with pytest.raises(DataError, match="can't be read"):
        read_at(tmp_path / "absent.tar", 0, 1)
