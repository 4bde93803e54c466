"""The eight tasks of RemoteSAM: what is asked, and what is made of the probability maps.

Paper: RemoteSAM, Yao et al. 2025, arXiv:2505.18022, section 3.3. Official code:
https://github.com/1e12Leon/RemoteSAM, `tasks/code/model.py`; dossier section 3.

None needs training: a task asks the network for a sentence, or for every class as "NAME in the
image", and the rest is `swath.refseg.postprocess`. What doesn't depend on the sentence is computed
once per image, classes are asked in batches of bounded size, and the words of sentences are kept
for the next image.
"""

import copy
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from tempfile import TemporaryFile
from typing import IO, Any, ClassVar, Literal, Self, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError, RasterError, suggest
from swath.core.inference.answers import CaptionResult
from swath.core.inference.objects import DetectionResult
from swath.core.inference.predictor import open_image
from swath.core.inference.results import SegmentationResult
from swath.core.inference.tiler import (
    Plan,
    Scene,
    TilePrediction,
    blend_logits,
    blend_segmentation,
    plan_tiles,
)
from swath.core.palette import default_palette
from swath.core.sample import Sample
from swath.core.task import Batch, Metrics, Task
from swath.core.viz.overlay import display_rgb
from swath.refseg import captions, postprocess
from swath.refseg.epoc import THRESHOLD, Epoc
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.preprocess import Fit, fitted, squared
from swath.refseg.results import ChosenClass, CountedObjects, PresentClasses
from swath.refseg.task import ReferringTask
from swath.refseg.text import PROMPT, WordPieces

Regions = Literal["auto", "scene", "tile"]
"""What of a large image is looked at in one piece: all of it, shrunk, so that "on the right" means
the right of the scene and small objects are lost; or tiles about as large as the network's input,
where it means the right of every tile. ``"auto"`` takes the scene for a sentence of the user's, and
for classes tiles where the image is more than twice as large as the network's input."""

EMPTY = (0, 0, 0)

PIECE = 1024
"""Largest side of the parts, px, in which a map is written whose scene was looked at in one."""


