"""Training data from shards, and from folders with a list: `ShardDataset`, `UnlabelledFolder`."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from swath.core.data.readers import (
    IMAGE_SUFFIXES,
    LabelReader,
    decode_image,
    decode_labels,
    read_array,
    resolve_root,
)
from swath.core.data.spec import Protocol, read_list
from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample
from swath.pretrain.data import RS4P1M
from swath.pretrain.rs4p.lists import Files, read_names
from swath.pretrain.rs4p.samples import IGNORED
from swath.pretrain.rs4p.shards import (
    INDEX,
    Index,
    join_indexes,
    load_index,
    read_at,
    scan_shards,
)
from swath.pretrain.rs4p.tolerant import Tolerant


@dataclass(frozen=True)
class _Archive:
    """Shards that belong together: of a folder that we prepared, or others'.

    ``protocol`` says what the masks mean, if the folder's manifest does.
    """

    root: Path
    shards: list[Path]
    protocol: Protocol | None = None

    def index(self) -> Index:
        if (self.root / INDEX).is_file():
            return load_index(self.root, self.shards)
        return scan_shards(self.shards)


class ShardDataset(Tolerant):
    """Samples in shards, in any order: every one is read by itself, at the offset it has.

    Of a folder that `swath data prepare rs4p` has written the index is used (mapped into memory: a
    million samples cost no time to open, and all processes share them); other shards in
    WebDataset's convention are scanned once. No shard stays open, so that the data set can be
    forked, pickled and read by threads.

    Several archives are joined: their shards follow one another, and an epoch shuffles them all.

    Args:
        root: A folder with ``.tar`` shards or with such folders below, or one shard; or several.
        labels: Read the stored pseudo-labels too: ``"mask"``, and ``"confidence"`` (uint8, 0 to 255
            for 0 to 1) where it is stored, as `tv_tensors.Mask`.
        min_confidence: With labels: pixels below it, 0 to 1, are ignored in the mask.
        protocol: How stored masks are read, for shards of others; ours bring class names along.
        window: Shards among whose samples an epoch shuffles at a time; see `epoch_order`.
        manifest: Of a single folder, instead of its ``manifest.json``.
        max_broken: Share of the samples that may be broken, as for `UnlabelledFolder`.
        channels: Bands that a grey image is repeated to; 1, as for a model of one band, leaves it.

    Attributes:
        shards: Their paths.
        classes: Class names in index order, empty unless all archives bring them along.
        palette: A colour per class.
        ignore_index: Index of pixels that don't count.

    Raises:
        ConfigError: If ``min_confidence`` is no probability, or ``window`` below 1.
        DataError: If there is no shard, one is truncated (which, and where), or the classes of two
            archives differ.
    """

    def __init__(
        self,
        root: str | Path | Sequence[str | Path],
        *,
        labels: bool = False,
        min_confidence: float = 0.0,
        protocol: Protocol | None = None,
        window: int = 8,
        manifest: Mapping[str, Any] | None = None,
        max_broken: float = 0.0,
        channels: int = 3,
    ) -> None:
        if not 0 <= min_confidence <= 1:
            raise ConfigError(f"min_confidence={min_confidence} must be a probability, 0 to 1")
        if window < 1:
            raise ConfigError(f"window={window} must be a number of shards, 1 or more")
        self._labels, self._min_confidence, self._window = labels, min_confidence, window
        self._channels = channels
        roots = [resolve_root(r) for r in ([root] if isinstance(root, str | Path) else root)]
        where = ", ".join(map(str, roots))
        if manifest is not None:
            self._archives = [_archive(roots[0], manifest)]
        else:
            self._archives = [archive for one in roots for archive in _find_archives(one)]
        if not self._archives:
            raise DataError("root names no archive; give a folder with .tar shards, or several")
        self.shards = [shard for archive in self._archives for shard in archive.shards]
        common = _common_protocol(self._archives)
        protocol = protocol or common
        if labels and protocol is None:
            raise DataError(f"{where}: say what the masks mean, by a protocol")
        self._reader = LabelReader(protocol) if protocol else None
        self.classes = protocol.classes if protocol else ()
        self.palette = protocol.palette if protocol else ()
        self.ignore_index = protocol.ignore_index if protocol else IGNORED
        self._index = self._open()
        self._starts = np.searchsorted(self._index["shard"], np.arange(len(self.shards) + 1))
        super().__init__(where, len(self._index), max_broken)

    def _open(self) -> Index:
        return join_indexes(
            [archive.index() for archive in self._archives],
            [len(archive.shards) for archive in self._archives],
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}  # mapped anew there, instead of copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = self._open()

    @property
    def ids(self) -> Sequence[str]:
        """The samples' keys."""
        return _Texts(self._index["key"])

    def _read(self, place: int) -> Sample:
        row = self._index[place]
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
        if not row["whole"] and stored is not None and (stored == IGNORED).any():
            valid = stored != IGNORED
        targets = self._targets(row, stored, where) if self._labels else {}
        return _sample(image, valid, {"id": key, "path": where}, targets, self._channels)

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


