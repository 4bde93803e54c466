"""Our own checkpoints: one safetensors file that knows its model, its task and its own hash.

The safetensors metadata has two entries: ``"swath"``, JSON ``{"format": 1, "model": spec, "task":
spec, "card": {...}, "training": {...}}``, and ``"sha256"``, the hash of the whole file with the
hash itself set to zeros. A single changed byte, be it weights, names, shapes or metadata, is
noticed before any tensor is read.
"""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file
from torch import Tensor, nn

from swath.core import plugins
from swath.core.checkpoint.official import load_strict
from swath.core.checkpoint.safe import file_format, load_any, read_header, read_metadata
from swath.core.checkpoint.unfilled import build_unfilled
from swath.core.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from swath.core.files import atomic_path
from swath.core.spec import Spec, UntrustedError, from_data, target_name, to_data
from swath.core.task import Task

FORMAT = 1
_NO_HASH = "0" * 64
_CHUNK = 1 << 22


def save_model(
    path: str | Path,
    model: nn.Module | Mapping[str, Tensor],
    model_spec: Spec,
    task_spec: Spec,
    card: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model with all that is needed to use it again; atomic.

    Args:
        path: Ends in ``.safetensors``.
        model: Its weights and buffers are stored; or these themselves, by name.
        model_spec: Rebuilds it. ``pretrained`` is stored as False, ``weights`` and ``init_tasks``
            as None, since the file brings the weights.
        task_spec: Rebuilds its task. What leans on a file is stored with the file's content: the
            target of such a spec has ``inlined``, which makes it one that needs no file.
        card: Free description: licence, data, figures; JSON data.
        training: How it came about: config hash, step, scores; JSON data.
        dtype: Stores floating-point tensors in this type, e.g. ``torch.float16`` for small files.

    Raises:
        ConfigError: If a spec holds something that isn't data.
        CheckpointError: If the name has another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: our checkpoints are safetensors; name it *.safetensors")
    description = {
        "format": FORMAT,
        "model": to_data(_changed(model_spec, _without_weights)),
        "task": to_data(_changed(task_spec, _inlined)),
        "card": dict(card or {}),
        "training": dict(training or {}),
    }
    tensors = model.state_dict() if isinstance(model, nn.Module) else model
    save_sealed(path, tensors, {"swath": json.dumps(description)}, dtype)


def _changed(value: Any, change: Callable[[Spec], Spec]) -> Any:
    """A value with every spec in it, in any depth, changed, those within others first."""
    if isinstance(value, Mapping):
        return {k: _changed(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_changed(v, change) for v in value]
    if not isinstance(value, Spec):
        return value
    return change(Spec(value.target, **_changed(value.kwargs, change)))


def _inlined(spec: Spec) -> Spec:
    """A spec with the content of files it leans on; see `save_model`."""
    inlined: Spec = spec.target.inlined(spec) if hasattr(spec.target, "inlined") else spec
    return inlined


def save_sealed(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> None:
    """Write tensors with metadata and the file's own hash, which `verify` checks; atomic.

    Args:
        path: The file.
        tensors: By name; may share memory.
        metadata: Text by name.
        dtype: See `save_model`.
    """
    with atomic_path(path) as temporary:
        save_file(_storable(tensors, dtype), temporary, {**metadata, "sha256": _NO_HASH})
        temporary.chmod(0o644)  # safetensors makes its files private
        _seal(temporary)


def load_pair(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[nn.Module, Task, dict[str, Any]]:
    """Rebuild the model and the task of one of our checkpoints.

    Only modules, tasks, dataclasses and model builders of ``swath.*`` and of installed plugins'
    packages are ever constructed, whatever the file says.

    Args:
        path: A file that `save_model` wrote.
        device: Where the model goes.

    Returns:
        The model in eval mode, its task, and the description ``{"format", "model", "task", "card",
        "training"}``.

    Raises:
        CheckpointError: If it is missing, damaged, altered, bare weights, or of a newer format.
        UnsafeCheckpointError: If it asks for anything but models and tasks of these.
    """
    path = Path(path)
    description = describe(path)
    verify(path)
    model, task = _built(path, description, "model", "task")
    if not isinstance(model, nn.Module) or not isinstance(task, Task):
        raise CheckpointError(f"{path}: describes no model with a task; save it with save_model")
    load_strict(model, load_safetensors(path), where=str(path))
    return model.to(device).eval(), task, description


def load_task(path: str | Path) -> Task:
    """The task of one of our checkpoints, without its model.

    Raises:
        CheckpointError: If the file is missing, damaged, bare weights, or of a newer format.
        UnsafeCheckpointError: If it asks for anything but a task of ours.
    """
    path = Path(path)
    (task,) = _built(path, describe(path), "task")
    if not isinstance(task, Task):
        raise CheckpointError(f"{path}: describes no task; save it with save_model")
    return task


def _built(path: Path, description: Mapping[str, Any], *names: str) -> list[Any]:
    """What a description says of the model, or the task, built if that is harmless."""
    try:
        specs = {name: from_data(description[name], plugins.trusted()) for name in names}
        for spec in specs.values():
            _check_harmless(spec, path)
        # the file brings the weights: none are read, or fetched, because it names others
        builds = {name: _changed(spec, _without_weights).build for name, spec in specs.items()}
        return [
            build_unfilled(build) if name == "model" else build() for name, build in builds.items()
        ]
    except UntrustedError as error:
        raise CheckpointError(
            f"{path}: {error}; make its package a plugin, or build the model yourself and give it "
            "to swath.core.Predictor(model, task)"
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its description doesn't fit this version of swath "
            f"({type(error).__name__}: {error})"
        ) from error


def describe(path: str | Path) -> dict[str, Any]:
    """The description that a checkpoint of ours carries, without reading its tensors.

    Raises:
        CheckpointError: If it is missing, damaged, bare weights, or of a newer format.
    """
    path = Path(path)
    description = read_metadata(path).get("swath")
    if description is None:
        load_any(path)  # a damaged or unsafe file says so first
        raise CheckpointError(
            f"{path}: bare weights, which don't say what model they are for; name the model "
            f"(load_model('NAME', weights='{path}')) or turn them into a checkpoint of ours "
            f"(swath convert {path} --model NAME -o OUT.safetensors)"
        )
    try:
        content = json.loads(description)
    except ValueError as error:
        raise CheckpointError(f"{path}: unreadable description; fetch it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {content.get('format') if isinstance(content, dict) else '?'} isn't "
            f"known here (this version reads {FORMAT}); update swath-core"
        )
    return content


def verify(path: str | Path) -> None:
    """Check the hash that a file of ours carries: a checkpoint, or what `save_sealed` wrote.

    Raises:
        CheckpointError: If a single byte of the file isn't what was saved.
    """
    path = Path(path)
    if file_format(path) != "safetensors" or file_hash(path) != read_metadata(path).get("sha256"):
        raise CheckpointError(
            f"{path}: its content doesn't match its hash, it was damaged or altered; fetch it again"
        )


def file_hash(path: str | Path) -> str:
    """SHA-256 of a safetensors file whose own hash entry counts as zeros, lower-case hex."""
    path = Path(path)
    digest = hashlib.sha256()
    for chunk in _chunks_without_hash(path):
        digest.update(chunk)
    return digest.hexdigest()


def _seal(path: Path) -> None:
    """Write the file's hash over the zeros that stand in its place."""
    _sort_metadata(path)
    digest = file_hash(path)
    start, _ = _hash_position(read_header(path))
    _write_at(path, 8 + start, digest.encode())


def _sort_metadata(path: Path) -> None:
    """Give the metadata's entries a fixed order, so that equal content makes equal files.

    safetensors writes them in the random order of a hash map.
    """
    header = read_header(path)
    content = json.loads(header)
    content["__metadata__"] = dict(sorted(content["__metadata__"].items()))
    compact = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    _write_at(path, 8, compact.ljust(len(header)))


def _write_at(path: Path, position: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(content)


def _chunks_without_hash(path: Path) -> Iterator[bytes]:
    header = read_header(path)
    start, stop = _hash_position(header)
    with path.open("rb") as file:
        yield file.read(8)
        yield header[:start] + _NO_HASH.encode()[: stop - start] + header[stop:]
        file.seek(8 + len(header))
        while chunk := file.read(_CHUNK):
            yield chunk


def _hash_position(header: bytes) -> tuple[int, int]:
    """Where the 64 digits stand in the header; an empty place if there are none."""
    # inside a JSON string quotes are escaped, so that this can only be the entry itself
    opening = b'"sha256":"'
    start = header.find(opening)
    if start < 0:
        return 0, 0
    start += len(opening)
    return start, min(start + len(_NO_HASH), len(header))


def _storable(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as safetensors wants them."""
    stored: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in state.items():
        kept = dtype if dtype is not None and value.is_floating_point() else value.dtype
        tensor = value.detach().to("cpu", kept).contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        stored[name] = tensor
    return stored


_NO_WEIGHTS: dict[str, Any] = {"pretrained": False, "weights": None, "init_tasks": None}


def _without_weights(spec: Spec) -> Spec:
    """A spec without the weights that it begins with."""
    # a task's own ``weights`` are the factors of its losses
    if inspect.isclass(spec.target) and issubclass(spec.target, Task):
        return spec
    return Spec(spec.target, **{k: _NO_WEIGHTS.get(k, v) for k, v in spec.kwargs.items()})


_BUILDER_FOLDERS = {"models", "backbones", "heads"}


def _check_harmless(value: Any, path: Path) -> None:
    """Let a file name only things whose construction has no effect outside."""
    if isinstance(value, Mapping):
        for item in value.values():
            _check_harmless(item, path)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_harmless(item, path)
    elif isinstance(value, Spec):
        if not _is_harmless(value.target):
            raise UnsafeCheckpointError(
                f"{path}: asks to call '{target_name(value.target)}', which is neither a model nor "
                "a task; nothing of it was run"
            )
        _check_harmless(value.kwargs, path)


def _is_harmless(target: Callable[..., Any]) -> bool:
    if inspect.isclass(target):
        return issubclass(target, nn.Module | Task) or dataclasses.is_dataclass(target)
    return inspect.isfunction(target) and bool(_BUILDER_FOLDERS & {*target.__module__.split(".")})
