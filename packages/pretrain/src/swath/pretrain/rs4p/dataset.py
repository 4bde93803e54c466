"""Training data from shards, and from folders with a list: `ShardDataset`, `UnlabelledFolder`."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from swath.core.data.readers import (
    LabelReader,
    decode_image,
    decode_labels,
    find_images,
    read_array,
    resolve_root,
)
from swath.core.data.spec import Protocol, read_list
from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample
from swath.pretrain.data import RS4P1M
from swath.pretrain.rs4p.shards import (
    INDEX,
    Index,
    load_index,
    read_at,
    scan_shards,
)

_NAMED = 5


class ShardDataset:
    """Samples in shards, in any order: every one is read by itself, at the offset it has.

    Of a folder that `swath data prepare rs4p` has written the index is used (mapped into memory: a
    million samples cost no time to open, and all processes share them); other shards in
    WebDataset's convention are scanned once. No file stays open, so that the data set can be
    forked, pickled and read by threads.

    Args:
        root: A folder with ``.tar`` shards, or one shard.
        labels: Read the stored pseudo-labels too: ``"mask"``, and ``"confidence"`` (uint8, 0 to 255
            for 0 to 1) where it is stored, as `tv_tensors.Mask`.
        min_confidence: With labels: pixels below it, 0 to 1, are ignored in the mask.
        protocol: How stored masks are read, for shards of others; ours bring class names along.
        window: Shards among whose samples an epoch shuffles at a time; see `epoch_order`.
        manifest: Instead of the ``manifest.json`` of the folder.

    Attributes:
        shards: Their paths.
        classes: Class names in index order, empty if nobody knows them.
        palette: A colour per class.
        ignore_index: Index of pixels that don't count.

    Raises:
        ConfigError: If ``min_confidence`` is no probability, or ``window`` below 1.
        DataError: If there is no shard, or one is truncated: which, and where.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labels: bool = False,
        min_confidence: float = 0.0,
        protocol: Protocol | None = None,
        window: int = 8,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        self._root = resolve_root(root)
        if not 0 <= min_confidence <= 1:
            raise ConfigError(f"min_confidence={min_confidence} must be a probability, 0 to 1")
        if window < 1:
            raise ConfigError(f"window={window} must be a number of shards, 1 or more")
        self._labels, self._min_confidence, self._window = labels, min_confidence, window
        manifest = _manifest(self._root) if manifest is None else manifest
        if manifest is not None:
            self.shards = [self._root / name for name in manifest["shards"]]
            protocol = protocol or Protocol(
                tuple(manifest["classes"]), tuple(map(tuple, manifest["palette"] or ()))
            )
        else:
            self.shards = _find_shards(self._root)
        if labels and protocol is None:
            raise DataError(f"{self._root}: say what the masks mean, by a protocol")
        self._reader = LabelReader(protocol) if protocol else None
        self.classes = protocol.classes if protocol else ()
        self.palette = protocol.palette if protocol else ()
        self.ignore_index = protocol.ignore_index if protocol else 255
        self._index = self._open()
        self._starts = np.searchsorted(self._index["shard"], np.arange(len(self.shards) + 1))

    def _open(self) -> Index:
        if (self._root / INDEX).is_file():
            return load_index(self._root, self.shards)
        return scan_shards(self.shards)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}  # mapped anew there, instead of copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = self._open()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def ids(self) -> Sequence[str]:
        """The samples' keys."""
        return _Texts(self._index["key"])

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Returns:
            The image, ``(3, H, W)`` for grey ones too, and with ``labels`` its targets; ``valid``
            where the shards say that some pixels hold no data.

        Raises:
            DataError: If it can't be decoded, or a label is out of range: the shard and the key.
        """
        row = self._index[index]
        shard = self.shards[int(row["shard"])]
        key = row["key"].decode()
        where = f"{shard}/{key}"
        image, valid = decode_image(self._part(row, "image"), where)
        mask = self._part(row, "mask") if self._labels or not row["whole"] else b""
        stored = decode_labels(mask, f"{where}.mask.png") if mask else None
        if stored is not None and stored.shape != image.shape[1:]:
            raise DataError(
                f"{where}: the mask has {stored.shape[1]} x {stored.shape[0]} pixels, the image "
                f"{image.shape[2]} x {image.shape[1]}; make the shard again"
            )
        if not row["whole"] and stored is not None:
            valid = stored != self.ignore_index
        targets = self._targets(row, stored, where) if self._labels else {}
        return _sample(image, valid, {"id": key, "path": where}, targets)

    def about(self, index: int) -> dict[str, Any]:
        """What is known of where a sample came from: the content of its JSON member."""
        content = self._part(self._index[index], "json")
        known: dict[str, Any] = json.loads(content) if content else {}
        return known

    def epoch_order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch: a few shards at a time, so that reading stays in their reach.

        Shards are permuted; the samples of ``window`` consecutive ones are permuted together.

        Returns:
            Every index once, ``(N,)``; it depends on the arguments alone, so that a resumed run
            goes on in the middle of a shard.
        """
        random = np.random.default_rng((seed, epoch))
        place = np.empty(len(self.shards), np.int64)
        place[random.permutation(len(self.shards))] = np.arange(len(self.shards))
        turn = place[self._index["shard"]] // self._window
        return np.lexsort((random.random(len(self)), turn))

    def neighbours(self, index: int) -> range:
        """The samples of the same shard, itself included, which an epoch reads about then."""
        shard = int(self._index["shard"][index])
        return range(int(self._starts[shard]), int(self._starts[shard + 1]))

    def _part(self, row: Any, part: str) -> bytes:
        size = int(row[f"{part}_size"])
        if not size:
            return b""
        return read_at(self.shards[int(row["shard"])], int(row[f"{part}_at"]), size)

    def _targets(
        self, row: Any, stored: NDArray[Any] | None, where: str
    ) -> dict[str, tv_tensors.Mask]:
        if stored is None or self._reader is None:
            raise DataError(f"{where}: no mask is stored with it; read the shards without labels")
        mask = self._reader.apply(stored, where=f"{where}.mask.png")
        confidence = self._part(row, "confidence")
        if not confidence:
            return {"mask": tv_tensors.Mask(torch.from_numpy(mask))}
        sure = decode_labels(confidence, f"{where}.conf.png")
        if self._min_confidence:
            doubtful = np.less(sure, self._min_confidence * 255 - 1e-6)
            mask = np.where(doubtful, np.array(self.ignore_index, mask.dtype), mask)
        return {
            "mask": tv_tensors.Mask(torch.from_numpy(mask)),
            "confidence": tv_tensors.Mask(torch.from_numpy(sure)),
        }


