"""Images with one class each, from one folder per class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swath.core.data.readers import find_images, resolve_root
from swath.core.data.segmentation import read_image_tensor
from swath.core.data.spec import Item, Protocol
from swath.core.errors import DataError, suggest
from swath.core.sample import Sample


class ClassItems:
    """Items on disk whose field ``class`` names their class, read with the target ``"label"``.

    Args:
        items: Images.
        protocol: The classes.
        meta: Put into the meta of every sample.

    Attributes:
        ids: One per sample.
        classes: Class names in index order.
        palette: A colour per class.
        ignore_index: Of the protocol; no sample has it.
        labels: Class index of each sample.

    Raises:
        DataError: If a folder isn't one of the classes.
    """

    def __init__(
        self, items: Sequence[Item], protocol: Protocol, meta: dict[str, Any] | None = None
    ) -> None:
        self.items = list(items)
        self.classes, self.palette = protocol.classes, protocol.palette
        self.ignore_index = protocol.ignore_index
        self.ids = [f"{item.fields['class']}/{item.id}" for item in self.items]
        index = {name: i for i, name in enumerate(protocol.classes)}
        for item in self.items:
            if item.fields["class"] not in index:
                name = item.fields["class"]
                raise DataError(
                    f"{item.image.parent}: '{name}' isn't a class{suggest(name, list(index))}"
                )
        self.labels = [index[item.fields["class"]] for item in self.items]
        self._meta = meta or {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: If the image is unreadable.
        """
        item = self.items[index]
        image, valid = read_image_tensor(item.image)
        meta = {**self._meta, "id": self.ids[index], "path": str(item.image)}
        return Sample(image, {"label": self.labels[index]}, valid, meta)


class ClassFolders(ClassItems):
    """A folder with one subfolder of images per class.

    Args:
        root: The folder.
        classes: Names of the subfolders in index order; alphabetical if None.

    Raises:
        DataError: If the folder is absent or empty, holds images outside of class folders, or a
            class that isn't listed.
    """

    def __init__(self, root: str | Path, classes: Sequence[str] | None = None) -> None:
        folder = resolve_root(root)
        items = []
        for name, path in find_images(folder).items():
            class_name, slash, rest = name.partition("/")
            if not slash:
                raise DataError(f"{path} lies outside of the class folders; move it into one")
            items.append(Item(rest, path, None, {"class": class_name}))
        found = sorted({item.fields["class"] for item in items})
        super().__init__(items, Protocol(tuple(classes if classes is not None else found)))
