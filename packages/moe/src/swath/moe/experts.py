"""Adding a task to a trained model without touching the others."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from swath.core.checkpoint.official import load_strict
from swath.core.checkpoint.store import load_pair, save_model
from swath.core.errors import CheckpointError, ConfigError
from swath.core.spec import Spec, from_data
from swath.moe.models.many_tasks import ManyTasks, check_task_name
from swath.moe.models.vit_moe import ViTMoE
from swath.moe.task import MultiDatasetTask

_OF_CLASSES = ("palette", "class_weights", "mean_without")
"""Arguments of a data set's task that speak of its classes."""


def add_expert(
    checkpoint: str | Path,
    name: str,
    classes: Sequence[str],
    out: str | Path,
    like: str | None = None,
    seed: int = 0,
) -> None:
    """Write a copy of a checkpoint whose model has one more task.

    The new task's experts and decoder, or detection head, are copies of another task's; what scores
    its classes is drawn anew. It reads and judges images as the other task does, whatever bands and
    number type these have. What the model says for the other tasks stays as it is, bit for bit.
    Train it with ``init_from`` and ``trained=[name]`` (see `MDFSegmenter` and `MDFDetector`), and
    that holds for the trained model too.

    Args:
        checkpoint: Of ours, of an `MDFSegmenter` or an `MDFDetector`.
        name: Of the new task.
        classes: Its class names in index order.
        out: The ``*.safetensors`` to write.
        like: Task to begin from; default: the first.
        seed: Of the new head.

    Raises:
        CheckpointError: If it holds another kind of model, or can't be read.
        ConfigError: If there is such a task already, no task ``like``, or no class or one twice.
    """
    model, task, about = load_pair(checkpoint)
    if not isinstance(model, ManyTasks) or not isinstance(task, MultiDatasetTask):
        raise CheckpointError(
            f"{checkpoint} holds a {type(model).__name__} for {task.kind}; experts are added to an "
            "MDFSegmenter or MDFDetector, such as moe_seg_vitb or moe_det_vitb trains"
        )
    check_task_name(name)
    if name in model.tasks:
        raise ConfigError(f"{checkpoint} has a task '{name}' already; choose another name")
    if not classes:
        raise ConfigError(f"'{name}' needs at least one class")
    if twice := [label for label, count in Counter(classes).items() if count > 1]:
        raise ConfigError(f"class '{twice[0]}' of '{name}' is named twice; name each class once")
    template = next(iter(model.tasks)) if like is None else like
    origin, number = model.task_id(template), len(model.tasks)

    model_spec = _with_task(from_data(about["model"]), model, name, len(classes))
    torch.manual_seed(seed)
    grown: ManyTasks = model_spec.build()
    state = grown.state_dict() | model.state_dict()
    for key in grown.state_dict():
        source = key.replace(f".experts.{number}.", f".experts.{origin}.")
        if not any(part in key for part in grown.class_parts):
            for part in grown.own_parts:
                source = source.replace(f"{part}.{name}.", f"{part}.{template}.")
        if source != key:
            state[key] = state[source]
    load_strict(grown, state, where=str(checkpoint))

    task_spec = from_data(about["task"])
    like_spec: Spec = task_spec["tasks"][template]
    shared = {k: v for k, v in like_spec.kwargs.items() if k not in _OF_CLASSES}
    own = Spec(like_spec.target, **{**shared, "classes": list(classes)})
    task_spec["tasks"] = {**task_spec["tasks"], name: own}
    save_model(out, grown, model_spec, task_spec, card=about["card"])


def _with_task(spec: Spec, model: ManyTasks, name: str, classes: int) -> Spec:
    """The model's spec with one more task, and with an expert for it if experts are for tasks."""
    arguments: dict[str, Any] = {**spec.kwargs, "tasks": {**model.tasks, name: classes}}
    arguments.pop("trained", None)
    if "backbone" in arguments and isinstance(model.backbone, ViTMoE):
        backbone: Spec = arguments["backbone"]
        experts = max(model.backbone.num_experts, len(arguments["tasks"]))
        arguments["backbone"] = Spec(backbone.target, **{**backbone.kwargs, "num_experts": experts})
    return Spec(spec.target, **arguments)
