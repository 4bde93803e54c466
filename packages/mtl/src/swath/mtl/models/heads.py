"""The contract between RSCoTr and its heads, and the classification head.

A head is an `nn.Module` with two methods: ``forward(features)``, whose result its task turns into
predictions, and ``losses(features, targets)``, whose named scalars are minimised. What ``targets``
are is between the head and its task (see `swath.mtl.tasks`): here class indices or probabilities.
A fourth kind of task is such a class, named in a config beside the others.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.errors import ConfigError
from swath.mtl.models.encoder import Features


class Head(nn.Module):
    """What a head of RSCoTr has to do."""

    def forward(self, features: Features) -> Any:
        """Predict for a batch.

        Args:
            features: Of the batch; ``features.stages`` and ``features.pyramid`` are maps,
                ``features.encoder`` is the shared encoder.
        """
        raise NotImplementedError

    def losses(self, features: Features, targets: Any) -> dict[str, Tensor]:
        """Scalars to be minimised, by name; those without gradient are only logged."""
        raise NotImplementedError


class SceneClassifier(Head):
    """A class for the whole image from the mean of the backbone's last stage.

    The shared encoder isn't used: this task trains the backbone only.

    Args:
        num_classes: K.
        in_channels: Of the last stage.
        label_smoothing: Share of the target spread over all classes.

    Source:
        RSCoTr dossier 1.3, "slvl".
    """

    def __init__(
        self, num_classes: int = 45, in_channels: int = 768, label_smoothing: float = 0.1
    ) -> None:
        super().__init__()
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.fc = _classifier(in_channels, num_classes)

    def forward(self, features: Features) -> Tensor:
        """Logits ``(B, K)``."""
        logits: Tensor = self.fc(self.pooled(features))
        return logits

    def pooled(self, features: Features) -> Tensor:
        """What is classified, ``(B, C)``."""
        return features.stages[-1].mean((2, 3))

    def losses(self, features: Features, targets: Tensor) -> dict[str, Tensor]:
        """``"ce"``: cross-entropy with smoothed labels.

        Args:
            features: Of the batch.
            targets: int64 ``(B,)`` classes, or float ``(B, K)`` probabilities.
        """
        logits = self(features).float()
        return {"ce": F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)}


TRAINED_SIZES = {5: (4,), 6: (7,), 7: (4, 7, 14, 28)}
"""Sides of the levels whose every token has a weight, by scheme: those of a 224 px image."""


class MultiLevelSceneClassifier(SceneClassifier):
    """A class for the whole image from the shared encoder's tokens.

    Args:
        num_classes: K.
        scheme: How tokens are pooled. Means: 1 of stride 64, 2 of stride 32 (as published), 3 of
            all tokens, 4 of the levels' means. Learned weights, which start equal: 5 of the tokens
            of stride 64, 6 of stride 32, 7 of all, 8 of the levels' means. 5 to 7 need images of
            which these levels have the sides `TRAINED_SIZES`.
        in_channels: C of the encoder.
        levels: Of the pyramid.
        label_smoothing: Share of the target spread over all classes.

    Raises:
        ConfigError: If there is no such scheme.

    Source:
        RSCoTr dossier 1.3, "mlvl". There, schemes 3 and 5 to 8 fail on a batch of one.
    """

    def __init__(
        self,
        num_classes: int = 45,
        scheme: int = 2,
        in_channels: int = 256,
        levels: int = 4,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__(num_classes, in_channels, label_smoothing)
        if scheme not in range(1, 9):
            raise ConfigError(f"scheme={scheme} must be one of 1 to 8")
        self.scheme = scheme
        self.level_encoding = nn.Embedding(levels, in_channels)
        weighed = sum(side**2 for side in TRAINED_SIZES.get(scheme, ())) or levels
        if scheme >= 5:
            self.out_proj = nn.Linear(weighed, 1)
            nn.init.constant_(self.out_proj.weight, 1 / weighed)
            nn.init.zeros_(self.out_proj.bias)

    def pooled(self, features: Features) -> Tensor:
        """What is classified, ``(B, C)``.

        Raises:
            ConfigError: If the scheme has weights for images of another size.
        """
        return self.pool(
            features.encoder.coarse_first(features.pyramid, self.level_encoding.weight)
        )

    def pool(self, memories: list[Tensor]) -> Tensor:
        """Pool maps ``(B, C, H, W)``, coarsest first, to ``(B, C)``."""
        scheme = self.scheme
        if scheme in (4, 8):
            tokens = torch.stack([m.mean((2, 3)) for m in memories], -1)
        else:
            chosen = {1: slice(0, 1), 5: slice(0, 1), 2: slice(1, 2), 6: slice(1, 2)}.get(scheme)
            tokens = torch.cat([m.flatten(2) for m in memories[chosen or slice(None)]], 2)
        if scheme < 5:
            return tokens.mean(2)
        if tokens.shape[2] != self.out_proj.in_features:
            raise ConfigError(
                f"scheme {scheme} weighs {self.out_proj.in_features} tokens, this image gives "
                f"{tokens.shape[2]}; resize images to 224 px or use scheme 1, 2, 3, 4 or 8"
            )
        pooled: Tensor = self.out_proj(tokens)[..., 0]
        return pooled


def _classifier(in_channels: int, num_classes: int) -> nn.Linear:
    fc = nn.Linear(in_channels, num_classes)
    nn.init.normal_(fc.weight, std=0.01)
    nn.init.zeros_(fc.bias)
    return fc
