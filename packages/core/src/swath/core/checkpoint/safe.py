"""Opening weights files without ever running code that they carry.

A pickle names functions and has them called, so that loading one is running it. Here every pickle
is read with a list of allowed names that is fixed below: containers, tensors, NumPy arrays and
scalars, and `argparse.Namespace`, which official training scripts leave in their files. Nothing on
it can reach anything else; `getattr`, in particular, isn't on it: its name, which the curves that
mmengine leaves there call, and theirs stand for a class of ours that forgets what it is given.
"""

import argparse
import collections
import json
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from swath.core.errors import CheckpointError, UnsafeCheckpointError

Format = Literal["safetensors", "torch", "torch-legacy", "pickle"]


class _LeftOut:
    """In the place of what a file holds beside weights: takes anything, and keeps nothing."""

    def __new__(cls, *arguments: object) -> "_LeftOut":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget it."""


_NUMPY_DTYPES: list[Callable[..., Any]] = [
    type(np.dtype(code))
    for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
]
_scalar: Any = np.float64(0).__reduce__()[0]
_reconstruct: Any = np.empty(0).__reduce__()[0]
_ALLOWED: list[Any] = [
    argparse.Namespace,
    collections.OrderedDict,
    collections.defaultdict,
    np.ndarray,
    np.dtype,
    *_NUMPY_DTYPES,
    # the same two functions under the names of NumPy 2 and NumPy 1
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_LeftOut, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_LeftOut, "builtins.getattr"),
]
_PLAIN_ALLOWED: dict[tuple[str, str], Any] = {
    ("argparse", "Namespace"): argparse.Namespace,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
}

_WRAPPERS = (
    "model", "state_dict", "model_state_dict", "model_state", "network", "params", "teacher",
)  # fmt: skip
"""Keys under which training scripts put the weights, in the order they are tried."""


def load_file(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a weights file; no code in it is ever executed.

    The format is told by the content, not by the name: safetensors, PyTorch's zip and legacy
    formats, and plain pickles of NumPy arrays (Detectron2).

    Args:
        path: The file.
        key: Entry of the file that holds the weights; default: found by `_WRAPPERS`' names.

    Returns:
        Tensors by name, on the CPU, in the file's dtypes.

    Raises:
        UnsafeCheckpointError: If it names anything outside the fixed list of harmless types.
        CheckpointError: If it is missing, damaged, or holds no tensors.
    """
    content = load_any(path)
    state = content.get(key) if key is not None and isinstance(content, Mapping) else content
    while key is None and isinstance(state, Mapping):
        wrapped = next((k for k in _WRAPPERS if isinstance(state.get(k), Mapping)), None)
        if wrapped is None:
            break
        state = state[wrapped]
    tensors = _tensors(state)
    if not tensors:
        held = list(content)[:8] if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path}: holds no tensors {f'under {key!r}' if key else 'where they are looked for'} "
            f"(its entries: {held}); give the entry that has the weights as key"
        )
    return tensors


def load_any(path: str | Path) -> Any:
    """Everything in a weights file, as plain containers of tensors, arrays and numbers.

    Args:
        path: The file.

    Raises:
        UnsafeCheckpointError: See `load_file`.
        CheckpointError: If it is missing or damaged.
    """
    path = Path(path)
    kind = file_format(path)
    try:
        if kind == "safetensors":
            return load_safetensors(path)
        # the open file, not its name: by the name alone, torch may choose another reader
        with path.open("rb") as file, torch.serialization.safe_globals(_ALLOWED):
            if kind == "pickle":
                return _PlainUnpickler(file, path).load()
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: damaged safetensors file ({error}); fetch it again"
        ) from error
    except pickle.UnpicklingError as error:
        if name := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise _unsafe(path, name[1]) from None
        raise CheckpointError(
            f"{path}: not a weights file that can be read safely ({_first_line(error)}); convert "
            "it to safetensors where it was made"
        ) from error
    except MemoryError:
        raise CheckpointError(f"{path}: claims more memory than there is; fetch it again") from None
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise CheckpointError(
            f"{path}: damaged or no weights file ({type(error).__name__}: {_first_line(error)}); "
            "fetch it again"
        ) from error


