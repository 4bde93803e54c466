"""Semantic segmentation as a task: one class for every pixel."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError, DataError, shortened, suggest
from swath.core.inference.protocols import EvaluationMode
from swath.core.metrics.segmentation import SegmentationMetrics
from swath.core.palette import default_palette
from swath.core.sample import Sample
from swath.core.task import Batch, Task, labels_of


class SegmentationTask(Task):
    """Train and judge a model that gives every pixel one of K classes.

    The model maps float32 images ``(B, C, H, W)`` to logits ``(B, K, H, W)``, whatever H and W.

    Args:
        classes: Names in index order.
        radiometry: How sensor numbers become model input; default 8-bit RGB with ImageNet's
            statistics.
        ignore_index: Label of pixels that are neither trained on nor judged.
        palette: One ``(red, green, blue)`` in 0..255 per class; default: `default_palette`.
        class_weights: Weight of each class in the cross-entropy; default: all 1.
        dice_weight: Weight of the soft Dice loss, added to the cross-entropy; 0 leaves it out.
        gsd_m: Ground sampling distance the model is meant for, metres; for people and reports.
        flip_tta: Averages probabilities with those of the mirrored image; shorthand for
            ``evaluation=EvaluationMode(flip=True)``.
        evaluation: How `predict` runs the model over an image; default: as it is.
        mean_over: See `SegmentationMetrics`.
        count_ignored_as_last_class: See `ConfusionMatrix`.
        mean_without: See `SegmentationMetrics`.

    Raises:
        ConfigError: If there are no classes, a name occurs twice, palette or weights don't have one
            entry per class, or ``mean_without`` names a class that doesn't exist.
    """

    kind = "segmentation"
    score = "mIoU"

    def __init__(
        self,
        classes: Sequence[str],
        radiometry: Radiometry | None = None,
        ignore_index: int = 255,
        palette: Sequence[Sequence[int]] | None = None,
        class_weights: Sequence[float] | None = None,
        dice_weight: float = 0.0,
        gsd_m: float | None = None,
        flip_tta: bool = False,
        evaluation: EvaluationMode | None = None,
        mean_over: str = "present",
        count_ignored_as_last_class: bool = False,
        mean_without: Sequence[str] = (),
    ) -> None:
        if not classes:
            raise ConfigError("classes: there is none; give a list of names")
        self.classes = tuple(classes)
        if len({*self.classes}) < len(self.classes):
            raise ConfigError(f"classes: a name occurs twice in {shortened(self.classes)}")
        for name, values in (("palette", palette), ("class_weights", class_weights)):
            if values is not None and len(values) != len(self.classes):
                raise ConfigError(
                    f"{name} has {len(values)} entries for {len(self.classes)} classes; give one "
                    "per class"
                )
        if mean_over not in ("present", "all"):
            raise ConfigError(f"mean_over='{mean_over}' is unknown; use 'present' or 'all'")
        for name in mean_without:
            if name not in self.classes:
                raise ConfigError(
                    f"mean_without: there is no class '{name}'{suggest(name, self.classes)}"
                )
        if palette is not None and not all(_is_colour(colour) for colour in palette):
            raise ConfigError("palette must hold three whole numbers, 0 to 255, for each class")
        self.radiometry = radiometry if radiometry is not None else Radiometry.rgb8()
        self.ignore_index = ignore_index
        self.palette = tuple(
            (int(r), int(g), int(b)) for r, g, b in palette or default_palette(len(self.classes))
        )
        self.class_weights = tuple(class_weights) if class_weights is not None else None
        self.dice_weight, self.gsd_m = dice_weight, gsd_m
        self.evaluation = evaluation or (EvaluationMode(flip=True) if flip_tta else None)
        self._metric_options: dict[str, Any] = {
            "mean_over": mean_over,
            "mean_without": mean_without,
            "count_ignored_as_last_class": count_ignored_as_last_class,
        }

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples, scaled for the model; smaller ones are padded right and below.

        Returns:
            ``"image"`` float32 ``(B, C, H, W)``, 0 (the mean) where padded or invalid; ``"mask"``
            int64 ``(B, H, W)``, ``ignore_index`` there, if the samples have masks; ``"sizes"``,
            the ``(h, w)`` of each; ``"meta"``.

        Raises:
            DataError: If dtype or band count don't fit, or a mask isn't one of integers, of the
                image's size, or has a class that doesn't exist.
        """
        batch = collate_images(samples, self.radiometry)
        if all("mask" in s.targets for s in samples):
            height, width = batch["image"].shape[-2:]
            shape = (height, width)
            batch["mask"] = _stacked(
                [padded(self._mask(s), shape, self.ignore_index) for s in samples]
            )
        return batch

    def _mask(self, sample: Sample) -> Tensor:
        given, size = sample.targets["mask"], tuple(sample.image.shape[-2:])
        if not isinstance(given, Tensor) or given.is_floating_point() or given.shape != size:
            raise DataError(
                f"{origin(sample)}: the mask must be a tensor of integers with the image's shape "
                f"{size}; got {_told(given)}"
            )
        mask: Tensor = given.as_subclass(Tensor).long()
        if sample.valid is not None:
            mask = mask.masked_fill(~sample.valid.as_subclass(Tensor), self.ignore_index)
        wrong = ((mask < 0) | (mask >= len(self.classes))) & (mask != self.ignore_index)
        if wrong.any():
            raise DataError(
                f"{origin(sample)}: the mask holds class {int(mask[wrong][0])}, but there are "
                f"{len(self.classes)} classes (0..{len(self.classes) - 1}) and ignore_index "
                f"{self.ignore_index}; map the labels with the data set's protocol"
            )
        return mask

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``"ce"`` and, if it has a weight, ``"dice"``; 0 for a batch without a labelled pixel.

        Raises:
            ConfigError: If the model's output isn't one logit a class and pixel.
        """
        mask = labels_of(batch, "mask")
        return self.losses_of(model(batch["image"]), mask)

    def losses_of(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The same of logits that are there already.

        Args:
            logits: ``(B, K, H, W)``, any floating type.
            mask: int64 ``(B, H, W)``.

        Raises:
            ConfigError: If the logits have another shape.
        """
        logits = self._checked(logits, mask.shape[-2:]).float()
        losses = {"ce": cross_entropy(logits, mask, self.ignore_index, self.class_weights)}
        if self.dice_weight:
            losses["dice"] = self.dice_weight * dice_loss(logits, mask, self.ignore_index)
        return losses

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Logits ``(K, h, w)``, float32, of each image, at its own size.

        Images of different sizes run one by one, so that a prediction never depends on what else
        is in the batch. Where probabilities were averaged their logarithm is returned, whose
        softmax gives them back.

        Raises:
            ConfigError: If the model's output isn't one logit a class and pixel.
        """
        images: Tensor = batch["image"]
        sizes: list[tuple[int, int]] = batch.get("sizes") or [images.shape[-2:]] * len(images)
        if all((h, w) == tuple(images.shape[-2:]) for h, w in sizes):
            return list(self._logits(model, images))
        return [
            self._logits(model, image[None, :, :h, :w])[0]
            for image, (h, w) in zip(images, sizes, strict=True)
        ]

    def _checked(self, logits: Any, size: Sequence[int]) -> Tensor:
        """What a model gave, if it is a logit of each class at each pixel of its images."""
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise ConfigError(
                f"the model gave {_told(logits)}; a segmentation model gives logits (B, K, H, W)"
            )
        if logits.shape[1] != len(self.classes):
            raise ConfigError(
                f"the model scores {logits.shape[1]} classes, the task has {len(self.classes)}; "
                "make model.num_classes and task.classes agree"
            )
        if logits.shape[-2:] != torch.Size(size):
            (h, w), (height, width) = logits.shape[-2:], size
            raise ConfigError(
                f"the model gave logits of {w} x {h} px for images of {width} x {height} px; "
                "resize them in its forward"
            )
        return logits

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        if self.evaluation is None:
            return self._checked(model(images), images.shape[-2:]).float()
        scores = self.evaluation(model, images)
        return scores if self.evaluation.sum_logits else scores.clamp_min(1e-30).log()

    def labelled(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What a pixel most likely is, and how likely.

        Args:
            logits: ``(K, ...)`` of `predict`.

        Returns:
            The class ``(...)``, int64, and its probability ``(...)`` in [0, 1], float32.
        """
        confidence, label = logits.float().softmax(0).max(0)
        return label, confidence

    def merge(self, tiles: Iterable[Any], scene: Any) -> Any:
        """Blend the logits of a scene's tiles; see `swath.core.inference.tiler`."""
        from swath.core.inference.tiler import blend_segmentation

        return blend_segmentation(tiles, scene)

    def metrics(self) -> SegmentationMetrics:
        """A fresh `SegmentationMetrics` for these classes."""
        return SegmentationMetrics(self.classes, self.ignore_index, **self._metric_options)


