"""CAT-Seg, GSNet and RSKT-Seg inside detectron2, configured by the official yaml files.

Importing this module registers the data sets under their official names in ``DatasetCatalog`` and
``MetadataCatalog`` (folders under ``$DETECTRON2_DATASETS``, default ``datasets``), and the models
as ``CATSeg``, ``GSNet`` and ``RSKT_Seg`` in ``META_ARCH_REGISTRY``. Checkpoints that detectron2
writes have the official keys, so that the official code and `swath convert` read them.

Official code: `config.py`, `train_net.py`, `data/datasets` and the mapper "mask_former_semantic" of
https://github.com/yecy749/GSNet, https://github.com/LiBingyu01/RSKT-Seg and
https://github.com/cvlab-kaist/CAT-Seg.
Departs: CLIP's and RemoteCLIP's files aren't fetched but named in the config, and the official JSON
files of class names needn't be there. Keys that have one value in every official file can't be
changed.
"""

import argparse
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from swath.core.checkpoint.official import load_strict
from swath.core.checkpoint.safe import load_file
from swath.core.errors import ConfigError, MissingDependencyError
from swath.ovseg import vocabularies
from swath.ovseg.augment import published_augment
from swath.ovseg.clip import CLIP_MEAN, CLIP_SIZES, CLIP_STD, guiding_blocks
from swath.ovseg.datasets import DATASETS
from swath.ovseg.models import catseg, gsnet, rskt_seg
from swath.ovseg.models.base import ViTSegmenter
from swath.ovseg.models.towers import pretrained
from swath.ovseg.optimizers import OpenVocabularyAdamW
from swath.ovseg.prompts import templates
from swath.ovseg.protocols import PublishedProtocol
from swath.ovseg.task import OpenVocabularyTask

try:
    from detectron2.config import CfgNode, get_cfg
    from detectron2.data import (
        DatasetCatalog,
        MetadataCatalog,
        build_detection_train_loader,
        detection_utils,
    )
    from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
    from detectron2.evaluation import SemSegEvaluator
    from detectron2.modeling import META_ARCH_REGISTRY
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"detectron2 can't be imported (no module named '{error.name}'); put its source tree on "
        "PYTHONPATH, of which nothing needs to be compiled, and install what it imports: "
        "docs/guides/interop.md"
    ) from error

# --- data sets ------------------------------------------------------------------------------------

NAMES: Mapping[str, tuple[str, str, str]] = {
    "LandDiscover_50K": ("landdiscover50k", "LandDiscover50K", "all"),
    "FloodNet": ("gsnet-floodnet", "FloodNet", "all"),
    "FLAIR_test": ("gsnet-flair", "FLAIR", "all"),
    "FAST_val": ("gsnet-fast", "SAMRS/FAST", "all"),
    "potsdam_all": ("gsnet-potsdam", "PotsdamSplit", "all"),
    "DLRSD_train_sem_seg": ("ovrsis-dlrsd", "DLRSD_split", "train"),
    "DLRSD_val_sem_seg": ("ovrsis-dlrsd", "DLRSD_split", "val"),
    "DLRSD_all_sem_seg": ("ovrsis-dlrsd", "DLRSD", "all"),
    "iSAID_train_sem_seg": ("ovrsis-isaid", "iSAID_split", "train"),
    "iSAID_val_sem_seg": ("ovrsis-isaid", "iSAID_split", "val"),
    "iSAID_all_sem_seg": ("ovrsis-isaid", "iSAID", "all"),
    "Potsdam_all_sem_seg": ("ovrsis-potsdam", "Potsdam", "all"),
    "Vaihingen_all_sem_seg": ("ovrsis-vaihingen", "Vaihingen", "all"),
    "LoveDA_all_sem_seg": ("ovrsis-loveda", "LoveDA", "all"),
    "uavid_all_sem_seg": ("ovrsis-uavid", "uavid", "all"),
    "UDD5_all_sem_seg": ("ovrsis-udd5", "UDD5", "all"),
    "VDD_all_sem_seg": ("ovrsis-vdd", "VDD", "all"),
}
"""Official name: name in Swath, folder, split."""

