import json
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swath.core import plugins
from swath.core.config import TrainConfig, config_header, config_names, load_config
from swath.core.errors import ConfigError, DataError
from swath.core.files import atomic_path
from swath.core.progress import Bar
from swath.core.spec import Spec

MODULE = '''"""A run for tests.

Run: swath train this.py
"""
from pathlib import Path
from swath.core.progress import Bar
from swath.core.spec import Spec

SIDES = (1, 2)
_size = 3

def helper():
    return 1

_data = Spec(Bar, description="data", total=_size)
model = Spec(Bar, description="model", total=5)
task = Spec(Bar, description="task", total=None)
train = _data
val = _data
optimizer = Spec(Bar, description="optimizer", total=7, unit="step")
iterations = 10
card = {"title": "toy", "bands": ["red", "green"]}
'''


def config(**changes: Any) -> TrainConfig:
    spec = Spec(Bar, description="x", total=1)
    fields = {"model": spec, "task": spec, "train": spec, "optimizer": spec, "iterations": 5}
    return TrainConfig(**(fields | changes))


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "toy_run.py"
    path.write_text(MODULE)
    return path


def test_a_module_becomes_a_config(module: Path) -> None:
    loaded = load_config(module)
    assert loaded.iterations == 10
    assert loaded.model["total"] == 5
    assert loaded.card["bands"] == ["red", "green"]


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("iterations=25", lambda c: c.iterations == 25),
        ("iterations=1e3", lambda c: c.iterations == 1000 and type(c.iterations) is int),
        ("model.total=6", lambda c: c.model["total"] == 6),
        ("model.unit=tiles", lambda c: c.model["unit"] == "tiles"),
        ("model.enabled=false", lambda c: c.model["enabled"] is False),
        ("model.total=None", lambda c: c.model["total"] is None),
        ("card.title=12", lambda c: c.card["title"] == "12"),
        ("card.bands.1=nir", lambda c: c.card["bands"] == ["red", "nir"]),
        ("ema=0.99", lambda c: c.ema == 0.99),
        ("precision=bf16", lambda c: c.precision == "bf16"),
        ("init_from=12.safetensors", lambda c: c.init_from == "12.safetensors"),
        ("val=None", lambda c: c.val is None),
    ],
)
def test_an_override_reaches_its_place(module: Path, assignment: str, read: Any) -> None:
    assert read(load_config(module, [assignment]))


