"""The `swath` command.

Each verb lives in a file of its own and imports what is heavy inside the function, so that
``swath --help`` answers at once.
"""

import importlib
import pkgutil

from swath.core.cli.app import main

for _verb in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_verb.name}")

__all__ = ["main"]
