"""Training CLIP itself: images, and captions of which several are true of each.

Papers: CLIP, Radford et al. 2021, arXiv:2103.00020; targets for captions that repeat, Yang et al.
2022 (UniCL), arXiv:2204.03610, equations 3 and 4.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swath.core.data.radiometry import Radiometry
from swath.core.inference.answers import ClassificationResult
from swath.core.inference.tiler import Scene, TilePrediction, average_scores
from swath.core.metrics.classification import ClassificationMetrics
from swath.core.sample import Sample
from swath.core.segmentation import collate_images
from swath.core.task import Batch, Task
from swath.ovseg.clip import resized
from swath.ovseg.layers import mean_over_prompts
from swath.ovseg.models.base import encode_prompts
from swath.ovseg.prompts import templates, tokenize
from swath.ovseg.task import CLIP_RADIOMETRY, Texts, check_names

LARGEST_SCALE = 100.0
"""Of the temperature's inverse, as in CLIP."""


class CaptionTask(Task):
    """Train CLIP on captions, and judge it by naming images it hasn't seen.

    Samples have ``"captions"``, all those that hold for them: where others of the batch have the
    same one, it counts once, for them all. A ``"label"`` is an index in ``classes``.

    Args:
        classes: Names that images are told apart by.
        ensemble: Templates that names and captions are put into; see `OpenVocabularyTask`. Captions
            take the first.
        radiometry: How sensor numbers become model input; default 8-bit RGB with CLIP's statistics.

    Raises:
        ConfigError: If there is no class, one is empty or there twice, or too long for CLIP.
    """

    kind = "classification"
    score = "top1"
    dense = False

    def __init__(
        self,
        classes: Sequence[str],
        ensemble: str | Sequence[str] = "name",
        radiometry: Radiometry | None = None,
    ) -> None:
        check_names(classes, [[name] for name in classes])
        self.classes, self.ensemble = tuple(classes), templates(ensemble)
        self.radiometry = radiometry or CLIP_RADIOMETRY
        self.tokens = tokenize(self.classes, self.ensemble)
        self._texts = Texts()

    def with_classes(self, classes: Sequence[str]) -> "CaptionTask":
        """The same task for other names; what it has encoded is known to both.

        Raises:
            ConfigError: See the class.
        """
        task = CaptionTask(classes, self.ensemble, self.radiometry)
        task._texts = self._texts
        return task

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples; see `collate_images`.

        With captions ``"tokens"`` int64 ``(C, L)``, each different one once, and ``"true"`` bool
        ``(B, C)``: whether an image's row holds a caption's column. With labels ``"label"`` int64
        ``(B,)``.
        """
        batch = collate_images(samples, self.radiometry)
        if all("captions" in s.targets for s in samples):
            captions = sorted({c for s in samples for c in s.targets["captions"]})
            batch["tokens"] = tokenize(captions, self.ensemble[:1])[:, 0]
            true = [[caption in s.targets["captions"] for caption in captions] for s in samples]
            batch["true"] = torch.tensor(true)
        if all("label" in s.targets for s in samples):
            batch["label"] = torch.tensor([int(s.targets["label"]) for s in samples])
        return batch

    def losses(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """``"contrast"``; the model is a `swath.ovseg.clip.CLIP`."""
        image = model.encode_image(_fitting(model, batch["image"]), normalize=True)
        text = model.encode_text(batch["tokens"], normalize=True)
        scale = model.logit_scale.exp().clamp_max(LARGEST_SCALE)
        return {"contrast": caption_contrast(scale * image @ text.T, batch["true"])}

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch) -> list[Tensor]:
        """Probabilities ``(K,)`` of each image."""
        text = self.text(model)
        image = model.encode_image(_fitting(model, batch["image"]), normalize=True)
        return list((model.logit_scale.exp() * image @ text.T).float().softmax(1))

    def text(self, model: Any) -> Tensor:
        """Unit vectors ``(K, E)`` of the classes, computed once for a model and its weights."""
        return self._texts.get(
            model,
            (self.classes, self.ensemble),
            self.tokens,
            lambda tokens: mean_over_prompts(encode_prompts(model, tokens)),
        )

    def merge(self, tiles: Iterable[TilePrediction[Tensor]], scene: Scene) -> ClassificationResult:
        """Mean probabilities of a scene's tiles, by their share of valid pixels."""
        return ClassificationResult(self.classes, average_scores(tiles, scene))

    def metrics(self) -> ClassificationMetrics:
        """A fresh `ClassificationMetrics` for these names."""
        return ClassificationMetrics(self.classes)


def caption_contrast(logits: Tensor, true: Tensor) -> Tensor:
    """The mean of two cross-entropies: which captions are an image's, which images a caption's.

    Those that are true share the target in equal parts. Where every image has one caption and no
    other has the same, this is CLIP's loss.

    Args:
        logits: float ``(B, C)``, scaled cosines of images (rows) and captions.
        true: bool ``(B, C)``, at least one in each row and column.
    """
    target = true.to(logits.dtype)
    by_image = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    by_caption = F.cross_entropy(logits.T, (target / target.sum(0)).T)
    return (by_image + by_caption) / 2


def _fitting(model: Any, image: Tensor) -> Tensor:
    return resized(image, tuple(model.visual.image_size))
