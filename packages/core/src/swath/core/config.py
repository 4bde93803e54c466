"""Configs: ordinary Python modules whose public names are the fields of `TrainConfig`.

``load_config("scenes_tiny", ["optimizer.lr=1e-4"])`` finds the module, applies the overrides with
types checked, and returns a `TrainConfig`, which turns into data and back without loss. Shared
parts are functions that a config imports; a config's local constants begin with an underscore or
are written in CAPITALS.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import pkgutil
import sys
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from swath.core import plugins
from swath.core.errors import ConfigError, suggest
from swath.core.files import write_json
from swath.core.spec import Spec, from_data, to_data

CORE_CONFIGS = "swath.core.configs"


@dataclass
class TrainConfig:
    """Everything that defines a training run.

    Attributes:
        model: Builds the `nn.Module`.
        task: Builds the `swath.core.task.Task`.
        train: Builds the training set of untransformed samples: map-style, or a
            `swath.core.data.loader.SampleStream`.
        optimizer: Builds a callable ``(model, iterations) -> Optimisation``; made by the functions
            of `swath.core.engine.pieces`.
        iterations: Optimiser steps.
        augment: Builds the training transform of samples, or None.
        val: Builds the set that chooses the best checkpoint, or None.
        test: Builds the set that ``swath test`` uses, or None.
        batch_size: Images in one forward pass.
        num_workers: Processes that load data; 0 loads in the training process.
        val_every: Iterations between validations; one more follows the last iteration.
        checkpoint_every: Iterations between checkpoints that training can resume from.
        keep_last: Number of those that are kept.
        log_every: Iterations between lines of ``log.jsonl``.
        seed: Seed of weights, data order, augmentation and dropout.
        precision: Arithmetic of the forward pass: ``"fp32"``, or autocast to the others.
        ema: Decay of the weights' exponential moving average (which is then what is validated and
            saved as the model), in (0, 1); None for none.
        clip_norm: Largest gradient norm, or None.
        accumulate: Forward passes per optimiser step; the effective batch is its product with
            ``batch_size`` and the number of processes.
        strategy: What several processes share, see `swath.core.engine.distributed`: ``"ddp"`` only
            gradients, ``"fsdp"`` weights and moments too.
        find_unused_parameters: With ``"ddp"``: some steps leave some parameters without gradient.
        sync_batchnorm: Batch norms measure all processes' batches together (GPU only). Without it
            each measures its own, as with ``accumulate``, and rank 0's statistics are saved.
        compile: Run the model through `torch.compile`.
        channels_last: Store images and weights channels-last, which suits convolutions.
        init_from: Weights file to start from, or None.
        card: Free-form facts for the model card.

    Raises:
        ConfigError: If a value has the wrong type or is out of range.
    """

    model: Spec
    task: Spec
    train: Spec
    optimizer: Spec
    iterations: int
    augment: Spec | None = None
    val: Spec | None = None
    test: Spec | None = None
    batch_size: int = 8
    num_workers: int = 2
    val_every: int = 500
    checkpoint_every: int = 500
    keep_last: int = 2
    log_every: int = 10
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: float | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    find_unused_parameters: bool = False
    sync_batchnorm: bool = False
    compile: bool = False
    channels_last: bool = False
    init_from: str | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for name, hint in hints.items():
            setattr(self, name, _fit(getattr(self, name), hint, name))
        for name in ("iterations", "batch_size", "val_every", "checkpoint_every", "keep_last"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("log_every", "accumulate"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("num_workers", self.num_workers >= 0, "0 or more")
        self._require("seed", 0 <= self.seed < 2**63, "0 or more")
        self._require("ema", self.ema is None or 0 < self.ema < 1, "between 0 and 1, or None")
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or None")

    def _require(self, name: str, claim: bool, allowed: str) -> None:
        if not claim:
            raise ConfigError(f"{name}={getattr(self, name)!r} must be {allowed}")

    def to_data(self) -> dict[str, Any]:
        """The config as JSON data.

        Raises:
            ConfigError: If it holds something that isn't data; the message names the field.
        """
        data = {}
        for f in fields(self):
            try:
                data[f.name] = to_data(getattr(self, f.name))
            except ConfigError as error:
                raise ConfigError(f"{f.name}: {error}") from error
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "TrainConfig":
        """Turn what `to_data` made back into a config.

        Only constructors of Swath and of installed plugins may be named in it, since a
        ``config.json`` may come from anywhere.
        """
        known = [f.name for f in fields(cls)]
        for name in data:
            if name not in known:
                raise ConfigError(f"unknown field '{name}'{suggest(name, known)}")
        _require_complete(data)
        return cls(**{k: from_data(v, plugins.trusted()) for k, v in data.items()})

    @property
    def hash(self) -> str:
        """Sixteen hex digits that are equal if and only if the configs say the same."""
        canonical = json.dumps(self.to_data(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the config as JSON, which `load_config` reads back to the same hash."""
        write_json(path, self.to_data())

    def override(self, assignments: Sequence[str]) -> "TrainConfig":
        """A copy with ``"dotted.path=value"`` assignments applied in order.

        A path walks fields, arguments of specs, keys of dicts and indices of lists. The value is a
        Python literal (``1e-4``, ``True``, ``None``, ``[1, 2]``); anything else is taken as text.

        Raises:
            ConfigError: If the path leads nowhere (the nearest one is proposed) or the value
                doesn't have the type that belongs there.
        """
        if isinstance(assignments, str):
            raise ConfigError(f"overrides='{assignments}' is one text; give a list of them")
        copy = TrainConfig(**{f.name: _clone(getattr(self, f.name)) for f in fields(self)})
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            if not equals or not path.strip():
                raise ConfigError(f"--set {assignment!r}: write it as key.path=value")
            _assign(copy, path.strip(), text.strip())
        copy.__post_init__()
        return copy


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a config.

    Args:
        source: Name of a config of core or of a plugin (``swath configs`` lists them), a ``.py``
            file, a ``config.json`` that a run has saved, or that run's folder.
        overrides: ``"dotted.path=value"`` assignments, see `TrainConfig.override`.

    Raises:
        ConfigError: If there is no such config, or something in it is wrong.
    """
    path = Path(source)
    if (path / "config.json").is_file():
        path = path / "config.json"
    looks_like_path = path.suffix in {".py", ".json"} or len(path.parts) > 1
    if looks_like_path and not path.is_file():
        raise ConfigError(f"{path}: no such config file; `swath configs` lists the built-in ones")
    name = "" if looks_like_path else _find(str(source))
    try:
        if path.suffix == ".json":
            config = TrainConfig.from_data(_read_json(path))
        else:
            config = _from_module(importlib.import_module(name) if name else _run_file(path))
        config.to_data()
    except ConfigError as error:
        raise ConfigError(f"{path if looks_like_path else source}: {error}") from error
    return config.override(overrides) if overrides else config


def config_names() -> dict[str, str]:
    """Module of every config of core and of the plugins, by the config's name."""
    packages = [CORE_CONFIGS, *(c for p in plugins.plugins() for c in p.get("configs"))]
    found: dict[str, str] = {}
    for package in packages:
        try:
            spec = importlib.util.find_spec(package)
        except Exception:  # finding a package imports its parents, which is foreign code
            spec = None
        if spec is None or spec.submodule_search_locations is None:
            warnings.warn(
                f"no package '{package}', which a plugin names for its configs; update or remove "
                "that plugin",
                stacklevel=2,
            )
            continue
        for module in pkgutil.iter_modules(spec.submodule_search_locations):
            if not module.name.startswith("_"):
                found.setdefault(module.name, f"{package}.{module.name}")
    return found


