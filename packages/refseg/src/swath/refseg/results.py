"""Answers that core has no type for: counted objects, and classes that are there or not."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from swath.core.inference.answers import ClassificationResult
from swath.core.inference.objects import DetectionResult

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


@dataclass
class CountedObjects(DetectionResult):
    """How many objects of each class there are, and where; saved like a `DetectionResult`.

    In ``.geojson`` and ``.gpkg`` every object also has ``count``, that of its class.
    """

    @property
    def counts(self) -> dict[str, int]:
        """Number of objects by class, 0 where there are none."""
        found = Counter(self.labels.tolist())
        return {name: found[i] for i, name in enumerate(self.classes)}

    def to_gdf(self) -> "GeoDataFrame":
        """See `DetectionResult.to_gdf`; with ``count``."""
        table = super().to_gdf()
        table.insert(len(table.columns) - 1, "count", table["class"].map(self.counts).astype(int))
        return table


@dataclass(frozen=True)
class PresentClasses(ClassificationResult):
    """Scores of classes of which any number may be there.

    Attributes:
        threshold: Score above which a class counts as there.
    """

    threshold: float = 0.5

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that are there, in the order they were asked for."""
        rows = zip(self.classes, self.probabilities, strict=True)
        return tuple(name for name, score in rows if score > self.threshold)

    def content(self) -> dict[str, Any]:
        """``"labels"``, and the fields."""
        return {"labels": self.labels, **asdict(self)}

    def summary(self) -> dict[str, Any]:
        """``"answer"``: ``"labels"``; and ``"probabilities"`` by class."""
        return {"answer": {"labels": self.labels}, **super().summary()}


@dataclass(frozen=True)
class ChosenClass(ClassificationResult):
    """Scores of classes of which one is chosen.

    Attributes:
        threshold: Score below which none is.
    """

    threshold: float = 0.5

    @property
    def chosen(self) -> str | None:
        """The class with the highest score, or None if even that is too low."""
        return self.label if max(self.probabilities) >= self.threshold else None

    def content(self) -> dict[str, Any]:
        """``"chosen"``, and the fields."""
        return {"chosen": self.chosen, **asdict(self)}

    def summary(self) -> dict[str, Any]:
        """``"answer"``: ``"chosen"``; and ``"probabilities"`` by class."""
        return {"answer": {"chosen": self.chosen}, **super().summary()}
