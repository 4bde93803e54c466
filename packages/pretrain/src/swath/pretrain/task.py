"""S4P as a task: segmentation that also learns from what the network itself says.

Paper: S5: Scalable Semi-Supervised Semantic Segmentation in Remote Sensing, Lv et al. 2025,
arXiv:2508.12409; the method is FixMatch (arXiv:2001.07685) as UniMatch (arXiv:2208.09910) writes
it for segmentation, without feature perturbation and second strong stream.
Official code: https://github.com/MiliLab/S5, `S4_Pretrain/s4_pretrain.py`; see `S4PTask.losses`
for what is done otherwise.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError, DataError, differing
from swath.core.inference.protocols import EvaluationMode
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask, scaled
from swath.core.task import Batch
from swath.pretrain.losses import confident, cutmix, unlabelled_loss
from swath.pretrain.losses import pseudo_labels as labels_of
from swath.pretrain.views import UnlabelledViews

_OTHER_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class S4PTask(SegmentationTask):
    """Train on labels and on the model's own confident labels of other images.

    Training samples are `SemiSupervised`'s under `S4PViews`; those to judge on are ordinary ones.

    Args:
        classes: Names in index order.
        threshold: Least confidence of a pseudo-label that is learnt from.
        label_precision: Arithmetic of the labelling forward pass: ``"fp32"`` as officially,
            whatever the training pass uses, or ``"bf16"`` or ``"fp16"``.
        labels: ``"online"``: the network labels as it learns, as the official code does;
            ``"stored"``: masks that the unlabelled samples bring along, and confidences, 1 where
            they bring none.
        warmup: Share of the run, as long as it is now, that learns from labels alone, until the
            network is worth believing; officially none. Pre-trained networks don't need it, others
            do. A run that is made longer when it is resumed may fall back into it.
        teacher: Who labels online: ``"self"``, the network as it is, as officially; or ``"ema"``,
            its averaged weights (Mean Teacher, arXiv:1703.01780), which need ``ema`` in the config.
        radiometry: This and all that follow: see `SegmentationTask`.
        ignore_index: Label of pixels that are neither trained on nor judged.
        palette: A colour per class.
        class_weights: Weight of each class in the loss on labels; officially none. Pseudo-labels
            are of a network that has learnt with these weights: used again there, they would double
            what it takes too often for a rare class.
        dice_weight: Weight of the soft Dice loss on the labelled images.
        gsd_m: Ground sampling distance the model is meant for, metres.
        evaluation: How `predict` runs the model over an image.
        mean_over: See `SegmentationMetrics`.
        mean_without: See `SegmentationMetrics`.

    Raises:
        ConfigError: If an option is out of range.
    """

    def __init__(
        self,
        classes: Sequence[str],
        threshold: float = 0.95,
        label_precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        labels: Literal["online", "stored"] = "online",
        warmup: float = 0.0,
        teacher: Literal["self", "ema"] = "self",
        *,
        radiometry: Radiometry | None = None,
        ignore_index: int = 255,
        palette: Sequence[Sequence[int]] | None = None,
        class_weights: Sequence[float] | None = None,
        dice_weight: float = 0.0,
        gsd_m: float | None = None,
        evaluation: EvaluationMode | None = None,
        mean_over: str = "present",
        mean_without: Sequence[str] = (),
    ) -> None:
        super().__init__(
            classes,
            radiometry,
            ignore_index,
            palette,
            class_weights,
            dice_weight,
            gsd_m,
            evaluation=evaluation,
            mean_over=mean_over,
            mean_without=mean_without,
        )
        if not 0 <= threshold <= 1:
            raise ConfigError(f"task.threshold={threshold} must be a probability, 0 to 1")
        if label_precision not in ("fp32", *_OTHER_DTYPES):
            raise ConfigError(
                f"task.label_precision='{label_precision}' is unknown; use fp32, bf16 or fp16"
            )
        if labels not in ("online", "stored"):
            raise ConfigError(f"task.labels='{labels}' is unknown; use 'online' or 'stored'")
        if not 0 <= warmup < 1:
            raise ConfigError(f"task.warmup={warmup} must be a share of the run, 0 up to 1")
        if teacher not in ("self", "ema"):
            raise ConfigError(f"task.teacher='{teacher}' is unknown; use 'self' or 'ema'")
        self.threshold, self.label_precision, self.labels = threshold, label_precision, labels
        self.warmup, self.teacher = warmup, teacher

    def check_data(self, dataset: Any) -> None:
        """Refuse a training set whose labels mean other classes, as far as it knows their names.

        Raises:
            ConfigError: If they differ, or come in another order.
        """
        for half in ("labelled", "unlabelled")[: 1 + (self.labels == "stored")]:
            classes = getattr(getattr(dataset, half, None), "classes", ())
            if classes and tuple(classes) != self.classes:
                raise ConfigError(
                    f"train.{half} has other classes than the task: "
                    f"{differing(classes, self.classes)}; make task.classes those of the data"
                )

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack the labelled images and, for training, the views of the unlabelled ones.

        Returns:
            What `SegmentationTask.collate` gives, and: ``"strong"`` float32 ``(B, C, H, W)``;
            ``"ignore"`` bool ``(B, H, W)``; and to label them, ``"weak"`` float32
            ``(B + M, C, H, W)``, the M partners' weak views behind those of the images,
            ``"mixed"`` int64 ``(M,)``, the images that have a partner, and ``"box"`` bool
            ``(B, H, W)``. With stored labels instead: ``"label"`` int64 and ``"confidence"``
            float32 ``(B, H, W)``.

        Raises:
            DataError: If the samples don't fit the task.
        """
        batch = super().collate(samples)
        views = [s.targets["unlabelled"] for s in samples if "unlabelled" in s.targets]
        if not views:
            return batch
        batch["strong"] = torch.stack([self._scaled(v.strong, v) for v in views])
        batch["ignore"] = torch.stack([v.ignore for v in views])
        if self.labels == "stored":
            return batch | self._stored(views)
        mixed = [i for i, v in enumerate(views) if v.weak_mix is not None]
        weak = [self._scaled(v.weak, v) for v in views]
        weak += [self._scaled(v.weak_mix, v) for v in views if v.weak_mix is not None]
        batch["weak"] = torch.stack(weak)
        batch["mixed"] = torch.tensor(mixed, dtype=torch.int64)
        batch["box"] = torch.stack([v.box for v in views])
        return batch

    def _scaled(self, image: Tensor, views: UnlabelledViews) -> Tensor:
        return scaled(Sample(image, meta={"path": views.origin}), self.radiometry)

    def _stored(self, views: Sequence[UnlabelledViews]) -> Batch:
        for view in views:
            if "mask" not in view.targets:
                raise DataError(
                    f"{view.origin} brings no mask; use task.labels=online, or a data set with "
                    "stored labels and train.stored_labels=True"
                )
        label = torch.stack(
            [self._mask(Sample(v.strong, v.targets, ~v.ignore, {"path": v.origin})) for v in views]
        )
        confidence = torch.stack([v.targets["confidence"] for v in views])
        unknown = label == self.ignore_index
        return {
            "label": label.masked_fill(unknown, 0),
            "confidence": confidence.masked_fill(unknown, 0.0),
        }

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Half the loss on labels and half the loss on pseudo-labels.

        One forward pass in eval mode, without gradient, labels the weak views; then one in training
        mode sees labelled and strong images together, which share the statistics of its norms.

        Officially every image's partner is labelled, pasted in or not. Here an image without a box
        has none: eval mode treats images one by one, so that the labels are the same.

        Returns:
            The losses of `SegmentationTask`, halved; and after the warm-up ``"unlabelled"``,
            halved, and without gradient ``"confident"``, the share of seen pixels that are learnt
            from.

        Raises:
            ConfigError: If the model's output doesn't have one channel per class.
        """
        if "strong" not in batch:
            raise ConfigError(
                "S4PTask trains on labelled and unlabelled images: make train a SemiSupervised "
                "and augment an S4PViews"
            )
        if batch.get("progress", 1.0) < self.warmup:
            return {name: loss / 2 for name, loss in super().losses(model, batch).items()}
        label, confidence = self.pseudo_labels(self._teacher(model, batch), batch)
        logits = model(torch.cat([batch["image"], batch["strong"]])).float()
        labelled, strong = logits[: len(batch["image"])], logits[len(batch["image"]) :]
        ignore = batch["ignore"]
        losses = self.losses_of(labelled, batch["mask"])
        losses["unlabelled"] = unlabelled_loss(strong, label, confidence, ignore, self.threshold)
        learnt = confident(confidence, ignore, self.threshold)
        share = learnt.sum() / (~ignore).sum().clamp_min(1)
        return {name: loss / 2 for name, loss in losses.items()} | {"confident": share}

    def _teacher(self, model: nn.Module, batch: Batch) -> nn.Module:
        if self.teacher == "self":
            return model
        if "averaged" not in batch:
            raise ConfigError(
                "task.teacher='ema' labels by averaged weights: set ema=0.99, or teacher='self'"
            )
        averaged: nn.Module = batch["averaged"]
        return averaged

    @torch.no_grad()
    def pseudo_labels(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the model takes every pixel of the strong views for, by their weak views.

        Args:
            model: Is put into eval mode for the time being.
            batch: Of training samples, see `collate`.

        Returns:
            Labels int64 ``(B, H, W)`` and confidences float32 ``(B, H, W)`` in 0..1.
        """
        if self.labels == "stored":
            return batch["label"], batch["confidence"]
        weak, mixed, box = batch["weak"], batch["mixed"], batch["box"]
        was_training = model.training
        model.eval()
        with torch.autocast(
            weak.device.type,
            dtype=_OTHER_DTYPES.get(self.label_precision),
            enabled=self.label_precision != "fp32",
        ):
            logits = model(weak)
        model.train(was_training)
        label, confidence = labels_of(logits.float())
        return _pasted(label, mixed, box), _pasted(confidence, mixed, box)


def _pasted(values: Tensor, mixed: Tensor, box: Tensor) -> Tensor:
    """Paste the partners' values ``(M, H, W)`` at the end into those of the images that have one.

    Args:
        values: ``(B + M, H, W)``.
        mixed: int64 ``(M,)``: image of each partner.
        box: bool ``(B, H, W)``.
    """
    own, partners = values[: len(box)], values[len(box) :]
    return cutmix(own, own.index_copy(0, mixed, partners), box)
