"""Packages that extend Swath: entry points of the group ``swath.plugins``.

An entry point names a module (or an object in one) that holds frozen data as attributes: ``models``
(model cards) and ``datasets`` as ``"module:Name"`` strings, ``configs`` as names of
packages, for example ``configs = ("swath.ovseg.configs",)``; and as mappings of such strings by
name ``demos``, ``{"ovseg": "swath.ovseg.demo:run"}``, and ``commands``, verbs of their own,
``{"moe": "swath.moe.cli:app"}``, whose lines in ``swath --help`` are ``command_help``. Importing it
must import nothing heavy. A plugin that fails is remembered with its error and skipped: it never
takes the command down.
"""

import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

GROUP = "swath.plugins"


@dataclass(frozen=True)
class Plugin:
    """One installed extension.

    Attributes:
        name: The entry point's name.
        data: The object it names, or None if it couldn't be loaded.
        error: Why it couldn't be loaded, in one line.
    """

    name: str
    data: Any = None
    error: str | None = None

    def get(self, attribute: str) -> tuple[str, ...]:
        """The ``"module"`` or ``"module:Name"`` strings declared under an attribute, or ``()``."""
        value = getattr(self.data, attribute, ())
        return (value,) if isinstance(value, str) else tuple(value)


@cache
def plugins() -> tuple[Plugin, ...]:
    """All installed plugins by name, the broken ones included."""
    return tuple(_load(e) for e in sorted(entry_points(group=GROUP), key=lambda e: e.name))


def broken() -> dict[str, str]:
    """Error of each plugin that couldn't be loaded, by name."""
    return {p.name: p.error for p in plugins() if p.error is not None}


def named(attribute: str) -> dict[str, str]:
    """The ``"module:Name"`` strings that all plugins declare by name under an attribute."""
    found: dict[str, str] = {}
    for plugin in plugins():
        found |= getattr(plugin.data, attribute, {})
    return found


def trusted() -> tuple[str, ...]:
    """Beginnings of the module names that data from outside may name: ours, installed plugins'."""
    roots = {p.data.__name__.split(".")[0] for p in plugins() if inspect.ismodule(p.data)}
    return tuple(sorted({"swath."} | {f"{root}." for root in roots}))


def resolve(reference: str) -> Any:
    """The object that ``"module:Name"`` names.

    Args:
        reference: From our own code or an installed plugin's data, never from a file of a user's:
            importing a module runs it.

    Raises:
        ImportError: If there is no such module.
        AttributeError: If the module has no such name.
    """
    module, _, name = reference.partition(":")
    value: Any = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _load(entry: Any) -> Plugin:
    try:
        return Plugin(entry.name, data=entry.load())
    except Exception as error:  # whatever is wrong in foreign code, it is reported by name
        return Plugin(entry.name, error=" ".join(f"{type(error).__name__}: {error}".split()))
