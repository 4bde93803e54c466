"""Open-vocabulary segmentation as a task: classes are words, and may be others at every call."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from swath.core.data.radiometry import Radiometry
from swath.core.data.spec import Protocol
from swath.core.errors import ConfigError
from swath.core.palette import default_palette
from swath.core.segmentation import SegmentationTask
from swath.core.task import Batch
from swath.ovseg.clip import CLIP_MEAN, CLIP_STD
from swath.ovseg.datasets import data_sets
from swath.ovseg.losses import pixelwise_bce
from swath.ovseg.metrics import SemSegMetrics
from swath.ovseg.models.base import OpenVocabularySegmenter
from swath.ovseg.prompts import templates, tokenize
from swath.ovseg.protocols import PublishedProtocol

BACKGROUND = "background"
"""Name of the class that `background` adds."""

CLIP_RADIOMETRY = Radiometry(
    ("red", "green", "blue"),
    "uint8",
    1 / 255,
    tuple(m / 255 for m in CLIP_MEAN),
    tuple(s / 255 for s in CLIP_STD),
)
"""8-bit RGB as CLIP wants it, for every tower."""

VOCABULARIES = 16
"""Most vocabularies of a model whose vectors are kept."""


class OpenVocabularyTask(SegmentationTask):
    """Train and judge a model that scores pixels against names.

    A class may have alternatives, separated by commas (``"plane, aircraft"``): each is scored, and
    the highest counts. Scores of classes are independent: probabilities are sigmoids
    and don't sum to 1.

    Args:
        classes: Names, with or without alternatives.
        ensemble: Templates: ``"single"`` as published, ``"imagenet"``, ``"overhead"``, ``"name"``
            alone, or a list of sentences with ``{}``. A model made for one template gets the mean
            of their vectors.
        background: Adds a last class for pixels that are none of the others: with a number, those
            where no class is as probable as that; with names, with or without alternatives, those
            where one of these fits best.
        ignore_index: Label of pixels of no class.
        palette: A colour per class, without that of the background.
        skip_ignored: Leave ignored pixels out of the loss; as published they are pixels of no
            class, with target 0 for all.
        evaluation: A published way of evaluation; default: the image's own scale.
        radiometry: How sensor numbers become model input; default 8-bit RGB with CLIP's statistics.
        gsd_m: Ground sampling distance the model is meant for, metres.
        tile: Side of the tiles that scenes are cut into, px: what models are trained on.

    Raises:
        ConfigError: If there is no class, a name is empty, there twice or too long for CLIP, or
            the background is no probability and no name.

    Attributes:
        names: What is looked for: classes, their alternatives, and names of the background.
        activation: How logits become probabilities.
        predictor: What a model with this task is asked through.
    """

    activation = "sigmoid"
    predictor = "swath.ovseg.costs:OpenVocabularyPredictor"

    def __init__(
        self,
        classes: Sequence[str],
        ensemble: str | Sequence[str] = "single",
        background: float | Sequence[str] | None = None,
        ignore_index: int = 255,
        palette: Sequence[Sequence[int]] | None = None,
        skip_ignored: bool = False,
        evaluation: PublishedProtocol | None = None,
        radiometry: Radiometry | None = None,
        gsd_m: float | None = None,
        tile: int = 384,
    ) -> None:
        vocabulary = [_alternatives(name) for name in classes]
        self.threshold, negatives = _background(background)
        check_names(classes, vocabulary, negatives)
        self.ensemble = templates(ensemble)
        if negatives:
            vocabulary.append(negatives)
        names, palette = list(classes), palette or default_palette(classes)
        if background is not None:
            if BACKGROUND in classes:
                raise ConfigError(
                    f"a class is called '{BACKGROUND}' already; leave it out, or background"
                )
            names.append(BACKGROUND)
            palette = [*palette, (0, 0, 0)]
        super().__init__(
            names,
            radiometry=radiometry or CLIP_RADIOMETRY,
            ignore_index=ignore_index,
            palette=palette,
            gsd_m=gsd_m,
        )
        self.skip_ignored, self.protocol, self.tile = skip_ignored, evaluation, tile
        self.names = tuple(name for group in vocabulary for name in group)
        self.tokens = tokenize(self.names, self.ensemble)
        self.starts = [0]
        for group in vocabulary:
            self.starts.append(self.starts[-1] + len(group))
        self._texts = Texts()

    def with_classes(
        self, classes: Sequence[str], background: float | Sequence[str] | None = None
    ) -> "OpenVocabularyTask":
        """The same task for other classes; a single one is set against background at 0.5.

        What it has encoded is known to both.

        Args:
            classes: See the class.
            background: See there.

        Raises:
            ConfigError: See there.
        """
        if len(classes) == 1 and background is None:
            background = 0.5
        return self._with(classes, background, self.ignore_index, None)

    def with_ensemble(self, ensemble: str | Sequence[str]) -> "OpenVocabularyTask":
        """The same task with its names in other templates.

        Args:
            ensemble: See the class.

        Raises:
            ConfigError: See there.
        """
        task = copy.copy(self)
        task.ensemble = templates(ensemble)
        task.tokens = tokenize(task.names, task.ensemble)
        return task

    def with_protocol(self, protocol: Protocol) -> "OpenVocabularyTask":
        """The same task for the classes, ignored label and colours of a data set."""
        return self._with(protocol.classes, None, protocol.ignore_index, protocol.palette)

    def data_sets(self, names: Sequence[str]) -> list[str]:
        """See `swath.ovseg.datasets.data_sets`."""
        return data_sets(names)

    def _with(
        self,
        classes: Sequence[str],
        background: float | Sequence[str] | None,
        ignore_index: int,
        palette: Sequence[Sequence[int]] | None,
    ) -> "OpenVocabularyTask":
        task = OpenVocabularyTask(
            classes,
            self.ensemble,
            background,
            ignore_index,
            palette,
            self.skip_ignored,
            self.protocol,
            self.radiometry,
            self.gsd_m,
            self.tile,
        )
        task._texts = self._texts
        return task

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``"bce"``, and of a model judged on the way too (SED) ``"bce_1"``, ``"bce_2"``, ...

        Texts are encoded in the same pass, so that gradients reach their tower, unless that is
        frozen.

        Raises:
            ConfigError: If classes have alternatives or there is a background class.
        """
        if self.starts != list(range(len(self.classes) + 1)):
            raise ConfigError("train with one name for each class, and without a background class")
        inner: Any = getattr(model, "module", model)  # in a process group it is wrapped
        learning = any(p.requires_grad for p in text_parameters(inner))
        words = self.tokens.to(batch["image"].device) if learning else self.text(inner)
        outputs = model(batch["image"], words)
        first, *others = outputs if isinstance(outputs, list) else [outputs]
        named = {"bce": first} | {f"bce_{i}": x for i, x in enumerate(others, start=1)}
        return {
            name: pixelwise_bce(
                logits.float(), batch["mask"], self.ignore_index, skip_ignored=self.skip_ignored
            )
            for name, logits in named.items()
        }

    def text(self, model: Any) -> Tensor:
        """Vectors of the vocabulary, computed once for a model and its weights as they are.

        Args:
            model: An `OpenVocabularySegmenter`.

        Returns:
            ``(T, P, E)``, T counting alternatives and names of the background.
        """
        return self._texts.get(model, (self.names, self.ensemble), self.tokens, model.encode_text)

    def _logits(self, model: Any, images: Tensor) -> Tensor:
        text = self.text(model)
        if self.protocol is None:
            scores = model(images, text)
        else:
            protocol = self.protocol

            def score(image: Tensor, grid: tuple[int, int]) -> Tensor:
                logits: Tensor = model.score(image, text, grid)
                return logits

            scores = torch.stack([protocol(score, image) for image in images]).logit(eps=1e-6)
        return self.by_class(scores.float())

    def by_class(self, scores: Tensor) -> Tensor:
        """From logits of names ``(B, T, H, W)`` to logits of classes ``(B, K, H, W)``."""
        if len(self.starts) - 1 < scores.shape[1]:
            groups = [scores[:, a:b].amax(1) for a, b in pairwise(self.starts)]
            scores = torch.stack(groups, 1)
        if self.threshold is None:
            return scores
        level = math.log(self.threshold / (1 - self.threshold))
        return torch.cat([scores, torch.full_like(scores[:, :1], level)], 1)

    def labelled(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """See `SegmentationTask.labelled`; other classes say nothing about how likely one is.

        A background by threshold is as likely as all classes are unlikely.
        """
        score, label = logits.float().max(0)
        if self.threshold is None:
            return label, score.sigmoid()
        classes = logits[:-1].float().amax(0)
        return label, torch.where(label == len(logits) - 1, -classes, score).sigmoid()

    def report(self, model: nn.Module, metrics: Mapping[str, Any], dataset: Any) -> Sequence[Any]:
        """The cost maps of the first image; see `Task.report`."""
        from swath.ovseg.costs import report_card  # it needs this module

        if not isinstance(model, OpenVocabularySegmenter):
            return ()
        return (report_card(model, self, dataset[0]),)

    def metrics(self) -> SemSegMetrics:  # type: ignore[override]
        """A fresh `SemSegMetrics` for these classes."""
        return SemSegMetrics(self.classes, self.ignore_index)


class Texts:
    """Vectors by model and vocabulary; for another process, which copies the model, none."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, tuple[Any, dict[Any, Tensor]]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type["Texts"], tuple[()]]:
        return Texts, ()

    def get(
        self, model: Any, key: Any, tokens: Tensor, encode: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What a model makes of a vocabulary with its weights as they are.

        Args:
            model: A CLIP, or an open-vocabulary model.
            key: What the vocabulary is known by.
            tokens: Its token ids, int64.
            encode: Called with them, on the model's device, if it isn't known yet.
        """
        known = self._of(model)
        if key not in known:
            if len(known) == VOCABULARIES:
                del known[next(iter(known))]
            tokens = tokens.to(text_parameters(model)[0].device)
            with torch.inference_mode(False), torch.no_grad():  # training may use them too
                known[key] = encode(tokens)
        return known[key]

    def _of(self, model: Any) -> dict[Any, Tensor]:
        """Those of a model, to be added to; none if its weights have changed."""
        state = [(p.data_ptr(), p._version, p.device) for p in text_parameters(model)]
        before, known = self._known.get(model, (None, {}))
        if before != state:
            known = {}
            self._known[model] = state, known
        return known


def text_parameters(model: Any) -> list[nn.Parameter]:
    """The parameters of CLIP, alone or in an open-vocabulary model, that texts depend on."""
    clip = getattr(model, "clip", model)
    return [p for n, p in clip.named_parameters() if not n.startswith("visual.")]


def check_names(
    classes: Sequence[str], vocabulary: Sequence[Sequence[str]], negatives: Sequence[str] = ()
) -> None:
    """Refuse a vocabulary that can't be right.

    Args:
        classes: As they were given.
        vocabulary: The names of each, alternatives apart.
        negatives: Names of the background.

    Raises:
        ConfigError: If there is no class, or a name is empty or there twice.
    """
    if not classes:
        raise ConfigError("there is no class; name at least one")
    if isinstance(classes, str):
        raise ConfigError(f"classes='{classes}' is one text; give a list of names")
    where = [f"class {i} ('{name}')" for i, name in enumerate(classes, start=1)]
    seen: set[str] = set()
    for place, group in zip([*where, "background"], [*vocabulary, negatives], strict=True):
        for part in group:
            if not part:
                raise ConfigError(f"{place} has an empty name; leave it out")
            if part.lower() in seen:
                raise ConfigError(f"'{part}' is there twice; leave one out")
            seen.add(part.lower())


def _background(choice: float | Sequence[str] | None) -> tuple[float | None, list[str]]:
    """A threshold, and names."""
    if choice is None:
        return None, []
    if isinstance(choice, int | float):
        if not 0 < choice < 1:
            raise ConfigError(f"background={choice} must be a probability between 0 and 1")
        return float(choice), []
    names = [choice] if isinstance(choice, str) else choice
    if not names:
        raise ConfigError("background has no name; give one, or a probability, or leave it out")
    return None, [part for name in names for part in _alternatives(name)]


def _alternatives(name: str) -> list[str]:
    return [part.strip() for part in name.split(",")]