class UnlabelledFolder(Tolerant):
    """Images without labels: a folder, or what a list of it names.

    Lists are those of S4P: an image a line, relative to the root; a second column, the mask of the
    released RS4P-1M, is read with ``labels``. Without, a name may have spaces.

    Args:
        root: The folder.
        list_file: A list; None takes every image below the root.
        labels: Read the masks that the list names, too: ``"mask"``, as `tv_tensors.Mask`.
        protocol: How these are read; default: that of the released ones, see `RS4P1M`.
        max_broken: Share of the images that may be absent or unreadable, or their masks. They are
            named in warnings and the next one takes their place; beyond the share, and with 0 at
            the first, it is an error. What the workers of a loader find is counted together; each
            process of a distributed run counts its own, so that N of them may meet N times the
            share, and a run that resumes begins to count anew.
        channels: Bands that a grey image is repeated to; 1, as for a model of one band, leaves it.

    Attributes:
        missing: Listed images, or their masks, that aren't there. They keep their indices, so that
            a run that resumes finds every other image where it was.

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
        channels: int = 3,
    ) -> None:
        self._root, self._channels = resolve_root(root), channels
        self._reader = LabelReader(protocol or RS4P1M.protocol("s4p"))
        if not self._root.is_dir():
            raise DataError(f"{self._root} isn't a folder; give the one that holds the images")
        rows: Sequence[tuple[str, ...]]
        absent: dict[int, str] = {}
        if list_file is None:
            rows = _find_images(self._root)
        else:
            listing, files = resolve_root(list_file), Files(self._root)
            rows = (
                read_list(listing) if labels else [(name,) for name in read_names(listing, files)]
            )
            absent = _absent(files, rows)
        if labels and any(len(row) < 2 for row in rows):
            raise DataError(
                f"{list_file or root}: not every image has a mask; labels=True needs a list with "
                "the mask in a second column"
            )
        # blocks of memory, which forked workers share; a list of texts is copied by counting
        self._names = np.array([row[0].encode() for row in rows])
        self._masks = np.array([row[1].encode() for row in rows]) if labels else None
        super().__init__(str(self._root), len(rows), max_broken)
        self._absent, self.missing = absent, list(absent.values())
        if absent:
            self._broken[list(absent)] = True
            self._judge()
            warnings.warn(f"{list_file}: {self._told()}; others take their places", stacklevel=2)

    @property
    def ids(self) -> Sequence[str]:
        """Paths relative to the root."""
        return _Texts(self._names)

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
        meta = {"id": name, "path": str(self._root / name)}
        return _sample(image, valid, meta, targets, self._channels)

    def _why(self, place: int) -> str:
        if place in self._absent:  # looking for a name like it takes long among a million
            return f"{self._absent[place]}: no such file"
        return super()._why(place)


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
    image: NDArray[Any],
    valid: NDArray[np.bool_] | None,
    meta: dict[str, Any],
    targets: Any,
    channels: int,
) -> Sample:
    if len(image) == 1:
        image = np.repeat(image, channels, axis=0)
    return Sample(
        tv_tensors.Image(torch.from_numpy(image)),
        targets,
        None if valid is None else tv_tensors.Mask(torch.from_numpy(valid)),
        meta,
    )


def _find_archives(root: Path) -> list[_Archive]:
    """One shard; a folder of ours; or all of these below a folder, and others' shards there."""
    if root.is_file():
        return [_Archive(root, [root])]
    if _is_ours(root):
        return [_archive(root, _manifest(root))]
    shards = _find_shards(root)
    ours = {folder: _is_ours(folder) for folder in dict.fromkeys(s.parent for s in shards)}
    found = [_archive(folder, _manifest(folder)) for folder in ours if ours[folder]]
    others = [shard for shard in shards if not ours[shard.parent]]
    return [*found, _Archive(root, others)] if others else found


def _is_ours(folder: Path) -> bool:
    return (folder / INDEX).is_file() or _manifest(folder) is not None


def _archive(folder: Path, manifest: Mapping[str, Any] | None) -> _Archive:
    if manifest is None:
        return _Archive(folder, _find_shards(folder))
    protocol = Protocol(tuple(manifest["classes"]), tuple(map(tuple, manifest["palette"] or ())))
    return _Archive(folder, [folder / name for name in manifest["shards"]], protocol)


def _common_protocol(archives: Sequence[_Archive]) -> Protocol | None:
    """What all the archives' masks mean; None if one of them doesn't say."""
    known = [(archive.root, archive.protocol) for archive in archives if archive.protocol]
    for root, protocol in known[1:]:
        pairs = zip_longest(known[0][1].classes, protocol.classes)
        for number, (first, other) in enumerate(pairs):
            if first != other:
                raise DataError(
                    f"{known[0][0]} and {root} have other classes: number {number} is "
                    f"{first or 'none'} in one and {other or 'none'} in the other; prepare both "
                    "with the same model and --classes"
                )
    return known[0][1] if len(known) == len(archives) else None


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
    shards = sorted(root.rglob("*.tar"))
    if not shards:
        raise DataError(f"{root}: neither a .tar shard nor a folder that holds any")
    return shards


def _find_images(root: Path) -> list[tuple[str]]:
    """The images below a folder; unlike those that labels belong to, two may share a stem."""
    found = [
        (path.relative_to(root).as_posix(),)
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        raise DataError(f"{root} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _absent(files: Files, rows: Sequence[tuple[str, ...]]) -> dict[int, str]:
    """The places of rows that aren't all there, and the first name that isn't."""
    found = ((i, next((n for n in row if n not in files), None)) for i, row in enumerate(rows))
    return {i: name for i, name in found if name is not None}
