"""From sentences to word pieces, as BERT was trained; nothing is fetched unless it is asked for."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from swath.core.checkpoint.fetch import locate
from swath.core.errors import ConfigError, SwathError
from swath.core.spec import Spec

BERT = "hf://google-bert/bert-base-uncased/vocab.txt"
"""Where the published model's vocabulary is; ``$SWATH_BERT_VOCAB`` replaces it by a local copy."""

MAX_TOKENS = 20
"""Word pieces of a sentence in RemoteSAM, the two marks at its ends included."""

PROMPT = "{} in the image"
"""What a class name is asked as; nothing is changed in the name."""

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


@dataclass(frozen=True, eq=False)
class WordPieces:
    """Lower-cases sentences and splits them into word pieces, as many as the model reads.

    Attributes:
        vocabulary: The word pieces in index order; or where their file is, one a line: a file, a
            folder that holds ``vocab.txt``, or an address (see `swath.core.checkpoint.fetch`). It
            is read when the first sentence is.
        max_tokens: Longer sentences are cut, as in training: they lose their end mark too.

    Source:
        Dossier 1.7.
    """

    vocabulary: Sequence[str] | str = BERT
    max_tokens: int = MAX_TOKENS

    @staticmethod
    def inlined(spec: Spec) -> Spec:
        """The spec of one that brings its word pieces along; checkpoints are saved with it."""
        made = spec.build()
        return Spec(WordPieces, vocabulary=made.listed, max_tokens=made.max_tokens)

    @cached_property
    def listed(self) -> list[str]:
        """The word pieces in index order.

        Raises:
            ConfigError: If they can't be had.
        """
        given = self.vocabulary
        return _read_vocabulary(given) if isinstance(given, str) else list(given)

    @cached_property
    def words(self) -> dict[str, int]:
        """Index of each word piece.

        Raises:
            ConfigError: If the vocabulary can't be had, or lacks one of the four marks.
        """
        indices = {word: i for i, word in enumerate(self.listed)}
        missing = [mark for mark in (PAD, UNKNOWN, START, END) if mark not in indices]
        if missing:
            raise ConfigError(
                f"the vocabulary lacks {', '.join(missing)}; give that of a BERT model (vocab.txt)"
            )
        return indices

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer(models.WordPiece(self.words, unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    def pieces(self, sentence: str) -> list[int]:
        """Indices of all word pieces of a sentence with the marks at its ends; nothing is cut."""
        encoding = self._tokenizer.encode(sentence, add_special_tokens=False)
        return [self.words[START], *encoding.ids, self.words[END]]

    def spoken(self, sentence: str) -> list[str]:
        """For each of `pieces` the whole word that it belongs to; empty for the marks."""
        encoding = self._tokenizer.encode(sentence, add_special_tokens=False)
        normal = self._tokenizer.normalizer.normalize_str(sentence)
        words = [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
        return ["", *(words[i] for i in encoding.word_ids if i is not None), ""]

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word pieces and mask, int64 ``(B, max_tokens)`` each: 1 for word pieces, 0 for padding.

        Raises:
            ConfigError: If a sentence is empty.
        """
        ids = torch.full((len(sentences), self.max_tokens), self.words[PAD])
        mask = torch.zeros_like(ids)
        for row, sentence in enumerate(sentences):
            if not sentence.strip():
                raise ConfigError("the sentence is empty; say what to look for")
            pieces = self.pieces(sentence)[: self.max_tokens]
            ids[row, : len(pieces)] = torch.tensor(pieces)
            mask[row, : len(pieces)] = 1
        return ids, mask

    def warn(self, sentences: Sequence[str]) -> None:
        """Warn of sentences that are cut, and of words that the model doesn't know."""
        for sentence in sentences:
            pieces = self.pieces(sentence)
            if len(pieces) > self.max_tokens:
                warnings.warn(
                    f"'{sentence[:60]}...' has {len(pieces)} word pieces; the model was trained on "
                    f"{self.max_tokens} and reads no more",
                    stacklevel=3,
                )
            if unknown := self._unknown(sentence):
                warnings.warn(
                    f"'{sentence[:60]}': the vocabulary has no pieces for {', '.join(unknown)}; "
                    "say it in words that the model was trained on",
                    stacklevel=3,
                )

    def _unknown(self, sentence: str) -> list[str]:
        """Words that no piece but letters stands for."""
        longest: dict[str, int] = {}
        for word, index in zip(self.spoken(sentence), self.pieces(sentence), strict=True):
            piece = self.listed[index].removeprefix("##")
            longest[word] = max(longest.get(word, 0), 0 if piece == UNKNOWN else len(piece))
        return [word for word, length in longest.items() if length < min(len(word), 2)]


def _read_vocabulary(place: str) -> list[str]:
    wanted = os.environ.get("SWATH_BERT_VOCAB", BERT) if place == BERT else place
    try:
        path = locate(wanted)
        path = path / "vocab.txt" if path.is_dir() else path
        return path.read_text(encoding="utf-8").splitlines()
    except (SwathError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{wanted}: the vocabulary can't be had ({error}); fetch vocab.txt of "
            "google-bert/bert-base-uncased from the Hugging Face Hub and name the file or its "
            "folder in SWATH_BERT_VOCAB (a file that swath convert wrote brings it along)"
        ) from error
