"""Referring segmentation as a task: a sentence about an image, and the mask of what it means.

Paper: RemoteSAM, Yao et al. 2025, arXiv:2505.18022. Official code:
https://github.com/1e12Leon/RemoteSAM; dossier sections 2 and 4. The tasks that need no training of
their own are in `swath.refseg.asks`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError, DataError
from swath.core.metrics.referring import ReferringMetrics
from swath.core.sample import Sample
from swath.core.task import Batch, Task
from swath.refseg.losses import referring_losses
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.preprocess import fitted, resized_mask
from swath.refseg.text import WordPieces


class ReferringTask(Task):
    """Train and judge a `RemoteSAM`; each sample is an image, a sentence and a mask.

    Samples have ``targets["sentence"]``, and ``targets["mask"]``, 1 where it means and 0 elsewhere.
    Image and mask are resized independently of each other to a square, as officially: sets exist
    whose images and masks differ by a few pixels.

    Args:
        tokenizer: Turns sentences into word pieces; default: BERT's vocabulary.
        input_size: Side of the square, px.
        radiometry: How sensor numbers become model input; default 8-bit RGB with ImageNet's
            statistics.
        dice_weight: Weight of the Dice loss; the cross-entropy has the rest to 1.
        dice_reduction: See `swath.refseg.losses.dice`.
        object_weight: Weight of object pixels in the cross-entropy, of 2.
        protocol: See `ReferringMetrics`.

    Attributes:
        classes: ``("background", "object")``.
    """

    kind = "referring segmentation"
    score = "oIoU"
    classes = ("background", "object")
    predictor = "swath.refseg.predictor:RemoteSAMPredictor"

    def __init__(
        self,
        tokenizer: WordPieces | None = None,
        input_size: int = 896,
        radiometry: Radiometry | None = None,
        dice_weight: float = 0.1,
        dice_reduction: Literal["sum", "mean"] = "sum",
        object_weight: float = 1.1,
        protocol: Literal["swath", "official"] = "swath",
    ) -> None:
        self.tokenizer = tokenizer or WordPieces()
        self.input_size = input_size
        self.radiometry = radiometry if radiometry is not None else Radiometry.rgb8()
        self.dice_weight, self.object_weight = dice_weight, object_weight
        self.dice_reduction: Literal["sum", "mean"] = dice_reduction
        self.protocol: Literal["swath", "official"] = protocol

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Resize and stack.

        Returns:
            ``"image"`` float32 ``(B, 3, S, S)``; ``"input_ids"`` and ``"attention_mask"``, int64
            ``(B, N)``; ``"mask"`` int64 ``(B, S, S)`` if the samples have masks; ``"sentences"``;
            ``"meta"``.

        Raises:
            DataError: If a sample has no sentence, dtype or band count don't fit, or a mask holds
                something else than 0 and 1.
        """
        for sample in samples:
            if "sentence" not in sample.targets:
                raise DataError(f"{_where(sample)}: has no sentence; use a referring data set")
        sentences = [str(sample.targets["sentence"]) for sample in samples]
        ids, present = self.tokenizer(sentences)
        batch: Batch = {
            "image": torch.stack([self.image(sample) for sample in samples]),
            "input_ids": ids,
            "attention_mask": present,
            "sentences": sentences,
            "meta": [sample.meta for sample in samples],
        }
        if all("mask" in sample.targets for sample in samples):
            batch["mask"] = torch.stack([self._mask(sample) for sample in samples])
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
        """``"ce"`` and ``"dice"``, weighted; see `referring_losses`."""
        logits = model(batch["image"], batch["input_ids"], batch["attention_mask"])
        return referring_losses(
            logits.float(),
            batch["mask"],
            self.dice_weight,
            self.dice_reduction,
            self.object_weight,
        )

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Masks ``(S, S)``, bool, of each sentence."""
        logits = model(batch["image"], batch["input_ids"], batch["attention_mask"])
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
