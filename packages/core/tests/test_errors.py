import pytest

from swath.core import errors
from swath.core.errors import SwathError, suggest


def test_the_nearest_name_is_proposed() -> None:
    assert suggest("lrr", ["lr", "weight_decay"]) == "; did you mean 'lr'?"


def test_without_a_near_name_all_are_listed() -> None:
    assert suggest("zzz", ["b", "a"]) == "; known: a, b"
    assert suggest("zzz", []) == ""


@pytest.mark.parametrize("name", [n for n in dir(errors) if n.endswith("Error")])
def test_every_error_is_one_the_user_can_mend(name: str) -> None:
    assert issubclass(getattr(errors, name), SwathError)
