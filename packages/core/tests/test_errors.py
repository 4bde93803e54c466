import pytest

from swath.core import errors
from swath.core.errors import SwathError, differing, shortened, suggest


def test_the_nearest_name_is_proposed() -> None:
    assert suggest("lrr", ["lr", "weight_decay"]) == "; did you mean 'lr'?"


def test_without_a_near_name_all_are_listed() -> None:
    assert suggest("zzz", ["b", "a"]) == "; known: a, b"
    assert suggest("zzz", []) == ""


def test_of_a_long_list_the_first_names_are_told() -> None:
    assert shortened(["a", "b"], 2) == "a, b"
    assert shortened(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    many = [f"n{i:03}" for i in range(300)]
    assert suggest("zzz", many).endswith("n018, n019 and 280 more")


def test_how_lists_differ_is_told_by_their_lengths_and_first_differences() -> None:
    assert differing(["sea", "road"], ["sea", "street"]) == "2 for 2 (1: 'road' for 'street')"
    assert differing(["sea"], ["sea", "road"]) == "1 for 2 (1: no 'road')"
    assert differing(["sea", "road"], ["sea"]) == "2 for 1 (1: 'road' is too many)"
    many = differing([f"a{i}" for i in range(200)], [f"b{i}" for i in range(300)])
    assert many == "200 for 300 (0: 'a0' for 'b0', 1: 'a1' for 'b1', 2: 'a2' for 'b2' and 297 more)"


@pytest.mark.parametrize("name", [n for n in dir(errors) if n.endswith("Error")])
def test_every_error_is_one_the_user_can_mend(name: str) -> None:
    assert issubclass(getattr(errors, name), SwathError)
