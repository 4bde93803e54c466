"""Images with a class for every pixel: from two folders, or from a set in the catalogue."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from swath.core.data.readers import (
    IMAGE_SUFFIXES,
    LabelReader,
    find_images,
    read_array,
    resolve_root,
)
from swath.core.data.spec import Item, Protocol, read_list
from swath.core.errors import DataError, suggest
from swath.core.sample import Sample


class SegmentationItems:
    """Items on disk, read as samples with the target ``"mask"``.

    Args:
        items: Images with label paths.
        protocol: How the labels are read.
        meta: Put into the meta of every sample.

    Attributes:
        ids: One per sample.
        classes: Class names in index order.
        palette: A colour per class.
        ignore_index: Index of pixels that don't count.
    """

    def __init__(
        self, items: Sequence[Item], protocol: Protocol, meta: dict[str, Any] | None = None
    ) -> None:
        self.items = list(items)
        self.protocol = protocol
        self.ids = [item.id for item in self.items]
        self.classes, self.palette = protocol.classes, protocol.palette
        self.ignore_index = protocol.ignore_index
        self._meta = meta or {}
        self._labels = LabelReader(protocol)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: If a file is unreadable, the sizes differ, or a label is out of range.
        """
        item = self.items[index]
        image, valid = read_image_tensor(item.image)
        meta = {**self._meta, "id": item.id, "path": str(item.image)}
        if item.label is None:
            return Sample(image, valid=valid, meta=meta)
        mask = self._labels(item.label)
        if mask.shape != image.shape[1:]:
            raise DataError(
                f"{item.label}: {mask.shape[1]} x {mask.shape[0]} pixels, but its image "
                f"{item.image} has {image.shape[2]} x {image.shape[1]}"
            )
        meta["mask_path"] = str(item.label)
        return Sample(image, {"mask": tv_tensors.Mask(torch.from_numpy(mask))}, valid, meta)


class FolderSegmentation(SegmentationItems):
    """A folder of images and a folder of masks, paired by relative path without extension.

    Args:
        images: Folder of the images; subfolders are searched.
        masks: Folder of the masks, laid out like the images.
        ids: Which ones: relative paths without extension, or a text file with one a line. Two
            columns in that file are "image mask", relative to ``images`` and ``masks`` (give the
            data root twice for lists in the style of S5). None takes all.
        protocol: How the labels are read; alternatively,
        classes: Class names, for masks that store the indices themselves (255 is ignored).
        gsd_m: Ground sampling distance in metres, if known.

    Raises:
        DataError: If a folder is absent or empty, or an image has no mask.

    Examples:
        >>> FolderSegmentation("tiles/images", "tiles/masks", classes=("ground", "building"))
        ... # doctest: +SKIP
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        ids: Sequence[str] | str | Path | None = None,
        protocol: Protocol | None = None,
        *,
        classes: Sequence[str] | None = None,
        gsd_m: float | None = None,
    ) -> None:
        image_root, mask_root = resolve_root(images), resolve_root(masks)
        if (protocol is None) == (classes is None):
            raise DataError(
                f"{image_root}: say what the labels mean, by either a protocol or class names"
            )
        items = _paired(image_root, mask_root, ids)
        super().__init__(
            items, protocol or Protocol(tuple(classes or ())), {"gsd_m": gsd_m} if gsd_m else {}
        )


class CatalogueSegmentation(SegmentationItems):
    """A split of a segmentation set that the catalogue knows.

    Args:
        name: The set's name; `swath datasets` lists them.
        root: The copy's root; ``~`` and ``$VARIABLES`` are filled in.
        split: A split's name, ``"all"``, or a list file.
        protocol: Name of one of the set's protocols, or one of your own; None takes the one that
            the copy's layout follows.

    Raises:
        DataError: If the name, the split or the protocol is unknown, or the copy has another
            layout.
    """

    def __init__(
        self, name: str, root: str | Path, split: str, protocol: str | Protocol | None = None
    ) -> None:
        from swath.core.data.catalogue import dataset_spec

        spec = dataset_spec(name, task="segmentation")
        layout, items = spec.items(resolve_root(root), split)
        if layout.kind != "mask":
            raise DataError(f"{root}: this copy of {name} holds {layout.kind} labels, not masks")
        meta = {"dataset": name} | ({"gsd_m": spec.gsd_m} if spec.gsd_m else {})
        super().__init__(items, spec.protocol(protocol or layout.protocol), meta)


def read_image_tensor(path: Path) -> tuple[Tensor, Tensor | None]:
    """An image ``(C, H, W)`` and its validity mask ``(H, W)`` or None, as tv_tensors."""
    array, valid = read_array(path)
    image = tv_tensors.Image(torch.from_numpy(array))
    return image, None if valid is None else tv_tensors.Mask(torch.from_numpy(valid))


def _paired(
    image_root: Path, mask_root: Path, ids: Sequence[str] | str | Path | None
) -> list[Item]:
    if isinstance(ids, str | Path):
        rows = read_list(resolve_root(ids))
        if len(rows[0]) == 2:
            return [_listed(image_root, mask_root, row, ids) for row in rows]
        ids = [Path(row[0]).with_suffix("").as_posix() if _has_suffix(row[0]) else row[0]
               for row in rows]  # fmt: skip
    images, masks = find_images(image_root), find_images(mask_root)
    wanted = list(images) if ids is None else list(ids)
    if not wanted:
        raise DataError(f"{image_root}: the list of ids is empty")
    for name in wanted:
        if name not in images:
            raise DataError(f"{image_root}: no image '{name}'{suggest(name, list(images))}")
        if name not in masks:
            raise DataError(f"{images[name]}: no mask of that name under {mask_root}")
    return [Item(name, images[name], masks[name]) for name in wanted]


def _listed(image_root: Path, mask_root: Path, row: tuple[str, ...], where: object) -> Item:
    if len(row) != 2:
        raise DataError(f"{where}: '{row[0]}' has no mask beside it; every line needs both")
    name = Path(row[0]).with_suffix("").as_posix()
    return Item(name, image_root / row[0], mask_root / row[1])


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)
