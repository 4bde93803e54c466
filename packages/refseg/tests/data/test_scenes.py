from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from swath.core.data.scenes import CLASSES
from swath.refseg.data.scenes import SEEN_WORDS, VOCABULARY, SceneSentences
from swath.refseg.text import WordPieces

SHARES = {"object": 0.4, "class": 0.3, "colour": 0.2, "nothing": 0.1}


def test_sentences_of_every_kind_have_masks_that_fit() -> None:
    data = SceneSentences(96, 60, seed=3, shares=SHARES)
    tokenizer = WordPieces(VOCABULARY)
    kinds: Counter[str] = Counter()
    for i in range(len(data)):
        sample = data[i]
        kind, mask = sample.meta["kind"], sample.targets["mask"].numpy()
        kinds[kind] += 1
        assert set(np.unique(mask)) <= {0, 1}
        assert (mask.sum() == 0) == (kind == "nothing")
        pieces = tokenizer.pieces(sample.targets["sentence"])
        assert tokenizer.words["[UNK]"] not in pieces
        assert not any(VOCABULARY[p].startswith("##") for p in pieces)  # no word is spelt
    assert {"nothing", "many of a class", "many of a colour"} < set(kinds)


def test_a_sample_is_a_function_of_its_index() -> None:
    data = SceneSentences(64, 12, seed=1, shares=SHARES, sentences=3)
    first = [data[i] for i in (5, 0, 5)]
    assert first[0].targets["sentence"] == first[2].targets["sentence"]
    np.testing.assert_array_equal(first[0].targets["mask"], first[2].targets["mask"])
    np.testing.assert_array_equal(data[3].image, data[5].image)  # one scene, three sentences


def test_an_epoch_takes_scene_after_scene() -> None:
    order = SceneSentences(64, 10, sentences=3).epoch_order(0, 0)
    assert sorted(order) == list(range(10))
    assert len(set((order[:3] // 3).tolist())) == 1


def test_scenes_without_objects_are_asked_about_their_ground() -> None:
    data = SceneSentences(48, 40, seed=5)  # sentences about objects only, in small scenes
    kinds = Counter(data[i].meta["kind"] for i in range(len(data)))
    assert kinds["many of a class"] > 0
    assert sum(kinds.values()) == 40


def test_scenes_without_objects_may_be_left_out() -> None:
    data = SceneSentences(48, 40, seed=5, empty_scenes=False)
    kinds = {data[i].meta["kind"] for i in range(len(data))}
    assert "many of a class" not in kinds
    assert {"unique", "extreme"} <= kinds
    assert len(data.epoch_order(0, 0)) == 40


def test_a_scene_that_part_of_one_thing_covers_is_asked_about_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = SceneSentences(48, 10, seed=5)
    covered = replace(
        data.scene(0),
        things=(),
        owner=np.zeros(1, np.int32),
        shown=np.zeros((48, 48), np.intp),
        mask=np.full((48, 48), CLASSES.index("building"), np.uint8),
    )
    monkeypatch.setattr(data, "scene", lambda number: covered)
    assert {data[i].meta["kind"] for i in range(10)} == {"nothing"}


def test_words_are_true_where_their_objects_are() -> None:
    data = SceneSentences(96, 30, seed=3, shares=SHARES, words=True)
    agreed = 0
    for i in range(len(data)):
        sample = data[i]
        words = sample.targets["words"].numpy()
        assert sample.meta["words"] == SEEN_WORDS
        assert words.shape == (len(SEEN_WORDS), 96, 96)
        said = sample.targets["sentence"].removesuffix(" in the image").split()
        true = [words[SEEN_WORDS.index(word)] for word in said if word in SEEN_WORDS]
        if sample.meta["kind"] == "many of a colour":  # all words hold where the mask is
            np.testing.assert_array_equal(np.min(true, axis=0), sample.targets["mask"])
            agreed += 1
        elif sample.meta["kind"] != "nothing" and "of" not in said:
            assert (np.min(true, axis=0) >= sample.targets["mask"].numpy()).all()
            agreed += 1
    print(f"{agreed} sentences")
    assert agreed > 15