class UnlabelledFolder:
    """Images without labels: a folder, or what a list of it names.

    Lists are those of S4P: an image a line, relative to the root; a second column, the mask of the
    released RS4P-1M, is read with ``labels``.

    Args:
        root: The folder.
        list_file: A list; None takes every image below the root.
        labels: Read the masks that the list names, too: ``"mask"``, as `tv_tensors.Mask`.
        protocol: How these are read; default: that of the released ones, see `RS4P1M`.
        max_broken: Share of the images that may be absent or unreadable, or their masks. They are
            named in warnings and the next one takes their place; beyond the share, and with 0 at
            the first, it is an error. What the workers of a loader find is counted together.

    Attributes:
        missing: Listed images, or their masks, that aren't there.

    Raises:
        DataError: If the folder, the list, its masks, or more than that share of the images is
            absent: the first ones, and how many.
    """

    def __init__(
        self,
        root: str | Path,
        list_file: str | Path | None = None,
        *,
        labels: bool = False,
        protocol: Protocol | None = None,
        max_broken: float = 0.0,
    ) -> None:
        self._root, self._max_broken = resolve_root(root), max_broken
        self._reader = LabelReader(protocol or RS4P1M.protocol("s4p"))
        rows: Sequence[tuple[str, ...]]
        if list_file is None:
            found = find_images(self._root).values()
            rows = [(path.relative_to(self._root).as_posix(),) for path in found]
            missing: list[str] = []
        else:
            listed = [columns[: 1 + labels] for columns in read_list(resolve_root(list_file))]
            rows, missing = _split_by_presence(self._root, listed)
        if labels and any(len(row) < 2 for row in rows):
            raise DataError(
                f"{list_file or root}: not every image has a mask; labels=True needs a list with "
                "the mask in a second column"
            )
        self.missing = missing
        # blocks of memory, which forked workers share; a list of texts is copied by counting
        self._names = np.array([row[0].encode() for row in rows])
        self._masks = np.array([row[1].encode() for row in rows]) if labels else None
        # one flag an image, and not none, which can't be shared; set by any worker of a loader
        self._broken = torch.zeros(max(len(rows), 1), dtype=torch.bool).share_memory_()
        if missing:
            self._judge()
            warnings.warn(f"{list_file}: {self._told()}; they are left out", stacklevel=2)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def ids(self) -> Sequence[str]:
        """Paths relative to the root."""
        return _Texts(self._names)

    def __getitem__(self, index: int) -> Sample:
        """Read one image; of a broken one, the next that isn't.

        Raises:
            DataError: If more than ``max_broken`` of the images are broken.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        for step in range(len(self)):
            place = (index + step) % len(self)
            try:
                return self._read(place)
            except DataError as error:
                if not self._broken[place]:
                    self._broken[place] = True
                    self._judge()
                    warnings.warn(f"{error}; the next image takes its place", stacklevel=2)
        raise DataError(f"{self._root}: none of the images can be read: {self._told()}")

    def remarks(self) -> list[str]:
        """What there is to say when training is over: which images couldn't be read."""
        return [f"{self._told()}; others took their places"] if self._number_broken() else []

    def _read(self, place: int) -> Sample:
        name = self._names[place].decode()
        image, valid = read_array(self._root / name)
        targets = {}
        if self._masks is not None:
            mask = self._reader(self._root / self._masks[place].decode())
            if mask.shape != image.shape[1:]:
                raise DataError(
                    f"{self._root / name}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, "
                    f"the image {image.shape[2]} x {image.shape[1]}"
                )
            targets["mask"] = tv_tensors.Mask(torch.from_numpy(mask))
        return _sample(image, valid, {"id": name, "path": str(self._root / name)}, targets)

    def _number_broken(self) -> int:
        return len(self.missing) + int(self._broken.sum())

    def _judge(self) -> None:
        if self._number_broken() > self._max_broken * (len(self) + len(self.missing)):
            raise DataError(
                f"{self._told()}, more than max_broken={self._max_broken:g} allows; mend or "
                "remove them, or raise max_broken to leave them out"
            )

    def _told(self) -> str:
        first = [f"{name}: no such file" for name in self.missing[:_NAMED]]
        first += [self._why(place) for place in self._broken.nonzero()[:_NAMED, 0].tolist()]
        more = self._number_broken() - _NAMED
        rest = f"; and {more} more" if more > 0 else ""
        return (
            f"{self._root}: {self._number_broken()} of {len(self) + len(self.missing)} images "
            f"can't be read ({'; '.join(first[:_NAMED])}{rest})"
        )

    def _why(self, place: int) -> str:
        """Found out anew: another process may have found it first."""
        try:
            self._read(place)
        except DataError as error:
            return str(error)
        return f"{self._names[place].decode()}: mended since"


