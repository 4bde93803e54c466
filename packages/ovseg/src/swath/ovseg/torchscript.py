"""Reading the weights out of a TorchScript archive, in which OpenAI publishes CLIP.

Nothing of its code is run, and nothing that its pickle names is imported: a module in it becomes a
plain bag of attributes, a tensor is made from the bytes beside it, and everything else is refused.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from swath.core.errors import CheckpointError, UnsafeCheckpointError

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with constants beside its data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by the names that its state dict would have.

    Args:
        path: The archive.

    Raises:
        UnsafeCheckpointError: If its pickle names anything but modules, tensors and containers.
        CheckpointError: If it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            with archive.open(name) as file:
                root = _Unpickler(file, archive, name.removesuffix("data.pkl"), path).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, StopIteration, KeyError, EOFError) as error:
        raise CheckpointError(
            f"{path}: damaged TorchScript archive ({error}); fetch it again"
        ) from error
    found: dict[str, Tensor] = {}
    _collect(root, "", found)
    return found


class _Module:
    """What a module of the archive becomes."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


class _Unpickler(pickle.Unpickler):
    """Knows modules, tensors and containers."""

    def __init__(
        self, file: IO[bytes], archive: zipfile.ZipFile, folder: str, path: str | Path
    ) -> None:
        super().__init__(file)
        self.archive, self.folder, self.path = archive, folder, path

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle":  # lists of numbers and tensors
            return _as_it_is
        raise UnsafeCheckpointError(
            f"{self.path}: would call '{module}.{name}' when loaded; nothing of it was run; get "
            "the weights from a source you trust"
        )

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, _ = pid
        content = bytearray(self.archive.read(f"{self.folder}data/{key}"))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _as_it_is(value: Any, *rest: Any) -> Any:
    return value


def _collect(module: _Module, prefix: str, found: dict[str, Tensor]) -> None:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", found)