def cross_entropy(
    logits: Tensor,
    mask: Tensor,
    ignore_index: int = 255,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """Mean cross-entropy over the labelled pixels; 0, not NaN, if there are none.

    Args:
        logits: float ``(B, K, H, W)``.
        mask: int64 ``(B, H, W)``.
        ignore_index: Label that is left out.
        class_weights: One weight per class; the mean is then a weighted one, as in torch.
    """
    weight = logits.new_tensor(class_weights) if class_weights is not None else None
    total = F.cross_entropy(logits, mask, weight=weight, ignore_index=ignore_index, reduction="sum")
    labelled = mask[mask != ignore_index]
    count = weight[labelled].sum() if weight is not None else labelled.numel()
    return total / (count + (count == 0))


def dice_loss(logits: Tensor, mask: Tensor, ignore_index: int = 255) -> Tensor:
    """One minus the mean soft Dice coefficient of the classes that occur in the batch.

    Args:
        logits: float ``(B, K, H, W)``.
        mask: int64 ``(B, H, W)``.
        ignore_index: Label that is left out.

    Source:
        Milletari et al. 2016 (V-Net), equation of section 3, with p + t in the denominator.
    """
    valid = (mask != ignore_index)[:, None]
    probabilities = logits.softmax(1) * valid
    truth = F.one_hot(mask.masked_fill(~valid[:, 0], 0), logits.shape[1]).movedim(-1, 1) * valid
    overlap, size, true_size = (
        x.sum((0, 2, 3)) for x in (probabilities * truth, probabilities, truth)
    )
    dice = (2 * overlap / (size + true_size).clamp_min(1e-6))[true_size > 0]
    return 1 - dice.mean() if dice.numel() else logits.sum() * 0.0


def collate_images(samples: Sequence[Sample], radiometry: Radiometry) -> Batch:
    """The part of a batch that every task has alike: its images, and what is known of them.

    Args:
        samples: Of any sizes; smaller ones are padded right and below.
        radiometry: Scales the sensor's numbers for the model.

    Returns:
        ``"image"`` float32 ``(B, C, H, W)``, 0 (the mean) where padded or invalid; ``"sizes"``, the
        ``(h, w)`` of each; ``"meta"``.

    Raises:
        DataError: If dtype or band count don't fit, or image or validity isn't a tensor of its
            shape.
    """
    sizes = [(s.image.shape[-2], s.image.shape[-1]) for s in samples]
    shape = max(h for h, _ in sizes), max(w for _, w in sizes)
    return {
        "image": _stacked([padded(scaled(s, radiometry), shape, 0.0) for s in samples]),
        "sizes": sizes,
        "meta": [s.meta for s in samples],
    }


def scaled(sample: Sample, radiometry: Radiometry) -> Tensor:
    """A sample's image for the model, if it is one of those that the model was made for.

    Returns:
        float32 ``(C, H, W)``, 0 (the mean) where invalid.

    Raises:
        DataError: If dtype or band count don't fit, or image or validity isn't a tensor of its
            shape.
    """
    if not isinstance(sample.image, Tensor) or sample.image.ndim != 3:
        raise DataError(
            f"{origin(sample)}: the image must be a tensor (C, H, W); got {_told(sample.image)}"
        )
    raw = sample.image.as_subclass(Tensor)
    dtype = str(raw.dtype).removeprefix("torch.")
    radiometry.check(dtype, raw.shape[0], where=origin(sample))
    image = radiometry(raw)
    if sample.valid is not None:
        if sample.valid.dtype != torch.bool or sample.valid.shape != raw.shape[-2:]:
            raise DataError(
                f"{origin(sample)}: valid must be a boolean tensor with the image's shape "
                f"{tuple(raw.shape[-2:])}; got {_told(sample.valid)}"
            )
        image *= sample.valid.as_subclass(Tensor)
    return image


def _stacked(images: list[Tensor]) -> Tensor:
    return torch.stack(images) if len(images) > 1 else images[0][None]  # one needs no copy


def padded(image: Tensor, shape: tuple[int, int], value: float) -> Tensor:
    """Bring ``(..., h, w)`` to a shape ``(H, W)``, filling right and below with a value."""
    height, width = image.shape[-2:]
    if (height, width) == shape:
        return image
    return F.pad(image, (0, shape[1] - width, 0, shape[0] - height), value=value)


def _is_colour(colour: Any) -> bool:
    return len(colour) == 3 and all(not isinstance(c, str) and 0 <= c <= 255 for c in colour)


def _told(value: Any) -> str:
    """What a value is, for an error message."""
    if not hasattr(value, "shape"):
        return f"a {type(value).__name__}"
    return f"a {type(value).__name__}, {value.dtype} of shape {tuple(value.shape)}"


def origin(sample: Sample) -> str:
    """What an error message calls a sample: its file, or else its name."""
    return str(sample.meta.get("path") or sample.meta.get("id") or "sample")
