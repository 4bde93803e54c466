import json
from collections import Counter

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