_CLASS_LISTS: Mapping[str, Sequence[str]] = {
    "landdiscover": vocabularies.LANDDISCOVER,
    "floodnet": vocabularies.FLOODNET,
    "flair": vocabularies.FLAIR,
    "fast": vocabularies.FAST,
    "potsdam": vocabularies.POTSDAM,
    "DLRSD": vocabularies.DLRSD,
    "iSAID": vocabularies.ISAID,
    "Potsdam": vocabularies.ISPRS,
    "Vaihingen": vocabularies.ISPRS,
    "LoveDA": vocabularies.LOVEDA,
    "uavid": vocabularies.UAVID,
    "UDD5": vocabularies.UDD5,
    "VDD": vocabularies.VDD,
}
"""What the official JSON files of these names hold."""

_SPECS = {spec.name: spec for spec in DATASETS}


def records(name: str, folder: str, split: str) -> list[dict[str, str]]:
    """A data set as detectron2 wants it: the files of images and masks.

    Args:
        name: In Swath.
        folder: Under ``$DETECTRON2_DATASETS``.
        split: A split's name or ``"all"``.

    Raises:
        DataError: If the folder isn't there or isn't laid out as it should be.
    """
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / folder
    _, items = _SPECS[name].items(root, split)
    return [{"file_name": str(i.image), "sem_seg_file_name": str(i.label)} for i in items]


def _register_datasets() -> None:
    for official, (name, folder, split) in NAMES.items():
        protocol = _SPECS[name].protocol()
        DatasetCatalog.register(official, partial(records, name, folder, split))
        MetadataCatalog.get(official).set(
            stuff_classes=list(protocol.classes),
            stuff_colors=[list(colour) for colour in protocol.palette],
            ignore_label=protocol.ignore_index,
            evaluator_type="sem_seg",
        )


def class_names(path: str) -> list[str]:
    """The names in a JSON file; if it isn't there, those that the official file of its name has.

    Raises:
        ConfigError: If it isn't there and isn't one of the official files either.
    """
    if Path(path).is_file():
        return [str(name) for name in json.loads(Path(path).read_text())]
    if Path(path).stem in _CLASS_LISTS:
        return list(_CLASS_LISTS[Path(path).stem])
    raise ConfigError(
        f"{path}: no such file of class names, and none is known as '{Path(path).stem}'; known: "
        f"{', '.join(_CLASS_LISTS)}"
    )


# --- configuration --------------------------------------------------------------------------------

_READ: dict[str, Any] = {
    "SOLVER.CLIP_MULTIPLIER": 0.01,
    "TEST.SLIDING_WINDOW": False,
    "MODEL.PROMPT_ENSEMBLE_TYPE": "single",
    "MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON": "",
    "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON": "",
    "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED": "ViT-B/16",
    "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED_WEIGHTS": "",
    "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED_WEIGHTS_REMOTE": "",
    "MODEL.SEM_SEG_HEAD.CLIP_FINETUNE": "attention",
    "MODEL.SEM_SEG_HEAD.DINO_FINETUNE": "freeze",
    "MODEL.SEM_SEG_HEAD.DINO_WEIGHTS": "",
    "MODEL.SEM_SEG_HEAD.USE_CLIP_CORR": True,
    "MODEL.SEM_SEG_HEAD.USE_DINO_CORR": True,
    "MODEL.SEM_SEG_HEAD.USE_ROTATE": True,
    "MODEL.SEM_SEG_HEAD.USE_REMOTE_CLIP": True,
    "MODEL.SEM_SEG_HEAD.USE_REMOTE_DINO": True,
    "MODEL.SEM_SEG_HEAD.USE_EFFICIENT": True,
    "MODEL.SEM_SEG_HEAD.FUSION_TYPE": "query_guided",
    "MODEL.SEM_SEG_HEAD.TEXT_GUIDANCE_PROJ_DIM": 128,
    "MODEL.SEM_SEG_HEAD.APPEARANCE_GUIDANCE_PROJ_DIM": 128,
    "MODEL.SEM_SEG_HEAD.DECODER_DIMS": [64, 32],
    "MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_DIMS": [256, 128],
    "MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_PROJ_DIMS": [32, 16],
    "MODEL.SEM_SEG_HEAD.DECODER_CLIP_GUIDANCE_PROJ_DIMS": [32, 16],
    "MODEL.SEM_SEG_HEAD.DECODER_DINO_GUIDANCE_PROJ_DIMS": [32, 16],
    "MODEL.SEM_SEG_HEAD.NUM_LAYERS": 2,
    "MODEL.SEM_SEG_HEAD.NUM_HEADS": 4,
    "MODEL.SEM_SEG_HEAD.HIDDEN_DIMS": 128,
    "MODEL.SEM_SEG_HEAD.POOLING_SIZES": [2, 2],
    "MODEL.SEM_SEG_HEAD.WINDOW_SIZES": 12,
    "MODEL.SEM_SEG_HEAD.ATTENTION_TYPE": "linear",
}
"""Keys of the official code beside detectron2's, with the values of ViT-B/16's files."""

