"""The public names are a promise: changing them means changing api_surface.json on purpose.

``python tests/test_api_surface.py`` writes the file anew.
"""

import importlib
import json
from pathlib import Path

SNAPSHOT = Path(__file__).with_name("api_surface.json")


def public_names() -> dict[str, list[str]]:
    modules = json.loads(SNAPSHOT.read_text())
    return {name: sorted(importlib.import_module(name).__all__) for name in modules}


def test_public_names_are_those_we_promised() -> None:
    assert public_names() == json.loads(SNAPSHOT.read_text())


def test_every_public_name_exists_and_is_documented() -> None:
    for module, names in public_names().items():
        for name in names:
            value = getattr(importlib.import_module(module), name)
            assert value.__doc__ or not callable(value), f"{module}.{name} has no docstring"


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(public_names(), indent=2) + "\n")
