import math

import pytest

from swath.core.metrics.captioning import CaptionMetrics, ngrams, words


def test_words_are_lower_case_without_punctuation() -> None:
    assert words("A tennis-court, near the Road.") == ["a", "tenniscourt", "near", "the", "road"]


def test_phrases_of_up_to_four_words() -> None:
    counts = ngrams(["a", "b", "a", "b", "a"])
    assert counts[("a",)] == 3
    assert counts[("a", "b")] == 2
    assert counts[("a", "b", "a", "b")] == 1
    assert max(map(len, counts)) == 4


def test_a_hand_computed_score() -> None:
    """Two images, one reference each; of the first, one of two words is in the reference."""
    metrics = CaptionMetrics()
    metrics.update(["red roof", "blue sea"], {"references": [["red barn"], ["blue sea"]]})
    # all phrases of the references are in one of two images, those of no reference too (at least 1)
    first = 10 * (1 / 2 + 0 + 0 + 0) / 4
    second = 10 * (1 + 1 + 0 + 0) / 4
    assert metrics.scores() == pytest.approx([first, second])
    assert metrics.compute()["CIDEr"] == pytest.approx((first + second) / 2)


def test_what_everybody_says_counts_nothing() -> None:
    metrics = CaptionMetrics()
    metrics.update(["a ship", "a ship"], {"references": [["a ship"], ["a ship"]]})
    assert metrics.scores() == [0, 0]


def test_accumulators_add_up() -> None:
    parts = [CaptionMetrics(), CaptionMetrics()]
    assert math.isnan(parts[0].compute()["CIDEr"])
    parts[0].update(["red roof"], {"references": [["red barn"]]})
    parts[1].update(["blue sea"], {"references": [["blue sea"]]})
    assert (parts[0] + parts[1]).scores() == pytest.approx([1.25, 5])
    parts[0].reset()
    assert parts[0].compute()["images"] == 0
