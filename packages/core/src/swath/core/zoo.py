"""The models Swath knows by name: where they come from, and how to get one that works.

Importing this module imports no torch; cards are data that point at builders by name.
"""

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from swath.core import plugins
from swath.core.errors import CheckpointError, ConfigError, suggest
from swath.core.spec import Spec, from_data, target_name, to_data

ISAID_CLASSES = (
    "background", "ship", "storage_tank", "baseball_diamond", "tennis_court", "basketball_court",
    "ground_track_field", "bridge", "large_vehicle", "small_vehicle", "helicopter",
    "swimming_pool", "roundabout", "soccer_ball_field", "plane", "harbor",
)  # fmt: skip
"""Class order of S4P pre-training, index 0 to 15."""

ISAID_PALETTE = (
    (0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191), (0, 63, 255),
    (0, 127, 63), (0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255), (0, 191, 127),
    (0, 127, 191), (0, 127, 255), (0, 100, 155),
)  # fmt: skip
"""The data set's own colours (the official S5 code has three of them wrong, for display only)."""


@dataclass(frozen=True)
class ModelCard:
    """A published model, as data.

    Attributes:
        name: What users type.
        title: One line for people.
        task: ``"segmentation"``, ``"detection"``, ...
        paper: Authors and year.
        paper_url: Where to read it.
        official_repo: Where the official code is.
        licence_code: Licence of the official code.
        licence_weights: Licence of the weights.
        classes: Class names of the released weights, in index order.
        params: Parameters at full size, or None if the file itself says.
        weights: Where weights are to be had, and how; for people.
        builder: ``"module:function or class"`` of the model, and its arguments.
        builder_kwargs: JSON data, specs as `swath.core.spec.to_data` writes them.
        task_builder: ``"module:Class"`` of the task, and its arguments beside the classes.
        task_kwargs: The like.
        converter: ``"module:function"`` that renames the keys of an official state dict.
        builtin: ``"package:path"`` of a checkpoint of ours inside an installed package.
    """

    name: str
    title: str
    task: str
    paper: str = ""
    paper_url: str = ""
    official_repo: str = ""
    licence_code: str = ""
    licence_weights: str = ""
    classes: tuple[str, ...] = ()
    params: int | None = None
    weights: str = ""
    builder: str | None = None
    builder_kwargs: Mapping[str, Any] = field(default_factory=dict)
    task_builder: str | None = None
    task_kwargs: Mapping[str, Any] = field(default_factory=dict)
    converter: str | None = None
    builtin: str | None = None

    def builtin_path(self) -> Path:
        """The checkpoint that comes along with the package.

        Raises:
            CheckpointError: If none comes along, or it isn't there.
        """
        if self.builtin is None:
            raise CheckpointError(
                f"'{self.name}' brings no weights along; give a file with --weights (weights=...) "
                f"({self.weights})"
            )
        package, _, inside = self.builtin.partition(":")
        path = Path(str(importlib.resources.files(package))) / inside
        if not path.is_file():
            raise CheckpointError(
                f"{path}: the weights of '{self.name}' are missing from this installation; "
                "reinstall the package"
            )
        return path

    def specs(self, classes: tuple[str, ...] | None = None) -> tuple[Spec, Spec]:
        """The full-size model, without weights, and its task.

        Args:
            classes: Class names other than the released weights', for those who fine-tuned.

        Raises:
            ConfigError: If the model has no official layout, or takes no other classes.
        """
        if self.builder is None or self.task_builder is None:
            raise ConfigError(
                f"'{self.name}' has no official layout; use the file that comes along"
            )
        model = Spec(plugins.resolve(self.builder), **from_data(self.builder_kwargs))
        task = Spec(plugins.resolve(self.task_builder))
        if "classes" in (task.parameters() or ()):
            names = classes or self.classes
            task["classes"] = list(names)
            if "num_classes" in (model.parameters() or ()):
                model["num_classes"] = len(names)
        elif classes:
            raise ConfigError(f"'{self.name}' takes no other classes; leave them out")
        for name, value in self.task_kwargs.items():
            if not (classes and name == "palette"):  # the card's colours are those of its classes
                task[name] = from_data(value)
        return model, task


def _s4p(size: str, params: int, weights: str) -> ModelCard:
    return ModelCard(
        name=f"s4p-vit-{size}",
        title=f"S4P pre-trained ViT-{size.upper()} with UPerNet, iSAID classes, 512 px",
        task="segmentation",
        paper="S5, Lv et al. 2025",
        paper_url="https://arxiv.org/abs/2508.12409",
        official_repo="https://github.com/MiliLab/S5",
        licence_code="Apache-2.0 (stated in the official README)",
        licence_weights="not stated separately",
        classes=ISAID_CLASSES,
        params=params,
        weights=weights,
        builder="swath.core.models.segmentation:s4p_segmenter",
        builder_kwargs={"size": size, "num_classes": len(ISAID_CLASSES)},
        task_builder="swath.core.segmentation:SegmentationTask",
        task_kwargs={"palette": ISAID_PALETTE, "ignore_index": 255},
        converter="swath.core.models.segmentation:remap_official_keys",
    )


_RELEASED = (
    "released by the authors on Baidu Netdisk, link in the official README; the file with the "
    "whole segmentation model is needed ({}), not the backbone alone"
)