class Ask(Task):
    """One of the eight tasks; made by `ask`.

    Args:
        whole: What the model was trained for: its tokeniser, input size and radiometry.

    Attributes:
        classes: Names that are asked for, or the name of what a sentence means.
        takes: ``"classes"`` or ``"text"``.
        prompt: What a class name is asked as.
        regions: See `Regions`.
        fit: See `swath.refseg.preprocess.Fit`.
        sentences_at_once: How many sentences go through the network together: memory is bounded by
            it whatever the number of classes.
    """

    score = "oIoU"
    takes: ClassVar[Literal["classes", "text"]] = "classes"

    def __init__(self, whole: ReferringTask) -> None:
        self.whole = whole
        self.radiometry: Radiometry = whole.radiometry
        self.tokenizer, self.input_size = whole.tokenizer, whole.input_size
        self.classes: tuple[str, ...] = ()
        self.prompts: tuple[str, ...] = ()
        self.prompt = PROMPT
        self.regions: Regions = "auto"
        self.fit: Fit = "resize"
        self.sentences_at_once = 4

    @property
    def align(self) -> int | None:
        """Multiples of what tiles begin at, px; None where the network's stride decides.

        Tiles that are fitted to the network's input have a grid of their own.
        """
        return None if self.fit == "native" else max(self.input_size // 16, 1)

    @property
    def name(self) -> str:
        """What the task is called; see `TASKS`."""
        return next(name for name, kind in {**TASKS, **_MORE}.items() if kind is type(self))

    def with_classes(self, classes: Sequence[str]) -> Self:
        """The task for these classes.

        Raises:
            ConfigError: If there are none, one is empty, or the task takes a sentence.
        """
        if self.takes == "text":
            raise ConfigError(f"{self.name} takes a sentence, not classes; give text")
        names = postprocess.check_classes(classes)
        return self._asking(names, tuple(self.prompt.format(name) for name in names))

    def with_text(self, text: str) -> Self:
        """The task for this sentence.

        Raises:
            ConfigError: If it is empty or no text, or the task takes classes.
        """
        if self.takes == "classes":
            raise ConfigError(f"{self.name} takes class names, not a sentence; give classes")
        if not isinstance(text, str):
            raise ConfigError(f"text={text!r} isn't one sentence; give a str, and ask one by one")
        if not text.strip():
            raise ConfigError("the sentence is empty; say what to look for")
        return self._asking((text.strip(),), (text.strip(),))

    def _asking(self, classes: tuple[str, ...], prompts: tuple[str, ...]) -> Self:
        asked = copy.copy(self)
        asked.classes, asked.prompts = classes, prompts
        self.tokenizer.warn(prompts)
        return asked

    def with_options(self, **options: Any) -> Self:
        """The task with other values for its attributes.

        Raises:
            ConfigError: If it has no such option, or this holds values of another type.
        """
        changed, usual = copy.copy(self), vars(type(self)(self.whole))
        known = [name for name in usual if name not in _NO_OPTIONS]
        for name, value in options.items():
            if name not in known:
                raise ConfigError(f"{self.name} has no option '{name}'{suggest(name, known)}")
            _check_type(name, value, usual[name])
            setattr(changed, name, value)
        return changed

    def check(self) -> None:
        """Refuse what makes no sense before anything is run.

        Raises:
            ConfigError: If nothing is asked for, or an attribute has a value that it can't have.
        """
        if not self.prompts:
            raise ConfigError(
                f"{self.name}: say what to look for, with {self.takes}=... (--{self.takes})"
            )
        for name, kind in (("regions", Regions), ("fit", Fit)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise ConfigError(f"{name}='{value}' isn't known; choose one of {', '.join(known)}")
        if self.sentences_at_once < 1:
            raise ConfigError(f"sentences_at_once={self.sentences_at_once} must be 1 or more")

    def select(self, model: nn.Module, name: str) -> tuple[nn.Module, Task]:
        """Another of the eight tasks of the same model; see `ReferringTask.select`."""
        return self.whole.select(model, name)

    def auto_tile(self, height: int, width: int) -> int | None:
        """Largest side of a tile of such an image, or None for one piece; see `Regions`."""
        tiled = self.regions == "tile" or (
            self.regions == "auto"
            and self.takes == "classes"
            and max(height, width) > 2 * self.input_size
        )
        return self.input_size if tiled else None

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Images fitted to the network, ``"image"``, and their ``"sizes"`` before padding."""
        images, sizes = [], []
        for sample in samples:
            raw = sample.image.as_subclass(Tensor)
            dtype = str(raw.dtype).removeprefix("torch.")
            where = str(sample.meta.get("path", "the image"))
            self.radiometry.check(dtype, raw.shape[0], where=where)
            image = self.radiometry(fitted(raw, self.input_size, self.fit))
            sizes.append((image.shape[-2], image.shape[-1]))
            images.append(squared(image, self.input_size, self.fit))
        return {"image": torch.stack(images), "sizes": sizes}

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """None of the eight is trained by itself.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.name} isn't trained by itself; train a ReferringTask")

    def metrics(self) -> Metrics:
        """See `swath.refseg.protocols`, which judges each task on its data sets.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.name} is judged by swath refseg test")

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Margins ``(K, h, w)`` of each image: the object's logit less the other, by prompt."""
        assert isinstance(model, RemoteSAM)
        words, mask = self._words(model)
        return [
            margins(model, image[None], words, mask, self.sentences_at_once)[:, :height, :width]
            for image, (height, width) in zip(batch["image"], batch["sizes"], strict=True)
        ]

    def _words(self, model: RemoteSAM) -> tuple[Tensor, Tensor]:
        device = next(model.parameters()).device
        rows = [_encoded(model, self.tokenizer, prompt, device) for prompt in self.prompts]
        return torch.cat([words for words, _ in rows]), torch.cat([mask for _, mask in rows])

    def merge(self, tiles: Iterable[Any], scene: Any) -> Any:
        """Make the answer of the margins of a scene's tiles.

        Those of several tiles are joined on disk, 2 bytes per pixel and prompt, so that memory
        holds the maps of one class at a time.

        Raises:
            RasterError: If no pixel of the scene is valid.
        """
        if len(scene.plan) == 1:
            margins, valid = _only(tiles, scene)
            return self.answer(margins.cpu(), valid, scene)
        with TemporaryFile() as file:
            joined = _joined(_at_tile_size(tiles), scene, len(self.prompts), file)
            return self.answer(*joined, scene)

    def answer(self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene) -> Any:
        """The result.

        Args:
            margins: ``(K, h, w)``, of the whole image at the network's size or the image's own.
            valid: ``(H, W)``, pixels that the sensor saw.
            scene: The image.
        """
        raise NotImplementedError

    def maps(
        self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene
    ) -> Iterator[tuple[postprocess.Mask, postprocess.Probabilities]]:
        """Mask and probabilities ``(H, W)`` of each prompt in turn, 0 where nothing was seen."""
        size = scene.info.height, scene.info.width
        unseen = None if valid.all() else ~valid
        for margin in margins:
            (mask,), (probability,) = postprocess.as_maps(margin[None], size)
            if unseen is not None:
                mask[unseen], probability[unseen] = 0, 0
            yield mask, probability


class _Segmenting(Ask):
    """Tasks whose answer is a map: background, or the surest of what was asked for."""

    def merge(self, tiles: Iterable[Any], scene: Any) -> SegmentationResult:
        """Blend the tiles' logits, streaming: their memory doesn't grow with the scene."""
        task = copy.copy(self)
        task.classes = ("background", *self.classes)
        task.palette = (EMPTY, *default_palette(len(self.classes)))  # type: ignore[attr-defined]
        plan = scene.plan
        if len(plan) == 1:
            plan = plan_tiles(plan.height, plan.width, PIECE, overlap=0, blend=0)
            resized = _pieces(*_only(tiles, scene), plan)
        else:
            resized = _at_tile_size(tiles)
        competing = (_with_background(tile) for tile in resized)
        return blend_segmentation(competing, replace(scene, task=task, plan=plan))


class ReferringSegmentation(_Segmenting):
    """The mask of what a sentence means: a `SegmentationResult`, 1 where it means."""

    kind = "segmentation"
    takes = "text"


class SemanticSegmentation(_Segmenting):
    """A map of classes: a `SegmentationResult`, 0 where none was found.

    Officially classes don't compete; where several are found the surest has the pixel here. The
    masks of each by itself are those of `RemoteSAMPredictor.masks`.
    """

    kind = "segmentation"


class Detection(Ask):
    """Boxes around the objects of each class: a `DetectionResult`.

    Attributes:
        oriented: Rectangles of least area instead of upright boxes.
        use_epoc: A boundary model that tells touching objects apart, or None.
        epoc_threshold: Boundary probability above which it does.
    """

    kind = "detection"

    def __init__(self, whole: ReferringTask) -> None:
        super().__init__(whole)
        self.oriented = False
        self.use_epoc: Epoc | None = None
        self.epoc_threshold = THRESHOLD

    def check(self) -> None:
        """See `Ask.check`."""
        super().check()
        if self.use_epoc is not None and not callable(self.use_epoc):
            raise ConfigError(
                f"use_epoc={self.use_epoc} isn't a boundary model; give one, "
                "use_epoc=Epoc(FOLDER) of swath.refseg.epoc"
            )

    def answer(self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene) -> Any:
        """See `Ask.answer`."""
        return _as_detections(DetectionResult, self.boxes(margins, valid, scene), self, scene)

    def boxes(
        self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene
    ) -> dict[str, postprocess.Boxes]:
        """Boxes by class; see `swath.refseg.postprocess.Boxes`."""
        edges = None
        if self.use_epoc is not None:
            edges = self.use_epoc(_rgb(scene)) > self.epoc_threshold
        return {
            name: postprocess.detect(*maps, edges, oriented=self.oriented)
            for name, maps in zip(self.classes, self.maps(margins, valid, scene), strict=True)
        }


class Counting(Detection):
    """How many objects there are of each class, and where: `CountedObjects`.

    Attributes:
        min_areas: Boxes of no more than this area in square pixels don't count, by class; the
            official evaluation takes 0.8 times `swath.refseg.sets.DIOR_PRIORS`.
    """

    kind = "counting"

    def __init__(self, whole: ReferringTask) -> None:
        super().__init__(whole)
        self.min_areas: dict[str, float] = {}

    def check(self) -> None:
        """See `Ask.check`."""
        super().check()
        for name in self.min_areas:
            if name not in self.classes:
                near = suggest(name, list(self.classes))
                raise ConfigError(f"min_areas: '{name}' isn't one of the classes{near}")

    def answer(self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene) -> Any:
        """See `Ask.answer`."""
        found = self.boxes(margins, valid, scene)
        for name, area in self.min_areas.items():
            found[name] = postprocess.larger_than(found[name], area)
        return _as_detections(CountedObjects, found, self, scene)


class VisualGrounding(Ask):
    """The rectangle around all that a sentence means: a `DetectionResult` of at most one box."""

    kind = "detection"
    takes = "text"

    def answer(self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene) -> Any:
        """See `Ask.answer`."""
        (maps,) = self.maps(margins, valid, scene)
        parts = postprocess.mask_to_boxes(*maps)
        around = postprocess.enclosing(parts)
        found = np.zeros((0, 5)) if around is None else np.array([[*around, parts[:, 4].max()]])
        return _as_detections(DetectionResult, {self.classes[0]: found}, self, scene)


class MultiLabelClassification(Ask):
    """Which of several classes an image shows: `PresentClasses`.

    Attributes:
        balance: Weight of the largest probability in a class's score; the mean has the rest.
    """

    kind = "multi-label classification"

    def __init__(self, whole: ReferringTask) -> None:
        super().__init__(whole)
        self.balance = 0.5

    def check(self) -> None:
        """See `Ask.check`."""
        super().check()
        if not 0 <= self.balance <= 1:
            raise ConfigError(f"balance={self.balance} must be in 0..1")

    def answer(self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene) -> Any:
        """See `Ask.answer`."""
        return PresentClasses(self.classes, _presence(margins, valid, self.balance))


class MultiClassClassification(MultiLabelClassification):
    """Which one of several classes an image shows: `ChosenClass`.

    Attributes:
        balance: See `MultiLabelClassification`.
    """

    kind = "classification"

    def __init__(self, whole: ReferringTask) -> None:
        super().__init__(whole)
        self.balance = 1.0

    def answer(self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene) -> Any:
        """See `Ask.answer`."""
        return ChosenClass(self.classes, _presence(margins, valid, self.balance))


class Captioning(Detection):
    """A sentence or two about what is where: a `CaptionResult`.

    Attributes:
        region_split: Number of regions that are spoken of, 4 or 9.
        seed: Of the choice of words.
        official_when_empty: See `swath.refseg.captions.caption`.
    """

    kind = "captioning"

    def __init__(self, whole: ReferringTask) -> None:
        super().__init__(whole)
        self.region_split, self.seed, self.official_when_empty = 9, 0, False

    def check(self) -> None:
        """See `Ask.check`."""
        super().check()
        captions.check_regions(self.region_split)

    def answer(self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene) -> Any:
        """See `Ask.answer`."""
        boxes = self.boxes(margins, valid, scene).items()
        found = {name: postprocess.upright(b).tolist() for name, b in boxes}
        choose = captions.chooser(random.Random(self.seed))
        size = scene.info.height, scene.info.width
        text = captions.caption(
            found, *size, self.region_split, choose, official_when_empty=self.official_when_empty
        )
        return CaptionResult(text)


class IndependentMasks(Ask):
    """Mask and probabilities of each class by itself, by name; not one of the eight."""

    kind = "masks"

    def answer(self, margins: Tensor, valid: NDArray[np.bool_], scene: Scene) -> Any:
        """See `Ask.answer`."""
        return dict(zip(self.classes, self.maps(margins, valid, scene), strict=True))


TASKS: dict[str, type[Ask]] = {
    "referring_seg": ReferringSegmentation,
    "semantic_seg": SemanticSegmentation,
    "detection": Detection,
    "visual_grounding": VisualGrounding,
    "multi_label_cls": MultiLabelClassification,
    "multi_class_cls": MultiClassClassification,
    "captioning": Captioning,
    "counting": Counting,
}
"""The eight tasks by their official names."""

_MORE: dict[str, type[Ask]] = {"masks": IndependentMasks}

SHORT = {"referring": "referring_seg", "semantic": "semantic_seg", "grounding": "visual_grounding"}
"""Other names for some of them."""


_NO_OPTIONS = ("whole", "radiometry", "tokenizer", "input_size", "classes", "prompts")
"""Attributes of a task that come from elsewhere."""

_TYPES = ((bool, "True or False"), (Integral, "a whole number"), (Real, "a number"),
          (Mapping, "a dict"), (str, "a text"))  # fmt: skip
"""What an option may be whose usual value is such; a bool is an int too, so it comes first."""


def _check_type(name: str, value: Any, usual: Any) -> None:
    for kind, what in _TYPES:
        if isinstance(usual, kind):
            if not isinstance(value, kind):
                raise ConfigError(f"{name}={value!r} must be {what}")
            return


def unchosen() -> ConfigError:
    """What to say when no task was chosen."""
    return ConfigError(
        f"this model does several tasks; choose one of {', '.join(TASKS)} "
        "(predict(..., task=NAME), swath predict --task NAME)"
    )


def ask(name: str, whole: ReferringTask) -> Ask:
    """One of the eight tasks for a trained model.

    Raises:
        ConfigError: If there is no such task; suggests the nearest.
    """
    if "," in name:
        raise ConfigError(f"'{name}': this model is asked one task at a time; run it once for each")
    full = SHORT.get(name, name)
    if full not in TASKS | _MORE:
        raise ConfigError(f"unknown task '{name}'{suggest(name, [*TASKS, *SHORT])}")
    return (TASKS | _MORE)[full](whole)


def margins(
    model: RemoteSAM, image: Tensor, words: Tensor, mask: Tensor, at_once: int = 4
) -> Tensor:
    """The object's logit less the other for each of K sentences, looking at the image once.

    Args:
        model: The network.
        image: ``(1, 3, H, W)``.
        words: ``(K, N, D)``, see `RemoteSAM.encode_text`.
        mask: ``(K, N)``.
        at_once: Sentences that go through the network together.

    Returns:
        ``(K, H, W)``, float32.
    """
    looked = model.look(image)
    found = [
        model.decode(looked, some, present, image.shape[-2:]).float()
        for some, present in zip(words.split(at_once), mask.split(at_once), strict=True)
    ]
    return torch.cat([logits[:, 1] - logits[:, 0] for logits in found])


_Words = dict[tuple[WordPieces, str, torch.device, int], tuple[Tensor, Tensor]]
_KEPT: "WeakKeyDictionary[RemoteSAM, _Words]" = WeakKeyDictionary()
MOST_KEPT = 4096
"""Prompts whose words are kept for each model."""


def _encoded(
    model: RemoteSAM, tokenizer: WordPieces, prompt: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Words ``(1, N, D)`` and mask ``(1, N)`` of a prompt, kept while the weights stay the same."""
    kept = _KEPT.setdefault(model, {})
    weights = sum(parameter._version for parameter in model.text_encoder.parameters())
    key = tokenizer, prompt, device, weights
    if key not in kept:
        if len(kept) >= MOST_KEPT:
            kept.clear()
        ids, mask = (x.to(device) for x in tokenizer([prompt]))
        with torch.autocast(device.type, enabled=False):  # kept whatever the images are seen in
            kept[key] = model.encode_text(ids, mask), mask
    return kept[key]


def _presence(margins: Tensor, valid: NDArray[np.bool_], balance: float) -> tuple[float, ...]:
    """How surely each class is among the pixels that were seen."""
    counted = torch.from_numpy(valid)[None].float()
    seen = F.adaptive_max_pool2d(counted, margins.shape[-2:])[0] > 0  # never loses the last ones
    return tuple(
        postprocess.presence(margin[seen].float().sigmoid().numpy(), balance) for margin in margins
    )


def _unseen(scene: Scene) -> RasterError:
    return RasterError(
        f"{scene.info.name} holds no valid pixel (all nodata, transparent or NaN); check its "
        "nodata value and the bands you chose"
    )


def _only(
    tiles: Iterable[TilePrediction[Tensor]], scene: Scene
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Margins and valid pixels of a scene that was looked at in one piece."""
    (only,) = tiles
    if only.prediction is None or only.valid is None:
        raise _unseen(scene)
    return only.prediction, only.valid


def _pieces(
    margins: Tensor, valid: NDArray[np.bool_], plan: Plan
) -> Iterator[TilePrediction[Tensor]]:
    """Margins of a whole scene, enlarged to its size part by part, by nearest neighbour."""
    rows, columns = (
        _nearest(few, many).to(margins.device)
        for few, many in zip(margins.shape[-2:], (plan.height, plan.width), strict=True)
    )
    for tile in plan:
        y, x = tile.window.toslices()
        part = margins.index_select(1, rows[y]).index_select(2, columns[x])
        yield TilePrediction(tile, part, valid[y, x])


def _nearest(few: int, many: int) -> Tensor:
    """Which of few pixels each of many is nearest to, rounded as `F.interpolate` does."""
    numbers = torch.arange(few, dtype=torch.float32)
    return F.interpolate(numbers[None, None], size=many, mode="nearest")[0, 0].long()


def _at_tile_size(tiles: Iterable[TilePrediction[Tensor]]) -> Iterator[TilePrediction[Tensor]]:
    """Tiles whose margins are as large as they are, by nearest neighbour."""
    for tile in tiles:
        if tile.prediction is None:
            yield tile
            continue
        window = tile.tile.window
        size = int(window.height), int(window.width)
        yield replace(tile, prediction=F.interpolate(tile.prediction[None], size=size)[0])


def _with_background(tile: TilePrediction[Tensor]) -> TilePrediction[Tensor]:
    """Margins as logits of classes that compete with each other and with 0, the background."""
    if tile.prediction is None:
        return tile
    return replace(tile, prediction=F.pad(tile.prediction, (0, 0, 0, 0, 1, 0)))


def _joined(
    tiles: Iterable[TilePrediction[Tensor]], scene: Scene, count: int, file: IO[bytes]
) -> tuple[Tensor, NDArray[np.bool_]]:
    """The margins of all tiles, cross-faded, kept in a file; and which pixels were seen."""
    size = scene.info.height, scene.info.width
    kept = np.memmap(file, np.float16, "w+", shape=(count, *size))
    seen = np.zeros(size, dtype=bool)
    for tile, part, valid in blend_logits(tiles, scene.plan):
        if part is not None and valid is not None:
            here = tile.settled.toslices()
            kept[:, *here], seen[here] = part.cpu().numpy(), valid
    if not seen.any():
        raise _unseen(scene)
    return torch.from_numpy(kept), seen


def _as_detections(
    kind: type[DetectionResult], found: dict[str, postprocess.Boxes], task: Ask, scene: Scene
) -> DetectionResult:
    labels = [np.full(len(boxes), i) for i, boxes in enumerate(found.values())]
    boxes = np.concatenate(list(found.values()))
    corners = postprocess.to_rotated(boxes) if boxes.shape[1] == 9 else boxes[:, :4]
    return kind(
        info=scene.info,
        classes=task.classes,
        boxes=corners,
        labels=np.concatenate(labels).astype(np.int64),
        scores=boxes[:, -1],
        image=scene.image,
    )


def _rgb(scene: Scene) -> NDArray[np.uint8]:
    """The image for the boundary model, ``(H, W, 3)``: of the bands that the network saw."""
    with open_image(scene.image) as source:
        return display_rgb(*source.read(bands=scene.bands))
