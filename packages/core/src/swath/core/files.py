"""Writing files so that nobody ever sees half of one, and their hashes."""

import errno
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from swath.core.errors import ConfigError, WriteError

_DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO)

LOCK = (".lock", ".owner")
"""What `locked` keeps in a folder; the first stays there."""


def remove_leftovers(folder: str | Path) -> None:
    """Remove what processes that were killed inside `atomic_path` have left in a folder.

    Nobody else may be writing there.
    """
    for leftover in Path(folder).glob(f".*.{'[0-9a-f]' * 8}.part*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def locked(folder: str | Path, doing: str, option: str) -> Iterator[None]:
    """Keep other processes out of a folder that a command writes to, by two files in it (`LOCK`).

    The system opens the lock when this process ends, however it does.

    Args:
        folder: Created if needed.
        doing: What is done there, such as ``"training"``, for the message.
        option: By which another folder is chosen, such as ``"--out"``.

    Raises:
        ConfigError: If another process holds the lock, or nothing can be written here.
    """
    place = Path(folder)
    lock, owner = FileLock(place / LOCK[0]), place / LOCK[1]
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        owner.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    except Timeout as error:
        running = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise ConfigError(
            f"{place}: {running} is {doing} here; let it end, stop it, or choose another {option}"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{place}: can't be written to ({error.strerror}); choose another {option}"
        ) from error
    try:
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` if the block succeeds.

    The suffix is kept, since many writers choose the format by it. On any exception, an interrupt
    included, the temporary file is removed and a file already under the final name is untouched.

    Args:
        path: The final name; its folder is created if needed.

    Yields:
        The name to write to.

    Raises:
        ConfigError: If ``path`` is a folder, or its own folder can't be made or written to.
        WriteError: In place of the system's error, if the disk doesn't take the file.
    """
    final = Path(path)
    if final.is_dir():
        raise ConfigError(f"{final} is a folder; give the name of a file")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ConfigError(
            f"{final} can't be written ({error.strerror}: {error.filename}); choose another folder"
        ) from error
    if not os.access(final.parent, os.W_OK):
        raise ConfigError(f"{final} can't be written: its folder is closed; choose another one")
    temporary = final.with_name(f".{final.stem}.{uuid4().hex[:8]}.part{final.suffix}")
    try:
        yield temporary
        os.replace(temporary, final)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise WriteError(
            f"{final} can't be written ({error.strerror}); free some space or choose another folder"
        ) from error
    finally:
        # side files that writers leave (.aux.xml, -journal) share the temporary name's beginning
        for leftover in final.parent.glob(f"{temporary.name}*"):
            leftover.unlink(missing_ok=True)


def write_json(path: str | Path, data: Any) -> None:
    """Write plain data as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in lower-case hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
