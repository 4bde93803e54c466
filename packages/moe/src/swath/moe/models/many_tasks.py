"""What the models of MoE-MDF share: routing samples to what belongs to their tasks."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from swath.core.errors import CheckpointError, ConfigError, suggest
from swath.moe.models.vit_moe import TokenViTMoE, ViTMoE

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class ManyTasks(nn.Module):
    """A ViT-MoE whose experts belong to tasks, as do further modules that a subclass adds.

    Args:
        backbone: Has at least as many experts as there are tasks, unless they are for tokens.
        tasks: Number of classes of each task, by name. The order is that of the experts.

    Attributes:
        tasks: ``tasks``.
        own_parts: Names of the module dicts, keyed by task, of what else belongs to tasks.
        class_parts: Parts of weights' names that tell whose size is the number of classes.

    Raises:
        ConfigError: If there are more tasks than experts, or a name can't be one.
    """

    own_parts: tuple[str, ...]
    class_parts: tuple[str, ...]

    def __init__(self, backbone: ViTMoE | TokenViTMoE, tasks: Mapping[str, int]) -> None:
        super().__init__()
        most = backbone.num_experts if isinstance(backbone, ViTMoE) else math.inf
        if not 0 < len(tasks) <= most:
            raise ConfigError(
                f"{len(tasks)} tasks ({', '.join(tasks)}) for {backbone.num_experts} experts; give "
                "the backbone one expert for each task"
            )
        for name in tasks:
            check_task_name(name)
        self.tasks, self.backbone = dict(tasks), backbone
        self.frozen: tuple[str, ...] = ()

    def task_id(self, name: str) -> int:
        """The number of a task, by its name.

        Raises:
            ConfigError: If there is none of that name; lists those that there are.
        """
        names = list(self.tasks)
        if name not in names:
            raise ConfigError(
                f"unknown task '{name}'{suggest(name, names)}; this model knows {', '.join(names)}"
            )
        return names.index(name)

    def features(
        self, image: Tensor, task_ids: Tensor | int
    ) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
        """Run the backbone once over samples of any tasks.

        Args:
            image: float ``(B, C, H, W)``.
            task_ids: int64 ``(B,)``, the task of each image by its place in ``tasks``; or one int
                for all. Best on the CPU, whatever the images' device: there nobody waits for it.

        Returns:
            Of each task that has samples (in training, of every task) the maps
            ``(n, C_i, h_i, w_i)`` of its n samples, and int64 ``(n,)``, where in the batch they
            are.

        Raises:
            ValueError: If an id is none of a task's.
        """
        rows = self._rows(task_ids, len(image))
        if not isinstance(task_ids, Tensor):
            return dict.fromkeys(rows, self.backbone(image, task_ids)), rows
        maps = self.backbone(image, task_ids.to(image.device))
        return {t: [x[chosen.to(x.device)] for x in maps] for t, chosen in rows.items()}, rows

    def _rows(self, task_ids: Tensor | int, batch: int) -> dict[str, Tensor]:
        """Which samples of a batch each task has."""
        names = list(self.tasks)
        ids = [task_ids] if isinstance(task_ids, int) else task_ids.tolist()
        if ids and not 0 <= min(ids) <= max(ids) < len(names):
            raise ValueError(
                f"task_ids must be in [0, {len(names)}), one for each of {', '.join(names)}; got "
                f"{sorted(set(ids))}"
            )
        if isinstance(task_ids, int):
            return {names[task_ids]: torch.arange(batch)}
        rows = {name: (task_ids == t).nonzero()[:, 0] for t, name in enumerate(names)}
        return {name: chosen for name, chosen in rows.items() if self.training or len(chosen)}

    def freeze_but(self, trained: Sequence[str]) -> None:
        """Freeze what doesn't belong to these tasks alone.

        The outputs of all other tasks then stay as they are, bit for bit.

        Raises:
            ConfigError: If there is no such task.
        """
        own = tuple(
            part
            for name in trained
            for part in (
                f".ffn.experts.{self.task_id(name)}.",
                *(f".{part}.{name}." for part in self.own_parts),
            )
        )
        for name, parameter in self.named_parameters():
            if not any(part in f".{name}" for part in own):
                parameter.requires_grad_(False)
        self.frozen = tuple(name for name in self.tasks if name not in trained)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but for the norms of frozen tasks."""
        super().train(mode)
        for part in self.own_parts:
            for name in self.frozen:
                self.get_submodule(part).get_submodule(name).eval()
        return self


def task_experts(model: ManyTasks, where: str) -> ViTMoE:
    """The backbone of a model that takes weights made for experts of tasks.

    Raises:
        CheckpointError: If its experts are for tokens.
    """
    if not isinstance(model.backbone, ViTMoE):
        raise CheckpointError(
            f"{where}: can't be loaded into experts for tokens; weights of the same model load by "
            "init_from, others need a ViTMoE"
        )
    return model.backbone


def check_task_name(name: str) -> None:
    """Raise a ConfigError if a task can't have this name, which becomes part of weights' names."""
    if not _NAME.fullmatch(name) or hasattr(nn.ModuleDict, name):
        raise ConfigError(
            f"'{name}' can't name a task; use lower-case letters, digits, - and _, and no word "
            "that torch's ModuleDict keeps for itself"
        )


def experts_from_ffn(
    state: Mapping[str, Tensor], num_experts: int, part_features: int
) -> dict[str, Tensor]:
    """Turn the feed-forward layers of a plain ViT into those of a ViT-MoE to start from.

    In every block the last r rows of the second matrix become every expert, and the rows above them
    the shared part, so that features of every task equal those of the plain ViT.

    Args:
        state: Holds ``<anything>layers.<i>.ffn.layers.1.{weight,bias}``; other keys are kept.
        num_experts: Experts E of the model.
        part_features: Output channels r of an expert.

    Source:
        S5 dossier f.3, official `load_moe_ffn_weights`.
    """
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        block, found, kind = key.partition(".ffn.layers.1.")
        if not found:
            converted[key] = value
            continue
        converted[key] = value[:-part_features]
        for expert in range(num_experts):
            converted[f"{block}.ffn.experts.{expert}.{kind}"] = value[-part_features:]
    return converted