_FIXED: dict[str, Any] = {
    "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic",
    "INPUT.FORMAT": "RGB",
    "INPUT.COLOR_AUG_SSD": True,
    "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "MODEL.CLIP_PIXEL_MEAN": list(CLIP_MEAN),
    "MODEL.CLIP_PIXEL_STD": list(CLIP_STD),
    "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED_REMOTE": "ViT-B/32",
    "MODEL.SEM_SEG_HEAD.CLIP_REMOTE_FINETUNE": "frozen",
    "MODEL.SEM_SEG_HEAD.FEATURE_RESOLUTION": [24, 24],
    "MODEL.SEM_SEG_HEAD.PROMPT_DEPTH": 0,
    "MODEL.SEM_SEG_HEAD.PROMPT_LENGTH": 0,
}
"""Keys that have one value in every official file, and only that here."""

_UNREAD: dict[str, Any] = {
    "INPUT.SIZE_DIVISIBILITY": 384,
    "SOLVER.BACKBONE_MULTIPLIER": 0.0,
    "MODEL.SEM_SEG_HEAD.TEXT_GUIDANCE_DIM": 512,
    "MODEL.SEM_SEG_HEAD.APPEARANCE_GUIDANCE_DIM": 512,
    "MODEL.SEM_SEG_HEAD.DECODER_CLIP_GUIDANCE_DIMS": [256, 128],
    "MODEL.SEM_SEG_HEAD.DECODER_DINO_GUIDANCE_DIMS": [256, 128],
}
"""Keys that say again what follows from others, or what these models don't have."""

_SIZES = {"ViT-B/16": "b", "ViT-L/14@336px": "l"}


def add_config(cfg: CfgNode) -> None:
    """Add the official code's keys to detectron2's config, with the values of ViT-B/16's files."""
    for key, value in (_READ | _FIXED | _UNREAD).items():
        *parts, last = key.split(".")
        node = cfg
        for part in parts:
            node = node.setdefault(part, CfgNode())
        node[last] = value


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """A config from an official yaml file.

    Args:
        path: The file.
        overrides: Keys and values in turn, as on detectron2's command line.

    Raises:
        ConfigError: If a key is unknown, or has a value that isn't offered here.
    """
    cfg = get_cfg()
    add_config(cfg)
    try:
        cfg.merge_from_file(str(path), allow_unsafe=False)
        cfg.merge_from_list(list(overrides))
    except (KeyError, AssertionError, ValueError, OSError) as error:
        raise ConfigError(f"{path}: {error}; see docs/guides/interop.md for the keys") from error
    for key, only in _FIXED.items():
        value: Any = reduce(getitem, key.split("."), cfg)
        if (list(value) if isinstance(value, tuple) else value) != only:
            raise ConfigError(f"{path}: {key} is {value}; only {only} is offered here")
    return cfg