CARDS = (
    ModelCard(
        name="swath-small",
        title="Small land-cover model that comes with Swath; trained by a committed recipe",
        task="segmentation",
        licence_code="Apache-2.0",
        licence_weights="Apache-2.0; its data and their licences are in the file's own card",
        weights="in the wheel of swath-core",
        builtin="swath.core:assets/swath_small.safetensors",
    ),
    _s4p("b", 103_158_289, _RELEASED.format("vit_b_s4p_upernet.pth")),
    _s4p("l", 327_427_345, _RELEASED.format("the ViT-L counterpart of vit_b_s4p_upernet.pth")),
    _s4p("h", 663_383_057, "not released as of the official README; ViT-B and ViT-L are"),
)


@cache
def cards() -> dict[str, ModelCard]:
    """Cards of core and of every installed plugin, by name.

    A plugin that fails is left out; `problems` says why.
    """
    return _collect()[0]


@cache
def problems() -> dict[str, str]:
    """Why the cards of a plugin couldn't be read, by the plugin's name."""
    return plugins.broken() | _collect()[1]


def card(name: str) -> ModelCard:
    """The card of a model.

    Raises:
        ConfigError: If nobody knows the name; suggests the nearest.
    """
    known = cards()
    if name not in known:
        broken = "".join(f"; plugin '{p}' is broken: {e}" for p, e in problems().items())
        raise ConfigError(f"unknown model '{name}'{suggest(name, list(known))}{broken}")
    return known[name]


def load(
    name: str,
    weights: str | Path | None = None,
    device: str = "cpu",
    classes: tuple[str, ...] | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """A model of the zoo with its task.

    Args:
        name: Of its card.
        weights: Official file or one of ours, or where to fetch it (see
            `swath.core.checkpoint.fetch`); None takes the weights that come along.
        device: Where the model goes.
        classes: Class names, if the file was fine-tuned to others than the card's.

    Returns:
        The model in eval mode, its task, and a description like `checkpoint.store.load_pair`'s.

    Raises:
        ConfigError: If nobody knows the name.
        CheckpointError: If no weights come along, or the file doesn't fit.
    """
    from swath.core.checkpoint.fetch import locate
    from swath.core.checkpoint.safe import read_metadata
    from swath.core.checkpoint.store import load_pair

    found = card(name)
    if weights is None:
        return load_pair(found.builtin_path(), device)
    file = locate(weights)
    if "swath" in read_metadata(file):
        _check_kind(found, file)
        return load_pair(file, device)
    model, model_spec, task_spec, about = _load_official(found, file, classes)
    description = {"model": to_data(model_spec), "task": to_data(task_spec), "card": about}
    return model.to(device).eval(), task_spec.build(), description


def _check_kind(found: ModelCard, path: Path) -> None:
    """Refuse a checkpoint of ours that holds another model than the card's."""
    from swath.core.checkpoint.store import describe

    description = describe(path)
    holds, named = description["model"].get("_target_"), description["card"].get("name")
    wanted = found.builder and target_name(plugins.resolve(found.builder))
    if holds != wanted or (named in cards() and named != found.name):
        other = named if named in cards() else holds
        raise CheckpointError(
            f"{path}: holds {other}, not '{found.name}'; give the file in place of the name"
        )


def convert(
    official: str | Path,
    name: str,
    out: str | Path,
    classes: tuple[str, ...] | None = None,
) -> dict[str, int]:
    """Turn an official checkpoint into one of ours; strict, no code of the file is executed.

    Args:
        official: The authors' file, or where to fetch it.
        name: Card of the model it is for.
        out: ``*.safetensors`` to write.
        classes: Class names, if the file was fine-tuned to others than the card's.

    Returns:
        ``{"tensors": ..., "parameters": ...}``.

    Raises:
        ConfigError: If nobody knows the name, or the model has no official layout.
        CheckpointError: If the file doesn't fit.
    """
    from swath.core.checkpoint.fetch import locate
    from swath.core.checkpoint.store import save_model

    found = card(name)
    model, model_spec, task_spec, about = _load_official(found, locate(official), classes)
    save_model(out, model, model_spec, task_spec, card=about)
    return {
        "tensors": len(model.state_dict()),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _load_official(
    found: ModelCard, path: Path, classes: tuple[str, ...] | None
) -> tuple[Any, Spec, Spec, dict[str, str]]:
    """The model with the file's weights, the specs of model and task, and where it came from."""
    from swath.core.checkpoint.official import load_strict
    from swath.core.checkpoint.safe import load_file
    from swath.core.checkpoint.unfilled import build_unfilled

    model_spec, task_spec = found.specs(classes)
    state = load_file(path)
    if found.converter is not None:
        state = plugins.resolve(found.converter)(state)
    model = build_unfilled(model_spec.build)
    load_strict(model, state, where=str(path))
    about = {
        "name": found.name,
        "title": found.title,
        "paper": found.paper,
        "official_repo": found.official_repo,
        "licence_code": found.licence_code,
        "licence_weights": found.licence_weights,
        "converted_from": path.name,
    }
    return model, model_spec, task_spec, about


@cache
def _collect() -> tuple[dict[str, ModelCard], dict[str, str]]:
    found, failed = {c.name: c for c in CARDS}, {}
    for plugin in plugins.plugins():
        for reference in plugin.get("models"):
            try:
                value = plugins.resolve(reference)
                for entry in value if isinstance(value, list | tuple) else (value,):
                    found[entry.name] = entry
            except Exception as error:  # foreign code: reported by name, never fatal
                failed[plugin.name] = f"{reference}: {type(error).__name__}: {error}"
    return found, failed
