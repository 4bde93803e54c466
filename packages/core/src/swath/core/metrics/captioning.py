"""CIDEr: how much captions say what people said."""

import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

Ngrams = Counter[tuple[str, ...]]

LONGEST = 4
"""Longest run of words that is compared."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """A text's words: lower case, punctuation removed, split at blanks.

    This stands in for the tokeniser of the Penn Treebank in Java that the official evaluation
    calls, whose words differ for contractions and numbers with commas only.
    """
    return text.lower().translate(_PUNCTUATION).split()


class CaptionMetrics:
    """CIDEr of captions against several reference captions each.

    ``compute()`` returns ``CIDEr`` (0 to 10; publications and RemoteSAM's script multiply it by
    100), and ``images``.

    Source:
        Vedantam et al. 2015, arXiv:1411.5726, section 4: plain CIDEr, without length penalty or
        clipping; how many images use a phrase is counted among the references that are judged by.
    """

    def __init__(self) -> None:
        self.pairs: list[tuple[str, tuple[str, ...]]] = []

    def reset(self) -> None:
        """Forget everything."""
        self.pairs.clear()

    def update(self, predictions: Sequence[str], batch: Mapping[str, Any]) -> None:
        """Add one batch.

        Args:
            predictions: A caption for each image.
            batch: Holds ``"references"``, for each image a sequence of captions.
        """
        for prediction, references in zip(predictions, batch["references"], strict=True):
            self.pairs.append((prediction, tuple(references)))

    def __add__(self, other: Self) -> Self:
        total = type(self)()
        total.pairs = self.pairs + other.pairs
        return total

    def compute(self) -> dict[str, float]:
        """All figures so far; see the class."""
        scores = self.scores()
        mean = sum(scores) / len(scores) if scores else math.nan
        return {"CIDEr": mean, "images": len(scores)}

    def scores(self) -> list[float]:
        """CIDEr of each image, in order."""
        references = [[ngrams(words(text)) for text in texts] for _, texts in self.pairs]
        used_by: Ngrams = Counter()
        for texts in references:
            used_by.update({phrase for text in texts for phrase in text})
        return [
            _cider(ngrams(words(caption)), texts, used_by, len(self.pairs))
            for (caption, _), texts in zip(self.pairs, references, strict=True)
        ]


def ngrams(tokens: Sequence[str]) -> Ngrams:
    """How often each run of one to `LONGEST` words occurs."""
    return Counter(
        tuple(tokens[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(tokens) - n + 1)
    )


def _cider(caption: Ngrams, references: Sequence[Ngrams], used_by: Ngrams, images: int) -> float:
    """Ten times the cosine of weighted phrase counts, averaged over lengths and references."""
    own = _weighted(caption, used_by, images)
    total = 0.0
    for reference in references:
        other = _weighted(reference, used_by, images)
        for mine, theirs in zip(own, other, strict=True):
            product = sum(weight * theirs.get(phrase, 0.0) for phrase, weight in mine.items())
            norm = math.hypot(*mine.values()) * math.hypot(*theirs.values())
            total += product / norm if norm else 0.0
    return 10 * total / (LONGEST * len(references))


def _weighted(counts: Ngrams, used_by: Ngrams, images: int) -> list[dict[tuple[str, ...], float]]:
    """For each length, phrases with their count times the log of how rare they are."""
    weighted: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
    for phrase, count in counts.items():
        rarity = math.log(images) - math.log(max(1, used_by[phrase]))
        weighted[len(phrase) - 1][phrase] = count * rarity
    return weighted
