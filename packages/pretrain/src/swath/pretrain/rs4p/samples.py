"""A labelled tile as a sample of a shard.

Imports no torch: workers encode.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from swath.pretrain.rs4p.shards import tar_members
from swath.pretrain.rs4p.sources import Place

IGNORED = 255
"""Stored in masks where there is no data."""


@dataclass(frozen=True)
class Labelled:
    """A tile with its pseudo-labels.

    Attributes:
        number: Of the tile.
        place: Where it is.
        image: The image file.
        suffix: Of the image file.
        meta: Where it came from.
        mask: ``(h, w)`` uint8 classes, `IGNORED` without data.
        confidence: ``(h, w)`` uint8, 0 without data.
        num_classes: How many there are.
    """

    number: int
    place: Place
    image: bytes
    suffix: str
    meta: dict[str, Any]
    mask: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    num_classes: int


@dataclass(frozen=True)
class Piece:
    """A sample as it is written.

    Attributes:
        number: Of the tile.
        key: Of the sample: 16 hex digits that follow from the tile's name. Sorted by them, tiles
            are shuffled.
        whole: Whether every pixel holds data.
        counts: Pixels of each class, ``(K,)``.
        content: A piece of a tar file.
        spans: Offset and size in it of each of `PARTS`.
    """

    number: int
    key: bytes
    whole: bool
    counts: NDArray[np.int64]
    content: bytes
    spans: list[tuple[int, int]]


def encode(item: Labelled) -> Piece:
    """Encode masks and confidence, and put all that belongs to a sample together."""
    counts = np.bincount(item.mask.ravel(), minlength=IGNORED + 1)
    whole = not counts[IGNORED]
    about = item.meta | {
        "classes": {str(c): int(n) for c, n in enumerate(counts[:IGNORED]) if n},
        "confidence": round(float(item.confidence[item.mask != IGNORED].mean()) / 255, 4),
    }
    key = hashlib.blake2b(item.place.name.encode(), digest_size=8).hexdigest()
    content, spans = tar_members(
        [
            (f"{key}.{item.suffix}", item.image),
            (f"{key}.mask.png", _png(item.mask)),
            (f"{key}.conf.png", _png(item.confidence)),
            (f"{key}.json", json.dumps(about).encode()),
        ]
    )
    return Piece(item.number, key.encode(), whole, counts[: item.num_classes], content, spans)


def _png(array: NDArray[np.uint8]) -> bytes:
    _, encoded = cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    return bytes(encoded)