def config_header(name: str) -> str:
    """The docstring of a config (what it is; Run, Source, Expect), without running it.

    Raises:
        ConfigError: If there is no such config.
    """
    spec = importlib.util.find_spec(_find(name))
    origin = spec.origin if spec else None
    return ast.get_docstring(ast.parse(Path(str(origin)).read_text(encoding="utf-8"))) or ""


def _find(name: str) -> str:
    known = config_names()
    wanted = name.replace("-", "_")
    if wanted not in known:
        raise ConfigError(f"no config named '{name}'{suggest(wanted, list(known))}")
    return known[wanted]


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"isn't JSON ({error}); restore it or give the config's name") from error
    if not isinstance(data, dict):
        raise ConfigError("isn't a saved config: expected a JSON object")
    return data


def _run_file(path: Path) -> types.ModuleType:
    """Execute a config file; modules beside it can be imported by it."""
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("isn't a Python file; a config is a .py file or a saved config.json")
    module = importlib.util.module_from_spec(spec)
    shadowed = sys.modules.get(name)
    if shadowed is None or getattr(shadowed, "__file__", None) == str(path):
        sys.modules[name] = module  # so that what it defines can be imported, by workers too
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        line = _line_in(error, path)
        raise ConfigError(f"{type(error).__name__}{line}: {error}; mend the file") from error
    return module


