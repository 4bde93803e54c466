import json
from abc import ABC, abstractmethod
from collections import Counter
from functools import partial

import pytest

from swath.core.errors import ConfigError
from swath.core.progress import Bar
from swath.core.spec import Spec, build, from_data, target_name, to_data


def test_nested_specs_are_built_late() -> None:
    spec = Spec(dict, counts=[Spec(Counter, a=2)], plain={"x": Spec(dict, y=1)})
    assert spec.build() == {"counts": [Counter("aa")], "plain": {"x": {"y": 1}}}
    assert spec.build(counts=0)["counts"] == 0
    assert build((Spec(dict), 1)) == ({}, 1)


def test_unknown_arguments_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="progress:Bar has no argument 'totl'; did you mean 'tot"):
        Spec(Bar, description="x", totl=1)


def test_data_comes_back_equal() -> None:
    spec = Spec(Bar, description="x", total=Spec(Bar, description="y", total=None))
    data = json.loads(json.dumps(to_data(spec)))
    assert data["_target_"] == target_name(Bar) == "swath.core.progress:Bar"
    assert from_data(data) == spec


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os:system", "outside the trusted modules"),
        ("swath.core.files:os.system", "isn't a constructor of"),
        ("swath.core.files:nothing", "doesn't exist here"),
        ("swath.core.missing:Thing", "doesn't exist here"),
        ("swathe.core:Thing", "outside the trusted modules"),
    ],
)
def test_data_from_outside_names_only_our_constructors(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_data({"_target_": target})


def test_what_is_not_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="can't hold a set"):
        to_data(Spec(dict, a={1}))
    for key in (3, "_target_"):
        with pytest.raises(ConfigError, match="can't hold a dict with the key"):
            to_data({key: 1})


class Unfinished(ABC):
    @abstractmethod
    def finish(self) -> None: ...


def test_what_cannot_be_built_is_named_before_it_is_called() -> None:
    with pytest.raises(ConfigError, match="progress:Bar needs total; give it"):
        Spec(Bar, description="x").build()
    assert Spec(Bar, description="x").build(total=None).total is None
    with pytest.raises(ConfigError, match="Unfinished must define finish"):
        Spec(Unfinished).build()


def test_what_data_cannot_name_is_refused() -> None:
    for target in ("swath.core.progress:Bar", partial(Bar, "x"), None):
        with pytest.raises(ConfigError, match="Spec takes a class or a function, not"):
            Spec(target)  # type: ignore[arg-type]

    def local() -> int:
        return 3

    assert Spec(local).build() == 3
    for hidden in (local, lambda: 3):
        with pytest.raises(ConfigError, match="can't be imported by its name"):
            to_data(Spec(hidden))