def test_an_override_changes_one_place_even_if_the_module_shares_a_spec(module: Path) -> None:
    loaded = load_config(module, ["train.total=9"])
    assert (loaded.train["total"], loaded.val["total"]) == (9, 3)
    assert load_config(module).train["total"] == 3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.unitt=1", "unknown key 'optim'; did you mean 'optimizer.unit'?"),
        ("optimizer.totl=1", "unknown key 'optimizer.totl'; did you mean 'optimizer.total'?"),
        ("card.bands.2=x", "unknown key 'card.bands.2'; known in 'card.bands': 0, 1"),
        ("iterations.x=2", "unknown key 'iterations.x'; known in 'iterations': nothing below it"),
        ("iterations", "write it as key.path=value"),
        ("iterations=many", "iterations='many' must be int"),
        ("iterations=1.5", "iterations=1.5 must be int"),
        ("iterations=True", "iterations=True must be int"),
        ("iterations=0", "iterations=0 must be at least 1"),
        ("model.enabled=1", "model.enabled=1 must be bool"),
        ("model.total=[1]", r"model.total=\[1\] must be int or None"),
        ("precision=half", "precision='half' must be one of 'fp32', 'bf16', 'fp16'"),
        ("ema=1.5", "ema=1.5 must be between 0 and 1"),
        ("model=resnet", "model='resnet' must be Spec.*set its arguments one by one"),
    ],
)
def test_a_wrong_override_says_what_is_right(module: Path, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(module, [assignment])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("iteration = 3", "'iteration' isn't a field of a config; did you mean 'iterations'?"),
        ("del model", "model missing"),
        ("1 / 0", "ZeroDivisionError in line 23: division by zero"),
        ("def f(:", "SyntaxError in line 23"),
        ("batch_size = 'x'", "batch_size='x' must be int"),
        ("model = Spec(Bar, descripton='m')", "no argument 'descripton'; did you mean"),
        ("card = {'where': Path('x')}", "card: a config can't hold a PosixPath"),
    ],
)
def test_a_wrong_module_is_named_with_its_fault(module: Path, line: str, message: str) -> None:
    module.write_text(MODULE + line + "\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(module)
    assert str(module) in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.core.config.config_names", lambda: {"scenes_tiny": "x"})
    with pytest.raises(ConfigError, match="no config named 'scene-tiny'; did you mean 'scenes_t"):
        load_config("scene-tiny")
    with pytest.raises(ConfigError, match="no such config file"):
        load_config("missing/run.py")


@pytest.mark.parametrize("package", ["absent_parent.configs", "swath.core.absent", "json.decoder"])
def test_configs_of_a_plugin_that_are_not_there_are_named_and_passed_over(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = config_names()
    broken = plugins.Plugin("broken", SimpleNamespace(configs=(package,)))
    installed = plugins.plugins()
    monkeypatch.setattr(plugins, "plugins", lambda: (*installed, broken))
    with pytest.warns(UserWarning, match=f"no package '{package}', which a plugin names"):
        assert config_names() == shipped


def test_every_shipped_config_says_how_to_run_it() -> None:
    for name in config_names():
        header = config_header(name)
        assert all(f"{part}:" in header for part in ("Run", "Source", "Expect")), name


def test_a_saved_config_reloads_to_the_same_hash(module: Path, tmp_path: Path) -> None:
    loaded = load_config(module, ["optimizer.total=11"])
    loaded.save(tmp_path / "run" / "config.json")
    for source in (tmp_path / "run", tmp_path / "run" / "config.json"):
        again = load_config(source)
        assert again == loaded
        assert again.hash == loaded.hash
    assert load_config(module).hash != loaded.hash


def test_saved_data_may_name_only_trusted_constructors() -> None:
    data = config().to_data() | {"model": {"_target_": "os:system", "command": "true"}}
    with pytest.raises(ConfigError, match="outside the trusted modules"):
        TrainConfig.from_data(data)


def test_a_damaged_or_foreign_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model": ')
    with pytest.raises(ConfigError, match="isn't JSON"):
        load_config(path)
    path.write_text(json.dumps({"modle": 1}))
    with pytest.raises(ConfigError, match="unknown field 'modle'; did you mean 'model'"):
        load_config(path)


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | st.builds(
            lambda target, value: Spec(target, **{next(iter(ARGUMENT[target])): value}),
            st.sampled_from([Bar, atomic_path, DataError, TrainConfig]),
            inner,
        )
    ),
    max_leaves=12,
)
ARGUMENT: Mapping[Any, tuple[str, ...]] = {
    Bar: ("unit",),
    atomic_path: ("path",),
    DataError: ("message",),
    TrainConfig: ("card",),
}


@settings(max_examples=150, deadline=None)
@given(value=values, seed=st.integers(0, 2**62), ema=st.none() | st.floats(0.01, 0.99))
def test_any_nested_spec_survives_json_with_its_hash(value: Any, seed: int, ema: Any) -> None:
    first = config(seed=seed, ema=ema, card={"value": value})
    second = TrainConfig.from_data(json.loads(json.dumps(first.to_data())))
    assert second.to_data() == first.to_data()
    assert second.hash == first.hash


def test_ints_become_floats_where_floats_belong_so_that_the_hash_is_stable() -> None:
    assert config(clip_norm=1).hash == config(clip_norm=1.0).hash


def test_only_data_is_held() -> None:
    with pytest.raises(ConfigError, match="card: a config can't hold a Fraction"):
        config(card={"ratio": Fraction(1, 2)}).to_data()
    with pytest.raises(ConfigError, match="can't hold a dict with the key 3"):
        config(card={"lookup": Counter([3])}).to_data()
