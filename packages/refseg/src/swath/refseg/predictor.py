"""`RemoteSAMPredictor`: what `swath.core.load_model` returns for a RemoteSAM."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal

from swath.core.errors import ConfigError
from swath.core.inference.answers import CaptionResult
from swath.core.inference.objects import DetectionResult
from swath.core.inference.predictor import Predictor, open_image
from swath.core.inference.results import SegmentationResult
from swath.refseg import postprocess
from swath.refseg.asks import Ask, unchosen
from swath.refseg.epoc import THRESHOLD, Epoc
from swath.refseg.results import ChosenClass, CountedObjects, PresentClasses

_HOW_IT_IS_RUN = inspect.signature(Predictor.predict).parameters
"""Names of arguments that aren't attributes of a task."""


class RemoteSAMPredictor(Predictor):
    """A model that is asked in words, with its eight tasks as methods.

    Each is short for ``predict(image, task=NAME, ...)``; ``image`` and all further options are
    those of `Predictor.predict`. Answers know the image's size and CRS.

    Examples:
        >>> model = load_model("remotesam-swin-b", weights="RemoteSAM.pth")  # doctest: +SKIP
        >>> model.referring_seg(image, "the airplane on the right").save("a.gpkg")  # doctest: +SKIP
        >>> model.counting("scene.tif", ["airplane", "vehicle"]).counts  # doctest: +SKIP
    """

    def for_task(self, name: str) -> "RemoteSAMPredictor":
        """The same model for one of its tasks; see `swath.refseg.asks.TASKS`."""
        model, task = self.task.select(self.model, name)  # type: ignore[attr-defined]
        return RemoteSAMPredictor(model, task, self.card, self.precision)

    def predict(
        self,
        image: Any,
        *,
        task: str | None = None,
        text: str | None = None,
        classes: Sequence[str] | None = None,
        tile: int | Literal["auto"] | None = "auto",
        **options: Any,
    ) -> Any:
        """Ask one of the tasks.

        Args:
            image: See `Predictor.predict`.
            task: Its name, see `swath.refseg.asks.TASKS`; may be left out if it was chosen before,
                by ``load_model(..., task=NAME)``.
            text: The sentence, for tasks that take one.
            classes: The class names, for tasks that take these.
            tile: ``"auto"`` lets the task choose, see `swath.refseg.asks.Regions`; a number of
                pixels, tiles of at most that side; None, the whole image in one piece. Tiles keep
                their shape, ``fit="pad"``, if nothing else is said.
            **options: Further arguments of `Predictor.predict` (tiles overlap by an eighth of the
                network's input if nothing else is said), and attributes of the task: ``regions``,
                ``fit``, ``sentences_at_once``, ``oriented``, ``region_split``, ...

        Raises:
            ConfigError: If no task is chosen, it takes something else or has no such option, or an
                option can't have this value.
        """
        chosen = self.task if task is None else self.for_task(task).task
        if not isinstance(chosen, Ask):
            raise unchosen()
        if options.pop("background", None) is not None:
            raise ConfigError(f"{chosen.name} has no class for the rest; leave background out")
        own = {name: options.pop(name) for name in list(options) if name not in _HOW_IT_IS_RUN}
        chosen = chosen.with_options(**own)
        if text is not None:
            chosen = chosen.with_text(text)
        if classes is not None:
            chosen = chosen.with_classes(classes)
        chosen.check()
        if tile == "auto":
            tile = chosen.auto_tile(*_size(image))
        if tile is not None and "fit" not in own:
            chosen = chosen.with_options(fit="pad")
        if options.get("overlap") is None:
            options["overlap"] = chosen.input_size // 8
        options.setdefault("blend", chosen.input_size // 16)
        return Predictor(self.model, chosen, self.card, self.precision).predict(
            image, tile=tile, **options
        )

    def referring_seg(self, image: Any, sentence: str, **options: Any) -> SegmentationResult:
        """The mask of what a sentence means: class 1, where 0 is the rest."""
        result: SegmentationResult = self.predict(
            image, task="referring_seg", text=sentence, **options
        )
        return result

    def semantic_seg(
        self, image: Any, classes: Sequence[str], **options: Any
    ) -> SegmentationResult:
        """A map of classes, from 1 on in their order; 0 where none of them is."""
        result: SegmentationResult = self.predict(
            image, task="semantic_seg", classes=classes, **options
        )
        return result

    def detection(
        self,
        image: Any,
        classes: Sequence[str],
        *,
        use_epoc: Epoc | None = None,
        epoc_threshold: float = THRESHOLD,
        oriented: bool = False,
        **options: Any,
    ) -> DetectionResult:
        """Boxes around the objects of each class.

        Args:
            image: See `Predictor.predict`.
            classes: Names.
            use_epoc: A boundary model that tells touching objects apart.
            epoc_threshold: Boundary probability above which it does.
            oriented: Rectangles of least area instead of upright boxes.
            **options: See `Predictor.predict`.
        """
        result: DetectionResult = self.predict(
            image,
            task="detection",
            classes=classes,
            use_epoc=use_epoc,
            epoc_threshold=epoc_threshold,
            oriented=oriented,
            **options,
        )
        return result

    def visual_grounding(self, image: Any, sentence: str, **options: Any) -> DetectionResult:
        """The rectangle around all that a sentence means; no box if nothing is found."""
        result: DetectionResult = self.predict(
            image, task="visual_grounding", text=sentence, **options
        )
        return result

    def multi_label_cls(
        self, image: Any, classes: Sequence[str], *, balance: float = 0.5, **options: Any
    ) -> PresentClasses:
        """Which of the classes an image shows; see `MultiLabelClassification`."""
        result: PresentClasses = self.predict(
            image, task="multi_label_cls", classes=classes, balance=balance, **options
        )
        return result

    def multi_class_cls(
        self, image: Any, classes: Sequence[str], *, balance: float = 1.0, **options: Any
    ) -> ChosenClass:
        """Which one of the classes an image shows; see `MultiClassClassification`."""
        result: ChosenClass = self.predict(
            image, task="multi_class_cls", classes=classes, balance=balance, **options
        )
        return result

    def captioning(
        self,
        image: Any,
        classes: Sequence[str],
        *,
        region_split: Literal[4, 9] = 9,
        seed: int = 0,
        use_epoc: Epoc | None = None,
        **options: Any,
    ) -> CaptionResult:
        """What is where, in a few sentences; ``seed`` chooses the words."""
        result: CaptionResult = self.predict(
            image,
            task="captioning",
            classes=classes,
            region_split=region_split,
            seed=seed,
            use_epoc=use_epoc,
            **options,
        )
        return result

    def counting(
        self,
        image: Any,
        classes: Sequence[str],
        *,
        min_areas: dict[str, float] | None = None,
        use_epoc: Epoc | None = None,
        epoc_threshold: float = THRESHOLD,
        **options: Any,
    ) -> CountedObjects:
        """How many objects there are of each class, and where; see `Counting`."""
        result: CountedObjects = self.predict(
            image,
            task="counting",
            classes=classes,
            min_areas=min_areas or {},
            use_epoc=use_epoc,
            epoc_threshold=epoc_threshold,
            **options,
        )
        return result

    def masks(
        self, image: Any, classes: Sequence[str], **options: Any
    ) -> dict[str, tuple[postprocess.Mask, postprocess.Probabilities]]:
        """For each class by itself where it is, ``(H, W)`` 0 or 1, and how probably.

        Here classes don't compete for pixels, as in the official code.
        """
        found: dict[str, tuple[postprocess.Mask, postprocess.Probabilities]] = self.predict(
            image, task="masks", classes=classes, **options
        )
        return found


def _size(image: Any) -> tuple[int, int]:
    """Height and width of anything that can be predicted on."""
    with open_image(image) as source:
        return source.info.height, source.info.width
