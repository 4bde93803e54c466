"""`Spec`: a constructor and its arguments, as data.

Configs describe models, tasks and data sets with specs; checkpoints carry the specs of the model
and the task they hold, so that a weights file can be turned back into a working predictor. A spec
is built late, prints as data, and comes back from that data equal to itself.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from swath.core.errors import ConfigError, suggest

_TARGET = "_target_"


class UntrustedError(ConfigError):
    """Data from outside names a constructor that isn't ours and of no installed plugin."""


class Spec:
    """A callable and the keyword arguments it will be called with.

    Args:
        target: A class or function that can be imported by its module and qualified name.
        **kwargs: Its arguments: numbers, strings, booleans, None, further specs, and lists, tuples
            or string-keyed dicts of these. Unknown names are refused at once.

    Raises:
        ConfigError: If the target is neither class nor function, or has no parameter of that name.

    Examples:
        >>> from collections import Counter
        >>> Spec(dict, a=1).build()
        {'a': 1}
    """

    def __init__(self, target: Callable[..., Any], /, **kwargs: Any) -> None:
        if not callable(target) or not hasattr(target, "__qualname__"):
            raise ConfigError(f"Spec takes a class or a function, not {target!r}; import it first")
        self.target = target
        self.kwargs: dict[str, Any] = {}
        for name, value in kwargs.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        known = _parameters(self.target)
        if known is not None and name not in known:
            raise ConfigError(
                f"{target_name(self.target)} has no argument '{name}'{suggest(name, known)}"
            )
        self.kwargs[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.kwargs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and to_data(self) == to_data(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.kwargs.items())
        return f"Spec({target_name(self.target)}, {arguments})"

    def parameters(self) -> list[str] | None:
        """Names the target accepts, or None if it accepts any keyword."""
        return _parameters(self.target)

    def build(self, **overrides: Any) -> Any:
        """Call the target, building nested specs first.

        Args:
            **overrides: Arguments that replace the stored ones, already built.

        Raises:
            ConfigError: If the target needs arguments that aren't there, or is an abstract class.
        """
        missing = [
            name for name in _required(self.target) if name not in {*self.kwargs, *overrides}
        ]
        if missing:
            raise ConfigError(f"{target_name(self.target)} needs {', '.join(missing)}; give it")
        if inspect.isabstract(self.target):
            target: Any = self.target
            absent = ", ".join(sorted(target.__abstractmethods__))
            raise ConfigError(f"{target_name(self.target)} must define {absent}")
        kwargs = {k: build(v) for k, v in self.kwargs.items() if k not in overrides}
        return self.target(**kwargs, **overrides)


def build(value: Any) -> Any:
    """Build every spec inside nested lists, tuples and dicts; leave the rest as it is."""
    if isinstance(value, Spec):
        return value.build()
    if isinstance(value, Mapping):
        return {k: build(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(build(v) for v in value)
    return value


def target_name(target: Callable[..., Any]) -> str:
    """``"module:QualifiedName"`` of a class or function."""
    return f"{target.__module__}:{target.__qualname__}"


def to_data(value: Any) -> Any:
    """Turn specs and what they hold into JSON data (tuples become lists).

    Raises:
        ConfigError: If a value is neither data nor something importable.
    """
    if isinstance(value, Spec):
        if "<" in value.target.__qualname__:
            raise ConfigError(
                f"{target_name(value.target)} can't be imported by its name; define it at the top "
                "level of a module"
            )
        return {_TARGET: target_name(value.target)} | {
            k: to_data(v) for k, v in value.kwargs.items()
        }
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == _TARGET:
                raise ConfigError(f"a config can't hold a dict with the key {key!r}")
        return {k: to_data(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_data(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"a config can't hold a {type(value).__name__}: {value!r}; use Spec(...)")


def from_data(data: Any, trusted: tuple[str, ...] = ("swath.",)) -> Any:
    """Turn what `to_data` made back into specs (lists stay lists).

    Args:
        data: JSON data.
        trusted: Prefixes of the module names that may be imported: data from outside can name only
            our own constructors, so that loading a checkpoint never runs anybody else's code.

    Raises:
        UntrustedError: If a target is outside the trusted modules.
        ConfigError: If it doesn't exist.
    """
    if isinstance(data, Mapping):
        built = {k: from_data(v, trusted) for k, v in data.items() if k != _TARGET}
        return Spec(_resolve(data[_TARGET], trusted), **built) if _TARGET in data else built
    if isinstance(data, list):
        return [from_data(v, trusted) for v in data]
    return data


def _resolve(name: str, trusted: tuple[str, ...]) -> Callable[..., Any]:
    module, _, qualname = name.partition(":")
    if not any(f"{module}.".startswith(prefix) for prefix in trusted):
        raise UntrustedError(f"'{name}' is outside the trusted modules {', '.join(trusted)}")
    try:
        target: Any = importlib.import_module(module)
        for part in qualname.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"'{name}' doesn't exist here: {error}; is the package that defines it installed?"
        ) from error
    # `swath.core.x:os.system` must not pass as ours
    if not callable(target) or not any(
        f"{getattr(target, '__module__', '')}.".startswith(prefix) for prefix in trusted
    ):
        raise ConfigError(f"'{name}' isn't a constructor of {', '.join(trusted)}")
    return target  # type: ignore[no-any-return]


def _required(target: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # built-ins without a signature
        return []
    given = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in given]


def _parameters(target: Callable[..., Any]) -> list[str] | None:
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # built-ins without a signature
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in named]
