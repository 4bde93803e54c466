"""Segmentation from sources that don't label the same classes.

A set of building footprints says "building" or "anything but a building"; a land-cover map names
every class. Trained on together, a pixel known to be one of several classes is a *group*: the
probability that the loss looks at is the sum over the group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError, suggest
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask
from swath.core.task import Batch


class PartialLabelTask(SegmentationTask):
    """Segmentation where a mask may hold groups of classes besides classes.

    Index ``K + g`` in a mask means "one of the classes of group g". Groups train the model and are
    left out of the metrics.

    Args:
        classes: K names in index order.
        groups: Members of each group, by its name, in index order.
        radiometry: As for `SegmentationTask`, like all that follow.
        ignore_index: Label of unknown pixels.
        palette: A colour per class.
        gsd_m: Ground sampling distance the model is meant for, metres.
        flip_tta: Average with the mirrored image.

    Raises:
        ConfigError: If a group is empty or names an unknown class.

    Source:
        Cour, Sapp, Taskar, "Learning from Partial Labels", JMLR 2011; the marginal likelihood as in
        Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ
        segmentation", 2021, equation 4, for any group instead of one merged background.
    """

    def __init__(
        self,
        classes: Sequence[str],
        groups: Mapping[str, Sequence[str]],
        radiometry: Radiometry | None = None,
        ignore_index: int = 255,
        palette: Sequence[Sequence[int]] | None = None,
        gsd_m: float | None = None,
        flip_tta: bool = False,
    ) -> None:
        super().__init__(classes, radiometry, ignore_index, palette, gsd_m=gsd_m, flip_tta=flip_tta)
        self.groups = {name: tuple(members) for name, members in groups.items()}
        for name, members in self.groups.items():
            for member in members:
                if member not in self.classes:
                    known = suggest(member, list(self.classes))
                    raise ConfigError(f"groups.{name}: no class '{member}'{known}")
            if not members:
                raise ConfigError(f"groups.{name} is empty; name the classes it may be")
        self.labels = self.classes + tuple(self.groups)
        self._members = torch.tensor(
            [[c == label for c in self.classes] for label in self.classes]
            + [[c in members for c in self.classes] for members in self.groups.values()]
        )

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """As `SegmentationTask.collate`; ``"mask"`` ignores groups, ``"partial"`` keeps them."""
        batch = super().collate([self._without_groups(sample) for sample in samples])
        if "mask" in batch:
            batch["partial"] = batch["mask"].clone()
            for row, sample in zip(batch["partial"], samples, strict=True):
                mask = sample.targets["mask"].as_subclass(Tensor).long()
                known = self._is_group(mask)
                if sample.valid is not None:
                    known &= sample.valid.as_subclass(Tensor)
                height, width = mask.shape
                row[:height, :width][known] = mask[known]
        return batch

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``"marginal"``: minus the mean log-probability of what each pixel may be."""
        logits = model(batch["image"]).float()
        members = self._members.to(logits.device)
        loss = marginal_cross_entropy(logits, batch["partial"], members, self.ignore_index)
        return {"marginal": loss}

    def _is_group(self, mask: Tensor) -> Tensor:
        inside = (mask >= len(self.classes)) & (mask < len(self.labels))
        return inside & (mask != self.ignore_index)

    def _without_groups(self, sample: Sample) -> Sample:
        if "mask" not in sample.targets:
            return sample
        mask = sample.targets["mask"].as_subclass(Tensor).long()
        plain = mask.masked_fill(self._is_group(mask), self.ignore_index)
        return replace(sample, targets={**sample.targets, "mask": tv_tensors.Mask(plain)})


def marginal_cross_entropy(
    logits: Tensor, labels: Tensor, members: Tensor, ignore_index: int = 255
) -> Tensor:
    """Minus the mean log-probability that a pixel's class is among those its label allows.

    Args:
        logits: float ``(B, K, H, W)``.
        labels: int64 ``(B, H, W)``: row of ``members``, or ``ignore_index``.
        members: bool ``(L, K)``: the classes that each label allows, at least one.
        ignore_index: Label that is left out.

    Returns:
        Scalar; 0, not NaN, if no pixel is labelled. With one class per label this is the ordinary
        cross-entropy.
    """
    labelled = labels != ignore_index
    allowed = members[labels.masked_fill(~labelled, 0)].movedim(-1, 1)  # (B, K, H, W)
    joint = logits.masked_fill(~allowed, -torch.inf).logsumexp(1)
    negative = (logits.logsumexp(1) - joint) * labelled
    return negative.sum() / labelled.sum().clamp_min(1)
