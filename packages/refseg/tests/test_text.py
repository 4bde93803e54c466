"""Where the vocabulary comes from; what is made of sentences is compared in test_parity."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from swath.core.errors import ConfigError
from swath.refseg.data.scenes import VOCABULARY
from swath.refseg.text import WordPieces


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is fetched, and the Hub's cache is an empty folder of the test's own."""
    monkeypatch.setenv("SWATH_OFFLINE", "1")
    monkeypatch.delenv("SWATH_BERT_VOCAB", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # else it asks which agents there are
    return tmp_path


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(VOCABULARY))
    return path


@pytest.mark.parametrize("name", ["bert/vocab.txt", "bert"])
def test_a_file_or_its_folder_may_be_named(
    offline: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(offline / "bert/vocab.txt")
    assert WordPieces(str(offline / name)).listed == list(VOCABULARY)
    monkeypatch.setenv("SWATH_BERT_VOCAB", str(offline / name))
    assert WordPieces().listed == list(VOCABULARY)


def test_what_the_hub_has_cached_needs_no_network(offline: Path) -> None:
    repository = offline / "hub/models--google-bert--bert-base-uncased"
    write(repository / "snapshots/some-revision/vocab.txt")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("some-revision")
    assert WordPieces().listed == list(VOCABULARY)


def test_a_missing_vocabulary_is_one_line_that_says_what_to_fetch(offline: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        WordPieces()(["the ship"])
    message = str(caught.value)
    assert "\n" not in message
    assert "fetch vocab.txt of google-bert/bert-base-uncased" in message
    assert "SWATH_BERT_VOCAB" in message
    with pytest.raises(ConfigError, match=r"nowhere.*can't be had"):
        WordPieces(str(offline / "nowhere"))(["the ship"])


def test_a_vocabulary_without_marks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lacks \[PAD\], \[UNK\]"):
        WordPieces(["ship", "[CLS]", "[SEP]"])(["the ship"])


def test_an_empty_sentence_is_refused() -> None:
    with pytest.raises(ConfigError, match="the sentence is empty"):
        WordPieces(VOCABULARY)([" "])


@pytest.mark.parametrize(
    ("sentence", "unknown"),
    [
        ("the red ships at a road", []),
        ("the giraffe left of a pier", ["giraffe", "pier"]),
        ("ship 12 or ÄÖ", ["12", "or", "ao"]),
    ],
)
def test_words_that_are_only_spelt_by_letters_are_named(
    sentence: str, unknown: list[str], recwarn: pytest.WarningsRecorder
) -> None:
    WordPieces(VOCABULARY).warn([sentence])
    said = [str(warning.message) for warning in recwarn]
    names = f"no pieces for {', '.join(unknown)};"
    assert [names in line for line in said] == [True] * bool(unknown)