class _Texts(Sequence[str]):
    """An array of bytes as a sequence of texts, decoded one by one."""

    def __init__(self, encoded: NDArray[np.bytes_]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return _Texts(self._encoded[index])
        return str(self._encoded[index].decode())


def _sample(
    image: NDArray[Any], valid: NDArray[np.bool_] | None, meta: dict[str, Any], targets: Any
) -> Sample:
    if len(image) == 1:
        image = np.repeat(image, 3, axis=0)
    return Sample(
        tv_tensors.Image(torch.from_numpy(image)),
        targets,
        None if valid is None else tv_tensors.Mask(torch.from_numpy(valid)),
        meta,
    )


def _manifest(root: Path) -> dict[str, Any] | None:
    """What `swath data prepare rs4p` says of a folder's shards; None if others made them."""
    try:
        content = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(content, dict) and content.keys() >= {"shards", "classes", "palette"}:
        return content
    return None


def _find_shards(root: Path) -> list[Path]:
    shards = [root] if root.is_file() else sorted(root.rglob("*.tar"))
    if not shards:
        raise DataError(f"{root}: neither a .tar shard nor a folder that holds any")
    return shards


def _split_by_presence(
    root: Path, rows: Sequence[tuple[str, ...]]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Rows whose files are there, and the first names of the others.

    Folders are listed once, instead of asking for every file.
    """
    if not root.is_dir():
        raise DataError(f"{root} isn't a folder; the images of the list are expected there")
    folders: dict[str, set[str]] = {}

    def is_there(name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in folders:
            place = root / folder
            folders[folder] = set(os.listdir(place)) if place.is_dir() else set()
        return file in folders[folder]

    there: list[tuple[str, ...]] = []
    missing: list[str] = []
    for row in rows:
        absent = [name for name in row if not is_there(name)]
        if absent:
            missing.append(absent[0])
        else:
            there.append(row)
    return there, missing
