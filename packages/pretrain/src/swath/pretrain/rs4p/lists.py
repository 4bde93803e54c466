"""Lists of images, one a line, that are released along with archives."""

import os
from pathlib import Path

from swath.core.data.spec import list_lines


class Files:
    """Which files are below a folder; folders are listed once, instead of asking for each file.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, set[str]] = {}

    def __contains__(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self._folders:
            place = self.root / folder
            self._folders[folder] = set(os.listdir(place)) if place.is_dir() else set()
        return file in self._folders[folder]


def read_names(path: Path, files: Files) -> list[str]:
    """The first column of a list; a whole line where that is the name of a file, with spaces.

    Args:
        path: The list; empty lines and those that begin with ``#`` don't count.
        files: Those that it may name; what it names needn't exist.

    Raises:
        DataError: If the list can't be read, or names nothing.
    """
    names = []
    for _, line in list_lines(path):
        name = line.split()[0]
        whole = name != line and name not in files and (files.root / line).is_file()
        names.append(line if whole else name)
    return names
