"""Referring segmentation as a task: a sentence about an image, and the mask of what it means.

Paper: RemoteSAM, Yao et al. 2025, arXiv:2505.18022. Official code:
https://github.com/1e12Leon/RemoteSAM; dossier sections 2 and 4. The tasks that need no training of
their own are in `swath.refseg.asks`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError, DataError
from swath.core.metrics.referring import ReferringMetrics
from swath.core.sample import Sample
from swath.core.task import Batch, Task
from swath.refseg.losses import referring_losses, word_loss
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.preprocess import fitted, resized_mask
from swath.refseg.text import WordPieces


class ReferringTask(Task):
    """Train and judge a `RemoteSAM`; each sample is an image, a sentence and a mask.

    Samples have ``targets["sentence"]``, and ``targets["mask"]``, 1 where it means and 0 elsewhere.
    Image and mask are resized independently of each other to a square, as officially: sets exist
    whose images and masks differ by a few pixels. An image that follows on itself, with another
    sentence, is looked at once for all of them.

    A small model learns from few images what words mean if it is told where each is true, which
    samples may say: ``targets["words"]`` ``(K, H, W)``, 1 where a word is true, and
    ``meta["words"]``, which words these are, the same for all samples. With ``word_weight``, places
    learn to name them (see `swath.refseg.losses.word_loss`); in the share ``words_first`` of a
    run's steps nothing else is learnt, from lists of words instead of the sentences, at a fraction
    of a step's cost. Ours, not RemoteSAM's, and off by default.

    Args:
        tokenizer: Turns sentences into word pieces; default: BERT's vocabulary.
        input_size: Side of the square, px.
        radiometry: How sensor numbers become model input; default 8-bit RGB with ImageNet's
            statistics.
        dice_weight: Weight of the Dice loss; the cross-entropy has the rest to 1.
        dice_reduction: See `swath.refseg.losses.dice`.
        object_weight: Weight of object pixels in the cross-entropy, of 2.
        protocol: See `ReferringMetrics`.
        word_weight: Weight of the word loss; 0 needs no ``"words"``.
        words_first: Share of the steps that are spent on words alone, 0..1.

    Attributes:
        classes: ``("background", "object")``.
    """

    kind = "referring segmentation"
    score = "oIoU"
    classes = ("background", "object")
    predictor = "swath.refseg.predictor:RemoteSAMPredictor"
    asked_with = ("--task", "referring_seg", "--text", "the largest building")

    def __init__(
        self,
        tokenizer: WordPieces | None = None,
        input_size: int = 896,
        radiometry: Radiometry | None = None,
        dice_weight: float = 0.1,
        dice_reduction: Literal["sum", "mean"] = "sum",
        object_weight: float = 1.1,
        protocol: Literal["swath", "official"] = "swath",
        word_weight: float = 0.0,
        words_first: float = 0.0,
    ) -> None:
        self.tokenizer = tokenizer or WordPieces()
        self.input_size = input_size
        self.radiometry = radiometry if radiometry is not None else Radiometry.rgb8()
        self.dice_weight, self.object_weight = dice_weight, object_weight
        self.dice_reduction: Literal["sum", "mean"] = dice_reduction
        self.protocol: Literal["swath", "official"] = protocol
        self.word_weight, self.words_first = word_weight, words_first

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Resize and stack.

        Returns:
            ``"image"`` float32 ``(D, 3, S, S)``, each image once; ``"image_of"`` int64 ``(B,)``,
            which of them each sentence is about; ``"input_ids"`` and ``"attention_mask"``, int64
            ``(B, N)``; ``"mask"`` int64 ``(B, S, S)`` if the samples have masks; ``"sentences"``;
            ``"meta"``; with ``word_weight``, ``"words"`` float32 ``(D, K, S / 4, S / 4)``, what
            share of each place every word is true of, if the samples say so.

        Raises:
            DataError: If a sample has no sentence, dtype or band count don't fit, or a mask holds
                something else than 0 and 1.
        """
        for sample in samples:
            if "sentence" not in sample.targets:
                raise DataError(f"{_where(sample)}: has no sentence; use a referring data set")
        sentences = [str(sample.targets["sentence"]) for sample in samples]
        ids, present = self.tokenizer(sentences)
        distinct, image_of = _distinct(samples)
        batch: Batch = {
            "image": torch.stack([self.image(sample) for sample in distinct]),
            "image_of": image_of,
            "input_ids": ids,
            "attention_mask": present,
            "sentences": sentences,
            "meta": [sample.meta for sample in samples],
        }
        if all("mask" in sample.targets for sample in samples):
            batch["mask"] = torch.stack([self._mask(sample) for sample in samples])
        if self.word_weight and all("words" in sample.targets for sample in samples):
            masks = torch.stack([s.targets["words"].as_subclass(Tensor) for s in distinct])
            batch["words"] = F.adaptive_avg_pool2d(masks.float(), self.input_size // 4)
        return batch

    def image(self, sample: Sample) -> Tensor:
        """A sample's image as the network takes it, float32 ``(3, S, S)``."""
        raw = sample.image.as_subclass(Tensor)
        dtype = str(raw.dtype).removeprefix("torch.")
        self.radiometry.check(dtype, raw.shape[0], where=_where(sample))
        return self.radiometry(fitted(raw, self.input_size, "resize"))

    def _mask(self, sample: Sample) -> Tensor:
        mask = sample.targets["mask"].as_subclass(Tensor).long()
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise DataError(f"{_where(sample)}: its mask holds other values than 0 and 1")
        return resized_mask(mask, (self.input_size, self.input_size))

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``"ce"`` and ``"dice"``, weighted, see `referring_losses`; ``"words"``, see the class.

        Raises:
            DataError: If words are to be learnt, but the samples don't say where they are true.
        """
        if self.word_weight:
            return self._losses_with_words(model, batch)
        ids, mask, image_of = (batch[k] for k in ("input_ids", "attention_mask", "image_of"))
        return self._mask_losses(model(batch["image"], ids, mask, image_of), batch)

    def _mask_losses(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        return referring_losses(
            logits.float(),
            batch["mask"],
            self.dice_weight,
            self.dice_reduction,
            self.object_weight,
        )

    def _losses_with_words(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        if "words" not in batch:
            raise DataError("the samples don't say where words are true: set task.word_weight=0")
        image, sentences, image_of = batch["image"], batch["sentences"], batch["image_of"]
        ids, mask = batch["input_ids"], batch["attention_mask"]
        words_alone = batch.get("progress", 1.0) < self.words_first
        if words_alone:
            sentences = [self._word_list(batch) for _ in image]
            image_of = torch.arange(len(image), device=image.device)
            ids, mask = (x.to(image.device) for x in self.tokenizer(sentences))
        words = model.encode_text(ids, mask)
        seen, outputs = model.backbone.fuse(model.look(image).of(image_of), words, mask)
        naming = model.backbone.naming(seen, words, mask)
        loss = self.word_weight * word_loss(naming, self._shares(batch, sentences, image_of))
        if words_alone:
            return {"words": loss}
        logits = model.segment(outputs, image.shape[-2:])
        return {**self._mask_losses(logits, batch), "words": loss}

    def _word_list(self, batch: Batch) -> str:
        """As many random words as a sentence holds, of those that samples speak of."""
        names = batch["meta"][0]["words"]
        chosen = torch.randperm(len(names))[: self.tokenizer.max_tokens - 2]
        return " ".join(names[i] for i in chosen.tolist())

    def _shares(self, batch: Batch, sentences: Sequence[str], image_of: Tensor) -> Tensor:
        """What share of each place each word piece is true of, ``(B, N, S / 4, S / 4)``."""
        number = {name: i for i, name in enumerate(batch["meta"][0]["words"])}
        rows = torch.full((len(sentences), self.tokenizer.max_tokens), len(number))
        for row, sentence in zip(rows, sentences, strict=True):
            said = self.tokenizer.spoken(sentence)[: len(row)]
            row[: len(said)] = torch.tensor([number.get(word, len(number)) for word in said])
        words = F.pad(batch["words"], (0, 0, 0, 0, 0, 1))  # one more, true of nothing
        return words[image_of[:, None], rows.to(words.device)]

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Masks ``(S, S)``, bool, of each sentence."""
        ids, mask, image_of = (batch[k] for k in ("input_ids", "attention_mask", "image_of"))
        logits = model(batch["image"], ids, mask, image_of)
        return list(logits[:, 1] > logits[:, 0])

    def select(self, model: nn.Module, name: str) -> tuple[nn.Module, Task]:
        """The model, and one of the eight tasks; see `swath.refseg.asks.TASKS`.

        Raises:
            ConfigError: If there is no such task, or the model isn't a `RemoteSAM`.
        """
        from swath.refseg.asks import ask

        if not isinstance(model, RemoteSAM):
            raise ConfigError(f"this task asks a RemoteSAM, not a {type(model).__name__}")
        return model, ask(name, self)

    def merge(self, tiles: Iterable[Any], scene: Any) -> Any:
        """Not before one of the eight tasks was chosen.

        Raises:
            ConfigError: Always.
        """
        from swath.refseg.asks import unchosen

        raise unchosen()

    def metrics(self) -> ReferringMetrics:
        """A fresh `ReferringMetrics`."""
        return ReferringMetrics(self.protocol)


def _where(sample: Sample) -> str:
    return str(sample.meta.get("path") or sample.meta.get("id") or "sample")


def _distinct(samples: Sequence[Sample]) -> tuple[list[Sample], Tensor]:
    """The first sample of each image, and which of these each sample has the image of."""
    distinct: list[Sample] = []
    image_of = []
    for sample in samples:
        if not distinct or not _same(sample.image, distinct[-1].image):
            distinct.append(sample)
        image_of.append(len(distinct) - 1)
    return distinct, torch.tensor(image_of)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.as_subclass(Tensor), b.as_subclass(Tensor))
