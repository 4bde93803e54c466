"""ViT-MoE as a backbone in mmrotate's configs (1.x).

::

    custom_imports = dict(imports=["swath.moe.interop.mmrotate"])
    model = dict(backbone=dict(type="SwathViTMoE", size="b", num_experts=2, task=1), ...)

Source:
    The registry of https://github.com/open-mmlab/mmrotate (Apache-2.0), branch 1.x.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from swath.core.backbones.vit import SIZES, Size
from swath.core.checkpoint.official import load_vit
from swath.core.checkpoint.safe import load_file
from swath.core.errors import MissingDependencyError
from swath.moe.models.vit_moe import ViTMoE

try:
    from mmrotate.registry import MODELS
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"mmrotate can't be imported (no module named '{error.name}'); pip install "
        "'swath-moe[mmrotate]', then python -m swath.kernels.compat.mmcv"
    ) from error


@MODELS.register_module()
class SwathViTMoE(ViTMoE):
    """`ViTMoE` for one data set: four maps of strides 4, 8, 16 and 32, by the expert of a task.

    Args:
        num_experts: Experts E of every block, as of the weights.
        task: The expert that is used, in [0, E); the others get zero gradients.
        size: ``"b"``, ``"l"`` or ``"h"``; None if ``vit`` says everything.
        weights: A checkpoint whose backbone it is; mmengine loads it when it initialises the
            detector.
        **vit: See `swath.core.backbones.vit.ViT`.

    Raises:
        ValueError: If there is no such expert.
    """

    def __init__(
        self,
        num_experts: int,
        task: int = 0,
        size: Size | None = None,
        weights: str | Path | None = None,
        **vit: Any,
    ) -> None:
        if not 0 <= task < num_experts:
            raise ValueError(f"task={task} must be an expert, of which there are {num_experts}")
        super().__init__(num_experts, **{**(SIZES[size] if size else {}), **vit})
        self.task, self.weights = task, weights

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Maps ``(B, C, h_i, w_i)``, finest first, of images ``(B, 3, H, W)``."""
        return tuple(super().forward(image, self.task))

    def init_weights(self) -> None:
        """Load the weights, if there are any.

        Raises:
            CheckpointError: If the file can't be read safely, or doesn't fit.
        """
        if self.weights is not None:
            load_vit(self, load_file(self.weights), where=str(self.weights))
