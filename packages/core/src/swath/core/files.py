"""Writing files so that nobody ever sees half of one, and their hashes."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


def remove_leftovers(folder: str | Path) -> None:
    """Remove what processes that were killed inside `atomic_path` have left in a folder.

    Nobody else may be writing there.
    """
    for leftover in Path(folder).glob(f".*.{'[0-9a-f]' * 8}.part*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` if the block succeeds.

    The suffix is kept, since many writers choose the format by it. On any exception, an interrupt
    included, the temporary file is removed and a file already under the final name is untouched.

    Args:
        path: The final name; its folder is created if needed.

    Yields:
        The name to write to.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem}.{uuid4().hex[:8]}.part{final.suffix}")
    try:
        yield temporary
        os.replace(temporary, final)
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