def file_format(path: str | Path) -> Format:
    """Tell a weights file's format by its first bytes.

    Raises:
        CheckpointError: If there is no such file, or it is none of these formats.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.safetensors")) or ["a weights file"]
        raise CheckpointError(f"{path} is a folder; give the file, {' or '.join(inside)} in it")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path")
    with path.open("rb") as file:
        head = file.read(16)
        if head.startswith(b"PK"):
            return "torch"
        if head[8:9] == b"{":
            return "safetensors"
        if head[:1] == b"\x80" or _looks_like_pickle(head):
            return "torch-legacy" if _has_torch_magic(file) else "pickle"
    if path.suffix == ".safetensors":
        return "safetensors"  # let its reader say what is wrong
    raise CheckpointError(
        f"{path}: not a weights file (safetensors, PyTorch or pickle); it begins with {head[:8]!r}"
    )


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other formats.

    Raises:
        CheckpointError: If the header is damaged.
    """
    path = Path(path)
    if file_format(path) != "safetensors":
        return {}
    metadata = json.loads(read_header(path)).get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: damaged safetensors file (metadata); fetch it again")
    return {str(k): str(v) for k, v in metadata.items()}


MAX_HEADER = 100_000_000
"""Longest safetensors header that is believed, bytes; the format's own limit."""


def read_header(path: str | Path) -> bytes:
    """The JSON header of a safetensors file, checked to be there in full and to be an object.

    Raises:
        CheckpointError: If the claimed length is impossible or the header isn't a JSON object.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        (length,) = struct.unpack("<Q", prefix) if len(prefix) == 8 else (size,)
        if length > min(size - 8, MAX_HEADER):
            raise CheckpointError(
                f"{path}: damaged safetensors file (its header claims {length} bytes, the file has "
                f"{size}); fetch it again"
            )
        header = file.read(length)
    try:
        if isinstance(json.loads(header), dict):
            return header
    except ValueError:
        pass
    raise CheckpointError(f"{path}: damaged safetensors file (unreadable header); fetch it again")


class _PlainUnpickler(pickle.Unpickler):
    """Reads a plain pickle of containers, numbers and NumPy arrays, and refuses everything else."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="latin1")  # what Python 2 wrote, as Detectron2's files
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN_ALLOWED:
            if (module, name) == ("_codecs", "encode"):
                return _latin1_bytes
            raise _unsafe(self.path, f"{module}.{name}")
        return _PLAIN_ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise CheckpointError(f"{self.path}: a pickle with outside references can't be read safely")


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """What `codecs.encode` is used for in pickles of bytes, and nothing else."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unexpected encoding {encoding!r}")
    return text.encode("latin1")


def _unsafe(path: Path, name: str) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{path}: would call '{name}' when loaded, which could run any code; nothing of it was "
        "run; get it from a source you trust, weights as safetensors"
    )


def _tensors(state: Any) -> dict[str, Tensor]:
    """The tensors (and arrays) of a flat mapping; anything else in it is left out."""
    if not isinstance(state, Mapping):
        return {}
    tensors = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, Tensor):
            tensors[str(name)] = value.detach()
    return tensors


_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def _has_torch_magic(file: BinaryIO) -> bool:
    """Whether PyTorch's legacy magic number, a pickled long, stands near the beginning."""
    file.seek(0)
    return _TORCH_MAGIC.to_bytes(10, "little") in file.read(32)


def _looks_like_pickle(head: bytes) -> bool:
    """Protocols 0 and 1 have no marker; they begin with an opcode of a container or a global."""
    return head[:1] in (b"(", b"c", b"}", b"]")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
