import argparse
import builtins
import io
import json
import os
import pickle
import struct
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from swath.core.checkpoint.safe import file_format, load_file, read_metadata
from swath.core.checkpoint.store import describe, load_pair
from swath.core.errors import CheckpointError, UnsafeCheckpointError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


class Attack:
    """Pickles into a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def attacks(marker: Path) -> dict[str, Attack]:
    return {
        "system": Attack(os.system, f"touch {marker}"),
        "exec": Attack(builtins.exec, f"open({str(marker)!r}, 'w')"),
        "eval": Attack(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "open": Attack(open, str(marker), "w"),
        "getattr": Attack(getattr, Path(marker), "touch"),
        "mkdir": Attack(os.mkdir, str(marker)),
    }


@pytest.mark.parametrize("kind", ["system", "exec", "eval", "open", "getattr", "mkdir"])
@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle2", "pickle4", "named-safetensors"])
@pytest.mark.parametrize("loader", [load_file, load_pair, describe])
def test_code_in_a_checkpoint_never_runs(
    tmp_path: Path, kind: str, layout: str, loader: Any
) -> None:
    marker = tmp_path / "executed"
    content = {"model": STATE, "extra": attacks(marker)[kind]}
    path = tmp_path / ("x.safetensors" if layout == "named-safetensors" else "x.pth")
    if layout.startswith("pickle"):
        path.write_bytes(pickle.dumps({"extra": content["extra"]}, protocol=int(layout[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout != "legacy")
    refused = "getattr|pathlib" if kind == "getattr" else kind  # the name or what it is given
    with pytest.raises(UnsafeCheckpointError, match=refused) as info:
        loader(path)
    assert not marker.exists()
    assert str(path) in str(info.value)
    assert "\n" not in str(info.value)


def test_curves_that_mmengine_leaves_are_passed_over(tmp_path: Path) -> None:
    curves = {"loss": HistoryBuffer([1.0, 0.5], [1, 1])}
    path = tmp_path / "epoch_12.pth"
    torch.save({"message_hub": {"log_scalars": curves}, "state_dict": STATE}, path)
    assert b"getattr" in path.read_bytes()
    loaded = load_file(path)
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[key], value) for key, value in STATE.items())


class Call(Attack):
    """One that may itself be called."""

    def __call__(self) -> None:
        raise NotImplementedError


def test_what_getattr_seems_to_give_cannot_be_called(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"extra": Attack(Call(getattr, "{}", "format"), "text")}, path)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        load_file(path)


def malformed() -> dict[str, bytes]:
    def file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def tensor(start: int, stop: int, shape: list[int] | None = None) -> dict[str, Any]:
        return {"dtype": "F32", "shape": shape or [2], "data_offsets": [start, stop]}

    return {
        "length 2^63-1": file(b"{}", length=2**63 - 1),
        "200 MB claim": file(b"{}", length=200_000_000),
        "200 MB tensor": file({"a": tensor(0, 200_000_000, [50_000_000])}, b"\0" * 8),
        "truncated": file({"a": tensor(0, 8)}, b"\0" * 4),
        "trailing": file({"a": tensor(0, 8)}, b"\0" * 99),
        "overlap": file({"a": tensor(0, 8), "b": tensor(4, 12)}, b"\0" * 12),
        "out of range": file({"a": tensor(0, 8), "b": tensor(800, 808)}, b"\0" * 16),
        "overflow": file({"a": tensor(0, 8, [2**62, 2**62])}, b"\0" * 8),
        "no object": file(b"[1]     "),
        "empty": b"",
        "metadata": file({"__metadata__": 3, "a": tensor(0, 8)}, b"\0" * 8),
    }


@pytest.mark.parametrize("kind", list(malformed()))
@pytest.mark.parametrize("loader", [load_file, load_pair])
def test_malformed_safetensors_are_refused_at_once(tmp_path: Path, kind: str, loader: Any) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(malformed()[kind])
    before, start = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(CheckpointError, match="safetensors"):
        loader(path)
    assert time.monotonic() - start < 1
    assert psutil.Process().memory_info().rss - before < 50e6


@pytest.mark.parametrize("legacy", [False, True])
def test_an_official_checkpoint_with_leftovers_loads_bitwise(tmp_path: Path, legacy: bool) -> None:
    content = {
        "model": OrderedDict(STATE),
        "args": argparse.Namespace(lr=1e-4, name="x"),
        "best": np.float64(0.5),
        "epoch": np.int64(3),
        "history": np.arange(4.0),
    }
    path = tmp_path / "official.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = load_file(path)
    assert list(loaded) == list(STATE)
    assert all(loaded[name].equal(value) for name, value in STATE.items())
    assert all(loaded[name].dtype == value.dtype for name, value in STATE.items())


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_pickle_of_arrays_loads(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "detectron.pkl"
    arrays = {name: value.numpy() for name, value in STATE.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}, protocol=protocol))
    loaded = load_file(path)
    assert all(loaded[name].equal(value) for name, value in STATE.items())


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (lambda p: save_file(STATE, p), "safetensors"),
        (lambda p: torch.save(STATE, p), "torch"),
        (lambda p: torch.save(STATE, p, _use_new_zipfile_serialization=False), "torch-legacy"),
    ],
)
def test_the_format_is_told_by_content_not_by_name(tmp_path: Path, write: Any, kind: str) -> None:
    path = tmp_path / "weights.bin"
    write(path)
    assert file_format(path) == kind
    assert load_file(path).keys() == STATE.keys()


def test_an_entry_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}}, path)
    assert float(load_file(path)["a"]) == 0
    assert float(load_file(path, key="ema")["a"]) == 1
    with pytest.raises(CheckpointError, match="'teacher'"):
        load_file(path, key="teacher")


@pytest.mark.parametrize("content", [b"hello world, no weights", b"PK\x03\x04broken", b"\x80\x04."])
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as info:
        load_file(path)
    assert str(path) in str(info.value)
    assert "\n" not in str(info.value)


def test_a_truncated_torch_file_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    path = tmp_path / "x.pth"
    path.write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(CheckpointError, match="damaged"):
        load_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pth: no such file"):
        load_file(tmp_path / "gone.pth")


def test_a_folder_is_no_file_and_what_is_in_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder; give the file, a weights file in it"):
        load_file(tmp_path)
    for name in ("last", "best"):
        save_file(STATE, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"best\.safetensors or last\.safetensors in it"):
        load_file(tmp_path)


def test_metadata_is_read_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(STATE, path, {"who": "us"})
    assert read_metadata(path) == {"who": "us"}
