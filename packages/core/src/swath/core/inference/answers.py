"""What a model says about a whole image: a class, a sentence, a number."""

import html
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swath.core.errors import ConfigError
from swath.core.files import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Answer:
    """Saved as JSON: what it says, and its fields as keys."""

    def content(self) -> dict[str, Any]:
        """What is saved and shown, as plain data."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # all are dataclasses

    def save(self, path: str | Path) -> Path:
        """Write it as ``.json``.

        Raises:
            ConfigError: If the suffix is another one.
        """
        path = Path(path)
        if path.suffix.lower() != ".json":
            raise ConfigError(f"{path}: this result is saved as .json; change the suffix")
        write_json(path, self.content())
        return path

    def summary(self) -> dict[str, Any]:
        """``"answer"``: its content."""
        return {"answer": self.content()}

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{html.escape(str(value))}</td></tr>"
            for name, value in self.content().items()
        )
        return f"<b>{type(self).__name__}</b><table>{rows}</table>"


@dataclass(frozen=True)
class ClassificationResult(_Answer):
    """Scene classes with their probabilities.

    Attributes:
        classes: Names in index order.
        probabilities: Of each class, 0..1.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        best = max(range(len(self.classes)), key=lambda i: self.probabilities[i])
        return self.classes[best]

    def summary(self) -> dict[str, Any]:
        """``"probabilities"`` by class."""
        return {"probabilities": dict(zip(self.classes, self.probabilities, strict=True))}

    def content(self) -> dict[str, Any]:
        """``"label"``, and the fields."""
        return {"label": self.label, **super().content()}

    def plot(self, top: int = 5) -> "Figure":
        """The most probable classes as bars, the best on top.

        Args:
            top: How many classes.
        """
        from swath.core.viz.figures import LINE, new_figure

        order = sorted(range(len(self.classes)), key=lambda i: -self.probabilities[i])[:top]
        figure = new_figure(5, 0.35 * len(order) + 0.6)
        axes = figure.add_subplot()
        axes.barh(range(len(order)), [self.probabilities[i] for i in order], color=LINE)
        axes.set_yticks(range(len(order)), [self.classes[i] for i in order])
        axes.set(xlim=(0, 1), xlabel="probability")
        axes.invert_yaxis()
        return figure


@dataclass(frozen=True)
class CaptionResult(_Answer):
    """A sentence about an image."""

    text: str


@dataclass(frozen=True)
class CountResult(_Answer):
    """How many objects of which kind an image shows."""

    name: str
    count: int