# --- models ---------------------------------------------------------------------------------------


class Segmenter(nn.Module):
    """A model of ours as detectron2 calls it; its state dict has the official keys.

    In training, ``forward(inputs)`` takes what `TrainingMapper` makes and returns losses; in
    evaluation, what detectron2's ``DatasetMapper`` makes, and returns for each image ``"sem_seg"``,
    probabilities ``(K, height, width)`` at its original size, by the published protocol.

    Args:
        cfg: The config. Towers begin with the files that it names, unless ``MODEL.WEIGHTS`` brings
            everything.

    Attributes:
        model: The model of ours.
        published: Its module, which knows the official keys.

    Raises:
        ConfigError: If a name in the config is unknown.
        CheckpointError: If a tower's file doesn't fit.
    """

    published: ModuleType

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        head = cfg.MODEL.SEM_SEG_HEAD
        if head.CLIP_PRETRAINED not in _SIZES:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED is {head.CLIP_PRETRAINED}; "
                f"use one of {', '.join(_SIZES)}"
            )
        self.model = self.build(head, templates(cfg.MODEL.PROMPT_ENSEMBLE_TYPE))
        if not cfg.MODEL.WEIGHTS:
            self._begin(head)
        self.task, self.test_task = (
            OpenVocabularyTask(
                class_names(path), cfg.MODEL.PROMPT_ENSEMBLE_TYPE, ignore_index=head.IGNORE_VALUE
            )
            for path in (head.TRAIN_CLASS_JSON, head.TEST_CLASS_JSON)
        )
        self.protocol = PublishedProtocol(slide=cfg.TEST.SLIDING_WINDOW)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD)[:, None, None], persistent=False)
        self.register_state_dict_post_hook(_write_official_keys)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_read_official_keys)  # type: ignore[no-untyped-call]
        self.to(cfg.MODEL.DEVICE)

    def build(self, head: CfgNode, ensemble: Sequence[str]) -> ViTSegmenter:
        """The model that ``MODEL.SEM_SEG_HEAD`` asks for, for so many templates."""
        raise NotImplementedError

    def _begin(self, head: CfgNode) -> None:
        """Load the towers whose files the config names; tell of the others."""
        named = {
            "clip": head.CLIP_PRETRAINED_WEIGHTS,
            "remote_clip": head.CLIP_PRETRAINED_WEIGHTS_REMOTE,
            "specialist": head.DINO_WEIGHTS or os.environ.get("RSIB_CKPT", ""),
        }
        towers = {k: v for k, v in named.items() if getattr(self.model, k, None) is not None}
        if unnamed := [tower for tower, file in towers.items() if not file]:
            warnings.warn(
                f"{', '.join(unnamed)}: no file is named, so random weights are where they begin; "
                "see docs/guides/interop.md",
                stacklevel=2,
            )
        files = {tower: file for tower, file in towers.items() if file}
        pretrained(self.model, files, round_to_half=True)

    def forward(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[Any]:
        """See the class."""
        images = [(x["image"].to(self.mean) - self.mean) / self.std for x in inputs]
        if self.training:
            masks = torch.stack([x["sem_seg"] for x in inputs]).to(self.mean.device)
            batch = {"image": torch.stack(images), "mask": masks}
            return {"loss_sem_seg": self.task.losses(self.model, batch)["bce"]}
        with torch.no_grad():
            text = self.test_task.text(self.model)

            def score(image: Tensor, grid: tuple[int, int]) -> Tensor:
                return self.model.score(image, text, grid)

            return [
                {"sem_seg": self.protocol.scored(score, image[None], (x["height"], x["width"]))}
                for image, x in zip(images, inputs, strict=True)
            ]


def _aggregator(head: CfgNode, ensemble: Sequence[str]) -> dict[str, Any]:
    """What the three aggregators have in common."""
    return {
        "text_guidance_proj_dim": head.TEXT_GUIDANCE_PROJ_DIM,
        "appearance_guidance_proj_dim": head.APPEARANCE_GUIDANCE_PROJ_DIM,
        "decoder_dims": head.DECODER_DIMS,
        "num_layers": head.NUM_LAYERS,
        "nheads": head.NUM_HEADS,
        "hidden_dim": head.HIDDEN_DIMS,
        "pooling_size": head.POOLING_SIZES,
        "window_size": head.WINDOW_SIZES,
        "attention_type": head.ATTENTION_TYPE,
        "prompt_channel": len(ensemble),
    }


def _two_streams(head: CfgNode, ensemble: Sequence[str]) -> dict[str, Any]:
    """What the aggregators with a specialist have in common."""
    return {
        **_aggregator(head, ensemble),
        "decoder_clip_guidance_proj_dims": head.DECODER_CLIP_GUIDANCE_PROJ_DIMS,
        "decoder_dino_guidance_proj_dims": head.DECODER_DINO_GUIDANCE_PROJ_DIMS,
        "fusion_type": head.FUSION_TYPE,
    }


def _towers(head: CfgNode) -> dict[str, Any]:
    size = _SIZES[head.CLIP_PRETRAINED]
    return {
        "clip": CLIP_SIZES[size],
        "taps": guiding_blocks(size),
        "guidance_dims": head.DECODER_GUIDANCE_DIMS,
        "finetune": head.CLIP_FINETUNE,
    }


def _specialist(head: CfgNode) -> str:
    """How the specialist is tuned; officially anything but these two is frozen."""
    return head.DINO_FINETUNE if head.DINO_FINETUNE in ("attention", "full") else "freeze"


@META_ARCH_REGISTRY.register()
class CATSeg(Segmenter):
    """`swath.ovseg.models.catseg.CATSeg` for detectron2; see `Segmenter`."""

    published = catseg

    def build(self, head: CfgNode, ensemble: Sequence[str]) -> ViTSegmenter:
        """See `Segmenter.build`."""
        aggregator = {
            **_aggregator(head, ensemble),
            "decoder_guidance_proj_dims": head.DECODER_GUIDANCE_PROJ_DIMS,
        }
        return catseg.CATSeg(aggregator=aggregator, **_towers(head))


@META_ARCH_REGISTRY.register()
class GSNet(Segmenter):
    """`swath.ovseg.models.gsnet.GSNet` for detectron2; see `Segmenter`."""

    published = gsnet

    def build(self, head: CfgNode, ensemble: Sequence[str]) -> ViTSegmenter:
        """See `Segmenter.build`."""
        return gsnet.GSNet(
            aggregator=_two_streams(head, ensemble),
            use_clip=head.USE_CLIP_CORR,
            use_dino=head.USE_DINO_CORR,
            dino_finetune=_specialist(head),
            **_towers(head),
        )


@META_ARCH_REGISTRY.register()
class RSKT_Seg(Segmenter):  # noqa: N801 - the name in the official files
    """`swath.ovseg.models.rskt_seg.RSKTSeg` for detectron2; see `Segmenter`."""

    published = rskt_seg

    def build(self, head: CfgNode, ensemble: Sequence[str]) -> ViTSegmenter:
        """See `Segmenter.build`."""
        return rskt_seg.RSKTSeg(
            aggregator={**_two_streams(head, ensemble), "use_efficient": head.USE_EFFICIENT},
            use_rotate=head.USE_ROTATE,
            use_remote_clip=head.USE_REMOTE_CLIP,
            use_remote_dino=head.USE_REMOTE_DINO,
            dino_finetune=_specialist(head),
            **_towers(head),
        )


_OWN = "model."
"""Prefix of the keys of ours in a `Segmenter`."""


def _write_official_keys(
    module: Segmenter, state: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    own = prefix + _OWN
    found = {k.removeprefix(own): state.pop(k) for k in list(state) if k.startswith(own)}
    renamed = module.published.official_keys(found)
    state.update({prefix + k: v for k, v in renamed.items()})


def _read_official_keys(
    module: Segmenter, state: dict[str, Any], prefix: str, *unused: object
) -> None:
    found = {k.removeprefix(prefix): state.pop(k) for k in list(state) if k.startswith(prefix)}
    renamed = module.published.remap_official_keys(found)
    state.update({prefix + _OWN + k: v for k, v in renamed.items()})


def load_weights(model: Segmenter, path: str | Path) -> None:
    """Load an official checkpoint, or one that detectron2 wrote; every key must be accounted for.

    Raises:
        CheckpointError: If the file can't be read safely, or doesn't fit.
    """
    state = model.published.remap_official_keys(load_file(path))
    load_strict(model.model, state, where=str(path))


# --- training and evaluation ----------------------------------------------------------------------


class TrainingMapper:
    """From the files of a sample to what a `Segmenter` learns from, by the published augmentation.

    Args:
        cfg: The config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.format = cfg.INPUT.FORMAT
        self.augment = published_augment(
            cfg.INPUT.CROP.SIZE[0], cfg.INPUT.MIN_SIZE_TRAIN, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        )

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """``"image"`` uint8 ``(3, S, S)`` and ``"sem_seg"`` int64 ``(S, S)``.

        With them what the record holds, and ``"height"`` and ``"width"`` of the file, by which
        detectron2 groups images of one orientation.
        """
        pixels = detection_utils.read_image(record["file_name"], format=self.format)
        labels = detection_utils.read_image(record["sem_seg_file_name"])
        image = tv_tensors.Image(torch.tensor(pixels).permute(2, 0, 1))
        image, mask = self.augment(image, tv_tensors.Mask(torch.tensor(labels)))
        height, width = pixels.shape[:2]
        return {
            **record,
            "height": height,
            "width": width,
            "image": image.as_subclass(Tensor),
            "sem_seg": mask.as_subclass(Tensor).long(),
        }


class Trainer(DefaultTrainer):  # type: ignore[misc]
    """detectron2's trainer with the published optimiser, augmentation and evaluator."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """detectron2's loader with `TrainingMapper`."""
        return build_detection_train_loader(cfg, mapper=TrainingMapper(cfg))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """`OpenVocabularyAdamW`, which clips the norm of all gradients together."""
        solver = cfg.SOLVER
        recipe = OpenVocabularyAdamW(solver.BASE_LR, solver.WEIGHT_DECAY, solver.CLIP_MULTIPLIER)
        optimizer = recipe(model, solver.MAX_ITER).optimizer
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        limits = solver.CLIP_GRADIENTS

        def clip(*unused: object) -> None:
            nn.utils.clip_grad_norm_(weights, limits.CLIP_VALUE, limits.NORM_TYPE)

        optimizer.register_step_pre_hook(clip)
        return optimizer

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> SemSegEvaluator:
        """detectron2's evaluator, by which all three models are published."""
        return SemSegEvaluator(dataset_name, output_dir=str(Path(cfg.OUTPUT_DIR) / "inference"))

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on with the last checkpoint if there is one, else begin with ``MODEL.WEIGHTS``.

        Raises:
            CheckpointError: See `load_weights`.
        """
        if resume and self.checkpointer.has_checkpoint():
            super().resume_or_load(resume=True)
        elif self.cfg.MODEL.WEIGHTS:
            load_weights(self.checkpointer.model, self.cfg.MODEL.WEIGHTS)


def main(arguments: Sequence[str]) -> None:
    """Train, or evaluate with ``--eval-only``, as the official ``train_net.py`` does.

    Args:
        arguments: Of detectron2's command line: ``--config-file``, ``--num-gpus``, ``--resume``,
            ..., and at the end keys and values that override the file's.

    Raises:
        ConfigError: See `read_config`.
    """
    args = default_argument_parser().parse_args(list(arguments))
    read_config(args.config_file, args.opts)  # complain here, not in a process that it starts
    launch(
        _run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def _run(args: argparse.Namespace) -> Any:
    cfg = read_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS)
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


_register_datasets()
