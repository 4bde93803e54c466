"""What a model says about a whole image: a class, a sentence, a number."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from swath.core.errors import ConfigError
from swath.core.files import atomic_path


class _Answer:
    """Saved as JSON, its fields as keys."""

    def save(self, path: str | Path) -> Path:
        """Write it as ``.json``.

        Raises:
            ConfigError: If the suffix is another one.
        """
        path = Path(path)
        if path.suffix.lower() != ".json":
            raise ConfigError(f"{path}: this result is saved as .json; change the suffix")
        with atomic_path(path) as temporary:
            content = asdict(self)  # type: ignore[call-overload]  # every subclass is a dataclass
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path


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


@dataclass(frozen=True)
class CaptionResult(_Answer):
    """A sentence about an image."""

    text: str


@dataclass(frozen=True)
class CountResult(_Answer):
    """How many objects of which kind an image shows."""

    name: str
    count: int