def _line_in(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno}"
    lines = []
    traceback = error.__traceback__
    while traceback is not None:
        if Path(traceback.tb_frame.f_code.co_filename).resolve() == path.resolve():
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return f" in line {lines[-1]}" if lines else ""


def _from_module(module: types.ModuleType) -> TrainConfig:
    known = [f.name for f in fields(TrainConfig)]
    values = {}
    for name, value in vars(module).items():
        if name in known:
            values[name] = _clone(value)
        elif _is_stray(name, value):
            raise ConfigError(
                f"'{name}' isn't a field of a config{suggest(name, known)} "
                "(begin a local constant with an underscore)"
            )
    _require_complete(values)
    return TrainConfig(**values)


def _is_stray(name: str, value: Any) -> bool:
    if name.startswith("_") or name.isupper() or type(value).__module__ == "__future__":
        return False
    return not (callable(value) or inspect.ismodule(value))


def _require_complete(values: Mapping[str, Any]) -> None:
    required = [
        f.name
        for f in fields(TrainConfig)
        if f.default is MISSING and f.default_factory is MISSING and f.name not in values
    ]
    if required:
        raise ConfigError(f"{', '.join(required)} missing; a config must define it")


def _clone(value: Any) -> Any:
    """A copy that shares nothing, so that an override changes one place only."""
    if isinstance(value, Spec):
        return Spec(value.target, **{k: _clone(v) for k, v in value.kwargs.items()})
    if isinstance(value, Mapping):
        return {k: _clone(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clone(v) for v in value]
    return value


# --- overrides ---------------------------------------------------------------------------------


def _assign(config: TrainConfig, path: str, text: str) -> None:
    parts = path.split(".")
    holder: Any = config
    for depth, part in enumerate(parts):
        children = _children(holder)
        if part not in children:
            wrong = ".".join(parts[: depth + 1])
            raise ConfigError(f"--set: unknown key '{wrong}'{_nearest(config, parts)}")
        value, hint = children[part]
        if depth + 1 < len(parts):
            holder = value
            continue
        _store(holder, part, _fit(_parse(text, value, hint), hint, path))


def _children(holder: Any) -> dict[str, tuple[Any, Any]]:
    """What can be set inside a value: (present value, type) by key."""
    if isinstance(holder, TrainConfig):
        hints = typing.get_type_hints(TrainConfig)
        return {f.name: (getattr(holder, f.name), hints[f.name]) for f in fields(holder)}
    if isinstance(holder, Spec):
        return {**_arguments(holder.target), **_present(holder)}
    if isinstance(holder, dict):
        return {k: (v, _hint_of(v)) for k, v in holder.items()}
    if isinstance(holder, list):
        return {str(i): (v, _hint_of(v)) for i, v in enumerate(holder)}
    return {}


def _present(spec: Spec) -> dict[str, tuple[Any, Any]]:
    declared = _arguments(spec.target)
    return {
        name: (value, declared[name][1] if name in declared else _hint_of(value))
        for name, value in spec.kwargs.items()
    }


def _arguments(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Default and type of the arguments of a target, by name."""
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # built-ins without a signature
        return {}
    try:
        function = target.__init__ if inspect.isclass(target) else target
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # names that only a type checker sees
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    arguments = {}
    for p in parameters.values():
        if p.kind in named:
            default = None if p.default is p.empty else p.default
            arguments[p.name] = (default, hints.get(p.name, _hint_of(default)))
    return arguments


def _hint_of(value: Any) -> Any:
    return Any if value is None or isinstance(value, dict | list | tuple) else type(value)


def _store(holder: Any, part: str, value: Any) -> None:
    if isinstance(holder, TrainConfig):
        setattr(holder, part, value)
    elif isinstance(holder, list):
        holder[int(part)] = value
    else:
        holder[part] = value


def _nearest(config: TrainConfig, parts: list[str]) -> str:
    """The error's tail that proposes the whole nearest path, or what would have been accepted."""
    holder: Any = config
    path: list[str] = []
    for part in parts:
        children = _children(holder)
        near = get_close_matches(part, children, n=1, cutoff=0.5)
        if not near:
            inside = f" in '{'.'.join(path)}'" if path else ""
            return f"; known{inside}: {', '.join(sorted(children)) or 'nothing below it'}"
        path.append(near[0])
        holder = children[near[0]][0]
    return f"; did you mean '{'.'.join(path)}'?"


_WORDS = {"true": True, "false": False, "none": None, "null": None}


def _parse(text: str, old: Any, hint: Any) -> Any:
    options = set(typing.get_args(hint)) or {hint}
    is_none = text.lower() in {"none", "null"} and type(None) in options | {type(old)}
    is_text = (isinstance(old, str) or str in options) and not options & {int, float, bool}
    if is_text and not is_none:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text
    return literal(text)


def literal(text: str) -> Any:
    """The Python literal that a text is (``1e-4``, ``true``, ``[1, 2]``), or the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _fit(value: Any, hint: Any, where: str) -> Any:
    """Check a value against a type, widening int to float and whole floats to int.

    Raises:
        ConfigError: If it doesn't fit.
    """
    fitted = _fitted(value, hint)
    if fitted is _MISFIT:
        advice = ""
        if not isinstance(value, Spec) and Spec in (hint, *typing.get_args(hint)):
            advice = "; set its arguments one by one, as in --set " + where + ".name=value"
        shown = shorten(repr(value), 80, placeholder=" ...")  # modules take many lines
        raise ConfigError(f"{where}={shown} must be {_say(hint)}{advice}")
    return fitted


_MISFIT = object()


def _fitted(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Spec) or hint is Any or isinstance(hint, str | typing.TypeVar):
        plain = hint in (int, float, bool, str)
        return _MISFIT if plain and isinstance(value, Spec) else value
    if origin in (typing.Union, types.UnionType):
        # exact types first, so that 1 stays an int for `int | float`
        options = sorted(arguments, key=lambda a: a is not type(value))
        return next((f for a in options if (f := _fitted(value, a)) is not _MISFIT), _MISFIT)
    if origin is Literal:
        return value if value in arguments else _MISFIT
    if hint is None or hint is type(None):
        return value if value is None else _MISFIT
    if hint is bool:
        return value if isinstance(value, bool) else _MISFIT
    if hint in (int, float):
        return _number(value, hint)
    if hint in (str, Path):
        return value if isinstance(value, str | Path) else _MISFIT
    return _container(value, hint, origin, arguments)


def _number(value: Any, hint: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _MISFIT
    if hint is float:
        return float(value)
    return int(value) if value == value and abs(value) < 2**63 and value == int(value) else _MISFIT


def _container(value: Any, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    kind = origin or hint
    if not inspect.isclass(kind):
        return value  # a type we can't judge; the constructor will
    if issubclass(kind, Mapping):
        return value if isinstance(value, Mapping) else _MISFIT
    if issubclass(kind, Sequence):
        if not isinstance(value, list | tuple):
            return _MISFIT
        if not arguments:
            return value
        fixed = kind is tuple and Ellipsis not in arguments
        if fixed and len(arguments) != len(value):
            return _MISFIT
        hints = arguments if fixed else arguments[:1] * len(value)
        fitted = [_fitted(v, h) for v, h in zip(value, hints, strict=True)]
        return _MISFIT if any(f is _MISFIT for f in fitted) else fitted
    return value if isinstance(value, kind) else _MISFIT


def _say(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_say(a) for a in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if hint is type(None):
        return "None"
    if origin is not None:
        inner = ", ".join("..." if a is Ellipsis else _say(a) for a in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return "Spec(...)" if hint is Spec else getattr(hint, "__name__", str(hint))


__all__ = [
    "CORE_CONFIGS",
    "TrainConfig",
    "config_header",
    "config_names",
    "load_config",
]
